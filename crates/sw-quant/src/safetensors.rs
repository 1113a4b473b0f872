//! Lazy [`safetensors`] views: a tensor is quantized while it is written, so a whole model passes through with one
//! matrix in memory.
//!
//! A view holds a borrowed slice and a scheme. It reads the slice once when it is made, to find everything that can go
//! wrong (writing then cannot fail), and again when the writer asks for its bytes.
//!
//! ```
//! use sw_quant::{Grouping, Levels, Scheme, safetensors::{FakeView, PackedView}};
//! let w: Vec<half::bf16> = (0..64).map(|i| half::bf16::from_f32((i as f32).cos())).collect();
//! let scheme = Scheme::new(Levels::asymmetric(4), Grouping::flat(32));
//! // In the type it came in, for programs that know nothing of codes.
//! let fake = FakeView::new(&w, [4, 16], &scheme, &[])?;
//! let file = safetensors::serialize([("layer.weight", fake)], None)?;
//! // Packed, as one U8 tensor in the layout of `docs/formats.md`.
//! let packed = PackedView::new(&w, [4, 16], &scheme, &[])?;
//! let file = safetensors::serialize([("layer.weight", packed)], None)?;
//! let tensors = safetensors::SafeTensors::deserialize(&file)?;
//! let q = sw_quant::Quantized::from_bytes(tensors.tensor("layer.weight")?.data())?;
//! assert_eq!(q.shape(), [4, 16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;

use ::safetensors::{Dtype as FileDtype, View};

use crate::block_params::{BlockParams, places};
use crate::{Dtype, Error, Real, Scheme, packed, par::PIECE, quantize};

/// A matrix to be written fake-quantized, in the type it came in.
///
/// ```
/// use safetensors::View;
/// let view = sw_quant::safetensors::FakeView::new(&[1.0f32, 2.0], [1, 2], &Default::default(), &[])?;
/// assert_eq!((view.shape(), view.data().len()), ([1, 2].as_slice(), 8));
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FakeView<'a, T> {
    w: &'a [T],
    shape: [usize; 2],
    scheme: Scheme,
    hold: Vec<(usize, usize)>,
}

/// A matrix to be written as packed codes.
///
/// ```
/// use safetensors::View;
/// let view = sw_quant::safetensors::PackedView::new(&[1.0f32, 2.0], [1, 2], &Default::default(), &[])?;
/// assert_eq!(view.data().len(), view.data_len());
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PackedView<'a, T> {
    matrix: FakeView<'a, T>,
    shape: [usize; 1],
}

impl<'a, T: Real> FakeView<'a, T> {
    /// # Errors
    /// Those of [`crate::fake_quantize`].
    ///
    /// ```
    /// assert!(sw_quant::safetensors::FakeView::new(&[f32::NAN], [1, 1], &Default::default(), &[]).is_err());
    /// ```
    pub fn new(
        w: &'a [T],
        shape: [usize; 2],
        scheme: &Scheme,
        hold: &[(usize, usize)],
    ) -> Result<Self, Error> {
        BlockParams::new(w, shape, scheme, &places("hold", hold, shape)?, None)?;
        Ok(Self {
            w,
            shape,
            scheme: *scheme,
            hold: hold.to_vec(),
        })
    }
}

impl<'a, T: Real> PackedView<'a, T> {
    /// # Errors
    /// Those of [`crate::quantize`].
    ///
    /// ```
    /// assert!(sw_quant::safetensors::PackedView::new(&[1.0f32], [1, 1], &Default::default(), &[(0, 1)]).is_err());
    /// ```
    pub fn new(
        w: &'a [T],
        shape: [usize; 2],
        scheme: &Scheme,
        hold: &[(usize, usize)],
    ) -> Result<Self, Error> {
        let len = packed::byte_len(shape, scheme, hold)?;
        Ok(Self {
            matrix: FakeView::new(w, shape, scheme, hold)?,
            shape: [len],
        })
    }
}

/// The checks of `new` cover all that could fail, on the same slice.
const CHECKED: &str = "checked when the view was made";

impl<T: Real> View for FakeView<'_, T> {
    fn dtype(&self) -> FileDtype {
        match T::DTYPE {
            Dtype::F32 => FileDtype::F32,
            Dtype::F16 => FileDtype::F16,
            Dtype::Bf16 => FileDtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let held = places("hold", &self.hold, self.shape).expect(CHECKED);
        let plan = BlockParams::new(self.w, self.shape, &self.scheme, &held, None).expect(CHECKED);
        let mut bytes = Vec::with_capacity(self.data_len());
        let mut held = held.into_iter().peekable();
        for (i, part) in self.w.chunks(PIECE).enumerate() {
            let mut copy = part.to_vec();
            plan.fake(i * PIECE, &mut copy);
            while let Some(p) = held.next_if(|&p| p < i * PIECE + part.len()) {
                copy[p - i * PIECE] = self.w[p];
            }
            T::write_le(&copy, &mut bytes);
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.w)
    }
}

impl<T: Real> View for PackedView<'_, T> {
    fn dtype(&self) -> FileDtype {
        FileDtype::U8
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let FakeView {
            w,
            shape,
            scheme,
            hold,
        } = &self.matrix;
        quantize(w, *shape, scheme, hold)
            .expect(CHECKED)
            .to_bytes()
            .into()
    }

    fn data_len(&self) -> usize {
        self.shape[0]
    }
}
