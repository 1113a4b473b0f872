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
    /// The first text, whole.
    Whole,
    /// The other texts, whole.
    Others,
}

/// The first tokens of the first two texts.
pub(super) fn beginnings(texts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let cut = |text: &Vec<u32>| text[..text.len().min(tokens.max(2))].to_vec();
    texts.iter().take(2).map(cut).collect()
}

/// The model on the four lengths of text.
pub(super) struct Stages<'a> {
    model: &'a Model,
    max_rows: usize,
    texts: [&'a [Vec<u32>]; 4],
    /// The unchanged model's passes.
    bases: [Option<Baseline<'a>>; 4],
    progress: &'a mut dyn FnMut(Stage),
}

/// What the first stage measured.
pub(super) struct First {
    /// Each proposal alone: the negative log-likelihoods.
    pub(super) nll: Vec<Vec<f64>>,
    /// What each proposal alone costs in nats per token: the mean of its negative log-likelihoods minus the unchanged model's.
    pub(super) alone: Vec<f64>,
    /// Accepted spikes: the first two together, the first three, ...
    in_order: Vec<f64>,
    /// Rows as units.
    pub(super) rows: Vec<f64>,
}

/// What the second stage measured of one weight.
pub(super) struct Second {
    /// Negative log-likelihoods on the first text, and on the second.
    pub(super) nll: [Vec<f64>; 2],
    /// What it costs on both texts, in nats per token.
    pub(super) cost: f64,
    /// The largest watched inputs on the second text.
    pub(super) largest: Vec<f32>,
}

impl First {
    /// What an accepted spike adds to those accepted before it.
    pub(super) fn added(
        &self,
        pool: &[Proposal],
        accepted: &[WeightCoord],
        coord: WeightCoord,
    ) -> f64 {
        let first = || pool.iter().position(|p| p.coord == accepted[0]);
        let before = match accepted.iter().position(|&c| c == coord) {
            Some(1) => first().map(|i| self.alone[i]),
            Some(i) if i > 1 => self.in_order.get(i - 2).copied(),
            _ => None,
        };
        let place = accepted.iter().position(|&c| c == coord).unwrap_or(0);
        let with = place.checked_sub(1).and_then(|i| self.in_order.get(i));
        with.zip(before)
            .map_or(f64::MIN, |(with, before)| with - before)
    }
}

/// A weight beside others that are zero already.
pub(super) struct Beside<'a> {
    pub(super) coord: WeightCoord,
    pub(super) others: Vec<WeightCoord>,
    /// Negative log-likelihoods on the first text when those are zero.
    pub(super) nll: &'a [f64],
    /// Weights to compare it with.
    pub(super) controls: &'a Matched,
}

