//! Whole files to begin with: those that the tests of the other crates carry, and some that are made here.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sw_eval::{Options, Status, TaskRows, evaluate_with, mock::Mock};
use sw_intervene::{Export, Format, Plan};
use sw_model::{Model, WeightCoord};
use tempfile::TempDir;

/// Golden models, whose configs are seeds beside their own weights.
pub(crate) const FAMILIES: [&str; 8] = [
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama-llama3",
    "mixtral",
    "olmo2",
    "phi3-longrope",
    "qwen3_moe",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn golden(name: &str) -> PathBuf {
    root().join("crates/sw-model/tests/golden").join(name)
}

/// Copies config and weights of a golden model.
pub(crate) fn copy_golden(name: &str, to: &Path) {
    for (name, bytes) in files(&golden(name)) {
        let weights = name.ends_with(".safetensors") && name != "golden.safetensors";
        if weights || name == "config.json" {
            fs::write(to.join(name), bytes).expect("written");
        }
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, fs::read(&path).ok()?))
        })
        .collect();
    all.sort();
    all
}

fn texts(values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(|v| v.to_string().into_bytes()).collect()
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let config = |(i, name): (usize, &&str)| {
        let text = fs::read(golden(name).join("config.json")).expect("a config");
        let mut bytes = vec![i as u8];
        bytes.extend(text);
        bytes
    };
    FAMILIES.iter().enumerate().map(config).collect()
}

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    let names = ["llama", "gpt2"];
    let read = |name: &&str| fs::read(golden(name).join("model.safetensors")).expect("weights");
    names.iter().map(read).collect()
}

pub(crate) fn indices() -> Vec<Vec<u8>> {
    let mut map = serde_json::Map::new();
    for (file, bytes) in files(&golden("mixtral")) {
        if !file.starts_with("model-") {
            continue;
        }
        let length = bytes.first_chunk().map(|n| u64::from_le_bytes(*n) as usize);
        let header: Value =
            serde_json::from_slice(&bytes[8..8 + length.unwrap_or(0)]).expect("a header");
        for name in header.as_object().into_iter().flat_map(|o| o.keys()) {
            if name != "__metadata__" {
                map.insert(name.clone(), json!(file));
            }
        }
    }
    texts(&[json!({"metadata": {"total_size": 1}, "weight_map": map})])
}

/// Tokenizers of the kinds that checkpoints have, each with its config.
pub(crate) fn tokenizers() -> Vec<Vec<u8>> {
    let own = root().join("nano/model");
    let mut real = fs::read(own.join("tokenizer.json")).expect("the embedded tokenizer");
    real.push(0);
    real.extend(fs::read(own.join("tokenizer_config.json")).expect("its config"));
    let bpe = json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [{"id": 7, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
            {"type": "NFKC"}
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+"}, "behavior": "Isolated", "invert": false},
            {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true}
        ]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "\u{2581}": 4, "<0x0A>": 5, "l": 6},
            "merges": [["a", "b"]]}
    });
    let table = "AAAAAAAA"; // a compiled table of no bytes
    let unigram = json!({
        "version": "1.0", "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": table},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["a", -1.5], ["el", -2.5]]}
    });
    let word = json!({
        "version": "1.0", "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "hello": 1, "##x": 2}}
    });
    let mut all = texts(&[bpe, unigram, word]);
    for one in &mut all {
        one.extend(b"\0{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"a\"}, \"add_bos_token\": true, \"tokenizer_class\": \"LlamaTokenizerFast\", \"legacy\": false}");
    }
    all.push(real);
    all
}

pub(crate) fn parquets() -> Vec<Vec<u8>> {
    let all = files(&root().join("crates/sw-eval/tests/doors"));
    // Those that unpack to little: an input costs as much as its seed.
    let small = |name: &str| {
        name.ends_with(".parquet") && !["page.parquet", "cell.parquet"].contains(&name)
    };
    let kept = all.into_iter().filter(|(name, _)| small(name));
    kept.map(|(_, bytes)| bytes).collect()
}

