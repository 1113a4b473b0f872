//! Every family that GGUF knows: the small random checkpoints of `golden/`, written as a GGUF file with the names, the
//! metadata and the changes of llama.cpp's converter, have the logits that they have in Hugging Face layout (which
//! `tests/golden.rs` compares with transformers).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use sw_model::{Model, Seq};

use crate::written::Written;

/// Shape and values.
type Tensor = (Vec<usize>, Vec<f32>);
/// Tensors by name.
type Tensors = BTreeMap<String, Tensor>;

/// Where a name of the checkpoint goes: part of it, and what stands there in GGUF.
const LLAMA: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers.", "blk."),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("input_layernorm", "attn_norm"),
];
/// Where the norm after attention is the one before the block.
const PLAIN_NORMS: &[(&str, &str)] = &[("post_attention_layernorm", "ffn_norm")];
const SANDWICHED: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const GPT_2: &[(&str, &str)] = &[
    ("transformer.", ""),
    ("wte.", "token_embd."),
    ("wpe.", "position_embd."),
    ("ln_f", "output_norm"),
    ("h.", "blk."),
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
const GPT_NEOX: &[(&str, &str)] = &[
    ("gpt_neox.embed_in", "token_embd"),
    ("gpt_neox.final_layer_norm", "output_norm"),
    ("embed_out", "output"),
    ("gpt_neox.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

/// A checkpoint, its architecture in GGUF, and what GGUF cannot say about it: fields that get another value on both sides.
fn check(case: &str, arch: &str, fields: Value, keys: Value) {
    let mut config = read_config(case);
    let mut tensors = read_tensors(case);
    for (name, value) in fields.as_object().unwrap() {
        assert!(config.contains_key(name), "{case}: {name}");
        config[name] = value.clone();
    }
    if case == "qwen3_moe" {
        // Every layer has experts in GGUF; the first one's are those of the second here.
        let dense = |name: &str| name.starts_with("model.layers.0.mlp.");
        tensors.retain(|name, _| !dense(name));
        let second = tensors.clone();
        let of_second = |name: &str| name.starts_with("model.layers.1.mlp.");
        for (name, tensor) in second.into_iter().filter(|(name, _)| of_second(name)) {
            tensors.insert(name.replacen(".1.", ".0.", 1), tensor);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write_layout(&folder.path().join("hf"), &config, &tensors);
    let file = gguf(arch, &config, tensors, &keys);
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();

    let source = Model::open(folder.path().join("hf")).unwrap();
    let model = Model::open(&path).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(model.gguf().unwrap().main_type, "F32");
    assert!(model.warnings().is_empty(), "{:?}", model.warnings());
    assert_eq!(model.spec().family, source.spec().family);
    let tokens: Vec<u32> = (0..14).map(|i| (i * 37 + 5) % 99).collect();
    let logits = |model: &Model| {
        let rows = model.forward(&[Seq::from(&tokens[..])], &mut ()).unwrap();
        model.logits(rows.view()).unwrap()
    };
    let (expected, found) = (logits(&source), logits(&model));
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = (&expected - &found)
        .iter()
        .fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(largest > 0.1, "{case}: logits that show nothing");
    assert!(
        worst <= 2e-5 * largest,
        "{case}: logits off by {worst:e} of {largest}"
    );
}

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

fn read_config(case: &str) -> Map<String, Value> {
    let text = fs::read_to_string(golden(case).join("config.published.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read_tensors(case: &str) -> Tensors {
    let mut tensors = Tensors::new();
    for entry in fs::read_dir(golden(case)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model") || !name.ends_with(".safetensors") {
            continue;
        }
        let file = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&file).unwrap().iter() {
            // Buffers of old checkpoints, which the converter leaves out.
            let buffers = [".attn.bias", ".masked_bias", ".inv_freq", ".attention.bias"];
            if buffers.iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let half = |widen: fn([u8; 2]) -> f32| -> Vec<f32> {
                let halves = view.data().as_chunks().0.iter();
                halves.map(|&b| widen(b)).collect()
            };
            let values = match view.dtype() {
                Dtype::BF16 => half(|b| bf16::from_le_bytes(b).to_f32()),
                Dtype::F16 => half(|b| f16::from_le_bytes(b).to_f32()),
                Dtype::F32 => {
                    let words = view.data().as_chunks().0.iter();
                    words.map(|&b| f32::from_le_bytes(b)).collect()
                }
                other => panic!("{name}: {other:?}"),
            };
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
    }
    tensors
}

/// The checkpoint in Hugging Face layout, as F32.
fn write_layout(dir: &Path, config: &Map<String, Value>, tensors: &Tensors) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("config.json"), json!(config).to_string()).unwrap();
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (
                name,
                shape,
                values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), data);
        (name.as_str(), view.unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// What llama.cpp's converter makes of a checkpoint.
fn gguf(arch: &str, config: &Map<String, Value>, tensors: Tensors, keys: &Value) -> Written {
    let mut file = Written::default();
    let field = |name: &str| config.get(name).filter(|v| !v.is_null());
    let number = |name: &str| field(name).and_then(Value::as_u64).map(|n| n as usize);
    file.key("general.architecture", &json!(arch));
    let renamed = [
        (
            &["max_position_embeddings", "n_positions"][..],
            "context_length",
        ),
        (&["hidden_size", "n_embd"], "embedding_length"),
        (&["num_hidden_layers", "n_layer"], "block_count"),
        (&["intermediate_size", "n_inner"], "feed_forward_length"),
        (&["num_attention_heads", "n_head"], "attention.head_count"),
        (&["num_key_value_heads"], "attention.head_count_kv"),
        (&["rms_norm_eps"], "attention.layer_norm_rms_epsilon"),
        (
            &["layer_norm_epsilon", "layer_norm_eps"],
            "attention.layer_norm_epsilon",
        ),
        (&["rope_theta", "rotary_emb_base"], "rope.freq_base"),
        (&["num_local_experts", "num_experts"], "expert_count"),
        (&["num_experts_per_tok"], "expert_used_count"),
        (&["moe_intermediate_size"], "expert_feed_forward_length"),
        (&["attn_logit_softcapping"], "attn_logit_softcapping"),
        (&["final_logit_softcapping"], "final_logit_softcapping"),
        (&["use_parallel_residual"], "use_parallel_residual"),
    ];
    for (names, key) in renamed {
        if let Some(value) = names.iter().find_map(|name| field(name)) {
            file.key(&format!("{arch}.{key}"), value);
        }
    }
    if let Some(head_dim) = field("head_dim") {
        file.key(&format!("{arch}.attention.key_length"), head_dim);
        file.key(&format!("{arch}.attention.value_length"), head_dim);
    }
    for (key, value) in keys.as_object().unwrap() {
        file.key(&format!("{arch}.{key}"), value);
    }
    let heads = number("num_attention_heads").or(number("n_head")).unwrap();
    let key_heads = number("num_key_value_heads").unwrap_or(heads);
    let is_llama = arch == "llama";
    let names: Vec<_> = match arch {
        "gpt2" => GPT_2.to_vec(),
        "gptneox" => GPT_NEOX.to_vec(),
        "gemma2" | "gemma3" | "olmo2" => [LLAMA, SANDWICHED].concat(),
        _ => [LLAMA, PLAIN_NORMS].concat(),
    };
    let mut experts: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for (name, (mut shape, mut values)) in tensors {
        if let Some((block, rest)) = name.split_once(".experts.") {
            let layer = block.split('.').nth(2).unwrap();
            let (expert, rest) = rest.split_once('.').unwrap();
            let kind = match rest {
                "w1.weight" | "gate_proj.weight" => "gate",
                "w3.weight" | "up_proj.weight" => "up",
                _ => "down",
            };
            let merged = format!("blk.{layer}.ffn_{kind}_exps.weight");
            let parts = experts.entry(merged).or_default();
            parts.insert(expert.parse().unwrap(), (shape, values));
            continue;
        }
        if is_llama && name.contains("q_proj") {
            values = interleaved(&shape, &values, heads);
        }
        if is_llama && name.contains("k_proj") {
            values = interleaved(&shape, &values, key_heads);
        }
        if arch.starts_with("gemma") && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        if name.contains("query_key_value") {
            values = gathered(&shape, &values, heads);
        }
        if arch == "gpt2" && shape.len() == 2 && name.contains(".c_") {
            values = transposed(&shape, &values);
            shape.reverse();
        }
        let mut stored = name;
        for (from, to) in &names {
            let at = stored.find(from).filter(|&at| {
                let end = stored[at + from.len()..].chars().next();
                let begins = at == 0 || stored.as_bytes()[at - 1] == b'.';
                begins && (from.ends_with('.') || end == Some('.'))
            });
            if let Some(at) = at {
                stored.replace_range(at..at + from.len(), to);
            }
        }
        file.tensor(&stored, &shape, &values);
    }
    for (name, parts) in experts {
        let shape = [&[parts.len()], &parts[&0].0[..]].concat();
        let values: Vec<f32> = parts.into_values().flat_map(|(_, values)| values).collect();
        file.tensor(&name, &shape, &values);
    }
    rope_factors(&mut file, config);
    file
}

/// In each head, channel `i` of the first half and channel `i` of the second become neighbours.
fn interleaved(shape: &[usize], values: &[f32], heads: usize) -> Vec<f32> {
    let cols = shape.get(1).copied().unwrap_or(1);
    let half = shape[0] / heads / 2;
    let row = |r: usize| {
        let (head, i) = (r / (2 * half), r % (2 * half));
        head * 2 * half + i % 2 * half + i / 2
    };
    let rows = (0..shape[0]).map(row);
    rows.flat_map(|r| &values[r * cols..(r + 1) * cols])
        .copied()
        .collect()
}

/// Query, key and value of each head become all queries, all keys, all values.
fn gathered(shape: &[usize], values: &[f32], heads: usize) -> Vec<f32> {
    let cols = shape.get(1).copied().unwrap_or(1);
    let width = shape[0] / heads / 3;
    let blocks = (0..3).flat_map(|part| (0..heads).map(move |head| head * 3 + part));
    let rows = blocks.flat_map(|block| block * width..(block + 1) * width);
    rows.flat_map(|r| &values[r * cols..(r + 1) * cols])
        .copied()
        .collect()
}

fn transposed(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let [rows, cols] = shape.try_into().unwrap();
    let places = (0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c));
    places.map(|at| values[at]).collect()
}

/// Tensors of factors, where the config has them: computed for Llama 3, copied for longrope.
fn rope_factors(file: &mut Written, config: &Map<String, Value>) {
    let scaling = config.get("rope_scaling").unwrap_or(&Value::Null);
    let number = |name: &str| scaling[name].as_f64().unwrap();
    let list = |name: &str| -> Option<Vec<f32>> {
        let list = scaling[name].as_array()?;
        list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
    };
    for (name, tensor) in [
        ("long_factor", "rope_factors_long.weight"),
        ("short_factor", "rope_factors_short.weight"),
    ] {
        if let Some(factors) = list(name) {
            file.tensor(tensor, &[factors.len()], &factors);
        }
    }
    if scaling["rope_type"] == "llama3" {
        let (theta, dim) = (
            config["rope_theta"].as_f64().unwrap(),
            config["head_dim"].as_u64().unwrap(),
        );
        let (factor, low, high) = (
            number("factor"),
            number("low_freq_factor"),
            number("high_freq_factor"),
        );
        let original = number("original_max_position_embeddings");
        let of = |i: u64| {
            let length = std::f64::consts::TAU * theta.powf((2 * i) as f64 / dim as f64);
            if length < original / high {
                1.0
            } else if length > original / low {
                factor
            } else {
                let smooth = (original / length - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        let factors: Vec<f32> = (0..dim / 2).map(|i| of(i) as f32).collect();
        file.tensor("rope_freqs.weight", &[factors.len()], &factors);
    }
}

macro_rules! cases {
    ($($test:ident: $case:literal as $arch:literal, $fields:tt, $keys:tt;)*) => {
        $(#[test]
        fn $test() {
            check($case, $arch, json!($fields), json!($keys));
        })*
    };
}

// The third braces: fields whose values GGUF has no key for; the last: keys beside those that follow from the config.
cases! {
    llama: "llama" as "llama", {}, {"rope.dimension_count": 10, "vocab_size": 99};
    llama_rope_linear: "llama-linear" as "llama", {}, {"rope.scaling.type": "linear", "rope.scaling.factor": 3.0};
    llama_rope_llama3: "llama-llama3" as "llama", {}, {"rope.dimension_count": 8};
    llama_rope_yarn: "llama-yarn" as "llama", {}, {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 512,
        "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0,
    };
    mistral_is_llama: "mistral" as "llama", {}, {"attention.sliding_window": 5};
    mixtral_is_llama_with_experts: "mixtral" as "llama", {}, {};
    qwen2: "qwen2" as "qwen2", {"use_sliding_window": false}, {};
    qwen3: "qwen3" as "qwen3", {}, {};
    qwen3_moe: "qwen3_moe" as "qwen3moe", {"decoder_sparse_step": 1}, {};
    gemma: "gemma" as "gemma", {"hidden_act": "gelu_pytorch_tanh"}, {};
    gemma2: "gemma2" as "gemma2", {"query_pre_attn_scalar": 256}, {"attention.sliding_window": 5};
    gemma3: "gemma3_text" as "gemma3", {"query_pre_attn_scalar": 256, "sliding_window_pattern": 6}, {
        "attention.sliding_window": 5, "rope.freq_base_swa": 300.0,
        "rope.scaling.type": "linear", "rope.scaling.factor": 3.0,
    };
    phi3: "phi3" as "phi3", {}, {
        "attention.sliding_window": 5, "rope.dimension_count": 6, "rope.scaling.original_context_length": 4096,
    };
    phi3_longrope: "phi3-longrope" as "phi3", {}, {
        "rope.dimension_count": 8, "rope.scaling.original_context_length": 8,
    };
    olmo2: "olmo2" as "olmo2", {}, {};
    gpt2: "gpt2" as "gpt2", {"n_inner": 96}, {};
    gpt2_scaled: "gpt2-scaled" as "gpt2", {"scale_attn_by_inverse_layer_idx": false}, {};
    gpt_neox: "gpt_neox" as "gptneox", {}, {"rope.dimension_count": 4};
    gpt_neox_sequential: "gpt_neox-sequential" as "gptneox", {"hidden_act": "gelu"}, {"rope.dimension_count": 8};
}
