//! One matrix, from the stored bytes of the original to those of the export.

use std::borrow::Cow;

use bytemuck::Pod;
use half::{bf16, f16};
use sw_quant::{
    Clip, Error, Quantized, Real, Report, Scheme, fake_quantize, fake_quantize_weighted, quantize,
    quantize_weighted, search,
};
use sw_tensor::Dtype;

use super::{Outcome, plan::Job};

/// Evaluates an expression with the type of the stored elements.
macro_rules! typed {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $t = f32;
                $body
            }
            Dtype::F16 => {
                type $t = f16;
                $body
            }
            Dtype::BF16 => {
                type $t = bf16;
                $body
            }
        }
    };
}
pub(super) use typed;

impl Job {
    /// The values `[output, input]`: the mapped bytes themselves, where they are aligned and in that order.
    fn values<'a, T: Pod>(&self, bytes: &'a [u8]) -> Cow<'a, [T]> {
        let stored = match bytemuck::try_cast_slice(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => {
                let values = bytes.chunks_exact(size_of::<T>());
                Cow::Owned(values.map(bytemuck::pod_read_unaligned).collect())
            }
        };
        if self.transposed {
            transposed(&stored, [self.shape[1], self.shape[0]]).into()
        } else {
            stored
        }
    }

    /// The scheme for these values, and the z that was searched for it.
    fn scheme<T: Real>(&self, w: &[T]) -> Result<(Scheme, Outcome), Error> {
        let scheme = self.rule.scheme;
        if !self.rule.search {
            return Ok((scheme, Outcome::default()));
        }
        let found = search::weight_error(w, self.shape, &scheme, &self.held, &search::ZS)?;
        // Clipping that does not pay is none.
        let z = (found.error < found.baseline).then_some(found.best);
        let clip = z.map_or(Clip::None, |z| Clip::ZScore { z });
        Ok((scheme.with_clip(clip), Outcome { z, clipped: None }))
    }

    /// Replaces values `[output, input]` by those that their codes stand for.
    pub(crate) fn fake_values<T: Real>(
        &self,
        w: &mut [T],
        scheme: &Scheme,
    ) -> Result<Report, Error> {
        match &self.importance {
            Some(importance) => {
                fake_quantize_weighted(w, self.shape, scheme, &self.held, importance)
            }
            None => fake_quantize(w, self.shape, scheme, &self.held),
        }
    }

    /// The values that codes stand for, in the type and order of the original.
    pub(super) fn fake(&self, bytes: &[u8]) -> Result<(Vec<u8>, Outcome), Error> {
        typed!(self.dtype, T => self.fake_as::<T>(bytes))
    }

    fn fake_as<T: Real + Pod>(&self, bytes: &[u8]) -> Result<(Vec<u8>, Outcome), Error> {
        let (scheme, mut outcome) = self.scheme(&self.values::<T>(bytes))?;
        let mut quantize = |w: &mut [T]| -> Result<(), Error> {
            outcome.clipped = Some(self.fake_values(w, &scheme)?.clipped);
            Ok(())
        };
        let mut out = bytes.to_vec();
        match bytemuck::try_cast_slice_mut::<u8, T>(&mut out) {
            Ok(w) if !self.transposed => quantize(w)?,
            _ => {
                let mut w = self.values::<T>(bytes).into_owned();
                quantize(&mut w)?;
                if self.transposed {
                    w = transposed(&w, self.shape);
                }
                out.copy_from_slice(bytemuck::cast_slice(&w));
            }
        }
        Ok((out, outcome))
    }

    /// Codes, with scales in `f32`, or in the original's type where the format stores them so.
    pub(super) fn codes(
        &self,
        bytes: &[u8],
        own_scales: bool,
    ) -> Result<(Quantized, Outcome), Error> {
        typed!(self.dtype, T => {
            let w = self.values::<T>(bytes);
            let (scheme, outcome) = self.scheme(&w)?;
            let q = match &self.importance {
                Some(importance) => quantize_weighted(&w, self.shape, &scheme, &self.held, importance)?,
                None => quantize(&w, self.shape, &scheme, &self.held)?,
            };
            let q = if own_scales { q.with_scales::<T, T>(&w)? } else { q };
            Ok((q, outcome))
        })
    }

    /// The stored bytes of the held values.
    pub(super) fn held_values(&self, bytes: &[u8]) -> Vec<u8> {
        let ([rows, cols], size) = (self.shape, self.dtype.size());
        let place = |&(row, col): &(usize, usize)| {
            let at = if self.transposed {
                col * rows + row
            } else {
                row * cols + col
            };
            bytes[at * size..(at + 1) * size].iter().copied()
        };
        self.held.iter().flat_map(place).collect()
    }
}

/// A row-major matrix of this shape, by columns.
fn transposed<T: Copy>(w: &[T], [rows, cols]: [usize; 2]) -> Vec<T> {
    (0..cols)
        .flat_map(|c| (0..rows).map(move |r| w[r * cols + c]))
        .collect()
}
