//! The weights of largest magnitude.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sw_model::{LinearAt, Model, WeightCoord};
use sw_tensor::Mat;

/// How many of the largest weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "select", rename_all = "snake_case")]
pub enum Largest {
    /// Each linear map gives this share of its elements, rounded down (the released code: 1e-6).
    PerMatrix {
        /// The share, from 0 to 1.
        fraction: f64,
    },
    /// All linear maps of the layers together give this many.
    Global {
        /// How many.
        count: usize,
    },
}

/// One weight's magnitude and place.
type Entry = (f32, WeightCoord);

/// The largest weights by magnitude, without those to keep. Weights that tie with the smallest of them belong to them.
///
/// A kept weight counts among the largest all the same: the released code prunes it and puts it back.
///
/// # Errors
/// A share outside 0 to 1.
pub fn largest(
    model: &Model,
    select: &Largest,
    keep: &[WeightCoord],
) -> Result<Vec<WeightCoord>, String> {
    let weight = |at: LinearAt| model.weight_at(at).map(|w| (at, w));
    let maps = model.linears().filter_map(weight);
    let found: Vec<Entry> = match *select {
        Largest::PerMatrix { fraction } => {
            if !(0.0..=1.0).contains(&fraction) {
                return Err(format!("fraction {fraction}: expected 0 to 1"));
            }
            let count = |w: &Mat| ((w.rows() * w.cols()) as f64 * fraction) as usize;
            maps.flat_map(|(at, w)| largest_of(at, w, count(w)))
                .collect()
        }
        Largest::Global { count } => maps.fold(Vec::new(), |mut all, (at, w)| {
            all.extend(largest_of(at, w, count));
            at_least_nth(all, count)
        }),
    };
    Ok(found
        .into_iter()
        .map(|(_, coord)| coord)
        .filter(|coord| !keep.contains(coord))
        .collect())
}

/// Rows that are looked at together.
const BLOCK: usize = 64;

fn largest_of(at: LinearAt, w: &Mat, count: usize) -> Vec<Entry> {
    if count == 0 {
        return Vec::new();
    }
    let starts: Vec<usize> = (0..w.rows()).step_by(BLOCK).collect();
    let blocks: Vec<Vec<Entry>> = starts
        .into_par_iter()
        .map(|start| {
            let rows = start..(start + BLOCK).min(w.rows());
            let mut values = vec![0.0; rows.len() * w.cols()];
            w.widen(rows, 0..w.cols(), &mut values);
            values.iter_mut().for_each(|v| *v = v.abs());
            let bound = nth_largest(values.clone(), count);
            let place = |i: usize| WeightCoord {
                layer: at.layer,
                linear: at.linear,
                expert: at.expert,
                row: start + i / w.cols(),
                col: i % w.cols(),
            };
            values
                .iter()
                .enumerate()
                .filter(|(_, v)| **v >= bound)
                .map(|(i, &v)| (v, place(i)))
                .collect()
        })
        .collect();
    at_least_nth(blocks.concat(), count)
}

fn at_least_nth(mut entries: Vec<Entry>, count: usize) -> Vec<Entry> {
    let bound = nth_largest(entries.iter().map(|(v, _)| *v).collect(), count);
    entries.retain(|(v, _)| *v >= bound);
    entries
}

/// The `n`-th largest value, or minus infinity where there are fewer; `n` counts from 1, and 0 means none.
fn nth_largest(mut values: Vec<f32>, n: usize) -> f32 {
    if n == 0 {
        return f32::INFINITY;
    }
    if values.len() < n {
        return f32::NEG_INFINITY;
    }
    *values
        .select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a))
        .1
}

#[cfg(test)]
mod tests {
    use sw_model::Linear;

    use super::*;

    #[test]
    fn ties_with_the_last_belong_to_the_largest() {
        let data: Vec<f32> = (0..200 * 3)
            .map(|i| ((i * 7919) % 101) as f32 * if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let w = Mat::from_f32(200, 3, data.clone());
        for count in [0, 1, 4, 13, 600] {
            let mut sorted: Vec<f32> = data.iter().map(|v| v.abs()).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = if count == 0 {
                0
            } else {
                sorted.iter().filter(|v| **v >= sorted[count - 1]).count()
            };
            let found = largest_of(LinearAt::dense(3, Linear::Up), &w, count);
            assert_eq!(found.len(), expected, "{count}");
            assert!(
                found
                    .iter()
                    .all(|&(v, c)| w.get(c.row, c.col).abs() == v && c.layer == 3)
            );
        }
    }
}
