//! The directory of known super weights: the paper's Table 2 with its corrections, and what others measured since.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sw_model::{Linear, Model, WeightCoord};

use crate::{
    error::{Error, Result},
    report::{Candidate, Report, Verdict},
};

/// A checkpoint that the directory knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownModel {
    /// `ORG/NAME` on the Hugging Face hub.
    pub id: String,
    /// Folder names it is also found under, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `model_type` of its config.
    pub family: String,
    /// Layers.
    pub layers: usize,
    /// Channels of the residual stream.
    pub hidden_size: usize,
    /// Inputs of `down_proj`.
    pub intermediate_size: usize,
}

/// What a known weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Published or measured as a super weight; whether it is decisive alone is another question.
    SuperWeight,
    /// A later layer's weight that takes a super activation back.
    Canceller,
    /// Reported as an outlier, without the effect of a super weight.
    Other,
}

/// One known weight: `layers[layer].mlp.down_proj.weight[row, col]`, unless `linear` names another map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`KnownModel::id`].
    pub model: String,
    /// Layer, from 0.
    pub layer: usize,
    /// The linear map, where it is not `down_proj`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear: Option<Linear>,
    /// The expert, in mixtures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Output channel.
    pub row: usize,
    /// Input channel.
    pub col: usize,
    /// The weight, where somebody reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f32>,
    /// What it is.
    pub role: Role,
    /// Who says so.
    pub source: String,
    /// What that rests on.
    pub evidence: String,
    /// Corrections, and measured activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Entry {
    /// The weight's coordinate.
    pub fn coord(&self) -> WeightCoord {
        WeightCoord {
            linear: self.linear.unwrap_or(Linear::Down),
            expert: self.expert,
            ..WeightCoord::down(self.layer, self.row, self.col)
        }
    }
}

/// Known super weights of known checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Directory {
    /// The checkpoints.
    pub models: Vec<KnownModel>,
    /// The weights, model by model.
    pub super_weights: Vec<Entry>,
}

/// Why a checkpoint was compared with a known model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// By its name.
    Name,
    /// By family and shape only: it may be another training run.
    Shape,
    /// Not at all.
    None,
}

/// A directory's entry beside what the checkpoint has there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The entry.
    pub entry: Entry,
    /// The weight in the checkpoint.
    pub found: f32,
    /// Whether it is the recorded one (to the digits recorded); `null` where none is recorded.
    pub agrees: Option<bool>,
    /// Whether the detection accepted it, decisive or not.
    pub detected: bool,
    /// Whether the detection took it for a canceller.
    pub canceller: bool,
    /// The proof's verdict.
    pub verdict: Option<Verdict>,
}

/// A checkpoint compared with the directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// How the known models were chosen.
    pub matched: Match,
    /// Their ids.
    pub models: Vec<String>,
    /// Every entry of these models.
    pub entries: Vec<Verified>,
    /// Detected super weights that none of these entries names.
    pub unlisted: Vec<Candidate>,
}

impl Directory {
    /// The directory that comes with this crate; every row has its source and evidence.
    pub fn shipped() -> Self {
        serde_json::from_str(include_str!("../data/directory.json")).expect("a test reads it")
    }

    /// Reads a directory from a JSON file of the same form.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another form.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let problem = |e: &dyn std::fmt::Display| Error::Directory {
            problem: format!("{}: {e}", path.display()),
        };
        let text = sw_tensor::files::read_text_at_most(path, 64 << 20).map_err(|e| problem(&e))?;
        serde_json::from_str(&text).map_err(|e| problem(&e))
    }

    /// The entries of one model, by its id or an alias, in any case.
    pub fn of(&self, model: &str) -> Vec<&Entry> {
        let known: Vec<_> = self.models.iter().filter(|m| m.is_called(model)).collect();
        self.entries_of(&known)
    }

    fn entries_of(&self, models: &[&KnownModel]) -> Vec<&Entry> {
        let listed = |e: &&Entry| models.iter().any(|m| m.id == e.model);
        self.super_weights.iter().filter(listed).collect()
    }

    /// Compares a checkpoint, and what was detected in it, with what is known of it.
    ///
    /// `name`: what the model was asked for as; where it and the directory it lies in name no known model, every model
    /// of the same family and shape is compared with.
    ///
    /// # Errors
    /// When a known coordinate lies outside of a model that has its name: then it is not that model.
    pub fn verify(&self, model: &Model, name: &str, report: &Report) -> Result<Verification> {
        let spec = model.spec();
        let dir = model.dir().display().to_string();
        let called: Vec<_> = (self.models.iter())
            .filter(|m| m.is_called(name) || m.is_called(&dir))
            .collect();
        let shaped = |m: &&KnownModel| {
            (m.layers, m.hidden_size, m.intermediate_size)
                == (spec.layers.len(), spec.hidden_size, spec.intermediate_size)
                && m.family == spec.family
        };
        let (matched, known) = if called.is_empty() {
            let known: Vec<_> = self.models.iter().filter(shaped).collect();
            (
                if known.is_empty() {
                    Match::None
                } else {
                    Match::Shape
                },
                known,
            )
        } else {
            (Match::Name, called)
        };
        let mut entries = Vec::new();
        for entry in self.entries_of(&known) {
            let found = model.value(entry.coord())?;
            let mut accepted = report.super_weights.iter().chain(&report.inert);
            let detected = accepted.find(|c| c.coord() == entry.coord());
            entries.push(Verified {
                entry: entry.clone(),
                found,
                agrees: entry.value.map(|v| agrees(v, found)),
                detected: detected.is_some(),
                canceller: report.cancellers.iter().any(|c| c.coord() == entry.coord()),
                verdict: detected.and_then(|c| c.verdict),
            });
        }
        let listed = |c: &&Candidate| entries.iter().any(|v| v.entry.coord() == c.coord());
        Ok(Verification {
            matched,
            models: known.iter().map(|m| m.id.clone()).collect(),
            unlisted: report
                .super_weights
                .iter()
                .filter(|c| !listed(c))
                .cloned()
                .collect(),
            entries,
        })
    }

    /// The directory with what was detected in a model; weights that are there already stay as they are.
    pub fn with(&self, id: &str, model: &Model, report: &Report) -> Self {
        let mut new = self.clone();
        let spec = model.spec();
        let id = match new.models.iter().find(|m| m.is_called(id)) {
            Some(known) => known.id.clone(),
            None => {
                new.models.push(KnownModel {
                    id: id.into(),
                    aliases: Vec::new(),
                    family: spec.family.to_string(),
                    layers: spec.layers.len(),
                    hidden_size: spec.hidden_size,
                    intermediate_size: spec.intermediate_size,
                });
                id.into()
            }
        };
        let roles = [
            (&report.super_weights, Role::SuperWeight),
            (&report.cancellers, Role::Canceller),
        ];
        for (c, role) in roles
            .into_iter()
            .flat_map(|(all, role)| all.iter().map(move |c| (c, role)))
        {
            let known = new
                .super_weights
                .iter()
                .any(|e| e.model == id && e.coord() == c.coord());
            if !known {
                new.super_weights.push(entry(&id, c, role));
            }
        }
        new
    }
}

