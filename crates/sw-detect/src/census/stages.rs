//! The passes of a census: which variants run on which texts.

use sw_model::{Model, WeightCoord};

use super::{CensusOptions, Stage, WeightSet, relations::Related};
use crate::{
    error::Result,
    proof::{Baseline, Edit, Effect, Matched, Outcome, Variant},
    proposal::Proposal,
};

/// The model on three lengths of text.
pub(super) struct Stages<'a> {
    model: &'a Model,
    max_rows: usize,
    full: &'a [Vec<u32>],
    short: Vec<Vec<u32>>,
    shortest: Vec<Vec<u32>>,
    channels: Vec<(sw_model::LinearAt, usize)>,
    base: f64,
    scored: usize,
}

/// What the first stage measured, in nats per token.
pub(super) struct First {
    /// Each proposal alone.
    pub(super) alone: Vec<f64>,
    /// Accepted spikes: the first two together, the first three, ...
    in_order: Vec<f64>,
    /// The first accepted spike alone.
    before: f64,
    /// Rows as units.
    pub(super) rows: Vec<f64>,
}

impl First {
    /// What an accepted spike adds to those accepted before it.
    pub(super) fn added(&self, accepted: &[WeightCoord], coord: WeightCoord) -> f64 {
        match accepted.iter().position(|&c| c == coord) {
            Some(0) | None => f64::MIN,
            Some(1) => self.in_order.first().map_or(f64::MIN, |e| e - self.before),
            Some(i) => match (self.in_order.get(i - 1), self.in_order.get(i - 2)) {
                (Some(with), Some(without)) => with - without,
                _ => f64::MIN,
            },
        }
    }

    /// The effects of some of the rows.
    pub(super) fn rows_of(&self, rows: &[Vec<WeightCoord>], some: &[Vec<WeightCoord>]) -> Vec<f64> {
        let of = |unit: &Vec<WeightCoord>| rows.iter().position(|r| r == unit);
        some.iter()
            .filter_map(|u| Some(self.rows[of(u)?]))
            .collect()
    }
}

/// What the last stage measured.
pub(super) struct Last {
    pub(super) alone: Vec<Effect>,
    pub(super) joint: Effect,
    pub(super) sets: Vec<WeightSet>,
}

/// Whether some variants' outcomes are wanted on the whole texts, on short ones, or on one short one.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Length {
    Full,
    Short,
    Shortest,
}

/// The first tokens of the first two texts.
pub(super) fn beginnings(texts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let cut = |text: &Vec<u32>| text[..text.len().min(tokens.max(2))].to_vec();
    texts.iter().take(2).map(cut).collect()
}

impl<'a> Stages<'a> {
    pub(super) fn new(
        model: &'a Model,
        texts: &'a [Vec<u32>],
        pool: &[Proposal],
        options: &CensusOptions,
    ) -> Result<Self> {
        let short = beginnings(texts, options.short);
        let mut channels: Vec<_> = pool.iter().map(|p| (p.coord.at(), p.coord.col)).collect();
        channels.sort_unstable();
        channels.dedup();
        Ok(Self {
            model,
            max_rows: options.proof.max_rows,
            full: texts,
            shortest: short[..1].to_vec(),
            short,
            channels,
            base: 0.0,
            scored: 0,
        })
    }

    /// Runs sets of weights that become zero; the baseline's outcome first, with the largest watched inputs.
    pub(super) fn run(
        &mut self,
        sets: &[Vec<WeightCoord>],
        length: Length,
        done: &mut dyn FnMut(usize),
    ) -> Result<(Outcome, Vec<Outcome>)> {
        let texts: &[Vec<u32>] = match length {
            Length::Full => self.full,
            Length::Short => &self.short,
            Length::Shortest => &self.shortest,
        };
        let layers: Vec<_> = sets.iter().flatten().map(|c| c.layer).collect();
        let watched = self.channels.iter().copied();
        let watched = watched.filter(|(at, _)| layers.contains(&at.layer));
        let base = Baseline::run(self.model, texts, watched, layers.iter().copied())?;
        let variants = sets
            .iter()
            .map(|set| {
                let edit = |&c: &WeightCoord| Ok(Edit::zero(c, self.model.value(c)?));
                set.iter().map(edit).collect::<Result<Variant>>()
            })
            .collect::<Result<Vec<_>>>()?;
        let outcomes = base.outcomes(&variants, self.max_rows, done)?;
        let largest = base
            .inputs
            .values()
            .map(|x| x.iter().fold(0f32, |m, x| m.max(x.abs())));
        let unchanged = Outcome {
            largest: largest.collect(),
            watched: base.inputs.keys().copied().collect(),
            nll: base.nll.clone(),
        };
        Ok((unchanged, outcomes))
    }

