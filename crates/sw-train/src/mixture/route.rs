//! Which experts a token takes, and how much of each.

use ndarray::Array2;

use super::{Drop, Experts, Pass, Routing};
use crate::draw::Draw;

/// One expert that a token takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The expert.
    pub expert: usize,
    /// How much of its output.
    pub weight: f32,
    /// Whether the expert had room.
    pub kept: bool,
}

/// How tokens were routed.
#[derive(Clone, Debug)]
pub struct Routed {
    /// Probabilities, `[tokens, experts]`.
    pub probs: Array2<f32>,
    /// `per_token` choices of each token, most probable first.
    pub choices: Vec<Choice>,
    /// Part of the tokens whose most probable expert is this one, before dropping.
    pub firsts: Vec<f32>,
}

impl Routed {
    /// Choices of each expert, before dropping.
    pub fn loads(&self) -> Vec<u64> {
        let mut loads = vec![0; self.firsts.len()];
        self.choices.iter().for_each(|c| loads[c.expert] += 1);
        loads
    }

    /// Choices that were turned away.
    pub fn dropped(&self) -> u64 {
        self.choices.iter().filter(|c| !c.kept).count() as u64
    }

    /// The auxiliary loss, see [`balance`].
    pub fn aux(&self) -> f64 {
        balance(&self.probs, &self.firsts)
    }
}

/// `experts * sum_e mean_t(probs[t, e]) * firsts[e]`: 1 where loads are equal, `experts` where one certain expert takes all. That it is 1
/// does not say that loads are equal: with flat probabilities it is, whatever the loads.
pub fn balance(probs: &Array2<f32>, firsts: &[f32]) -> f64 {
    let tokens = probs.nrows().max(1) as f64;
    let mean = |e: usize| probs.column(e).iter().map(|&p| f64::from(p)).sum::<f64>() / tokens;
    let sum: f64 = (0..firsts.len())
        .map(|e| mean(e) * f64::from(firsts[e]))
        .sum();
    firsts.len() as f64 * sum
}

/// Choices that an expert takes: `max(ceil(factor * tokens * per_token / experts), least)`.
pub fn capacity(tokens: usize, experts: Experts, routing: &Routing) -> usize {
    let Some(factor) = routing.capacity else {
        return usize::MAX;
    };
    let equal = (tokens * experts.per_token) as f64 / experts.count.max(1) as f64;
    ((equal * f64::from(factor)).ceil() as usize).max(routing.least)
}

/// Routes tokens by their logits, `[tokens, experts]`. Without a training (`at`: routing, step, piece and block) no noise is added and
/// nothing is turned away.
pub fn route(
    logits: Array2<f32>,
    experts: Experts,
    at: Option<(&Routing, usize, usize, usize)>,
) -> Routed {
    let (tokens, count) = logits.dim();
    let k = experts.per_token.min(count);
    let mut draw = at.map(|(routing, step, piece, block)| {
        let stream = 1 << 63 | (step as u64) << 32 | (piece as u64 & 0xffff) << 16;
        Draw::new(routing.seed, stream | (block as u64 & 0xffff))
    });
    let noise = at.is_some_and(|(routing, ..)| routing.noise && k > 1);
    let mut probs = logits.clone();
    let mut choices = Vec::with_capacity(tokens * k);
    let mut firsts = vec![0.0; count];
    let mut order: Vec<usize> = Vec::new();
    let mut noisy = vec![0.0; count];
    for (mut p, z) in probs.rows_mut().into_iter().zip(logits.rows()) {
        let p = p.as_slice_mut().unwrap_or(&mut []);
        sw_tensor::softmax(p);
        order.clear();
        order.extend(0..count);
        // Of equals, the first.
        order.sort_unstable_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
        firsts[order[0]] += 1.0 / tokens as f32;
        if let Some(draw) = draw.as_mut().filter(|_| noise) {
            for (noisy, z) in noisy.iter_mut().zip(z) {
                *noisy = z - (-draw.unit().ln()).ln() as f32;
            }
            order[1..].sort_unstable_by(|&a, &b| noisy[b].total_cmp(&noisy[a]).then(a.cmp(&b)));
        }
        let chosen = &order[..k];
        let sum: f32 = match experts.normalize() {
            true => chosen.iter().map(|&e| p[e]).sum(),
            false => 1.0,
        };
        choices.extend(chosen.iter().map(|&expert| Choice {
            expert,
            weight: p[expert] / sum,
            kept: true,
        }));
    }
    if let (Some((routing, ..)), Some(draw)) = (at, draw.as_mut()) {
        turn_away(&mut choices, tokens, k, experts, routing, draw);
    }
    Routed {
        probs,
        choices,
        firsts,
    }
}

