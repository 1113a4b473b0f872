//! An optimiser step on an opened model.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array2, ArrayViewMut2, Zip, s};
use sw_model::{LinearAt, Model, Product, TensorAt, Weight, WeightCoord};

use super::adapter::{Adapted, Adapter, AdapterOptions};
use super::blocks::{BlockGradients, Param};
use super::prompt::PromptOptions;
use crate::adamw::AdamWOptions;
use crate::error::{Error, Result};
use crate::gradient::Block;
use crate::mapped::{Text, backward_part, check};
use crate::tiles::TileSelection;

/// What is trained of a model; all else is frozen.
#[derive(Clone, Debug)]
pub enum Trained {
    /// Every tensor: linear maps and their biases, norms, embedding and head.
    Full,
    /// The weights of the layers' linear maps.
    Linear,
    /// Tiles of linear maps; tiles of side 1 are single weights.
    Tiles(TileSelection),
    /// Adapters beside linear maps, begun with this seed.
    Adapters {
        /// Their sizes and places.
        options: AdapterOptions,
        /// Decides their `A`.
        seed: u64,
    },
    /// A soft prompt, begun with this seed. Texts begin with its virtual tokens then ([`Example::behind`]).
    ///
    /// [`Example::behind`]: super::Example::behind
    Prompt {
        /// Its size, and what it begins as.
        options: PromptOptions,
        /// Decides what is drawn.
        seed: u64,
    },
}

impl Trained {
    /// The tensors' blocks; none of adapters and a soft prompt.
    fn blocks(&self, model: &Model) -> Result<BTreeMap<Param, Vec<Block>>> {
        let whole = |at: TensorAt| {
            let [rows, cols] = model.tensor_shape(at)?;
            let block = Block {
                rows: 0..rows,
                cols: 0..cols,
            };
            Some((Param::Tensor(at), vec![block]))
        };
        Ok(match self {
            Trained::Full => model.tensors().into_iter().filter_map(whole).collect(),
            Trained::Linear => model
                .linears()
                .filter_map(|at| whole(TensorAt::Weight(at)))
                .collect(),
            Trained::Tiles(selection) => {
                let param = |(at, blocks)| (Param::Tensor(TensorAt::Weight(at)), blocks);
                selection.blocks(model)?.into_iter().map(param).collect()
            }
            Trained::Adapters { .. } | Trained::Prompt { .. } => BTreeMap::new(),
        })
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Mean negative log-likelihood of the predicted tokens before the step, in nats.
    pub loss: f64,
    /// Euclidean norm of the gradient before clipping.
    pub norm: f64,
    /// Tokens that were predicted.
    pub predicted: usize,
}

/// Bytes in memory, by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Bytes {
    /// Weights held in f32 because some of them are trained, and adapters.
    pub weights: usize,
    /// Gradients of what is trained.
    pub gradients: usize,
    /// First and second moments of what is trained.
    pub moments: usize,
    /// What the forward pass leaves for the way back: the most of any pass so far.
    pub tape: usize,
}

/// A model in training: its weights (one copy, changed in place), and gradients and moments of what is trained.
#[derive(Clone)]
pub struct Trainer {
    model: Model,
    /// The model without adapters, where there are some.
    base: Option<Model>,
    adapters: BTreeMap<LinearAt, Adapter>,
    gradient: BlockGradients,
    first: BlockGradients,
    second: BlockGradients,
    frozen: Vec<WeightCoord>,
    options: AdamWOptions,
    clip: f64,
    steps: i32,
}

