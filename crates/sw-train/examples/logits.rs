//! Writes the logits of texts under an adapter or a soft prompt, in F32 and a tensor for each text by its number from 0:
//! `cargo run --release -p sw-train --example logits -- MODEL ADAPTER DUMP.json TEXTS OUT.safetensors`.
//!
//! `DUMP.json` is what `sw tune --dump` writes; the first `TEXTS` of its held-out texts are read.
//! `crates/sw-cli/tests/check_tuned.py` compares the file with the logits of transformers and peft.

use std::error::Error;
use std::path::Path;

use ndarray::s;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sw_model::{Model, Seq};
use sw_train::tune::Change;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, dump, count, out] = args.as_slice() else {
        return Err("expected MODEL ADAPTER DUMP.json TEXTS OUT.safetensors".into());
    };
    let dump: Value = serde_json::from_slice(&std::fs::read(dump)?)?;
    let texts: Vec<Vec<u32>> = serde_json::from_value(dump["held_out"].clone())?;
    let model = Model::open(model)?;
    let model = Change::read(&model, Path::new(adapter))?.merged(&model)?;
    let before = model.virtual_tokens();
    let mut tensors = Vec::new();
    for (i, text) in texts.iter().take(count.parse()?).enumerate() {
        let all = [&before[..], text].concat();
        let rows = model.forward(&[Seq::from(&all[..])], &mut ())?;
        let logits = model.logits(rows.slice(s![before.len().., ..]))?;
        let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((i.to_string(), logits.shape().to_vec(), bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, dims, bytes)| Ok((name, TensorView::new(Dtype::F32, dims.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(out, safetensors::serialize(views, None)?)?;
    Ok(())
}
