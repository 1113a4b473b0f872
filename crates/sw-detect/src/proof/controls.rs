//! Weights to compare a candidate with.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde::{Deserialize, Serialize};
use sw_tensor::Mat;

use crate::proof::Effect;

/// The random controls are drawn from so many weights nearest in magnitude.
const NEAREST: usize = 64;

/// A weight of the candidate's own matrix, and what zeroing it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Output channel.
    pub row: usize,
    /// Input channel.
    pub col: usize,
    /// The weight.
    pub value: f32,
    /// What zeroing it does.
    pub effect: Effect,
}

/// A weight that has been chosen as a control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) value: f32,
}

/// The controls of one candidate.
#[derive(Debug)]
pub(crate) struct Matched {
    /// Random ones of the same magnitude, other rows and columns.
    pub(crate) random: Vec<Chosen>,
    /// The largest of the matrix.
    pub(crate) largest: Option<Chosen>,
    /// The largest of the same row.
    pub(crate) same_row: Option<Chosen>,
    /// The largest of the same column.
    pub(crate) same_col: Option<Chosen>,
    /// The candidate's rank by magnitude in its matrix, from 1.
    pub(crate) rank: usize,
}

/// Chooses the controls of `w[row, col]`, none of them among `excluded`; reads the matrix once, row by row.
pub(crate) fn choose(
    w: &Mat,
    (row, col): (usize, usize),
    excluded: &[(usize, usize)],
    random: usize,
    seed: u64,
) -> Matched {
    let size = w.get(row, col).abs();
    let mut matched = Matched {
        random: Vec::new(),
        largest: None,
        same_row: None,
        same_col: None,
        rank: 1,
    };
    // The nearest in magnitude: twice as many as needed are collected, then the farther half is dropped.
    let mut nearest: Vec<Chosen> = Vec::with_capacity(2 * NEAREST);
    let mut within = f32::INFINITY;
    let distance = |c: &Chosen| (c.value.abs() - size).abs();
    let drop_far = |nearest: &mut Vec<Chosen>| {
        nearest.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.truncate(NEAREST);
        nearest.last().map_or(f32::INFINITY, distance)
    };
    let mut values = vec![0.0; w.cols()];
    for r in 0..w.rows() {
        w.row_into(r, &mut values);
        for (c, &value) in values.iter().enumerate() {
            matched.rank += usize::from(value.abs() > size);
            let new = Chosen {
                row: r,
                col: c,
                value,
            };
            let larger = |than: &Option<Chosen>| than.is_none_or(|t| value.abs() > t.value.abs());
            let near = r != row && c != col && distance(&new) < within;
            let records = [
                (&mut matched.largest, true),
                (&mut matched.same_row, r == row),
                (&mut matched.same_col, c == col),
            ];
            let mut eligible = None;
            for (record, _) in records
                .into_iter()
                .filter(|(record, here)| *here && larger(record))
            {
                if *eligible
                    .get_or_insert_with(|| !excluded.contains(&(r, c)) && (r, c) != (row, col))
                {
                    *record = Some(new);
                }
            }
            if near && !excluded.contains(&(r, c)) {
                nearest.push(new);
                if nearest.len() == 2 * NEAREST {
                    within = drop_far(&mut nearest);
                }
            }
        }
    }
    drop_far(&mut nearest);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..random.min(nearest.len()) {
        let i = (rng.next_u64() % nearest.len() as u64) as usize;
        matched.random.push(nearest.swap_remove(i));
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_matched_and_exclude_the_candidates() {
        // 40 x 50, |w| = 1 .. 2000 in a scattered order.
        let value = |i: usize| {
            ((i * 1009) % 2000 + 1) as f32 * if i.is_multiple_of(3) { -1.0 } else { 1.0 }
        };
        let w = Mat::from_f32(40, 50, (0..2000).map(value).collect());
        let at = |size: f32| {
            (0..2000)
                .find(|&i| value(i).abs() == size)
                .map(|i| (i / 50, i % 50))
                .unwrap()
        };
        let (candidate, other) = (at(1990.0), at(2000.0));
        let m = choose(&w, candidate, &[other], 5, 7);
        assert_eq!(m.rank, 11);
        assert_eq!(
            m.largest.map(|c| c.value.abs()),
            Some(1999.0),
            "2000 is a candidate itself"
        );
        assert_eq!(m.random.len(), 5);
        for c in &m.random {
            assert!(
                (c.value.abs() - 1990.0).abs() <= 80.0
                    && c.row != candidate.0
                    && c.col != candidate.1,
                "{c:?}"
            );
        }
        let row = (0..50)
            .filter(|&c| c != candidate.1)
            .map(|c| w.get(candidate.0, c).abs())
            .fold(0.0, f32::max);
        assert_eq!(m.same_row.map(|c| c.value.abs()), Some(row));
        assert_eq!(m.same_col.map(|c| c.col), Some(candidate.1));
        assert_eq!(
            choose(&w, candidate, &[other], 5, 7).random,
            m.random,
            "the seed decides"
        );
    }

    #[test]
    fn a_matrix_of_one_weight_has_no_controls() {
        let m = choose(&Mat::from_f32(1, 1, vec![2.0]), (0, 0), &[], 3, 0);
        assert!(
            m.random.is_empty()
                && m.largest.is_none()
                && m.same_row.is_none()
                && m.same_col.is_none()
        );
    }
}
