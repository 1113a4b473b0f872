//! What a series leaves on a chart: lines, dots, bars, staircases and the ends of intervals.

use std::fmt::Write as _;

use super::{
    drawing::{Drawing, color, dash},
    short,
    span::trimmed,
};
use crate::page::{
    chart::{Axis, Mark, Point, Scale, Series, place},
    table::escape,
};

impl Drawing<'_> {
    /// Draws a series; `index` of `count` series of bars that stand side by side.
    pub(super) fn series(&mut self, series: &Series, (index, count): (usize, usize)) {
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
            if let Some(ends) = point.interval {
                let middle = start + thick * 0.46;
                let [a, b] = ends.map(|v| along.at(v));
                let [x1, x2, y1, y2] = if rows {
                    [a, b, middle, middle]
                } else {
                    [middle, middle, a, b]
                }
                .map(short);
                let _ = write!(
                    drawn,
                    "<path class=\"l w\" style=\"stroke:var(--ink)\" d=\"M{x1} {y1}L{x2} {y2}\"/>"
                );
            }
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
