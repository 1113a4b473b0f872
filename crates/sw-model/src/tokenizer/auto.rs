//! What transformers' `AutoTokenizer` (5.24) makes of the files of a checkpoint.
//!
//! Some of its classes take only vocabulary, merges and template from `tokenizer.json`, and put a normalizer and a
//! pre-tokenizer of their own around them. `tokenizer_class` and `model_type` together decide which class it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

/// The contents of the files that decide how a text is encoded; `null` for one that is absent.
pub(crate) struct Files {
    pub(crate) tokenizer: Value,
    /// `tokenizer_config.json`
    pub(crate) settings: Value,
    /// `special_tokens_map.json`
    pub(crate) special_tokens_map: Value,
    /// `added_tokens.json`
    pub(crate) added_tokens: Value,
    /// `config.json`
    pub(crate) config: Value,
}

impl Files {
    /// What the metadata of a GGUF file say.
    pub(crate) fn of_gguf(tokenizer: Value, settings: Value) -> Files {
        Files {
            tokenizer,
            settings,
            special_tokens_map: Value::Null,
            added_tokens: Value::Null,
            config: Value::Null,
        }
    }
}

/// Names of special tokens that every class has, in the order in which they are added.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A class of transformers that encodes texts with a pipeline of its own; `AsItIs` is `TokenizersBackend`, which follows
/// `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    AsItIs,
    Llama,
    CodeLlama,
    Gpt2,
    GptNeox,
    Qwen2,
    Gemma,
}

impl Class {
    /// The class of a name with or without `Fast`. Other classes read `tokenizer.json` as it is, or belong to no family
    /// that is implemented.
    fn of_name(name: &str) -> Class {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" => Class::Llama,
            "CodeLlamaTokenizer" => Class::CodeLlama,
            "GPT2Tokenizer" => Class::Gpt2,
            "GPTNeoXTokenizer" => Class::GptNeox,
            "Qwen2Tokenizer" => Class::Qwen2,
            "GemmaTokenizer" => Class::Gemma,
            _ => Class::AsItIs,
        }
    }

    /// The class that transformers registers for a model type; `None` where it registers none.
    fn of_model(model_type: &str) -> Option<Class> {
        Some(match model_type {
            "mistral" | "mixtral" | "olmo2" | "phi3" => Class::AsItIs,
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Class::Gemma,
            "gpt2" => Class::Gpt2,
            "gpt_neox" | "olmo" | "olmoe" => Class::GptNeox,
            "qwen2" | "qwen3" | "qwen3_moe" => Class::Qwen2,
            _ => return None,
        })
    }

    /// The class that `AutoTokenizer` chooses.
    fn of(files: &Files) -> Class {
        let model_type = files.config["model_type"].as_str().unwrap_or_default();
        let registered = Class::of_model(model_type);
        let named = files.settings["tokenizer_class"]
            .as_str()
            .or_else(|| files.config["tokenizer_class"].as_str());
        let Some(named) = named.map(Class::of_name) else {
            return registered.unwrap_or(Class::AsItIs);
        };
        match registered {
            Some(Class::AsItIs) => Class::AsItIs,
            // What checkpoints of this type name is known to be wrong.
            Some(registered) if model_type == "qwen2" => registered,
            _ if named == Class::Llama && is_byte_level(&files.tokenizer) => Class::AsItIs,
            _ => named,
        }
    }

    /// Special tokens of a checkpoint that does not name them.
    fn defaults(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Class::AsItIs => &[],
            Class::Llama => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
            ],
            Class::CodeLlama => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            Class::Gpt2 => &[("unk_token", END), ("bos_token", END), ("eos_token", END)],
            Class::GptNeox => &[
                ("unk_token", END),
                ("bos_token", END),
                ("eos_token", END),
                ("pad_token", "<|padding|>"),
            ],
            Class::Qwen2 => &[("unk_token", END), ("eos_token", END), ("pad_token", END)],
            Class::Gemma => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
        }
    }
}

