//! The passes of a census: which variants run on which texts.

use sw_model::{Model, WeightCoord};

use super::{CensusOptions, Stage, WeightSet, relations::Related};
use crate::{
    error::Result,
    proof::{Baseline, Channel, Chosen, Edit, Effect, Matched, Outcome, Variant, choose},
    proposal::Proposal,
};

/// On which text variants are run.
#[derive(Clone, Copy)]
pub(super) enum Length {
    /// The beginning of the first text.
    First,
    /// The beginning of the second text, or of the first where there is no other.
    Second,
    /// All texts, whole.
    Full,
}

/// The first tokens of the first two texts.
pub(super) fn beginnings(texts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let cut = |text: &Vec<u32>| text[..text.len().min(tokens.max(2))].to_vec();
    texts.iter().take(2).map(cut).collect()
}

/// The model on the three lengths of text.
pub(super) struct Stages<'a> {
    model: &'a Model,
    max_rows: usize,
    texts: [&'a [Vec<u32>]; 3],
    /// The unchanged model's passes.
    bases: [Option<Baseline<'a>>; 3],
    progress: &'a mut dyn FnMut(Stage),
}

/// What the first stage measured.
pub(super) struct First {
    /// Each proposal alone: the negative log-likelihoods.
    pub(super) nll: Vec<Vec<f64>>,
    /// What each proposal alone costs in nats per token: the mean of its negative log-likelihoods minus the unchanged model's.
    pub(super) alone: Vec<f64>,
    /// Accepted spikes: the first alone, the first two together, the first three, ...
    in_order: Vec<f64>,
    /// Rows as units.
    pub(super) rows: Vec<f64>,
}

/// What the second stage measured of one weight.
pub(super) struct Second {
    /// Negative log-likelihoods on the first text.
    pub(super) nll: Vec<f64>,
    /// What it costs on both texts, in nats per token.
    pub(super) cost: f64,
    /// The largest watched inputs on the second text.
    pub(super) largest: Vec<f32>,
}

impl First {
    /// What an accepted spike adds to those accepted before it.
    pub(super) fn added(&self, accepted: &[WeightCoord], coord: WeightCoord) -> f64 {
        let place = accepted.iter().position(|&c| c == coord);
        match place.filter(|&i| i > 0 && i < self.in_order.len()) {
            Some(i) => self.in_order[i] - self.in_order[i - 1],
            None => f64::MIN,
        }
    }
}

/// What the last stage measured.
pub(super) struct Last {
    pub(super) alone: Vec<Effect>,
    pub(super) joint: Effect,
    pub(super) sets: Vec<WeightSet>,
}

impl<'a> Stages<'a> {
    /// `short`: the [`beginnings`] of the texts.
    pub(super) fn new(
        model: &'a Model,
        texts: &'a [Vec<u32>],
        short: &'a [Vec<u32>],
        max_rows: usize,
        progress: &'a mut dyn FnMut(Stage),
    ) -> Self {
        Self {
            model,
            max_rows,
            texts: [&short[..1], &short[short.len() - 1..], texts],
            bases: [None, None, None],
            progress,
        }
    }

    /// Runs the unchanged model; variants may then edit the layers of `coords`, and tell the largest inputs of `watched`.
    fn begin(
        &mut self,
        length: Length,
        coords: &[WeightCoord],
        watched: impl IntoIterator<Item = Channel>,
    ) -> Result<()> {
        let layers = coords.iter().map(|c| c.layer);
        let base = Baseline::run(self.model, self.texts[length as usize], watched, layers)?;
        self.bases[length as usize] = Some(base);
        Ok(())
    }

    /// The unchanged model's pass.
    pub(super) fn base(&self, length: Length) -> &Baseline<'a> {
        let base = self.bases[length as usize].as_ref();
        base.expect("the stage of these texts has begun")
    }

    /// Runs sets of weights that become zero.
    pub(super) fn run(
        &mut self,
        sets: &[Vec<WeightCoord>],
        length: Length,
        stage: usize,
    ) -> Result<Vec<Outcome>> {
        let edit = |&c: &WeightCoord| Ok(Edit::zero(c, self.model.value(c)?));
        let variants = sets.iter().map(|set| set.iter().map(edit).collect());
        let variants = variants.collect::<Result<Vec<Variant>>>()?;
        let base = self.bases[length as usize].as_ref();
        let base = base.expect("the stage of these texts has begun");
        let (mut ran, of) = (0, sets.len());
        let progress = &mut self.progress;
        base.outcomes(&variants, self.max_rows, &mut |n| {
            ran += n;
            let done = ran;
            progress(Stage { stage, done, of });
        })
    }

    /// The effects of sets of weights.
    pub(super) fn effects(
        &mut self,
        sets: &[Vec<WeightCoord>],
        length: Length,
        stage: usize,
    ) -> Result<Vec<Effect>> {
        let outcomes = self.run(sets, length, stage)?;
        let base = &self.base(length).nll;
        let effect = |o: &Outcome| Effect::between(base, &o.nll);
        Ok(outcomes.iter().map(effect).collect())
    }

    /// Everything on the first text: each proposal alone, accepted spikes one after the other, rows as units.
    pub(super) fn first(
        &mut self,
        pool: &[Proposal],
        accepted: &[WeightCoord],
        rows: &[Vec<WeightCoord>],
    ) -> Result<First> {
        let mut sets: Vec<_> = pool.iter().map(|p| vec![p.coord]).collect();
        let in_order = (1..=accepted.len().min(ONE_AFTER_ANOTHER)).map(|n| accepted[..n].to_vec());
        sets.extend(in_order.chain(rows.iter().cloned()));
        self.begin(Length::First, &sets.concat(), [])?;
        let outcomes = self.run(&sets, Length::First, 1)?;
        let base = &self.base(Length::First).nll;
        let cost = |o: &Outcome| Effect::between(base, &o.nll).nll;
        let mut costs = outcomes.iter().map(cost);
        Ok(First {
            alone: costs.by_ref().take(pool.len()).collect(),
            in_order: costs
                .by_ref()
                .take(accepted.len().min(ONE_AFTER_ANOTHER))
                .collect(),
            rows: costs.collect(),
            nll: outcomes
                .into_iter()
                .take(pool.len())
                .map(|o| o.nll)
                .collect(),
        })
    }

    /// Some of the proposals alone on the second text, with the largest inputs of all of them.
    pub(super) fn second(
        &mut self,
        pool: &[Proposal],
        chosen: &[usize],
        first: &First,
    ) -> Result<Vec<Second>> {
        let coords: Vec<_> = chosen.iter().map(|&i| pool[i].coord).collect();
        let watched = coords.iter().map(|c| (c.at(), c.col));
        self.begin(Length::Second, &coords, watched)?;
        let sets: Vec<_> = coords.iter().map(|&c| vec![c]).collect();
        let outcomes = self.run(&sets, Length::Second, 2)?;
        let both = |first: &[f64], second: &[f64]| [first, second].concat();
        let bases = [Length::First, Length::Second].map(|length| &self.base(length).nll);
        let base = both(bases[0], bases[1]);
        let one = |(&i, o): (&usize, Outcome)| Second {
            cost: Effect::between(&base, &both(&first.nll[i], &o.nll)).nll,
            nll: first.nll[i].clone(),
            largest: o.largest,
        };
        Ok(chosen.iter().zip(outcomes).map(one).collect())
    }

    /// Weights to compare a finalist with.
    pub(super) fn matched(
        &self,
        coord: WeightCoord,
        pool: &[Proposal],
        options: &CensusOptions,
    ) -> Matched {
        let w = self.model.weight_at(coord.at());
        let w = w.expect("its value has been read");
        let here = pool.iter().map(|p| p.coord);
        let excluded: Vec<_> = here
            .filter(|p| p.at() == coord.at())
            .map(|c| (c.row, c.col))
            .collect();
        let place = (coord.row, coord.col);
        choose(w, place, &excluded, options.controls, options.proof.seed)
    }

    /// The effects of each weight's controls, on the first text.
    pub(super) fn controls(&mut self, of: &[(WeightCoord, &Matched)]) -> Result<Vec<Vec<Effect>>> {
        let all = of.iter().flat_map(|(c, matched)| {
            let controls = matched.random.iter();
            controls.map(|r| vec![control(*c, r)])
        });
        let sets: Vec<_> = all.collect();
        let mut effects = self.effects(&sets, Length::First, 3)?.into_iter();
        let one = |(_, m): &(_, &Matched)| effects.by_ref().take(m.random.len()).collect();
        Ok(of.iter().map(one).collect())
    }

    /// The most that a control of a weight adds on the first text, in nats per token, when `others` are zero already, where
    /// the negative log-likelihoods are `nll`.
    pub(super) fn noise_beside(
        &mut self,
        others: &[WeightCoord],
        nll: &[f64],
        coord: WeightCoord,
        controls: &Matched,
    ) -> Result<f64> {
        let with = |r| [others, &[control(coord, r)]].concat();
        let sets: Vec<_> = controls.random.iter().map(with).collect();
        let outcomes = self.run(&sets, Length::First, 3)?;
        let added = |o: &Outcome| Effect::between(nll, &o.nll).nll.abs();
        Ok(outcomes.iter().map(added).fold(0.0, f64::max))
    }

    /// The finalists alone and together on the whole texts, and the sets that the relations name.
    pub(super) fn last(&mut self, finalists: &[WeightCoord], related: &Related) -> Result<Last> {
        self.begin(Length::Full, finalists, [])?;
        let n = finalists.len();
        let named = |set: &[usize]| set.iter().map(|&i| finalists[i]).collect::<Vec<_>>();
        let mut sets: Vec<_> = (0..n).map(|i| vec![finalists[i]]).collect();
        sets.extend((n > 1).then(|| finalists.to_vec()));
        sets.extend(related.pair().map(|pair| named(&pair)));
        let mut effects = self.effects(&sets, Length::Full, 3)?;
        let nll = self.nll();
        let guess = self.guess();
        let ruins = |e: &Effect| nll < guess && nll + e.nll >= guess;
        // Where neither one weight nor the pair is enough, but all are: sets that grow from the pair.
        let small = (0..n).chain(n + 1..sets.len());
        let enough = small.into_iter().any(|i| ruins(&effects[i]));
        if n > 1 && !enough && ruins(&effects[n]) {
            for grown in related.growing() {
                let set = named(&grown);
                let effect = self.effects(std::slice::from_ref(&set), Length::Full, 3)?[0];
                sets.push(set);
                effects.push(effect);
                if ruins(&effect) {
                    break;
                }
            }
        }
        let joint = match effects.get(n).or(effects.first()) {
            Some(&joint) => joint,
            None => Effect::none(),
        };
        let alone = effects[..n].to_vec();
        let set = |weights: Vec<WeightCoord>, effect: Effect| WeightSet {
            weights,
            effect,
            perplexity_factor: effect.nll.exp(),
            ruins: ruins(&effect),
        };
        let all: Vec<_> = sets
            .into_iter()
            .zip(effects)
            .map(|(s, e)| set(s, e))
            .collect();
        Ok(Last {
            alone,
            joint,
            sets: worth_naming(all),
        })
    }

    /// What a uniform guess over the vocabulary costs, in nats per token.
    pub(super) fn guess(&self) -> f64 {
        (self.model.spec().vocab_size as f64).ln()
    }

    /// Mean negative log-likelihood of the unchanged model on the whole texts, in nats per token.
    pub(super) fn nll(&self) -> f64 {
        let nll = &self.base(Length::Full).nll;
        nll.iter().sum::<f64>() / nll.len() as f64
    }

    /// Tokens scored on the whole texts.
    pub(super) fn scored(&self) -> usize {
        self.base(Length::Full).nll.len()
    }
}

