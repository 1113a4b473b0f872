//! The tokenizer that the metadata of a GGUF file describe, as `tokenizer.json` and `tokenizer_config.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    meta::Meta,
    split::{Split, split},
};
use crate::error::Result;

/// Kinds of tokens.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// Longest token of a vocabulary whose merges follow from its scores; the longest known are a sixteenth.
const LONGEST: usize = 4096;

/// What the metadata say.
struct Vocabulary<'a> {
    meta: Meta<'a>,
    tokens: &'a [String],
    kinds: &'a [i64],
    bos: Option<u64>,
    eos: Option<u64>,
    unknown: Option<u64>,
}

/// `tokenizer.json` and `tokenizer_config.json`.
pub(super) fn parts(meta: Meta<'_>) -> Result<[Value; 2]> {
    let kind = meta.text("tokenizer.ggml.model")?;
    let missing = |key: &str| {
        meta.error(
            key,
            "missing, so texts cannot be encoded; give token ids instead",
        )
    };
    let kind = kind.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let tokens = meta.texts("tokenizer.ggml.tokens")?;
    let id = |name: &str| meta.size(&format!("tokenizer.ggml.{name}_token_id"));
    let is_spm = kind == "llama";
    let default = |id| Some(id).filter(|_| is_spm);
    let vocabulary = Vocabulary {
        meta,
        tokens: tokens.ok_or_else(|| missing("tokenizer.ggml.tokens"))?,
        kinds: meta.ints("tokenizer.ggml.token_type")?.unwrap_or_default(),
        bos: id("bos")?.or(default(1)),
        eos: id("eos")?.or(default(2)),
        unknown: id("unknown")?.or(default(0)),
    };
    // What other kinds of tokenizers do to a text, or put behind it.
    for name in ["add_sep_token", "remove_extra_whitespaces"] {
        let key = format!("tokenizer.ggml.{name}");
        if meta.flag(&key)?.unwrap_or(false) {
            let problem = format!(
                "not implemented with tokenizer.ggml.model {kind}; give token ids instead of a text"
            );
            return Err(meta.error(&key, problem));
        }
    }
    let (mut file, add_bos) = match kind {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => (vocabulary.sentencepiece()?, true),
        other => {
            let problem =
                format!("expected gpt2 or llama, found {other}, which is not implemented");
            return Err(meta.error("tokenizer.ggml.model", problem));
        }
    };
    let flag = |name: &str| meta.flag(&format!("tokenizer.ggml.{name}"));
    let add_bos = flag("add_bos_token")?.unwrap_or(add_bos) && vocabulary.bos.is_some();
    let add_eos = flag("add_eos_token")?.unwrap_or(false) && vocabulary.eos.is_some();
    file["version"] = "1.0".into();
    file["added_tokens"] = vocabulary.added();
    file["post_processor"] = vocabulary.template(add_bos, add_eos);
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    settings.insert("add_bos_token".into(), add_bos.into());
    settings.insert("add_eos_token".into(), add_eos.into());
    for (name, id) in [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", id("padding")?),
    ] {
        if let Some(token) = id.and_then(|id| vocabulary.token(id)) {
            settings.insert(name.into(), token.into());
        }
    }
    if let Some(template) = meta.text("tokenizer.chat_template")? {
        settings.insert("chat_template".into(), template.into());
    }
    settings.insert("clean_up_tokenization_spaces".into(), false.into());
    if let Some(length) = meta.opt("context_length")? {
        settings.insert("model_max_length".into(), length.into());
    }
    Ok([file, Value::Object(settings)])
}

