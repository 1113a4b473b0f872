//! `sw compare`: two settings of one checkpoint on the same documents, and whether they differ.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;
use sw_eval::{
    Divergence, EvalResults, Runtime, TaskComparison, TaskRows, Workload, check_resamples, compare,
    divergence, evaluate_with,
};
use sw_intervene::Intervention;

use crate::{
    args::TaskArgs,
    eval::{plan, progress_bar},
    program::say,
};

/// Evaluate two settings of a checkpoint on the same documents, and test whether they differ.
///
/// Accuracies by McNemar's exact test, log-likelihoods of the right answers by a paired bootstrap, next-token
/// distributions on the right answers' texts by KL divergence and by how often the most probable token is the same.
/// Both settings share the checkpoint in memory.
///
/// Examples:
///   sw compare MODEL --tasks arc_easy,wikitext2 --data DATA --plan prune.json
///   sw compare MODEL --tasks hellaswag --data DATA --against rtn.json --plan rtn-hold.json --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Compare {
    #[command(flatten)]
    on: TaskArgs,
    /// The second setting: a JSON file with a list of interventions
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The first setting, likewise [default: the model as it is]
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    resamples: usize,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1234)]
    seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        check_resamples("--resamples", self.resamples)?;
        let plans: [Vec<Intervention>; 2] = [
            self.against.as_deref().map_or(Ok(Vec::new()), plan)?,
            plan(&self.plan)?,
        ];
        let data = self.on.data()?;
        let model = self.on.dtype.applied(&self.on.model.open()?);
        let options = self.on.options();
        let rows = TaskRows::read(&self.on.names(), &data, &options)?;
        let runtime = |plan: &[Intervention]| {
            Ok::<_, sw_eval::Error>(Runtime::new(&model, plan)?.named(&self.on.model.model))
        };
        let runtimes = [runtime(&plans[0])?, runtime(&plans[1])?];
        let mut runs = Vec::new();
        for (runtime, plan) in runtimes.iter().zip(&plans) {
            let mut options = options.clone();
            options.interventions.clone_from(plan);
            let bar = progress_bar();
            let mut progress = |status: sw_eval::Status| bar.show(status);
            let run = evaluate_with(runtime, rows.clone(), &options, None, &mut progress)?;
            runs.push(run);
        }
        let compared = compare(&runs[0], &runs[1], self.resamples, self.seed)?;
        let workload = Workload::new(&runtimes[0], rows, &options)?;
        let distances = compared
            .iter()
            .map(|task| {
                divergence(
                    &runtimes[0],
                    &runtimes[1],
                    &workload.right_texts(&task.task),
                )
            })
            .collect::<sw_eval::Result<Vec<_>>>()?;
        let results: Vec<EvalResults> = runs.into_iter().map(EvalResults::new).collect();
        if self.json {
            return say(format!(
                "{:#}",
                json!({
                    "compute_dtype": model.precision().name(),
                    "first": {"interventions": plans[0], "results": results[0].results()},
                    "second": {"interventions": plans[1], "results": results[1].results()},
                    "tasks": compared.iter().zip(&distances).map(|(c, d)| json!({"comparison": c, "divergence": d})).collect::<Vec<_>>(),
                })
            ));
        }
        say(table(&results, &compared, &distances))
    }
}

fn table(results: &[EvalResults], compared: &[TaskComparison], distances: &[Divergence]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "task",
        "documents",
        "what",
        "first",
        "second",
        "difference",
        "evidence",
    ]);
    for (task, distance) in compared.iter().zip(distances) {
        let mut row = |what: &str, values: [String; 4]| {
            let [first, second, difference, evidence] = values;
            let documents = task.documents.to_string();
            let what = what.to_owned();
            table.add_row([
                task.task.clone(),
                documents,
                what,
                first,
                second,
                difference,
                evidence,
            ]);
        };
        for (metric, test) in &task.accuracies {
            let [a, b] = [0, 1].map(|i| {
                results[i]
                    .get(&task.task, *metric)
                    .map_or(f64::NAN, |a| a.value)
            });
            let only = format!(
                "{} : {} documents, p = {:.3}",
                test.only_first, test.only_second, test.p_value
            );
            row(
                metric.name(),
                [
                    format!("{a:.4}"),
                    format!("{b:.4}"),
                    format!("{:+.4}", b - a),
                    only,
                ],
            );
        }
        let l = &task.log_likelihood;
        let interval = format!("95 %: {:+.4} to {:+.4}", l.interval[0], l.interval[1]);
        row(
            "log-likelihood",
            [
                "".into(),
                "".into(),
                format!("{:+.4}", l.difference),
                interval,
            ],
        );
        let same = format!(
            "same top token {:.2} % of {}",
            100.0 * distance.same_top,
            distance.tokens
        );
        row(
            "KL, nats",
            [
                "".into(),
                "".into(),
                format!("{:.6}", distance.kl_mean),
                same,
            ],
        );
    }
    for column in [1, 3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
