//! A run into a folder: journal while it runs, files when it is done, shards and their merge.

use std::{
    cell::RefCell,
    io::{BufReader, ErrorKind},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sw_tensor::files;

use crate::{
    error::{Error, Result},
    evaluate::{Progress, evaluate_with},
    journal::{Journal, Key, short},
    model::LanguageModel,
    results::EvalResults,
    run::Run,
    source::TaskRows,
    workload::Options,
};

/// Where a run is written.
#[derive(Clone, Debug)]
pub struct Output {
    /// The folder; made when there is something to write.
    pub dir: PathBuf,
    /// Whether every document is written too.
    pub log_samples: bool,
}

/// What a run left in its folder.
#[derive(Clone, Debug)]
pub enum Written {
    /// Results of a whole run.
    Results {
        /// The aggregates.
        results: Box<EvalResults>,
        /// The results file.
        path: PathBuf,
    },
    /// A shard, to be merged with the others.
    Shard {
        /// The shard's file.
        path: PathBuf,
    },
}

/// Evaluates into a folder, going on from the journal of a run of the same configuration that did not end.
///
/// # Errors
/// As [`evaluate_with`]; a folder that cannot be written. Nothing is written before every question has been encoded.
pub fn evaluate_to(
    lm: &dyn LanguageModel,
    rows: TaskRows,
    options: &Options,
    output: &Output,
    progress: &mut Progress<'_>,
) -> Result<Written> {
    let name = |kind: &str, config: &str, end: &str| {
        let shard = options.shard;
        let part = if shard.is_whole() {
            String::new()
        } else {
            format!("_{}_of_{}", shard.index(), shard.count())
        };
        output
            .dir
            .join(format!("{kind}_{}{part}.{end}", short(config)))
    };
    let lock = RefCell::new(None); // held until the results are written and the journal is gone
    let open = |key: &Key| {
        std::fs::create_dir_all(&output.dir).map_err(|e| Error::io(&output.dir, e))?;
        let (journal, found) = Journal::open(name("journal", &key.config, "jsonl"), key)?;
        lock.replace(Some(journal.lock()?));
        Ok((journal, found))
    };
    let run = evaluate_with(lm, rows, options, Some(&open), progress)?;
    let journal = name("journal", &run.config, "jsonl");
    let written = if options.shard.is_whole() {
        let results = Box::new(EvalResults::new(run));
        let path = results.save(&output.dir, &stamp(SystemTime::now()), output.log_samples)?;
        Written::Results { results, path }
    } else {
        let path = name("shard", &run.config, "json");
        files::write_whole(&path, |file| Ok(serde_json::to_writer(file, &run)?))
            .map_err(|e| Error::io(&path, e))?;
        Written::Shard { path }
    };
    match std::fs::remove_file(&journal) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(&journal, e)),
        _ => drop(lock), // its answers are in the results
    }
    Ok(written)
}

/// The most bytes of a shard; one of the largest task takes a tenth.
const SHARD: u64 = 1 << 30;

/// Reads shards that [`evaluate_to`] wrote and puts them together: the results are those of the whole run.
///
/// # Errors
/// A file that is no shard, shards of different runs, a shard that is missing or given twice.
pub fn merge(shards: &[PathBuf]) -> Result<EvalResults> {
    let read = |path: &PathBuf| -> Result<Run> {
        let file = files::open_regular(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if size > SHARD {
            let problem = format!("it has {size} bytes, expected at most {SHARD}");
            return Err(Error::journal(path, problem));
        }
        serde_json::from_reader(BufReader::new(file))
            .map_err(|e| Error::journal(path, format!("not a shard of an evaluation: {e}")))
    };
    Ok(EvalResults::new(Run::merge(
        shards.iter().map(read).collect::<Result<_>>()?,
    )?))
}

/// The shards in a folder, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn shards_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let shard = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("shard_") && name.ends_with(".json")
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(shard)
        .collect();
    found.sort();
    Ok(found)
}

/// A time as lm-eval puts it into file names, in UTC: `2026-11-23T09-30-00.123456`.
pub fn stamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default(); // only years beyond 9999 are none
    time.strftime("%Y-%m-%dT%H-%M-%S.%6f").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn stamps_are_dates() {
        // date -u -d @SECONDS
        for (seconds, text) in [
            (0, "1970-01-01T00-00-00"),
            (951_782_400, "2000-02-29T00-00-00"),
            (1_709_251_199, "2024-02-29T23-59-59"),
            (1_735_689_599, "2024-12-31T23-59-59"),
            (1_795_426_215, "2026-11-23T09-30-15"),
            (4_107_542_400, "2100-03-01T00-00-00"),
        ] {
            assert_eq!(
                stamp(UNIX_EPOCH + Duration::from_secs(seconds)),
                format!("{text}.000000")
            );
        }
    }
}
