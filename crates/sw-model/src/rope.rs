//! Frequencies of rotary position embeddings, as `transformers` computes them (`modeling_rope_utils`).

use std::f32::consts::PI;

use sw_tensor::{Rope, RopeTurns};

use crate::{config::Fields, error::Result};

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f32,
    /// Channels of each head that are rotated; even.
    pub dim: usize,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for contexts beyond the original training length.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// NTK-aware base, growing with the length of the sequence beyond the model's positions.
    Dynamic {
        /// Growth of the base.
        factor: f32,
    },
    /// Llama 3.1's three frequency bands.
    Llama3 {
        /// Divisor of the low band.
        factor: f32,
        /// Lower edge, in turns over the original context.
        low_freq_factor: f32,
        /// Upper edge.
        high_freq_factor: f32,
        /// The original context, in tokens.
        original: f32,
    },
    /// YaRN: a ramp between interpolated and original frequencies (arXiv 2309.00071).
    Yarn {
        /// Divisor of the interpolated frequencies.
        factor: f32,
        /// Multiplies cosine and sine.
        attention_factor: f32,
        /// Turns at which extrapolation is complete.
        beta_fast: f32,
        /// Turns at which interpolation is complete.
        beta_slow: f32,
        /// The original context, in tokens.
        original: f32,
        /// Whether the ramp's ends are rounded outwards to whole channels.
        truncate: bool,
    },
    /// LongRoPE: one factor per frequency, one list for short and one for long sequences.
    LongRope {
        /// Divisors within the original context.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Multiplies cosine and sine.
        attention_factor: f32,
        /// The original context, in tokens.
        original: usize,
    },
}

