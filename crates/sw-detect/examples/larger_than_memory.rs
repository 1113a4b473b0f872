//! Detection in a checkpoint larger than the machine's memory.
//!
//! Writes a checkpoint of Llama-30B's shape (60 layers, hidden 6656, intermediate 17920: 65 GB) as a sparse file, zero
//! but for one planted super weight at the published coordinate of layer 3, searches it, and prints how long that took
//! and how much private memory (`RssAnon`) the process had at most.
//!
//! ```sh
//! cargo run --release -p sw-detect --example larger_than_memory [LAYERS]
//! ```

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use half::f16;
use serde_json::{Map, json};
use sw_detect::{DetectOptions, detect};
use sw_model::Model;

const HIDDEN: usize = 6656;
const FF: usize = 17920;
const HEADS: usize = 52;
const VOCAB: usize = 32000;
/// Layer, row and column that the paper's Table 2 names for this model.
const PLANTED: (usize, usize, usize) = (3, 5633, 12817);
/// Channels in which the first token's embedding is not zero.
const CHANNELS: usize = 16;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let layers = std::env::args().nth(1).map_or(Ok(60), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let size = write(dir.path(), layers)?;
    println!(
        "checkpoint of {:.1} GB apparent size, {layers} layers",
        size as f64 / 1e9
    );

    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(private_kib(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = search(dir.path());
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    println!(
        "private memory at most {:.2} GiB",
        peak.into_inner() as f64 / f64::from(1 << 20)
    );
    Ok(())
}

fn search(dir: &Path) -> Outcome<()> {
    let start = Instant::now();
    let model = Model::open(dir)?;
    println!("opened in {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let report = detect(
        &model,
        &[1, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        &DetectOptions::default(),
    )?;
    println!(
        "searched in {:.1} s, {} rounds",
        start.elapsed().as_secs_f64(),
        report.rounds
    );
    let found: Vec<_> = report
        .super_weights
        .iter()
        .map(|c| (c.layer, c.row, c.col))
        .collect();
    println!("found {found:?}, planted {PLANTED:?}");
    assert_eq!(found, [PLANTED]);
    Ok(())
}

/// Private memory of this process in KiB.
fn private_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Writes config, header and the few elements that are not zero; returns the apparent size in bytes.
fn write(dir: &Path, layers: usize) -> Outcome<u64> {
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FF, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB, "hidden_act": "silu",
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    });
    std::fs::write(dir.join("config.json"), config.to_string())?;

    let mut header = Map::new();
    let mut end = 0;
    let mut put = |name: String, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            name,
            json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}),
        );
        start
    };
    let mut norms = Vec::new();
    let embed = put("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]);
    let mut planted = [0; 3];
    for l in 0..layers {
        let p = format!("model.layers.{l}.");
        norms.push(put(format!("{p}input_layernorm.weight"), &[HIDDEN]));
        norms.push(put(
            format!("{p}post_attention_layernorm.weight"),
            &[HIDDEN],
        ));
        for name in ["q", "k", "v", "o"] {
            put(
                format!("{p}self_attn.{name}_proj.weight"),
                &[HIDDEN, HIDDEN],
            );
        }
        let gate = put(format!("{p}mlp.gate_proj.weight"), &[FF, HIDDEN]);
        let up = put(format!("{p}mlp.up_proj.weight"), &[FF, HIDDEN]);
        let down = put(format!("{p}mlp.down_proj.weight"), &[HIDDEN, FF]);
        if l == PLANTED.0 {
            planted = [gate, up, down];
        }
    }
    norms.push(put("model.norm.weight".into(), &[HIDDEN]));
    put("lm_head.weight".into(), &[VOCAB, HIDDEN]);

    let header = serde_json::to_string(&header)?;
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let mut file = File::create(dir.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let data = (8 + header.len()) as u64;
    file.set_len(data + end as u64)?; // sparse: nothing but holes
    let mut at = |offset: usize, value: f32, n: usize| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(data + offset as u64))?;
        file.write_all(&f16::from_f32(value).to_le_bytes().repeat(n))
    };
    for norm in norms {
        at(norm, 1.0, HIDDEN)?;
    }
    let (_, row, col) = PLANTED;
    at(embed + 2 * HIDDEN, 1.0, CHANNELS)?; // token 1
    at(planted[0] + 2 * col * HIDDEN, 0.06, CHANNELS)?;
    at(planted[1] + 2 * col * HIDDEN, 0.06, CHANNELS)?;
    at(planted[2] + 2 * (row * FF + col), 2.0, 1)?;
    Ok(data + end as u64)
}
