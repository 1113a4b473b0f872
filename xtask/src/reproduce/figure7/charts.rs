//! The charts of Figure 7.

use sw_eval::Metric;

use super::{
    super::blocks::{CLIP, Layout, PAPER, Quantized, RTN, SEARCHED, Size, Subject},
    Measured,
};
use crate::{
    lab::{Lab, PERPLEXITIES},
    page::{
        chart::{Along, Axis, Chart, Guide, Mark, Panel, Series, Tone, points},
        table::grouped,
    },
    published::{self, AtSize},
};

pub(super) fn perplexity_chart(
    sizes: &[Size],
    of: &Subject,
    methods: &[&'static str],
) -> Option<Chart> {
    let text = of.text?;
    let base = of.windows.as_ref()?.value(text, Metric::Perplexity)?;
    let heading = PERPLEXITIES.iter().find(|t| t.0 == text)?.1;
    Some(Chart {
        title: "Perplexity".into(),
        x: Axis::bands("weights that share a scale", sizes.iter().map(Size::name)),
        y: Axis::log(format!("perplexity on {heading} (logarithmic)")),
        series: lines(sizes, methods, Layout::Flat, |s| s.perplexity),
        guides: vec![Guide {
            along: Along::Y,
            at: base,
            label: "unquantized".into(),
            tone: Tone::Original,
        }],
    })
}

fn tone(method: &str) -> Tone {
    match method {
        RTN => Tone::Other,
        PAPER => Tone::Third,
        SEARCHED => Tone::Super,
        CLIP => Tone::Fourth,
        _ => Tone::Fifth,
    }
}

/// One line for each method; the places of `sizes`.
fn lines(
    sizes: &[Size],
    methods: &[&'static str],
    layout: Layout,
    value: impl Fn(&Quantized) -> Option<f64>,
) -> Vec<Series> {
    let line = |&method: &&'static str| {
        let at = |(i, size): (usize, &Size)| Some((i as f64, value(size.get(method, layout)?)?));
        Series::new(
            method,
            Mark::Line,
            tone(method),
            points(sizes.iter().enumerate().filter_map(at)),
        )
    };
    methods.iter().map(line).collect()
}

pub(super) fn accuracy_chart(
    sizes: &[Size],
    base: Option<f64>,
    methods: &[&'static str],
    layout: Layout,
    title: &str,
) -> Chart {
    let guide = |base: f64| Guide {
        along: Along::Y,
        at: 100.0 * base,
        label: "unquantized".into(),
        tone: Tone::Original,
    };
    Chart {
        title: title.into(),
        x: Axis::bands("weights that share a scale", sizes.iter().map(Size::name)),
        y: Axis::linear("mean accuracy (percent)"),
        series: lines(sizes, methods, layout, |s| s.average.map(|v| 100.0 * v)),
        guides: base.map(guide).into_iter().collect(),
    }
}

/// An accuracy chart with the lines that the paper published.
pub(super) fn with_published(mut chart: Chart, sizes: &[Size], lab: &Lab) -> Chart {
    let published = lab.known.as_deref().map_or(&[][..], published::figure7);
    let rtn = |p: &AtSize| p.rtn;
    for (name, of) in [
        ("RTN, the paper", rtn as fn(&AtSize) -> f64),
        ("ours, the paper", |p| p.ours),
    ] {
        let place = |p: &AtSize| {
            let i = sizes.iter().position(|s| s.side == Some(p.side))?;
            Some((i as f64, of(p)))
        };
        let xy: Vec<_> = published.iter().filter_map(place).collect();
        if !xy.is_empty() {
            let line = Series::new(name, Mark::Line, Tone::Muted, points(xy));
            chart.series.push(line.dashed());
        }
    }
    chart
}

pub(super) fn error_chart(sizes: &[Size], methods: &[&'static str]) -> Chart {
    Chart {
        title: "Reconstruction error".into(),
        x: Axis::bands("weights that share a scale", sizes.iter().map(Size::name)),
        y: Axis::log("mean relative output error (logarithmic)"),
        series: lines(sizes, methods, Layout::Flat, |s| s.reconstruction),
        guides: vec![],
    }
}

/// Magnitudes of the super weight's matrix, with the first super weight and the clip thresholds of the whole matrix.
pub(super) fn histogram(measured: &Measured, paper_z: f32) -> (Panel, String) {
    const BINS: usize = 60;
    let (coord, magnitudes) = (measured.coord, &measured.magnitudes);
    let value = measured.value.abs();
    let n = magnitudes.len().max(1) as f64;
    let mean = magnitudes.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = magnitudes
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0).max(1.0);
    let top = f64::from(magnitudes.iter().copied().fold(0.0, f32::max)).max(f64::MIN_POSITIVE);
    let mut counts = [0usize; BINS];
    for &v in magnitudes {
        counts[((f64::from(v) / top * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    let edge = |i: usize| top * i as f64 / BINS as f64;
    let bins = (0..=BINS).map(|i| (edge(i), counts.get(i).copied().unwrap_or(0) as f64));
    let guide = |at: f64, label: String, tone| Guide {
        along: Along::X,
        at,
        label,
        tone,
    };
    let mut guides = vec![guide(
        f64::from(value),
        format!("super weight, {value:.3}"),
        Tone::Super,
    )];
    let searched = measured.sizes.last().map(|s| s.searched_z);
    for (z, tone) in [(Some(paper_z), Tone::Third), (searched, Tone::Fourth)] {
        let at = z.map(|z| (z, mean + f64::from(z) * variance.sqrt()));
        if let Some((z, at)) = at.filter(|a| a.1 <= top) {
            guides.push(guide(at, format!("z = {z}"), tone));
        }
    }
    let rank = 1 + magnitudes.iter().filter(|&&v| v > value).count();
    let panel = Panel::Chart(Chart {
        title: format!("{coord}"),
        x: Axis::linear("magnitude of a weight"),
        y: Axis::log("weights in the bin (logarithmic)"),
        series: vec![Series::new("", Mark::Steps, Tone::Original, points(bins))],
        guides,
    });
    let caption = format!(
        "Magnitudes of the {} weights of the matrix; the super weight is number {} of them. z: where the whole matrix would be clipped.",
        grouped(magnitudes.len()),
        grouped(rank)
    );
    (panel, caption)
}
