//! Tables for terminals, Markdown, CSV and HTML.

use std::borrow::Cow;

use comfy_table::{CellAlignment, TableStyle, presets};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

/// A table whose first column names its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// Whether a column holds numbers (and dashes) only; they are set flush right.
    pub(crate) fn numeric(&self, column: usize) -> bool {
        let number = |cell: &String| {
            let digits = cell.strip_prefix('<').unwrap_or(cell);
            digits
                .chars()
                .next()
                .is_none_or(|c| c.is_ascii_digit() || "+-−–".contains(c))
        };
        self.rows
            .iter()
            .filter_map(|row| row.get(column))
            .all(number)
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        self.render(presets::UTF8_FULL_CONDENSED, str::to_owned)
    }

    pub(crate) fn markdown(&self) -> String {
        self.render(presets::ASCII_MARKDOWN, in_markdown)
    }

    fn render(&self, style: TableStyle, cell: impl Fn(&str) -> String) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style).set_header(&self.header);
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        for row in &self.rows {
            table.add_row(row.iter().map(|text| cell(text)));
        }
        for (i, column) in table.column_iter_mut().enumerate().skip(1) {
            if self.numeric(i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    pub(crate) fn csv(&self) -> String {
        let quote = |cell: &String| {
            let cell = in_spreadsheet(cell);
            if cell.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.into_owned()
            }
        };
        let line = |row: &Vec<String>| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.header)
            .chain(&self.rows)
            .map(line)
            .collect()
    }

    /// The element.
    pub(crate) fn html(&self) -> Markup {
        // A short heading is not broken at its hyphen.
        let heading = |text: &str| match text.len() {
            0..9 => text.replace('-', "\u{2011}"),
            _ => text.to_owned(),
        };
        let class = |column: usize| (column > 0 && self.numeric(column)).then_some("n");
        html! {
            table {
                thead {
                    tr {
                        @for (i, text) in self.header.iter().enumerate() {
                            th class=[class(i)] { (printable(&heading(text))) }
                        }
                    }
                }
                tbody {
                    @for row in &self.rows {
                        tr {
                            @for (i, text) in row.iter().enumerate() {
                                td class=[class(i)] { (printable(text)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A cell of a Markdown table: characters that mean something there are escaped.
fn in_markdown(cell: &str) -> String {
    let mut escaped = String::with_capacity(cell.len());
    for c in cell.chars() {
        match c {
            '|' | '`' | '<' | '\\' => escaped.extend(['\\', c]),
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped.replace("](", "]\\(") // no link
}

/// A cell as a spreadsheet shows it: one that begins as a formula does, and is no number, is marked as text.
fn in_spreadsheet(cell: &str) -> Cow<'_, str> {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    // A number, also with its spread, as in "-0.5 +- 0.1"; a dash alone.
    let number = cell
        .chars()
        .all(|c| c.is_ascii_digit() || "+-.,% ±–eE".contains(c));
    match formula && !number {
        true => format!("'{cell}").into(),
        false => cell.into(),
    }
}

/// From here on a cell shows a power of ten.
const LARGE: f64 = 1e6;

/// A number in fixed decimals, a dash where there is none.
pub(crate) fn fixed(value: Option<f64>, decimals: usize) -> String {
    match value {
        Some(x) if x.abs() < LARGE => format!("{x:.decimals$}"),
        Some(x) => format!("{x:.decimals$e}"),
        None => "-".into(),
    }
}

/// A difference, with its sign.
pub(crate) fn signed(value: Option<f64>, decimals: usize) -> String {
    match value {
        Some(x) if x.abs() < LARGE => format!("{x:+.decimals$}"),
        Some(x) => format!("{x:+.decimals$e}"),
        None => "-".into(),
    }
}

/// A p-value as people read it.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 {
        "<0.001".into()
    } else {
        format!("{p:.3}")
    }
}

/// A count with its thousands set apart.
pub(crate) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A positive number for a sentence: two decimals while they matter, thousands set apart.
pub(crate) fn plain(value: f64) -> String {
    match value {
        v if v < 100.0 => format!("{v:.2}"),
        v if v < 1e15 => grouped(v.round() as usize),
        v => format!("{v:.1e}"),
    }
}

/// Text without control characters but line breaks.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c.is_control() && c != '\n';
    if text.contains(hidden) {
        text.replace(hidden, "\u{b7}").into()
    } else {
        text.into()
    }
}

/// Printable text as SVG takes it.
pub(crate) fn escape(text: &str) -> String {
    html! { (printable(text)) }.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_escaped() {
        let mut table = Table::new(["a", "b"]);
        table.push(["x,\"y\"", "<b|2>"]);
        assert_eq!(table.csv(), "a,b\n\"x,\"\"y\"\"\",<b|2>\n");
        table.push(["=HYPERLINK(\"x\")", "[x](javascript:y) `a`"]);
        table.push(["-0.5 +- 0.1", "-"]);
        table.push(["@SUM(A1)", "+1e-3"]);
        table.push(["-cmd|' /C calc'!A0", "\t=1+1"]);
        let csv = table.csv();
        let rows: Vec<&str> = csv.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "\"'=HYPERLINK(\"\"x\"\")\",[x](javascript:y) `a`",
                "-0.5 +- 0.1,-",
                "'@SUM(A1),+1e-3",
                "'-cmd|' /C calc'!A0,'\t=1+1"
            ]
        );
        assert!(table.html().0.contains("&lt;b|2&gt;"), "{:?}", table.html());
        for cell in [r"\<b\|2>", r"[x]\(javascript:y) \`a\`"] {
            assert!(table.markdown().contains(cell), "{}", table.markdown());
        }
        assert!(!table.numeric(1));
    }

    #[test]
    fn p_values_and_signs() {
        assert_eq!(
            [p_value(0.0004), p_value(0.25)],
            ["<0.001".to_owned(), "0.250".into()]
        );
        assert_eq!(signed(Some(0.5), 2), "+0.50");
        assert_eq!(fixed(None, 2), "-");
        assert_eq!(
            [fixed(Some(1211.1), 2), fixed(Some(2.5e21), 2)],
            ["1211.10", "2.50e21"]
        );
        assert_eq!(
            [plain(5.666), plain(1211.1), plain(2.5e21)],
            ["5.67", "1,211", "2.5e21"]
        );
    }
}
