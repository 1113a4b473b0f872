//! What a training leaves beside the model it began with: adapters or a soft prompt in PEFT's layout, or tiles and their
//! values.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, s};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use sw_model::{LinearAt, Model, TensorAt};
use sw_tensor::files::read_at_most;

use super::adapter::{Adapter, AdapterOptions};
use super::prompt::read_prompt;
use super::trainer::merged;
use crate::checkpoint::{Precision, read_tensors, write, write_tensors};
use crate::error::{Error, Result};
use crate::gradient::Block;
use crate::tiles::TileSelection;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
const SELECTION: &str = "selection.json";
const TILES: &str = "tiles.safetensors";
/// Bytes of an adapter's config, at most.
const MOST_CONFIG: u64 = 16 << 20;
/// What PEFT puts before the names of modules.
const PREFIX: &str = "base_model.model.";

/// A change of a model, by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// LoRA or DoRA adapters.
    Adapters(BTreeMap<LinearAt, Adapter>),
    /// New values of tiles.
    Tiles(TileValues),
    /// A soft prompt, `[virtual tokens, hidden]`, which changes no weight.
    Prompt(Array2<f32>),
}

impl Change {
    /// The files that a change is made of; a folder has two of them.
    pub const FILES: [&'static str; 4] = [CONFIG, ADAPTER, SELECTION, TILES];

    /// Reads a folder: of PEFT (`adapter_config.json`), or of tiles (`selection.json`).
    ///
    /// # Errors
    /// A folder that is neither; adapters of a kind that is not known, or tiles, that do not fit the model.
    pub fn read(model: &Model, dir: &Path) -> Result<Change> {
        if dir.join(CONFIG).is_file() {
            return read_peft(model, dir);
        }
        if dir.join(SELECTION).is_file() {
            return Ok(Change::Tiles(TileValues::read(model, dir)?));
        }
        Err(Error::content(
            dir,
            format!("expected a folder with {CONFIG} (PEFT) or {SELECTION} (tiles)"),
        ))
    }

    /// The model with this change in its weights. Matrices that it touches are in f32 then. A soft prompt is put before texts
    /// instead ([`Model::with_soft_prompt`]).
    ///
    /// # Errors
    /// A change that does not fit the model.
    pub fn merged(&self, model: &Model) -> Result<Model> {
        match self {
            Change::Adapters(adapters) => merged(model, adapters),
            Change::Tiles(tiles) => tiles.merged(model),
            Change::Prompt(rows) => Ok(model.with_soft_prompt(rows.clone())?),
        }
    }

    /// The tensors that it changes.
    pub fn tensors(&self) -> Vec<TensorAt> {
        let mut maps: Vec<LinearAt> = match self {
            Change::Adapters(adapters) => adapters.keys().copied().collect(),
            Change::Tiles(tiles) => tiles.selection.tiles.iter().map(|tile| tile.at).collect(),
            Change::Prompt(_) => Vec::new(),
        };
        maps.sort_unstable();
        maps.dedup();
        maps.into_iter().map(TensorAt::Weight).collect()
    }

    /// How many numbers it is.
    pub fn count(&self) -> usize {
        match self {
            Change::Adapters(adapters) => adapters.values().map(Adapter::count).sum(),
            Change::Tiles(tiles) => tiles.selection.weights(),
            Change::Prompt(rows) => rows.len(),
        }
    }
}

/// Tiles and the values of their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct TileValues {
    /// Which tiles.
    pub selection: TileSelection,
    /// The values of each tile of the selection, in its order, `[side, side]`.
    pub values: Vec<Array2<f32>>,
}

impl TileValues {
    /// The values that a model has in these tiles.
    ///
    /// # Errors
    /// Tiles that do not fit the model.
    pub fn of(model: &Model, selection: &TileSelection) -> Result<TileValues> {
        selection.blocks(model)?; // says what does not fit
        let side = selection.side;
        let value = |tile: &crate::tiles::Tile| {
            let mut values = Array2::zeros((side, side));
            let block = tile.block(side);
            if let (Some(w), Some(into)) = (model.weight_at(tile.at), values.as_slice_mut()) {
                w.widen(block.rows, block.cols, into);
            }
            values
        };
        Ok(TileValues {
            selection: selection.clone(),
            values: selection.tiles.iter().map(value).collect(),
        })
    }

    /// The model with these values.
    ///
    /// # Errors
    /// Tiles that do not fit the model.
    pub fn merged(&self, model: &Model) -> Result<Model> {
        self.selection.blocks(model)?;
        let mut model = model.clone();
        for (tile, values) in self.selection.tiles.iter().zip(&self.values) {
            let at = TensorAt::Weight(tile.at);
            let shape = model.tensor_shape(at).unwrap_or_default();
            let Block { rows, cols } = tile.block(self.selection.side);
            model.change(at, |all| {
                if let Ok(mut all) = ndarray::ArrayViewMut2::from_shape(shape, all) {
                    all.slice_mut(s![rows, cols]).assign(values);
                }
            })?;
        }
        Ok(model)
    }

