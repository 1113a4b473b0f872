//! Drawings of charts. Colours are style-sheet variables, so a drawing follows the page it stands in; one that stands
//! alone brings both themes along.

use std::fmt::Write as _;

use crate::{
    chart::{Along, Axis, Chart, Guide, Mark, Panel, Point, Scale, Series, Step, Tone, place},
    table::escape,
};

/// Width of a panel, in its own units: small enough that a phone shows its letters large enough.
const WIDTH: f64 = 480.0;
/// Height of the plot of a chart without rows.
const PLOT: f64 = 220.0;
/// Height of one row, where the y axis has names.
const ROW: f64 = 21.0;
/// Mean width of a letter of the small text.
const LETTER: f64 = 6.7;

/// Colours and letters; `:root` of the page or of the drawing itself.
pub(crate) const STYLE: &str = "\
.sw{--ink:#1d2433;--soft:#5b6478;--line:#d9dde6;--card:#f5f6f9;--t0:#1d2433;--t1:#d1421b;--t2:#2f6fdb;--t3:#0f8577;--t4:#8a4fd0;--t5:#a8730a;--t6:#8b93a5}\
@media(prefers-color-scheme:dark){.sw{--ink:#e8ebf2;--soft:#a3acbf;--line:#343c4d;--card:#1d2330;--t0:#e8ebf2;--t1:#ff7a4d;--t2:#74a7ff;--t3:#43c6b3;--t4:#bd94ff;--t5:#e3b04b;--t6:#7d869a}}\
.sw text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;font-size:12.5px;fill:var(--soft)}\
.sw .h{font-size:14.5px;font-weight:650;fill:var(--ink)}\
.sw .v{font-size:21px;font-weight:700;fill:var(--t1);font-variant-numeric:tabular-nums}\
.sw .g{stroke:var(--line);stroke-width:1}\
.sw .z{stroke:var(--soft);stroke-width:1}\
.sw .card{fill:var(--card);stroke:var(--line)}\
.sw .arrow{stroke:var(--soft);stroke-width:1.6;fill:none}\
.sw .l{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}\
.sw .w{stroke-width:1.4}";

/// A panel as an `svg` element that takes the style of its page.
pub(crate) fn inline(panel: &Panel) -> String {
    let (height, body) = draw(panel);
    format!(
        "<svg class=\"sw\" role=\"img\" viewBox=\"0 0 {WIDTH} {}\" xmlns=\"http://www.w3.org/2000/svg\">{body}</svg>",
        short(height)
    )
}

