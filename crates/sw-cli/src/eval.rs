//! `sw eval`, `sw merge` and `sw tasks`: numbers that agree with lm-evaluation-harness.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;
use sw_eval::{
    EvalResults, Options, Output, Runtime, Shard, Split, TASKS, TaskRows, Written, evaluate_to,
    evaluate_with, merge, shards_in, stamp,
};
use sw_intervene::Intervention;
use sw_tensor::files;

use crate::{
    args::TaskArgs,
    program::{self, say, stop_on_interrupt, stopped, tell},
};

/// Evaluate a checkpoint on zero-shot tasks and perplexity texts; the digits are lm-evaluation-harness'.
///
/// A run with --output-path keeps a journal there: killed at any moment and started again, it goes on where it stopped.
///
/// Examples:
///   sw eval MODEL --tasks arc_easy,lambada_openai --data DATA
///   sw eval MODEL --tasks hellaswag --data DATA --limit 200 --bos off --log-samples --output-path out
///   sw eval MODEL --tasks wikitext2 --data DATA --plan prune.json --output-path out
///   mpirun -n 3 sw eval MODEL --tasks piqa --data DATA --shard auto --output-path out && sw merge out
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Eval {
    #[command(flatten)]
    on: TaskArgs,
    /// Worked examples before each question
    #[arg(long, value_name = "N", default_value_t = 0, alias = "num_fewshot")]
    num_fewshot: usize,
    /// Seed of the draw of worked examples
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Another split than the tasks' own: train, validation or test
    #[arg(long)]
    split: Option<Split>,
    /// Tokens of one batch [default: auto]
    #[arg(
        long,
        value_name = "auto|TOKENS",
        default_value = "auto",
        alias = "batch_size"
    )]
    batch_size: String,
    /// A JSON file with a list of interventions
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Part i of n of the documents, or rank and size from mpirun or srun; join the parts with sw merge
    #[arg(long, value_name = "i/n|auto", requires = "output_path")]
    shard: Option<String>,
    /// Where results, samples and the journal go
    #[arg(long, value_name = "DIR", alias = "output_path")]
    output_path: Option<PathBuf>,
    /// Write every document's answers, too
    #[arg(long, alias = "log_samples", requires = "output_path")]
    log_samples: bool,
    /// Print the results file instead of a table
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub(crate) fn run(&self) -> Result<()> {
        let options = self.options()?;
        let data = self.on.data()?;
        let read = || TaskRows::read(&self.on.names(), &data, &options);
        let ((model, change), rows) = self.on.model.open_beside(read)?;
        let rows = rows?;
        let model = self.on.dtype.applied(&model);
        let mut runtime = Runtime::new(&model, &options.interventions)?.named(&self.on.model.model);
        if let Some(change) = change {
            runtime = runtime.with_change(change);
        }
        if self.batch_size != "auto" {
            let budget: usize = self
                .batch_size
                .parse()
                .ok()
                .filter(|&n| n > 0)
                .with_context(|| {
                    format!(
                        "--batch-size {}: expected auto or a number of tokens",
                        self.batch_size
                    )
                })?;
            runtime = runtime.with_budget(budget);
        }
        let bar = progress_bar();
        let mut progress = |status: sw_eval::Status| bar.show(status);
        let Some(dir) = &self.output_path else {
            let run = evaluate_with(&runtime, rows, &options, None, &mut progress)?;
            drop(bar);
            return report(&EvalResults::new(run), self.json);
        };
        stop_on_interrupt("batch")?;
        let output = Output {
            dir: dir.clone(),
            log_samples: self.log_samples,
        };
        let written = evaluate_to(&runtime, rows, &options, &output, &mut progress)?;
        drop(bar);
        match written {
            Written::Shard { path } => {
                tell(format!("written: {}", path.display()));
                Ok(())
            }
            Written::Results { results, path } => {
                tell(format!("written: {}", path.display()));
                let resumed = results.run().environment.resumed;
                if resumed > 0 {
                    tell(format!("resumed: {resumed} answers were in the journal"));
                }
                report(&results, self.json)
            }
        }
    }

    fn options(&self) -> Result<Options> {
        let mut options = self.on.options();
        options.num_fewshot = self.num_fewshot;
        options.seed = self.seed;
        options.split = self.split;
        if let Some(path) = &self.plan {
            options.interventions = plan(path)?;
        }
        options.shard = match self.shard.as_deref() {
            None => Shard::default(),
            Some("auto") => Shard::from_launcher(|name| std::env::var(name).ok())?,
            Some(shard) => shard.parse()?,
        };
        if !options.shard.is_whole() {
            tell(format!("shard {}", options.shard));
        }
        Ok(options)
    }
}

