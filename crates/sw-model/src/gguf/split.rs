//! Pre-tokenizers of byte-level vocabularies, by the name that GGUF gives them.

use serde_json::{Value, json};

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a vocabulary cuts a text before it merges.
pub(super) struct Split {
    pub(super) pre_tokenizer: Value,
    pub(super) normalizer: Value,
    /// Whether a piece that is a token is one whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub(super) add_bos: bool,
}

/// The pre-tokenizer of a name.
pub(super) fn split(name: &str) -> Option<Split> {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let then = |first: Value, use_regex| json!({"type": "Sequence", "pretokenizers": [first, byte_level(use_regex)]});
    let by = |regex: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        then(split, false)
    };
    let plain = |pre_tokenizer| Split {
        pre_tokenizer,
        normalizer: Value::Null,
        ignore_merges: false,
        add_bos: false,
    };
    Some(match name {
        "" | "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jais" | "gigachat"
        | "roberta-bpe" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "mellum"
        | "modern-bert" | "a.x-4.0" | "trillion" | "granite-docling" | "gpt-neox" | "pythia" => {
            plain(byte_level(true))
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(then(
                json!({"type": "Digits", "individual_digits": true}),
                true,
            ))
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => Split {
            ignore_merges: true,
            add_bos: true,
            ..plain(by(LLAMA_3))
        },
        "dbrx" | "smaug-bpe" | "jina-v5-nano" => plain(by(LLAMA_3)),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" => {
            Split {
                normalizer: json!({"type": "NFC"}),
                ..plain(by(QWEN_2))
            }
        }
        "tekken" => Split {
            ignore_merges: true,
            add_bos: true,
            ..plain(by(TEKKEN))
        },
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => plain(by(GPT_4O)),
        _ => return None,
    })
}
