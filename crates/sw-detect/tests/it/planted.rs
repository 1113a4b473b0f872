//! Small random checkpoints with super weights planted at known coordinates.
//!
//! The first token's embedding has a direction of its own, `u`. A planted super weight `down_proj[row, col]` has a gate
//! and an up row (number `col`) along `u`, so that the first token, and no other, makes a large input, which one large
//! entry of `down_proj` turns into a large output. A canceller sits in a later layer, reads either `u` or the channel
//! that the spike was written to, and writes the opposite there.

use std::{collections::HashMap, path::Path};

use half::bf16;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

pub(crate) const LAYERS: usize = 5;
const HIDDEN: usize = 32;
const FF: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const VOCAB: usize = 64;
const EXPERTS: usize = 4;
/// The token that the planted neurons fire on.
const BOS: u32 = 1;

/// The architecture of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Llama,
    Olmo,
    Phi3,
    Mixtral,
}

/// What is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    One,
    TwoInOneRow,
    ThreeInOneRow,
    ThreeOfOneNeuron,
    OneAndCanceller,
}

/// A place: layer, expert, row, column.
pub(crate) type Place = (usize, Option<usize>, usize, usize);

/// What the detector ought to find, and the prompt to find it with.
#[derive(Debug)]
pub(crate) struct Planted {
    pub(crate) super_weights: Vec<Place>,
    pub(crate) cancellers: Vec<Place>,
    pub(crate) tokens: Vec<u32>,
}

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Approximately normal, with standard deviation `sd`: the sum of four uniform numbers of variance 1/12 each.
    fn normal(&mut self, n: usize, sd: f32) -> Vec<f32> {
        let sd = sd * 3f32.sqrt();
        (0..n)
            .map(|_| sd * (0..4).map(|_| self.uniform(-0.5, 0.5)).sum::<f32>())
            .collect()
    }
}

/// The MLP of one layer, or of one of its experts.
struct Mlp {
    gate: Vec<f32>, // [FF, HIDDEN]
    up: Vec<f32>,   // [FF, HIDDEN]
    down: Vec<f32>, // [HIDDEN, FF]
}

impl Mlp {
    fn random(r: &mut Random) -> Self {
        let sd = 0.5 / (HIDDEN as f32).sqrt();
        Mlp {
            gate: r.normal(FF * HIDDEN, sd),
            up: r.normal(FF * HIDDEN, sd),
            down: r.normal(HIDDEN * FF, 0.02),
        }
    }

    /// Neuron `col` answers a normed input along the unit vector `along` with about `x`, and writes next to nothing.
    fn fire(&mut self, col: usize, along: &[f32], x: f32) {
        self.down
            .iter_mut()
            .skip(col)
            .step_by(FF)
            .for_each(|w| *w *= 0.1);
        let length = (x / HIDDEN as f32).sqrt(); // the normed input has norm sqrt(HIDDEN): gate = up = sqrt(x)
        for (i, a) in along.iter().enumerate() {
            self.gate[col * HIDDEN + i] = length * a;
            self.up[col * HIDDEN + i] = length * a;
        }
    }
}