    /// The effects of sets of weights.
    pub(super) fn effects(
        &mut self,
        sets: &[Vec<WeightCoord>],
        length: Length,
        stage: usize,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Effect>> {
        let (mut ran, of) = (0, sets.len());
        let (base, outcomes) = self.run(sets, length, &mut |n| {
            ran += n;
            progress(Stage {
                stage,
                done: ran,
                of,
            });
        })?;
        if length == Length::Full {
            self.base = base.nll.iter().sum::<f64>() / base.nll.len() as f64;
            self.scored = base.nll.len();
        }
        let effect = |o: &Outcome| Effect::between(&base.nll, &o.nll);
        Ok(outcomes.iter().map(effect).collect())
    }

    pub(super) fn first(
        &mut self,
        pool: &[Proposal],
        prefixes: &[Vec<WeightCoord>],
        rows: &[Vec<WeightCoord>],
        progress: &mut dyn FnMut(Stage),
    ) -> Result<First> {
        let alone = pool.iter().map(|p| vec![p.coord]);
        let sets: Vec<_> = alone
            .chain(prefixes.iter().cloned())
            .chain(rows.iter().cloned())
            .collect();
        let effects = self.effects(&sets, Length::Shortest, 1, progress)?;
        let nll: Vec<f64> = effects.iter().map(|e| e.nll).collect();
        let (alone, rest) = nll.split_at(pool.len());
        let (in_order, rows) = rest.split_at(prefixes.len());
        let first = prefixes.first().map(|set| set[0]);
        let first = pool.iter().position(|p| Some(p.coord) == first);
        Ok(First {
            before: first.map_or(0.0, |i| alone[i]),
            alone: alone.to_vec(),
            in_order: in_order.to_vec(),
            rows: rows.to_vec(),
        })
    }

    pub(super) fn second(
        &mut self,
        coords: &[WeightCoord],
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Effect>> {
        let sets: Vec<_> = coords.iter().map(|&c| vec![c]).collect();
        self.effects(&sets, Length::Short, 2, progress)
    }

    /// The effects of each finalist's controls.
    pub(super) fn controls(
        &mut self,
        finalists: &[WeightCoord],
        controls: &[Matched],
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Vec<Effect>>> {
        let mut sets = Vec::new();
        for (&c, matched) in finalists.iter().zip(controls) {
            let control = |r: &crate::proof::Chosen| WeightCoord {
                row: r.row,
                col: r.col,
                ..c
            };
            sets.extend(matched.random.iter().map(|r| vec![control(r)]));
        }
        let mut effects = self.effects(&sets, Length::Short, 2, progress)?.into_iter();
        let of = |m: &Matched| effects.by_ref().take(m.random.len()).collect();
        Ok(controls.iter().map(of).collect())
    }

    /// The finalists alone and together on the whole texts, and the sets that the relations name.
    pub(super) fn last(
        &mut self,
        finalists: &[WeightCoord],
        related: &Related,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Last> {
        let mut sets: Vec<_> = finalists.iter().map(|&c| vec![c]).collect();
        sets.push(finalists.to_vec());
        sets.extend(
            related
                .sets
                .iter()
                .map(|set| set.iter().map(|&i| finalists[i]).collect()),
        );
        if finalists.is_empty() {
            sets.clear();
        }
        let effects = self.effects(&sets, Length::Full, 3, progress)?;
        let nothing = Effect {
            nll: 0.0,
            low: 0.0,
            high: 0.0,
        };
        let n = finalists.len();
        let guess = (self.model.spec().vocab_size as f64).ln();
        let set = |i: usize| WeightSet {
            weights: sets[i].clone(),
            effect: effects[i],
            perplexity_factor: effects[i].nll.exp(),
            ruins: self.base < guess && self.base + effects[i].nll >= guess,
        };
        let most = |range: std::ops::Range<usize>, size: &dyn Fn(usize) -> bool| {
            let of_size = range.filter(|&i| size(sets[i].len()));
            of_size
                .max_by(|&a, &b| effects[a].nll.total_cmp(&effects[b].nll))
                .map(set)
        };
        let all = if n == 0 { 0..0 } else { n + 1..sets.len() };
        let one = most(0..n, &|_| true);
        let pair = most(all.clone(), &|size| size == 2);
        let mut ruining: Vec<_> = (0..sets.len()).map(set).filter(|s| s.ruins).collect();
        ruining.sort_by_key(|s| s.weights.len());
        let ruin = ruining.into_iter().next();
        let enough = one.as_ref().is_some_and(|s| s.ruins);
        let mut out: Vec<_> = one.into_iter().collect();
        if !enough {
            let doubles = |s: &WeightSet| s.perplexity_factor >= 1.5 * out[0].perplexity_factor;
            let pair = pair.filter(|s| doubles(s));
            let same = ruin.as_ref().map(|r| r.weights.len()) == Some(2);
            out.extend(pair.filter(|_| !same));
            out.extend(ruin);
        }
        Ok(Last {
            joint: effects.get(n).copied().unwrap_or(nothing),
            alone: effects[..n].to_vec(),
            sets: out,
        })
    }

    /// Of the unchanged model, on the whole texts.
    pub(super) fn nll(&self) -> f64 {
        self.base
    }

    /// Tokens scored on the whole texts.
    pub(super) fn scored(&self) -> usize {
        self.scored
    }
}

/// The indices with the highest scores, of those above `least`.
pub(super) fn rank(n: usize, score: impl Fn(usize) -> f64, most: usize, least: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).filter(|&i| score(i) > least).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    order.truncate(most);
    order
}

/// The members of a row, each one's effect alone and that of all of them, on the short texts.
pub(super) fn effects_on(
    stages: &mut Stages<'_>,
    unit: &[WeightCoord],
) -> Result<Vec<(WeightCoord, Effect, f64)>> {
    let mut sets: Vec<_> = unit.iter().map(|&c| vec![c]).collect();
    sets.push(unit.to_vec());
    let effects = stages.effects(&sets, Length::Short, 3, &mut |_| ())?;
    let together = effects[unit.len()].nll;
    Ok(unit
        .iter()
        .zip(effects)
        .map(|(&c, e)| (c, e, together))
        .collect())
}
