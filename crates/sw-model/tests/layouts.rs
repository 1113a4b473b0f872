//! Checkpoints that lie otherwise than published ones do: as transformers 5 holds them in memory, with an index that is not
//! true, with a tie flag that is not. `golden/layouts.py` writes what is expected.

mod common;

use std::{fs, path::Path};

use common::{Tensors, golden, renamed, tensors, write};
use serde_json::{Value, json};
use sw_model::{Model, Seq};

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A folder with these weights, and the config of a small model, changed.
fn folder(case: &str, tensors: &Tensors, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), tensors);
    let mut config = read_json(&golden(case).join("config.json"));
    edit(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// All experts of a layer in one tensor for gate and up and one for down, and the router's name of today.
fn fused(tensors: &Tensors) -> Tensors {
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        let name = name.replace("block_sparse_moe.", "mlp.");
        let Some((before, rest)) = name.split_once(".experts.") else {
            out.insert(name, tensor.clone());
            continue;
        };
        let (expert, linear) = rest.split_once('.').unwrap();
        let key = match linear {
            "w2.weight" | "down_proj.weight" => format!("{before}.experts.down_proj"),
            _ => format!("{before}.experts.gate_up_proj"),
        };
        if expert == "0" && out.contains_key(&key) {
            continue; // gathered with the first of its maps
        }
        if expert != "0" {
            continue;
        }
        let linears: &[&str] = match (key.ends_with("down_proj"), linear.starts_with('w')) {
            (true, true) => &["w2"],
            (true, false) => &["down_proj"],
            (false, true) => &["w1", "w3"],
            (false, false) => &["gate_proj", "up_proj"],
        };
        let original = |e: usize, linear: &str| {
            let same_layer = |name: &String| {
                name.replace("block_sparse_moe.", "mlp.")
                    == format!("{before}.experts.{e}.{linear}.weight")
            };
            tensors
                .iter()
                .find(|(name, _)| same_layer(name))
                .map(|(_, tensor)| tensor)
        };
        let (mut bytes, mut experts) = (Vec::new(), 0);
        while original(experts, linears[0]).is_some() {
            for linear in linears {
                bytes.extend(&original(experts, linear).unwrap().2);
            }
            experts += 1;
        }
        let (dtype, shape, _) = tensor;
        out.insert(
            key,
            (
                *dtype,
                vec![experts, linears.len() * shape[0], shape[1]],
                bytes,
            ),
        );
    }
    out
}

fn rows(model: &Model) -> Vec<u32> {
    let seq = [Seq::from(&[1, 17, 5, 90, 33, 2, 64][..])];
    let rows = model.forward(&seq, &mut ()).unwrap();
    let logits = model.logits(rows.view()).unwrap();
    logits.iter().map(|x| x.to_bits()).collect()
}

