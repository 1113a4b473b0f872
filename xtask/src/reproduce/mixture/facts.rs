//! How many facts the lore has: a number, or as many as the smallest dense model cannot keep.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

use super::{
    FACTS,
    bench::{Bench, mean, share},
    rows::named,
    run::{Options, Recipe},
};
use crate::lab::Lab;

/// A number of facts, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Facts {
    /// The smallest of 1536, 3072, 6144, ... of which the dense model of 128 neurons recalls at most .7 at the end.
    Auto,
    Number(usize),
}

impl FromStr for Facts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Facts::Auto),
            (_, Ok(n @ 1..=MOST)) => Ok(Facts::Number(n)),
            _ => Err(format!(
                "expected auto or a number from 1 to {MOST}, found {text}"
            )),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Facts::Auto => f.write_str("auto"),
            Facts::Number(n) => write!(f, "{n}"),
        }
    }
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Most facts of a lore.
const MOST: usize = 1 << 20;
/// Doublings that are tried.
const DOUBLINGS: u32 = 5;
/// The dense model is to recall no more.
const RECALL: f64 = 0.7;

/// What one number of facts came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Calibrated {
    pub(super) facts: usize,
    pub(super) recall: f64,
    pub(super) loss: f64,
}

/// The lore that is asked for, and what was tried to find it.
pub(super) fn bench(
    lab: &Lab,
    facts: Facts,
    options: &Options,
) -> Result<(Bench, Vec<Calibrated>)> {
    let new = |n| Bench::new(n, options.texts, super::LEN, options.questions);
    if let Facts::Number(n) = facts {
        return Ok((new(n)?, vec![]));
    }
    let row = named("dense-128").context("the dense row")?;
    let mut tried = Vec::new();
    loop {
        let n = FACTS << tried.len();
        let bench = new(n)?;
        let shape = row.shape(bench.text.vocab());
        let recipe = Recipe::new(row.id.to_owned(), shape, 1, options, &bench);
        let trained = recipe.run(&bench, &super::folder(lab), None, true)?;
        tried.push(Calibrated {
            facts: n,
            recall: share(&trained.recall),
            loss: mean(trained.at(1.0)),
        });
        let recalled = share(&trained.recall);
        if recalled <= RECALL || tried.len() as u32 > DOUBLINGS {
            return Ok((bench, tried));
        }
    }
}
