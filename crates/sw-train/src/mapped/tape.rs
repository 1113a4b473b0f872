//! What the forward pass leaves for the way back.

use ndarray::Array2;
use sw_model::{Hook, Linear, LinearAt, Site, SiteView};

use super::Keep;

/// What is kept of a layer, `[tokens, channels]` each; the rest is computed again.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) resid_pre: Array2<f32>,
    /// Queries and keys as the attention reads them: rotated.
    pub(super) q: Array2<f32>,
    pub(super) k: Array2<f32>,
    pub(super) v: Array2<f32>,
    /// The columns of [`Tape::keep`].
    pub(super) o_in: Array2<f32>,
    pub(super) resid_mid: Array2<f32>,
}

/// The hook that keeps it.
pub(super) struct Tape {
    pub(super) layers: Vec<Kept>,
    /// The residual stream that leaves the last layer.
    pub(super) last: Array2<f32>,
    /// Nothing is kept of layers below this one.
    lowest: usize,
    /// What is kept of the input of each layer's output projection.
    keep: Vec<Keep>,
}

impl Tape {
    pub(super) fn new(layers: usize, lowest: usize, keep: impl Fn(LinearAt) -> Keep) -> Tape {
        let of_layer = |l| keep(LinearAt::dense(l, Linear::O));
        Tape {
            keep: (0..layers).map(of_layer).collect(),
            layers: (0..layers).map(|_| Kept::default()).collect(),
            last: Array2::default((0, 0)),
            lowest,
        }
    }

    /// Bytes of what is kept.
    pub(super) fn bytes(&self) -> usize {
        let of_layer = |kept: &Kept| {
            let all = [&kept.resid_pre, &kept.q, &kept.k, &kept.v, &kept.o_in];
            all.iter().map(|a| a.len()).sum::<usize>() + kept.resid_mid.len()
        };
        let numbers = self.layers.iter().map(of_layer).sum::<usize>() + self.last.len();
        size_of::<f32>() * numbers
    }

    fn place(&mut self, site: Site) -> Option<&mut Array2<f32>> {
        let last = self.layers.len().wrapping_sub(1);
        Some(match site {
            Site::ResidPre(l) => &mut self.layers.get_mut(l)?.resid_pre,
            Site::RotQuery(l) => &mut self.layers.get_mut(l)?.q,
            Site::RotKey(l) => &mut self.layers.get_mut(l)?.k,
            Site::Value(l) => &mut self.layers.get_mut(l)?.v,
            Site::OIn(l) => &mut self.layers.get_mut(l)?.o_in,
            Site::ResidMid(l) => &mut self.layers.get_mut(l)?.resid_mid,
            Site::ResidPost(l) if l == last => &mut self.last,
            _ => return None,
        })
    }
}

impl Hook for Tape {
    fn wants(&self, site: Site) -> bool {
        match site {
            Site::ResidPost(l) => l + 1 == self.layers.len(),
            Site::ResidPre(l)
            | Site::RotQuery(l)
            | Site::RotKey(l)
            | Site::Value(l)
            | Site::ResidMid(l) => l >= self.lowest,
            Site::OIn(l) => l >= self.lowest && self.keep[l] != Keep::Nothing,
            _ => false,
        }
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let kept = match site {
            Site::OIn(l) => self.keep[l].of(view.data.view()),
            _ => view.data.to_owned(),
        };
        if let Some(place) = self.place(site) {
            *place = kept;
        }
    }
}