/// Panels as one file: two side by side, further ones below.
pub(crate) fn standalone(panels: &[Panel]) -> String {
    let columns = panels.len().clamp(1, 2);
    let drawn: Vec<_> = panels.iter().map(draw).collect();
    let mut body = String::new();
    let mut top = 0.0;
    for row in drawn.chunks(columns) {
        for (i, (height, panel)) in row.iter().enumerate() {
            let left = short(i as f64 * (WIDTH + 24.0));
            let _ = write!(
                body,
                "<svg x=\"{left}\" y=\"{}\" width=\"{WIDTH}\" height=\"{}\">{panel}</svg>",
                short(top),
                short(*height)
            );
        }
        top += row.iter().map(|r| r.0).fold(0.0, f64::max) + 16.0;
    }
    let (width, height) = (
        columns as f64 * (WIDTH + 24.0) - 24.0,
        (top - 16.0).max(1.0),
    );
    let (width, height) = (short(width), short(height));
    format!(
        "<svg class=\"sw\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
         <style>{STYLE}.sw{{background:#fff}}@media(prefers-color-scheme:dark){{.sw{{background:#12161f}}}}</style>{body}</svg>\n"
    )
}

/// Height and content.
fn draw(panel: &Panel) -> (f64, String) {
    match panel {
        Panel::Chart(chart) => Drawing::new(chart).draw(),
        Panel::Flow { steps } => flow(steps),
    }
}

fn flow(steps: &[Step]) -> (f64, String) {
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

/// From data to places along one axis.
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Span {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, zero: bool) -> Self {
        let values = values.filter(|v| v.is_finite());
        let (mut low, mut high) = match &axis.scale {
            Scale::Bands(names) => (-0.5, names.len() as f64 - 0.5),
            Scale::Linear => {
                let start = if zero {
                    (0.0, 0.0)
                } else {
                    (f64::INFINITY, f64::NEG_INFINITY)
                };
                let (low, high) = values.fold(start, |(a, b), v| (a.min(v), b.max(v)));
                let pad = if high > low {
                    (high - low) * 0.06
                } else {
                    low.abs().max(1.0) * 0.1
                };
                let at_zero = |v: f64| zero && v == 0.0;
                (
                    if at_zero(low) { low } else { low - pad },
                    if at_zero(high) { high } else { high + pad },
                )
            }
            Scale::Log => {
                let start = (f64::INFINITY, 0.0f64);
                let (low, high) = values
                    .filter(|&v| v > 0.0)
                    .fold(start, |(a, b), v| (a.min(v), b.max(v)));
                let pad = (high / low).powf(0.06).max(1.05);
                (low / pad, high * pad)
            }
        };
        if !(low.is_finite() && high.is_finite() && high > low) {
            (low, high) = if axis.scale == Scale::Log {
                (0.1, 10.0)
            } else {
                (0.0, 1.0)
            };
        }
        Self {
            scale: axis.scale.clone(),
            low,
            high,
            from: 0.0,
            to: 1.0,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            _ => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(-0.02, 1.02) * (self.to - self.from)
    }

    /// Places of the ticks and what is written there.
    fn ticks(&self, room: usize) -> Vec<(f64, String)> {
        match &self.scale {
            Scale::Bands(names) => {
                let step = names.len().div_ceil(room.max(1)).max(1);
                let names = names.iter().enumerate().step_by(step);
                names.map(|(i, name)| (i as f64, name.clone())).collect()
            }
            Scale::Linear => {
                let raw = (self.high - self.low) / room.clamp(2, 6) as f64;
                let magnitude = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                    .map(|m| m * magnitude)
                    .into_iter()
                    .find(|s| *s >= raw * 0.999)
                    .unwrap_or(raw);
                let first = (self.low / step).ceil() as i64;
                let last = (self.high / step).floor() as i64;
                (first..=last)
                    .map(|i| (i as f64 * step, tick(i as f64 * step, step)))
                    .collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                let steps: &[f64] = match decades {
                    d if d < 0.8 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                    d if d < 2.0 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                let every = (decades / room.clamp(2, 7) as f64).ceil().max(1.0) as i32;
                let first = self.low.log10().floor() as i32;
                let last = self.high.log10().ceil() as i32;
                let decade = (first..=last).filter(|e| e.rem_euclid(every) == 0);
                decade
                    .flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)))
                    .filter(|v| (self.low..=self.high).contains(v))
                    .map(|v| (v, tick(v, v)))
                    .collect()
            }
        }
    }
}

/// A number as an axis shows it; `step` tells how exact.
fn tick(value: f64, step: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        return format!("{}M", trimmed(value / 1e6, 2));
    }
    if size >= 1e4 {
        return format!("{}k", trimmed(value / 1e3, 2));
    }
    if size != 0.0 && size < 0.99e-4 {
        return format!("{value:.0e}").replace('-', "\u{2212}");
    }
    let decimals = (1.0 - step.abs().log10()).ceil().clamp(0.0, 4.0) as usize;
    trimmed(value, decimals)
}

fn trimmed(value: f64, decimals: usize) -> String {
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    if text == "-0" {
        "0".into()
    } else {
        text.replace('-', "\u{2212}")
    }
}

struct Drawing<'a> {
    chart: &'a Chart,
    x: Span,
    y: Span,
    /// Left, right, top and bottom of the plot.
    frame: [f64; 4],
    body: String,
}