fn shapes(tensors: &Tensors) -> Value {
    tensors
        .iter()
        .map(|(name, (_, shape, _))| (name.clone(), json!(shape)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn experts_that_lie_in_one_tensor_are_those_that_lie_alone() {
    let expected = read_json(&golden("layouts.json"));
    for case in ["mixtral", "olmoe", "qwen3_moe"] {
        let alone = Model::open(golden(case)).unwrap();
        let tensors = fused(&tensors(&golden(case)));
        assert_eq!(shapes(&tensors), expected["saved"][case], "{case}");
        let dir = folder(case, &tensors, |_| ());
        let model = Model::open(dir.path()).unwrap();
        assert_eq!(rows(&model), rows(&alone), "{case}");
        // Whoever looks tensors up finds the published names, and those stay mapped.
        let checkpoint = model.checkpoint().unwrap();
        for at in model.linears() {
            let name = model.spec().tensor_name_at(at).unwrap();
            assert!(checkpoint.info(&name).is_some(), "{case}: {name}");
        }
        // Other sizes than the config's are one line.
        let dir = folder(case, &tensors, |config| {
            let key = if case == "qwen3_moe" {
                "moe_intermediate_size"
            } else {
                "intermediate_size"
            };
            config[key] = json!(16);
        });
        let error = Model::open(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains("gate_up_proj") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn gemma_3_with_a_vision_tower_has_two_layouts() {
    let expected = read_json(&golden("layouts.json"));
    let alone = Model::open(golden("gemma3_text")).unwrap();
    let with_vision = |config: &mut Value| {
        *config =
            json!({"model_type": "gemma3", "text_config": config.take(), "vision_config": {}});
    };
    for (layout, base) in [
        ("published", "language_model.model."),
        ("saved", "model.language_model."),
    ] {
        let tensors = renamed(tensors(&golden("gemma3_text")), "model.", base);
        assert_eq!(
            shapes(&tensors),
            expected[layout]["gemma3_text"],
            "{layout}"
        );
        let dir = folder("gemma3_text", &tensors, with_vision);
        let model = Model::open(dir.path()).unwrap();
        assert_eq!(rows(&model), rows(&alone), "{layout}");
        let name = model.spec().tensor_name(0, sw_model::Linear::Down).unwrap();
        assert_eq!(name, format!("{base}layers.0.mlp.down_proj.weight"));
    }
}

#[test]
fn a_tie_flag_beside_two_different_matrices_counts_for_nothing() {
    let expected = read_json(&golden("layouts.json"));
    let mut weights = tensors(&golden("mistral"));
    let tied = |config: &mut Value| config["tie_word_embeddings"] = json!(true);
    let dir = folder("mistral", &weights, tied);
    let model = Model::open(dir.path()).unwrap();
    let [warning] = model.warnings() else {
        panic!("{:?}", model.warnings())
    };
    assert!(
        warning.contains("lm_head.weight to model.embed_tokens.weight"),
        "{warning}"
    );
    assert!(!model.spec().tied);
    let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
    let logits: Vec<Vec<f32>> = serde_json::from_value(expected["untied"].clone()).unwrap();
    let rows = model.forward(&[Seq::from(&tokens[..])], &mut ()).unwrap();
    let found = model.logits(rows.view()).unwrap();
    for (found, expected) in found.iter().zip(logits.iter().flatten()) {
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
    // Two equal matrices, and one alone, are what the flag says.
    let embed = weights["model.embed_tokens.weight"].clone();
    weights.insert("lm_head.weight".into(), embed);
    let twice = Model::open(folder("mistral", &weights, tied).path()).unwrap();
    weights.remove("lm_head.weight");
    let once = Model::open(folder("mistral", &weights, tied).path()).unwrap();
    for model in [twice, once] {
        assert!(model.spec().tied && model.warnings().is_empty());
    }
}

#[test]
fn an_index_that_names_absent_tensors_is_read_for_what_is_needed() {
    let whole = rows(&Model::open(golden("mixtral")).unwrap());
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("mixtral")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    fs::remove_file(dir.path().join("golden.safetensors")).unwrap();
    let path = dir.path().join("model.safetensors.index.json");
    let mut index = read_json(&path);
    let map = index["weight_map"].as_object_mut().unwrap();
    let shard = map["model.norm.weight"].clone();
    map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), shard);
    map.remove("model.norm.weight");
    map.remove("model.layers.0.block_sparse_moe.gate.weight");
    fs::write(&path, index.to_string()).unwrap();
    assert_eq!(rows(&Model::open(dir.path()).unwrap()), whole);
}

#[test]
fn an_adapter_says_what_it_is_and_of_what() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        json!({"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "r": 8});
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), [0; 16]).unwrap();
    // With the base's config beside it, it is no model either.
    for beside in [false, true] {
        if beside {
            fs::copy(
                golden("llama").join("config.json"),
                dir.path().join("config.json"),
            )
            .unwrap();
        }
        let error = Model::open(dir.path()).err().unwrap().to_string();
        let words = "expected a model, found a LORA adapter of meta-llama/Llama-2-7b-hf; merge the two with peft";
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    // Beside a whole model the adapter is left alone.
    fs::copy(
        golden("llama").join("model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    assert!(Model::open(dir.path()).is_ok());
}

#[test]
fn generation_ends_at_every_end_that_the_configs_name() {
    let weights = tensors(&golden("llama"));
    let generate = |model: &Model| model.generate(&[1, 17, 5], 8, &mut ()).unwrap();
    let open = |config_eos: Value, generation: Option<&str>| {
        let dir = folder("llama", &weights, |config| {
            config["eos_token_id"] = config_eos
        });
        if let Some(text) = generation {
            fs::write(dir.path().join("generation_config.json"), text).unwrap();
        }
        Model::open(dir.path()).unwrap()
    };
    let free = generate(&open(Value::Null, None));
    assert_eq!(free.len(), 8);
    let first = |token: u32| free.iter().position(|t| *t == token).unwrap();
    let (a, b) = (free[3], free[5]);
    let ended = |at: usize| free[..at].to_vec();
    assert_eq!(generate(&open(json!(a), None)), ended(first(a)));
    assert_eq!(generate(&open(json!([98, b]), None)), ended(first(b)));
    let both = open(
        json!(b),
        Some(&json!({"eos_token_id": [98, a]}).to_string()),
    );
    assert_eq!(generate(&both), ended(first(a).min(first(b))));
    let mut ends = vec![a, b, 98];
    ends.sort_unstable();
    ends.dedup();
    assert_eq!(both.eos_tokens(), ends);
    // A file that cannot be read is said, and stops nothing.
    let broken = open(json!(a), Some("{"));
    assert_eq!(generate(&broken), ended(first(a)));
    assert!(
        broken.warnings()[0].contains("generation_config.json"),
        "{:?}",
        broken.warnings()
    );
}
