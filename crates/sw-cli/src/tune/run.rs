//! A training from its state to what it writes.

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sw_model::{Model, TensorAt};
use sw_tensor::{files::NewFolder, machine::PrivatePeak};
use sw_train::{
    AdamWOptions, Schedule,
    mapped::Text,
    tiles::TileSelection,
    tune::{
        AdapterOptions, Example, TileValues, Trained, Trainer, choose_tiles, examples_of_step,
        merged, write_adapters, write_checkpoint, write_prompt,
    },
};

use super::{
    MethodName, Training, Tune, WriteName,
    data::Data,
    state::{Measured, SELECTION, State},
};
use crate::program::{say, stop_on_interrupt, stopped, tell, write_whole};

/// Writes a folder and puts it in its place.
pub(super) fn publish(folder: NewFolder, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    write(folder.path())?;
    let model = folder.path().join("model.safetensors");
    if model.is_file() {
        folder.open_to_others(&model)?;
    }
    Ok(folder.publish()?)
}

pub(super) fn run(tune: &Tune, method: MethodName, model: &Model, data: Data) -> Result<()> {
    let training = &tune.training;
    let Data {
        mut train,
        mut held_out,
    } = data;
    held_out.truncate(training.measure_on);
    if let Some(file) = &tune.dump {
        let step = |step| {
            batch(&train, training, step)
                .iter()
                .map(|e| e.tokens.clone())
                .collect()
        };
        let steps: Vec<Vec<Vec<u32>>> = (0..training.steps).map(step).collect();
        let held_out: Vec<_> = held_out.iter().map(|e| &e.tokens).collect();
        let dump = json!({"steps": steps, "held_out": held_out});
        return write_whole(file, &dump.to_string());
    }
    // Begun before the first step: what may not be written is refused, and another run to the same place.
    let folder = NewFolder::begin(&tune.out, &[model.source()], tune.force)?;
    let state = State::open(tune, method, model, &train, &held_out)?;
    let adamw = AdamWOptions {
        beta1: training.beta1,
        beta2: training.beta2,
        weight_decay: training.weight_decay,
        ..AdamWOptions::default()
    };
    let trained = what(tune, method, model, &train, adamw, &state)?;
    let mut trainer = Trainer::new(model, &trained, adamw, training.clip)?;
    trainer.freeze(&tune.frozen(model)?)?;
    let mut log = state.resume(&mut trainer)?;
    if let Trained::Tiles(selection) = &trained {
        tell(picks(selection));
    }
    if log.is_empty() {
        // Of the model as it is: a soft prompt that is not trained yet does harm.
        let held_out = loss(model, &held_out)?;
        log.push(Measured {
            step: 0,
            loss: f64::NAN,
            held_out,
        });
    }
    let virtual_tokens = trainer.model().virtual_tokens();
    for example in &mut train {
        *example = example.behind(&virtual_tokens);
    }
    let bytes = trainer.bytes();
    let mib = |n: usize| n as f64 / f64::from(1 << 20);
    state.begin(&trained)?;
    let (count, all) = (trainer.count(), model.parameters());
    let share = 100.0 * count as f64 / all as f64;
    let trained_now = match method {
        MethodName::Prompt => {
            format!("a soft prompt of {count} numbers is trained, none of the {all} weights")
        }
        _ => format!("{count} of {all} weights are trained ({share:.3} %)"),
    };
    tell(format!(
        "{trained_now}; weights in f32 {:.1} MiB, gradients {:.1} MiB, moments {:.1} MiB",
        mib(bytes.weights),
        mib(bytes.gradients),
        mib(bytes.moments)
    ));
    match (trainer.steps(), log.first()) {
        (0, Some(before)) => tell(format!("before: held-out loss {:.4}", before.held_out)),
        (steps, _) => tell(format!("goes on after step {steps}")),
    }
    stop_on_interrupt("batch")?;
    let schedule = Schedule {
        peak: training.rate,
        warmup: training.rate_warmup,
        descent: 0,
        steps: training.steps,
        floor: 0.0,
    };
    let bar = ProgressBar::new(training.steps as u64);
    let style = "{bar:30} step {pos}/{len}  {msg}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
    bar.set_position(trainer.steps() as u64);
    bar.reset_eta();
    let peak = PrivatePeak::watch();
    let mut least = f64::INFINITY;
    let (clock, begun, mut tokens) = (Instant::now(), trainer.steps(), 0);
    let (mut sum, mut count) = (0.0, 0);
    for step in begun..training.steps {
        let texts = batch(&train, training, step);
        let texts: Vec<Text<'_>> = texts.into_iter().map(Text::from).collect();
        let at_a_time = training.at_a_time.unwrap_or(training.batch);
        let of_step = Instant::now();
        let done = trainer.step(&texts, at_a_time, schedule.rate(step))?;
        least = least.min(of_step.elapsed().as_secs_f64());
        tokens += texts.iter().map(|text| text.tokens.len()).sum::<usize>();
        (sum, count) = (sum + done.loss, count + 1);
        let pace = tokens as f64 / clock.elapsed().as_secs_f64();
        bar.set_message(format!("loss {:.3}  {pace:.0} tokens/s", done.loss));
        bar.set_position(step as u64 + 1);
        let last = step + 1 == training.steps;
        if (step + 1) % training.measure_every == 0 || last {
            let measured = Measured {
                step: step + 1,
                loss: sum / f64::from(count),
                held_out: loss(trainer.model(), &held_out)?,
            };
            bar.suspend(|| {
                tell(format!(
                    "step {}: loss {:.4}, held-out loss {:.4}, {pace:.0} tokens/s",
                    measured.step, measured.loss, measured.held_out
                ));
            });
            log.push(measured);
            (sum, count) = (0.0, 0);
        }
        let stop = stopped() && !last;
        if (step + 1) % training.save_every == 0 || last || stop {
            state.save(&trainer, &log).with_context(|| {
                format!(
                    "the state after step {} could not be saved; the same command goes on from the one before",
                    step + 1
                )
            })?;
        }
        if stop {
            bar.finish_and_clear();
            bail!(
                "stopped after step {}; the same command goes on from there ({})",
                step + 1,
                state.dir.display()
            );
        }
    }
    bar.finish_and_clear();
    let seconds = clock.elapsed().as_secs_f64();
    let bytes = trainer.bytes();
    let peak = peak.and_then(PrivatePeak::bytes);
    if begun < training.steps {
        let held = peak.map_or(String::new(), |peak| {
            format!("; at most {:.0} MiB of private memory", mib(peak as usize))
        });
        tell(format!(
            "the fastest step took {least:.2} s; its tape held {:.1} MiB{held}",
            mib(bytes.tape)
        ));
    }
    let record = json!({
        "recipe": state.recipe,
        "trained": trainer.count(),
        "parameters": model.parameters(),
        "bytes": bytes,
        "log": log,
        "steps_of_this_run": training.steps - begun,
        "seconds_of_this_run": seconds,
        "least_seconds_of_a_step": least,
        "peak_private_bytes": peak,
    });
    publish(folder, |folder| {
        write_tuned(tune, model, &trainer, &trained, folder)?;
        let text = format!("{record:#}\n");
        let path = folder.join("tune.json");
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    })
    .with_context(|| {
        format!(
            "{} could not be written; all steps are kept in {}, and the same command writes it",
            tune.out.display(),
            state.dir.display()
        )
    })?;
    state.remove();
    if tune.json {
        return say(format!("{record:#}"));
    }
    let [first, last] = [log.first(), log.last()].map(|m| m.map_or(f64::NAN, |m| m.held_out));
    say(format!(
        "Held-out loss {first:.4} before, {last:.4} after {} steps; written: {}",
        training.steps,
        tune.out.display()
    ))
}

