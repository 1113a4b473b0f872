//! What is asked about one document, and what the answers are worth.

use crate::{
    metric::{Metric, Value},
    model::Score,
};

/// One question to a model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// How probable is this continuation of this context?
    Continuation {
        /// May be empty.
        context: String,
        /// Begins with its delimiter.
        continuation: String,
    },
    /// How probable is this text?
    Rolling {
        /// The text.
        text: String,
    },
    /// How probable are these tokens, given the first?
    Tokens(Vec<u32>),
}

/// What a task asks about one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Which of several continuations of one context?
    Choice {
        /// The question.
        context: String,
        /// The bare answers, without the delimiter.
        choices: Vec<String>,
        /// The right one.
        gold: usize,
    },
    /// After which of several contexts does the continuation fit best?
    Cloze {
        /// The beginnings.
        contexts: Vec<String>,
        /// What follows, without the delimiter.
        continuation: String,
        /// The right one.
        gold: usize,
    },
    /// Does the model continue the context with exactly this?
    Completion {
        /// The beginning.
        context: String,
        /// What follows, with its delimiter.
        continuation: String,
    },
    /// How well does the model predict this text?
    Page {
        /// The text.
        text: String,
        /// Words of the original.
        words: usize,
        /// Bytes of the original.
        bytes: usize,
    },
    /// How well does the model predict this window?
    Window(Vec<u32>),
}

impl Item {
    /// The requests, each context after a header of worked examples.
    pub fn requests(&self, header: &str) -> Vec<Request> {
        let ask = |context: &str, delimiter: &str, continuation: &str| Request::Continuation {
            context: format!("{header}{context}"),
            continuation: format!("{delimiter}{continuation}"),
        };
        match self {
            Item::Choice {
                context, choices, ..
            } => choices.iter().map(|c| ask(context, " ", c)).collect(),
            Item::Cloze {
                contexts,
                continuation,
                ..
            } => contexts.iter().map(|c| ask(c, " ", continuation)).collect(),
            Item::Completion {
                context,
                continuation,
            } => vec![ask(context, "", continuation)],
            Item::Page { text, .. } => vec![Request::Rolling { text: text.clone() }],
            Item::Window(tokens) => vec![Request::Tokens(tokens.clone())],
        }
    }

    /// The document with its answer, as a worked example before another.
    pub fn example(&self) -> String {
        let (context, answer) = match self {
            Item::Choice {
                context,
                choices,
                gold,
            } => (context.as_str(), choices[*gold].as_str()),
            Item::Cloze {
                contexts,
                continuation,
                gold,
            } => (contexts[*gold].as_str(), continuation.as_str()),
            Item::Completion {
                context,
                continuation,
            } => (context.as_str(), continuation.as_str()),
            Item::Page { .. } | Item::Window(_) => return String::new(),
        };
        format!("{context} {answer}\n\n")
    }

    /// Which request asks for the right answer.
    pub fn gold(&self) -> usize {
        match self {
            Item::Choice { gold, .. } | Item::Cloze { gold, .. } => *gold,
            Item::Completion { .. } | Item::Page { .. } | Item::Window(_) => 0,
        }
    }

    /// The right answer as results show it.
    pub fn target(&self) -> String {
        match self {
            Item::Choice { gold, .. } => gold.to_string(),
            Item::Cloze { continuation, .. } | Item::Completion { continuation, .. } => {
                continuation.clone()
            }
            Item::Page { text, .. } => text.clone(),
            Item::Window(_) => String::new(),
        }
    }

    /// What the answers to the requests are worth.
    ///
    /// # Panics
    /// When there are not as many answers as requests, or the metric does not apply to this kind of item.
    pub fn measure(&self, metric: Metric, answers: &[Score]) -> Value {
        let right = |gold: usize, weight: &dyn Fn(usize) -> f64| {
            let best = argmax(
                answers
                    .iter()
                    .enumerate()
                    .map(|(i, a)| a.log_prob / weight(i)),
            );
            Value::One(f64::from(best == gold))
        };
        match (self, metric) {
            (Item::Choice { gold, .. } | Item::Cloze { gold, .. }, Metric::Acc) => {
                right(*gold, &|_| 1.0)
            }
            (Item::Choice { gold, choices, .. }, Metric::AccNorm) => {
                right(*gold, &|i| choices[i].chars().count() as f64)
            }
            (Item::Choice { gold, choices, .. }, Metric::AccBytes) => {
                right(*gold, &|i| choices[i].len() as f64)
            }
            (Item::Completion { .. }, Metric::Acc) => Value::One(f64::from(answers[0].greedy)),
            (Item::Completion { .. }, Metric::Perplexity) => Value::One(answers[0].log_prob),
            (Item::Window(tokens), Metric::Perplexity) => {
                Value::One(answers[0].log_prob / (tokens.len() - 1) as f64)
            }
            (Item::Page { words, .. }, Metric::WordPerplexity) => {
                Value::Weighted(answers[0].log_prob, *words as f64)
            }
            (Item::Page { bytes, .. }, Metric::BytePerplexity | Metric::BitsPerByte) => {
                Value::Weighted(answers[0].log_prob, *bytes as f64)
            }
            _ => panic!("{} does not apply to {self:?}", metric.name()),
        }
    }
}

/// The first of the largest.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}
