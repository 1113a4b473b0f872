//! Commands on the real GGUF file of the shared folder.

use std::{fs, path::Path};

use serde_json::Value;

use super::{json, shared, sw};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The file and its type, as every result names them.
#[track_caller]
fn names(result: &Value, file: &str) {
    assert_eq!(result["file"], file, "{result}");
    assert_eq!(result["type"], "Q4_1", "{result}");
    assert_eq!(result["types"]["F32"], 61, "{result}");
}

#[test]
fn the_file_is_a_model_for_every_command() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("models/smollm2-135m-instruct");
    let file = text(&folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));

    // Named by its folder: the only file there.
    let about = json(&["inspect", &text(&folder), "--json"]);
    names(&about["gguf"], &file);
    assert_eq!(
        (&about["family"], &about["layers"]),
        (&"llama".into(), &30.into())
    );
    assert_eq!(about["dtype"], "Q4_1");
    assert_eq!(about["unknown_config_fields"], Value::Array(Vec::new()));

    // The spikes alone; the census, which names layer 11, takes minutes.
    let found = json(&["detect", &file, "--json", "--no-proof"]);
    names(&found["gguf"], &file);
    let spikes = found["super_weights"].as_array().unwrap();
    let is_known = |w: &Value| w["layer"] == 11 && w["row"] == 507 && w["col"] == 1229;
    assert!(spikes.iter().any(is_known), "{spikes:?}");

    let out = tempfile::tempdir().unwrap();
    let results = text(out.path());
    let mut eval = sw();
    eval.args([
        "eval",
        &file,
        "--tasks",
        "lambada_openai",
        "--limit",
        "2",
        "--data",
    ]);
    eval.arg(shared.join("data"));
    eval.args(["--output-path", &results]).assert().success();
    let entry = fs::read_dir(out.path()).unwrap().next().unwrap().unwrap();
    let written: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
    let ours = &written["super_weight"];
    assert_eq!(
        (&ours["gguf"], &ours["dtype"]),
        (&file.clone().into(), &"q4_1".into())
    );

    let made = out.path().join("quantized");
    let options = [
        "--bits",
        "4",
        "--group",
        "row",
        "--format",
        "packed-sw",
        "--hold",
        "none",
    ];
    let report = json(
        &[
            &["quantize", &file, "--json", "--out", &text(&made)],
            &options[..],
        ]
        .concat(),
    );
    names(&report["gguf"], &file);
    let record: Value =
        serde_json::from_slice(&fs::read(made.join("superweight.json")).unwrap()).unwrap();
    names(&record["gguf"], &file);
    assert_eq!(json(&["inspect", &text(&made), "--json"])["layers"], 30);

    for model in [&file, &text(&made)] {
        let mut generate = sw();
        generate.args(["generate", model, "--prompt", "The capital of France is"]);
        generate.args(["--max-new-tokens", "3"]).assert().success();
    }
}
