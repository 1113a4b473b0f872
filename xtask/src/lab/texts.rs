//! The text that is calibrated and searched on.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use sw_cli::program::write_whole;
use sw_eval::{Split, Task};

use super::Lab;

impl Lab {
    /// A file with a `text` in each row to calibrate and search on, and what it is called: `--calib`, else the training
    /// split of WikiText-2, else eight short texts that come with this program. Never a test text.
    pub(crate) fn calibration(&self) -> Result<(PathBuf, String)> {
        if let Some(file) = &self.inputs.calib {
            ensure!(file.is_file(), "--calib {}: no such file", file.display());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return Ok((file.clone(), name.into_owned()));
        }
        let task = Task::named("wikitext2")?;
        let mut files = self.data.files(&task.dataset)?;
        if let Some(file) = files
            .remove(&Split::Train)
            .unwrap_or_default()
            .into_iter()
            .next()
        {
            return Ok((file, format!("the training split of {}", task.dataset.path)));
        }
        let lines = sw_detect::PROOF_TEXTS.map(|text| json!({ "text": text }).to_string() + "\n");
        let file = match self.journals()? {
            Some(folder) => folder.join("calibration.jsonl"),
            None => self.scratch.path().join("calibration.jsonl"),
        };
        write_whole(&file, &lines.concat())?;
        Ok((
            file,
            "the eight short texts that come with this program".into(),
        ))
    }

    /// The first tokens of the first calibration rows that have some.
    pub(crate) fn calibration_texts(&self, rows: usize, tokens: usize) -> Result<Texts> {
        let (file, name) = self.calibration()?;
        let most = tokens.min(self.model.spec().max_positions);
        let mut texts = Vec::new();
        for doc in sw_eval::read(std::slice::from_ref(&file))? {
            let text = doc.text("text")?;
            if text.trim().is_empty() {
                continue;
            }
            let mut ids = self.inputs.encode(&self.model, text)?;
            ids.truncate(most);
            if ids.len() > 1 {
                texts.push(ids);
            }
            if texts.len() == rows {
                break;
            }
        }
        ensure!(
            !texts.is_empty(),
            "{}: no text to calibrate on",
            file.display()
        );
        Ok(Texts {
            texts,
            source: name,
        })
    }
}

/// Calibration texts as tokens.
pub(crate) struct Texts {
    pub(crate) texts: Vec<Vec<u32>>,
    /// What the texts are, in words.
    pub(crate) source: String,
}