/// Writes a checkpoint into a directory.
pub(crate) fn write(dir: &Path, shape: Shape, plant: Plant, seed: u64) -> Planted {
    let r = &mut Random(ChaCha8Rng::seed_from_u64(seed));
    let experts = if shape == Shape::Mixtral { EXPERTS } else { 1 };

    // Embedding: ordinary tokens, and BOS along u (of mean 0, for norms that subtract the mean).
    let mut u = r.normal(HIDDEN, 1.0);
    let mean = u.iter().sum::<f32>() / HIDDEN as f32;
    u.iter_mut().for_each(|x| *x -= mean);
    let norm = u.iter().map(|x| x * x).sum::<f32>().sqrt();
    u.iter_mut().for_each(|x| *x /= norm);
    let mut embed = r.normal(VOCAB * HIDDEN, 1.0);
    for (e, u) in embed[BOS as usize * HIDDEN..].iter_mut().zip(&u) {
        *e = u * 2.0 * (HIDDEN as f32).sqrt();
    }

    let mut mlps: Vec<Vec<Mlp>> = (0..LAYERS)
        .map(|_| (0..experts).map(|_| Mlp::random(r)).collect())
        .collect();
    let mut routers: Vec<Vec<f32>> = (0..LAYERS)
        .map(|_| r.normal(EXPERTS * HIDDEN, 0.1))
        .collect();

    // Large spikes pass the absolute threshold, small ones only the relative one.
    let large = r.below(2) == 0;
    let size = |r: &mut Random| {
        if large {
            r.uniform(70.0, 300.0)
        } else {
            r.uniform(15.0, 40.0)
        }
    };
    let (layer, expert) = (r.below(LAYERS - 2), r.below(experts));
    let (row, col) = (r.below(HIDDEN), r.below(FF));
    let sign = if r.below(2) == 0 { 1.0 } else { -1.0 };
    let mut places = Vec::new();
    let mut outputs = 0.0;
    let mut plant_at =
        |r: &mut Random, mlp: &mut Mlp, row: usize, col: usize, x: f32, sign: f32| {
            let w = sign * r.uniform(1.0, 2.5);
            mlp.down[row * FF + col] = w;
            outputs += w * x;
            places.push((layer, row, col));
        };
    let mlp = &mut mlps[layer][expert];
    match plant {
        Plant::Nothing => {}
        Plant::One | Plant::OneAndCanceller => {
            let x = size(r);
            mlp.fire(col, &u, x);
            plant_at(r, mlp, row, col, x, sign);
        }
        Plant::TwoInOneRow | Plant::ThreeInOneRow => {
            let n = if plant == Plant::TwoInOneRow { 2 } else { 3 };
            for col in (0..n).map(|i| (col + 7 * i) % FF) {
                let x = size(r);
                mlp.fire(col, &u, x);
                plant_at(r, mlp, row, col, x, sign);
            }
        }
        Plant::ThreeOfOneNeuron => {
            let x = size(r);
            mlp.fire(col, &u, x);
            for (i, row) in [row, (row + 5) % HIDDEN, (row + 11) % HIDDEN]
                .into_iter()
                .enumerate()
            {
                plant_at(r, mlp, row, col, x, if i == 1 { -sign } else { sign });
            }
        }
    }
    route(&mut routers[layer], expert, &u);

    let mut cancellers = Vec::new();
    if plant == Plant::OneAndCanceller {
        let (late, late_expert, late_col) = (
            layer + 1 + r.below(LAYERS - layer - 1),
            r.below(experts),
            r.below(FF),
        );
        let mut along = u.clone();
        if r.below(2) == 0 {
            // Reads the spike itself; with the mean subtracted the channel is still by far the largest.
            along = (0..HIDDEN)
                .map(|i| if i == row { outputs.signum() } else { 0.0 })
                .collect();
        }
        let x = size(r);
        let mlp = &mut mlps[late][late_expert];
        mlp.fire(late_col, &along, x);
        mlp.down[row * FF + late_col] = -outputs.signum() * r.uniform(1.0, 2.5);
        route(&mut routers[late], late_expert, &along);
        cancellers.push((late, late_expert, row, late_col));
    }

    save(dir, shape, r, &embed, &mlps, &routers);
    let named = |e: usize| (shape == Shape::Mixtral).then_some(e);
    let rest = (0..6 + r.below(6))
        .map(|_| 2 + r.below(VOCAB - 2) as u32)
        .collect::<Vec<_>>();
    Planted {
        super_weights: places
            .into_iter()
            .map(|(l, row, col)| (l, named(expert), row, col))
            .collect(),
        cancellers: cancellers
            .into_iter()
            .map(|(l, e, row, col)| (l, named(e), row, col))
            .collect(),
        tokens: [vec![BOS], rest].concat(),
    }
}

/// Tokens along `along` go to this expert.
fn route(router: &mut [f32], expert: usize, along: &[f32]) {
    for (w, a) in router[expert * HIDDEN..].iter_mut().zip(along) {
        *w = 2.0 * a;
    }
}

