//! A writer of small GGUF files.

use serde_json::{Value, json};

/// A GGUF file of version 3 with F32 tensors, made in memory.
#[derive(Default)]
pub(crate) struct Written {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The number that the format gives to the type of a value, and the value's bytes: whole numbers as I32, others as F32.
fn value(value: &Value) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    let kind = match value {
        Value::Bool(b) => {
            bytes.push(u8::from(*b));
            7
        }
        Value::Number(n) => match n.as_i64() {
            Some(n) => {
                bytes.extend((n as i32).to_le_bytes());
                5
            }
            None => {
                bytes.extend((n.as_f64().unwrap() as f32).to_le_bytes());
                6
            }
        },
        Value::String(s) => {
            text(&mut bytes, s);
            8
        }
        Value::Array(list) => {
            let all: Vec<_> = list.iter().map(self::value).collect();
            let kind = all.first().map_or(5, |(kind, _)| *kind);
            assert!(all.iter().all(|(other, _)| *other == kind), "{list:?}");
            bytes.extend(kind.to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            all.iter().for_each(|(_, one)| bytes.extend(one));
            9
        }
        Value::Null | Value::Object(_) => panic!("no such value in GGUF: {value}"),
    };
    (kind, bytes)
}

impl Written {
    pub(crate) fn key(&mut self, name: &str, given: &Value) {
        let (kind, bytes) = value(given);
        text(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(bytes);
        self.key_count += 1;
    }

    /// `shape`: slowest dimension first.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        let fastest_first = shape.iter().rev();
        fastest_first.for_each(|&n| self.tensors.extend((n as u64).to_le_bytes()));
        self.tensors.extend(0u32.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data
            .extend(values.iter().flat_map(|x| x.to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensor_count += 1;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.key_count.to_le_bytes());
        file.extend(&self.keys);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }

    /// A Llama of one layer, two channels and so many tokens.
    pub(crate) fn tiny_llama(vocab: usize) -> Written {
        let mut file = Written::default();
        file.key("general.architecture", &json!("llama"));
        for (key, n) in [
            ("context_length", 8),
            ("embedding_length", 2),
            ("block_count", 1),
            ("feed_forward_length", 2),
            ("attention.head_count", 1),
        ] {
            file.key(&format!("llama.{key}"), &json!(n));
        }
        file.key("llama.attention.layer_norm_rms_epsilon", &json!(1e-5));
        file.tensor("token_embd.weight", &[vocab, 2], &vec![0.5; vocab * 2]);
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file.tensor(&format!("{name}.weight"), &[2], &[1.0; 2]);
        }
        for name in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            file.tensor(&format!("blk.0.{name}.weight"), &[2, 2], &[0.5; 4]);
        }
        file
    }
}
