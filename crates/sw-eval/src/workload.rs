//! From tasks and data to the spans a model is asked to score: everything that needs no forward pass.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sw_intervene::Intervention;

use crate::{
    Bos,
    data::{self, Doc, Split},
    encode::{Context, Encoder},
    error::{Error, Result},
    fewshot::Sampler,
    model::{LanguageModel, Span},
    shard::Shard,
    source::{Raw, Source, TaskRows, digest, missing},
    task::{Cut, Item, Kind, Prepare, Request, Task},
};

/// How an evaluation is run. All of it is recorded in the results, and all but the shard decides the configuration's hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Options {
    /// Documents of each task (windows, where perplexity is by windows); all without it.
    pub limit: Option<usize>,
    /// Whether texts get a beginning-of-sequence token.
    pub bos: Bos,
    /// Worked examples before each question.
    pub num_fewshot: usize,
    /// Seed of the draw of worked examples; lm-eval's default is 1234.
    pub seed: u64,
    /// Another split than the tasks' own.
    pub split: Option<Split>,
    /// Draws of the bootstrap that gives perplexities their standard error; 0 for no standard errors.
    pub bootstrap_iters: usize,
    /// What is done to the model.
    pub interventions: Vec<Intervention>,
    /// Which part of the documents.
    #[serde(skip)]
    pub shard: Shard,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limit: None,
            bos: Bos::Auto,
            num_fewshot: 0,
            seed: 1234,
            split: None,
            bootstrap_iters: 100_000,
            interventions: Vec::new(),
            shard: Shard::default(),
        }
    }
}

/// Draws of a bootstrap, at most.
const RESAMPLES: usize = 10_000_000;

impl Options {
    /// Refuses numbers that would take all memory or for ever.
    pub(crate) fn check(&self) -> Result<()> {
        check_resamples("bootstrap_iters", self.bootstrap_iters)
    }
}

/// Checks that the draws of a bootstrap are at most ten million; `name` is said in the error.
///
/// # Errors
/// [`Error::Options`]: more draws.
pub fn check_resamples(name: &str, draws: usize) -> Result<()> {
    if draws > RESAMPLES {
        let problem = format!("{name} {draws}: expected at most {RESAMPLES}");
        return Err(Error::Options(problem));
    }
    Ok(())
}

/// The longest window of a perplexity by windows.
pub(crate) const WINDOW: usize = 2048;

/// What a task asks, document by document.
#[derive(Clone, Debug)]
pub struct TaskWork {
    /// The task.
    pub task: &'static Task,
    /// Where its documents came from.
    pub source: Source,
    /// Its documents, those of the shard.
    pub docs: Vec<DocWork>,
}

/// What is asked about one document.
#[derive(Clone, Debug)]
pub struct DocWork {
    /// Its index in the split.
    pub doc_id: usize,
    /// Its columns.
    pub doc: Doc,
    /// What is asked.
    pub item: Item,
    /// The questions.
    pub requests: Vec<Request>,
    /// For each question, its spans in the workload; a rolling request has one for each window.
    pub spans: Vec<Vec<usize>>,
    /// The most tokens that were cut from the left of one of its contexts to fit the model.
    pub cut: usize,
    /// Whether a continuation merged into its context's last tokens; see [`Pair`](crate::Pair).
    pub merged: bool,
}

/// All spans of an evaluation, equal ones once.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// The tasks, in the order they were named.
    pub tasks: Vec<TaskWork>,
    /// What the model is asked.
    pub spans: Vec<Span>,
    /// SHA-256 of the files that the interventions read.
    pub calibration: Vec<String>,
}

impl Workload {
    /// Encodes every question about the tasks' rows.
    ///
    /// # Errors
    /// Rows that were read with another limit, shard, split or number of examples; a document that cannot be asked, a file of an
    /// intervention that cannot be read: one line.
    pub fn new(lm: &dyn LanguageModel, rows: TaskRows, options: &Options) -> Result<Self> {
        let encoder = Encoder::new(lm, options.bos)?;
        let mut spans = Spans::default();
        let ask = |raw| prepare(raw, &encoder, options, &mut spans);
        let work: Vec<TaskWork> = rows
            .read_as(options)?
            .into_iter()
            .map(ask)
            .collect::<Result<_>>()?;
        let files = options.interventions.iter().filter_map(Intervention::file);
        Ok(Self {
            tasks: work,
            spans: spans.all,
            calibration: files
                .map(|file| digest(&[file.to_owned()]))
                .collect::<Result<_>>()?,
        })
    }
}