impl<'a> Vocabulary<'a> {
    fn token(&self, id: u64) -> Option<&'a str> {
        self.tokens
            .get(usize::try_from(id).ok()?)
            .map(String::as_str)
    }

    /// Tokens that are found in a text before it is cut.
    fn added(&self) -> Value {
        let one = |(id, (token, &kind)): (usize, (&String, &i64))| {
            let special = matches!(kind, CONTROL | UNKNOWN);
            (special || kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        let all = self.tokens.iter().zip(self.kinds).enumerate();
        all.filter(|(_, (token, _))| !token.is_empty())
            .filter_map(one)
            .collect()
    }

    /// What is put around a text.
    fn template(&self, add_bos: bool, add_eos: bool) -> Value {
        let bos = self
            .bos
            .filter(|_| add_bos)
            .and_then(|id| Some((id, self.token(id)?)));
        let eos = self
            .eos
            .filter(|_| add_eos)
            .and_then(|id| Some((id, self.token(id)?)));
        let part = |which: &str, kind: usize| {
            let special = |token: Option<(u64, &str)>| {
                token.map(|(_, token)| json!({"SpecialToken": {"id": token, "type_id": kind}}))
            };
            let text = json!({"Sequence": {"id": which, "type_id": kind}});
            [special(bos), Some(text), special(eos)]
                .into_iter()
                .flatten()
        };
        let specials = bos.into_iter().chain(eos);
        let specials: Map<String, Value> = specials
            .map(|(id, token)| {
                (
                    token.to_owned(),
                    json!({"id": token, "ids": [id], "tokens": [token]}),
                )
            })
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": part("A", 0).collect::<Vec<_>>(),
            "pair": part("A", 0).chain(part("B", 1)).collect::<Vec<_>>(),
            "special_tokens": specials,
        })
    }

    /// Byte-level BPE, and whether its texts begin with BOS.
    fn byte_level(&self) -> Result<(Value, bool)> {
        let key = "tokenizer.ggml.pre";
        let name = self.meta.text(key)?.unwrap_or_default();
        let Some(Split {
            pre_tokenizer,
            add_bos,
        }) = split(name)
        else {
            let problem = format!(
                "the pre-tokenizer {name} is not implemented; give token ids instead of a text"
            );
            return Err(self.meta.error(key, problem));
        };
        let merges = self.given_merges()?.unwrap_or_default();
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false,
            "vocab": self.vocab(|token| token.to_owned()), "merges": merges,
        });
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = json!({
            "normalizer": null, "pre_tokenizer": pre_tokenizer, "decoder": byte_level, "model": model,
        });
        Ok((file, add_bos))
    }

    /// The merges that the file lists.
    fn given_merges(&self) -> Result<Option<Vec<[String; 2]>>> {
        let key = "tokenizer.ggml.merges";
        let Some(merges) = self.meta.texts(key)? else {
            return Ok(None);
        };
        // A token may begin with a space, or be one.
        let pair = |merge: &str| {
            let from = merge.chars().next().map_or(0, char::len_utf8);
            let (left, right) = merge.split_at(from + merge[from..].find(' ')?);
            Some([left.to_owned(), right[1..].to_owned()])
        };
        let pairs = merges.iter().map(|merge| {
            let problem =
                || format!("expected two tokens and a space between them, found {merge:?}");
            pair(merge).ok_or_else(|| self.meta.error(key, problem()))
        });
        pairs.collect::<Result<_>>().map(Some)
    }

    /// Ids by token; the last of equal ones.
    fn vocab(&self, spell: impl Fn(&str) -> String) -> Map<String, Value> {
        let tokens = self.tokens.iter().enumerate();
        tokens
            .map(|(id, token)| (spell(token), id.into()))
            .collect()
    }

    /// BPE over characters that falls back to bytes, as a `sentencepiece` vocabulary is used.
    fn sentencepiece(&self) -> Result<Value> {
        let is_gemma = self.meta.arch().starts_with("gemma");
        let flag = self.meta.flag("tokenizer.ggml.add_space_prefix")?;
        let prefixed = flag.unwrap_or(true);
        let spaces = json!({"String": " "});
        // Runs of spaces are written as such in files of Gemma, whose ranks are not its scores but its order.
        let spell =
            |token: &str| match is_gemma && token.len() > 1 && token.bytes().all(|b| b == b' ') {
                true => "\u{2581}".repeat(token.len()),
                false => token.to_owned(),
            };
        let scores = self.meta.floats("tokenizer.ggml.scores")?;
        let rank = |id: usize| match scores {
            Some(scores) if !is_gemma => scores.get(id).copied().unwrap_or(f32::MIN),
            _ => -(id as f32),
        };
        let (normalizer, pre_tokenizer) = if is_gemma {
            (
                json!({"type": "Replace", "pattern": spaces, "content": "\u{2581}"}),
                json!({"type": "Split", "pattern": spaces, "behavior": "MergedWithPrevious", "invert": false}),
            )
        } else if self.meta.arch() == "phi3" && prefixed {
            let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
            let replace = json!({"type": "Replace", "pattern": spaces, "content": "\u{2581}"});
            (
                json!({"type": "Sequence", "normalizers": [prepend, replace]}),
                Value::Null,
            )
        } else {
            let scheme = if prefixed { "first" } else { "never" };
            (
                Value::Null,
                json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false}),
            )
        };
        let tokens: Vec<String> = self.tokens.iter().map(|token| spell(token)).collect();
        let merges = match self.given_merges()? {
            Some(merges) => merges,
            None => self.merges(&tokens, rank)?,
        };
        let unknown = self
            .unknown
            .and_then(|id| self.token(id))
            .filter(|_| is_gemma);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": self.vocab(spell), "merges": merges,
        });
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefixed && !is_gemma {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
        }))
    }

    /// Every way to join two tokens to a third, best first: by its rank, then the longer left part.
    fn merges(&self, tokens: &[String], rank: impl Fn(usize) -> f32) -> Result<Vec<[String; 2]>> {
        let ids: HashMap<&str, usize> = tokens
            .iter()
            .enumerate()
            .map(|(id, t)| (t.as_str(), id))
            .collect();
        let mut merges = Vec::new();
        for (id, token) in tokens.iter().enumerate() {
            if token.len() > LONGEST {
                let problem = format!(
                    "token {id} has {} bytes; expected at most {LONGEST}",
                    token.len()
                );
                return Err(self.meta.error("tokenizer.ggml.tokens", problem));
            }
            // Of equal tokens only the last is a token.
            let Some(&last) = ids.get(token.as_str()).filter(|&&last| last == id) else {
                continue;
            };
            let mut ways: Vec<_> = token
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| {
                    let (left, right) = token.split_at(at);
                    Some(([*ids.get(left)?, *ids.get(right)?], left, right))
                })
                .collect();
            ways.sort_by_key(|&(ids, _, _)| ids);
            let chars = |text: &str| text.chars().count();
            merges.extend(ways.into_iter().map(|(_, left, right)| {
                (
                    rank(last),
                    chars(left),
                    chars(right),
                    [left.to_owned(), right.to_owned()],
                )
            }));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        Ok(merges.into_iter().map(|(_, _, _, pair)| pair).collect())
    }
}
