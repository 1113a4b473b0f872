//! Which examples a step has.

use crate::draw::Draw;

/// The places of the examples of a step among `examples`: all of them in an order by chance, then in another, and so on. It
/// depends on the numbers given alone, so that a training that goes on has the same.
pub fn examples_of_step(examples: usize, per_step: usize, seed: u64, step: usize) -> Vec<usize> {
    if examples == 0 {
        return Vec::new();
    }
    let mut epoch = (usize::MAX, Vec::new());
    let of = |i: usize| {
        if epoch.0 != i / examples {
            epoch = (i / examples, order(examples, seed, (i / examples) as u64));
        }
        epoch.1[i % examples]
    };
    (step * per_step..(step + 1) * per_step).map(of).collect()
}

fn order(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut draw = Draw::new(seed, stream);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, draw.below(i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_comes_once_in_an_epoch() {
        let of = |step| examples_of_step(10, 4, 3, step);
        let all: Vec<usize> = (0..5).flat_map(of).collect();
        for epoch in all.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(all[..10], all[10..]);
        assert_eq!(of(2), [all[8], all[9], all[10], all[11]]);
        assert_ne!(examples_of_step(10, 10, 4, 0), all[..10]);
        assert_eq!(examples_of_step(3, 7, 0, 0).len(), 7);
        assert!(examples_of_step(0, 4, 0, 0).is_empty());
    }
}