/// Accepted spikes that are zeroed one after another, at most.
const ONE_AFTER_ANOTHER: usize = 8;

/// The most costly weight, the most costly pair where it costs far more, and the smallest set that ruins the model where the
/// weight alone does not.
fn worth_naming(sets: Vec<WeightSet>) -> Vec<WeightSet> {
    let costly = |of: usize| {
        let of_size = sets.iter().filter(|s| s.weights.len() == of);
        of_size.max_by(|a, b| a.effect.nll.total_cmp(&b.effect.nll))
    };
    let Some(one) = costly(1) else {
        return Vec::new();
    };
    let mut named = vec![one.clone()];
    if one.ruins {
        return named;
    }
    let ruining = sets.iter().filter(|s| s.ruins);
    let ruining = ruining.min_by_key(|s| s.weights.len());
    let pair = costly(2).filter(|s| s.perplexity_factor >= 1.5 * one.perplexity_factor);
    named.extend(pair.cloned());
    named.extend(ruining.filter(|&r| pair != Some(r)).cloned());
    named
}

/// A control of a weight: another one of its matrix.
fn control(of: WeightCoord, chosen: &Chosen) -> WeightCoord {
    WeightCoord {
        row: chosen.row,
        col: chosen.col,
        ..of
    }
}

/// The indices with the highest scores, of those above `least`.
pub(super) fn rank(n: usize, score: impl Fn(usize) -> f64, most: usize, least: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).filter(|&i| score(i) > least).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    order.truncate(most);
    order
}
