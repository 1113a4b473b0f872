//! Where a task's documents come from: its files are found, read and digested.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    data::{self, DataDir, Rows, Split, Wanted},
    error::{Error, Result},
    task::{Kind, Prepare, Task},
    workload::{Options, hex},
};

/// Where a task's documents came from, and what happened to them on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The split that was read.
    pub split: Split,
    /// The files that were read, without their folders.
    pub files: Vec<String>,
    /// SHA-256 of the files.
    pub sha256: String,
    /// The split that worked examples came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fewshot_split: Option<Split>,
    /// Tokens of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Documents in the split (windows: as many as were cut).
    pub original: usize,
    /// Documents evaluated by all shards together.
    pub effective: usize,
}

/// The rows of tasks as their files hold them, as far as some options ask for them: all that can be read before there is a model.
#[derive(Clone)]
pub struct TaskRows {
    all: Vec<Raw>,
    options: Options,
}

impl TaskRows {
    /// Reads the rows of tasks, each once, in the order in which they are named first.
    ///
    /// # Errors
    /// An unknown task, data that is missing or broken: one line.
    pub fn read(tasks: &[&str], data: &DataDir, options: &Options) -> Result<Self> {
        if tasks.is_empty() {
            return Err(Error::Options("no task is named".into()));
        }
        if options.limit == Some(0) {
            return Err(Error::Options("limit 0: nothing to evaluate".into()));
        }
        options.check()?;
        let mut all: Vec<Raw> = Vec::new();
        for name in tasks {
            let task = Task::named(name)?;
            if all.iter().all(|raw| raw.task.name != task.name) {
                all.push(Raw::read(task, data, options)?);
            }
        }
        let options = options.clone();
        Ok(Self { all, options })
    }

    /// The rows of each task, if they were read as `options` say.
    pub(crate) fn read_as(self, options: &Options) -> Result<Vec<Raw>> {
        let decides = |o: &Options| (o.limit, o.shard, o.split, o.num_fewshot);
        if decides(&self.options) != decides(options) {
            let problem =
                "limit, shard, split or num_fewshot are not those that the rows were read with";
            return Err(Error::Options(problem.into()));
        }
        Ok(self.all)
    }
}

/// A task's rows as its files hold them.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) task: &'static Task,
    pub(crate) files: BTreeMap<Split, Vec<PathBuf>>,
    pub(crate) rows: Rows,
    pub(crate) source: Source,
    /// Whether documents are rows, and no worked example is drawn from them: those that are not asked about are only counted.
    pub(crate) plain: bool,
}

impl Raw {
    fn read(task: &'static Task, dir: &DataDir, options: &Options) -> Result<Self> {
        let files = dir.files(&task.dataset)?;
        let split = match (options.split.unwrap_or(task.split), files.len()) {
            (_, 0) => return Err(missing(task, dir.missing(&task.dataset))),
            (wanted, _) if files.contains_key(&wanted) => wanted,
            // The only one that is there, where none was asked for.
            (_, 1) if options.split.is_none() => *files.keys().next().expect("one split"),
            (wanted, _) => {
                let found = files
                    .keys()
                    .map(Split::to_string)
                    .collect::<Vec<_>>()
                    .join(", ");
                let problem =
                    format!("no {wanted} split; the folder has: {found} (name one of them)");
                return Err(missing(task, problem));
            }
        };
        let is_row = |prepare: &Prepare| matches!(prepare, Prepare::Each(_));
        let plain = matches!(&task.kind, Kind::Items { prepare, .. } if is_row(prepare))
            && options.num_fewshot == 0;
        let wanted = match plain {
            false => Wanted::all(),
            true => Wanted {
                limit: options.limit.unwrap_or(usize::MAX),
                shard: options.shard,
            },
        };
        let source = Source {
            split,
            files: files[&split]
                .iter()
                .map(|f| f.file_name().unwrap_or_default().to_string_lossy().into())
                .collect(),
            sha256: digest(&files[&split])?,
            fewshot_split: None,
            window: None,
            original: 0,
            effective: 0,
        };
        Ok(Self {
            task,
            rows: data::read_some(&files[&split], wanted)?,
            files,
            source,
            plain,
        })
    }
}

pub(crate) fn missing(task: &Task, problem: String) -> Error {
    Error::NoData {
        task: task.name.into(),
        problem,
    }
}

/// SHA-256 of the contents of files, one after the other.
pub(crate) fn digest(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let mut file = sw_tensor::files::open_regular(path).map_err(|e| Error::io(path, e))?;
        std::io::copy(&mut file, &mut hash).map_err(|e| Error::io(path, e))?;
    }
    Ok(hex(&hash.finalize()))
}
