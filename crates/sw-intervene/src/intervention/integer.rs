//! Quantized maps that are multiplied as the integers they are, instead of widened again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use sw_model::{LinearAt, Mat, Model, Product, WeightCoord};
use sw_quant::{Grouping, Levels, Quantized, Scheme, quantize};

use super::{
    ActivationSite, Intervention, Refused,
    codes::{Bytes, Coded},
    quantize::{Quantize, Recipes, held_in, inside, of_map},
};

/// How a quantization is carried out.
///
/// ```
/// use sw_intervene::{Arithmetic, Intervention};
/// let plan = r#"{"kind": "quantize_weights", "scheme": {}, "arithmetic": "integer"}"#;
/// let Intervention::QuantizeWeights { arithmetic, .. } = serde_json::from_str(plan)? else { panic!() };
/// assert_eq!(arithmetic, Arithmetic::Integer);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Arithmetic {
    /// Values are rounded to the grid, widened again and multiplied in floats.
    #[default]
    Simulated,
    /// Integers are multiplied, and the sums scaled. Weights alone: 4 or 8 bits, activations rounded to 16 bits for the
    /// product ([`sw_tensor::matmul_t_codes`]). Weights and activations: exact sums ([`sw_tensor::matmul_t_i8`]), for
    /// symmetric weights with a scale for each matrix or row, and activations with a scale for each token or sequence.
    /// What the attention multiplies, and outputs, stay simulated; a scheme that integers cannot say is refused.
    Integer,
}

/// Quantized weights on their way into products.
pub(super) struct Integers {
    maps: BTreeMap<LinearAt, Quantized>,
    activations: Option<(Recipes, Vec<ActivationSite>)>,
}

/// Refuses the levels of a scheme that integers cannot say.
fn evenly_spaced(scheme: &Scheme) -> Result<(), Refused> {
    let found = match (scheme.levels, scheme.arithmetic) {
        (Levels::Symmetric { .. } | Levels::Asymmetric { .. }, sw_quant::Arithmetic::F32) => {
            return Ok(());
        }
        (levels, sw_quant::Arithmetic::F32) => format!("{levels:?}"),
        (_, arithmetic) => format!("{arithmetic:?}"),
    };
    let problem = format!(
        "integers need evenly spaced levels in single precision, found {found}; use the simulated arithmetic"
    );
    Err(Refused::Here(problem))
}

impl Integers {
    /// The codes of all linear maps of the layers.
    pub(super) fn new(
        model: &Model,
        scheme: &Scheme,
        hold: &[WeightCoord],
    ) -> Result<Self, Refused> {
        scheme.levels.check()?;
        evenly_spaced(scheme)?;
        inside(model, hold)?;
        let mut maps = BTreeMap::new();
        for at in model.linears() {
            let Some(w) = model.weight_at(at) else {
                continue;
            };
            let held = held_in(hold, at);
            let shape = [w.rows(), w.cols()];
            let values = w.to_f32_vec();
            let codes = quantize(&values, shape, scheme, &held);
            maps.insert(at, codes.map_err(|e| of_map(model, at, e))?);
        }
        Ok(Self {
            maps,
            activations: None,
        })
    }

    /// Quantizes what the maps read as well; what is left of the sites is to be simulated.
    pub(super) fn with_activations(
        &mut self,
        model: &Model,
        recipes: &Recipes,
        sites: &[ActivationSite],
    ) -> Result<Vec<ActivationSite>, Refused> {
        let refused = |problem: &str| Err(Refused::Here(problem.into()));
        let scheme = recipes.scheme();
        evenly_spaced(scheme)?;
        if !matches!(scheme.grouping, Grouping::Row | Grouping::Tensor) {
            return refused(
                "integers need activations with one scale for each token or tensor; use the simulated arithmetic",
            );
        }
        if model
            .spec()
            .layers
            .iter()
            .any(|layer| layer.experts.is_some())
        {
            return refused(
                "a router reads the same activations as its experts, but not as integers; use the simulated arithmetic",
            );
        }
        if self.activations.is_some() {
            return refused("activations are quantized into integers already");
        }
        let (read, rest) = sites
            .iter()
            .partition(|s| ActivationSite::LINEAR_INPUTS.contains(s));
        self.activations = Some((recipes.clone(), read));
        Ok(rest)
    }

    /// Refuses what cannot follow.
    pub(super) fn admit(next: &Intervention) -> Result<(), Refused> {
        use Intervention::{AddConstants, QuantizeActivations, RestoreSuperActivation};
        match next {
            AddConstants { .. } | QuantizeActivations { .. } | RestoreSuperActivation { .. } => {
                Ok(())
            }
            _ => Err(Refused::Here(
                "weights that are integers do not change any more; it must stand before quantize_weights".into(),
            )),
        }
    }

    /// Refuses what looks at activations as the maps read them, where these are integers.
    pub(super) fn restorable(&self) -> Result<(), Refused> {
        match self.activations {
            None => Ok(()),
            Some(_) => Err(Refused::Here(
                "it would not see the integers that down_proj reads; use the simulated arithmetic"
                    .into(),
            )),
        }
    }

    /// The model whose maps multiply integers.
    pub(super) fn products(mut self, model: &Model) -> Result<Model, Refused> {
        let activations = self.activations.take();
        let recipe = |at: LinearAt| {
            let (recipes, sites) = activations.as_ref()?;
            let site = ActivationSite::read_by(at)?;
            sites.contains(&site).then(|| recipes.at(at.layer, site))
        };
        model.replaced(|at, _: &Mat| {
            let Some(codes) = self.maps.remove(&at) else {
                return Ok(None);
            };
            let product: Result<Arc<dyn Product>, String> = match recipe(at) {
                Some(recipe) => Bytes::new(codes, recipe.clone(), Quantize::by_row(recipe))
                    .map(|bytes| Arc::new(bytes) as _),
                None => Coded::new(codes).map(|coded| Arc::new(coded) as _),
            };
            product.map(Some).map_err(|e| of_map(model, at, e))
        })
    }
}
