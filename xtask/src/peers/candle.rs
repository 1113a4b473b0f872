//! The checkpoint in candle; built in a scratch folder and driven by `cargo xtask bench-peers`, as `peers.py` is.
//!
//! `peers-candle TYPE MODEL`, TYPE f32 or f16 (candle has no BF16 product on CPUs): a line `prefill N` is answered with the
//! seconds that N tokens take, with the logits of the last one only. `RAYON_NUM_THREADS` sets the threads.

use std::{io::BufRead, path::Path, time::Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, model] = &arguments[..] else {
        return Err("usage: peers-candle TYPE MODEL".into());
    };
    let dtype = match kind.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        other => return Err(format!("type {other}: expected f32 or f16").into()),
    };
    let model = Path::new(model);
    let config: LlamaConfig =
        serde_json::from_reader(std::fs::File::open(model.join("config.json"))?)?;
    let config = config.into_config(false);
    let files = [model.join("model.safetensors")];
    // SAFETY: nothing changes the file meanwhile.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu)? };
    let llama = Llama::load(weights, &config)?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some(n) = line.strip_prefix("prefill ") else {
            return Err(format!("{line}: expected prefill N").into());
        };
        let n: u32 = n.parse()?;
        let tokens: Vec<u32> = (0..n).map(|i| (i * 7919 + 13) % 32000).collect();
        let mut cache = Cache::new(false, dtype, &config, &Device::Cpu)?;
        let start = Instant::now();
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        llama.forward(&tokens, 0, &mut cache)?;
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}
