//! What several benchmarks share: checkpoints of real shapes with random weights.

mod gguf;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Sizes of a Llama model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// What the records call it.
    pub name: &'static str,
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Inner channels of the MLP.
    pub inner: usize,
}

/// Tokens of the vocabulary.
pub const VOCABULARY: usize = 32000;

/// TinyLlama-1.1B; four layers, and all, of Llama-7B.
pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "1b",
        hidden: 2048,
        layers: 22,
        heads: 32,
        kv_heads: 4,
        inner: 5632,
    },
    Shape {
        name: "7b4",
        hidden: 4096,
        layers: 4,
        heads: 32,
        kv_heads: 32,
        inner: 11008,
    },
    Shape {
        name: "7b32",
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        inner: 11008,
    },
];

/// The token ids that prompts of `n` tokens consist of.
pub fn tokens(n: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * 7919 + 13) % VOCABULARY) as u32)
        .collect()
}

impl Shape {
    /// The shape of that name.
    pub fn named(name: &str) -> Option<Shape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// A checkpoint of this shape in `dir`, BF16, made unless it is there: `dir/NAME`.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn checkpoint(&self, dir: &Path) -> io::Result<PathBuf> {
        let path = dir.join(self.name);
        if path.join("config.json").is_file() {
            return Ok(path);
        }
        let part = dir.join(format!("{}.part", self.name));
        fs::create_dir_all(&part)?;
        self.write_weights(&part.join("model.safetensors"))?;
        fs::write(part.join("config.json"), self.config())?;
        fs::rename(&part, &path)?;
        Ok(path)
    }

    fn config(&self) -> String {
        format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
"hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
"num_key_value_heads": {}, "head_dim": {}, "vocab_size": {VOCABULARY}, "max_position_embeddings": 4096,
"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
"tie_word_embeddings": false, "torch_dtype": "bfloat16", "attention_bias": false, "mlp_bias": false}}
"#,
            self.hidden,
            self.inner,
            self.layers,
            self.heads,
            self.kv_heads,
            self.hidden / self.heads
        )
    }

    /// Names, shapes and spreads of all tensors; a spread of 0 means ones.
    fn tensors(&self) -> Vec<(String, [usize; 2], f32)> {
        let (hidden, inner) = (self.hidden, self.inner);
        let kv = hidden / self.heads * self.kv_heads;
        let spread = |inputs: usize| 1.7 / (inputs as f32).sqrt(); // uniform: as wide as one over the root
        let mut all = vec![
            (
                "model.embed_tokens.weight".to_owned(),
                [VOCABULARY, hidden],
                0.8,
            ),
            ("model.norm.weight".to_owned(), [0, hidden], 0.0),
            (
                "lm_head.weight".to_owned(),
                [VOCABULARY, hidden],
                spread(hidden),
            ),
        ];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape, spread| {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape, spread));
            };
            add("input_layernorm", [0, hidden], 0.0);
            add("post_attention_layernorm", [0, hidden], 0.0);
            add("self_attn.q_proj", [hidden, hidden], spread(hidden));
            add("self_attn.k_proj", [kv, hidden], spread(hidden));
            add("self_attn.v_proj", [kv, hidden], spread(hidden));
            add("self_attn.o_proj", [hidden, hidden], spread(hidden) / 2.0);
            add("mlp.gate_proj", [inner, hidden], spread(hidden));
            add("mlp.up_proj", [inner, hidden], spread(hidden));
            add("mlp.down_proj", [hidden, inner], spread(inner) / 2.0);
        }
        all
    }

    fn write_weights(&self, path: &Path) -> io::Result<()> {
        let tensors = self.tensors();
        let (mut header, mut end) = (String::from(r#"{"__metadata__": {"format": "pt"}"#), 0);
        for (name, [rows, cols], _) in &tensors {
            let (start, shape) = (end, format!("{rows}, {cols}"));
            let shape = if *rows == 0 { format!("{cols}") } else { shape };
            end += 2 * cols * rows.max(&1);
            header += &format!(
                ", \"{name}\": {{\"dtype\": \"BF16\", \"shape\": [{shape}], \"data_offsets\": [{start}, {end}]}}"
            );
        }
        header.push('}');
        header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut next = random(1);
        for (_, [rows, cols], spread) in &tensors {
            let mut bytes = Vec::with_capacity(2 * cols);
            for _ in 0..*rows.max(&1) {
                bytes.clear();
                for _ in 0..*cols {
                    let value = if *spread == 0.0 { 1.0 } else { next() * spread };
                    bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
                }
                file.write_all(&bytes)?;
            }
        }
        file.into_inner()?.sync_all()
    }
}

/// Numbers in [-1, 1), always the same for a seed.
pub fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The middle value; of an even number, the upper of the two.
///
/// # Panics
/// If there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
