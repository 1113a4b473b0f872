//! Figure 1: the same prompt continued with and without the super weight.

use anyhow::Result;
use clap::Args;
use ndarray::Axis as Dim;
use serde::Serialize;
use sw_eval::Runtime;
use sw_intervene::{Intervention, Largest};

use super::{
    Experiment,
    figure5::{lambada, spelled},
};
use crate::{lab::Lab, numbers::argmax, outcome::Outcome, page::table::Table};

/// Continue prompts with and without the super weight: greedy decoding with a cache of keys and values.
///
/// Examples:
///   cargo xtask reproduce-figure1 --model MODEL --out out
///   cargo xtask reproduce-figure1 --model MODEL --text "Summer is hot. Winter is"
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure1 {
    /// A prompt (repeatable) [default: the paper's, or beginnings of LAMBADA texts for the embedded checkpoint]
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// Tokens to add
    #[arg(long, value_name = "N", default_value_t = 24)]
    tokens: usize,
}

/// The paper's case study, and what it reports about it for Llama-7B.
const PROMPT: &str = "Summer is hot. Winter is";
/// Prompts taken from LAMBADA.
const PROMPTS: usize = 3;
/// So many other weights are zeroed for comparison.
const OTHERS: usize = 100;

/// One continuation.
#[derive(Serialize)]
pub(crate) struct Continued {
    #[serde(skip)]
    index: usize,
    prompt: String,
    setting: &'static str,
    text: String,
    /// The most probable next token and its probability.
    next: String,
    probability: f64,
    /// Share of pairs of successive tokens that occur for the first time.
    distinct_pairs: f64,
}

impl Experiment for Figure1 {
    const NAME: &'static str = "figure1";

    type Measured = Vec<Continued>;

    fn measure(&self, lab: &Lab) -> Result<Vec<Continued>> {
        let prompts = match (&self.text[..], lab.inputs.is_embedded()) {
            ([], true) => lambada(lab, PROMPTS)?,
            ([], false) => vec![PROMPT.to_owned()],
            (given, _) => given.to_vec(),
        };
        let keep = lab.found()?.coords.clone();
        let select = Largest::Global { count: OTHERS };
        let settings = [
            ("as it is", vec![]),
            ("super weight at zero", vec![lab.prune()?]),
            (
                "100 largest others at zero",
                vec![Intervention::PruneLargest { select, keep }],
            ),
        ];
        let mut all = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            for (setting, interventions) in &settings {
                let runtime = lab.runtime(interventions)?;
                all.push(self.go_on(lab, &runtime, (index, prompt), setting)?);
            }
        }
        Ok(all)
    }

    fn show(&self, lab: &Lab, all: Vec<Continued>) -> Result<Outcome> {
        let mut outcome = Outcome::new("Figure 1. The same prompt, with and without one weight");
        let [before, after] = [&all[0], &all[1]];
        outcome.finding = format!(
            "\u{201c}{}\u{201d} goes on as it is with {:?} (probability {:.1} %), with {} at zero with {:?} ({:.1} %).",
            ending(&before.prompt),
            before.next,
            100.0 * before.probability,
            lab.found()?.noun(),
            after.next,
            100.0 * after.probability,
        );
        let mut table = Table::new([
            "Prompt",
            "Setting",
            "Continuation",
            "Next token",
            "its probability (%)",
            "distinct pairs (%)",
        ]);
        let mut last = None;
        for c in &all {
            // A prompt is named once, at its first setting.
            let same = last.replace((&c.prompt, c.index)) == Some((&c.prompt, c.index));
            table.push([
                if same {
                    String::new()
                } else {
                    ending(&c.prompt)
                },
                c.setting.to_owned(),
                c.text.clone(),
                c.next.clone(),
                format!("{:.1}", 100.0 * c.probability),
                format!("{:.0}", 100.0 * c.distinct_pairs),
            ]);
        }
        outcome.table(
            "figure1",
            "",
            table,
            format!(
                "Greedy decoding of at most {} tokens. Distinct pairs: the share of pairs of successive tokens that have not occurred before in the continuation; a model that repeats itself has few.",
                self.tokens
            ),
        );
        if lab.known.as_deref() == Some("huggyllama/llama-7b")
            && all.iter().any(|c| c.prompt == PROMPT)
        {
            outcome.notes.push("The paper reports for this prompt and model: \"cold\" with 81.4 % as it is, \"the\" with 9.0 % without the super weight.".into());
        }
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("continuations", &all)?;
        Ok(outcome)
    }
}

impl Figure1 {
    fn go_on(
        &self,
        lab: &Lab,
        runtime: &Runtime,
        (index, prompt): (usize, &str),
        setting: &'static str,
    ) -> Result<Continued> {
        let tokens = lab.inputs.encode(&lab.model, prompt)?;
        let model = runtime.model();
        let new = model.generate(&tokens, self.tokens, &mut ())?;
        let rows = runtime.rows(&tokens)?;
        let logits = model.logits(rows.slice_axis(Dim(0), (rows.nrows() - 1..).into()))?;
        let logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        let best = argmax(&logits);
        let total: f64 = logits.iter().map(|l| (l - logits[best]).exp()).sum();
        let tokenizer = model.tokenizer()?;
        let pairs: Vec<_> = new.windows(2).collect();
        let distinct = pairs
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        Ok(Continued {
            index,
            prompt: prompt.to_owned(),
            setting,
            text: tokenizer.decode(&new)?.trim().to_owned(),
            next: spelled(tokenizer, best),
            probability: 1.0 / total,
            distinct_pairs: if pairs.is_empty() {
                1.0
            } else {
                distinct as f64 / pairs.len() as f64
            },
        })
    }
}

/// The end of a prompt.
fn ending(prompt: &str) -> String {
    const LETTERS: usize = 90;
    let letters = prompt.chars().count();
    if letters <= LETTERS {
        return prompt.to_owned();
    }
    let tail: String = prompt.chars().skip(letters - LETTERS).collect();
    let tail = tail.split_once(' ').map_or(tail.as_str(), |t| t.1);
    format!("\u{2026} {tail}")
}
