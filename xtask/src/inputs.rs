//! Arguments that the experiments share: which model, which data, which weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::Value;
use sw_eval::{Bos, DataDir};
use sw_model::{Model, OpenOptions, WeightCoord, locate_model};

/// Which model, which data, where to.
#[derive(Args)]
pub(crate) struct Inputs {
    /// A directory in Hugging Face layout, or ORG/NAME[@REVISION] in the Hugging Face cache
    #[arg(long)]
    pub(crate) model: String,
    /// A folder that holds ORG/NAME/... as the Hugging Face dataset repositories lay them out [default: the cache]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Documents of each task, and windows of each text, at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Where the results go; without it they are only printed
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Whether texts begin with the beginning-of-sequence token: the tokenizer's own rule, always, or never
    #[arg(long, value_name = "auto|on|off", default_value_t)]
    pub(crate) bos: Bos,
    /// The prompt that detection runs
    #[arg(long, value_name = "TEXT", default_value = sw_detect::DEFAULT_PROMPT)]
    pub(crate) prompt: String,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// Pass over a config field that is not implemented (repeatable); recorded in the results
    #[arg(long, value_name = "NAME")]
    pub(crate) ignore_config_field: Vec<String>,
}

impl Inputs {
    pub(crate) fn open(&self) -> Result<Model> {
        if let Some(n) = self.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n.get())
                .build_global()
                .context("--threads")?;
        }
        let mut options = OpenOptions::default();
        options
            .ignore_config_fields
            .clone_from(&self.ignore_config_field);
        Ok(Model::open_with(locate_model(&self.model)?, &options)?)
    }

    pub(crate) fn data(&self) -> Result<DataDir> {
        match &self.data {
            Some(dir) if dir.is_dir() => Ok(DataDir::folder(dir)),
            Some(dir) => bail!("--data {}: no such directory", dir.display()),
            None => Ok(DataDir::Cache),
        }
    }
}

/// Super weights given by hand: `L:row:col,...`, or a JSON file with a list of coordinates or a detection report.
pub(crate) fn super_weights(given: &str) -> Result<Vec<WeightCoord>> {
    if Path::new(given).is_file() {
        let text = std::fs::read_to_string(given).with_context(|| given.to_owned())?;
        let value: Value = serde_json::from_str(&text).with_context(|| given.to_owned())?;
        let list = value.get("super_weights").unwrap_or(&value);
        let list = list.as_array().ok_or_else(|| {
            anyhow!("{given}: expected a list of super weights, or an object with one under super_weights")
        })?;
        return list
            .iter()
            .map(|item| {
                let number = |key: &str| item[key].as_u64().map(|n| n as usize);
                match (number("layer"), number("row"), number("col")) {
                    (Some(layer), Some(row), Some(col)) => Ok(WeightCoord {
                        expert: number("expert"),
                        ..WeightCoord::down(layer, row, col)
                    }),
                    _ => bail!(
                        "{given}: expected layer, row and col in each super weight, found {item}"
                    ),
                }
            })
            .collect();
    }
    given
        .split(',')
        .map(|item| {
            let parts: Vec<usize> = item
                .split(':')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .unwrap_or_default();
            match parts[..] {
                [layer, row, col] => Ok(WeightCoord::down(layer, row, col)),
                _ => {
                    bail!("--super-weights {item}: no such file, and not of the form LAYER:ROW:COL")
                }
            }
        })
        .collect()
}
