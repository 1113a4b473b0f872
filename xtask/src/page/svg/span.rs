//! From data to places along one axis, and the ticks there.

use crate::page::chart::{Axis, Scale};

/// From data to places along one axis.
pub(super) struct Span {
    pub(super) scale: Scale,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Span {
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, zero: bool) -> Self {
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

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            _ => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(-0.02, 1.02) * (self.to - self.from)
    }

    /// Places of the ticks and what is written there.
    pub(super) fn ticks(&self, room: usize) -> Vec<(f64, String)> {
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

pub(super) fn trimmed(value: f64, decimals: usize) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
