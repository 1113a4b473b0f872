//! Which crate of the workspace uses which: the manifests beside the list in `docs/architecture.md`.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

const DOCUMENT: &str = "docs/architecture.md";
const BEGIN: &str = "<!-- arrows: written by `cargo xtask tidy --write` -->\n```text\n";
const END: &str = "```\n<!-- end of arrows -->";

/// The broken rules, a line each. With `write`, the list in the document is replaced instead.
pub(super) fn check(root: &Path, metadata: &Value, write: bool) -> Result<Vec<String>> {
    let path = root.join(DOCUMENT);
    let text = std::fs::read_to_string(&path).context(DOCUMENT)?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| missing(BEGIN))?;
    let (written, after) = rest.split_once(END).with_context(|| missing(END))?;
    let found = arrows(metadata)?;
    if written == found {
        return Ok(Vec::new());
    }
    if write {
        std::fs::write(&path, format!("{before}{BEGIN}{found}{END}{after}")).context(DOCUMENT)?;
        return Ok(Vec::new());
    }
    let differs = |a: &str, b: &str| {
        let lines = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut broken = Vec::new();
    for line in differs(&found, written) {
        broken.push(format!(
            "{DOCUMENT}: the manifests say `{line}`, the list of arrows does not"
        ));
    }
    for line in differs(written, &found) {
        broken.push(format!(
            "{DOCUMENT}: the list of arrows says `{line}`, the manifests do not"
        ));
    }
    Ok(broken)
}

fn missing(mark: &str) -> String {
    format!(
        "{DOCUMENT} lacks the line {:?}",
        mark.lines().next().unwrap_or_default()
    )
}

/// One line for each package of the workspace: what it uses in its library or program, tests aside.
fn arrows(metadata: &Value) -> Result<String> {
    let members = metadata["workspace_members"]
        .as_array()
        .context("no members")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut packages: Vec<_> = packages
        .iter()
        .filter(|p| members.contains(&p["id"]))
        .collect();
    packages.sort_by_key(|p| p["name"].as_str());
    let names: Vec<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut text = String::new();
    for package in &packages {
        let uses = package["dependencies"]
            .as_array()
            .context("no dependencies")?;
        let uses = uses
            .iter()
            .filter(|d| d["kind"].is_null())
            .filter_map(|d| d["name"].as_str());
        let mut uses: Vec<_> = uses.filter(|name| names.contains(name)).collect();
        uses.sort_unstable();
        uses.dedup();
        let name = package["name"]
            .as_str()
            .context("a package without a name")?;
        let uses = if uses.is_empty() {
            "nothing of the workspace".into()
        } else {
            uses.join(", ")
        };
        writeln!(text, "{name} -> {uses}")?;
    }
    Ok(text)
}