impl Workload {
    /// The tokens of a task's documents, each with its right answer: what two settings' distributions are compared on.
    pub fn right_texts(&self, task: &str) -> Vec<Vec<u32>> {
        let of = self.tasks.iter().filter(|work| work.task.name == task);
        of.flat_map(|work| &work.docs)
            .flat_map(|doc| doc.spans.get(doc.item.gold()).into_iter().flatten())
            .map(|&span| self.spans[span].tokens.clone())
            .collect()
    }
}

#[derive(Default)]
struct Spans {
    all: Vec<Span>,
    index: HashMap<Span, usize>,
}

impl Spans {
    fn add(&mut self, span: Span) -> usize {
        let next = self.all.len();
        *self.index.entry(span).or_insert_with_key(|span| {
            self.all.push(span.clone());
            next
        })
    }
}

fn prepare(
    raw: Raw,
    encoder: &Encoder<'_>,
    options: &Options,
    spans: &mut Spans,
) -> Result<TaskWork> {
    let Raw {
        task,
        files,
        rows,
        mut source,
        plain,
    } = raw;
    let (split, total, limit) = (
        source.split,
        rows.total,
        options.limit.unwrap_or(usize::MAX),
    );
    let refused = |problem| missing(task, problem);
    let work = match task.kind {
        Kind::Items { prepare, item } => {
            // What is not asked about is not cleaned either.
            let clean_each = match prepare {
                Prepare::Each(clean) if plain => clean,
                _ => Ok,
            };
            let clean = |rows: Vec<Doc>| match prepare {
                Prepare::Each(clean) => clean_all(rows, clean).map_err(named(task)),
                Prepare::All(join) => join(rows).map_err(named(task)),
            };
            let docs: Vec<(usize, Doc)> = match plain {
                true => rows.docs,
                false => {
                    let rows = rows.docs.into_iter().map(|(_, doc)| doc);
                    clean(rows.collect())?.into_iter().enumerate().collect()
                }
            };
            let count = if plain { total } else { docs.len() };
            if count == 0 {
                return Err(refused("the rows hold no document".into()));
            }
            let pool = if options.num_fewshot > 0
                && !matches!(item(&docs[0].1).map_err(named(task))?, Item::Page { .. })
            {
                let from = if files.contains_key(&task.shots) {
                    task.shots
                } else {
                    split
                };
                source.fewshot_split = Some(from);
                if from == split {
                    docs.iter().map(|(_, doc)| doc.clone()).collect()
                } else {
                    clean(data::read(&files[&from])?)?
                }
            } else {
                Vec::new()
            };
            // The harness leaves the document itself out where the task has no test split. Where examples come from the
            // split under evaluation for want of the task's own, it has to be left out, too.
            let fallback = source.fewshot_split.is_some_and(|from| from != task.shots);
            let exclude = task.split != Split::Test || fallback;
            let mut sampler = Sampler::new(&pool, options.seed, exclude);
            let shots = if pool.is_empty() {
                0
            } else {
                options.num_fewshot
            };
            if shots > 0 && pool.len() < sampler.needs(shots) {
                let problem = format!(
                    "{shots} worked examples need {} documents to draw from, found {}",
                    sampler.needs(shots),
                    pool.len()
                );
                return Err(refused(problem));
            }
            (source.original, source.effective) = (count, count.min(limit));
            let mut asked = Vec::new();
            for (doc_id, doc) in docs.into_iter().take(limit) {
                let drawn = sampler.draw(shots, &doc); // for every document: shards draw alike
                if options.shard.holds(doc_id) {
                    asked.push((doc_id, doc, drawn));
                }
            }
            ask_all(asked, spans, |(doc_id, doc, drawn)| {
                let examples = drawn.iter().map(|&i| Ok(item(&pool[i])?.example()));
                let header = examples.collect::<Result<String>>().map_err(named(task))?;
                let doc = clean_each(doc).map_err(named(task))?;
                let item = item(&doc).map_err(named(task))?;
                ask(task, doc_id, doc, item, &header, encoder)
            })?
        }
        Kind::Windows(cut) => {
            let window = WINDOW.min(encoder.max_length());
            let rows: Vec<Doc> = rows.docs.into_iter().map(|(_, doc)| doc).collect();
            let windows = cut(&rows, encoder, Cut { window, limit }).map_err(named(task))?;
            (source.original, source.effective, source.window) =
                (windows.len(), windows.len(), Some(window));
            let windows = windows.into_iter().enumerate();
            let held = windows.filter(|(doc_id, _)| options.shard.holds(*doc_id));
            ask_all(held.collect(), spans, |(doc_id, tokens)| {
                let fields = [
                    ("window".to_owned(), doc_id.into()),
                    ("tokens".to_owned(), tokens.len().into()),
                ];
                let doc = rows[0].with_fields(fields.into_iter().collect());
                ask(task, doc_id, doc, Item::Window(tokens), "", encoder)
            })?
        }
    };
    Ok(TaskWork {
        task,
        source,
        docs: work,
    })
}

