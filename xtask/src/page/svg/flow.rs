//! A chain of causes, one below the other.

use std::fmt::Write as _;

use super::{WIDTH, cut, short};
use crate::page::{chart::Step, table::escape};

/// Height and content of a chain.
pub(super) fn flow(steps: &[Step]) -> (f64, String) {
    let mut body = String::new();
    let mut top = 2.0;
    for (i, step) in steps.iter().enumerate() {
        let notes = wrap(&step.note, 64);
        let height = 58.0 + 17.0 * notes.len() as f64;
        if i > 0 {
            let (from, to) = (short(top + 3.0), short(top + 19.0));
            let _ = write!(
                body,
                "<path class=\"arrow\" d=\"M240 {from}V{to}m-5 -6l5 6l5 -6\"/>"
            );
            top += 22.0;
        }
        let _ = write!(
            body,
            "<rect class=\"card\" x=\"1\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"8\"/>\
             <text class=\"h\" x=\"16\" y=\"{}\">{}</text><text class=\"v\" x=\"16\" y=\"{}\">{}</text>",
            short(top),
            WIDTH - 2.0,
            short(height),
            short(top + 22.0),
            escape(&cut(&step.title, 54)),
            short(top + 46.0),
            escape(&step.value)
        );
        for (line, text) in notes.iter().enumerate() {
            let y = short(top + 64.0 + 17.0 * line as f64);
            let _ = write!(body, "<text x=\"16\" y=\"{y}\">{}</text>", escape(text));
        }
        top += height;
    }
    (top + 2.0, body)
}

/// Lines of at most so many letters.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
