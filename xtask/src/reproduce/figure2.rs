//! Figure 2: what the super weight does, from weight to spike to words, on one page.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_detect::{Candidate, Sinks};

use super::{
    Experiment, Figure3, Figure4, Figure5, part,
    sinks::{both_sinks, sink_chart},
};
use crate::{
    lab::Lab,
    numbers::median,
    outcome::{Content, Outcome},
    page::{
        chart::{Panel, Step},
        table::grouped,
    },
};

/// Show on one page what the super weight does, from weight to spike to next token.
///
/// Example:
///   cargo xtask reproduce-figure2 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure2 {}

/// What Figure 2 measures, and the figures that it shows parts of.
pub(crate) struct Measured {
    candidates: Vec<Candidate>,
    /// Magnitudes of the weights of the first super weight's matrix.
    magnitudes: Vec<f32>,
    /// The tokens of the prompt.
    tokens: Vec<u32>,
    attention: [Sinks; 2],
    spike: Outcome,
    way: Outcome,
    words: Outcome,
}

impl Experiment for Figure2 {
    const NAME: &'static str = "figure2";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let candidates = lab.candidates()?;
        Ok(Measured {
            magnitudes: lab.magnitudes(candidates[0].coord().at()),
            attention: both_sinks(lab, &candidates)?,
            tokens: lab.prompt()?,
            candidates,
            spike: part::<Figure3>(lab)?,
            way: part::<Figure4>(lab)?,
            words: part::<Figure5>(lab)?,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            candidates,
            magnitudes,
            tokens,
            attention,
            spike,
            way,
            words,
        } = measured;
        let c = &candidates[0];
        let value = c.value.abs();
        let rank = 1 + magnitudes.iter().filter(|&&m| m > value).count();
        let typical = median(magnitudes.clone());
        let token = lab
            .model
            .tokenizer()
            .ok()
            .and_then(|t| Some(super::figure5::spelled(t, *tokens.get(c.token)? as usize)))
            .unwrap_or_default();
        let [before, after] = &attention;
        let steps = vec![
            Step {
                title: "One weight".into(),
                value: format!("{:.4}", c.value),
                note: format!(
                    "{}[{}, {}], one of {} in its linear maps, embedding and head; number {} of the {} of its matrix by magnitude, {:.0} times their median.",
                    c.tensor,
                    c.row,
                    c.col,
                    lab.parameters(),
                    grouped(rank),
                    grouped(magnitudes.len()),
                    value / typical.max(f32::MIN_POSITIVE),
                ),
            },
            Step {
                title: format!(
                    "meets a large input: channel {}, token {} ({token})",
                    c.col, c.token
                ),
                value: format!("{:.1}", c.down_in),
                note: format!(
                    "{:.0} times what is usual at the input of this down_proj.",
                    c.in_ratio
                ),
            },
            Step {
                title: "and makes a spike".into(),
                value: format!("{:.1}", c.down_out),
                note: format!(
                    "Output channel {}; {:.0} times what is usual at its output. Weight times input is {:.0} % of it.",
                    c.row,
                    c.out_ratio,
                    100.0 * c.share
                ),
            },
            Step {
                title: "that the residual stream carries through the layers".into(),
                value: number(&way),
                note: way.finding.clone(),
            },
            Step {
                title: format!("where heads attend to token {}", before.options.token),
                value: format!("{:.0} % of heads", 100.0 * before.share),
                note: format!(
                    "pay it more than {} of their attention on average (attention sinks); without the weight {:.0} %. Mean attention {:.2}, without {:.2}.",
                    before.options.epsilon,
                    100.0 * after.share,
                    before.importance,
                    after.importance,
                ),
            },
            Step {
                title: "and the next token changes".into(),
                value: number(&words),
                note: words.finding.clone(),
            },
        ];
        let mut outcome = Outcome::new("Figure 2. From one weight to the next word");
        outcome.finding = format!(
            "One weight of {} writes {:.1} into channel {} at token {}: {:.0} % of the spike there is this one product.",
            lab.parameters(),
            c.down_out,
            c.row,
            c.token,
            100.0 * c.share
        );
        outcome.figure(
            "figure2",
            "",
            vec![Panel::Flow { steps }],
            "From cause to effect. Sinks are measured on eight short texts, next tokens on LAMBADA prompts.",
        );
        let taken =
            |from: &Outcome, id: &str, index: usize| match from.block(id).map(|b| &b.content) {
                Some(Content::Figure(panels)) => panels.get(index).cloned(),
                _ => None,
            };
        let panels = [
            taken(&spike, "figure3", 1),
            taken(&way, "figure4", 1),
            Some(sink_chart(&attention)),
            taken(&words, "figure5", 0),
        ];
        outcome.figure(
            "figure2-parts",
            "The same in pictures",
            panels.into_iter().flatten().collect(),
            "The spike by layer, its way through the residual stream, the sinks and the next tokens, from the figures that follow.",
        );
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("sinks", attention)?;
        Ok(outcome)
    }
}

/// An outcome's one number.
fn number(outcome: &Outcome) -> String {
    let headline = outcome.headline.as_ref();
    headline.map_or_else(String::new, |h| h.number.clone())
}
