//! Table 3: 8-bit weights and activations beside SmoothQuant.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_intervene::{Intervention, LinearInputs};
use sw_quant::search::Search;

use super::{
    Experiment,
    eight_bit::{Bench, NAIVE, Reading, Rows, weights},
};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
};

/// Show perplexity under W8A8: as stored, naive, SmoothQuant at the paper's alpha and at the searched one, ours (Table 3).
///
/// Example:
///   cargo xtask reproduce-table3 --model MODEL --data DATA --calib calibration.jsonl --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table3 {
    /// SmoothQuant's alpha in the paper
    #[arg(long, value_name = "X", default_value_t = 0.85)]
    alpha: f32,
    /// Calibration rows that SmoothQuant reads
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Calibration tokens that alpha is searched on
    #[arg(long, value_name = "N", default_value_t = 256)]
    search_tokens: usize,
}

/// Tokens of a calibration row, as in SmoothQuant's repository.
const TOKENS: usize = 512;

/// What Table 3 measures.
pub(crate) struct Measured {
    rows: Rows,
    /// The search over alpha.
    found: Search,
    /// What SmoothQuant is calibrated on.
    source: String,
}

impl Experiment for Table3 {
    const NAME: &'static str = "table3";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            (0.0..=1.0).contains(&self.alpha),
            "--alpha {}: expected a number from 0 to 1",
            self.alpha
        );
        ensure!(
            self.samples > 0 && self.search_tokens > 0,
            "--samples, --search-tokens: expected at least 1"
        );
        let (file, source) = lab.calibration()?;
        let texts = lab.calibration_texts(self.search_tokens.div_ceil(2), TOKENS)?;
        let mut bench = Bench::new(lab)?;
        let naive = Reading::naive();
        bench.reading("naive", NAIVE, NAIVE, &naive)?;
        let inputs = LinearInputs::collect(&lab.model, &texts.texts, self.search_tokens)?;
        let found = inputs.best_alpha(&lab.model, &naive.act, &weights())?;
        let smooth = |alpha| -> Result<Vec<Intervention>> {
            let mut plan = vec![Intervention::SmoothQuant {
                alpha,
                calibration: file.clone(),
                samples: self.samples,
                tokens: TOKENS,
                bos: lab.inputs.bos,
            }];
            plan.extend(naive.interventions(lab)?);
            Ok(plan)
        };
        bench.add(
            "smoothquant",
            format!("SmoothQuant, alpha {}", self.alpha),
            NAIVE,
            smooth(self.alpha)?,
        )?;
        bench.add(
            "smoothquant_searched",
            format!("SmoothQuant, searched alpha {}", found.best),
            NAIVE,
            smooth(found.best)?,
        )?;
        bench.reading("ours", "ours", NAIVE, &Reading::ours())?;
        Ok(Measured {
            rows: bench.rows(),
            found,
            source,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            rows,
            found,
            source,
        } = measured;
        let mut outcome =
            Outcome::new("Table 3. 8-bit weights and activations, beside SmoothQuant");
        outcome.finding = rows.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("smoothquant", "SmoothQuant"),
            (
                "smoothquant_searched",
                "SmoothQuant with the searched alpha",
            ),
            ("ours", "ours"),
        ]);
        rows.tables("table3", "smoothquant", "SmoothQuant", lab, &mut outcome);
        outcome.figure(
            "table3-change",
            "Perplexity above that of the stored weights",
            vec![rows.chart()],
            "Smaller is better.",
        );
        let curve = Panel::Chart(Chart {
            title: "Search over alpha".into(),
            x: Axis::linear("alpha"),
            y: Axis::linear("output error relative to no smoothing, summed over norms"),
            series: vec![Series::new(
                "",
                Mark::Line,
                Tone::Super,
                points(found.curve.iter().map(|c| (f64::from(c.0), c.1))),
            )],
            guides: vec![],
        });
        outcome.figure(
            "table3-alpha",
            "SmoothQuant's alpha",
            vec![curve],
            format!("Searched on {} tokens of {source}.", self.search_tokens),
        );
        let tried = || found.curve.iter().map(|c| c.0);
        let (low, high) = (
            tried().fold(f32::INFINITY, f32::min),
            tried().fold(0.0, f32::max),
        );
        if found.best == low || found.best == high {
            outcome.notes.push(format!(
                "The searched alpha, {}, is at the edge of what was tried ({low} to {high}){}.",
                found.best,
                if low <= 0.0 && high >= 1.0 {
                    ", which is all that SmoothQuant allows: the whole range goes to one side"
                } else {
                    "; a better one may lie beyond"
                }
            ));
        }
        outcome.notes.push(format!(
            "SmoothQuant is calibrated on {source}; no test text is among it."
        ));
        outcome.data("alpha_search", &found)?;
        outcome.data("calibrated_on", &source)?;
        rows.finish(lab, &mut outcome)?;
        Ok(outcome)
    }
}