/// Puts the task's name before an error of its data.
fn named(task: &Task) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Data { path, problem } => Error::Data {
            path,
            problem: format!("{}: {problem}", task.name),
        },
        other => other,
    }
}

/// Cleans documents, on all threads; the first one's error counts.
fn clean_all(docs: Vec<Doc>, clean: fn(Doc) -> Result<Doc>) -> Result<Vec<Doc>> {
    let cleaned: Vec<Result<Doc>> = docs.into_par_iter().map(clean).collect();
    cleaned.into_iter().collect()
}

/// A document's questions and, for each, what the model is to score.
type Asked = (DocWork, Vec<Vec<Span>>);

/// Asks about all documents, on all threads; the first document's error counts. Spans are added in the documents' order.
fn ask_all<T: Send>(
    docs: Vec<T>,
    spans: &mut Spans,
    ask: impl Fn(T) -> Result<Asked> + Sync + Send,
) -> Result<Vec<DocWork>> {
    let asked: Vec<Result<Asked>> = docs.into_par_iter().map(ask).collect();
    let add = |asked: Result<Asked>| {
        let (mut work, encoded) = asked?;
        let add = |of_request: Vec<Span>| of_request.into_iter().map(|s| spans.add(s)).collect();
        work.spans = encoded.into_iter().map(add).collect();
        Ok(work)
    };
    asked.into_iter().map(add).collect()
}

/// The questions about one document, their spans not yet in a workload.
fn ask(
    task: &'static Task,
    doc_id: usize,
    doc: Doc,
    item: Item,
    header: &str,
    encoder: &Encoder<'_>,
) -> Result<Asked> {
    let requests = item.requests(header);
    let refused = |problem| Error::Document {
        task: task.name.into(),
        doc: doc_id,
        problem,
    };
    let (mut cut, mut merged) = (0, false);
    let mut known: Option<Context<'_>> = None; // choices share their context
    let mut encoded = Vec::with_capacity(requests.len());
    for request in &requests {
        encoded.push(match request {
            Request::Continuation {
                context,
                continuation,
            } => {
                let context = match known.take() {
                    Some(known) if known.text() == context => known,
                    _ => encoder
                        .context(context)
                        .map_err(|e| refused(e.to_string()))?,
                };
                let pair = encoder.pair(&context, continuation).map_err(refused)?;
                known = Some(context);
                cut = cut.max(pair.cut);
                merged |= pair.merged;
                vec![pair.span]
            }
            Request::Rolling { text } => encoder.rolling(text)?,
            Request::Tokens(tokens) => vec![Span {
                tokens: tokens.clone(),
                from: 1,
            }],
        });
    }
    let work = DocWork {
        doc_id,
        doc,
        item,
        requests,
        spans: Vec::new(),
        cut,
        merged,
    };
    Ok((work, encoded))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}
