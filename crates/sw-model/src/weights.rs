//! Weights in the shape the forward pass reads them, looked up by the names in a [`Spec`].

use std::{collections::BTreeMap, sync::Arc};

use ndarray::Array2;
use sw_tensor::{Checkpoint, Coding, Dtype, Mat};

use crate::{
    edit::{Linear, LinearAt},
    error::{Error, Result},
    open::Decoder,
    product::Weight,
    spec::{LayerNorms, Norm, QkNorm, Spec},
};

/// `y = x * w^T + bias`.
#[derive(Clone)]
pub(crate) struct Affine {
    pub(crate) w: Weight,
    pub(crate) bias: Option<Arc<[f32]>>,
}

/// Parameters of a norm, `[channels]` each; a norm may have none.
#[derive(Clone, Default)]
pub(crate) struct NormWeight {
    pub(crate) weight: Option<Arc<[f32]>>,
    pub(crate) bias: Option<Arc<[f32]>>,
}

/// One layer; every tensor is shared between clones.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) norms: LayerNorms<Option<NormWeight>>,
    /// By expert (`None`: outside experts) and map. Which ones are there is the family's table.
    linears: BTreeMap<(Option<usize>, Linear), Affine>,
    /// `[experts, hidden]`, in layers with experts.
    pub(crate) router: Option<Mat>,
    /// What mixes experts and MLP, `[2, hidden]` with a bias, where both are.
    pub(crate) mix: Option<Affine>,
}

impl Layer {
    pub(crate) fn linear(&self, expert: Option<usize>, linear: Linear) -> Option<&Affine> {
        self.linears.get(&(expert, linear))
    }

    /// Whether products stand in the places of some matrices.
    pub(crate) fn has_products(&self) -> bool {
        self.linears
            .values()
            .any(|affine| affine.w.product().is_some())
    }

    /// Has the system read the weights from a disk, where they are not in memory yet, on a thread that waits for it; of experts,
    /// which may not be asked, only the router.
    pub(crate) fn will_need(&self) {
        let dense = self
            .linears
            .iter()
            .filter(|((expert, _), _)| expert.is_none());
        let stored = dense.filter_map(|(_, affine)| affine.w.stored());
        let stored: Vec<Mat> = stored.cloned().collect();
        // Where no thread can be started, weights are read when they are used.
        let reader = std::thread::Builder::new();
        let _ = reader.spawn(move || stored.iter().for_each(Mat::bring_in));
    }

    pub(crate) fn linear_mut(&mut self, at: LinearAt) -> Option<&mut Affine> {
        self.linears.get_mut(&(at.expert, at.linear))
    }
}

impl std::ops::Index<(Option<usize>, Linear)> for Layer {
    type Output = Affine;

    fn index(&self, key: (Option<usize>, Linear)) -> &Affine {
        &self.linears[&key]
    }
}

/// All weights of a model.
#[derive(Clone)]
pub(crate) struct Weights {
    /// `[vocab, hidden]`.
    pub(crate) embed: Mat,
    /// `[positions, hidden]`, where positions are learned.
    pub(crate) positions: Option<Mat>,
    /// `[vocab, hidden]`.
    pub(crate) head: Mat,
    pub(crate) final_norm: NormWeight,
    pub(crate) layers: Vec<Arc<Layer>>,
    /// Embeddings of virtual tokens, `[virtual tokens, hidden]`, where there is a soft prompt.
    pub(crate) soft_prompt: Option<Array2<f32>>,
}

impl Weights {
    /// Looks up every tensor and checks its shape. Only norms and biases are copied.
    pub(crate) fn load(
        spec: &Spec,
        ck: &Checkpoint,
        decoder: Option<&dyn Decoder>,
    ) -> Result<Self> {
        let names = &spec.names;
        let embed = format!("{}{}", names.base, names.embed);
        let embed = match (ck.info(&embed), ck.info(names.head)) {
            // A tied checkpoint may keep its one matrix under the head's name.
            (None, Some(_)) if spec.tied => vocab_rows(spec, ck, names.head)?,
            _ => vocab_rows(spec, ck, &embed)?,
        };
        let head = if spec.tied {
            embed.clone()
        } else {
            vocab_rows(spec, ck, names.head)?
        };
        let positions = names
            .positions
            .map(|name| {
                let name = format!("{}{name}", names.base);
                ck.mat(&name, spec.max_positions, spec.hidden_size)
            })
            .transpose()?;
        let final_norm = format!("{}{}", names.base, names.final_norm);
        let final_norm = norm(spec, ck, &final_norm, spec.hidden_size)?;
        let mut layers: Vec<Layer> = (0..spec.layers.len())
            .map(|l| layer_without_linears(spec, ck, l))
            .collect::<Result<_>>()?;
        for at in spec.linears() {
            let affine = linear(spec, ck, decoder, at)?;
            layers[at.layer]
                .linears
                .insert((at.expert, at.linear), affine);
        }
        Ok(Self {
            embed,
            positions,
            head,
            final_norm,
            layers: layers.into_iter().map(Arc::new).collect(),
            soft_prompt: None,
        })
    }

