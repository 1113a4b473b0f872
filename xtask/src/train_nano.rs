//! Grows the checkpoint that this repository carries.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nano::{Next, Progress, Recipe, train_nano};
use sw_cli::program::{self, say, set_threads};

use crate::inputs::embedded;

/// Grow the repository's own checkpoint from its seed: tokenizer, text, training, measurements, card, evaluation sets.
///
/// The state is saved at every measurement: after an interruption the same command goes on where it was. Equal recipes
/// give equal weights, bit for bit, for any number of threads on CPUs with the same vector instructions.
///
/// Examples:
///   cargo xtask train-nano --out out/nano
///   cargo xtask train-nano --out out/try --recipe nano/attempts/unaided.json --steps 100
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct TrainNano {
    /// Where the folders `model`, `data` and `state` go
    #[arg(long, value_name = "DIR", default_value = "out/nano")]
    out: PathBuf,
    /// The recipe [default: the one of the repository's checkpoint]
    #[arg(long, value_name = "FILE", default_value_os_t = PathBuf::from(embedded("recipe.json")), hide_default_value = true)]
    recipe: PathBuf,
    /// Stop, with the state saved, once this many steps of the recipe are done
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

impl TrainNano {
    pub(crate) fn run(&self) -> Result<()> {
        set_threads(self.threads)?;
        let named = || format!("--recipe {}", self.recipe.display());
        let text = std::fs::read_to_string(&self.recipe).with_context(named)?;
        let recipe: Recipe = serde_json::from_str(&text).with_context(named)?;
        let bar = ProgressBar::new(recipe.schedule.steps as u64);
        let style = "{bar:30} {pos}/{len} steps  {msg}";
        bar.set_style(ProgressStyle::with_template(style)?);
        let folder = |name| self.out.join(name);
        let (model, data) = (folder("model"), folder("data"));
        let last = self.steps.unwrap_or(usize::MAX);
        let result = train_nano(&recipe, &model, &data, &folder("state"), |p| {
            show(&bar, &p);
            if p.step < last {
                Next::Continue
            } else {
                Next::Stop
            }
        });
        bar.finish_and_clear();
        match result {
            Err(nano::Error::Stopped(step)) => {
                say(format!("stopped at step {step}; the same command goes on"))
            }
            result => {
                result?;
                say(format!(
                    "written: {} and {}",
                    model.display(),
                    data.display()
                ))
            }
        }
    }
}

fn show(bar: &ProgressBar, p: &Progress<'_>) {
    bar.set_position(p.step as u64);
    let minutes = (p.seconds_left / 60.0).ceil();
    bar.set_message(format!(
        "loss {:.3}  {:.0} tokens/s  {minutes:.0} min left",
        p.loss, p.tokens_per_second
    ));
    if let Some(m) = p.measured {
        let line = format!(
            "step {}: loss {:.3}, without the weight {:.3}, without 100 others {:.3}; {:.0} tokens/s, {minutes:.0} min left",
            m.step, m.nll, m.nll_pruned, m.nll_others, p.tokens_per_second
        );
        // A bar that nobody sees swallows what is printed above it.
        if bar.is_hidden() {
            program::tell(line);
        } else {
            bar.println(line);
        }
    }
}
