//! Series over two axes: the frame, its axes, its legend and its guides.

use std::fmt::Write as _;

use super::{LETTER, PLOT, ROW, WIDE_LETTER, WIDTH, cut, short, span::Span};
use crate::page::{
    chart::{Along, Chart, Guide, Mark, Scale, Tone},
    table::escape,
};

/// A chart on its way to an `svg` element.
pub(super) struct Drawing<'a> {
    pub(super) chart: &'a Chart,
    pub(super) x: Span,
    pub(super) y: Span,
    /// Left, right, top and bottom of the plot.
    pub(super) frame: [f64; 4],
    pub(super) body: String,
}

impl<'a> Drawing<'a> {
    pub(super) fn new(chart: &'a Chart) -> Self {
        let all = || chart.series.iter().flat_map(|s| &s.points);
        let rows = matches!(chart.y.scale, Scale::Bands(_));
        let bars = chart
            .series
            .iter()
            .any(|s| matches!(s.mark, Mark::Bars | Mark::Steps));
        let guides = |along| {
            chart
                .guides
                .iter()
                .filter(move |g| g.along == along)
                .map(|g| g.at)
        };
        let ends = |of_rows: bool| {
            all()
                .filter_map(move |p| p.interval.filter(|_| rows == of_rows))
                .flatten()
        };
        let x = Span::new(
            &chart.x,
            all().map(|p| p.x).chain(ends(true)).chain(guides(Along::X)),
            bars && rows,
        );
        let y = Span::new(
            &chart.y,
            all()
                .map(|p| p.y)
                .chain(ends(false))
                .chain(guides(Along::Y)),
            bars && !rows,
        );
        Self {
            chart,
            x,
            y,
            frame: [0.0; 4],
            body: String::new(),
        }
    }