/// Whether a tokenizer works on bytes, as Llama 3's does, whatever class it names.
fn is_byte_level(file: &Value) -> bool {
    match file {
        Value::String(text) => text == "ByteLevel",
        Value::Array(parts) => parts.iter().any(is_byte_level),
        // A vocabulary of 128,000 tokens need not be searched.
        Value::Object(parts) => parts
            .iter()
            .any(|(key, part)| key != "vocab" && key != "merges" && is_byte_level(part)),
        _ => false,
    }
}

/// `tokenizer.json` as the class reads it, the tokens to add to it in their order, and the named special tokens.
pub(super) struct Auto {
    pub(super) file: Value,
    pub(super) added: Vec<AddedToken>,
    pub(super) special: BTreeMap<String, String>,
}

impl Auto {
    pub(super) fn new(files: Files) -> Auto {
        let class = match files.tokenizer["model"]["type"].as_str() {
            Some("BPE") => Class::of(&files),
            None if files.tokenizer["model"]["merges"].is_array() => Class::of(&files),
            _ => Class::AsItIs,
        };
        let (added, special) = tokens(class, &files);
        let mut file = files.tokenizer;
        if class != Class::AsItIs {
            rebuild(class, &mut file, &files.settings, &special);
        }
        Auto {
            file,
            added,
            special,
        }
    }
}

/// The tokens that are added, and the named special ones.
fn tokens(class: Class, files: &Files) -> (Vec<AddedToken>, BTreeMap<String, String>) {
    let settings = files.settings.as_object().cloned().unwrap_or_default();
    let mut named: Map<String, Value> = settings
        .iter()
        .filter(|(key, value)| key.ends_with("_token") && !value.is_boolean())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let list = |value: &Value| value.as_array().filter(|all| !all.is_empty()).cloned();
    let mut extra = match &settings.get("extra_special_tokens") {
        Some(Value::Object(more)) => {
            named.extend(more.clone());
            Vec::new()
        }
        Some(more) => list(more).unwrap_or_default(),
        None => Vec::new(),
    };
    if extra.is_empty() {
        extra = list(&files.settings["additional_special_tokens"]).unwrap_or_default();
    }
    let mut by_id: BTreeMap<u64, AddedToken> = BTreeMap::new();
    if let Some(decoder) = files.settings["added_tokens_decoder"].as_object() {
        for (id, value) in decoder {
            if let (Ok(id), Some(token)) = (id.parse(), token(value, false)) {
                by_id.insert(id, token);
            }
        }
    } else {
        let map = files.special_tokens_map.as_object();
        for (key, value) in map.into_iter().flatten() {
            if key.ends_with("_token") {
                named.insert(key.clone(), value.clone());
            } else if let (true, Some(more)) = (extra.is_empty(), list(value)) {
                extra = more;
            }
        }
        let is_special = |text: &str| {
            let mut all = named.values().chain(&extra).filter_map(content);
            all.any(|special| special == text)
        };
        let added = files.added_tokens.as_object();
        for (text, id) in added.into_iter().flatten() {
            if let Some(id) = id.as_u64() {
                by_id.insert(id, AddedToken::from(text.clone(), is_special(text)));
            }
        }
        let listed = files.tokenizer["added_tokens"].as_array();
        for value in listed.into_iter().flatten() {
            if let (Some(id), Some(token)) = (value["id"].as_u64(), token(value, false)) {
                by_id.insert(id, token);
            }
        }
    }
    for (key, text) in class.defaults() {
        named.entry(*key).or_insert_with(|| (*text).into());
    }
    let special: BTreeMap<String, String> = named
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), content(value)?.to_owned())))
        .collect();
    let mut added: Vec<AddedToken> = by_id.into_values().collect();
    let of_model = named.keys().filter(|key| !NAMED.contains(&key.as_str()));
    let names = NAMED.into_iter().chain(of_model.map(String::as_str));
    let others = names.filter_map(|name| named.get(name)).chain(&extra);
    let others: Vec<AddedToken> = others.filter_map(|value| token(value, true)).collect();
    for token in &mut added {
        token.special |= special.values().any(|text| *text == token.content);
    }
    for token in &others {
        if added.iter().all(|known| known.content != token.content) {
            added.push(token.clone());
        }
    }
    if class == Class::Qwen2 {
        added.extend(
            others
                .into_iter()
                .map(|token| AddedToken::from(token.content, true)),
        );
    }
    (added, special)
}

