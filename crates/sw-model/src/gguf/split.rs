//! Pre-tokenizers of byte-level vocabularies, by the name that GGUF gives them.

use serde_json::{Value, json};

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a vocabulary cuts a text before it merges.
pub(super) struct Split {
    pub(super) pre_tokenizer: Value,
    /// Whether texts begin with BOS where the file does not say.
    pub(super) add_bos: bool,
}

/// The pre-tokenizer of a name, as transformers reads it in a GGUF file: names that it has no expression for are cut as
/// GPT-2 cuts, also those of vocabularies that were learned with each digit alone.
pub(super) fn split(name: &str) -> Option<Split> {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let by = |regex: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    let pre_tokenizer = match name {
        "" | "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jais" | "gigachat"
        | "roberta-bpe" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "mellum"
        | "modern-bert" | "a.x-4.0" | "trillion" | "granite-docling" | "gpt-neox" | "pythia"
        | "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
        | "minerva-7b" | "stablelm2" | "hunyuan" => byte_level(true),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "dbrx" | "smaug-bpe" | "jina-v5-nano" => by(LLAMA_3),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" => by(QWEN_2),
        "tekken" => by(TEKKEN),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => by(GPT_4O),
        _ => return None,
    };
    let add_bos = matches!(
        name,
        "llama3"
            | "llama-v3"
            | "llama-bpe"
            | "falcon3"
            | "falcon-h1"
            | "pixtral"
            | "midm-2.0"
            | "lfm2"
            | "tekken"
    );
    Some(Split {
        pre_tokenizer,
        add_bos,
    })
}
