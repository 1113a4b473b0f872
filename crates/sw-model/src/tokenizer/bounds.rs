//! What a tokenizer may ask for: a stranger's file could grow a text, or a table, beyond all memory.

use serde_json::Value;

/// How many times longer than a text a normalizer may make it.
const GROWTH: usize = 64;

/// Refuses a tokenizer that would take more memory than it has bytes: normalizers that multiply the length of a text one
/// after the other, and compiled tables that say they are larger than they are.
pub(super) fn check(file: &Value) -> Result<(), String> {
    let mut growth = 1usize;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        for step in steps(&file[part]) {
            if let Some(table) = step["precompiled_charsmap"].as_str() {
                compiled(table)?;
            }
            let length = |part: &Value| part.as_str().map_or(0, str::len);
            let factor = match step["type"].as_str() {
                // A pattern may match between any two bytes.
                Some("Replace") => match length(&step["pattern"]["String"]) {
                    0 => length(&step["content"]) + 1,
                    replaced => length(&step["content"]).div_ceil(replaced),
                },
                // Once for each piece between two added tokens.
                Some("Prepend") => length(&step["prepend"]),
                _ => 1,
            };
            growth = growth.saturating_mul(factor.max(1));
            if growth > GROWTH {
                return Err(format!(
                    "its {part} makes a text {growth} times longer, expected at most {GROWTH} times"
                ));
            }
        }
    }
    Ok(())
}

/// The steps of a part of a tokenizer, which may be sequences of others.
fn steps(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers", "decoders"]
        .into_iter()
        .filter_map(|name| part[name].as_array());
    let mut all: Vec<_> = inner.flatten().flat_map(steps).collect();
    all.push(part);
    all
}

/// Checks the length in front of a table of SentencePiece's normalization: 32 bits, little-endian, of a table in Base64.
fn compiled(table: &str) -> Result<(), String> {
    let head = table.get(..8).and_then(|head| base64::decode(head).ok());
    let length = head
        .as_deref()
        .and_then(<[u8]>::first_chunk)
        .map(|bytes| u32::from_le_bytes(*bytes) as usize);
    match length {
        Some(length) if length <= table.len() / 4 * 3 => Ok(()),
        Some(length) => Err(format!(
            "its precompiled_charsmap says that it has {length} bytes, found {}",
            table.len() / 4 * 3
        )),
        None => Err("its precompiled_charsmap is not in Base64".into()),
    }
}
