//! Table 6: 4-bit weights in small blocks.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    Experiment,
    blocks::{Bench, Layout, PAPER, RTN, SEARCHED, Shared, Size, Subject},
};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::table::{Table, fixed, p_value, signed},
    published,
};

/// Show round-to-nearest beside the paper's method at two small block sizes (Table 6).
///
/// Example:
///   cargo xtask reproduce-table6 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table6 {
    /// Sides of the blocks: N stands for N*N weights
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "8,64"
    )]
    sizes: Vec<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    shared: Shared,
}

/// What Table 6 measures.
pub(crate) struct Measured {
    of: Subject,
    sizes: Vec<Size>,
}

impl Experiment for Table6 {
    const NAME: &'static str = "table6";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let bench = Bench::new(lab, &self.shared)?;
        ensure!(
            !self.sizes.contains(&0),
            "--sizes 0: expected sides of blocks"
        );
        let sizes = self.sizes.iter().map(|&n| bench.size(Some(n), false));
        Ok(Measured {
            sizes: sizes.collect::<Result<_>>()?,
            of: bench.measured(),
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured { of, sizes } = measured;
        let published = lab.known.as_deref().map_or(&[][..], published::table6);
        let mut header = vec![
            "Block",
            "Original",
            RTN,
            PAPER,
            SEARCHED,
            "searched z",
            "ours - RTN",
            "from",
            "to",
            "p",
        ];
        if of.text.is_some() {
            header.extend(["perplexity of RTN", "ours - RTN ", "from ", "to "]);
        }
        if !published.is_empty() {
            header.extend(["RTN, the paper", "ours, the paper"]);
        }
        let mut table = Table::new(header);
        let percent = |v: Option<f64>| fixed(v.map(|v| 100.0 * v), 2);
        for size in &sizes {
            let get = |method| percent(size.get(method, Layout::Flat).and_then(|s| s.average));
            let p = size.against_rtn.as_ref();
            let mut row = vec![
                size.side
                    .map_or_else(String::new, |n| format!("{n}x{n} ({})", n * n)),
                percent(of.original.average(of.tasks.iter().copied())),
                get(RTN),
                get(PAPER),
                get(SEARCHED),
                size.searched_z.to_string(),
                signed(p.map(|p| 100.0 * p.difference), 2),
                signed(p.map(|p| 100.0 * p.interval[0]), 2),
                signed(p.map(|p| 100.0 * p.interval[1]), 2),
                p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
            ];
            if of.text.is_some() {
                let rtn = size.get(RTN, Layout::Flat).and_then(|s| s.perplexity);
                let p = size.perplexity_against_rtn.as_ref();
                row.extend([
                    fixed(rtn, 3),
                    signed(p.map(|p| p.difference), 3),
                    signed(p.map(|p| p.interval[0]), 3),
                    signed(p.map(|p| p.interval[1]), 3),
                ]);
            }
            if !published.is_empty() {
                let paper = published.iter().find(|p| Some(p.side) == size.side);
                row.push(fixed(paper.map(|p| p.rtn), 2));
                row.push(fixed(paper.map(|p| p.ours), 2));
            }
            table.push(row);
        }
        let mut outcome = Outcome::new("Table 6. Small blocks");
        let sentences = sizes.iter().filter_map(|size| {
            let p = size.against_rtn.as_ref()?;
            let [low, high] = p.interval.map(|v| 100.0 * v);
            Some(format!(
                "At {0}x{0} ours with the searched z is {1:+.2} points from round-to-nearest (95 % interval {low:+.2} to {high:+.2}).",
                size.side?,
                100.0 * p.difference
            ))
        });
        outcome.finding = sentences.collect::<Vec<_>>().join(" ");
        outcome.table("table6", "", table, format!(
            "Mean accuracy of {} tasks (percent) with all linear maps at {} bits; ours clips at z deviations and restores the super weight. The difference is of the searched z, with its paired 95 % interval and McNemar's exact test; beside it, where there is a text, the same for the perplexity, by windows.",
            of.tasks.len(), self.shared.bits
        ));
        outcome.notes.push(of.note());
        outcome.notes.push(of.about_z(&self.shared));
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("searched_on", &of.searched_on)?;
        outcome.data("sizes", &sizes)?;
        Ok(outcome)
    }
}