/// What the last stage measured.
pub(super) struct Last {
    pub(super) alone: Vec<Effect>,
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
            texts: [
                &short[..1],
                &short[short.len() - 1..],
                &texts[..1],
                &texts[1..],
            ],
            bases: [None, None, None, None],
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
        let in_order = (2..=accepted.len().min(ONE_AFTER_ANOTHER)).map(|n| accepted[..n].to_vec());
        let in_order: Vec<_> = in_order.collect();
        let [alone, ordered] = [pool.len(), in_order.len()];
        sets.extend(in_order.into_iter().chain(rows.iter().cloned()));
        self.begin(Length::First, &sets.concat(), [])?;
        let outcomes = self.run(&sets, Length::First, 1)?;
        let base = &self.base(Length::First).nll;
        let cost = |o: &Outcome| Effect::between(base, &o.nll).nll;
        let mut costs = outcomes.iter().map(cost);
        Ok(First {
            alone: costs.by_ref().take(alone).collect(),
            in_order: costs.by_ref().take(ordered).collect(),
            rows: costs.collect(),
            nll: outcomes.into_iter().take(alone).map(|o| o.nll).collect(),
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
            nll: [first.nll[i].clone(), o.nll],
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

    /// The most that a control of each weight adds on the first text, in nats per token, where others are zero already and the negative
    /// log-likelihoods are those that are given with them.
    pub(super) fn noise_beside(&mut self, of: &[Beside<'_>]) -> Result<Vec<f64>> {
        let with = |b: &Beside<'_>| {
            let one = |r| [&b.others[..], &[control(b.coord, r)]].concat();
            b.controls.random.iter().map(one).collect::<Vec<_>>()
        };
        let sets: Vec<_> = of.iter().flat_map(with).collect();
        let mut outcomes = self.run(&sets, Length::First, 3)?.into_iter();
        let most = |b: &Beside<'_>| {
            let own = outcomes.by_ref().take(b.controls.random.len());
            let added = own.map(|o| Effect::between(b.nll, &o.nll).nll.abs());
            added.fold(0.0, f64::max)
        };
        Ok(of.iter().map(most).collect())
    }

    /// The finalists alone, and the sets that the relations name, on the whole texts. `alone`: what came of each finalist on the
    /// short texts.
    ///
    /// A finalist that costs less than half of `min_effect` on the first whole text and the beginning of the second goes no
    /// further: its effect is the one on those.
    pub(super) fn last(
        &mut self,
        finalists: &[WeightCoord],
        alone: &[&Second],
        related: &Related,
        min_effect: f64,
    ) -> Result<Last> {
        for &length in self.lengths() {
            self.begin(length, finalists, [])?;
        }
        let n = finalists.len();
        let named = |set: &[usize]| set.iter().map(|&i| finalists[i]).collect::<Vec<_>>();
        let mut sets: Vec<_> = finalists.iter().map(|&c| vec![c]).collect();
        sets.extend(related.pair().map(|pair| named(&pair)));
        let first = self.run(&sets, Length::Whole, 3)?;
        let [whole, second] = [Length::Whole, Length::Second].map(|l| self.base(l).nll.clone());
        let so_far = |(o, s): (&Outcome, &&Second)| {
            let (before, after) = ([&whole[..], &second], [&o.nll[..], &s.nll[1]]);
            Effect::between(&before.concat(), &after.concat())
        };
        let mut effects: Vec<_> = first.iter().zip(alone).map(so_far).collect();
        effects.resize(sets.len(), related.joint); // the pair's is filled in below
        let further: Vec<_> = (0..sets.len())
            .filter(|&i| i >= n || self.lengths().len() == 1 || effects[i].nll >= min_effect / 2.0)
            .collect();
        let mut nll: Vec<_> = further.iter().map(|&i| first[i].nll.clone()).collect();
        for &length in &self.lengths()[1..] {
            let sets: Vec<_> = further.iter().map(|&i| sets[i].clone()).collect();
            let outcomes = self.run(&sets, length, 3)?;
            for (nll, outcome) in nll.iter_mut().zip(outcomes) {
                nll.extend(outcome.nll);
            }
        }
        let unchanged = self.unchanged();
        for (&i, nll) in further.iter().zip(&nll) {
            effects[i] = Effect::between(&unchanged, nll);
        }
        let alone = effects[..n].to_vec();
        let nll = self.nll();
        let guess = self.guess();
        let ruins = |e: &Effect| nll < guess && nll + e.nll >= guess;
        // Where neither one weight nor the pair is enough, but all are: sets that grow from the pair, then all.
        if n > 2 && !effects.iter().any(ruins) && related.all_ruin() {
            let all = (0..n).collect();
            for grown in related.growing().into_iter().chain([all]) {
                let set = named(&grown);
                let effect = self.whole(&set)?;
                sets.push(set);
                effects.push(effect);
                if ruins(&effect) {
                    break;
                }
            }
        }
        let set = |(weights, effect): (Vec<WeightCoord>, Effect)| WeightSet {
            weights,
            effect,
            perplexity_factor: effect.nll.exp(),
            ruins: ruins(&effect),
        };
        let all: Vec<_> = sets.into_iter().zip(effects).map(set).collect();
        Ok(Last {
            alone,
            sets: worth_naming(all),
        })
    }

    /// What zeroing a set of weights costs on the whole texts.
    fn whole(&mut self, set: &[WeightCoord]) -> Result<Effect> {
        let mut nll = Vec::new();
        for &length in self.lengths() {
            let outcomes = self.run(&[set.to_vec()], length, 3)?;
            nll.extend(outcomes.into_iter().flat_map(|o| o.nll));
        }
        Ok(Effect::between(&self.unchanged(), &nll))
    }

    /// Negative log-likelihoods of the unchanged model on the whole texts.
    fn unchanged(&self) -> Vec<f64> {
        let whole = self.lengths().iter().map(|&l| &self.base(l).nll[..]);
        whole.collect::<Vec<_>>().concat()
    }

    /// The lengths that are the whole texts together.
    fn lengths(&self) -> &'static [Length] {
        const BOTH: [Length; 2] = [Length::Whole, Length::Others];
        let others = self.texts[Length::Others as usize].is_empty();
        &BOTH[..if others { 1 } else { 2 }]
    }

    /// What a uniform guess over the vocabulary costs, in nats per token.
    pub(super) fn guess(&self) -> f64 {
        (self.model.spec().vocab_size as f64).ln()
    }

    /// Mean negative log-likelihood of the unchanged model on the whole texts, in nats per token.
    pub(super) fn nll(&self) -> f64 {
        let nll = self.unchanged();
        nll.iter().sum::<f64>() / nll.len() as f64
    }

    /// Tokens scored on the whole texts.
    pub(super) fn scored(&self) -> usize {
        self.unchanged().len()
    }
}

/// Accepted spikes that are zeroed one after another, at most.
const ONE_AFTER_ANOTHER: usize = 6;

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
