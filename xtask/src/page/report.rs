//! The report: one HTML page that needs nothing beside itself.

use std::{fmt::Write as _, time::SystemTime};

use crate::{
    lab::Lab,
    outcome::{Block, Content},
    page::{svg, table::escape},
    reproduce::{Missing, Record},
};

const CSS: &str = include_str!("report.css");

/// The page.
pub(crate) fn page(lab: &Lab, found: &str, records: &[Record], missing: &[Missing]) -> String {
    let mut body = first_screen(lab, records);
    body.push_str(&contents(records, missing));
    let _ = write!(
        body,
        "<section id=\"weights\"><h2>Which weights</h2><pre>{}</pre></section>",
        escape(found)
    );
    let leader = leader(records).map(|r| r.name);
    for record in records {
        body.push_str(&section(record, leader == Some(record.name)));
    }
    if !missing.is_empty() {
        let item = |m: &Missing| format!("<li><b>{}</b>: {}</li>", m.name, escape(&m.why));
        let items: String = missing.iter().map(item).collect();
        let _ = write!(
            body,
            "<section id=\"missing\"><h2>Not made</h2><ul>{items}</ul></section>"
        );
    }
    let date = sw_eval::stamp(SystemTime::now());
    let _ = write!(
        body,
        "<footer><p>Superweight {}; model {} (fingerprint {}), {}; kernel {}. Data {}. Published values: arXiv 2411.07191, version 1, and the notebook released with it.</p><p>Made on <time>{}</time> (UTC). Equal models, data and arguments give this page again, but for the date.</p></footer>",
        env!("CARGO_PKG_VERSION"),
        escape(&lab.name()),
        escape(
            &lab.fingerprint
                .to_string()
                .chars()
                .take(16)
                .collect::<String>()
        ),
        lab.model.dtype(),
        sw_tensor::isa_name(),
        &lab.data_digest[..16],
        date.split('T').next().unwrap_or(&date),
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>The super weight of {}</title><style>{}{CSS}</style></head><body>{body}</body></html>\n",
        escape(&lab.name()),
        svg::STYLE,
    )
}

/// The finding with its one number.
fn first_screen(lab: &Lab, records: &[Record]) -> String {
    let leader = records.iter().find(|r| r.outcome.headline.is_some());
    let Some((record, headline)) = leader.and_then(|r| Some((r, r.outcome.headline.as_ref()?)))
    else {
        return format!(
            "<header><p class=\"over\">The super weight of {}</p></header>",
            escape(&lab.name())
        );
    };
    let origin = if lab.inputs.is_embedded() {
        "<p class=\"over\">This small checkpoint's super weight was seeded at initialisation, and so was what leans on it; all of it was \
         then trained on the plain next-token loss. Its card, nano/model/README.md, says how.</p>"
    } else {
        ""
    };
    format!(
        "<header><p class=\"over\">The super weight of {}</p><h1><span class=\"number\" style=\"--n:{}\">{}</span> <span class=\"what\">{}</span></h1><p class=\"lead\">{}</p>{origin}{}</header>",
        escape(&lab.name()),
        headline.number.chars().count(),
        escape(&headline.number),
        escape(&headline.text),
        escape(&record.outcome.finding),
        command(&record.command)
    )
}

/// The experiment whose number stands on the first screen.
fn leader(records: &[Record]) -> Option<&Record> {
    records.iter().find(|r| r.outcome.headline.is_some())
}

/// Every section with what it found.
fn contents(records: &[Record], missing: &[Missing]) -> String {
    let item = |r: &Record| {
        let (number, title) = split(&r.outcome.title);
        format!(
            "<li><a href=\"#{}\"><span class=\"label\">{}</span>{}</a></li>",
            r.name,
            escape(number),
            escape(title)
        )
    };
    let mut items: String = records.iter().map(item).collect();
    if !missing.is_empty() {
        let _ = write!(
            items,
            "<li><a href=\"#missing\"><span class=\"label\">Not made</span>{} of them, and why</a></li>",
            missing.len()
        );
    }
    format!("<nav><ul>{items}</ul></nav>")
}

/// `Table 1. What ...` in two.
fn split(title: &str) -> (&str, &str) {
    title.split_once(". ").unwrap_or(("", title))
}

/// `told`: the first screen has its finding.
fn section(record: &Record, told: bool) -> String {
    let outcome = &record.outcome;
    let (number, title) = split(&outcome.title);
    let mut html = format!(
        "<section id=\"{}\"><h2><span class=\"label\">{}</span>{}</h2>",
        record.name,
        escape(number),
        escape(title)
    );
    if !outcome.finding.is_empty() && !told {
        let _ = write!(
            html,
            "<p class=\"finding\">{}</p>",
            escape(&outcome.finding)
        );
    }
    html.push_str(&command(&record.command));
    for part in &outcome.blocks {
        html.push_str(&block(part));
    }
    if !outcome.notes.is_empty() {
        let notes = outcome
            .notes
            .iter()
            .map(|n| format!("<li>{}</li>", escape(n)));
        let _ = write!(
            html,
            "<ul class=\"notes\">{}</ul>",
            notes.collect::<String>()
        );
    }
    html + "</section>"
}

fn block(block: &Block) -> String {
    let title = if block.title.is_empty() {
        String::new()
    } else {
        format!("<h3>{}</h3>", escape(&block.title))
    };
    let (content, files) = match &block.content {
        Content::Table(table) => (
            format!("<div class=\"scroll\">{}</div>", table.html()),
            file(&block.id, "csv"),
        ),
        Content::Figure(panels) => {
            let class = if panels.len() == 1 { "one" } else { "many" };
            let each: String = panels.iter().map(svg::inline).collect();
            let files = format!("{}, {}", file(&block.id, "svg"), file(&block.id, "csv"));
            (format!("<div class=\"{class}\">{each}</div>"), files)
        }
    };
    format!(
        "<figure id=\"{}\">{title}{content}<figcaption>{} <span class=\"files\">{files}</span></figcaption></figure>",
        anchor(&block.id),
        escape(&block.caption)
    )
}

/// A block's anchor differs from its section's.
fn anchor(id: &str) -> String {
    format!("block-{id}")
}

fn file(id: &str, kind: &str) -> String {
    format!("<a href=\"{id}.{kind}\">{id}.{kind}</a>")
}

fn command(command: &str) -> String {
    format!("<p class=\"command\"><code>{}</code></p>", escape(command))
}