    /// Writes `selection.json` and `tiles.safetensors` into a folder: for each map a tensor of its weight's name,
    /// `[tiles, side, side]` in f32, its tiles in the order of the selection.
    ///
    /// # Errors
    /// If a file cannot be written, and tiles that do not fit the model.
    pub fn write(&self, model: &Model, dir: &Path) -> Result<()> {
        let mut by_map: BTreeMap<LinearAt, Vec<&Array2<f32>>> = BTreeMap::new();
        for (tile, values) in self.selection.tiles.iter().zip(&self.values) {
            by_map.entry(tile.at).or_default().push(values);
        }
        let side = self.selection.side;
        let tensor = |(at, tiles): (LinearAt, Vec<&Array2<f32>>)| {
            let values = tiles.iter().flat_map(|tile| tile.iter().copied());
            let bytes = Precision::F32.bytes(values);
            Ok((
                name(model, at)?,
                vec![tiles.len(), side, side],
                Dtype::F32,
                bytes,
            ))
        };
        let tensors = by_map.into_iter().map(tensor).collect::<Result<Vec<_>>>()?;
        write_tensors(&dir.join(TILES), tensors)?;
        self.selection.write(&dir.join(SELECTION))
    }

    fn read(model: &Model, dir: &Path) -> Result<TileValues> {
        let selection = TileSelection::read(&dir.join(SELECTION))?;
        let fits = selection.blocks(model).map(|_| ());
        fits.map_err(|e| Error::content(dir.join(SELECTION), e))?;
        let side = selection.side;
        let mut counts: BTreeMap<LinearAt, usize> = BTreeMap::new();
        for tile in &selection.tiles {
            *counts.entry(tile.at).or_default() += 1;
        }
        let mut by_map: BTreeMap<LinearAt, Array2<f32>> = BTreeMap::new();
        read_tensors(&dir.join(TILES), |file| {
            for (&at, &count) in &counts {
                let mut values = Array2::zeros((count, side * side));
                file.read_shaped(&name(model, at)?, &[count, side, side], &mut values)?;
                by_map.insert(at, values);
            }
            Ok(())
        })?;
        let mut next: BTreeMap<LinearAt, usize> = BTreeMap::new();
        let value = |tile: &crate::tiles::Tile| {
            let i = next.entry(tile.at).or_default();
            *i += 1;
            let row = by_map[&tile.at].row(*i - 1).to_vec();
            Array2::from_shape_vec((side, side), row).unwrap_or_default()
        };
        Ok(TileValues {
            values: selection.tiles.iter().map(value).collect(),
            selection,
        })
    }
}

fn name(model: &Model, at: LinearAt) -> Result<String> {
    let name = model.spec().name_of(TensorAt::Weight(at));
    name.ok_or_else(|| Error::Shape(format!("the model has no {at}")))
}

/// The name of a map without `.weight`.
fn module(model: &Model, at: LinearAt) -> Result<String> {
    let name = name(model, at)?;
    Ok(name.strip_suffix(".weight").unwrap_or(&name).to_owned())
}

/// Writes adapters into a folder as PEFT has them: `adapter_config.json` and `adapter_model.safetensors` in f32. `base` is what
/// the config names as the model.
///
/// # Errors
/// If a file cannot be written.
pub fn write_adapters(
    model: &Model,
    adapters: &BTreeMap<LinearAt, Adapter>,
    options: &AdapterOptions,
    base: &str,
    dir: &Path,
) -> Result<()> {
    let mut tensors = Vec::new();
    for (&at, adapter) in adapters {
        let module = format!("{PREFIX}{}", module(model, at)?);
        let mut push = |end: &str, shape: Vec<usize>, values: &Array2<f32>| {
            let bytes = Precision::F32.bytes(values.iter().copied());
            tensors.push((format!("{module}.{end}"), shape, Dtype::F32, bytes));
        };
        push("lora_A.weight", adapter.a.shape().to_vec(), &adapter.a);
        push("lora_B.weight", adapter.b.shape().to_vec(), &adapter.b);
        if let Some(m) = &adapter.magnitude {
            push("lora_magnitude_vector", vec![m.len()], m);
        }
    }
    write_tensors(&dir.join(ADAPTER), tensors)?;
    let targets: Vec<String> = options.targets.iter().map(ToString::to_string).collect();
    let config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": options.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": options.rank,
        "rank_pattern": {},
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": options.dora,
        "use_rslora": false,
    });
    write(&dir.join(CONFIG), format!("{config:#}\n").as_bytes())
}

