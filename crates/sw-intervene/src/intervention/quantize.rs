//! Weights and activations rounded to few bits, as sw-quant describes them.

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use ndarray::{ArrayViewMut2, Axis, Slice};
use serde::{Deserialize, Serialize};
use sw_model::{Hook, LinearAt, Model, Site, SiteView, WeightCoord};
use sw_quant::{Activation, Clip, Fill, Grouping, Pick, Scheme, Scope, fake_quantize};
use sw_tensor::{Dtype, Mat};

use super::Refused;

/// Where activations are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationSite {
    /// The input of q, k and v.
    AttnIn,
    /// The input of `o_proj`.
    OIn,
    /// The input of gate and up.
    MlpIn,
    /// The input of `down_proj`.
    DownIn,
    /// The output of `q_proj`, which the attention multiplies.
    Query,
    /// The output of `k_proj`, likewise.
    Key,
    /// The output of `v_proj`, likewise.
    Value,
    /// The output of `down_proj`.
    DownOut,
}

impl ActivationSite {
    /// What linear maps read.
    pub const LINEAR_INPUTS: [Self; 4] = [Self::AttnIn, Self::OIn, Self::MlpIn, Self::DownIn];

    /// The inputs of all linear maps, and of the attention's two products.
    pub fn linear_inputs_and_bmm() -> Vec<Self> {
        [
            &Self::LINEAR_INPUTS[..],
            &[Self::Query, Self::Key, Self::Value],
        ]
        .concat()
    }

    /// What a map reads; the inside of an expert is no site.
    pub(super) fn read_by(at: LinearAt) -> Option<Self> {
        at.input_site().and_then(Self::of).map(|found| found.1)
    }

    /// The layer and the place in it.
    fn of(site: Site) -> Option<(usize, Self)> {
        Some(match site {
            Site::AttnIn(l) => (l, Self::AttnIn),
            Site::OIn(l) => (l, Self::OIn),
            Site::MlpIn(l) => (l, Self::MlpIn),
            Site::DownIn(l) => (l, Self::DownIn),
            Site::Query(l) => (l, Self::Query),
            Site::Key(l) => (l, Self::Key),
            Site::Value(l) => (l, Self::Value),
            Site::DownOut(l) => (l, Self::DownOut),
            _ => return None,
        })
    }
}

/// What is held out of the activations at one site of one layer.
///
/// ```
/// use sw_intervene::{ActivationSite, PickAt};
/// // The paper's super activation alone: the largest value of channel 7003 of what layer 2's down_proj reads.
/// let text = r#"{"layer": 2, "site": "down_in", "pick": {"kind": "channels", "channels": [7003]}}"#;
/// let only: PickAt = serde_json::from_str(text)?;
/// assert_eq!((only.layer, only.site), (2, ActivationSite::DownIn));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PickAt {
    /// The layer, counted from 0.
    pub layer: usize,
    /// The place in it.
    pub site: ActivationSite,
    /// What is held out there.
    pub pick: Pick,
}

/// How activations are quantized: everywhere alike, but for what is held out at single sites.
#[derive(Clone)]
pub(super) struct Recipes {
    usual: Activation,
    special: Vec<(usize, ActivationSite, Activation)>,
}

impl Recipes {
    /// A pick at a place that is not quantized, or named twice, is refused.
    pub(super) fn new(
        model: &Model,
        usual: &Activation,
        sites: &[ActivationSite],
        picks: &[PickAt],
    ) -> Result<Self, Refused> {
        let mut special: Vec<(usize, ActivationSite, Activation)> = Vec::new();
        for &PickAt {
            layer,
            site,
            ref pick,
        } in picks
        {
            let layers = model.spec().layers.len();
            let wrong = |expected: String| {
                let problem = format!("picks: layer {layer}, site {site:?}: expected {expected}");
                Err(Refused::Here(problem))
            };
            if layer >= layers {
                return wrong(format!("a layer below {layers}"));
            }
            if !sites.contains(&site) {
                return wrong("one of the sites that are quantized".into());
            }
            if special.iter().any(|s| (s.0, s.1) == (layer, site)) {
                return wrong("each place once".into());
            }
            let pick = pick.clone();
            special.push((
                layer,
                site,
                Activation {
                    pick,
                    ..usual.clone()
                },
            ));
        }
        Ok(Self {
            usual: usual.clone(),
            special,
        })
    }

    /// The quantizer, the same everywhere.
    pub(super) fn scheme(&self) -> &Scheme {
        &self.usual.scheme
    }

    /// The recipe at a place.
    pub(super) fn at(&self, layer: usize, site: ActivationSite) -> &Activation {
        let mut special = self.special.iter();
        let found = special.find(|s| (s.0, s.1) == (layer, site));
        found.map_or(&self.usual, |s| &s.2)
    }