/// The examples of a step.
fn batch<'e>(train: &'e [Example], training: &Training, step: usize) -> Vec<&'e Example> {
    let places = examples_of_step(train.len(), training.batch, training.seed, step);
    places.into_iter().map(|i| &train[i]).collect()
}

/// Mean negative log-likelihood of the predicted tokens, in nats; not a number where there is none.
fn loss(model: &Model, examples: &[Example]) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for part in examples.chunks(8) {
        let texts: Vec<&[u32]> = part.iter().map(|e| &e.tokens[..]).collect();
        for (example, scores) in part.iter().zip(model.score_texts(&texts, &mut ())?) {
            let predicted = &scores[example.given.max(1) - 1..];
            sum -= predicted.iter().map(|s| s.log_prob).sum::<f64>();
            count += predicted.len();
        }
    }
    Ok(sum / f64::from(u32::try_from(count)?))
}

/// What is trained; of tiles, the choice of the state, where it has one.
fn what(
    tune: &Tune,
    method: MethodName,
    model: &Model,
    train: &[Example],
    adamw: AdamWOptions,
    state: &State,
) -> Result<Trained> {
    Ok(match method {
        MethodName::Full => Trained::Full,
        MethodName::Linear => Trained::Linear,
        MethodName::Lora | MethodName::Dora => Trained::Adapters {
            options: AdapterOptions {
                rank: tune.rank,
                alpha: tune.alpha.unwrap_or(tune.rank as f32),
                targets: tune.targets()?,
                dora: method == MethodName::Dora,
            },
            seed: tune.training.seed,
        },
        MethodName::Prompt => Trained::Prompt {
            options: tune.prompt.options(),
            seed: tune.training.seed,
        },
        MethodName::Smt => {
            let path = state.dir.join(SELECTION);
            if path.is_file() {
                return Ok(Trained::Tiles(TileSelection::read(&path)?));
            }
            let selection = match tune.tiles.given()? {
                Some(selection) => selection,
                None => {
                    let options = tune.tiles.options(model, tune.training.seed)?;
                    let mut texts = |step| {
                        let texts = batch(train, &tune.training, step);
                        Ok(texts.into_iter().cloned().collect())
                    };
                    let at_a_time = tune.training.at_a_time.unwrap_or(tune.training.batch);
                    let clip = tune.training.clip;
                    let chosen = choose_tiles(model, &options, adamw, clip, at_a_time, &mut texts)?;
                    if let Some(note) = chosen.note {
                        tell(format!("note: {note}"));
                    }
                    chosen.selection
                }
            };
            selection.blocks(model).context("--selection")?;
            Trained::Tiles(selection)
        }
    })
}

