//! The real file, against transformers with `gguf_file=` (`golden/gguf_file.py` made the values). Skipped where the shared
//! folder is absent: `SW_SHARED`, else `../shared` beside the workspace.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::json;
use sw_model::{Model, Seq};
use sw_tensor::{Gguf, GgufValue};

use crate::written::Written;

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<Encoded>,
    /// By the name of a pre-tokenizer, ids of the texts above.
    pre: BTreeMap<String, Vec<Vec<u32>>>,
    text: String,
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    /// From each row of logits, one in so many was recorded.
    step: usize,
    logits: Vec<Vec<f32>>,
}

fn expected() -> Expected {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_file.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn file() -> Option<PathBuf> {
    let root = env::var_os("SW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = root.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

#[test]
fn tokens_logits_and_log_probabilities_are_those_of_transformers() {
    let Some(path) = file() else { return };
    let expected = expected();
    let model = Model::open(&path).unwrap();
    let about = model.gguf().unwrap();
    assert_eq!((about.file.as_path(), &*about.main_type), (&*path, "Q4_1"));
    assert!(model.warnings().is_empty(), "{:?}", model.warnings());

    let tokenizer = model.tokenizer().unwrap();
    for Encoded { text, ids } in &expected.tokens {
        assert_eq!(tokenizer.encode(text, true).unwrap(), *ids, "{text:?}");
    }
    let ids = tokenizer.encode(&expected.text, true).unwrap();
    assert_eq!(ids, expected.ids);
    assert_eq!(tokenizer.decode(&ids).unwrap(), expected.text);

    let rows = model.forward(&[Seq::from(&ids[..])], &mut ()).unwrap();
    let logits = model.logits(rows.view()).unwrap();
    let mut worst = 0.0f32;
    for (row, values) in logits.rows().into_iter().zip(&expected.logits) {
        assert_eq!(row.len().div_ceil(expected.step), values.len());
        for (found, value) in row.iter().step_by(expected.step).zip(values) {
            worst = worst.max((found - value).abs());
        }
    }
    assert!(worst <= 1e-3, "logits: off by {worst:e}");
    for (at, value) in expected.log_probs.iter().enumerate() {
        let row = logits.row(at);
        let largest = row.fold(f32::MIN, |m, &x| m.max(x));
        let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
        let found = row[ids[at + 1] as usize] - largest - sum.ln() as f32;
        assert!(
            (found - value).abs() <= 1e-3,
            "token {}: log-probability {found}, expected {value}",
            at + 1
        );
    }
}

/// The vocabulary of the real file under other names of a pre-tokenizer, in the smallest model that has so many tokens.
#[test]
fn pre_tokenizers_cut_as_in_transformers() {
    let Some(path) = file() else { return };
    let expected = expected();
    let real = Gguf::open(&path).unwrap();
    let texts = |key: &str| real.metadata()[key].as_texts().unwrap();
    let kinds = real.metadata()["tokenizer.ggml.token_type"].as_ints();
    let tokens = texts("tokenizer.ggml.tokens");
    let folder = tempfile::tempdir().unwrap();
    for (name, all) in &expected.pre {
        let mut file = Written::tiny_llama(tokens.len());
        file.key("tokenizer.ggml.model", &json!("gpt2"));
        file.key("tokenizer.ggml.pre", &json!(name));
        file.key("tokenizer.ggml.tokens", &json!(tokens));
        file.key("tokenizer.ggml.token_type", &json!(kinds));
        file.key(
            "tokenizer.ggml.merges",
            &json!(texts("tokenizer.ggml.merges")),
        );
        let path = folder.path().join("tiny.gguf");
        fs::write(&path, file.bytes()).unwrap();
        let model = Model::open(&path).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        for (Encoded { text, .. }, ids) in expected.tokens.iter().zip(all) {
            let found = tokenizer.encode(text, false).unwrap();
            assert_eq!(found, *ids, "{name}: {text:?}");
        }
    }
    let pre = real.metadata().get("tokenizer.ggml.pre");
    assert_eq!(pre, Some(&GgufValue::Text("smollm".into())));
}