fn save(
    dir: &Path,
    shape: Shape,
    r: &mut Random,
    embed: &[f32],
    mlps: &[Vec<Mlp>],
    routers: &[Vec<f32>],
) {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut put =
        |name: String, shape: &[usize], data: Vec<f32>| tensors.push((name, shape.to_vec(), data));
    let ones = || vec![1.0; HIDDEN];
    put(
        "model.embed_tokens.weight".into(),
        &[VOCAB, HIDDEN],
        embed.to_vec(),
    );
    put(
        "lm_head.weight".into(),
        &[VOCAB, HIDDEN],
        r.normal(VOCAB * HIDDEN, 0.1),
    );
    if shape != Shape::Olmo {
        put("model.norm.weight".into(), &[HIDDEN], ones());
    }
    for (l, experts) in mlps.iter().enumerate() {
        let p = format!("model.layers.{l}.");
        if shape != Shape::Olmo {
            put(format!("{p}input_layernorm.weight"), &[HIDDEN], ones());
            put(
                format!("{p}post_attention_layernorm.weight"),
                &[HIDDEN],
                ones(),
            );
        }
        let mut attention = |rows: usize| r.normal(rows * HIDDEN, 0.2 / (HIDDEN as f32).sqrt());
        let (q, k, v, o) = (
            attention(HIDDEN),
            attention(kv),
            attention(kv),
            attention(HIDDEN),
        );
        if shape == Shape::Phi3 {
            put(
                format!("{p}self_attn.qkv_proj.weight"),
                &[HIDDEN + 2 * kv, HIDDEN],
                [q, k, v].concat(),
            );
        } else {
            put(format!("{p}self_attn.q_proj.weight"), &[HIDDEN, HIDDEN], q);
            put(format!("{p}self_attn.k_proj.weight"), &[kv, HIDDEN], k);
            put(format!("{p}self_attn.v_proj.weight"), &[kv, HIDDEN], v);
        }
        put(format!("{p}self_attn.o_proj.weight"), &[HIDDEN, HIDDEN], o);
        for (e, mlp) in experts.iter().enumerate() {
            let (gate, up, down) = (mlp.gate.clone(), mlp.up.clone(), mlp.down.clone());
            match shape {
                Shape::Llama | Shape::Olmo => {
                    put(format!("{p}mlp.gate_proj.weight"), &[FF, HIDDEN], gate);
                    put(format!("{p}mlp.up_proj.weight"), &[FF, HIDDEN], up);
                    put(format!("{p}mlp.down_proj.weight"), &[HIDDEN, FF], down);
                }
                Shape::Phi3 => {
                    put(
                        format!("{p}mlp.gate_up_proj.weight"),
                        &[2 * FF, HIDDEN],
                        [gate, up].concat(),
                    );
                    put(format!("{p}mlp.down_proj.weight"), &[HIDDEN, FF], down);
                }
                Shape::Mixtral => {
                    let p = format!("{p}block_sparse_moe.experts.{e}.");
                    put(format!("{p}w1.weight"), &[FF, HIDDEN], gate);
                    put(format!("{p}w3.weight"), &[FF, HIDDEN], up);
                    put(format!("{p}w2.weight"), &[HIDDEN, FF], down);
                }
            }
        }
        if shape == Shape::Mixtral {
            put(
                format!("{p}block_sparse_moe.gate.weight"),
                &[EXPERTS, HIDDEN],
                routers[l].clone(),
            );
        }
    }
    let half = r.below(2) == 0;
    let bytes = |data: &[f32]| -> Vec<u8> {
        if half {
            data.iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect()
        } else {
            data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    };
    let stored: Vec<_> = tensors
        .iter()
        .map(|(name, shape, data)| (name, shape, bytes(data)))
        .collect();
    let dtype = if half { Dtype::BF16 } else { Dtype::F32 };
    let views: HashMap<_, _> = stored
        .iter()
        .map(|(name, shape, data)| {
            (
                name.as_str(),
                TensorView::new(dtype, shape.to_vec(), data).expect("sizes agree"),
            )
        })
        .collect();
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors"))
        .expect("a writable directory");
    std::fs::write(dir.join("config.json"), config(shape).to_string())
        .expect("a writable directory");
}

fn config(shape: Shape) -> serde_json::Value {
    let mut config = json!({
        "hidden_size": HIDDEN, "intermediate_size": FF, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 128, "hidden_act": "silu",
        "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": BOS, "eos_token_id": 2, "pad_token_id": 0,
    });
    let own = match shape {
        Shape::Llama => json!({"model_type": "llama", "rms_norm_eps": 1e-6}),
        Shape::Olmo => json!({"model_type": "olmo", "clip_qkv": null}),
        Shape::Phi3 => json!({"model_type": "phi3", "rms_norm_eps": 1e-6, "sliding_window": null}),
        Shape::Mixtral => {
            json!({"model_type": "mixtral", "rms_norm_eps": 1e-6, "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2, "sliding_window": null})
        }
    };
    let all = config.as_object_mut().expect("an object");
    all.extend(own.as_object().expect("an object").clone());
    config
}
