//! Table 7: 8-bit weights and activations in short.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{
    Experiment,
    eight_bit::{Bench, NAIVE, Reading, Rows},
};
use crate::{lab::Lab, outcome::Outcome};

/// Show perplexity under W8A8 in three rows: as stored, naive, ours (Table 7, Llama-2-7B in the paper).
///
/// Example:
///   cargo xtask reproduce-table7 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table7 {}

impl Experiment for Table7 {
    const NAME: &'static str = "table7";

    type Measured = Rows;

    fn measure(&self, lab: &Lab) -> Result<Rows> {
        let mut bench = Bench::new(lab)?;
        bench.reading("naive", NAIVE, NAIVE, &Reading::naive())?;
        bench.reading("ours", "ours", NAIVE, &Reading::ours())?;
        Ok(bench.rows())
    }

    fn show(&self, lab: &Lab, rows: Rows) -> Result<Outcome> {
        let mut outcome = Outcome::new("Table 7. 8-bit weights and activations, in short");
        outcome.finding = rows.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("ours", "ours"),
        ]);
        rows.tables("table7", "fp16", "stored", lab, &mut outcome);
        outcome
            .notes
            .push("The paper has these rows for Llama-2-7B.".into());
        rows.finish(lab, &mut outcome)?;
        Ok(outcome)
    }
}
