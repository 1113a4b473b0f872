//! Drawings of charts. Colours are style-sheet variables, so a drawing follows the page it stands in; one that stands
//! alone brings both themes along.

mod drawing;
mod flow;
mod marks;
mod span;

use std::fmt::Write as _;

use drawing::Drawing;
use flow::flow;

use super::chart::Panel;

/// Width of a panel, in its own units: small enough that a phone shows its letters large enough.
const WIDTH: f64 = 480.0;
/// Height of the plot of a chart without rows.
const PLOT: f64 = 220.0;
/// Height of one row, where the y axis has names.
const ROW: f64 = 21.0;
/// Mean width of a letter of the small text.
const LETTER: f64 = 6.7;
/// Mean width of a letter in the widest of its fonts, for text that would leave the drawing.
const WIDE_LETTER: f64 = 7.2;

/// Colours and letters; `:root` of the page or of the drawing itself.
pub(crate) const STYLE: &str = "\
.sw{--page:#fff;--ink:#1d2433;--soft:#5b6478;--line:#d9dde6;--card:#f5f6f9;--t0:#1d2433;--t1:#d1421b;--t2:#2f6fdb;--t3:#0f8577;--t4:#8a4fd0;--t5:#a8730a;--t6:#8b93a5}\
@media(prefers-color-scheme:dark){.sw{--page:#12161f;--ink:#e8ebf2;--soft:#a3acbf;--line:#343c4d;--card:#1d2330;--t0:#e8ebf2;--t1:#ff7a4d;--t2:#74a7ff;--t3:#43c6b3;--t4:#bd94ff;--t5:#e3b04b;--t6:#7d869a}}\
.sw text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;font-size:12.5px;fill:var(--soft)}\
.sw .h{font-size:14.5px;font-weight:650;fill:var(--ink)}\
.sw .v{font-size:21px;font-weight:700;fill:var(--t1);font-variant-numeric:tabular-nums}\
.sw .g{stroke:var(--line);stroke-width:1}\
.sw .z{stroke:var(--soft);stroke-width:1}\
.sw .card{fill:var(--card);stroke:var(--line)}\
.sw .arrow{stroke:var(--soft);stroke-width:1.6;fill:none}\
.sw .l{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}\
.sw .w{stroke-width:1.4}\
.sw .k{paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}";

/// A panel as an `svg` element that takes the style of its page.
pub(crate) fn inline(panel: &Panel) -> String {
    let (height, body) = draw(panel);
    let class = match panel {
        Panel::Chart(_) => "sw",
        Panel::Flow { .. } => "sw flow",
    };
    format!(
        "<svg class=\"{class}\" role=\"img\" viewBox=\"0 0 {WIDTH} {}\" xmlns=\"http://www.w3.org/2000/svg\">{body}</svg>",
        short(height)
    )
}

/// Panels as one file in two columns: each stands in the one that is shorter until then.
pub(crate) fn standalone(panels: &[Panel]) -> String {
    let columns = panels.len().clamp(1, 2);
    let drawn: Vec<_> = panels.iter().map(draw).collect();
    let mut body = String::new();
    let mut tops = [0.0; 2];
    for (height, panel) in &drawn {
        let column = usize::from(columns == 2 && tops[1] < tops[0]);
        let left = short(column as f64 * (WIDTH + 24.0));
        let _ = write!(
            body,
            "<svg x=\"{left}\" y=\"{}\" width=\"{WIDTH}\" height=\"{}\">{panel}</svg>",
            short(tops[column]),
            short(*height)
        );
        tops[column] += height + 16.0;
    }
    let (width, height) = (
        columns as f64 * (WIDTH + 24.0) - 24.0,
        (tops[0].max(tops[1]) - 16.0).max(1.0),
    );
    let (width, height) = (short(width), short(height));
    format!(
        "<svg class=\"sw\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
         <style>{STYLE}.sw{{background:var(--page)}}</style>{body}</svg>\n"
    )
}

/// Height and content.
fn draw(panel: &Panel) -> (f64, String) {
    match panel {
        Panel::Chart(chart) => Drawing::new(chart).draw(),
        Panel::Flow { steps } => flow(steps),
    }
}

/// At most so many letters.
fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters - 1).chain(['\u{2026}']).collect()
}

/// A coordinate with one decimal at most.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::chart::{Axis, Chart, Mark, Series, Tone, points};

    fn chart(x: Axis, y: Axis, mark: Mark) -> Panel {
        let series = Series::new(
            "a <b>",
            mark,
            Tone::Super,
            points([(0.0, 1.0), (1.0, 100.0)]),
        );
        let other = Series::new("other", Mark::Dots, Tone::Original, points([(1.0, 0.0)]));
        Panel::Chart(Chart {
            title: "Title".into(),
            x,
            y,
            series: vec![series, other],
            guides: vec![],
        })
    }

    #[test]
    fn drawings_are_closed_and_finite() {
        let bands = || Axis::bands("", ["one", "two"]);
        for panel in [
            chart(Axis::linear("x"), Axis::log("y"), Mark::Line),
            chart(bands(), Axis::linear("y"), Mark::Bars),
            chart(Axis::linear("x"), bands(), Mark::Bars),
            chart(Axis::linear("x"), Axis::log("y"), Mark::Steps),
        ] {
            let svg = inline(&panel);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(
                svg.contains("a &lt;b&gt;") && svg.ends_with("</svg>"),
                "{svg}"
            );
            assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
            assert!(standalone(&[panel.clone(), panel]).contains("prefers-color-scheme"));
        }
    }
}
