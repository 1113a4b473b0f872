//! What one setting scored, task by task.

use std::rc::Rc;

use serde_json::{Value, json};
use sw_eval::{EvalResults, Metric, Run};

use super::tasks::guessing;

/// One setting's evaluations, task by task.
#[derive(Clone)]
pub(crate) struct Scores {
    pub(super) runs: Vec<Rc<Run>>,
}

impl Scores {
    /// One aggregate.
    pub(crate) fn value(&self, task: &str, metric: Metric) -> Option<f64> {
        let values = self.task(task)?.values(metric);
        (!values.is_empty()).then(|| metric.aggregate(&values))
    }

    /// The plain mean of some tasks' accuracies, from 0 to 1; nothing where one of them is missing.
    pub(crate) fn average<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) -> Option<f64> {
        let each: Option<Vec<f64>> = tasks
            .into_iter()
            .map(|t| self.value(t, Metric::Acc))
            .collect();
        let each = each.filter(|each| !each.is_empty())?;
        Some(each.iter().sum::<f64>() / each.len() as f64)
    }

    /// A caution where the mean accuracy is no more than two standard errors above guessing.
    pub(crate) fn caution(&self, tasks: &[&str]) -> Option<String> {
        let average = self.average(tasks.iter().copied())?;
        let guess = guessing(tasks);
        let variance = |task: &&str| {
            let n = self.task(task).map_or(1, |t| t.samples.len()).max(1) as f64;
            let p = self.value(task, Metric::Acc).unwrap_or(0.0);
            p * (1.0 - p) / n
        };
        let error = tasks.iter().map(variance).sum::<f64>().sqrt() / tasks.len() as f64;
        (average < guess + 2.0 * error).then(|| {
            format!(
                "As it is, this model answers hardly better than guessing ({:.2} % beside {:.2} %), so its accuracies can show little; look at the perplexities and errors.",
                100.0 * average,
                100.0 * guess
            )
        })
    }

    fn task(&self, task: &str) -> Option<&sw_eval::TaskRun> {
        self.tasks().find(|t| t.task == task)
    }

    /// What was run, task by task.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &sw_eval::TaskRun> {
        self.runs.iter().flat_map(|run| &run.tasks)
    }

    /// Seconds of forward passes and encoding.
    pub(crate) fn seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.environment.seconds).sum()
    }

    /// What the user should know about the evaluations.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.runs.iter().flat_map(|run| run.warnings()).collect()
    }

    /// lm-eval's aggregates over all tasks.
    pub(crate) fn results(&self) -> serde_json::Map<String, Value> {
        let each = self.runs.iter();
        each.flat_map(|run| EvalResults::new(Run::clone(run)).results())
            .collect()
    }

    /// Split, file and number of documents of each task.
    pub(crate) fn sources(&self) -> serde_json::Map<String, Value> {
        self.tasks()
            .map(|t| (t.task.clone(), json!(t.source)))
            .collect()
    }
}