impl<'a> Drawing<'a> {
    fn new(chart: &'a Chart) -> Self {
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

    fn draw(mut self) -> (f64, String) {
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
        let left = (widest as f64 * LETTER + 10.0).clamp(24.0, 190.0);
        let (right, bottom) = (WIDTH - 12.0, top + height);
        self.frame = [left, right, top, bottom];
        (self.x.from, self.x.to) = (left, right);
        (self.y.from, self.y.to) = if bands > 0 {
            (top, bottom)
        } else {
            (bottom, top)
        };
        self.axes(&ticks);
        for (i, guide) in chart.guides.iter().enumerate() {
            self.guide(guide, i);
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
            self.text(left - 7.0, y + 4.0, "", "end", &cut(text, 27));
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

    /// The labels of upright guides stand one below the other.
    fn guide(&mut self, guide: &Guide, index: usize) {
        let [left, right, top, bottom] = self.frame;
        let color = color(guide.tone);
        let ([x1, x2, y1, y2], [tx, ty], anchor) = match guide.along {
            Along::X => {
                let x = self.x.at(guide.at);
                let near = x > (left + right) / 2.0;
                (
                    [x, x, top, bottom],
                    [
                        if near { x - 5.0 } else { x + 5.0 },
                        top + 12.0 + 16.0 * index as f64,
                    ],
                    if near { "end" } else { "start" },
                )
            }
            Along::Y => {
                let y = self.y.at(guide.at);
                ([left, right, y, y], [right, y - 5.0], "end")
            }
        };
        let [x1, x2, y1, y2] = [x1, x2, y1, y2].map(short);
        let _ = write!(
            self.body,
            "<path class=\"l w\" stroke-dasharray=\"5 4\" style=\"stroke:{color}\" d=\"M{x1} {y1}L{x2} {y2}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\" style=\"fill:{color}\">{}</text>",
            short(tx),
            short(ty),
            escape(&guide.label)
        );
    }

    fn series(&mut self, series: &Series, (index, count): (usize, usize)) {
        let color = color(series.tone);
        match series.mark {
            Mark::Bars => self.bars(series, &color, index, count),
            Mark::Steps => self.steps(series, &color),
            Mark::Line | Mark::Dots => {
                if series.mark == Mark::Line {
                    let path = self.path(&series.points);
                    let _ = write!(
                        self.body,
                        "<path class=\"l\" style=\"stroke:{color}\"{} d=\"{path}\"/>",
                        dash(series.dashed)
                    );
                }
                let radius = if series.mark == Mark::Dots { 4.5 } else { 3.0 };
                for point in &series.points {
                    self.whisker(point, &color);
                    let (x, y) = (short(self.x.at(point.x)), short(self.y.at(point.y)));
                    let _ = write!(
                        self.body,
                        "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" style=\"fill:{color}\"><title>{}</title></circle>",
                        self.tip(series, point)
                    );
                }
            }
        }
    }

    /// What shows where the pointer rests.
    fn tip(&self, series: &Series, point: &Point) -> String {
        let number = |axis: &Axis, at: f64| match axis.scale {
            Scale::Bands(_) => place(axis, at),
            _ => trimmed(at, if at.abs() < 10.0 { 4 } else { 2 }),
        };
        let name = if series.name.is_empty() { "" } else { ": " };
        escape(&format!(
            "{}{name}{}, {}",
            series.name,
            number(&self.chart.x, point.x),
            number(&self.chart.y, point.y)
        ))
    }

    fn path(&self, points: &[Point]) -> String {
        let mut path = String::new();
        let finite = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite());
        for (i, point) in finite.enumerate() {
            let (x, y) = (short(self.x.at(point.x)), short(self.y.at(point.y)));
            let _ = write!(path, "{}{x} {y}", if i == 0 { 'M' } else { 'L' });
        }
        path
    }

    fn whisker(&mut self, point: &Point, color: &str) {
        let Some([low, high]) = point.interval else {
            return;
        };
        let [x1, x2, y1, y2] = if matches!(self.chart.y.scale, Scale::Bands(_)) {
            let y = self.y.at(point.y);
            [self.x.at(low), self.x.at(high), y, y]
        } else {
            let x = self.x.at(point.x);
            [x, x, self.y.at(low), self.y.at(high)]
        }
        .map(short);
        let _ = write!(
            self.body,
            "<path class=\"l w\" style=\"stroke:{color};opacity:.6\" d=\"M{x1} {y1}L{x2} {y2}\"/>"
        );
    }

    fn bars(&mut self, series: &Series, color: &str, index: usize, count: usize) {
        let rows = matches!(self.chart.y.scale, Scale::Bands(_));
        let (across, along) = if rows {
            (&self.y, &self.x)
        } else {
            (&self.x, &self.y)
        };
        let band = match &across.scale {
            Scale::Bands(names) => (across.to - across.from).abs() / names.len().max(1) as f64,
            _ => 14.0,
        };
        let thick = (band * 0.78 / count as f64).min(34.0);
        let zero = match along.scale {
            Scale::Log => along.from,
            _ => along.at(0.0),
        };
        let mut drawn = String::new();
        for point in &series.points {
            let (place, value) = if rows {
                (point.y, point.x)
            } else {
                (point.x, point.y)
            };
            let start = across.at(place) + thick * (index as f64 - count as f64 / 2.0);
            let end = along.at(value);
            let (low, size) = (zero.min(end), (zero - end).abs().max(0.6));
            let [a, b, c, d] = if rows {
                [low, start, size, thick * 0.92]
            } else {
                [start, low, thick * 0.92, size]
            }
            .map(short);
            let _ = write!(
                drawn,
                "<rect x=\"{a}\" y=\"{b}\" width=\"{c}\" height=\"{d}\" rx=\"1.5\" style=\"fill:{color}\"><title>{}</title></rect>",
                self.tip(series, point)
            );
        }
        self.body.push_str(&drawn);
    }

    fn steps(&mut self, series: &Series, color: &str) {
        let bottom = self.frame[3];
        let mut path = String::new();
        for pair in series.points.windows(2) {
            let [x, next] = [&pair[0], &pair[1]].map(|p| short(self.x.at(p.x)));
            let y = if pair[0].y > 0.0 {
                self.y.at(pair[0].y)
            } else {
                bottom
            };
            let start = if path.is_empty() {
                format!("M{x} {}", short(bottom))
            } else {
                String::new()
            };
            let _ = write!(path, "{start}L{x} {y}L{next} {y}", y = short(y));
        }
        if let Some(last) = series.points.last() {
            let _ = write!(path, "L{} {}Z", short(self.x.at(last.x)), short(bottom));
        }
        let _ = write!(
            self.body,
            "<path style=\"fill:{color};opacity:.55\" d=\"{path}\"/>"
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

fn color(tone: Tone) -> String {
    format!("var(--t{})", tone as u8)
}

fn dash(dashed: bool) -> &'static str {
    if dashed {
        " stroke-dasharray=\"6 5\""
    } else {
        ""
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
    use crate::chart::points;

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

    #[test]
    fn a_higher_value_stands_higher() {
        let span = |scale| Span {
            from: 200.0,
            to: 0.0,
            ..Span::new(
                &Axis {
                    label: String::new(),
                    scale,
                },
                [1.0, 1000.0].into_iter(),
                false,
            )
        };
        for scale in [Scale::Linear, Scale::Log] {
            let span = span(scale);
            assert!(span.at(1000.0) < span.at(10.0) && span.at(10.0) < span.at(1.0));
        }
    }

    #[test]
    fn ticks_are_round() {
        let texts = |low: f64, high: f64, scale| {
            let axis = Axis {
                label: String::new(),
                scale,
            };
            let ticks = Span::new(&axis, [low, high].into_iter(), true).ticks(5);
            ticks.into_iter().map(|t| t.1).collect::<Vec<_>>()
        };
        assert_eq!(texts(0.0, 3.0, Scale::Linear), ["0", "1", "2", "3"]);
        assert_eq!(
            texts(1.0, 2e4, Scale::Log),
            ["1", "10", "100", "1000", "10k"]
        );
    }
}
