//! What is done to a model before and while it is evaluated: typed values, the same JSON in plans and in results.

mod largest;
mod restore;

use serde::{Deserialize, Serialize};
use sw_model::{EditOp, Hook, Model, WeightCoord, WeightEdit};

pub use largest::{Largest, largest};

use crate::error::{Error, Result};

/// One change to a model. A list of them applies in order.
///
/// ```
/// use sw_eval::Intervention;
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
        /// Which.
        coords: Vec<WeightCoord>,
    },
    /// These weights are multiplied.
    ScaleWeights {
        /// Which.
        coords: Vec<WeightCoord>,
        /// By what.
        factor: f32,
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
}

/// A model with interventions, ready to run.
pub(crate) struct Applied {
    pub(crate) model: Model,
    /// Whether a hook must see whole sequences, so that beginnings cannot be shared.
    pub(crate) whole_sequences: bool,
    hooks: Vec<HookMaker>,
}

/// Makes a hook for one pass.
type HookMaker = Box<dyn Fn() -> Box<dyn Hook>>;

impl Applied {
    pub(crate) fn new(base: &Model, interventions: &[Intervention]) -> Result<Self> {
        let mut applied = Self {
            model: base.clone(),
            whole_sequences: false,
            hooks: Vec::new(),
        };
        for intervention in interventions {
            applied.apply(intervention)?;
        }
        // Hooks that compare with the unedited weights see all edits, wherever they stand in the list.
        for intervention in interventions {
            if let Intervention::RestoreSuperActivation { coords } = intervention {
                let restore = restore::Restore::new(base, &applied.model, coords)?;
                applied.whole_sequences = true;
                applied
                    .hooks
                    .push(Box::new(move || Box::new(restore.clone())));
            }
        }
        Ok(applied)
    }

    fn apply(&mut self, intervention: &Intervention) -> Result<()> {
        let set = |coords: &[WeightCoord], op| {
            coords
                .iter()
                .map(|&coord| WeightEdit { coord, op })
                .collect::<Vec<_>>()
        };
        let edits = match intervention {
            Intervention::PruneWeights { coords } => set(coords, EditOp::Set(0.0)),
            Intervention::ScaleWeights { coords, factor } => {
                if !factor.is_finite() {
                    return Err(intervention.refused(format!("factor {factor} is not finite")));
                }
                set(coords, EditOp::Scale(*factor))
            }
            Intervention::PruneLargest { select, keep } => set(
                &largest(&self.model, select, keep)
                    .map_err(|problem| intervention.refused(problem))?,
                EditOp::Set(0.0),
            ),
            Intervention::RestoreSuperActivation { .. } => return Ok(()),
        };
        self.model = self.model.edited(&edits)?;
        Ok(())
    }

    /// The hooks of one pass.
    pub(crate) fn hook(&self) -> Box<[Box<dyn Hook>]> {
        self.hooks.iter().map(|make| make()).collect()
    }
}

impl Intervention {
    /// Its name, as JSON spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Intervention::PruneWeights { .. } => "prune_weights",
            Intervention::ScaleWeights { .. } => "scale_weights",
            Intervention::PruneLargest { .. } => "prune_largest",
            Intervention::RestoreSuperActivation { .. } => "restore_super_activation",
        }
    }

    fn refused(&self, problem: String) -> Error {
        Error::Intervention {
            intervention: self.name(),
            problem,
        }
    }
}
