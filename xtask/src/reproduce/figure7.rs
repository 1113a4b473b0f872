//! Figure 7: 4-bit weights against the size of the blocks that share a scale.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    Experiment,
    blocks::{Bench, CLIP, Layout, PAPER, Quantized, RESTORE, RTN, SEARCHED, Shared, Size},
};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::{
        chart::{Along, Axis, Chart, Guide, Mark, Panel, Series, Tone, points},
        table::{Table, fixed, grouped, p_value, signed},
    },
    published,
};

/// Show accuracy of 4-bit weights against block size: round-to-nearest, the paper's method, and its parts (Figure 7).
///
/// Example:
///   cargo xtask reproduce-figure7 --model MODEL --data DATA --sizes 128,256,512,1024 --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure7 {
    /// Sides of the blocks: N stands for N*N weights; the whole matrix is always last
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "8,16,32,64,128,256,512,1024"
    )]
    sizes: Vec<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    shared: Shared,
}

impl Experiment for Figure7 {
    const NAME: &'static str = "figure7";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let bench = Bench::new(lab, &self.shared)?;
        let largest = bench.largest();
        ensure!(
            !self.sizes.contains(&0),
            "--sizes 0: expected sides of blocks"
        );
        let (inside, whole): (Vec<usize>, Vec<usize>) =
            self.sizes.iter().partition(|n| **n * **n < largest);
        let sides = inside.into_iter().map(Some).chain([None]);
        let sizes: Vec<Size> = sides
            .map(|side| bench.size(side, true))
            .collect::<Result<_>>()?;
        let base = bench.original.average(bench.tasks.iter().copied());
        let bits = self.shared.bits;

        let mut outcome = Outcome::new(format!(
            "Figure 7. {bits}-bit weights against the size of the blocks"
        ));
        let sentences = [
            Some(finding(&sizes, base)),
            bench.original.caution(&bench.tasks),
        ];
        outcome.finding = sentences
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ");
        outcome.figure(
            "figure7",
            "",
            vec![
                accuracy_chart(&sizes, base, &[RTN, PAPER, SEARCHED], Layout::Flat, "Accuracy", lab),
                error_chart(&sizes, &[RTN, PAPER, SEARCHED]),
                accuracy_chart(&sizes, base, &[RTN, SEARCHED, CLIP, RESTORE], Layout::Flat, "The method's parts", lab),
                accuracy_chart(&sizes[..sizes.len() - 1], base, &[RTN, SEARCHED], Layout::Tiles, "True tiles instead of flat blocks", lab),
            ],
            format!(
                "Mean accuracy of {} tasks (percent) with all linear maps of the layers at {bits} bits, and the reconstruction error: over all linear maps, the mean of the output error relative to the output. A block of N\u{b2} is N*N consecutive weights, as in the released code; the last place is one block for each matrix. {} documents.",
                bench.tasks.len(),
                bench.original.tasks().map(|t| t.samples.len()).sum::<usize>(),
            ),
        );
        let (histogram, caption) = histogram(&bench, &sizes)?;
        outcome.figure(
            "figure7-histogram",
            "The super weight's place in its matrix",
            vec![histogram],
            caption,
        );
        outcome.table(
            "figure7-accuracy",
            "Accuracy",
            accuracy_table(&sizes, lab),
            "Mean accuracy (percent) by size of the blocks.",
        );
        outcome.table("figure7-search", "The searched z beside the paper's list", search_table(&sizes, &self.shared.paper_z), "Reconstruction error of the searched z and of the best of the paper's list by that error; accuracy of the searched z minus that of the listed z with the best accuracy, in points, with the paired 95 % interval and McNemar's exact test.");
        outcome.notes.push(bench.note());
        if !whole.is_empty() {
            let names: Vec<_> = whole.iter().map(|n| format!("{n}\u{b2}")).collect();
            outcome.notes.push(format!(
                "Blocks of {} would hold every matrix whole (the largest has {} weights): they are the last place.",
                names.join(", "),
                grouped(largest)
            ));
        }
        outcome.notes.push("Where blocks do not divide a matrix the last one is shorter; the released code silently takes the whole matrix then.".into());
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data(
            "original",
            bench.original.average(bench.tasks.iter().copied()),
        )?;
        outcome.data("searched_on", &bench.searched_on)?;
        outcome.data("sizes", &sizes)?;
        outcome.data("sources", bench.original.sources())?;
        Ok(outcome)
    }
}

