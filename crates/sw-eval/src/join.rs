//! Joining shards. Their files may come from anywhere: what they say is checked, and every metric is computed again.

use std::{path::Path, sync::Arc};

use crate::{
    data::Doc,
    error::{Error, Result},
    run::{Run, Sample, TaskRun},
    shard::Shard,
    task::{Item, Kind, Request, Task},
    workload::WINDOW,
};

impl Run {
    /// The whole run from all its shards, in any order.
    ///
    /// # Errors
    /// Shards of different runs; a shard that is missing or given twice; shards whose tasks differ; documents that are
    /// missing, given twice, or of another shard; answers, targets or metrics that are not those of the document.
    pub fn merge(shards: Vec<Run>) -> Result<Run> {
        let refuse = |problem: String| Err(Error::Options(format!("merge: {problem}")));
        let mut shards = shards;
        shards.sort_by_key(|run| run.shard.index());
        let Some(first) = shards.first() else {
            return refuse("no shards are given".into());
        };
        let count = first.shard.count();
        first.options.check()?;
        let mut merged = Run {
            shard: Shard::default(),
            ..first.clone()
        };
        for run in &shards {
            if run.config != merged.config || run.shard.count() != count {
                return refuse(format!(
                    "shard {} has configuration {}, shard {} has {}: they are of different runs",
                    first.shard,
                    crate::journal::short(&first.config),
                    run.shard,
                    crate::journal::short(&run.config)
                ));
            }
        }
        let given: Vec<usize> = shards.iter().map(|run| run.shard.index()).collect();
        for i in 1..=count {
            match given.iter().filter(|&&g| g == i).count() {
                1 => {}
                0 => return refuse(format!("shard {i}/{count} is missing")),
                _ => return refuse(format!("shard {i}/{count} is given twice")),
            }
        }
        for run in &shards {
            if let Err(problem) = check(run, first) {
                return refuse(format!("shard {}: {problem}", run.shard));
            }
        }
        for run in shards.into_iter().skip(1) {
            for (task, more) in merged.tasks.iter_mut().zip(run.tasks) {
                task.samples.extend(more.samples);
            }
            merged.environment.seconds = merged.environment.seconds.max(run.environment.seconds);
            merged.environment.started = merged.environment.started.min(run.environment.started);
            merged.environment.threads += run.environment.threads;
            merged.environment.resumed += run.environment.resumed;
            merged.environment.peak_private_bytes =
                (merged.environment.peak_private_bytes).max(run.environment.peak_private_bytes);
        }
        for task in &mut merged.tasks {
            task.samples.sort_by_key(|sample| sample.doc_id);
        }
        Ok(merged)
    }
}

/// Whether a shard has the tasks of the first one, all documents that are its own, and the metrics of its answers.
fn check(run: &Run, first: &Run) -> std::result::Result<(), String> {
    let names = |run: &Run| {
        let names: Vec<_> = run.tasks.iter().map(|t| format!("{:?}", t.task)).collect();
        names.join(", ")
    };
    let alike = |(a, b): (&TaskRun, &TaskRun)| a.task == b.task && a.source == b.source;
    if run.tasks.len() != first.tasks.len() || !run.tasks.iter().zip(&first.tasks).all(alike) {
        return Err(format!(
            "its tasks are not those of shard {}, or read other data: found {}, expected {}",
            first.shard,
            names(run),
            names(first)
        ));
    }
    for (i, task) in run.tasks.iter().enumerate() {
        let known = Task::named(&task.task).map_err(|e| e.to_string())?;
        let name = known.name;
        if run.tasks[..i].iter().any(|t| t.task == name) {
            return Err(format!("task {name} is given twice"));
        }
        if task.source.effective == 0 || task.source.effective > task.source.original {
            return Err(format!(
                "{name}: evaluates {} of {} documents",
                task.source.effective, task.source.original
            ));
        }
        let mut expected =
            (run.shard.index() - 1..task.source.effective).step_by(run.shard.count());
        let mut ids: Vec<usize> = task.samples.iter().map(|s| s.doc_id).collect();
        ids.sort_unstable();
        for id in ids {
            match expected.next() {
                Some(next) if next == id => {}
                Some(next) => {
                    return Err(format!("{name}: found document {id}, expected {next}"));
                }
                None => return Err(format!("{name}: document {id} is not of this shard")),
            }
        }
        if let Some(next) = expected.next() {
            return Err(format!("{name}: document {next} is missing"));
        }
        for sample in &task.samples {
            check_sample(known, sample)
                .map_err(|problem| format!("{name}: document {}: {problem}", sample.doc_id))?;
        }
    }
    Ok(())
}

/// Whether a sample's questions, target and metrics are those of its document and its answers.
fn check_sample(task: &Task, sample: &Sample) -> std::result::Result<(), String> {
    let item = match task.kind {
        Kind::Items { item, .. } => {
            let doc = Doc::new(sample.doc.clone(), Arc::from(Path::new("its columns")), 0);
            item(&doc).map_err(|e| e.to_string())?
        }
        Kind::Windows(_) => {
            let tokens = sample.doc.get("tokens").and_then(|n| n.as_u64());
            let tokens = tokens.filter(|n| (2..=WINDOW as u64).contains(n));
            let tokens = tokens.ok_or(format!("its tokens are no number from 2 to {WINDOW}"))?;
            Item::Window(vec![0; tokens as usize])
        }
    };
    let asked = item.requests("");
    if sample.resps.len() != asked.len() || sample.arguments.len() != asked.len() {
        return Err(format!(
            "found {} questions and {} answers, expected {} of each",
            sample.arguments.len(),
            sample.resps.len(),
            asked.len()
        ));
    }
    let given = sample.resps.iter().map(|score| score.log_prob);
    let above = given
        .chain(sample.windows.iter().copied())
        .find(|x| *x > 0.0);
    if let Some(x) = above {
        return Err(format!("a log-probability of {x}, expected at most 0"));
    }
    for (i, (found, expected)) in sample.arguments.iter().zip(&asked).enumerate() {
        let same = match (expected, found.as_slice()) {
            // Worked examples stand before the context.
            (
                Request::Continuation {
                    context,
                    continuation,
                },
                [before, after],
            ) => before.ends_with(context) && after == continuation,
            (Request::Rolling { text }, [found]) => found == text,
            (Request::Tokens(_), [found]) => found.is_empty(),
            _ => false,
        };
        if !same {
            return Err(format!("question {i} is not the one that its columns ask"));
        }
    }
    if sample.gold != item.gold() || sample.target != item.target() {
        return Err("its target is not the one in its columns".into());
    }
    if sample.metrics.len() != task.metrics.len() {
        return Err(format!(
            "found {} metrics, expected {}",
            sample.metrics.len(),
            task.metrics.len()
        ));
    }
    for &metric in task.metrics {
        let expected = item.measure(metric, &sample.resps);
        match sample.metrics.get(&metric) {
            Some(&found) if found == expected => {}
            Some(found) => {
                return Err(format!(
                    "{}: found {found:?}, its answers give {expected:?}",
                    metric.name()
                ));
            }
            None => return Err(format!("{}: missing", metric.name())),
        }
    }
    Ok(())
}