pub(crate) fn rows() -> Vec<Vec<u8>> {
    [
        "{\"text\": \"a b\", \"label\": 1}\n{\"text\": \"c\", \"label\": \"2\"}\n",
        "\u{feff}[{\"text\": \"a\", \"choices\": {\"text\": [\"x\", \"y\"], \"label\": [\"A\", \"B\"]}}, {\"text\": null}]",
        "\n\n{\"deep\": {\"er\": [[1, 2.5, true]]}, \"text\": \"\\u2603\"}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A golden model as `sw quantize --format packed-sw` writes it.
pub(crate) fn packed_folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("out");
    let model = Model::open(golden("llama")).expect("a golden model");
    let mut export = Export::default();
    export.format = Format::PackedSw;
    export.rule.scheme =
        serde_json::from_value(json!({"grouping": {"kind": "row"}})).expect("a scheme");
    export.hold = vec![WeightCoord::down(0, 3, 2)];
    let plan = Plan::new(&model, &export).expect("a plan");
    let mut progress = |_| ControlFlow::Continue(());
    plan.write(&out, false, &mut progress).expect("written");
    for name in ["config.json", "model.safetensors"] {
        fs::rename(out.join(name), dir.path().join(name)).expect("moved");
    }
    dir
}

pub(crate) fn packed_checkpoints() -> Vec<Vec<u8>> {
    let path = packed_folder();
    vec![fs::read(path.path().join("model.safetensors")).expect("weights")]
}

pub(crate) fn plans() -> Vec<Vec<u8>> {
    let weight = json!({"layer": 0, "linear": "down_proj", "row": 1, "col": 2});
    let eight = json!({"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}});
    texts(&[
        json!([]),
        json!([{"kind": "prune_weights", "coords": [weight]}, {"kind": "restore_super_activation", "coords": [weight]}]),
        json!([{"kind": "scale_weights", "coords": [weight], "factor": 2.0}]),
        json!([{"kind": "prune_largest", "select": "global", "count": 20}]),
        json!([{"kind": "add_constants", "constants": [{"layer": 0, "position": 0, "channel": 3, "value": 2.5}]}]),
        json!([{"kind": "quantize_weights", "scheme": {"grouping": {"kind": "row"}}, "hold": [weight]}]),
        json!([
            {"kind": "quantize_weights", "arithmetic": "integer", "scheme": eight},
            {"kind": "quantize_activations", "arithmetic": "integer", "recipe": {"scheme": eight, "pick": {"kind": "row_largest"}}}
        ]),
    ])
}

pub(crate) fn journals() -> Vec<Vec<u8>> {
    let lines = [
        json!({"config": "0f", "shard": "1/1", "spans": 100}),
        json!({"span": 3, "log_prob": -1.5, "greedy": false}),
        json!({"span": 99, "log_prob": -0.0, "greedy": true}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    vec![text.into_bytes()]
}

pub(crate) fn results() -> Vec<Vec<u8>> {
    let mut options = Options::default();
    options.limit = Some(3);
    options.bootstrap_iters = 10;
    let mut go = |_: Status| ControlFlow::Continue(());
    let tasks = ["hellaswag", "lambada_openai", "wikitext2"];
    let rows = TaskRows::read(&tasks, &crate::targets::data(), &options).expect("rows");
    let run = evaluate_with(&Mock::default(), rows, &options, None, &mut go);
    vec![serde_json::to_vec(&run.expect("an evaluation")).expect("JSON")]
}

pub(crate) fn directory() -> Vec<Vec<u8>> {
    let shipped = fs::read(root().join("crates/sw-detect/data/directory.json"))
        .expect("the shipped directory");
    vec![shipped]
}

pub(crate) fn coordinates() -> Vec<Vec<u8>> {
    texts(&[
        json!([{"layer": 2, "row": 3968, "col": 7003}, {"layer": 1, "row": 5, "col": 6, "linear": "up_proj", "expert": 3}]),
        json!({"super_weights": [{"layer": 0, "row": 1, "col": 2, "verdict": "decisive"}]}),
    ])
}
