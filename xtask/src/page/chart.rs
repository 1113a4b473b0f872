//! Figures as data: what is drawn, in numbers. `svg.rs` draws them, `csv` lists them.

use serde::{Deserialize, Serialize};

use super::table::Table;

/// One picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Panel {
    /// Series over two axes.
    Chart(Chart),
    /// A chain of causes, one below the other.
    Flow {
        /// From cause to effect.
        steps: Vec<Step>,
    },
}

/// One link of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What it is.
    pub(crate) title: String,
    /// The number that this link is about, with its unit.
    pub(crate) value: String,
    /// What to think of it.
    pub(crate) note: String,
}

/// Series over two axes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) guides: Vec<Guide>,
}

/// What an axis measures, and how its numbers become places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Axis {
    /// Name and unit.
    pub(crate) label: String,
    pub(crate) scale: Scale,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scale {
    #[default]
    Linear,
    /// Powers of ten.
    Log,
    /// One place for each name; coordinates are indices. On the y axis the first is at the top.
    Bands(Vec<String>),
}

/// Points of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) mark: Mark,
    pub(crate) tone: Tone,
    /// A dashed line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) dashed: bool,
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mark {
    /// A line through dots.
    #[default]
    Line,
    /// Dots alone.
    Dots,
    /// Bars from zero (from the axis, where it is logarithmic).
    Bars,
    /// A filled staircase: a histogram, each point at the left end of its bin.
    Steps,
}

/// A thing has one colour in all figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tone {
    /// The model as it is.
    #[default]
    Original,
    /// The model with its super weight taken away, or kept.
    Super,
    /// The largest other weights, or the plain method.
    Other,
    /// A third setting.
    Third,
    /// A fourth setting.
    Fourth,
    /// A fifth setting.
    Fifth,
    /// What the paper published, or what only gives orientation.
    Muted,
}

/// A point, perhaps with the ends of its 95 % interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Ends of the interval, along y (along x where y has bands).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<[f64; 2]>,
}

/// A line across the plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Guide {
    pub(crate) along: Along,
    pub(crate) at: f64,
    pub(crate) label: String,
    pub(crate) tone: Tone,
}

/// Where a guide stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Along {
    /// Upright, at an x.
    X,
    /// Level, at a y.
    Y,
}

impl Axis {
    pub(crate) fn linear(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            scale: Scale::Linear,
        }
    }

    pub(crate) fn log(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            scale: Scale::Log,
        }
    }

    pub(crate) fn bands(
        label: impl Into<String>,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            label: label.into(),
            scale: Scale::Bands(names.into_iter().map(Into::into).collect()),
        }
    }
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, mark: Mark, tone: Tone, points: Vec<Point>) -> Self {
        Self {
            name: name.into(),
            mark,
            tone,
            dashed: false,
            points,
        }
    }

    pub(crate) fn dashed(self) -> Self {
        Self {
            dashed: true,
            ..self
        }
    }
}

/// Points at the given places.
pub(crate) fn points(xy: impl IntoIterator<Item = (f64, f64)>) -> Vec<Point> {
    let point = |(x, y)| Point {
        x,
        y,
        interval: None,
    };
    xy.into_iter().map(point).collect()
}

impl Panel {
    fn title(&self) -> &str {
        match self {
            Panel::Chart(chart) => &chart.title,
            Panel::Flow { .. } => "",
        }
    }
}

/// Everything that is drawn, as a table.
pub(crate) fn table(panels: &[Panel]) -> Table {
    let mut table = Table::new(["panel", "series", "x", "y", "low", "high"]);
    for panel in panels {
        match panel {
            Panel::Chart(chart) => {
                for series in &chart.series {
                    for point in &series.points {
                        let [low, high] = point
                            .interval
                            .map_or_else(Default::default, |i| i.map(|v| v.to_string()));
                        table.push([
                            panel.title().to_owned(),
                            series.name.clone(),
                            place(&chart.x, point.x),
                            place(&chart.y, point.y),
                            low,
                            high,
                        ]);
                    }
                }
            }
            Panel::Flow { steps } => {
                for (i, step) in steps.iter().enumerate() {
                    let x = (i + 1).to_string();
                    table.push([
                        "".into(),
                        step.title.clone(),
                        x,
                        step.value.clone(),
                        "".into(),
                        "".into(),
                    ]);
                }
            }
        }
    }
    table
}

/// A coordinate in words: the band's name, or the number.
pub(crate) fn place(axis: &Axis, at: f64) -> String {
    match &axis.scale {
        Scale::Bands(names) => names.get(at as usize).cloned().unwrap_or_default(),
        _ => at.to_string(),
    }
}
