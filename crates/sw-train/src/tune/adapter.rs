//! LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353): a linear map changed by the product of two thin matrices.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sw_model::{Input, Linear, Mat, Product};
use sw_tensor::{matmul_t, product};

use crate::draw::Draw;
use crate::error::{Error, Result};
use crate::mapped::to_input;

/// Sizes of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterOptions {
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// The change is `alpha / rank * B A`.
    pub alpha: f32,
    /// Which linear maps have one, in all layers.
    pub targets: Vec<Linear>,
    /// Whether magnitudes are trained by themselves (DoRA).
    pub dora: bool,
}

/// The change of one linear map of weight `W`, `[out, in]`.
///
/// LoRA computes with `V = W + scale * B A`; DoRA with `(m / |V|) V`, where `|V|` is the Euclidean norm of each row of `V`, one
/// per output channel, through which no gradient goes (arXiv 2402.09353, section 4.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// `A`, `[rank, in]`.
    pub a: Array2<f32>,
    /// `B`, `[out, rank]`.
    pub b: Array2<f32>,
    /// `alpha / rank`.
    pub scale: f32,
    /// `m` of DoRA, `[1, out]`.
    pub magnitude: Option<Array2<f32>>,
}

impl Adapter {
    /// The adapter that a training begins with: `B` is zero, `A` uniform in `+-1 / sqrt(in)`, the magnitudes are the norms of the
    /// rows of `w`, so that it changes nothing. `stream` tells the maps of one `seed` apart.
    ///
    /// # Errors
    /// A rank of zero, or larger than the map.
    pub fn new(w: &Mat, options: &AdapterOptions, seed: u64, stream: u64) -> Result<Adapter> {
        let (rows, cols, rank) = (w.rows(), w.cols(), options.rank);
        if rank == 0 || rank > rows.min(cols) {
            return Err(Error::Shape(format!(
                "rank {rank}: expected 1 to {}, the smaller side of a map of [{rows}, {cols}]",
                rows.min(cols)
            )));
        }
        let mut draw = Draw::new(seed, stream);
        let bound = 1.0 / (cols as f64).sqrt();
        let chance = || (bound * (2.0 * draw.unit() - 1.0)) as f32;
        let mut adapter = Adapter {
            a: Array2::from_shape_simple_fn((rank, cols), chance),
            b: Array2::zeros((rows, rank)),
            scale: options.alpha / rank as f32,
            magnitude: None,
        };
        if options.dora {
            let norms = adapter.norms(w);
            let norms = Array2::from_shape_vec((1, rows), norms);
            adapter.magnitude = norms.ok();
        }
        Ok(adapter)
    }

    /// How many numbers are trained: `rank (out + in)`, and `out` more of DoRA.
    pub fn count(&self) -> usize {
        self.a.len() + self.b.len() + self.magnitude.as_ref().map_or(0, Array2::len)
    }

    /// A row of `V`.
    fn row(&self, w: &Mat, row: usize, into: &mut [f32]) {
        w.row_into(row, into);
        for (b, a) in self.b.row(row).iter().zip(self.a.rows()) {
            let factor = self.scale * b;
            into.iter_mut().zip(a).for_each(|(v, a)| *v += factor * a);
        }
    }

    /// `|V|`, one norm per row.
    fn norms(&self, w: &Mat) -> Vec<f32> {
        let of_row = |row: usize| {
            let mut v = vec![0.0; w.cols()];
            self.row(w, row, &mut v);
            let squares = v.iter().map(|v| f64::from(*v).powi(2));
            squares.sum::<f64>().sqrt() as f32
        };
        (0..w.rows()).into_par_iter().map(of_row).collect()
    }

    /// What DoRA multiplies the output channels by.
    fn gains(&self, w: &Mat) -> Option<Gains> {
        let magnitude = self.magnitude.as_ref()?;
        let norms = Array1::from(self.norms(w));
        Some(Gains {
            gains: &magnitude.row(0) / &norms,
            norms,
        })
    }

    /// The weight with its change in it, in f32: `V`, or `(m / |V|) V`.
    pub fn merged(&self, w: &Mat) -> Mat {
        let gains = self.gains(w);
        let mut merged = vec![0.0; w.rows() * w.cols()];
        let rows = merged.par_chunks_mut(w.cols().max(1)).enumerate();
        rows.for_each(|(i, row)| {
            self.row(w, i, row);
            if let Some(Gains { gains, .. }) = &gains {
                row.iter_mut().for_each(|v| *v *= gains[i]);
            }
        });
        Mat::from_f32(w.rows(), w.cols(), merged)
    }
}