/// How many tiles of which map.
fn picks(selection: &TileSelection) -> String {
    let mut by_map: BTreeMap<String, usize> = BTreeMap::new();
    for tile in &selection.tiles {
        *by_map.entry(tile.at.linear.to_string()).or_default() += 1;
    }
    let by_map: Vec<_> = by_map
        .iter()
        .map(|(map, n)| format!("{n} in {map}"))
        .collect();
    let (n, side) = (selection.tiles.len(), selection.side);
    format!("{n} tiles of {side} x {side}: {}", by_map.join(", "))
}

/// Writes what the training made.
fn write_tuned(
    tune: &Tune,
    model: &Model,
    trainer: &Trainer,
    trained: &Trained,
    folder: &Path,
) -> Result<()> {
    let checkpoint = tune.write == WriteName::Checkpoint;
    match trained {
        Trained::Adapters { options, .. } if !checkpoint => {
            let base = &tune.model.model;
            write_adapters(model, trainer.adapters(), options, base, folder)?;
        }
        Trained::Prompt { options, .. } => {
            write_prompt(trainer.model(), options, &tune.model.model, folder)?;
        }
        Trained::Tiles(selection) if !checkpoint => {
            TileValues::of(trainer.model(), selection)?.write(model, folder)?;
        }
        _ => {
            let tuned = match trained {
                Trained::Adapters { .. } => merged(model, trainer.adapters())?,
                _ => trainer.model().clone(),
            };
            let changed: Vec<TensorAt> = match trained {
                Trained::Adapters { .. } => trainer
                    .adapters()
                    .keys()
                    .map(|&at| TensorAt::Weight(at))
                    .collect(),
                Trained::Tiles(selection) => selection
                    .blocks(model)?
                    .into_keys()
                    .map(TensorAt::Weight)
                    .collect(),
                Trained::Linear => model.linears().map(TensorAt::Weight).collect(),
                Trained::Full => model.tensors(),
                Trained::Prompt { .. } => Vec::new(),
            };
            write_checkpoint(model, &tuned, &changed, folder)?;
        }
    }
    Ok(())
}
