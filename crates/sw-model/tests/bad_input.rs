//! Bad input gets one clear line that says what, where, expected and found, and never a panic.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sw_model::{Error, Model, OpenOptions, Seq, WeightCoord, WeightEdit};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A copy of the small Llama checkpoint, to be damaged.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("llama").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// The header of a safetensors file, and where its data begin.
fn header(bytes: &[u8]) -> (Value, usize) {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), end)
}

fn edit_header(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (mut value, end) = header(&bytes);
    edit(&mut value);
    let text = value.to_string();
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.extend(&bytes[end..]);
    fs::write(path, out).unwrap();
}

/// Opening fails with one line that holds every one of `words`.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    let error = match Model::open(dir) {
        Ok(_) => panic!("was opened"),
        Err(error) => error.to_string(),
    };
    assert!(!error.contains('\n'), "more than one line: {error}");
    for word in words {
        assert!(error.contains(word), "{error}\n  lacks {word}");
    }
}

#[test]
fn no_such_directory() {
    refused(
        Path::new("no/such/place"),
        &["no/such/place", "no such directory"],
    );
}

#[test]
fn no_config() {
    let dir = copy();
    fs::remove_file(dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["config.json not found"]);
}

#[test]
fn config_is_not_json() {
    let dir = copy();
    fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    refused(dir.path(), &["config.json", "not valid JSON", "line 1"]);
    fs::write(dir.path().join("config.json"), "[]").unwrap();
    refused(dir.path(), &["config.json", "expected an object"]);
}

#[test]
fn config_fields() {
    type Edit = fn(&mut Value);
    let cases: &[(Edit, &[&str])] = &[
        (
            |c| c["model_type"] = json!("bert"),
            &["model_type", "bert is not implemented", "llama", "mistral"],
        ),
        (
            |c| c["model_type"] = json!(null),
            &["model_type", "missing"],
        ),
        (
            |c| c["no_rope_layers"] = json!([1, 0]),
            &[
                "no_rope_layers",
                "llama4",
                "not implemented",
                "--ignore-config-field no_rope_layers",
            ],
        ),
        (
            |c| {
                c["rope_parameters"] =
                    json!({"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2]})
            },
            &["--ignore-config-field rope_parameters.mrope_section"],
        ),
        (
            |c| c["rms_norm_eps"] = json!("Infinity"),
            &["rms_norm_eps", "a finite number", "Infinity"],
        ),
        (
            |c| c["hidden_act"] = json!("relu"),
            &["hidden_act", "silu", "relu"],
        ),
        (
            |c| c["hidden_size"] = json!("wide"),
            &["hidden_size", "whole number", "wide"],
        ),
        (
            |c| c["hidden_size"] = json!(-1),
            &["hidden_size", "whole number", "-1"],
        ),
        (
            |c| c["num_hidden_layers"] = json!(1_000_000_000_000_u64),
            &["num_hidden_layers", "1000000000000", "tensors"],
        ),
        (
            |c| c["vocab_size"] = json!(u64::MAX),
            &["vocab_size", "whole number"],
        ),
        (
            |c| c["intermediate_size"] = json!(4_000_000_000_u64),
            &["gate_proj.weight", "4000000000"],
        ),
        (
            |c| c["num_key_value_heads"] = json!(3),
            &["num_key_value_heads", "3", "divide"],
        ),
        (
            |c| c["quantization_config"] = json!({"quant_method": "awq"}),
            &["quantization_config", "awq", "16-bit"],
        ),
        (
            |c| c["rope_parameters"] = json!({"rope_type": "spiral", "rope_theta": 1e4}),
            &["rope_type", "spiral"],
        ),
        (
            |c| c["rope_parameters"] = json!({"rope_type": "linear"}),
            &["rope_parameters.factor", "missing"],
        ),
    ];
    for (edit, words) in cases {
        let dir = copy();
        edit_config(dir.path(), edit);
        refused(dir.path(), words);
    }
}

#[test]
fn a_field_that_some_model_reads_can_be_ignored_in_objects_too() {
    let dir = copy();
    edit_config(dir.path(), |c| {
        c["no_rope_layers"] = json!([1, 0]);
        c["residual_multiplier"] = json!(1.0);
        c["rope_parameters"] =
            json!({"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2]});
    });
    let mut options = OpenOptions::default();
    for name in ["no_rope_layers", "rope_parameters.mrope_section"] {
        assert!(Model::open_with(dir.path(), &options).is_err());
        options.ignore_config_fields.push(name.into());
    }
    let model = Model::open_with(dir.path(), &options).unwrap();
    assert_eq!(model.unknown_config_fields(), [""; 0]);
    assert_eq!(model.warnings(), [""; 0]);
}

#[test]
fn fields_that_no_model_reads_are_one_warning_or_an_error() {
    let dir = copy();
    edit_config(dir.path(), |c| {
        c["a_new_idea"] = json!(0.5);
        c["rope_parameters"] = json!({"rope_theta": 1e4, "rope_type": "default", "another": true});
    });
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen('{', "{\"a_third\": [-Infinity, NaN],", 1),
    )
    .unwrap();
    let model = Model::open(dir.path()).unwrap();
    let mut unknown = model.unknown_config_fields().to_vec();
    unknown.sort();
    assert_eq!(
        unknown,
        ["a_new_idea", "a_third", "rope_parameters.another"]
    );
    let [warning] = model.warnings() else {
        panic!("one warning")
    };
    assert!(
        unknown.iter().all(|name| warning.contains(name)),
        "{warning}"
    );
    let mut options = OpenOptions::default();
    options.strict_config = true;
    let error = Model::open_with(dir.path(), &options)
        .err()
        .unwrap()
        .to_string();
    assert!(unknown.iter().all(|name| error.contains(name)), "{error}");
    options.ignore_config_fields = unknown;
    assert!(Model::open_with(dir.path(), &options).is_ok());
}

#[test]
fn tensors() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let dir = copy();
    edit_header(dir.path(), |h| {
        let tensor = h.as_object_mut().unwrap().remove(name).unwrap();
        h["unrelated"] = tensor;
    });
    refused(dir.path(), &["expected a tensor", name, "found none"]);

    let dir = copy();
    edit_header(dir.path(), |h| {
        let shape = h[name]["shape"].as_array_mut().unwrap();
        shape.reverse();
    });
    refused(dir.path(), &[name, "expected", "found"]);
}

#[test]
fn damaged_files() {
    let whole = fs::read(golden("llama").join("model.safetensors")).unwrap();
    let (_, data) = header(&whole);
    let damage: &[(&str, Vec<u8>)] = &[
        ("empty", vec![]),
        ("half a length", whole[..5].to_vec()),
        ("header cut", whole[..40].to_vec()),
        ("data cut", whole[..whole.len() - 10].to_vec()),
        ("header alone", whole[..data].to_vec()),
        (
            "length beyond the file",
            [&(1_u64 << 40).to_le_bytes()[..], &whole[8..]].concat(),
        ),
        ("length of all ones", [&[0xff; 8][..], &whole[8..]].concat()),
        (
            "header of zeros",
            [&whole[..8], &vec![0; data - 8], &whole[data..]].concat(),
        ),
    ];
    for (what, bytes) in damage {
        let dir = copy();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        println!("{what}");
        refused(dir.path(), &["model.safetensors"]);
    }
}

#[test]
fn index_of_shards() {
    for (target, words) in [
        ("gone.safetensors", ["gone.safetensors", "index"]),
        (
            "../outside.safetensors",
            ["../outside.safetensors", "index"],
        ),
        ("/etc/passwd", ["/etc/passwd", "index"]),
    ] {
        let dir = copy();
        let index = json!({"metadata": {}, "weight_map": {"model.embed_tokens.weight": target}});
        fs::write(
            dir.path().join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
        refused(dir.path(), &words);
    }
}

#[test]
fn other_formats_are_named() {
    let dir = copy();
    fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("pytorch_model.bin"),
    )
    .unwrap();
    refused(dir.path(), &["pytorch_model.bin", "safetensors"]);
}

#[test]
fn tokens_and_tokenizer() {
    let model = Model::open(golden("llama")).unwrap();
    let vocab = model.spec().vocab_size as u32;
    let error = model
        .forward(&[Seq::from(&[1, vocab][..])], &mut ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("token id {vocab} at position 1")),
        "{error}"
    );
    assert!(matches!(
        model.forward(&[Seq::from(&[][..])], &mut ()),
        Err(Error::EmptySequence)
    ));
    assert!(matches!(
        model.forward(&[], &mut ()),
        Err(Error::EmptySequence)
    ));
    let error = model.tokenizer().err().unwrap().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("no such file"),
        "{error}"
    );
}

