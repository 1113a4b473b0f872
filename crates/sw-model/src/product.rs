//! What a linear map multiplies with: a stored matrix, or a product that someone else computes.

use std::{
    any::Any,
    cell::RefCell,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use ndarray::{ArrayView2, ArrayViewMut2};
use sw_tensor::{Arithmetic, Mat, matmul_t_each};

use crate::site::SeqRange;

/// A linear map's product computed in another way than from a matrix of 16- or 32-bit numbers, in integers say. (This crate
/// knows no quantizer.) [`Model::replaced`](crate::Model::replaced) puts one in a matrix's place. Its arithmetic is its own:
/// it reads activations as they are, whatever the model's [precision](crate::Model::with_precision).
///
/// ```
/// use ndarray::ArrayViewMut2;
/// use sw_model::{Input, Mat, Product};
///
/// /// Every output is the sum of the inputs, without one multiplication.
/// struct Ones([usize; 2]);
///
/// impl Product for Ones {
///     fn shape(&self) -> [usize; 2] {
///         self.0
///     }
///     fn multiply(&self, x: &Input<'_>, mut y: ArrayViewMut2<'_, f32>) {
///         for (x, mut y) in x.rows().rows().into_iter().zip(y.rows_mut()) {
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
    /// What a row gives may depend on its own sequence only, and not on the number of threads, bit for bit.
    fn multiply(&self, x: &Input<'_>, y: ArrayViewMut2<'_, f32>);

    /// The matrix that it stands for, for everyone who reads single weights; of [`shape`](Self::shape). Asked for at
    /// most once.
    fn matrix(&self) -> Mat;

    /// The way back to the input, `dx += dy * w`: `[tokens, out] x [out, in] -> [tokens, in]`. `false`, and nothing done,
    /// where it is to be computed from [`matrix`](Self::matrix).
    fn multiply_back(&self, _dy: ArrayView2<'_, f32>, _dx: ArrayViewMut2<'_, f32>) -> bool {
        false
    }
}

/// What linear maps read: rows of activations, one for each token, and whatever else the maps make of them. Queries, keys
/// and values have one input, and so have gate and up.
pub struct Input<'a> {
    rows: ArrayView2<'a, f32>,
    seqs: Option<&'a [SeqRange]>,
    arithmetic: Arithmetic,
    made: RefCell<Vec<Rc<dyn Any>>>,
}

impl<'a> Input<'a> {
    /// `[tokens, in]`; of `seqs`, see [`seqs`](Self::seqs).
    pub fn new(rows: ArrayView2<'a, f32>, seqs: Option<&'a [SeqRange]>) -> Self {
        Self {
            rows,
            seqs,
            arithmetic: Arithmetic::default(),
            made: RefCell::default(),
        }
    }

    /// [`new`](Self::new), for products that are computed so.
    pub(crate) fn with(
        rows: ArrayView2<'a, f32>,
        seqs: Option<&'a [SeqRange]>,
        arithmetic: Arithmetic,
    ) -> Self {
        Self {
            arithmetic,
            ..Self::new(rows, seqs)
        }
    }

    /// `[tokens, in]`.
    pub fn rows(&self) -> ArrayView2<'_, f32> {
        self.rows.view()
    }

    /// The rows of each sequence; `None` in an expert, whose rows are single tokens of several.
    pub fn seqs(&self) -> Option<&[SeqRange]> {
        self.seqs
    }

    /// What an earlier map made of this input, if it is a `T` that `fits`; else what `make` makes of it, for later maps to
    /// find. (Activations as integers, say.)
    pub fn shared<T: Any>(&self, fits: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Rc<T> {
        let found = self.made.borrow().iter().find_map(|made| {
            let made = Rc::clone(made).downcast::<T>().ok()?;
            fits(&made).then_some(made)
        });
        found.unwrap_or_else(|| {
            let made = Rc::new(make());
            self.made.borrow_mut().push(made.clone());
            made
        })
    }
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

    /// The matrix to be changed, where it is what the product is computed from.
    pub(crate) fn stored_mut(&mut self) -> Option<&mut Mat> {
        match &mut self.0 {
            Kind::Stored(w) => Some(w),
            Kind::Product(..) => None,
        }
    }

    /// The product that stands in a matrix's place.
    pub(crate) fn product(&self) -> Option<&dyn Product> {
        match &self.0 {
            Kind::Stored(_) => None,
            Kind::Product(product, _) => Some(product.as_ref()),
        }
    }
}

/// `y = x * w^T` for every weight; those that are stored together.
pub(crate) fn multiply_each<'a>(
    x: &Input<'_>,
    products: impl Iterator<Item = (&'a Weight, ArrayViewMut2<'a, f32>)>,
) {
    let mut stored = Vec::new();
    for (w, y) in products {
        match &w.0 {
            Kind::Stored(w) => stored.push((w, y)),
            Kind::Product(product, _) => product.multiply(x, y),
        }
    }
    matmul_t_each(x.arithmetic, x.rows(), stored);
}