/// Where a family's config keeps its rotary settings outside `rope_parameters`, and what holds where it does not.
pub(crate) struct RopeKeys {
    /// Base of the frequencies: key and default.
    pub(crate) theta: (&'static str, f32),
    /// Part of each head that is rotated: key and default; `None`: always the whole.
    pub(crate) partial: Option<(&'static str, f32)>,
}

impl RopeKeys {
    /// `rope_theta` with this default; whole heads.
    pub(crate) fn theta(default: f32) -> Self {
        Self {
            theta: ("rope_theta", default),
            partial: None,
        }
    }
}

impl RopeSpec {
    /// Reads `rope_theta` with `rope_scaling`, or transformers 5's `rope_parameters`, from a config.
    ///
    /// `max_positions`: the config's `max_position_embeddings`.
    pub(crate) fn read(
        f: &Fields<'_>,
        head_dim: usize,
        max_positions: usize,
        keys: &RopeKeys,
    ) -> Result<Self> {
        let (parameters, scaling) = (f.object("rope_parameters")?, f.object("rope_scaling")?);
        let p = parameters.or(scaling);
        Self::read_from(f, p, head_dim, max_positions, keys)
    }

    /// Reads the object `p` of a config, and around it what `p` does not say.
    pub(crate) fn read_from(
        f: &Fields<'_>,
        p: Option<Fields<'_>>,
        head_dim: usize,
        max_positions: usize,
        keys: &RopeKeys,
    ) -> Result<Self> {
        let number = |name| match &p {
            Some(p) => p.opt_positive(name),
            None => Ok(None),
        };
        let outer_theta = f.opt_positive(keys.theta.0)?;
        let theta = number("rope_theta")?.or(outer_theta);
        let (outer, default) = match keys.partial {
            Some((key, default)) => (f.opt_positive(key)?, default),
            None => (None, 1.0),
        };
        let partial = number("partial_rotary_factor")?
            .or(outer)
            .unwrap_or(default);
        let dim = (head_dim as f32 * partial) as usize;
        let fits = partial == 1.0 || (keys.partial.is_some() && partial < 1.0);
        if !fits || dim == 0 || !dim.is_multiple_of(2) {
            let name = keys.partial.map_or("partial_rotary_factor", |(key, _)| key);
            let problem = format!(
                "expected an even number of rotated channels, found {partial} of {head_dim}"
            );
            return Err(f.error(name, problem));
        }
        let original = f.opt_size("original_max_position_embeddings")?;
        let scaling = match &p {
            Some(p) => RopeScaling::read(p, dim, max_positions, original)?,
            None => RopeScaling::Default,
        };
        if let Some(p) = p {
            p.finish(&["type", "rope_type"])?;
        }
        Ok(Self {
            theta: theta.unwrap_or(keys.theta.1),
            dim,
            scaling,
        })
    }

    /// The frequencies for sequences of the given variant (see [`RopeTables::variant`]), and the factor on cos and sin.
    fn frequencies(&self, variant: u64, max_positions: usize) -> (Vec<f32>, f32) {
        let n = self.dim as f32;
        let powers = |theta: f32| (0..self.dim / 2).map(move |i| theta.powf((2 * i) as f32 / n));
        let plain = || powers(self.theta).map(|p| 1.0 / p);
        match &self.scaling {
            RopeScaling::Default => (plain().collect(), 1.0),
            RopeScaling::Linear { factor } => (plain().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Dynamic { factor } => {
                let length = (variant as f32).max(max_positions as f32);
                let growth = factor * length / max_positions as f32 - (factor - 1.0);
                (
                    powers(self.theta * growth.powf(n / (n - 2.0)))
                        .map(|p| 1.0 / p)
                        .collect(),
                    1.0,
                )
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original,
            } => {
                let band = |f: f32| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > original / low_freq_factor {
                        f / factor
                    } else if wavelength < original / high_freq_factor {
                        f
                    } else {
                        let smooth = (original / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (plain().map(band).collect(), 1.0)
            }
            &RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                original,
                truncate,
            } => {
                let edge =
                    |turns: f32| n * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (edge(beta_fast), edge(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(n - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |(i, p): (usize, f32)| {
                    let keep = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / (factor * p) * (1.0 - keep) + 1.0 / p * keep
                };
                (
                    powers(self.theta).enumerate().map(blend).collect(),
                    attention_factor,
                )
            }
            RopeScaling::LongRope {
                short,
                long,
                attention_factor,
                ..
            } => {
                let factors = if variant > 0 { long } else { short };
                (
                    powers(self.theta)
                        .zip(factors)
                        .map(|(p, f)| 1.0 / (f * p))
                        .collect(),
                    *attention_factor,
                )
            }
        }
    }
}

impl RopeScaling {
    fn read(
        p: &Fields<'_>,
        dim: usize,
        max_positions: usize,
        original: Option<usize>,
    ) -> Result<Self> {
        let kind = match p.opt_str("rope_type")? {
            Some(kind) => kind,
            None => p.opt_str("type")?.unwrap_or("default"),
        };
        let original = p.opt_size("original_max_position_embeddings")?.or(original);
        Ok(match kind {
            "default" => Self::Default,
            "linear" => Self::Linear {
                factor: p.required_f32("factor")?,
            },
            "dynamic" => Self::Dynamic {
                factor: p.required_f32("factor")?,
            },
            "llama3" => Self::Llama3 {
                factor: p.required_f32("factor")?,
                low_freq_factor: p.required_f32("low_freq_factor")?,
                high_freq_factor: p.required_f32("high_freq_factor")?,
                original: original.unwrap_or(max_positions) as f32,
            },
            "yarn" => {
                let factor = p.required_f32("factor")?;
                let mscale = |m: f32| {
                    if factor <= 1.0 {
                        1.0
                    } else {
                        0.1 * m * factor.ln() + 1.0
                    }
                };
                let computed = match (p.opt_positive("mscale")?, p.opt_positive("mscale_all_dim")?)
                {
                    (Some(m), Some(all)) => mscale(m) / mscale(all),
                    _ => mscale(1.0),
                };
                Self::Yarn {
                    factor,
                    attention_factor: p.opt_positive("attention_factor")?.unwrap_or(computed),
                    beta_fast: p.opt_positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: p.opt_positive("beta_slow")?.unwrap_or(1.0),
                    original: original.unwrap_or(max_positions) as f32,
                    truncate: p.bool_or("truncate", true)?,
                }
            }
            "longrope" | "su" => {
                let (short, long) = (p.factors("short_factor")?, p.factors("long_factor")?);
                for (name, list) in [("short_factor", &short), ("long_factor", &long)] {
                    if list.len() != dim / 2 {
                        return Err(p.error(
                            name,
                            format!("expected {} factors, found {}", dim / 2, list.len()),
                        ));
                    }
                }
                let original = original.unwrap_or(max_positions);
                let factor = p
                    .opt_positive("factor")?
                    .unwrap_or(max_positions as f32 / original as f32);
                let computed = if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / (original as f32).ln()).sqrt()
                };
                let attention_factor = p.opt_positive("attention_factor")?.unwrap_or(computed);
                Self::LongRope {
                    short,
                    long,
                    attention_factor,
                    original,
                }
            }
            other => {
                return Err(p.error(
                    "rope_type",
                    format!(
                        "expected default, linear, dynamic, llama3, yarn or longrope, found {other}"
                    ),
                ));
            }
        })
    }
}

/// The rotary embeddings of a model. Where frequencies depend on the length of a sequence, a *variant* says which are
/// meant; prefixes remember theirs.
#[derive(Debug)]
pub(crate) struct RopeTables {
    specs: Vec<RopeSpec>,
    max_positions: usize,
    /// Of variant 0, which almost every sequence uses.
    base: Vec<Rope>,
}

impl RopeTables {
    pub(crate) fn new(specs: &[RopeSpec], max_positions: usize) -> Self {
        let base = specs
            .iter()
            .map(|s| {
                let (frequencies, scale) = s.frequencies(0, max_positions);
                Rope::new(frequencies, scale)
            })
            .collect();
        Self {
            specs: specs.to_vec(),
            max_positions,
            base,
        }
    }

    /// Which frequencies a sequence of this many tokens (prefix included) uses.
    pub(crate) fn variant(&self, tokens: usize) -> u64 {
        let of = |s: &RopeSpec| match s.scaling {
            RopeScaling::Dynamic { .. } if tokens > self.max_positions => tokens as u64,
            RopeScaling::LongRope { original, .. } if tokens > original => 1,
            _ => 0,
        };
        self.specs.iter().map(of).max().unwrap_or(0)
    }

    /// The turns of a batch's rows, for each rotary embedding; `seqs`: variant and positions of each sequence.
    pub(crate) fn turns<'p>(
        &self,
        seqs: impl Iterator<Item = (u64, &'p [u32])> + Clone,
    ) -> Vec<RopeTurns> {
        let of = |(spec, base): (&RopeSpec, &Rope)| {
            let mut turns = RopeTurns::new(base.inv_freq().len());
            for (variant, positions) in seqs.clone() {
                if variant == 0 {
                    turns.extend(base, positions);
                    continue;
                }
                let (frequencies, scale) = spec.frequencies(variant, self.max_positions);
                turns.extend(&Rope::new(frequencies, scale), positions);
            }
            turns
        };
        self.specs.iter().zip(&self.base).map(of).collect()
    }
}