    /// Height and content.
    pub(super) fn draw(mut self) -> (f64, String) {
        let chart = self.chart;
        let mut top = 4.0;
        if !chart.title.is_empty() {
            top += 14.0;
            self.text(0.0, top, "h", "start", &chart.title);
            top += 6.0;
        }
        top = self.legend(top);
        if !chart.y.label.is_empty() {
            top += 16.0;
            self.text(0.0, top, "", "start", &chart.y.label);
            top += 2.0;
        }
        top += 8.0;
        let (bands, room) = match &chart.y.scale {
            Scale::Bands(names) => (names.len(), names.len()),
            _ => (0, 5),
        };
        let height = if bands > 0 { bands as f64 * ROW } else { PLOT };
        let ticks = self.y.ticks(room);
        let widest = ticks.iter().map(|t| t.1.chars().count()).max().unwrap_or(0);
        let letter = if bands > 0 { WIDE_LETTER } else { LETTER };
        let left = (widest as f64 * letter + 10.0).clamp(24.0, 284.0);
        let (right, bottom) = (WIDTH - 12.0, top + height);
        self.frame = [left, right, top, bottom];
        (self.x.from, self.x.to) = (left, right);
        (self.y.from, self.y.to) = if bands > 0 {
            (top, bottom)
        } else {
            (bottom, top)
        };
        self.axes(&ticks);
        for guide in &chart.guides {
            self.guide(guide);
        }
        let bars: Vec<usize> = (0..chart.series.len())
            .filter(|&i| chart.series[i].mark == Mark::Bars)
            .collect();
        let shared = share_a_place(chart, bands > 0);
        for (i, series) in chart.series.iter().enumerate() {
            let group = match bars.iter().position(|&b| b == i) {
                Some(index) if shared => (index, bars.len()),
                _ => (0, 1),
            };
            self.series(series, group);
        }
        for (i, guide) in chart.guides.iter().enumerate() {
            self.guide_label(guide, i);
        }
        let mut end = bottom + 20.0;
        if !chart.x.label.is_empty() {
            end += 17.0;
            self.text((left + right) / 2.0, end, "", "middle", &chart.x.label);
        }
        (end + 6.0, self.body)
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let (x, y, text) = (short(x), short(y), escape(text));
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// Names beside their colours, as many to a line as fit; returns where they end.
    fn legend(&mut self, mut top: f64) -> f64 {
        let named: Vec<_> = self
            .chart
            .series
            .iter()
            .filter(|s| !s.name.is_empty())
            .collect();
        if named.len() < 2 {
            return top;
        }
        let mut left = 0.0;
        top += 16.0;
        for series in named {
            let width = 26.0 + series.name.chars().count() as f64 * LETTER + 12.0;
            if left > 0.0 && left + width > WIDTH {
                (left, top) = (0.0, top + 18.0);
            }
            let color = color(series.tone);
            let (from, to, y) = (short(left), short(left + 18.0), short(top - 4.0));
            let mark = match series.mark {
                Mark::Line => format!(
                    "<path class=\"l\" style=\"stroke:{color}\"{} d=\"M{from} {y}H{to}\"/>",
                    dash(series.dashed)
                ),
                Mark::Dots => format!(
                    "<circle cx=\"{}\" cy=\"{y}\" r=\"4.5\" style=\"fill:{color}\"/>",
                    short(left + 9.0)
                ),
                Mark::Bars | Mark::Steps => format!(
                    "<rect x=\"{from}\" y=\"{}\" width=\"18\" height=\"10\" rx=\"2\" style=\"fill:{color}\"/>",
                    short(top - 9.0)
                ),
            };
            self.body.push_str(&mark);
            self.text(left + 24.0, top, "", "start", &series.name);
            left += width;
        }
        top + 4.0
    }

    fn axes(&mut self, y_ticks: &[(f64, String)]) {
        let [left, right, top, bottom] = self.frame;
        let rows = matches!(self.chart.y.scale, Scale::Bands(_));
        for (value, text) in y_ticks {
            let y = self.y.at(*value);
            if !rows {
                self.rule("g", [left, right, y, y]);
            }
            let letters = ((left - 10.0) / WIDE_LETTER).round().max(2.0) as usize;
            let text = if rows {
                cut(text, letters)
            } else {
                text.clone()
            };
            self.text(left - 7.0, y + 4.0, "", "end", &text);
        }
        let columns = matches!(self.chart.x.scale, Scale::Bands(_));
        let longest = match &self.chart.x.scale {
            Scale::Bands(names) => names.iter().map(|n| n.chars().count()).max().unwrap_or(1),
            _ => 6,
        };
        let room = ((right - left) / (longest as f64 * LETTER + 10.0)) as usize;
        for (value, text) in self.x.ticks(room) {
            let x = self.x.at(value);
            if !columns {
                self.rule("g", [x, x, top, bottom]);
            }
            self.text(x, bottom + 17.0, "", "middle", &text);
        }
        if rows {
            self.rule("z", [left, left, top, bottom]);
        } else {
            self.rule("z", [left, right, bottom, bottom]);
        }
        let crosses =
            |span: &Span| span.scale == Scale::Linear && span.low < 0.0 && span.high > 0.0;
        if !rows && crosses(&self.y) {
            let y = self.y.at(0.0);
            self.rule("z", [left, right, y, y]);
        }
        if rows && crosses(&self.x) {
            let x = self.x.at(0.0);
            self.rule("z", [x, x, top, bottom]);
        }
    }

    fn rule(&mut self, class: &str, [x1, x2, y1, y2]: [f64; 4]) {
        let [x1, x2, y1, y2] = [x1, x2, y1, y2].map(short);
        let _ = write!(
            self.body,
            "<path class=\"{class}\" d=\"M{x1} {y1}L{x2} {y2}\"/>"
        );
    }

    fn guide(&mut self, guide: &Guide) {
        let [left, right, top, bottom] = self.frame;
        let [x1, x2, y1, y2] = match guide.along {
            Along::X => {
                let x = self.x.at(guide.at);
                [x, x, top, bottom]
            }
            Along::Y => {
                let y = self.y.at(guide.at);
                [left, right, y, y]
            }
        }
        .map(short);
        let color = color(guide.tone);
        let _ = write!(
            self.body,
            "<path class=\"l w\" stroke-dasharray=\"5 4\" style=\"stroke:{color}\" d=\"M{x1} {y1}L{x2} {y2}\"/>"
        );
    }

    /// Labels stand before everything else; those of upright guides one below the other.
    fn guide_label(&mut self, guide: &Guide, index: usize) {
        let [left, right, top, _] = self.frame;
        let (x, y, anchor) = match guide.along {
            Along::X => {
                let x = self.x.at(guide.at);
                let y = top + 12.0 + 16.0 * index as f64;
                match x > (left + right) / 2.0 {
                    true => (x - 5.0, y, "end"),
                    false => (x + 5.0, y, "start"),
                }
            }
            Along::Y => (right, self.y.at(guide.at) - 5.0, "end"),
        };
        let (x, y, color) = (short(x), short(y), color(guide.tone));
        let _ = write!(
            self.body,
            "<text class=\"k\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" style=\"fill:{color}\">{}</text>",
            escape(&guide.label)
        );
    }
}

/// Whether bars of different series stand at one place, and so side by side.
fn share_a_place(chart: &Chart, rows: bool) -> bool {
    let bars = chart.series.iter().filter(|s| s.mark == Mark::Bars);
    let mut places: Vec<f64> = bars
        .flat_map(|s| s.points.iter().map(|p| if rows { p.y } else { p.x }))
        .collect();
    places.sort_by(f64::total_cmp);
    places.windows(2).any(|pair| pair[0] == pair[1])
}

pub(super) fn color(tone: Tone) -> String {
    format!("var(--t{})", tone as u8)
}

pub(super) fn dash(dashed: bool) -> &'static str {
    if dashed {
        " stroke-dasharray=\"6 5\""
    } else {
        ""
    }
}
