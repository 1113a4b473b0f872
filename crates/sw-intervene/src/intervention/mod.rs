//! What is done to a model before and while it is evaluated: typed values, the same JSON in plans and in results.

mod codes;
mod constant;
mod integer;
mod largest;
pub(crate) mod quantize;
mod restore;
mod smooth;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sw_model::{Bos, EditOp, Hook, Model, WeightCoord, WeightEdit};

pub use constant::Constant;
pub use integer::Arithmetic;
use integer::Integers;
pub use largest::{Largest, largest};
pub use quantize::{ActivationSite, PickAt};
pub use smooth::Ranges;
use sw_quant::{Activation, Scheme};

use crate::error::{Error, Result};

/// One change to a model. A list of them applies in order.
///
/// ```
/// use sw_intervene::Intervention;
/// let plan = r#"[{"kind": "prune_weights", "coords": [{"layer": 2, "linear": "down_proj", "row": 3968, "col": 7003}]}]"#;
/// let plan: Vec<Intervention> = serde_json::from_str(plan)?;
/// assert!(matches!(&plan[0], Intervention::PruneWeights { coords } if coords[0].col == 7003));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Intervention {
    /// These weights become zero.
    PruneWeights {
        /// The weights that become zero.
        coords: Vec<WeightCoord>,
    },
    /// These weights are multiplied.
    ScaleWeights {
        /// The weights that are multiplied.
        coords: Vec<WeightCoord>,
        /// The number that they are multiplied by.
        factor: f32,
    },
    /// These weights become these values.
    SetWeights {
        /// Which, and what.
        weights: Vec<SetWeight>,
    },
    /// Constants are added to single elements of `down_proj`'s output, at the same position of every sequence: a super
    /// activation folded into a bias of its token.
    AddConstants {
        /// Where, and what.
        constants: Vec<Constant>,
    },
    /// The weights of largest magnitude become zero, in all linear maps of the layers.
    PruneLargest {
        /// How many, and of what.
        #[serde(flatten)]
        select: Largest,
        /// Weights that stay as they are (they count among the largest all the same).
        #[serde(default)]
        keep: Vec<WeightCoord>,
    },
    /// The super activation comes back although its weight is pruned: for each layer and output channel of `coords`,
    /// the one element of `down_proj`'s output that is largest in magnitude under the unpruned weights gets that value
    /// back; the weight's effect on all other tokens stays away. Works on whole sequences.
    RestoreSuperActivation {
        /// The pruned super weights.
        coords: Vec<WeightCoord>,
    },
    /// All linear maps of the layers are quantized: widened again in the type they are stored in, or multiplied as the
    /// integers they are.
    QuantizeWeights {
        /// How.
        scheme: Scheme,
        /// Weights that keep their values.
        #[serde(default)]
        hold: Vec<WeightCoord>,
        /// How products are computed.
        #[serde(default)]
        arithmetic: Arithmetic,
    },
    /// Activations are quantized as they flow, and widened again; as integers, what linear maps read goes into their
    /// products, after [`QuantizeWeights`](Self::QuantizeWeights) in integers. Works on whole sequences unless each token
    /// is quantized by itself.
    QuantizeActivations {
        /// How, and what is held out.
        recipe: Activation,
        /// Where; the inputs of all linear maps and of the attention's products without it.
        #[serde(default = "ActivationSite::linear_inputs_and_bmm")]
        sites: Vec<ActivationSite>,
        /// What is held out at single sites of single layers, instead of what the recipe holds out: a recipe that picks
        /// nothing, with one pick here, is the literal reading of Eq. 1, which names the super activation alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        picks: Vec<PickAt>,
        /// How the products that read them are computed.
        #[serde(default)]
        arithmetic: Arithmetic,
    },
    /// The range of activations moves into the weights they meet: q, k, v and gate, up. Stands before quantization.
    SmoothQuant {
        /// How much of it moves, from 0 to 1.
        alpha: f32,
        /// A file whose rows have a `text`: what the activations' range is taken over.
        calibration: PathBuf,
        /// Rows that are read.
        #[serde(default = "smooth::samples")]
        samples: usize,
        /// Tokens of a row that are read.
        #[serde(default = "smooth::tokens")]
        tokens: usize,
        /// Whether a row begins with a BOS.
        #[serde(default, skip_serializing_if = "is_default")]
        bos: Bos,
    },
}

/// Whether a BOS rule need not be written, as it was not before there was one here.
fn is_default(bos: &Bos) -> bool {
    *bos == Bos::default()
}

/// A weight and its new value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetWeight {
    /// The place of the weight.
    #[serde(flatten)]
    pub coord: WeightCoord,
    /// What it becomes.
    pub value: f32,
}

