//! Figure 7: 4-bit weights against the size of the blocks that share a scale.

mod charts;
mod tables;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_eval::Metric;
use sw_model::WeightCoord;

use super::{
    Experiment,
    blocks::{Bench, CLIP, Layout, PAPER, RESTORE, RTN, SEARCHED, Shared, Size, Subject},
};
use crate::{
    lab::{Lab, PERPLEXITIES},
    outcome::Outcome,
    page::{
        chart::Panel,
        table::{grouped, plain},
    },
    paired::PairedPerplexity,
};
use charts::{accuracy_chart, error_chart, histogram, perplexity_chart, with_published};
use tables::{accuracy_table, perplexity_table, search_table};

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

/// What Figure 7 measures.
pub(crate) struct Measured {
    of: Subject,
    sizes: Vec<Size>,
    /// Sides of blocks that hold every matrix whole.
    whole: Vec<usize>,
    /// Weights of the largest matrix.
    largest: usize,
    /// The first super weight.
    coord: WeightCoord,
    value: f32,
    /// Magnitudes of its matrix.
    magnitudes: Vec<f32>,
}

impl Experiment for Figure7 {
    const NAME: &'static str = "figure7";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
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
        let coord = lab.found()?.coords[0];
        Ok(Measured {
            of: bench.measured(),
            sizes,
            whole,
            largest,
            coord,
            value: lab.model.value(coord)?,
            magnitudes: lab.magnitudes(coord.at()),
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            of: bench,
            sizes,
            whole,
            largest,
            ..
        } = &measured;
        let base = bench.original.average(bench.tasks.iter().copied());
        let bits = self.shared.bits;

        let mut outcome = Outcome::new(format!(
            "Figure 7. {bits}-bit weights against the size of the blocks"
        ));
        let sentences = [
            Some(finding(sizes, base)),
            perplexity_finding(sizes, bench),
            bench.original.caution(&bench.tasks),
        ];
        outcome.finding = sentences
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ");
        let mut panels = vec![
            with_published(
                accuracy_chart(
                    sizes,
                    base,
                    &[RTN, PAPER, SEARCHED],
                    Layout::Flat,
                    "Accuracy",
                ),
                sizes,
                lab,
            ),
            error_chart(sizes, &[RTN, PAPER, SEARCHED]),
            accuracy_chart(
                sizes,
                base,
                &[RTN, SEARCHED, CLIP, RESTORE],
                Layout::Flat,
                "The method's parts",
            ),
            accuracy_chart(
                &sizes[..sizes.len() - 1],
                base,
                &[RTN, SEARCHED],
                Layout::Tiles,
                "True tiles instead of flat blocks",
            ),
        ];
        panels.splice(
            1..1,
            perplexity_chart(sizes, bench, &[RTN, PAPER, SEARCHED]),
        );
        outcome.figure(
            "figure7",
            "",
            panels.into_iter().map(Panel::Chart).collect(),
            format!(
                "Mean accuracy of {} tasks (percent) with all linear maps of the layers at {bits} bits, and the reconstruction error: over all linear maps, the mean of the output error relative to the output. A block of N\u{b2} is N*N consecutive weights, as in the released code; the last place is one block for each matrix. {} documents.",
                bench.tasks.len(),
                bench.original.tasks().map(|t| t.samples.len()).sum::<usize>(),
            ),
        );
        let (histogram, caption) = histogram(&measured, self.shared.paper_z[0]);
        outcome.figure(
            "figure7-histogram",
            "The super weight's place in its matrix",
            vec![histogram],
            caption,
        );
        outcome.table(
            "figure7-accuracy",
            "Accuracy",
            accuracy_table(sizes, lab),
            "Mean accuracy (percent) by size of the blocks; the difference of the searched z from round-to-nearest in points, with its paired 95 % interval over documents.",
        );
        if bench.text.is_some() {
            outcome.table(
                "figure7-perplexity",
                "Perplexity",
                perplexity_table(sizes, bench),
                "Perplexity by size of the blocks and method, and its differences from the unquantized model, from round-to-nearest in the same blocks, and (ours with the searched z) from ours with the paper's z, each with its paired 95 % interval over windows. Tiles are compared with round-to-nearest in flat blocks.",
            );
        }
        outcome.table("figure7-search", "The searched z beside the paper's list", search_table(sizes, &self.shared.paper_z), "Reconstruction error of the searched z and of the best of the paper's list by that error; accuracy of the searched z minus that of the listed z whose accuracy on these documents is best, in points, with the paired 95 % interval and McNemar's exact test.");
        outcome.notes.push(bench.note());
        outcome.notes.push(bench.about_z(&self.shared));
        if !whole.is_empty() {
            let names: Vec<_> = whole.iter().map(|n| format!("{n}\u{b2}")).collect();
            outcome.notes.push(format!(
                "Blocks of {} would hold every matrix whole (the largest has {} weights): they are the last place.",
                names.join(", "),
                grouped(*largest)
            ));
        }
        outcome.notes.push("Where blocks do not divide a matrix the last one is shorter; the released code silently takes the whole matrix then.".into());
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data(
            "original",
            bench.original.average(bench.tasks.iter().copied()),
        )?;
        outcome.data("searched_on", &bench.searched_on)?;
        outcome.data("sizes", sizes)?;
        outcome.data("sources", bench.original.sources())?;
        Ok(outcome)
    }
}

