//! From a model, tasks and data to results: the three steps, prepare, score, measure, in order.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use sw_model::Model;
use sw_tensor::machine::PrivatePeak;

use crate::{
    data::DataDir,
    error::{Error, Result},
    journal::{Journal, Key},
    model::{LanguageModel, Score, Span},
    results::EvalResults,
    run::{Environment, Run, config_hash},
    runtime::Runtime,
    source::TaskRows,
    workload::{Options, Workload},
};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Requests answered.
    pub done: usize,
    /// Requests in all; equal ones count once.
    pub total: usize,
    /// Tokens of the answered requests.
    pub tokens_done: usize,
    /// Tokens in all.
    pub tokens: usize,
}

/// Told how far a run is; `Break` stops it, in a state that can be resumed where there is a journal.
pub type Progress<'a> = dyn FnMut(Status) -> ControlFlow<()> + 'a;

/// Evaluates a model on tasks.
///
/// # Errors
/// One line: an unknown task, data that is missing or broken, an intervention the model cannot take, a model that
/// cannot be run; [`Error::Interrupted`] when `progress` says to stop.
pub fn evaluate(
    model: &Model,
    tasks: &[&str],
    data: &DataDir,
    options: &Options,
    progress: &mut Progress<'_>,
) -> Result<EvalResults> {
    let runtime = Runtime::new(model, &options.interventions)?;
    let rows = TaskRows::read(tasks, data, options)?;
    let run = evaluate_with(&runtime, rows, options, None, progress)?;
    Ok(EvalResults::new(run))
}

/// Opens the journal of a run; [`Journal::open`] with a path, say.
pub type OpenJournal<'a> = dyn Fn(&Key) -> Result<(Journal, HashMap<usize, Score>)> + 'a;

/// Evaluates any [`LanguageModel`] on rows that were read for these `options`, with a journal to resume from where one is opened
/// by `journal`.
///
/// The run's journal is opened only when everything that can fail early has passed.
///
/// # Errors
/// As [`evaluate`]; a journal of another run.
pub fn evaluate_with(
    lm: &dyn LanguageModel,
    rows: TaskRows,
    options: &Options,
    journal: Option<&OpenJournal<'_>>,
    progress: &mut Progress<'_>,
) -> Result<Run> {
    let peak = PrivatePeak::watch();
    let workload = Workload::new(lm, rows, options)?;
    watched(lm, workload, options, journal, progress, peak)
}

/// Evaluates what a [`Workload`] asks: the same one serves all interventions on one model, so that data are read and
/// encoded once. `options` are those that it was made with, but for the interventions.
///
/// # Errors
/// As [`evaluate_with`].
pub fn evaluate_workload(
    lm: &dyn LanguageModel,
    workload: Workload,
    options: &Options,
    journal: Option<&OpenJournal<'_>>,
    progress: &mut Progress<'_>,
) -> Result<Run> {
    let peak = PrivatePeak::watch();
    watched(lm, workload, options, journal, progress, peak)
}

fn watched(
    lm: &dyn LanguageModel,
    workload: Workload,
    options: &Options,
    journal: Option<&OpenJournal<'_>>,
    progress: &mut Progress<'_>,
    peak: Option<PrivatePeak>,
) -> Result<Run> {
    let (clock, now) = (Instant::now(), SystemTime::now());
    let model = lm.info();
    let config = config_hash(&workload, options, &model, lm.max_length());
    let key = Key {
        config,
        shard: options.shard,
        spans: workload.spans.len(),
    };
    let (mut journal, known) = match journal {
        Some(open) => {
            let (journal, known) = open(&key)?;
            (Some(journal), known)
        }
        None => (None, HashMap::new()),
    };
    let resumed = known.len();
    let scores = answer(lm, &workload.spans, known, journal.as_mut(), progress)?;
    let mut run = Run::new(workload, &scores, options.clone(), model, lm.max_length());
    run.environment = Environment {
        started: now
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64()),
        seconds: clock.elapsed().as_secs_f64(),
        threads: rayon::current_num_threads(),
        resumed,
        peak_private_bytes: peak.and_then(PrivatePeak::bytes),
    };
    Ok(run)
}

/// One score for each span, in order.
fn answer(
    lm: &dyn LanguageModel,
    spans: &[Span],
    known: HashMap<usize, Score>,
    mut journal: Option<&mut Journal>,
    progress: &mut Progress<'_>,
) -> Result<Vec<Score>> {
    let mut scores: Vec<Option<Score>> = (0..spans.len()).map(|i| known.get(&i).copied()).collect();
    let open: Vec<usize> = (0..spans.len()).filter(|&i| scores[i].is_none()).collect();
    let asked: Vec<Span> = open.iter().map(|&i| spans[i].clone()).collect();
    let tokens = spans.iter().map(|s| s.tokens.len()).sum::<usize>();
    let tokens_open = asked.iter().map(|s| s.tokens.len()).sum::<usize>();
    let mut status = Status {
        done: known.len(),
        total: spans.len(),
        tokens_done: tokens - tokens_open,
        tokens,
    };
    let mut failed = None;
    let mut stopped = progress(status).is_break();
    if !stopped && !asked.is_empty() {
        let mut sink = |i: usize, score: Score| {
            let span = open[i];
            if failed.is_none()
                && let Some(journal) = journal.as_mut()
            {
                failed = journal.append(span, score).err();
            }
            if failed.is_none() {
                scores[span] = Some(score);
                status.done += 1;
                status.tokens_done += spans[span].tokens.len();
                stopped |= progress(status).is_break();
            }
            if stopped || failed.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        lm.score(&asked, &mut sink)?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if stopped && status.done < status.total {
        return Err(Error::Interrupted {
            done: status.done,
            total: status.total,
        });
    }
    let missing = || Error::Runtime("the model left a request unanswered".into());
    scores
        .into_iter()
        .map(|score| score.ok_or_else(missing))
        .collect()
}