/// Files on which the tokenizer itself panics.
#[test]
fn tokenizers_that_contradict_themselves() {
    let model = serde_json::json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"});
    let split = serde_json::json!({"type": "FixedLength", "length": 0});
    let template = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "B", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    });
    for (name, part) in [("pre_tokenizer", split), ("post_processor", template)] {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("llama").join(file), dir.path().join(file)).unwrap();
        }
        let mut file = serde_json::json!({"version": "1.0", "added_tokens": [], "model": model});
        file[name] = part;
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let model = Model::open(dir.path()).unwrap();
        let error = model.tokenizer().err().unwrap().to_string();
        assert!(
            error.contains("tokenizer.json") && error.contains("contradicts itself"),
            "{name}: {error}"
        );
    }
}

#[test]
fn non_finite_values_name_the_guilty_tensor() {
    let model = Model::open(golden("llama")).unwrap();
    let coord = WeightCoord::down(1, 3, 5);
    let edit = WeightEdit {
        coord,
        op: sw_model::EditOp::Set(f32::NAN),
    };
    let broken = model.edited(&[edit]).unwrap();
    let error = broken
        .forward(&[Seq::from(&[1, 2, 3][..])], &mut ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("resid_post.1"), "{error}");
    assert!(
        error.contains("model.layers.1.mlp.down_proj.weight") && error.contains("[3, 5]"),
        "{error}"
    );
}

#[test]
fn coordinates_outside_the_model() {
    let model = Model::open(golden("llama")).unwrap();
    let w = model.weight(0, sw_model::Linear::Down).unwrap();
    for coord in [
        WeightCoord::down(0, w.rows(), 0),
        WeightCoord::down(0, 0, w.cols()),
        WeightCoord::down(99, 0, 0),
    ] {
        let error = model
            .edited(&[WeightEdit::prune(coord)])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("down_proj"), "{error}");
    }
    let expert = WeightCoord {
        expert: Some(0),
        ..WeightCoord::down(0, 0, 0)
    };
    assert!(model.value(expert).is_err());
}