impl KnownModel {
    /// Whether a name, path or cache folder ends in this model's name.
    fn is_called(&self, name: &str) -> bool {
        let own = self
            .id
            .rsplit('/')
            .next()
            .unwrap_or(&self.id)
            .to_lowercase();
        let name = name.to_lowercase();
        let mut parts = name
            .split(['/', '\\'])
            .map(|part| part.rsplit("--").next().unwrap_or(part));
        parts.any(|part| {
            let part = part.split('@').next().unwrap_or(part);
            part == own || self.aliases.iter().any(|a| a == part)
        })
    }
}

/// Equal to the four digits that such values are recorded with (16-bit checkpoints differ in the last of them).
fn agrees(recorded: f32, found: f32) -> bool {
    (recorded - found).abs() <= 0.005 * recorded.abs()
}

fn entry(model: &str, c: &Candidate, role: Role) -> Entry {
    let effect = c.effects.as_ref().map_or(String::new(), |e| {
        format!(
            "; zeroing it adds {:.3} nats per token ({:.3} to {:.3})",
            e.zero.nll, e.zero.low, e.zero.high
        )
    });
    Entry {
        model: model.into(),
        layer: c.layer,
        linear: Some(c.linear).filter(|&linear| linear != Linear::Down),
        expert: c.expert,
        row: c.row,
        col: c.col,
        value: Some(c.value),
        role,
        source: format!("sw detect {}", env!("CARGO_PKG_VERSION")),
        evidence: format!("measured, round {}{effect}", c.round),
        note: Some(format!(
            "input {:.1}, output {:.1} at token {}",
            c.down_in, c.down_out, c.token
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_directory_is_sound() {
        let directory = Directory::shipped();
        assert_eq!(
            directory.of("huggyllama/llama-7b")[0].coord(),
            WeightCoord::down(2, 3968, 7003)
        );
        for e in &directory.super_weights {
            let model = directory
                .models
                .iter()
                .find(|m| m.id == e.model)
                .expect("a known model");
            let [rows, cols] = match e.coord().linear {
                Linear::Down | Linear::O => [model.hidden_size, model.intermediate_size],
                _ => [model.intermediate_size, model.hidden_size],
            };
            let inside = e.layer < model.layers && e.row < rows && e.col < cols;
            assert!(
                inside && !e.source.is_empty() && !e.evidence.is_empty(),
                "{e:?}"
            );
            let same = |o: &&Entry| o.model == e.model && o.coord() == e.coord();
            assert_eq!(
                directory.super_weights.iter().filter(same).count(),
                1,
                "{e:?}"
            );
        }
        let olmo = directory.of("OLMo-1B-0724-hf");
        let corrected = olmo
            .iter()
            .find(|e| e.col == 8041)
            .expect("a row for column 8041");
        assert_eq!(corrected.layer, 2, "the paper's table says 1");
    }

    #[test]
    fn models_are_known_by_name_path_and_cache_folder() {
        let directory = Directory::shipped();
        let rows = |name: &str| directory.of(name).len();
        assert_eq!(rows("huggyllama/llama-7b"), 1);
        assert_eq!(rows("/data/Llama-7B"), 1);
        assert_eq!(
            rows("/cache/models--huggyllama--llama-7b/snapshots/8416d3f"),
            1
        );
        assert_eq!(rows("huggyllama/llama-7b@main"), 1);
        assert_eq!(rows("meta-llama/Llama-2-7b-hf"), 5);
        assert_eq!(rows("llama-7b-instruct"), 0);
    }
}