    /// The type of the values, and how they are coded, of the first layer's attention output (of the embedding, where no
    /// layer is).
    pub(crate) fn stored_as(&self) -> (Dtype, Coding) {
        let o = self.layers.first().map(|l| l[(None, Linear::O)].w.mat());
        let mat = o.unwrap_or(&self.embed);
        (mat.dtype(), mat.coding())
    }

    /// How many numbers these are; a tied head counts once.
    pub(crate) fn count(&self, tied: bool) -> usize {
        let of_mat = |w: &Mat| w.rows() * w.cols();
        let of_norm = |n: &NormWeight| {
            let of = |v: &Option<Arc<[f32]>>| v.as_ref().map_or(0, |v| v.len());
            of(&n.weight) + of(&n.bias)
        };
        let of_affine = |a: &Affine| {
            let [rows, cols] = a.w.shape();
            rows * cols + a.bias.as_ref().map_or(0, |b| b.len())
        };
        let of_layer = |layer: &Arc<Layer>| {
            let norms = layer.norms.iter().flatten().map(of_norm).sum::<usize>();
            let linears = layer.linears.values().map(of_affine);
            let mix = layer.mix.as_ref().map_or(0, of_affine);
            norms + linears.sum::<usize>() + layer.router.as_ref().map_or(0, of_mat) + mix
        };
        let head = if tied { 0 } else { of_mat(&self.head) };
        of_mat(&self.embed)
            + self.positions.as_ref().map_or(0, of_mat)
            + of_norm(&self.final_norm)
            + self.layers.iter().map(of_layer).sum::<usize>()
            + head
    }

    /// The name of a tensor that holds a NaN or an infinity, searching the embedding, layers up to `last`, and the head.
    pub(crate) fn non_finite(&self, spec: &Spec, last: Option<usize>) -> Option<String> {
        let names = &spec.names;
        let layers = last.map_or(self.layers.len(), |l| l + 1);
        let of_layer = |l: usize| {
            let (layer, prefix) = (&self.layers[l], spec.layer_prefix(l));
            let norms = names
                .norms
                .iter()
                .zip(layer.norms.iter())
                .find_map(|(name, norm)| {
                    bad_norm(&format!("{prefix}{}", (*name)?), norm.as_ref()?)
                });
            let router = || bad_mat(&format!("{prefix}{}", names.router), layer.router.as_ref()?);
            let linears = || {
                layer
                    .linears
                    .iter()
                    .find_map(|(&(expert, linear), affine)| {
                        let at = LinearAt {
                            layer: l,
                            expert,
                            linear,
                        };
                        let name = spec.module_name(at)?;
                        bad_mat(&format!("{name}.weight"), affine.w.mat())
                            .or_else(|| bad_vec(&format!("{name}.bias"), affine.bias.as_deref()?))
                    })
            };
            let mix = || {
                let (name, mix) = (format!("{prefix}{}", names.mix), layer.mix.as_ref()?);
                bad_mat(&format!("{name}.weight"), mix.w.mat())
                    .or_else(|| bad_vec(&format!("{name}.bias"), mix.bias.as_deref()?))
            };
            norms.or_else(linears).or_else(router).or_else(mix)
        };
        let whole = |name: &str| format!("{}{name}", names.base);
        (0..layers)
            .rev()
            .find_map(of_layer)
            .or_else(|| bad_mat(&whole(names.embed), &self.embed))
            .or_else(|| bad_mat(&whole(names.positions?), self.positions.as_ref()?))
            .or_else(|| bad_norm(&whole(names.final_norm), &self.final_norm))
            .or_else(|| bad_mat(names.head, &self.head).filter(|_| !spec.tied))
    }
}

