//! Zero-shot and perplexity evaluation that agrees with lm-evaluation-harness.
//!
//! ```text
//! data files --rows--> Doc --task--> Item --requests--> texts --Encoder--> Span --LanguageModel--> Score
//!                                      |                                                            |
//!                                      +----------------------- measure <----------------------------+
//!                                                                  |
//!                                                   Run (documents, answers) --> EvalResults (aggregates, JSON)
//! ```
//!
//! - **Tasks know documents and metrics, models know tokens.** A [`Task`] is data and one function from a document to
//!   what is asked ([`Item`]). A [`LanguageModel`] is a tokenizer and a function from [`Span`]s of tokens to
//!   [`Score`]s; implement it to evaluate another runtime. [`Runtime`] is this workspace's own.
//! - **Everything is a span.** A continuation after a context, a window of a rolling log-likelihood, a window of a
//!   perplexity: tokens, the last of which are scored. Equal spans are computed once, shared beginnings too, and no
//!   answer depends on which others are asked for.
//! - **Experiments are values.** An [`Intervention`](sw_intervene::Intervention) is what plans hold, what results record, and what tests compare.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use sw_eval::{DataDir, Options, evaluate};
//!
//! let model = sw_model::Model::open("models/tinystories-656k")?;
//! let mut options = Options::default();
//! options.limit = Some(50);
//! let results = evaluate(&model, &["arc_easy", "wikitext2"], &DataDir::folder("data"), &options, &mut |_| ControlFlow::Continue(()))?;
//! println!("{:#}", results.to_json());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Deliberately absent: printing, downloading, chat templates, sampling. Nothing is sharded or resumed silently.
#![forbid(unsafe_code)]

mod compare;
mod data;
mod divergence;
mod encode;
mod error;
mod evaluate;
mod fewshot;
mod join;
mod journal;
mod lanes;
mod metric;
pub mod mock;
mod model;
mod output;
mod prefix_tree;
mod random;
mod results;
mod run;
mod runtime;
mod shard;
mod source;
mod task;
mod text;
mod workload;

pub use compare::{McNemar, PairedBootstrap, TaskComparison, compare, mcnemar, paired_bootstrap};
pub use data::{DataDir, Dataset, Doc, Split, read, read_columns, read_texts};
pub use divergence::{Divergence, divergence};
pub use encode::{Context, Encoder, Pair};
pub use error::{Error, Result};
pub use evaluate::{OpenJournal, Progress, Status, evaluate, evaluate_with, evaluate_workload};
pub use journal::{Journal, Key};
pub use metric::{Metric, Value};
pub use model::{LanguageModel, ModelInfo, Score, Sink, Span};
pub use output::{Output, Written, evaluate_to, merge, shards_in, stamp};
pub use random::PyRandom;
pub use results::{Aggregate, EvalResults, sample_json};
pub use run::{Environment, Run, Sample, TaskRun};
pub use runtime::{Runtime, TOKEN_BUDGET};
pub use shard::Shard;
pub use source::{Source, TaskRows};
pub use sw_model::Bos;
pub use task::{Cut, Item, Kind, Prepare, Request, TASKS, Task, Windows};
pub use workload::{DocWork, Options, TaskWork, Workload, check_resamples};