fn finding(sizes: &[Size], base: Option<f64>) -> String {
    let (Some(first), Some(last), Some(base)) = (sizes.first(), sizes.last(), base) else {
        return String::new();
    };
    let at = |size: &Size, method| {
        size.get(method, Layout::Flat)
            .and_then(|s| s.average)
            .unwrap_or(f64::NAN)
            * 100.0
    };
    let mut text = format!(
        "From blocks of {} to whole matrices, plain round-to-nearest goes from {:.2} % to {:.2} %, ours with the searched z from {:.2} % to {:.2} % (unquantized: {:.2} %).",
        first.name(),
        at(first, RTN),
        at(last, RTN),
        at(first, SEARCHED),
        at(last, SEARCHED),
        100.0 * base
    );
    let below = sizes
        .iter()
        .filter(|s| s.against_list.as_ref().is_some_and(|p| p.interval[1] < 0.0));
    let below: Vec<_> = below.map(Size::name).collect();
    text += &if below.is_empty() {
        " At no size is the searched z worse than the best of the paper's list beyond the paired 95 % interval.".to_owned()
    } else {
        format!(
            " At {} the searched z is worse than the best of the paper's list beyond the paired 95 % interval.",
            below.join(", ")
        )
    };
    text
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

fn accuracy_chart(
    sizes: &[Size],
    base: Option<f64>,
    methods: &[&'static str],
    layout: Layout,
    title: &str,
    lab: &Lab,
) -> Panel {
    let mut series = lines(sizes, methods, layout, |s| s.average.map(|v| 100.0 * v));
    if title == "Accuracy" {
        for (name, of) in [("RTN, the paper", 0), ("ours, the paper", 1)] {
            let published = lab.known.as_deref().map_or(&[][..], published::figure7);
            let place = |p: &(usize, [f64; 2])| {
                let i = sizes.iter().position(|s| s.side == Some(p.0))?;
                Some((i as f64, p.1[of]))
            };
            let xy: Vec<_> = published.iter().filter_map(place).collect();
            if !xy.is_empty() {
                series.push(Series::new(name, Mark::Line, Tone::Muted, points(xy)).dashed());
            }
        }
    }
    let guide = |base: f64| Guide {
        along: Along::Y,
        at: 100.0 * base,
        label: "unquantized".into(),
        tone: Tone::Original,
    };
    Panel::Chart(Chart {
        title: title.into(),
        x: Axis::bands("weights that share a scale", sizes.iter().map(Size::name)),
        y: Axis::linear("mean accuracy (percent)"),
        series,
        guides: base.map(guide).into_iter().collect(),
    })
}

fn error_chart(sizes: &[Size], methods: &[&'static str]) -> Panel {
    Panel::Chart(Chart {
        title: "Reconstruction error".into(),
        x: Axis::bands("weights that share a scale", sizes.iter().map(Size::name)),
        y: Axis::log("mean relative output error (logarithmic)"),
        series: lines(sizes, methods, Layout::Flat, |s| s.reconstruction),
        guides: vec![],
    })
}

/// Magnitudes of the super weight's matrix, with the first super weight and the clip thresholds of the whole matrix.
fn histogram(bench: &Bench<'_>, sizes: &[Size]) -> Result<(Panel, String)> {
    const BINS: usize = 60;
    let coord = bench.lab.found()?.coords[0];
    let model = &bench.lab.model;
    let value = model.value(coord)?.abs();
    let mut magnitudes = Vec::new();
    if let Some(w) = model.weight_at(coord.at()) {
        magnitudes = vec![0.0; w.rows() * w.cols()];
        w.widen(0..w.rows(), 0..w.cols(), &mut magnitudes);
        magnitudes.iter_mut().for_each(|v| *v = v.abs());
    }
    let n = magnitudes.len().max(1) as f64;
    let mean = magnitudes.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = magnitudes
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0).max(1.0);
    let top = f64::from(magnitudes.iter().copied().fold(0.0, f32::max)).max(f64::MIN_POSITIVE);
    let mut counts = [0usize; BINS];
    for &v in &magnitudes {
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
    let searched = sizes.last().map(|s| s.searched_z);
    for (z, tone) in [
        (Some(bench.shared.paper_z[0]), Tone::Third),
        (searched, Tone::Fourth),
    ] {
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
    Ok((panel, caption))
}

fn accuracy_table(sizes: &[Size], lab: &Lab) -> Table {
    let columns = [
        (RTN, Layout::Flat),
        (PAPER, Layout::Flat),
        (SEARCHED, Layout::Flat),
        (CLIP, Layout::Flat),
        (RESTORE, Layout::Flat),
        (RTN, Layout::Tiles),
        (SEARCHED, Layout::Tiles),
    ];
    let published = lab.known.as_deref().map_or(&[][..], published::figure7);
    let mut header = vec!["Block".to_owned(), "searched z".into()];
    header.extend(columns.map(|(method, layout)| match layout {
        Layout::Flat => method.to_owned(),
        Layout::Tiles => format!("{method}, tiles"),
    }));
    if !published.is_empty() {
        header.extend(["RTN, the paper".to_owned(), "ours, the paper".into()]);
    }
    let mut table = Table::new(header);
    for size in sizes {
        let mut row = vec![size.name(), size.searched_z.to_string()];
        row.extend(columns.map(|(method, layout)| {
            fixed(
                size.get(method, layout)
                    .and_then(|s| s.average)
                    .map(|v| 100.0 * v),
                2,
            )
        }));
        if !published.is_empty() {
            let paper = published.iter().find(|p| Some(p.0) == size.side);
            row.extend([0, 1].map(|i| fixed(paper.map(|p| p.1[i]), 2)));
        }
        table.push(row);
    }
    table
}

fn search_table(sizes: &[Size], listed: &[f32]) -> Table {
    let mut table = Table::new([
        "Block",
        "searched z",
        "its error",
        "listed z (error)",
        "its error ",
        "listed z (accuracy)",
        "accuracy difference",
        "from",
        "to",
        "p",
    ]);
    for size in sizes {
        let found = &size.reconstruction.clipped;
        let errors = listed.iter().filter_map(|&z| Some((z, found.at(z)?)));
        let best = errors.reduce(|a, b| if b.1 < a.1 { b } else { a });
        let p = size.against_list.as_ref();
        table.push([
            size.name(),
            found.best.to_string(),
            format!("{:.3e}", found.error),
            best.map_or("-".into(), |b| b.0.to_string()),
            best.map_or("-".into(), |b| format!("{:.3e}", b.1)),
            size.list_best.map_or("-".into(), |z| z.to_string()),
            signed(p.map(|p| 100.0 * p.difference), 2),
            signed(p.map(|p| 100.0 * p.interval[0]), 2),
            signed(p.map(|p| 100.0 * p.interval[1]), 2),
            p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
        ]);
    }
    table
}