/// The most bytes of a list of interventions.
const PLAN: u64 = 64 << 20;

/// A list of interventions from a JSON file.
pub(crate) fn plan(path: &Path) -> Result<Vec<Intervention>> {
    let name = || path.display().to_string();
    let text = files::read_text_at_most(path, PLAN).with_context(name)?;
    serde_json::from_str(&text).with_context(name)
}

/// Prints the table (or the results file).
fn report(results: &EvalResults, json: bool) -> Result<()> {
    if json {
        return say(format!("{:#}", results.to_json()));
    }
    say(table(results))?;
    let environment = &results.run().environment;
    let mut took = format!(
        "{:.1} s on {} threads",
        environment.seconds, environment.threads
    );
    if let Some(bytes) = environment.peak_private_bytes {
        took += &format!(
            ", peak private memory {:.0} MiB",
            bytes as f64 / f64::from(1 << 20)
        );
    }
    tell(took);
    for warning in results.run().warnings() {
        tell(format!("note: {warning}"));
    }
    Ok(())
}

fn table(results: &EvalResults) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "task",
        "version",
        "split",
        "n-shot",
        "documents",
        "metric",
        "value",
        "stderr",
    ]);
    let run = results.run();
    for task_run in &run.tasks {
        let Some(task) = TASKS.iter().find(|t| t.name == task_run.task) else {
            continue;
        };
        for &metric in task.metrics {
            let Some(aggregate) = results.get(task.name, metric) else {
                continue;
            };
            let shots = task_run
                .source
                .fewshot_split
                .map_or(0, |_| run.options.num_fewshot);
            table.add_row([
                task.name.to_owned(),
                task.version.to_string(),
                task_run.source.split.to_string(),
                shots.to_string(),
                task_run.samples.len().to_string(),
                metric.name().to_owned(),
                format!("{:.4}", aggregate.value),
                aggregate
                    .stderr
                    .map_or_else(|| "-".into(), |e| format!("{e:.4}")),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A bar that ends the evaluation after Ctrl-C.
pub(crate) struct Bar(program::Bar);

pub(crate) fn progress_bar() -> Bar {
    Bar(program::Bar::new())
}

impl Bar {
    /// Shows how far the evaluation is, and tells whether to go on.
    pub(crate) fn show(&self, status: sw_eval::Status) -> ControlFlow<()> {
        self.0.show(status);
        if stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Join the parts of a sharded evaluation: exactly the whole run's results.
///
/// Example: sw merge out
#[derive(Args)]
pub(crate) struct Merge {
    /// The folder that `sw eval --shard` wrote to
    dir: PathBuf,
    /// Write every document's answers, too
    #[arg(long, alias = "log_samples")]
    log_samples: bool,
    /// Print the results file instead of a table
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub(crate) fn run(&self) -> Result<()> {
        let shards = shards_in(&self.dir)?;
        ensure!(
            !shards.is_empty(),
            "{0}: no shard_*.json file; sw eval --shard i/n --output-path {0} writes them",
            self.dir.display()
        );
        let results = merge(&shards)?;
        let path = results.save(&self.dir, &stamp(SystemTime::now()), self.log_samples)?;
        tell(format!("written: {}", path.display()));
        report(&results, self.json)
    }
}

/// List the tasks that sw eval knows.
///
/// Example: sw tasks --json
#[derive(Args)]
pub(crate) struct Tasks {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Tasks {
    pub(crate) fn run(&self) -> Result<()> {
        let describe = |task: &sw_eval::Task| {
            let metrics: Vec<_> = task.metrics.iter().map(|m| m.name()).collect();
            serde_json::json!({
                "task": task.name,
                "version": task.version,
                "dataset": task.dataset.path,
                "split": task.split,
                "metrics": metrics,
            })
        };
        let tasks: Vec<Value> = TASKS.iter().map(describe).collect();
        if self.json {
            return say(serde_json::to_string_pretty(&tasks)?);
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["task", "version", "data set", "split", "metrics"]);
        for task in TASKS {
            let metrics: Vec<_> = task.metrics.iter().map(|m| m.name()).collect();
            table.add_row([
                task.name.to_owned(),
                task.version.to_string(),
                task.dataset.path.to_owned(),
                task.split.to_string(),
                metrics.join(", "),
            ]);
        }
        say(table)
    }
}
