//! Putting back super activations, and nothing else, while their weights are pruned.

use std::collections::BTreeMap;

use ndarray::Axis;
use sw_model::{Hook, Linear, Model, Site, SiteView, WeightCoord};

use crate::error::{Error, Result};

/// Restores, per layer and output channel, the largest element that the unpruned weights would give.
///
/// With `y` the pruned output and `x` the input of `down_proj`, the unpruned output of a channel differs by
/// `sum of (w_unpruned - w_pruned) * x` over its pruned columns, so nothing is computed twice.
#[derive(Clone)]
pub(super) struct Restore {
    layers: BTreeMap<usize, Vec<Channel>>,
}

/// An output channel with pruned weights.
#[derive(Clone)]
struct Channel {
    row: usize,
    /// Column, and what pruning took from the weight.
    lost: Vec<(usize, f32)>,
    /// What the output of each token lost; filled at the input of `down_proj`.
    gap: Vec<f32>,
}

impl Restore {
    pub(super) fn new(unpruned: &Model, pruned: &Model, coords: &[WeightCoord]) -> Result<Self> {
        let mut layers: BTreeMap<usize, Vec<Channel>> = BTreeMap::new();
        for &coord in coords {
            let refused = |problem: &str| {
                let problem = format!("{coord}: {problem}");
                Error::Intervention {
                    intervention: "restore_super_activation",
                    problem,
                }
            };
            if coord.linear != Linear::Down || coord.expert.is_some() {
                return Err(refused(
                    "a super activation stands at the output of a dense down_proj",
                ));
            }
            let lost = unpruned.value(coord)? - pruned.value(coord)?;
            if lost == 0.0 {
                return Err(refused(
                    "this weight is not pruned, so there is nothing to restore",
                ));
            }
            let channels = layers.entry(coord.layer).or_default();
            match channels.iter_mut().find(|c| c.row == coord.row) {
                Some(channel) if channel.lost.iter().any(|l| l.0 == coord.col) => {} // given twice
                Some(channel) => channel.lost.push((coord.col, lost)),
                None => channels.push(Channel {
                    row: coord.row,
                    lost: vec![(coord.col, lost)],
                    gap: Vec::new(),
                }),
            }
        }
        Ok(Self { layers })
    }
}

impl Hook for Restore {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::DownIn(l) | Site::DownOut(l) if self.layers.contains_key(&l))
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        match site {
            Site::DownIn(l) => {
                for channel in self.layers.get_mut(&l).into_iter().flatten() {
                    let gap = |x: ndarray::ArrayView1<'_, f32>| {
                        channel.lost.iter().map(|&(col, w)| w * x[col]).sum()
                    };
                    channel.gap = view.data.axis_iter(Axis(0)).map(gap).collect();
                }
            }
            Site::DownOut(l) => {
                for channel in self.layers.get(&l).into_iter().flatten() {
                    let mut y = view.data.column_mut(channel.row);
                    for seq in view.seqs {
                        let unpruned = seq.rows.clone().map(|t| (t, y[t] + channel.gap[t]));
                        let largest =
                            unpruned.reduce(|a, b| if b.1.abs() > a.1.abs() { b } else { a });
                        if let Some((token, value)) = largest {
                            y[token] = value;
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use sw_model::SeqRange;

    use super::*;

    #[test]
    fn only_the_largest_element_of_each_sequence_comes_back() {
        let channel = Channel {
            row: 1,
            lost: vec![(0, 2.0), (2, -1.0)],
            gap: Vec::new(),
        };
        let mut hook = Restore {
            layers: [(3, vec![channel])].into(),
        };
        let mut x = array![
            [5.0, 0.0, 1.0],
            [1.0, 0.0, 0.0],
            [0.0, 0.0, 9.0],
            [4.0, 0.0, 0.0]
        ]; // [tokens, d_ff]
        let mut y = Array2::<f32>::ones((4, 2)); // [tokens, hidden]
        let seqs = [
            SeqRange {
                rows: 0..2,
                start: 0,
            },
            SeqRange {
                rows: 2..4,
                start: 0,
            },
        ];
        assert!(hook.wants(Site::DownIn(3)) && !hook.wants(Site::DownIn(2)));
        hook.visit(
            Site::DownIn(3),
            SiteView {
                data: x.view_mut(),
                seqs: &seqs,
                tokens: None,
            },
        );
        hook.visit(
            Site::DownOut(3),
            SiteView {
                data: y.view_mut(),
                seqs: &seqs,
                tokens: None,
            },
        );
        // Unpruned, channel 1 would be 1 + [9, 2] and 1 + [-9, 8]: tokens 0 and 3 carry the largest magnitudes.
        assert_eq!(y, array![[1.0, 10.0], [1.0, 1.0], [1.0, 1.0], [1.0, 9.0]]);
    }
}
