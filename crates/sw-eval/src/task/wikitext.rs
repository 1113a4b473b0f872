//! `wikitext` of the harness: WikiText-2's test pages, each predicted as a whole.

use serde_json::Map;

use super::{Item, Kind, Prepare, Task};
use crate::{
    data::{Dataset, Doc, Split},
    error::Result,
    metric::Metric,
    text::{strip, words},
};

pub(super) const TASK: Task = Task {
    name: "wikitext",
    version: 2.0,
    dataset: Dataset::new("Salesforce/wikitext", Some("wikitext-2-raw-v1")),
    split: Split::Test,
    shots: Split::Test,
    metrics: &[
        Metric::WordPerplexity,
        Metric::BytePerplexity,
        Metric::BitsPerByte,
    ],
    kind: Kind::Items {
        prepare: Prepare::All(pages),
        item,
    },
};

/// Rebuilds the pages of `EleutherAI/wikitext_document_level` from rows: a page begins at a title line.
///
/// The published rows are the original's lines, each with its newline, except that lines of white space became empty;
/// the original has a single space there.
pub(super) fn pages(rows: Vec<Doc>) -> Result<Vec<Doc>> {
    let Some(first) = rows.first().cloned() else {
        return Ok(rows);
    };
    let mut text = String::new();
    for row in &rows {
        let line = row.text("text")?;
        text.push_str(if line.is_empty() { " \n" } else { line });
    }
    let mut pages: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.split('\n') {
        if is_title(line) {
            pages.push(Vec::new());
        }
        pages.last_mut().expect("one page at least").push(line);
    }
    let page = |lines: &Vec<&str>| {
        let text = lines.join("\n");
        (!strip(&text).is_empty())
            .then(|| first.with_fields(Map::from_iter([("page".to_owned(), text.into())])))
    };
    Ok(pages.iter().filter_map(page).collect())
}

/// `= Title =`, but not `= = Section = =`.
fn is_title(line: &str) -> bool {
    let line = line.replace("= = =", "===").replace("= =", "==");
    let line = strip(&line);
    line.starts_with("= ") && line.ends_with(" =")
}

/// Words and bytes are counted on the page as it was before detokenization.
fn item(doc: &Doc) -> Result<Item> {
    let page = doc.text("page")?;
    Ok(Item::Page {
        text: detokenize(page),
        words: words(page),
        bytes: page.len(),
    })
}

/// Undoes WikiText's tokenization, step by step as the harness does (its oddities included).
pub(super) fn detokenize(page: &str) -> String {
    let mut s = page.replace("s '", "s'");
    s = quirk(&s);
    for (from, to) in [(" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")] {
        s = s.replace(from, to); // number separators
    }
    for mark in [":", ";", ".", "!", "?", ","] {
        s = s.replace(&format!(" {mark} "), &format!("{mark} "));
    }
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        s = tighten(&s, open, close);
    }
    for (from, to) in [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ] {
        s = s.replace(from, to);
    }
    s
}

/// The harness replaces `/' 5/` by the text of a pattern; kept, since agreement is the point.
fn quirk(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut rest = s;
    while let Some(at) = rest.find("/' ") {
        let tail = &rest.as_bytes()[at + 3..];
        if tail.len() >= 2 && tail[0].is_ascii_digit() && tail[1] == b'/' {
            out.push_str(&rest[..at]);
            out.push_str("/'[0-9]/");
            rest = &rest[at + 5..];
        } else {
            out.push_str(&rest[..at + 1]);
            rest = &rest[at + 1..];
        }
    }
    out + rest
}

/// Strips the inside of each pair of marks.
fn tighten(s: &str, open: char, close: char) -> String {
    let mut out = String::with_capacity(s.len());
    let mut rest = s;
    while let Some((before, inside)) = rest.split_once(open) {
        let Some((inside, after)) = inside.split_once(close) else {
            break;
        };
        out.push_str(before);
        out.push(open);
        out.push_str(strip(inside));
        out.push(close);
        rest = after;
    }
    out + rest
}