/// `m / |V|` and `|V|`, `[out]` each.
#[derive(Debug)]
struct Gains {
    gains: Array1<f32>,
    norms: Array1<f32>,
}

/// A linear map that multiplies with its weight and an adapter's change, without merging them.
#[derive(Debug)]
pub struct Adapted {
    base: Mat,
    adapter: Adapter,
    a: Mat,
    b: Mat,
    gains: Option<Gains>,
}

impl Adapted {
    /// The map of weight `base`, changed.
    pub fn new(base: &Mat, adapter: &Adapter) -> Adapted {
        let mat =
            |w: &Array2<f32>| Mat::from_f32(w.nrows(), w.ncols(), w.iter().copied().collect());
        Adapted {
            base: base.clone(),
            a: mat(&adapter.a),
            b: mat(&adapter.b),
            gains: adapter.gains(base),
            adapter: adapter.clone(),
        }
    }

    /// `x V^T`.
    fn without_gains(&self, x: ArrayView2<'_, f32>, mut y: ArrayViewMut2<'_, f32>) {
        matmul_t(x, &self.base, y.view_mut());
        let mut inner = Array2::zeros((x.nrows(), self.a.rows()));
        matmul_t(x, &self.a, inner.view_mut());
        let mut change = Array2::zeros(y.dim());
        matmul_t(inner.view(), &self.b, change.view_mut());
        y.scaled_add(self.adapter.scale, &change);
    }

    /// `dy` before the gains.
    fn scaled(&self, dy: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut dy = dy.to_owned();
        if let Some(Gains { gains, .. }) = &self.gains {
            dy *= gains;
        }
        dy
    }

    /// Gradients of `A`, `B` and the magnitudes: with `dv = dy gain`, `dA = scale (dv B)^T x`, `dB = scale dv^T (x A^T)`, and
    /// `dm = sum over tokens of dy (x V^T) / |V|`.
    pub(super) fn gradients(
        &self,
        dy: ArrayView2<'_, f32>,
        x: ArrayView2<'_, f32>,
    ) -> [Option<Array2<f32>>; 3] {
        let Adapter { a, b, scale, .. } = &self.adapter;
        let dv = self.scaled(dy);
        let (mut da, mut db) = (Array2::zeros(a.dim()), Array2::zeros(b.dim()));
        let mut inner = Array2::zeros((x.nrows(), a.nrows()));
        product(1.0, x, a.t(), 0.0, inner.view_mut());
        product(*scale, dv.t(), inner.view(), 0.0, db.view_mut());
        product(1.0, dv.view(), b.view(), 0.0, inner.view_mut());
        product(*scale, inner.t(), x, 0.0, da.view_mut());
        let dm = self.gains.as_ref().map(|Gains { norms, .. }| {
            let mut y = Array2::zeros(dy.dim());
            self.without_gains(x, y.view_mut());
            y *= &dy;
            (y.sum_axis(Axis(0)) / norms).insert_axis(Axis(0))
        });
        [Some(da), Some(db), dm]
    }
}

impl Product for Adapted {
    fn shape(&self) -> [usize; 2] {
        [self.base.rows(), self.base.cols()]
    }

    fn multiply(&self, x: &Input<'_>, mut y: ArrayViewMut2<'_, f32>) {
        self.without_gains(x.rows(), y.view_mut());
        if let Some(Gains { gains, .. }) = &self.gains {
            y *= gains;
        }
    }

    fn matrix(&self) -> Mat {
        self.adapter.merged(&self.base)
    }

    fn multiply_back(&self, dy: ArrayView2<'_, f32>, mut dx: ArrayViewMut2<'_, f32>) -> bool {
        let Adapter { a, b, scale, .. } = &self.adapter;
        let dv = self.scaled(dy);
        to_input(dv.view(), &self.base, dx.view_mut());
        let mut inner = Array2::zeros((dy.nrows(), a.nrows()));
        product(1.0, dv.view(), b.view(), 0.0, inner.view_mut());
        product(*scale, inner.view(), a.view(), 1.0, dx);
        true
    }
}
