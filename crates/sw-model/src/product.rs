//! What a linear map multiplies with: a stored matrix, or a product that someone else computes.

use std::sync::{Arc, OnceLock};

use ndarray::{ArrayView2, ArrayViewMut2};
use sw_tensor::{Mat, matmul_t};

use crate::site::SeqRange;

/// A linear map's product computed in another way than from a matrix of 16- or 32-bit numbers, in integers say. (This crate
/// knows no quantizer.) [`Model::replaced`](crate::Model::replaced) puts one in a matrix's place.
///
/// ```
/// use ndarray::{ArrayView2, ArrayViewMut2};
/// use sw_model::{Mat, Product, SeqRange};
///
/// /// Every output is the sum of the inputs, without one multiplication.
/// struct Ones([usize; 2]);
///
/// impl Product for Ones {
///     fn shape(&self) -> [usize; 2] {
///         self.0
///     }
///     fn multiply(&self, x: ArrayView2<'_, f32>, _: Option<&[SeqRange]>, mut y: ArrayViewMut2<'_, f32>) {
///         for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
///             y.fill(x.sum());
///         }
///     }
///     fn matrix(&self) -> Mat {
///         Mat::from_f32(self.0[0], self.0[1], vec![1.0; self.0[0] * self.0[1]])
///     }
/// }
/// ```
pub trait Product: Send + Sync {
    /// Output and input channels.
    fn shape(&self) -> [usize; 2];

    /// `y = x * w^T`, `[tokens, in]` to `[tokens, out]`, without a bias.
    ///
    /// `seqs`: the rows of each sequence; `None` in an expert, whose rows are single tokens of several. What a row gives
    /// may depend on its own sequence only, and not on the number of threads, bit for bit.
    fn multiply(
        &self,
        x: ArrayView2<'_, f32>,
        seqs: Option<&[SeqRange]>,
        y: ArrayViewMut2<'_, f32>,
    );

    /// The matrix that it stands for, for everyone who reads single weights; of [`shape`](Self::shape). Asked for at
    /// most once.
    fn matrix(&self) -> Mat;
}

/// What a linear map multiplies with.
#[derive(Clone)]
pub struct Weight(Kind);

#[derive(Clone)]
enum Kind {
    Stored(Mat),
    /// With its matrix, where someone asked for it.
    Product(Arc<dyn Product>, Arc<OnceLock<Mat>>),
}

impl From<Mat> for Weight {
    fn from(w: Mat) -> Self {
        Self(Kind::Stored(w))
    }
}

impl From<Arc<dyn Product>> for Weight {
    fn from(product: Arc<dyn Product>) -> Self {
        Self(Kind::Product(product, Arc::default()))
    }
}

impl Weight {
    /// Output and input channels.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match &self.0 {
            Kind::Stored(w) => [w.rows(), w.cols()],
            Kind::Product(product, _) => product.shape(),
        }
    }

    /// The matrix as numbers.
    pub(crate) fn mat(&self) -> &Mat {
        match &self.0 {
            Kind::Stored(w) => w,
            Kind::Product(product, mat) => mat.get_or_init(|| product.matrix()),
        }
    }

    /// The matrix, where it is what the product is computed from.
    pub(crate) fn stored(&self) -> Option<&Mat> {
        match &self.0 {
            Kind::Stored(w) => Some(w),
            Kind::Product(..) => None,
        }
    }

    pub(crate) fn multiply(
        &self,
        x: ArrayView2<'_, f32>,
        seqs: Option<&[SeqRange]>,
        y: ArrayViewMut2<'_, f32>,
    ) {
        match &self.0 {
            Kind::Stored(w) => matmul_t(x, w, y),
            Kind::Product(product, _) => product.multiply(x, seqs, y),
        }
    }
}