/// Reads the `text` of the first rows of a file: what an intervention that calibrates is calibrated on. A failure is one
/// line that names the file.
pub type ReadTexts<'a> = dyn Fn(&Path, usize) -> Result<Vec<String>, String> + 'a;

/// What an intervention that calibrates is given.
struct Calibration<'a> {
    ranges: &'a Ranges,
    before: &'a [Intervention],
    read: &'a ReadTexts<'a>,
}

impl Calibration<'_> {
    /// The ranges of a model's activations under the interventions before.
    fn maxima(
        &self,
        applied: &Applied,
        texts: &smooth::Texts<'_>,
    ) -> Result<Arc<smooth::PerNorm>, Refused> {
        let &smooth::Texts {
            file,
            samples,
            tokens,
            bos,
        } = texts;
        let key = serde_json::to_string(&(self.before, file, samples, tokens, bos))
            .map_err(|e| Refused::Here(e.to_string()))?;
        self.ranges.get_or(key, || {
            smooth::maxima(&applied.model, texts, self.read, &mut applied.hook())
        })
    }
}

/// A model with interventions, ready to run.
pub struct Applied {
    model: Model,
    whole_sequences: bool,
    hooks: Vec<HookMaker>,
    failure: quantize::Failure,
}

/// Makes a hook for one pass.
type HookMaker = Box<dyn Fn() -> Box<dyn Hook> + Send + Sync>;

/// Why an intervention is refused, before its name is known.
enum Refused {
    Here(String),
    Model(sw_model::Error),
}

impl Refused {
    fn by(self, intervention: &'static str) -> Error {
        match self {
            Refused::Here(problem) => Error::Intervention {
                intervention,
                problem,
            },
            Refused::Model(error) => error.into(),
        }
    }
}

impl From<sw_model::Error> for Refused {
    fn from(error: sw_model::Error) -> Self {
        Self::Model(error)
    }
}

impl From<sw_quant::Error> for Refused {
    fn from(error: sw_quant::Error) -> Self {
        Self::Here(error.to_string())
    }
}

impl Applied {
    /// Applies a list of interventions; shares the checkpoint with `base`.
    ///
    /// `read` is asked where an intervention names a file of texts.
    ///
    /// # Errors
    /// An intervention that the model cannot take, or texts that cannot be read.
    pub fn new(base: &Model, interventions: &[Intervention], read: &ReadTexts<'_>) -> Result<Self> {
        Self::with_ranges(&Ranges::new(base), interventions, read)
    }

