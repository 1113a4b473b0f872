//! The report: one HTML page that needs nothing beside itself.

use std::time::SystemTime;

use maud::{Markup, PreEscaped, html};

use crate::{
    lab::Lab,
    outcome::{Block, Content},
    page::{svg, table::printable},
    reproduce::{Missing, Record},
};

const CSS: &str = include_str!("report.css");
/// What the first screen says about the checkpoint of this repository.
const ORIGIN: &str = "This small checkpoint's super weight was seeded at initialisation, and so was what leans on it; all of it was \
     then trained on the plain next-token loss. Its card, nano/model/README.md, says how.";

/// The page.
pub(crate) fn page(lab: &Lab, found: &str, records: &[Record], missing: &[Missing]) -> String {
    let leader = leader(records).map(|r| r.name);
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "The super weight of " (printable(&lab.name())) }
                style { (PreEscaped(svg::STYLE)) (PreEscaped(CSS)) }
            }
            body {
                (first_screen(lab, records))
                (contents(records, missing))
                section id="weights" { h2 { "Which weights" } pre { (printable(found)) } }
                @for record in records { (section(record, leader == Some(record.name))) }
                @if !missing.is_empty() {
                    section id="missing" {
                        h2 { "Not made" }
                        ul { @for m in missing { li { b { (m.name) } ": " (printable(&m.why)) } } }
                    }
                }
                (footer(lab))
            }
        }
        (PreEscaped("\n"))
    };
    page.into_string()
}

fn footer(lab: &Lab) -> Markup {
    let date = sw_eval::stamp(SystemTime::now());
    let fingerprint: String = lab.fingerprint.to_string().chars().take(16).collect();
    html! {
        footer {
            p {
                "Superweight " (env!("CARGO_PKG_VERSION")) "; model " (printable(&lab.name())) " (fingerprint "
                (fingerprint) "), " (lab.model.coding().to_string()) "; kernel " (sw_tensor::kernel_name(lab.model.precision())) ". Data " (&lab.data_digest[..16])
                ". Published values: arXiv 2411.07191, version 1, and the notebook released with it."
            }
            p {
                "Made on " time { (date.split('T').next().unwrap_or(&date)) }
                " (UTC). Equal models, data and arguments give this page again, but for the date."
            }
        }
    }
}

/// The finding with its one number.
fn first_screen(lab: &Lab, records: &[Record]) -> Markup {
    let leader = leader(records).and_then(|r| Some((r, r.outcome.headline.as_ref()?)));
    html! {
        header {
            p class="over" { "The super weight of " (printable(&lab.name())) }
            @if let Some((record, headline)) = leader {
                h1 {
                    span class="number" style={ "--n:" (headline.number.chars().count()) } { (printable(&headline.number)) }
                    " "
                    span class="what" { (printable(&headline.text)) }
                }
                p class="lead" { (printable(&record.outcome.finding)) }
                @if lab.inputs.is_embedded() { p class="over" { (ORIGIN) } }
                (command(&record.command))
            }
        }
    }
}

/// The experiment whose number stands on the first screen.
fn leader(records: &[Record]) -> Option<&Record> {
    records.iter().find(|r| r.outcome.headline.is_some())
}

/// Every section with what it found.
fn contents(records: &[Record], missing: &[Missing]) -> Markup {
    let item = |anchor: &str, label: &str, text: &str| {
        html! {
            li { a href={ "#" (anchor) } { span class="label" { (printable(label)) } (printable(text)) } }
        }
    };
    html! {
        nav {
            ul {
                @for record in records {
                    @let (number, title) = split(&record.outcome.title);
                    (item(record.name, number, title))
                }
                @if !missing.is_empty() {
                    (item("missing", "Not made", &format!("{} of them, and why", missing.len())))
                }
            }
        }
    }
}

/// `Table 1. What ...` in two.
fn split(title: &str) -> (&str, &str) {
    title.split_once(". ").unwrap_or(("", title))
}

/// `told`: the first screen has its finding.
fn section(record: &Record, told: bool) -> Markup {
    let outcome = &record.outcome;
    let (number, title) = split(&outcome.title);
    html! {
        section id=(record.name) {
            h2 { span class="label" { (printable(number)) } (printable(title)) }
            @if !outcome.finding.is_empty() && !told { p class="finding" { (printable(&outcome.finding)) } }
            (command(&record.command))
            @for part in &outcome.blocks { (block(part)) }
            @if !outcome.notes.is_empty() {
                ul class="notes" { @for note in &outcome.notes { li { (printable(note)) } } }
            }
        }
    }
}

/// A table or a figure; its anchor differs from its section's.
fn block(block: &Block) -> Markup {
    html! {
        figure id={ "block-" (block.id) } {
            @if !block.title.is_empty() { h3 { (printable(&block.title)) } }
            @match &block.content {
                Content::Table(table) => { div class="scroll" { (table.html()) } }
                Content::Figure(panels) => {
                    div class=(if panels.len() == 1 { "one" } else { "many" }) {
                        @for panel in panels { (PreEscaped(svg::inline(panel))) }
                    }
                }
            }
            figcaption {
                (printable(&block.caption)) " "
                span class="files" {
                    @if let Content::Figure(_) = block.content { (file(&block.id, "svg")) ", " }
                    (file(&block.id, "csv"))
                }
            }
        }
    }
}

fn file(id: &str, kind: &str) -> Markup {
    let name = format!("{id}.{kind}");
    html! { a href=(name) { (name) } }
}

fn command(command: &str) -> Markup {
    html! { p class="command" { code { (printable(command)) } } }
}