fn layer_without_linears(spec: &Spec, ck: &Checkpoint, l: usize) -> Result<Layer> {
    let (names, prefix) = (&spec.names, spec.layer_prefix(l));
    let load = |name: Option<&str>, channels: usize| {
        name.map(|n| norm(spec, ck, &format!("{prefix}{n}"), channels))
            .transpose()
    };
    let (query, key) = match spec.attention.qk_norm {
        Some(QkNorm::Head) => (spec.attention.head_dim, spec.attention.head_dim),
        Some(QkNorm::Full) | None => (spec.q_width(), spec.kv_width()),
    };
    let (mut router, mut mix) = (None, None);
    if let Some(experts) = spec.layers[l].experts {
        let name = format!("{prefix}{}", names.router);
        router = Some(ck.mat(&name, experts.count, spec.hidden_size)?);
        if experts.residual {
            let name = format!("{prefix}{}", names.mix);
            mix = Some(Affine {
                w: ck
                    .mat(&format!("{name}.weight"), 2, spec.hidden_size)?
                    .into(),
                bias: Some(ck.vector(&format!("{name}.bias"), 2)?.into()),
            });
        }
    }
    let n = &names.norms;
    Ok(Layer {
        norms: LayerNorms {
            attn_in: load(n.attn_in, spec.hidden_size)?,
            query: load(n.query, query)?,
            key: load(n.key, key)?,
            attn_out: load(n.attn_out, spec.hidden_size)?,
            mlp_in: load(n.mlp_in, spec.hidden_size)?,
            mlp_out: load(n.mlp_out, spec.hidden_size)?,
        },
        linears: BTreeMap::new(),
        router,
        mix,
    })
}

fn norm(spec: &Spec, ck: &Checkpoint, name: &str, channels: usize) -> Result<NormWeight> {
    let vector = |end: &str| ck.vector(&format!("{name}.{end}"), channels);
    Ok(match spec.norm {
        Norm::Rms { offset, .. } => {
            let mut weight = vector("weight")?;
            weight.iter_mut().for_each(|w| *w += offset);
            NormWeight {
                weight: Some(weight.into()),
                bias: None,
            }
        }
        Norm::Layer { affine: true, .. } => NormWeight {
            weight: Some(vector("weight")?.into()),
            bias: Some(vector("bias")?.into()),
        },
        Norm::Layer { affine: false, .. } => NormWeight::default(),
    })
}

fn linear(
    spec: &Spec,
    ck: &Checkpoint,
    decoder: Option<&dyn Decoder>,
    at: LinearAt,
) -> Result<Affine> {
    let no_such = || no_such_tensor(at);
    let name = spec.module_name(at).ok_or_else(no_such)?;
    let bias = spec.slot(at).ok_or_else(no_such)?.bias;
    let [rows, cols] = spec.shape(at);
    let weight = format!("{name}.weight");
    let decoded = decoder.map(|d| d.decode(ck, &weight, [rows, cols]));
    let decoded = decoded.transpose().map_err(|problem| Error::Decode {
        dir: ck.dir().into(),
        tensor: weight.clone(),
        problem,
    })?;
    let w = match decoded.flatten() {
        Some(w) => w,
        None if spec.names.transposed => ck.mat(&weight, cols, rows)?.transposed(),
        None => ck.mat(&weight, rows, cols)?,
    };
    let bias = bias
        .then(|| ck.vector(&format!("{name}.bias"), rows))
        .transpose()?;
    Ok(Affine {
        w: w.into(),
        bias: bias.map(Arc::from),
    })
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

fn bad_mat(name: &str, w: &Mat) -> Option<String> {
    let mut row = vec![0.0; w.cols()];
    (0..w.rows()).find_map(|r| {
        w.row_into(r, &mut row);
        let c = row.iter().position(|x| !x.is_finite())?;
        Some(format!("{name} holds {} at [{r}, {c}]", row[c]))
    })
}

fn bad_vec(name: &str, v: &[f32]) -> Option<String> {
    let i = v.iter().position(|x| !x.is_finite())?;
    Some(format!("{name} holds {} at [{i}]", v[i]))
}

fn bad_norm(name: &str, norm: &NormWeight) -> Option<String> {
    let weight = || bad_vec(&format!("{name}.weight"), norm.weight.as_deref()?);
    let bias = || bad_vec(&format!("{name}.bias"), norm.bias.as_deref()?);
    weight().or_else(bias)
}

pub(crate) fn no_such_tensor(place: impl ToString) -> Error {
    Error::Coordinate {
        coord: place.to_string(),
        problem: "the model has no such tensor".into(),
    }
}
