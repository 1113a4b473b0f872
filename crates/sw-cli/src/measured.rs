//! What `sw quantize` measures on texts, and how it tells it.

use std::{collections::BTreeMap, process::ExitCode};

use sw_intervene::{Calibrated, Check, HeldMore};

use crate::program::tell;

/// What was chosen and measured on texts.
#[derive(Default)]
pub(crate) struct Measured {
    /// The clips.
    pub(crate) calibration: Option<Calibrated>,
    /// What is held besides.
    pub(crate) held: Option<HeldMore>,
    /// What all of it does to the model.
    pub(crate) check: Option<Check>,
}

/// What a search for clips chose, in a sentence.
pub(crate) fn chosen(c: &Calibrated) -> String {
    let (without, with) = (c.kl_unclipped, c.kl_proposed);
    if c.kinds.is_empty() {
        return "Clip: none; no searched threshold brought the model's predictions nearer to the original's.".into();
    }
    let kinds: Vec<_> = c.kinds.iter().map(ToString::to_string).collect();
    let kinds = kinds.join(", ");
    if c.kept {
        format!(
            "Clip: searched in {kinds}; on text that the choice did not see, KL falls from {without:.4} to {with:.4} nats a token."
        )
    } else {
        format!(
            "Clip: none; thresholds searched in {kinds} did not win on text that the choice did not see (KL {without:.4} without them, {with:.4} with them)."
        )
    }
}

/// What a quantization does to the model.
pub(crate) fn effect(c: &Check) -> String {
    let mut text = format!(
        "On {} tokens: KL from the original {:.4} nats a token; perplexity {:.3} before, {:.3} after.\nMatrices whose outputs change most:",
        c.tokens, c.kl, c.perplexity_before, c.perplexity_after
    );
    for (name, share) in &c.worst {
        text.push_str(&format!(
            "\n  {name}  {:.2} % of the output's energy",
            share * 100.0
        ));
    }
    text
}

/// Exit code 3, with a sentence, where the quantized model is worth little.
pub(crate) fn verdict(measured: Option<&Check>) -> ExitCode {
    // A model that predicts NaN is ruined, too.
    let ruined =
        |c: &&Check| c.perplexity_after.is_nan() || c.perplexity_after > 2.0 * c.perplexity_before;
    match measured.filter(ruined) {
        Some(c) => {
            tell(format!(
                "warning: quantization more than doubles the perplexity, from {:.3} to {:.3}; take more bits, smaller groups or --calib",
                c.perplexity_before, c.perplexity_after
            ));
            ExitCode::from(3)
        }
        None => ExitCode::SUCCESS,
    }
}

/// What a budget for held weights bought.
pub(crate) fn bought(held: &HeldMore) -> String {
    let (before, after) = (held.kl_before, held.kl_after);
    if held.added.is_empty() {
        return format!(
            "Held besides: none; the {} weights whose rounding costs most did not pay on text that the choice did not see (KL {before:.4} \
             without them, {after:.4} with them).",
            held.affordable
        );
    }
    let mut costs: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for one in &held.added {
        let (n, cost) = costs.entry(one.coord.at().to_string()).or_default();
        *n += 1;
        *cost += one.cost;
    }
    let mut costs: Vec<_> = costs.into_iter().collect();
    costs.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut text = format!(
        "Held besides: {} weights, {:.4} bits per quantized weight; on text that the choice did not see, KL falls from {before:.4} to \
         {after:.4} nats a token.\nMost bought in:",
        held.added.len(),
        held.bits_per_weight
    );
    for (name, (n, cost)) in costs.iter().take(3) {
        text.push_str(&format!(
            "\n  {name}  {n} weights, {:.3} % of the output's energy",
            cost * 100.0
        ));
    }
    text
}
