//! Tokenizers against transformers' `AutoTokenizer`: every class and model type that a checkpoint may name, and the
//! files that decide added tokens. `golden/auto.py` writes what is expected.

mod common;

use std::{fs, path::Path};

use common::{golden, renamed, tensors, write as write_weights};

use serde::Deserialize;
use serde_json::{Value, json};
use sw_model::Model;

#[derive(Deserialize)]
struct Case {
    file: String,
    r#type: String,
    settings: Value,
    map: Option<Value>,
    added: Option<Value>,
    config_class: Option<String>,
    outcome: usize,
}

/// BOS, EOS, `Hello there` with what the tokenizer adds, and the texts without.
type Outcome = (Option<u32>, Option<u32>, Vec<u32>, Vec<Vec<u32>>);

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    cases: Vec<Case>,
    outcomes: Vec<Outcome>,
}

/// A small model of another family under the tokenizer of Mistral 7B, whose class is named `LlamaTokenizer`: transformers
/// reads `tokenizer.json` as it is under `mistral`, and rebuilds it under `llama`. Skipped without `shared`.
#[test]
fn the_model_type_decides_whether_a_llama_tokenizer_is_rebuilt() {
    let root = std::env::var_os("SW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        Into::into,
    );
    let from = root.join("tokenizers/mistral-v0.1-32k");
    if !from.is_dir() {
        println!("skipped: {} is not there", from.display());
        return;
    }
    for (model, expected) in [
        ("mistral", &[28705, 22557, 736][..]),
        ("llama", &[22557, 736]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for from in [&golden(model), &from] {
            for entry in fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name() == "golden.safetensors" {
                    continue; // activations, no weights
                }
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        let model = Model::open(dir.path()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert_eq!(tokenizer.encode(" Hello there", true).unwrap(), expected);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(32000)));
    }
}

#[test]
fn tokenizers_are_those_of_auto_tokenizer() {
    let text = fs::read_to_string(golden("auto/auto.json")).unwrap();
    let Golden {
        texts,
        cases,
        outcomes,
    } = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 500 && outcomes.len() > 50);
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| {
            fs::write(dir.path().join(name), value.to_string()).unwrap();
        };
        // A model of any type has its tokenizer; the small one of this type is at hand.
        let with_vision = case.r#type == "gemma3";
        let model = golden(if with_vision {
            "gemma3_text"
        } else {
            &case.r#type
        });
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        if with_vision {
            config = json!({"model_type": "gemma3", "text_config": config, "vision_config": {}});
            let weights = renamed(tensors(&model), "model.", "language_model.model.");
            write_weights(dir.path(), &weights);
        }
        config["tokenizer_class"] = json!(case.config_class);
        write("config.json", &config);
        for entry in fs::read_dir(&model).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with("model") && !with_vision {
                fs::copy(model.join(&name), dir.path().join(&name)).unwrap();
            }
        }
        let tokenizer = golden(&format!("auto/{}.json", case.file));
        fs::copy(tokenizer, dir.path().join("tokenizer.json")).unwrap();
        if !case.settings.is_null() {
            write("tokenizer_config.json", &case.settings);
        }
        if let Some(map) = &case.map {
            write("special_tokens_map.json", map);
        }
        if let Some(added) = &case.added {
            write("added_tokens.json", added);
        }
        let model = Model::open(dir.path()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        let encode = |text: &str, special| tokenizer.encode(text, special).unwrap();
        let found: Outcome = (
            tokenizer.bos(),
            tokenizer.eos(),
            encode("Hello there", true),
            texts.iter().map(|text| encode(text, false)).collect(),
        );
        if found != outcomes[case.outcome] {
            wrong.push(format!(
                "{} {} {} {:?} {:?} {:?}\n  found    {found:?}\n  expected {:?}",
                case.file,
                case.r#type,
                case.settings,
                case.map,
                case.added,
                case.config_class,
                outcomes[case.outcome]
            ));
        }
    }
    let count = wrong.len();
    wrong.truncate(5);
    assert!(
        wrong.is_empty(),
        "{count} of {}:\n{}",
        cases.len(),
        wrong.join("\n")
    );
}
