//! Beyond the paper: what the super activation is good for, and what can stand in for the weight.

mod effects;
mod emergence;
mod stand_ins;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_detect::Sinks;

use super::{
    Experiment,
    sinks::{both_sinks, sink_chart},
};
use crate::{lab::Lab, outcome::Outcome};
use effects::Proven;
use emergence::Emergence;
use stand_ins::StandIns;

/// Show what the paper leaves open: the super activation as a constant, sign flip, repair by a row, sinks, emergence.
///
/// Example:
///   cargo xtask reproduce-beyond --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Beyond {
    /// Calibration tokens that constants are averaged over and the row is fitted to
    #[arg(long, value_name = "N", default_value_t = 512)]
    fit_tokens: usize,
    /// Ridge of the fit, relative to the inputs' mean square
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    ridge: f64,
}

/// What is measured beyond the paper.
pub(crate) struct Measured {
    stand_ins: StandIns,
    /// Nothing where the texts cannot be scored.
    proven: Option<Proven>,
    sinks: [Sinks; 2],
    /// Nothing where it was not recorded beside the checkpoint.
    emergence: Option<Emergence>,
}

impl Experiment for Beyond {
    const NAME: &'static str = "beyond";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.fit_tokens > 1,
            "--fit-tokens {}: expected at least 2",
            self.fit_tokens
        );
        ensure!(
            self.ridge > 0.0 && self.ridge.is_finite(),
            "--ridge {}: expected a number above 0",
            self.ridge
        );
        let candidates = lab.candidates()?;
        Ok(Measured {
            stand_ins: self.stand_ins(lab)?,
            proven: Proven::measure(lab, candidates.clone())?,
            sinks: both_sinks(lab, &candidates)?,
            emergence: Emergence::read(lab)?,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let mut outcome = Outcome::new("Beyond the paper. What can stand in for the weight");
        outcome.data("super_weights", lab.found()?.json())?;
        measured.stand_ins.show(&mut outcome)?;
        if let Some(proven) = &measured.proven {
            proven.show(&mut outcome)?;
        }
        attention(&measured.sinks, &mut outcome)?;
        match &measured.emergence {
            Some(emergence) => emergence.show(&mut outcome)?,
            None => outcome.notes.push("Emergence: no emergence.csv beside this checkpoint, so how its super weight came to be is not shown.".into()),
        }
        Ok(outcome)
    }
}

/// Attention sinks before and after.
fn attention(both: &[Sinks; 2], outcome: &mut Outcome) -> Result<()> {
    let [before, after] = both;
    let caption = format!(
        "Eight short texts. Heads that pay token {} more than {} of their attention: {:.0} % as it is, {:.0} % with the super weight at zero. The paper says that sinks persist; later work disputes it.",
        before.options.token,
        before.options.epsilon,
        100.0 * before.share,
        100.0 * after.share
    );
    let panels = vec![sink_chart(both)];
    outcome.figure(
        "beyond-sinks",
        "Attention sinks before and after",
        panels,
        caption,
    );
    outcome.data("sinks", both)
}