/// Marks the choices that their experts have no room for.
fn turn_away(
    choices: &mut [Choice],
    tokens: usize,
    k: usize,
    experts: Experts,
    routing: &Routing,
    draw: &mut Draw,
) {
    let room = capacity(tokens, experts, routing);
    if room >= tokens {
        return; // a token chooses an expert at most once
    }
    // The smallest rank stays: a draw each, or first choices in their order before second ones.
    let rank: Vec<f64> = match routing.drop {
        Drop::Random => choices.iter().map(|_| draw.unit()).collect(),
        Drop::Position => (0..choices.len())
            .map(|i| ((i % k) * tokens + i / k) as f64)
            .collect(),
    };
    for e in 0..experts.count {
        let mut asking: Vec<usize> = (0..choices.len())
            .filter(|&i| choices[i].expert == e)
            .collect();
        asking.sort_by(|&a, &b| rank[a].total_cmp(&rank[b]).then(a.cmp(&b)));
        for &i in asking.iter().skip(room) {
            choices[i].kept = false;
        }
    }
}

/// The router's place in a training.
pub(super) fn place<'a>(
    pass: Option<Pass<'a>>,
    l: usize,
) -> Option<(&'a Routing, usize, usize, usize)> {
    pass.map(|p| (p.routing, p.step, p.piece, l))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(tokens: usize, experts: usize) -> Array2<f32> {
        let mut draw = Draw::new(3, 0);
        Array2::from_shape_simple_fn((tokens, experts), || draw.normal() as f32)
    }

    #[test]
    fn capacity_is_kept_and_nothing_is_lost() {
        for (count, per_token) in [(8, 1), (8, 2), (3, 1), (5, 2)] {
            let experts = Experts::new(count, per_token);
            for drop in [Drop::Random, Drop::Position] {
                for factor in [0.5, 1.0, 1.3, count as f32] {
                    let routing = Routing {
                        capacity: Some(factor),
                        drop,
                        ..Routing::default()
                    };
                    let tokens = 67;
                    let routed = route(logits(tokens, count), experts, Some((&routing, 5, 1, 2)));
                    let room = capacity(tokens, experts, &routing);
                    let equal = (tokens * per_token) as f64 / count as f64 * f64::from(factor);
                    assert_eq!(room, (equal.ceil() as usize).max(4));
                    let kept = routed.choices.iter().filter(|c| c.kept).count();
                    assert_eq!(kept + routed.dropped() as usize, tokens * per_token);
                    for (e, load) in routed.loads().into_iter().enumerate() {
                        let of = |c: &&Choice| c.expert == e && c.kept;
                        let kept = routed.choices.iter().filter(of).count();
                        assert_eq!(kept, room.min(load as usize));
                    }
                    if factor == count as f32 {
                        assert_eq!(routed.dropped(), 0);
                    }
                }
            }
        }
        let few = capacity(9, Experts::new(8, 1), &Routing::default());
        assert_eq!(few, 4, "the least");
    }

    #[test]
    fn who_is_turned_away_depends_on_seed_step_piece_and_block() {
        let routing = Routing {
            capacity: Some(0.5),
            ..Routing::default()
        };
        let other = Routing { seed: 1, ..routing };
        let kept = |routing: &Routing, step, piece, block| -> Vec<bool> {
            let at = Some((routing, step, piece, block));
            let routed = route(logits(64, 4), Experts::new(4, 1), at);
            routed.choices.iter().map(|c| c.kept).collect()
        };
        let one = kept(&routing, 5, 1, 2);
        assert_eq!(one, kept(&routing, 5, 1, 2));
        for another in [
            kept(&routing, 6, 1, 2),
            kept(&routing, 5, 0, 2),
            kept(&routing, 5, 1, 3),
            kept(&other, 5, 1, 2),
        ] {
            assert_ne!(one, another);
        }
    }

    #[test]
    fn position_keeps_first_choices_before_second_ones() {
        // Every token takes expert 0 first and 1 second, but the last, which takes them the other way round.
        let z = Array2::from_shape_fn((8, 4), |(t, e)| match (t == 7, e) {
            (false, 0) | (true, 1) => 5.0,
            (false, 1) | (true, 0) => 4.0,
            _ => 0.0,
        });
        let routing = Routing {
            capacity: Some(1.0),
            drop: Drop::Position,
            noise: false,
            ..Routing::default()
        };
        let routed = route(z, Experts::new(4, 2), Some((&routing, 0, 0, 0)));
        let kept: Vec<bool> = routed.choices.iter().map(|c| c.kept).collect();
        // Room for four: expert 0 keeps four first choices; expert 1 the one first choice and three second ones.
        let first: Vec<bool> = (0..8).map(|t| kept[2 * t]).collect();
        let second: Vec<bool> = (0..8).map(|t| kept[2 * t + 1]).collect();
        assert_eq!(first, [true, true, true, true, false, false, false, true]);
        assert_eq!(
            second,
            [true, true, true, false, false, false, false, false]
        );
    }

    #[test]
    fn the_auxiliary_loss_is_one_where_loads_are_equal_and_where_probabilities_are_flat() {
        let even = Array2::from_shape_fn((8, 4), |(t, e)| if t % 4 == e { 0.7 } else { 0.1 });
        assert!((balance(&even, &[0.25; 4]) - 1.0).abs() < 1e-6);
        let certain = Array2::from_shape_fn((8, 4), |(_, e)| f32::from(u8::from(e == 2)));
        let routed = route(certain.mapv(|p| 100.0 * p), Experts::new(4, 1), None);
        assert!((routed.aux() - 4.0).abs() < 1e-5);
        // The trap: one expert takes every token, and the loss is 1 all the same.
        let flat = route(Array2::zeros((8, 4)), Experts::new(4, 1), None);
        assert_eq!(flat.loads(), [8, 0, 0, 0]);
        assert!((flat.aux() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn one_expert_per_token_keeps_its_probability_and_two_sum_to_one() {
        let one = route(logits(9, 4), Experts::new(4, 1), None);
        for (t, c) in one.choices.iter().enumerate() {
            assert_eq!(c.weight, one.probs[[t, c.expert]]);
            assert!(c.weight < 1.0);
        }
        let two = route(logits(9, 4), Experts::new(4, 2), None);
        for pair in two.choices.chunks(2) {
            assert!(pair[0].weight >= pair[1].weight);
            assert!((pair[0].weight + pair[1].weight - 1.0).abs() < 1e-6);
        }
        let routing = Routing {
            capacity: None,
            ..Routing::default()
        };
        let noisy = route(logits(99, 4), Experts::new(4, 2), Some((&routing, 0, 0, 0)));
        let plain = route(logits(99, 4), Experts::new(4, 2), None);
        let firsts = |r: &Routed| {
            r.choices
                .iter()
                .step_by(2)
                .map(|c| c.expert)
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(&noisy), firsts(&plain), "noise is for the second");
        assert_ne!(noisy.loads(), plain.loads());
    }
}
