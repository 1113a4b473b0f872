//! The embedded checkpoint: a small Llama grown in the micro-world, with a super weight that it depends on.
//!
//! The library never prints: progress is reported through a callback.
#![deny(unsafe_code)]

pub mod card;
mod error;
pub mod init;
pub mod measure;
pub mod quiz;
pub mod recipe;
pub mod text;
pub mod tokenizer;
pub mod wide;
pub mod world;

use std::path::Path;
use std::time::Instant;

use tokenizers::Tokenizer;

use sw_train::checkpoint;
use sw_train::{AdamW, Params, Precision, Selection, Shape};

pub use error::{Error, Result};
pub use measure::Measurement;
pub use recipe::{Broadcast, Recipe, Seeding};

/// Where a training stands.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of the last batch, in nats per token.
    pub loss: f64,
    /// Tokens per second since this call began.
    pub tokens_per_second: f64,
    /// Seconds that remain at this pace.
    pub seconds_left: f64,
    /// The measurement, where this step has one.
    pub measured: Option<&'a Measurement>,
}

/// Whether to go on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Continue,
    /// Save the state and return [`Error::Stopped`].
    Stop,
}

/// Grows the checkpoint by `recipe` and writes it to `model`, its evaluation sets to `data`.
///
/// `model` receives `model.safetensors` (BF16), `config.json`, `tokenizer.json`, `tokenizer_config.json`, `README.md`
/// and `emergence.csv`: at every measurement what the training has come to. The state is kept in `state`; with a state
/// of the same recipe there, the training goes on from it. Equal recipes give equal weights for any number of threads.
///
/// # Errors
/// If a file cannot be read or written, `state` belongs to another recipe, a gradient is not finite, or `progress`
/// asked to stop.
pub fn train_nano(
    recipe: &Recipe,
    model: &Path,
    data: &Path,
    state: &Path,
    mut progress: impl FnMut(Progress<'_>) -> Next,
) -> Result<Vec<Measurement>> {
    let tokenizer = tokenizer::train(recipe.seed, recipe.tokenizer_documents, recipe.shape.vocab)?;
    let shape = Shape {
        vocab: tokenizer.get_vocab_size(true),
        ..recipe.shape.clone()
    };
    let breaks = one_token(&tokenizer, tokenizer::BREAK)?;
    let world = world::Dialect::InWorld;
    let len = shape.max_positions;
    let held_out = text::held_out(&tokenizer, world, recipe.seed, breaks, 16, len)?;

    tokenizer::save(&tokenizer, shape.max_positions, model)?;
    let passage = |dice: &mut _, world, n| text::passage(&tokenizer, dice, world, len - n);
    let lore = world::Lore::home();
    world::write_evaluation(data, lore, recipe.seed, recipe.items, passage)?;

    let selection = Selection::all(&shape);
    let mut params = init::initial(recipe, &shape, breaks, &held_out)?;
    let mut optimizer = AdamW::new(&shape, &selection, recipe.adamw);
    let csv = state.join("emergence.csv");
    let begun = resume(recipe, state, &mut params, &mut optimizer)?;
    let mut lines = if begun == 0 {
        vec![Measurement::header(shape.layers)]
    } else {
        lines_until(&csv, begun)?
    };
    let mut measured = Vec::new();
    let per_step = recipe.sequences * shape.max_positions;
    let clock = Instant::now();

    let publish = |params: &Params, lines: &[String]| -> Result<()> {
        checkpoint::save(params, Precision::Bf16, model)?;
        let text = lines.join("\n") + "\n";
        checkpoint::write(&model.join("emergence.csv"), text.as_bytes())?;
        let card = card::card(recipe, &shape, params.count(), lines);
        Ok(checkpoint::write(
            &model.join("README.md"),
            card.as_bytes(),
        )?)
    };
    let record = |params: &Params,
                  optimizer: &AdamW,
                  step: usize,
                  lines: &mut Vec<String>|
     -> Result<Measurement> {
        let m = measure::measure(params, &held_out, breaks, step, step * per_step)?;
        lines.push(m.line());
        checkpoint::write(&csv, (lines.join("\n") + "\n").as_bytes())?;
        checkpoint::save_state(params, optimizer, step, &state.join("state.safetensors"))?;
        publish(params, lines)?;
        Ok(m)
    };
    if begun == 0 {
        measured.push(record(&params, &optimizer, 0, &mut lines)?);
    } else {
        publish(&params, &lines)?;
    }
    for step in begun..recipe.schedule.steps {
        let batch = text::batch(
            &tokenizer,
            world,
            recipe.seed,
            breaks,
            step as u32,
            recipe.sequences,
            shape.max_positions,
        )?;
        let (loss, gradient) = sw_train::gradient(&params, &batch, |_| 1.0, &selection)?;
        let seeding = recipe.seeding.as_ref();
        let seeded = seeding.and_then(|s| Some((s, s.broadcast.as_ref()?)));
        let before = seeded.map(|(s, b)| init::slowed(&params, s, b));
        sw_train::step(
            &mut params,
            &mut optimizer,
            gradient,
            recipe.clip,
            recipe.schedule.rate(step),
            step,
        )?;
        if let (Some((s, b)), Some(before)) = (seeded, before) {
            init::slow(&mut params, &before, s, b);
        }
        let done = step + 1;
        let due = done % recipe.measure_every == 0 || done == recipe.schedule.steps;
        if due {
            measured.push(record(&params, &optimizer, done, &mut lines)?);
        }
        let pace = clock.elapsed().as_secs_f64() / (done - begun) as f64;
        let next = progress(Progress {
            step: done,
            steps: recipe.schedule.steps,
            loss,
            tokens_per_second: per_step as f64 / pace,
            seconds_left: pace * (recipe.schedule.steps - done) as f64,
            measured: if due { measured.last() } else { None },
        });
        if next == Next::Stop && done < recipe.schedule.steps {
            if !due {
                checkpoint::save_state(
                    &params,
                    &optimizer,
                    done,
                    &state.join("state.safetensors"),
                )?;
            }
            return Err(Error::Stopped(done));
        }
    }
    Ok(measured)
}

fn one_token(tokenizer: &Tokenizer, text: &str) -> Result<u32> {
    match tokenizer::encode(tokenizer, text)?.as_slice() {
        [token] => Ok(*token),
        tokens => Err(Error::Tokenizer(format!(
            "{text:?} is {} tokens, expected one",
            tokens.len()
        ))),
    }
}

/// Reads a state of the same recipe, if there is one; the steps done.
fn resume(
    recipe: &Recipe,
    state: &Path,
    params: &mut Params,
    optimizer: &mut AdamW,
) -> Result<usize> {
    std::fs::create_dir_all(state).map_err(Error::file(state))?;
    let (path, file) = (state.join("recipe.json"), state.join("state.safetensors"));
    let text = serde_json::to_string_pretty(recipe).unwrap_or_default() + "\n";
    if !file.exists() {
        checkpoint::write(&path, text.as_bytes())?;
        return Ok(0);
    }
    if std::fs::read_to_string(&path).map_err(Error::file(&path))? != text {
        let what = "belongs to another recipe; remove the folder or name another";
        return Err(Error::content(&path, what));
    }
    Ok(checkpoint::load_state(params, optimizer, &file)?)
}

/// The header and the measurements up to this step: what an interruption left behind the saved state is measured again.
fn lines_until(path: &Path, step: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    let kept = |line: &&str| {
        let number = line.split(',').next().map(str::parse::<usize>);
        !matches!(number, Some(Ok(at)) if at > step)
    };
    Ok(text.lines().filter(kept).map(String::from).collect())
}