impl Trainer {
    /// Begins a training of `model`. Gradients are clipped to the Euclidean norm `clip`.
    ///
    /// # Errors
    /// A model that the backward pass does not know; tiles, a rank or a soft prompt that do not fit it.
    pub fn new(
        model: &Model,
        trained: &Trained,
        options: AdamWOptions,
        clip: f64,
    ) -> Result<Trainer> {
        check(model)?;
        let mut blocks = trained.blocks(model)?;
        let mut adapters = BTreeMap::new();
        if let Trained::Adapters { options, seed } = trained {
            for (stream, at) in (0..).zip(model.linears()) {
                let Some(w) = model.weight_at(at) else {
                    continue;
                };
                if options.targets.contains(&at.linear) {
                    let adapter = Adapter::new(w, options, *seed, stream);
                    let adapter = adapter.map_err(|e| Error::Shape(format!("{at}: {e}")))?;
                    adapters.insert(at, adapter);
                }
            }
            if adapters.is_empty() {
                return Err(Error::Shape(
                    "the targets name no linear map that the model has".into(),
                ));
            }
        }
        let whole = |values: &Array2<f32>| {
            vec![Block {
                rows: 0..values.nrows(),
                cols: 0..values.ncols(),
            }]
        };
        let mut model = model.clone();
        if let Trained::Prompt { options, seed } = trained {
            let rows = options.begin(&model, *seed)?;
            blocks.insert(Param::Prompt, whole(&rows));
            model = model.with_soft_prompt(rows)?;
        }
        for (&at, adapter) in &adapters {
            blocks.insert(Param::LoraA(at), whole(&adapter.a));
            blocks.insert(Param::LoraB(at), whole(&adapter.b));
            if let Some(magnitude) = &adapter.magnitude {
                blocks.insert(Param::Magnitude(at), whole(magnitude));
            }
        }
        let zeros = BlockGradients::zeros(&model, &blocks);
        let mut trainer = Trainer {
            base: (!adapters.is_empty()).then(|| model.clone()),
            model,
            adapters,
            gradient: zeros.clone(),
            first: zeros.clone(),
            second: zeros,
            frozen: Vec::new(),
            options,
            clip,
            steps: 0,
        };
        trainer.renew()?;
        Ok(trainer)
    }

    /// Keeps some weights at their values.
    ///
    /// # Errors
    /// A coordinate that the model does not have; adapters, which change whole matrices.
    pub fn freeze(&mut self, weights: &[WeightCoord]) -> Result<()> {
        if self.base.is_some() && !weights.is_empty() {
            return Err(Error::Shape(
                "an adapter changes every weight of its maps, so none can be frozen; train full, linear maps or tiles".into(),
            ));
        }
        for &coord in weights {
            self.model.value(coord)?;
        }
        self.frozen = weights.to_vec();
        Ok(())
    }

    /// The model as it is now; with adapters, unmerged.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The adapters as they are now.
    pub fn adapters(&self) -> &BTreeMap<LinearAt, Adapter> {
        &self.adapters
    }

    /// Gradients of the last step, clipped.
    pub fn gradient(&self) -> &BlockGradients {
        &self.gradient
    }

    /// Steps done.
    pub fn steps(&self) -> usize {
        self.steps.unsigned_abs() as usize
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.gradient.count()
    }

    /// Bytes in memory, by what.
    pub fn bytes(&self) -> Bytes {
        let own = |param| match param {
            Param::Tensor(at) => self.model.tensor_shape(at).map_or(0, |[r, c]| r * c),
            _ => self.gradient.get(param).iter().map(|(_, g)| g.len()).sum(),
        };
        let trained = size_of::<f32>() * self.count();
        Bytes {
            weights: size_of::<f32>() * self.gradient.params().map(own).sum::<usize>(),
            gradients: trained,
            moments: 2 * trained,
            tape: self.gradient.tape_bytes(),
        }
    }

