//! Weights in the shape the forward pass reads them, looked up by the names in a [`Spec`].

use std::sync::Arc;

use sw_tensor::{Checkpoint, Mat};

use crate::{
    edit::Linear,
    error::{Error, Result},
    spec::{Slot, Spec},
};

/// `y = x * w^T + bias`.
#[derive(Clone)]
pub(crate) struct Affine {
    pub(crate) w: Mat,
    pub(crate) bias: Option<Arc<[f32]>>,
}

/// Weight of a norm, `[channels]`.
pub(crate) type NormWeight = Arc<[f32]>;

/// One layer; cheap to clone (every tensor is shared).
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) attn_in_norm: Option<NormWeight>,
    pub(crate) mlp_in_norm: Option<NormWeight>,
    pub(crate) q: Affine,
    pub(crate) k: Affine,
    pub(crate) v: Affine,
    pub(crate) o: Affine,
    pub(crate) gate: Option<Affine>,
    pub(crate) up: Affine,
    pub(crate) down: Affine,
}

impl Layer {
    pub(crate) fn linear(&self, linear: Linear) -> Option<&Affine> {
        Some(match linear {
            Linear::Q => &self.q,
            Linear::K => &self.k,
            Linear::V => &self.v,
            Linear::O => &self.o,
            Linear::Gate => return self.gate.as_ref(),
            Linear::Up => &self.up,
            Linear::Down => &self.down,
        })
    }

    pub(crate) fn linear_mut(&mut self, linear: Linear) -> Option<&mut Affine> {
        Some(match linear {
            Linear::Q => &mut self.q,
            Linear::K => &mut self.k,
            Linear::V => &mut self.v,
            Linear::O => &mut self.o,
            Linear::Gate => return self.gate.as_mut(),
            Linear::Up => &mut self.up,
            Linear::Down => &mut self.down,
        })
    }
}

/// All weights of a model.
#[derive(Clone)]
pub(crate) struct Weights {
    /// `[vocab, hidden]`.
    pub(crate) embed: Mat,
    /// `[vocab, hidden]`.
    pub(crate) head: Mat,
    pub(crate) final_norm: NormWeight,
    pub(crate) layers: Vec<Arc<Layer>>,
}

impl Weights {
    /// Looks up every tensor and checks its shape. Only norms and biases are copied.
    pub(crate) fn load(spec: &Spec, ck: &Checkpoint) -> Result<Self> {
        let (hidden, names) = (spec.hidden_size, &spec.names);
        let embed = match (ck.info(names.embed), ck.info(names.head)) {
            // A tied checkpoint may keep its one matrix under the head's name.
            (None, Some(_)) if spec.tied => vocab_rows(spec, ck, names.head)?,
            _ => vocab_rows(spec, ck, names.embed)?,
        };
        let head = if spec.tied {
            embed.clone()
        } else {
            vocab_rows(spec, ck, names.head)?
        };
        let final_norm = ck
            .vector(&format!("{}.weight", names.final_norm), hidden)?
            .into();
        let layer = |l: usize| -> Result<Arc<Layer>> {
            let prefix = spec.layer_prefix(l);
            let norm = |name: Option<&str>| -> Result<Option<NormWeight>> {
                name.map(|n| Ok(ck.vector(&format!("{prefix}{n}.weight"), hidden)?.into()))
                    .transpose()
            };
            let linear = |linear: Linear, slot: Slot| -> Result<Affine> {
                let [rows, cols] = spec.shape(linear);
                let name = format!("{prefix}{}", slot.module);
                let w = ck.mat(&format!("{name}.weight"), rows, cols)?;
                let bias = slot
                    .bias
                    .then(|| ck.vector(&format!("{name}.bias"), rows))
                    .transpose()?;
                Ok(Affine {
                    w,
                    bias: bias.map(Arc::from),
                })
            };
            Ok(Arc::new(Layer {
                attn_in_norm: norm(names.attn_in_norm)?,
                mlp_in_norm: norm(names.mlp_in_norm)?,
                q: linear(Linear::Q, names.q)?,
                k: linear(Linear::K, names.k)?,
                v: linear(Linear::V, names.v)?,
                o: linear(Linear::O, names.o)?,
                gate: names
                    .gate
                    .map(|slot| linear(Linear::Gate, slot))
                    .transpose()?,
                up: linear(Linear::Up, names.up)?,
                down: linear(Linear::Down, names.down)?,
            }))
        };
        let layers = (0..spec.layers.len()).map(layer).collect::<Result<_>>()?;
        Ok(Self {
            embed,
            head,
            final_norm,
            layers,
        })
    }

    /// The name of a tensor that holds a NaN or an infinity, searching the embedding, layers up to `last`, and the head.
    pub(crate) fn non_finite(&self, spec: &Spec, last: Option<usize>) -> Option<String> {
        let bad = |w: &Mat| {
            let mut row = vec![0.0; w.cols()];
            (0..w.rows()).find_map(|r| {
                w.row_into(r, &mut row);
                row.iter()
                    .position(|x| !x.is_finite())
                    .map(|c| (r, c, row[c]))
            })
        };
        let say =
            |name: &str, w: &Mat| bad(w).map(|(r, c, x)| format!("{name} holds {x} at [{r}, {c}]"));
        let say_vec = |name: &str, v: Option<&Arc<[f32]>>| {
            v.and_then(|v| {
                v.iter()
                    .position(|x| !x.is_finite())
                    .map(|i| format!("{name} holds {} at [{i}]", v[i]))
            })
        };
        let layer = |(l, layer): (usize, &Arc<Layer>)| {
            let prefix = spec.layer_prefix(l);
            let norms = [
                (spec.names.attn_in_norm, &layer.attn_in_norm),
                (spec.names.mlp_in_norm, &layer.mlp_in_norm),
            ];
            norms
                .into_iter()
                .find_map(|(name, w)| say_vec(&format!("{prefix}{}.weight", name?), w.as_ref()))
                .or_else(|| {
                    Linear::ALL.into_iter().find_map(|linear| {
                        let (slot, affine) = (spec.slot(linear)?, layer.linear(linear)?);
                        let name = format!("{prefix}{}", slot.module);
                        say(&format!("{name}.weight"), &affine.w)
                            .or_else(|| say_vec(&format!("{name}.bias"), affine.bias.as_ref()))
                    })
                })
        };
        let layers = last.map_or(self.layers.len(), |l| l + 1);
        self.layers
            .iter()
            .take(layers)
            .enumerate()
            .rev()
            .find_map(layer)
            .or_else(|| say(spec.names.embed, &self.embed))
            .or_else(|| {
                say_vec(
                    &format!("{}.weight", spec.names.final_norm),
                    Some(&self.final_norm),
                )
            })
            .or_else(|| {
                if spec.tied {
                    None
                } else {
                    say(spec.names.head, &self.head)
                }
            })
    }
}

/// A `[vocab, hidden]` matrix, which may have more rows than the vocabulary.
fn vocab_rows(spec: &Spec, ck: &Checkpoint, name: &str) -> Result<Mat> {
    let rows = match ck.info(name).map(|i| i.shape.as_slice()) {
        Some(&[rows, _]) if rows > spec.vocab_size => rows,
        _ => spec.vocab_size,
    };
    Ok(ck
        .mat(name, rows, spec.hidden_size)?
        .slice_rows(0..spec.vocab_size))
}

pub(crate) fn no_such_tensor(coord: impl ToString) -> Error {
    Error::Coordinate {
        coord: coord.to_string(),
        problem: "the model has no such tensor".into(),
    }
}