    /// Whether each token's result depends on that token alone, everywhere.
    pub(super) fn by_row(&self) -> bool {
        let mut special = self.special.iter();
        Quantize::by_row(&self.usual) && special.all(|s| Quantize::by_row(&s.2))
    }
}

/// All linear maps of the layers, quantized and widened again in the type they are stored in; a map at a time.
///
/// The result is held in memory: as much as the checkpoint's layers.
pub(super) fn weights(
    model: &Model,
    scheme: &Scheme,
    hold: &[WeightCoord],
) -> Result<Model, Refused> {
    inside(model, hold)?;
    model.replaced(|at, w| {
        let held = held_in(hold, at);
        let quantized = in_own_type(w, |values, shape| {
            fake_quantize(values, shape, scheme, &held).map(drop)
        });
        quantized.map(Some).map_err(|e| of_map(model, at, e))
    })
}

/// A coordinate outside the model is refused, not passed over.
pub(super) fn inside(model: &Model, hold: &[WeightCoord]) -> Result<(), Refused> {
    for coord in hold {
        model.value(*coord)?;
    }
    Ok(())
}

/// Rows and columns of the held weights of one map.
pub(crate) fn held_in(hold: &[WeightCoord], at: LinearAt) -> Vec<(usize, usize)> {
    let held = hold.iter().filter(|c| c.at() == at);
    held.map(|c| (c.row, c.col)).collect()
}

/// Why a map is refused, with its name.
pub(super) fn of_map(model: &Model, at: LinearAt, problem: impl ToString) -> Refused {
    let name = model.spec().tensor_name_at(at);
    let name = name.unwrap_or_else(|| at.to_string());
    Refused::Here(format!("{name}: {}", problem.to_string()))
}

/// A changed copy of a matrix, rounded to the type the matrix is stored in.
pub(crate) fn in_own_type<E>(
    w: &Mat,
    change: impl FnOnce(&mut [f32], [usize; 2]) -> Result<(), E>,
) -> Result<Mat, E> {
    let [rows, cols] = [w.rows(), w.cols()];
    let mut values = w.to_f32_vec();
    change(&mut values, [rows, cols])?;
    Ok(match w.dtype() {
        Dtype::F32 => Mat::from_f32(rows, cols, values),
        Dtype::F16 => Mat::from_f16(rows, cols, values.into_iter().map(f16::from_f32).collect()),
        Dtype::BF16 => Mat::from_bf16(rows, cols, values.into_iter().map(bf16::from_f32).collect()),
    })
}

/// Why a hook could not do its work; a hook itself cannot fail, so the runtime looks here after each pass.
pub(super) type Failure = Arc<Mutex<Option<String>>>;

/// Quantizes activations in place.
#[derive(Clone)]
pub(super) struct Quantize {
    pub(super) recipes: Recipes,
    pub(super) sites: Vec<ActivationSite>,
    pub(super) failure: Failure,
}

impl Quantize {
    /// Whether each token's result depends on that token alone.
    pub(super) fn by_row(recipe: &Activation) -> bool {
        let clip = matches!(recipe.scheme.clip, Clip::None | Clip::ZScore { .. })
            || matches!(
                recipe.scheme.clip,
                Clip::TopFraction {
                    scope: Scope::Block,
                    ..
                }
            );
        let pick = matches!(recipe.pick, Pick::None | Pick::RowLargest);
        recipe.scheme.grouping == Grouping::Row
            && clip
            && pick
            && (recipe.fill == Fill::RowMedian || recipe.pick == Pick::None)
    }

    fn apply(&self, recipe: &Activation, mut x: ArrayViewMut2<'_, f32>) {
        let shape = [x.nrows(), x.ncols()];
        let result = match x.as_slice_mut() {
            Some(values) => recipe.apply(values, shape),
            None => {
                let mut values: Vec<f32> = x.iter().copied().collect();
                let result = recipe.apply(&mut values, shape);
                x.iter_mut().zip(values).for_each(|(x, v)| *x = v);
                result
            }
        };
        if let (Err(e), Ok(mut failure)) = (result, self.failure.lock()) {
            failure.get_or_insert(e.to_string());
        }
    }
}

impl Hook for Quantize {
    fn wants(&self, site: Site) -> bool {
        ActivationSite::of(site).is_some_and(|(_, site)| self.sites.contains(&site))
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        let Some((layer, site)) = ActivationSite::of(site) else {
            return;
        };
        let recipe = self.recipes.at(layer, site);
        if Self::by_row(recipe) {
            return self.apply(recipe, view.data);
        }
        for seq in view.seqs {
            let rows = Slice::from(seq.rows.clone());
            self.apply(recipe, view.data.slice_axis_mut(Axis(0), rows));
        }
    }
}