    /// One step of AdamW at the learning rate `rate` on the mean loss over `texts`, of which no more than `at_a_time` are in
    /// memory together.
    ///
    /// # Errors
    /// Those of the pass; a text that does not begin with the model's virtual tokens; a loss or gradient that is not finite, with
    /// the weights as they were.
    pub fn step(&mut self, texts: &[Text<'_>], at_a_time: usize, rate: f32) -> Result<Step> {
        let predicted: usize = texts.iter().map(Text::scored).sum();
        let virtual_tokens = self.model.virtual_tokens();
        if !texts.iter().all(|t| t.tokens.starts_with(&virtual_tokens)) {
            return Err(Error::Shape(
                "a text does not begin with the virtual tokens of the soft prompt".into(),
            ));
        }
        self.gradient.fill(0.0);
        let mut loss = 0.0;
        for part in texts.chunks(at_a_time.max(1)) {
            if part.iter().any(|text| text.scored() > 0) {
                loss += backward_part(&self.model, part, predicted, &mut self.gradient)?;
            }
        }
        for coord in self.frozen.clone() {
            self.at_frozen(coord, |g| *g = 0.0);
        }
        let norm = self.gradient.norm();
        let not_finite = |what| Error::NotFinite {
            step: self.steps(),
            what,
        };
        if !loss.is_finite() {
            return Err(not_finite("loss"));
        }
        if !norm.is_finite() {
            return Err(not_finite("gradient"));
        }
        if norm > self.clip {
            self.gradient.scale((self.clip / norm) as f32);
        }
        self.update(rate)?;
        Ok(Step {
            loss,
            norm,
            predicted,
        })
    }

    /// The gradient of a frozen weight, where it has one.
    fn at_frozen(&mut self, coord: WeightCoord, change: impl FnOnce(&mut f32)) {
        let param = Param::Tensor(TensorAt::Weight(coord.at()));
        for (block, gradient) in self.gradient.get_mut(param) {
            if block.rows.contains(&coord.row) && block.cols.contains(&coord.col) {
                let at = (coord.row - block.rows.start, coord.col - block.cols.start);
                return change(&mut gradient[at]);
            }
        }
    }

    fn update(&mut self, rate: f32) -> Result<()> {
        self.steps += 1;
        let frozen: Vec<(WeightCoord, f32)> = self
            .frozen
            .iter()
            .map(|&coord| Ok((coord, self.model.value(coord)?)))
            .collect::<Result<_>>()?;
        for param in self.gradient.params().collect::<Vec<_>>() {
            let update = self.options.update(self.steps, rate, decays(param));
            let moments = self.first.get_mut(param).iter_mut();
            let moments = moments.zip(self.second.get_mut(param));
            let of_blocks = moments.zip(self.gradient.get(param));
            let change = |mut values: ArrayViewMut2<'_, f32>| {
                for (((block, m), (_, v)), (_, g)) in of_blocks {
                    let w = values.slice_mut(s![block.rows.clone(), block.cols.clone()]);
                    let (m, v): (&mut Array2<f32>, &mut Array2<f32>) = (m, v);
                    Zip::from(w).and(m).and(v).and(g).par_for_each(update);
                }
            };
            with_values(&mut self.model, &mut self.adapters, param, change)?;
        }
        for (coord, value) in frozen {
            let at = TensorAt::Weight(coord.at());
            let cols = self.model.tensor_shape(at).map_or(0, |shape| shape[1]);
            if !self.gradient.get(Param::Tensor(at)).is_empty() {
                let place = coord.row * cols + coord.col;
                self.model.change(at, |values| values[place] = value)?;
            }
        }
        self.renew()
    }

    /// Puts the adapters as they are now into the model.
    pub(super) fn renew(&mut self) -> Result<()> {
        let Some(base) = &self.base else {
            return Ok(());
        };
        let adapted = adapted(base, &self.adapters);
        self.model = with_adapted(base, &adapted)?;
        self.gradient.with_adapters(&adapted);
        Ok(())
    }

    /// What is trained, in its blocks: values, first and second moments.
    pub(super) fn state(&self) -> Result<Vec<(String, Array2<f32>)>> {
        let mut state = Vec::new();
        for param in self.gradient.params() {
            let whole = match param {
                Param::Tensor(at) => {
                    let shape = self.model.tensor_shape(at).unwrap_or_default();
                    let values = self.model.tensor(at).unwrap_or_default();
                    Array2::from_shape_vec(shape, values)
                        .map_err(|e| Error::Shape(format!("{param}: {e}")))?
                }
                Param::LoraA(at) => self.adapters[&at].a.clone(),
                Param::LoraB(at) => self.adapters[&at].b.clone(),
                Param::Magnitude(at) => self.adapters[&at].magnitude.clone().unwrap_or_default(),
                Param::Prompt => self.model.soft_prompt().cloned().unwrap_or_default(),
            };
            let moments = self.first.get(param).iter().zip(self.second.get(param));
            for (i, ((block, m), (_, v))) in moments.enumerate() {
                let value = whole.slice(s![block.rows.clone(), block.cols.clone()]);
                state.push((format!("value.{param}.{i}"), value.to_owned()));
                state.push((format!("first.{param}.{i}"), m.clone()));
                state.push((format!("second.{param}.{i}"), v.clone()));
            }
        }
        Ok(state)
    }

    /// Takes over what [`state`](Self::state) gave; `read` gives each by its name, in the shape it must have.
    pub(super) fn restore(
        &mut self,
        steps: usize,
        mut read: impl FnMut(&str, &mut Array2<f32>) -> Result<()>,
    ) -> Result<()> {
        for param in self.gradient.params().collect::<Vec<_>>() {
            let mut blocks = Vec::new();
            for i in 0..self.first.get(param).len() {
                let (block, m) = &mut self.first.get_mut(param)[i];
                let mut value = m.clone();
                read(&format!("value.{param}.{i}"), &mut value)?;
                read(&format!("first.{param}.{i}"), m)?;
                blocks.push((block.clone(), value));
                let (_, v) = &mut self.second.get_mut(param)[i];
                read(&format!("second.{param}.{i}"), v)?;
            }
            let change = |mut values: ArrayViewMut2<'_, f32>| {
                for (block, value) in blocks {
                    let into = s![block.rows, block.cols];
                    values.slice_mut(into).assign(&value);
                }
            };
            with_values(&mut self.model, &mut self.adapters, param, change)?;
        }
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
        self.renew()
    }
}

