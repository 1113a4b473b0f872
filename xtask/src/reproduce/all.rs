//! All experiments one after the other, and one report of what they found.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use sw_cli::program::{self, one_line, say, write_whole};

use super::{ALL, Entry, Record};
use crate::{inputs::Inputs, lab::Lab, page::report};

/// Make all tables and figures of the paper, or some of them, and one HTML report of what they show.
///
/// What is finished in the output folder with the same configuration is not run again, and evaluations go on where they
/// were stopped. An experiment that cannot be made (data or a tokenizer that is missing) is named in the report with its
/// reason; the others are made.
///
/// Exit status: 0 when everything was made, 3 when something could not be made, 1 when nothing could.
///
/// Examples:
///   cargo xtask reproduce all --out out
///   cargo xtask reproduce all --model MODEL --data DATA --out out --limit 50
///   cargo xtask reproduce figure3 table1 --out out
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Reproduce {
    /// all, or names of tables and figures
    #[arg(value_name = "all|NAME", required = true)]
    what: Vec<String>,
    /// Run again what is finished
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    inputs: Inputs,
}

/// An experiment that could not be made, and why.
pub(crate) struct Missing {
    pub(crate) name: &'static str,
    pub(crate) why: String,
}

impl Reproduce {
    /// Runs them; whether all could be made.
    pub(crate) fn run(&self) -> Result<bool> {
        let chosen = chosen(&self.what)?;
        let Some(out) = self.inputs.out.as_deref() else {
            bail!("--out DIR: expected a folder for the report");
        };
        self.inputs.set_threads()?;
        let lab = Lab::open(&self.inputs)?;
        let (mut records, mut missing): (Vec<Record>, Vec<Missing>) = (vec![], vec![]);
        for entry in chosen {
            let clock = Instant::now();
            match entry.run(&lab, self.fresh) {
                Ok(record) => {
                    program::tell(format!(
                        "{}: {:.1} s",
                        entry.name,
                        clock.elapsed().as_secs_f64()
                    ));
                    records.push(record);
                }
                Err(error) => {
                    let why = one_line(&error);
                    program::tell(format!("{}: not made: {why}", entry.name));
                    missing.push(Missing {
                        name: entry.name,
                        why,
                    });
                }
            }
        }
        if records.is_empty() {
            let first = missing
                .first()
                .map_or_else(String::new, |m| format!("{}: {}", m.name, m.why));
            bail!("nothing could be made; {first}");
        }
        let found = lab.found().map(|found| found.summary()).unwrap_or_default();
        let page = report::page(&lab, &found, &records, &missing);
        let path = out.join("report.html");
        write_whole(&path, &page)?;
        for record in &records {
            say(format!(
                "{}\n  {}\n",
                record.outcome.title, record.outcome.finding
            ))?;
        }
        for m in &missing {
            say(format!("{}: not made: {}", m.name, m.why))?;
        }
        say(format!("report: {}", path.display()))?;
        Ok(missing.is_empty())
    }
}

fn chosen(what: &[String]) -> Result<Vec<&'static Entry>> {
    if what.iter().any(|name| name == "all") {
        return Ok(ALL.iter().collect());
    }
    let named = |name: &String| {
        ALL.iter().find(|e| e.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|e| e.name).collect();
            anyhow!(
                "{name}: no such table or figure; expected all, or some of {}",
                names.join(", ")
            )
        })
    };
    what.iter().map(named).collect()
}