fn finding(sizes: &[Size], base: Option<f64>) -> String {
    let (Some(first), Some(last), Some(base)) = (sizes.first(), sizes.last(), base) else {
        return String::new();
    };
    let mut text = format!("Unquantized, the mean accuracy is {:.2} %.", 100.0 * base);
    for size in [first, last] {
        if let Some(p) = &size.against_rtn {
            let [low, high] = p.interval.map(|v| 100.0 * v);
            text += &format!(
                " {} ours with the searched z is {:+.2} points from round-to-nearest (95 % interval {low:+.2} to {high:+.2}).",
                match size.side {
                    Some(_) => format!("In blocks of {}", size.name()),
                    None => "With one block for each matrix".into(),
                },
                100.0 * p.difference
            );
        }
    }
    let below = sizes
        .iter()
        .filter(|s| s.against_list.as_ref().is_some_and(|p| p.interval[1] < 0.0));
    let below: Vec<_> = below.map(Size::name).collect();
    text += &if below.is_empty() {
        " At no size is the searched z worse, beyond the paired 95 % interval, than the z of the paper's list that is best on these documents.".to_owned()
    } else {
        format!(
            " At {} the searched z is worse, beyond the paired 95 % interval, than the z of the paper's list that is best on these documents.",
            below.join(", ")
        )
    };
    text
}

/// What the perplexities say beside the accuracies.
fn perplexity_finding(sizes: &[Size], of: &Subject) -> Option<String> {
    let text = of.text?;
    let heading = PERPLEXITIES.iter().find(|t| t.0 == text)?.1;
    let rise = |method| {
        let p = sizes.last()?.get(method, Layout::Flat)?;
        let p = p.perplexity_against_original.as_ref()?;
        let [low, high] = p.interval.map(plain);
        Some(format!(
            "{} (95 % interval {low} to {high})",
            plain(p.difference)
        ))
    };
    let worse = |of: fn(&Size) -> Option<&PairedPerplexity>| {
        let those = sizes
            .iter()
            .filter(|s| of(s).is_some_and(PairedPerplexity::is_loss));
        let names: Vec<_> = those.map(Size::name).collect();
        if names.is_empty() {
            "at no size".to_owned()
        } else {
            format!("at {}", names.join(", "))
        }
    };
    Some(format!(
        "The perplexity on {heading} is {} unquantized; with one block for each matrix it is higher by {} with round-to-nearest, and by {} with ours and the searched z. Beyond the paired 95 % interval the searched z is worse than round-to-nearest {}, and worse than the paper's z {}.",
        plain(of.windows.as_ref()?.value(text, Metric::Perplexity)?),
        rise(RTN)?,
        rise(SEARCHED)?,
        worse(|s| s.perplexity_against_rtn.as_ref()),
        worse(|s| s.perplexity_against_paper.as_ref()),
    ))
}