/// Whether weight decay applies: to linear maps, the head, adapters and soft prompts.
fn decays(param: Param) -> bool {
    match param {
        Param::Tensor(at) => matches!(at, TensorAt::Weight(_) | TensorAt::Head),
        Param::LoraA(_) | Param::LoraB(_) | Param::Prompt => true,
        Param::Magnitude(_) => false,
    }
}

/// Changes the values of a matrix, wherever it is.
fn with_values(
    model: &mut Model,
    adapters: &mut BTreeMap<LinearAt, Adapter>,
    param: Param,
    change: impl FnOnce(ArrayViewMut2<'_, f32>),
) -> Result<()> {
    let none = || Error::Shape(format!("no {param}"));
    let adapter = match param {
        Param::Tensor(_) | Param::Prompt => None,
        Param::LoraA(at) | Param::LoraB(at) | Param::Magnitude(at) => adapters.get_mut(&at),
    };
    match (param, adapter) {
        (Param::Tensor(at), _) => {
            let shape = model.tensor_shape(at).ok_or_else(none)?;
            model.change(at, |values| {
                if let Ok(values) = ArrayViewMut2::from_shape(shape, values) {
                    change(values);
                }
            })?;
        }
        (Param::Prompt, _) => {
            let mut rows = model.soft_prompt().cloned().ok_or_else(none)?;
            change(rows.view_mut());
            *model = model.with_soft_prompt(rows)?;
        }
        (Param::LoraA(_), Some(adapter)) => change(adapter.a.view_mut()),
        (Param::LoraB(_), Some(adapter)) => change(adapter.b.view_mut()),
        (Param::Magnitude(_), Some(adapter)) => {
            change(adapter.magnitude.as_mut().ok_or_else(none)?.view_mut());
        }
        _ => return Err(none()),
    }
    Ok(())
}

/// The maps that adapters change.
fn adapted(
    model: &Model,
    adapters: &BTreeMap<LinearAt, Adapter>,
) -> BTreeMap<LinearAt, Arc<Adapted>> {
    let of_map = |(&at, adapter): (&LinearAt, &Adapter)| {
        let w = model.weight_at(at)?;
        Some((at, Arc::new(Adapted::new(w, adapter))))
    };
    adapters.iter().filter_map(of_map).collect()
}

fn with_adapted(model: &Model, adapted: &BTreeMap<LinearAt, Arc<Adapted>>) -> Result<Model> {
    model.replaced(|at, _| {
        let product = adapted.get(&at).cloned();
        Ok(product.map(|product| Weight::from(product as Arc<dyn Product>)))
    })
}

/// A model with adapters beside its linear maps.
///
/// # Errors
/// An adapter for a map that the model does not have, or of another shape.
pub fn unmerged(model: &Model, adapters: &BTreeMap<LinearAt, Adapter>) -> Result<Model> {
    fit(model, adapters)?;
    with_adapted(model, &adapted(model, adapters))
}

/// A model with adapters' changes in its weights, which are in f32 then.
///
/// # Errors
/// An adapter for a map that the model does not have, or of another shape.
pub fn merged(model: &Model, adapters: &BTreeMap<LinearAt, Adapter>) -> Result<Model> {
    fit(model, adapters)?;
    model.replaced(|at, w| Ok(adapters.get(&at).map(|adapter| adapter.merged(w))))
}

fn fit(model: &Model, adapters: &BTreeMap<LinearAt, Adapter>) -> Result<()> {
    for (
        at,
        Adapter {
            a, b, magnitude, ..
        },
    ) in adapters
    {
        let Some(w) = model.weight_at(*at) else {
            return Err(Error::Shape(format!(
                "an adapter of {at}, which the model does not have"
            )));
        };
        let [rows, cols] = [w.rows(), w.cols()];
        let fits = a.ncols() == cols && b.nrows() == rows && a.nrows() == b.ncols();
        if !fits || magnitude.as_ref().is_some_and(|m| m.dim() != (1, rows)) {
            return Err(Error::Shape(format!(
                "an adapter of {at} with A of {:?} and B of {:?}, which do not fit its weight of [{rows}, {cols}]",
                a.shape(),
                b.shape()
            )));
        }
    }
    Ok(())
}
