//! What the licences of the dependencies allow.

use anyhow::{Context, Result};
use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Licences that a program under `MIT OR Apache-2.0` may include.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

/// The dependencies, direct and indirect, that no combination of the allowed licences covers: a line each.
pub(super) fn check(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"]
            .as_str()
            .context("a package without a name")?;
        let Some(licence) = package["license"].as_str() else {
            broken.push(format!("{name}: its manifest names no licence"));
            continue;
        };
        match allowed(licence) {
            Ok(true) => {}
            Ok(false) => broken.push(format!(
                "{name}: its licence {licence} is not among the allowed ones"
            )),
            Err(error) => broken.push(format!(
                "{name}: its licence {licence} cannot be read: {error}"
            )),
        }
    }
    Ok(broken)
}

fn allowed(licence: &str) -> Result<bool, String> {
    let parsed =
        Expression::parse_mode(licence, ParseMode::LAX).map_err(|e| e.reason.to_string())?;
    Ok(parsed.evaluate(|requirement| {
        let id = requirement.license.id();
        id.is_some_and(|id| ALLOWED.contains(&id.name))
    }))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn every_part_of_a_conjunction_and_one_of_a_choice_must_be_allowed() {
        assert_eq!(allowed("MIT OR GPL-3.0-only"), Ok(true));
        assert_eq!(allowed("MIT/Apache-2.0"), Ok(true));
        assert_eq!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"), Ok(true));
        assert_eq!(allowed("MIT AND GPL-3.0-only"), Ok(false));
        assert!(allowed("do what you want").is_err());
    }
}
