//! A SentencePiece vocabulary in a GGUF file, against transformers (`golden/gguf_spm.py` made the values).

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::json;
use sw_model::Model;

use crate::written::Written;

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: BTreeMap<String, bool>,
    ids: Vec<Vec<u32>>,
    /// Without control tokens.
    decoded: Vec<String>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_spm.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The smallest model with that vocabulary, and what its file says about texts.
fn model(golden: &Golden, settings: &BTreeMap<String, bool>) -> Model {
    let mut file = Written::tiny_llama(golden.tokens.len());
    let mut key = |name: &str, value| file.key(&format!("tokenizer.ggml.{name}"), &value);
    key("model", json!("llama"));
    key("tokens", json!(golden.tokens));
    key(
        "scores",
        golden.scores.iter().map(|x| json!(f64::from(*x))).collect(),
    );
    key("token_type", json!(golden.types));
    for (name, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        key(&format!("{name}_token_id"), json!(id));
    }
    for (name, flag) in settings {
        key(name, json!(flag));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, file.bytes()).unwrap();
    Model::open(path).unwrap()
}

#[test]
fn tokens_are_those_of_transformers() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 4);
    for case in &golden.cases {
        let model = model(&golden, &case.settings);
        let tokenizer = model.tokenizer().unwrap();
        for ((text, ids), decoded) in golden.texts.iter().zip(&case.ids).zip(&case.decoded) {
            let found = tokenizer.encode(text, true).unwrap();
            assert_eq!(found, *ids, "{:?}: {text:?}", case.settings);
            assert_eq!(
                tokenizer.decode(ids).unwrap(),
                *decoded,
                "{:?}: {text:?}",
                case.settings
            );
        }
    }
}

/// As llama.cpp does it: transformers passes over the key.
#[test]
fn no_space_is_put_before_a_text_where_the_file_says_so() {
    let golden = golden();
    let id = |token: &str| golden.tokens.iter().position(|t| t == token).unwrap() as u32;
    let model = model(
        &golden,
        &BTreeMap::from([("add_space_prefix".into(), false)]),
    );
    let tokenizer = model.tokenizer().unwrap();
    let expected = [1, id("Hello"), id("\u{2581}there")];
    assert_eq!(tokenizer.encode("Hello there", true).unwrap(), expected);
    assert_eq!(tokenizer.decode(&expected).unwrap(), "Hello there");
}
