//! GGUF files of real shapes with random blocks, of the types that llama.cpp's Q4_K_M has.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Shape, VOCABULARY, random};

/// How a tensor is coded.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A norm: ones.
    F32,
    Q4K,
    Q6K,
}

impl Kind {
    /// The number that the format gives to the type.
    fn id(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::Q4K => 12,
            Kind::Q6K => 14,
        }
    }

    /// Bytes of so many weights.
    fn bytes(self, weights: usize) -> usize {
        match self {
            Kind::F32 => 4 * weights,
            Kind::Q4K => weights / 256 * 144,
            Kind::Q6K => weights / 256 * 210,
        }
    }
}

struct Tensor {
    name: String,
    /// 0 rows: a vector.
    shape: [usize; 2],
    kind: Kind,
}

impl Tensor {
    fn weights(&self) -> usize {
        self.shape[0].max(1) * self.shape[1]
    }
}

impl Shape {
    /// A GGUF file of this shape in `dir`, of the types of Q4_K_M, made unless it is there: `dir/NAME.Q4_K_M.gguf`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn gguf(&self, dir: &Path) -> io::Result<PathBuf> {
        let path = dir.join(format!("{}.Q4_K_M.gguf", self.name));
        if path.is_file() {
            return Ok(path);
        }
        let part = dir.join(format!("{}.gguf.part", self.name));
        fs::create_dir_all(dir)?;
        self.write_gguf(&part)?;
        fs::rename(&part, &path)?;
        Ok(path)
    }

    fn coded(&self) -> Vec<Tensor> {
        let (hidden, inner) = (self.hidden, self.inner);
        let kv = hidden / self.heads * self.kv_heads;
        let mut all = Vec::new();
        let mut add = |name: String, shape, kind| {
            all.push(Tensor {
                name: format!("{name}.weight"),
                shape,
                kind,
            });
        };
        add("token_embd".into(), [VOCABULARY, hidden], Kind::Q4K);
        add("output_norm".into(), [0, hidden], Kind::F32);
        add("output".into(), [VOCABULARY, hidden], Kind::Q6K);
        for layer in 0..self.layers {
            // The first and the last eighth of the layers, and every third of the others, have better values and outputs.
            let eighth = self.layers / 8;
            let better =
                layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2;
            let more = if better { Kind::Q6K } else { Kind::Q4K };
            let mut add = |name: &str, shape, kind| add(format!("blk.{layer}.{name}"), shape, kind);
            add("attn_norm", [0, hidden], Kind::F32);
            add("ffn_norm", [0, hidden], Kind::F32);
            add("attn_q", [hidden, hidden], Kind::Q4K);
            add("attn_k", [kv, hidden], Kind::Q4K);
            add("attn_v", [kv, hidden], more);
            add("attn_output", [hidden, hidden], Kind::Q4K);
            add("ffn_gate", [inner, hidden], Kind::Q4K);
            add("ffn_up", [inner, hidden], Kind::Q4K);
            add("ffn_down", [hidden, inner], more);
        }
        all
    }

    fn write_gguf(&self, path: &Path) -> io::Result<()> {
        let tensors = self.coded();
        let sizes = [
            ("context_length", 4096),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.inner),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ];
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((sizes.len() as u64 + 2).to_le_bytes());
        let text = |head: &mut Vec<u8>, text: &str| {
            head.extend((text.len() as u64).to_le_bytes());
            head.extend(text.as_bytes());
        };
        text(&mut head, "general.architecture");
        head.extend(8u32.to_le_bytes()); // a text
        text(&mut head, "llama");
        for (key, size) in sizes {
            text(&mut head, &format!("llama.{key}"));
            head.extend(4u32.to_le_bytes()); // a whole number of 32 bits
            head.extend((size as u32).to_le_bytes());
        }
        text(&mut head, "llama.attention.layer_norm_rms_epsilon");
        head.extend(6u32.to_le_bytes()); // a number of 32 bits
        head.extend(1e-5f32.to_le_bytes());
        let mut offset = 0;
        for tensor in &tensors {
            text(&mut head, &tensor.name);
            let [rows, cols] = tensor.shape;
            let dims = if rows == 0 {
                vec![cols]
            } else {
                vec![cols, rows]
            };
            head.extend((dims.len() as u32).to_le_bytes());
            dims.iter()
                .for_each(|&n| head.extend((n as u64).to_le_bytes()));
            head.extend(tensor.kind.id().to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += tensor.kind.bytes(tensor.weights()).next_multiple_of(32);
        }
        head.resize(head.len().next_multiple_of(32), 0);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&head)?;
        let mut next = random(2);
        for tensor in &tensors {
            write_values(&mut file, tensor, &mut next)?;
        }
        file.into_inner()?.sync_all()
    }
}

/// Random codes and scales, whose values spread as those of a checkpoint do.
fn write_values(
    file: &mut impl Write,
    tensor: &Tensor,
    next: &mut impl FnMut() -> f32,
) -> io::Result<()> {
    let (rows, cols) = (tensor.shape[0].max(1), tensor.shape[1]);
    let spread = 1.0 / (cols as f32).sqrt();
    let mut byte = || (next() * 128.0) as i8 as u8;
    let mut row = Vec::new();
    for _ in 0..rows {
        row.clear();
        for _ in 0..cols / 256 {
            match tensor.kind {
                Kind::F32 => {}
                Kind::Q4K => {
                    // The middle of 16 codes is 7.5: with minima as large, values are as often negative as positive.
                    let d = spread / 200.0;
                    row.extend(half::f16::from_f32(d).to_le_bytes());
                    row.extend(half::f16::from_f32(7.5 * d).to_le_bytes());
                    row.extend(std::iter::repeat_with(&mut byte).take(140));
                }
                Kind::Q6K => {
                    row.extend(std::iter::repeat_with(&mut byte).take(208));
                    row.extend(half::f16::from_f32(spread / 1400.0).to_le_bytes());
                }
            }
        }
        if tensor.kind == Kind::F32 {
            row.extend(std::iter::repeat_n(1f32.to_le_bytes(), cols).flatten());
        }
        file.write_all(&row)?;
    }
    let written = tensor.kind.bytes(tensor.weights());
    file.write_all(&[0; 32][..written.next_multiple_of(32) - written])
}