/// The text of a token that is written as a string, or as an object with flags.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A token with its flags; `special` is what it is where that is not said.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str| value[name].as_bool();
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content(value)?.to_owned(), special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(token.normalized(flag("normalized").unwrap_or(!special)))
}

/// Replaces everything in `tokenizer.json` but vocabulary, merges and template.
fn rebuild(class: Class, file: &mut Value, settings: &Value, special: &BTreeMap<String, String>) {
    const UNDERLINE: &str = "\u{2581}";
    /// How Qwen 2 cuts a text into words.
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let prefixed = settings["add_prefix_space"].as_bool();
    let byte_level = |regex: bool| {
        let prefixed = prefixed.unwrap_or(false);
        json!({"type": "ByteLevel", "add_prefix_space": prefixed, "trim_offsets": true, "use_regex": regex})
    };
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": UNDERLINE, "prepend_scheme": scheme, "split": false});
    let to_bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let joined = |strip: bool| {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": UNDERLINE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if strip {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": decoders})
    };
    let space = json!({"String": " "});
    let nfc = json!({"type": "NFC"});
    let with_prefix = prefixed.unwrap_or(true);
    let (normalizer, pre_tokenizer, decoder) = match class {
        Class::AsItIs => return,
        Class::Llama | Class::CodeLlama => {
            let legacy = class == Class::Llama && settings["legacy"].as_bool().unwrap_or(false);
            let scheme = match (with_prefix, legacy) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let strip = with_prefix || class == Class::CodeLlama;
            (Value::Null, metaspace(scheme), joined(strip))
        }
        Class::Gpt2 => (Value::Null, byte_level(true), to_bytes),
        Class::GptNeox => (nfc, byte_level(true), to_bytes),
        Class::Qwen2 => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            let parts = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
            (nfc, parts, to_bytes)
        }
        Class::Gemma => (
            json!({"type": "Replace", "pattern": space, "content": UNDERLINE}),
            json!({"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": false}),
            joined(false),
        ),
    };
    let spelled = matches!(class, Class::Llama | Class::CodeLlama | Class::Gemma);
    let unknown = matches!(class, Class::CodeLlama | Class::Gemma)
        .then(|| special.get("unk_token"))
        .flatten();
    file["model"] = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": spelled, "byte_fallback": spelled, "ignore_merges": false,
        "vocab": file["model"]["vocab"].take(), "merges": file["model"]["merges"].take(),
    });
    file["normalizer"] = normalizer;
    file["pre_tokenizer"] = pre_tokenizer;
    file["decoder"] = decoder;
    file["added_tokens"] = json!([]);
    match class {
        // It drops the template, and `add_bos_token` with it.
        Class::GptNeox => file["post_processor"] = Value::Null,
        // It begins every text with BOS, whatever the template says.
        Class::CodeLlama => {
            if let Some((bos, id)) = special
                .get("bos_token")
                .and_then(|bos| Some((bos, file["model"]["vocab"][bos].as_u64()?)))
            {
                file["post_processor"] = begins_with(bos, id);
            }
        }
        _ => {}
    }
}

/// A template that puts one token before a text.
fn begins_with(token: &str, id: u64) -> Value {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
    json!({
        "type": "TemplateProcessing", "single": [special, text("A")], "pair": [special, text("A"), text("B")],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}