    /// [`new`](Self::new) on the model of `ranges`, where what calibration measures is kept.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_ranges(
        ranges: &Ranges,
        interventions: &[Intervention],
        read: &ReadTexts<'_>,
    ) -> Result<Self> {
        let base = ranges.model();
        let mut applied = Self {
            model: base.clone(),
            whole_sequences: false,
            hooks: Vec::new(),
            failure: Default::default(),
        };
        let mut integers = None;
        for (i, intervention) in interventions.iter().enumerate() {
            let calibration = Calibration {
                ranges,
                before: &interventions[..i],
                read,
            };
            applied
                .apply(intervention, &mut integers, &calibration)
                .map_err(|refused| refused.by(intervention.name()))?;
        }
        // Products of integers: when weights and activations are known.
        if let Some(integers) = integers {
            let restores =
                |i: &&Intervention| matches!(i, Intervention::RestoreSuperActivation { .. });
            if let Some(restore) = interventions.iter().find(restores) {
                let seen = integers.restorable();
                seen.map_err(|refused| refused.by(restore.name()))?;
            }
            let products = integers.products(&applied.model);
            applied.model = products.map_err(|refused| refused.by("quantize_weights"))?;
        }
        // Hooks that compare with the unedited weights see all edits, wherever they stand in the list.
        for intervention in interventions {
            if let Intervention::RestoreSuperActivation { coords } = intervention {
                let restore = restore::Restore::new(base, &applied.model, coords)?;
                applied.whole_sequences = true;
                applied.add(restore);
            }
        }
        Ok(applied)
    }

    fn add(&mut self, hook: impl Hook + Clone + Send + Sync + 'static) {
        self.hooks.push(Box::new(move || Box::new(hook.clone())));
    }

    fn apply(
        &mut self,
        intervention: &Intervention,
        integers: &mut Option<Integers>,
        calibration: &Calibration<'_>,
    ) -> Result<(), Refused> {
        if integers.is_some() {
            Integers::admit(intervention)?;
        }
        let set = |coords: &[WeightCoord], op| {
            coords
                .iter()
                .map(|&coord| WeightEdit { coord, op })
                .collect::<Vec<_>>()
        };
        match intervention {
            Intervention::PruneWeights { coords } => {
                self.model = self.model.edited(&set(coords, EditOp::Set(0.0)))?
            }
            Intervention::ScaleWeights { coords, factor } => {
                if !factor.is_finite() {
                    return Err(Refused::Here(format!("factor {factor} is not finite")));
                }
                self.model = self.model.edited(&set(coords, EditOp::Scale(*factor)))?;
            }
            Intervention::SetWeights { weights } => {
                if let Some(bad) = weights.iter().find(|w| !w.value.is_finite()) {
                    let problem = format!("{}: value {} is not finite", bad.coord, bad.value);
                    return Err(Refused::Here(problem));
                }
                let edit = |w: &SetWeight| WeightEdit {
                    coord: w.coord,
                    op: EditOp::Set(w.value),
                };
                let edits: Vec<_> = weights.iter().map(edit).collect();
                self.model = self.model.edited(&edits)?;
            }
            Intervention::AddConstants { constants } => {
                self.add(constant::Add::new(&self.model, constants)?);
            }
            Intervention::PruneLargest { select, keep } => {
                let coords = largest(&self.model, select, keep).map_err(Refused::Here)?;
                self.model = self.model.edited(&set(&coords, EditOp::Set(0.0)))?;
            }
            Intervention::RestoreSuperActivation { .. } => {} // when all edits are known
            Intervention::QuantizeWeights {
                scheme,
                hold,
                arithmetic,
            } => match arithmetic {
                Arithmetic::Simulated => {
                    self.model = quantize::weights(&self.model, scheme, hold)?;
                }
                Arithmetic::Integer => {
                    *integers = Some(Integers::new(&self.model, scheme, hold)?);
                }
            },
            Intervention::QuantizeActivations {
                recipe,
                sites,
                picks,
                arithmetic,
            } => {
                recipe.scheme.levels.check()?;
                recipe.scheme.clip.check()?;
                let recipes = quantize::Recipes::new(&self.model, recipe, sites, picks)?;
                let sites = match (arithmetic, integers) {
                    (Arithmetic::Simulated, _) => sites.clone(),
                    (Arithmetic::Integer, Some(integers)) => {
                        integers.with_activations(&self.model, &recipes, sites)?
                    }
                    (Arithmetic::Integer, None) => {
                        let problem = "integers meet integers: quantize_weights with integer arithmetic must stand before";
                        return Err(Refused::Here(problem.into()));
                    }
                };
                self.whole_sequences |= !recipes.by_row();
                let failure = self.failure.clone();
                self.add(quantize::Quantize {
                    recipes,
                    sites,
                    failure,
                });
            }
            Intervention::SmoothQuant {
                alpha,
                calibration: file,
                samples,
                tokens,
                bos,
            } => {
                let texts = smooth::Texts {
                    file,
                    samples: *samples,
                    tokens: *tokens,
                    bos: *bos,
                };
                let maxima = calibration.maxima(self, &texts)?;
                let (model, hook) = smooth::smooth(&self.model, *alpha, &maxima)?;
                self.model = model;
                self.add(hook);
            }
        }
        Ok(())
    }

    /// The edited model, without its hooks.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Whether a hook must see whole sequences, so that their beginnings cannot be computed once for several.
    pub fn whole_sequences(&self) -> bool {
        self.whole_sequences
    }

    /// The hooks of one pass.
    pub fn hook(&self) -> Box<[Box<dyn Hook>]> {
        self.hooks.iter().map(|make| make()).collect()
    }

    /// Whether all hooks could do their work so far; asked after each pass, since a hook cannot fail.
    ///
    /// # Errors
    /// The first failure of a hook.
    pub fn check(&self) -> Result<()> {
        let failure = self
            .failure
            .lock()
            .ok()
            .and_then(|mut failure| failure.take());
        let error = |problem| Error::Intervention {
            intervention: "quantize_activations",
            problem,
        };
        failure.map_or(Ok(()), |problem| Err(error(problem)))
    }
}

impl Intervention {
    /// The file of texts it reads, where it reads one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Intervention::SmoothQuant { calibration, .. } => Some(calibration),
            _ => None,
        }
    }

    /// Its name, as JSON spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Intervention::PruneWeights { .. } => "prune_weights",
            Intervention::ScaleWeights { .. } => "scale_weights",
            Intervention::SetWeights { .. } => "set_weights",
            Intervention::AddConstants { .. } => "add_constants",
            Intervention::PruneLargest { .. } => "prune_largest",
            Intervention::RestoreSuperActivation { .. } => "restore_super_activation",
            Intervention::QuantizeWeights { .. } => "quantize_weights",
            Intervention::QuantizeActivations { .. } => "quantize_activations",
            Intervention::SmoothQuant { .. } => "smooth_quant",
        }
    }
}
