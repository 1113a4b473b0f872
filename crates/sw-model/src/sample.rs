//! Drawing the next token: temperature, and the smallest set of tokens that holds enough of the probability.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::error::{Error, Result};

/// How tokens are drawn: from `softmax(logits / temperature)`, cut to the nucleus, which is the smallest set of most probable
/// tokens (of equals, the lowest id first) whose probabilities add up to at least `top_p` (Holtzman et al. 2020, "The Curious
/// Case of Neural Text Degeneration", section 3.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    temperature: f64,
    top_p: f64,
    seed: u64,
}

impl Sampling {
    /// Two draws with one seed give the same tokens. With `top_p` 1 every token can be drawn.
    ///
    /// # Errors
    /// A temperature that is not a finite number above 0; `top_p` that is not above 0 and at most 1.
    pub fn new(temperature: f64, top_p: f64, seed: u64) -> Result<Self> {
        let problem = if !(temperature > 0.0 && temperature.is_finite()) {
            Some(format!(
                "temperature {temperature}: expected a number above 0"
            ))
        } else if !(top_p > 0.0 && top_p <= 1.0) {
            Some(format!(
                "top-p {top_p}: expected a number above 0, at most 1"
            ))
        } else {
            None
        };
        problem.map_or(Ok(()), |problem| Err(Error::Sampling { problem }))?;
        Ok(Self {
            temperature,
            top_p,
            seed,
        })
    }
}

/// Draws, one after the other.
pub(crate) struct Draws {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Draws {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self {
            sampling,
            random: ChaCha8Rng::seed_from_u64(sampling.seed),
        }
    }

    /// The next token.
    pub(crate) fn token(&mut self, logits: &[f32]) -> u32 {
        // 53 bits are as many as a number below 1 has.
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        token_at(logits, self.sampling, uniform)
    }
}

/// The token at `uniform`, in `[0, 1)`, of the nucleus's probabilities laid side by side, the most probable first.
fn token_at(logits: &[f32], sampling: Sampling, uniform: f64) -> u32 {
    let Sampling {
        temperature, top_p, ..
    } = sampling;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |id: u32| {
        let below = f64::from(logits[id as usize]) - f64::from(largest);
        (below / temperature).exp()
    };
    let total: f64 = (0..logits.len() as u32).map(weight).sum();
    let mut kept = Vec::new();
    let mut mass = 0.0;
    for id in Descending::new(logits) {
        mass += weight(id);
        kept.push((id, mass));
        // Without a cut the token is known as soon as its place is reached.
        let is_enough = match top_p < 1.0 {
            true => mass >= top_p * total,
            false => mass > uniform * total,
        };
        if is_enough {
            break;
        }
    }
    let at = match top_p < 1.0 {
        true => uniform * mass,
        false => uniform * total,
    };
    let found = kept.iter().find(|(_, end)| *end > at).or(kept.last());
    found.map_or(0, |(id, _)| *id)
}

/// Ids by falling logits, of equals the lowest id first. Sorted piece by piece, since few of them are asked for.
struct Descending<'a> {
    logits: &'a [f32],
    ids: Vec<u32>,
    sorted: usize,
    at: usize,
}

impl<'a> Descending<'a> {
    fn new(logits: &'a [f32]) -> Self {
        Self {
            logits,
            ids: (0..logits.len() as u32).collect(),
            sorted: 0,
            at: 0,
        }
    }
}

impl Iterator for Descending<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        const FIRST: usize = 64;
        if self.at == self.sorted {
            let logits = self.logits;
            let order = |a: &u32, b: &u32| {
                let [x, y] = [a, b].map(|id| logits[*id as usize]);
                y.total_cmp(&x).then(a.cmp(b))
            };
            let rest = &mut self.ids[self.sorted..];
            let piece = rest.len().min(FIRST.max(7 * self.sorted));
            if piece < rest.len() {
                rest.select_nth_unstable_by(piece, order);
            }
            rest[..piece].sort_unstable_by(order);
            self.sorted += piece;
        }
        let id = self.ids.get(self.at).copied();
        self.at += 1;
        id
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, with everything sorted.
    fn twin(logits: &[f32], sampling: Sampling, uniform: f64) -> u32 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |x: f32| ((f64::from(x) - f64::from(largest)) / sampling.temperature).exp();
        let total: f64 = logits.iter().map(|&x| weight(x)).sum();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a])); // stable
        let mut mass = 0.0;
        let mut nucleus = Vec::new();
        for id in ids {
            nucleus.push((id, weight(logits[id])));
            mass += weight(logits[id]);
            if sampling.top_p < 1.0 && mass >= sampling.top_p * total {
                break;
            }
        }
        let at = uniform * if sampling.top_p < 1.0 { mass } else { total };
        let mut end = 0.0;
        for (id, weight) in &nucleus {
            end += weight;
            if end > at {
                return *id as u32;
            }
        }
        nucleus[nucleus.len() - 1].0 as u32
    }

    proptest! {
        #[test]
        fn a_draw_is_what_sorting_everything_gives(
            logits in prop::collection::vec(prop_oneof![-30f32..30.0, Just(1.5f32)], 1..2000),
            temperature in prop_oneof![0.01f64..0.2, 0.2f64..2.0, Just(1000.0)],
            top_p in prop_oneof![0.0001f64..1.0, Just(1.0)],
            uniforms in prop::collection::vec(prop_oneof![0f64..1.0, Just(0.0), Just(1.0 - f64::EPSILON / 2.0)], 1..8),
        ) {
            let sampling = Sampling::new(temperature, top_p, 0).unwrap();
            for uniform in uniforms {
                prop_assert_eq!(token_at(&logits, sampling, uniform), twin(&logits, sampling, uniform));
            }
        }
    }

    #[test]
    fn draws_are_as_frequent_as_they_are_probable() {
        // Probabilities 1/2, 1/4, 1/8, 1/8 at temperature 2; the nucleus of 0.7 holds the first two.
        let logits = [2.0f32, 4.0, 1.0, 1.0].map(|p: f32| 2.0 * p.ln());
        let count = |top_p| {
            let mut draws = Draws::new(Sampling::new(2.0, top_p, 7).unwrap());
            let mut counts = [0; 4];
            (0..80_000).for_each(|_| counts[draws.token(&logits) as usize] += 1);
            counts
        };
        let near = |count: i32, expected: i32| (count - expected).abs() < 600;
        let [a, b, c, d] = count(1.0);
        assert!(near(a, 20_000) && near(b, 40_000) && near(c, 10_000) && near(d, 10_000));
        let [a, b, c, d] = count(0.7);
        assert!(near(a, 26_667) && near(b, 53_333) && c == 0 && d == 0);
    }

    #[test]
    fn what_is_no_sampling_is_refused() {
        for (temperature, top_p) in [
            (0.0, 1.0),
            (-1.0, 1.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
        ] {
            let error = Sampling::new(temperature, top_p, 0)
                .unwrap_err()
                .to_string();
            assert!(error.contains("temperature"), "{error}");
        }
        for top_p in [0.0, -0.5, 1.5, f64::NAN] {
            let error = Sampling::new(1.0, top_p, 0).unwrap_err().to_string();
            assert!(error.contains("top-p"), "{error}");
        }
    }
}