/// Whether a field of a config says nothing.
pub(super) fn none(value: &Value) -> bool {
    value.is_null() || *value == json!(false) || *value == json!({}) || *value == json!([])
}

/// Reads what PEFT wrote.
fn read_peft(model: &Model, dir: &Path) -> Result<Change> {
    let path = dir.join(CONFIG);
    let bytes = read_at_most(&path, MOST_CONFIG).map_err(Error::file(&path))?;
    let config: Value = serde_json::from_slice(&bytes).map_err(|e| Error::content(&path, e))?;
    match config["peft_type"].as_str().unwrap_or("LORA") {
        "LORA" => Ok(Change::Adapters(read_adapters(model, dir, &config)?)),
        "PROMPT_TUNING" => Ok(Change::Prompt(read_prompt(model, dir, &config)?)),
        other => Err(Error::content(
            &path,
            format!("peft_type is {other:?}, expected \"LORA\" or \"PROMPT_TUNING\""),
        )),
    }
}

/// Reads PEFT's LoRA or DoRA adapters of linear maps of the layers.
fn read_adapters(model: &Model, dir: &Path, config: &Value) -> Result<BTreeMap<LinearAt, Adapter>> {
    let no = |field: &str, found: &Value, expected: &str| {
        let problem = format!("{field} is {found}, expected {expected}");
        Error::content(dir.join(CONFIG), problem)
    };
    let bias = &config["bias"];
    if bias.as_str().unwrap_or("none") != "none" {
        return Err(no("bias", bias, "none"));
    }
    // What changes the arithmetic or other tensors, and is not implemented.
    for field in [
        "fan_in_fan_out",
        "modules_to_save",
        "alpha_pattern",
        "lora_bias",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
        "use_qalora",
    ] {
        if !none(&config[field]) {
            return Err(no(
                field,
                &config[field],
                "none, which is all that is known",
            ));
        }
    }
    let alpha = config["lora_alpha"].as_f64();
    let alpha = alpha.ok_or_else(|| no("lora_alpha", &config["lora_alpha"], "a number"))?;
    let root = config["use_rslora"] == json!(true);
    let dora = config["use_dora"] == json!(true);

    let mut maps = BTreeMap::new();
    for at in model.linears() {
        maps.insert(module(model, at)?, at);
    }
    let file_path = dir.join(ADAPTER);
    let mut adapters = BTreeMap::new();
    read_tensors(&file_path, |file| {
        let unknown = |name: &str| {
            let what = format!("{name} is no part of an adapter of a linear map of this model");
            Error::content(&file_path, what)
        };
        let mut used = 0;
        for name in file.names() {
            let Some(module) = name.strip_suffix(".lora_A.weight") else {
                continue;
            };
            let at = module
                .strip_prefix(PREFIX)
                .and_then(|module| maps.get(module));
            let &at = at.ok_or_else(|| unknown(name))?;
            let [rows, cols] = model.spec().shape(at);
            let rank = file.rows(name)?;
            if rank == 0 || rank > rows.min(cols) {
                return Err(Error::content(
                    &file_path,
                    format!("{name} has {rank} rows, expected 1 to {}", rows.min(cols)),
                ));
            }
            let (mut a, mut b) = (Array2::zeros((rank, cols)), Array2::zeros((rows, rank)));
            file.read(name, &mut a)?;
            file.read(&format!("{module}.lora_B.weight"), &mut b)?;
            used += 2;
            let magnitude = match dora {
                true => {
                    let mut m = Array2::zeros((1, rows));
                    let plain = format!("{module}.lora_magnitude_vector");
                    let name = [format!("{plain}.weight"), plain];
                    let found = name
                        .iter()
                        .find(|name| file.names().contains(&name.as_str()));
                    file.read(found.unwrap_or(&name[1]), &mut m)?;
                    used += 1;
                    Some(m)
                }
                false => None,
            };
            let over = if root {
                (rank as f64).sqrt()
            } else {
                rank as f64
            };
            let adapter = Adapter {
                a,
                b,
                scale: (alpha / over) as f32,
                magnitude,
            };
            adapters.insert(at, adapter);
        }
        if used != file.names().len() {
            let part = |name: &&str| name.contains(".lora_");
            let names = file.names();
            let odd = names.iter().find(|name| !part(name)).or(names.first());
            return Err(unknown(odd.unwrap_or(&"nothing")));
        }
        Ok(())
    })?;
    match adapters.is_empty() {
        true => Err(Error::content(&file_path, "holds no adapter")),
        false => Ok(adapters),
    }
}
