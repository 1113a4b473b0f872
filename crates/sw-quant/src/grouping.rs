//! Which values share a scale.

use std::ops::Range;

use crate::Error;

/// What happens when blocks do not divide the tensor. (The paper's released code silently quantizes the whole tensor as
/// one block then; nothing here is silent.)
///
/// ```
/// use sw_quant::{Grouping, Tail};
/// let error = Grouping::flat(4).blocks([1, 6]).unwrap_err().to_string();
/// assert!(error.starts_with("grouping: blocks of 4 do not divide 6 elements"));
/// assert_eq!(Grouping::flat(4).with_tail(Tail::Short).blocks([1, 6]).unwrap().len_of(1), 2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Tail {
    /// It is an error.
    #[default]
    Error,
    /// The last blocks are shorter.
    Short,
}

/// How a row-major `[rows, cols]` matrix is cut into blocks that share a scale.
///
/// ```
/// use sw_quant::{Grouping, Tail};
/// // The paper's "128x128 block" is 16,384 consecutive elements, not a tile.
/// let paper = Grouping::flat(128 * 128);
/// assert_eq!(paper.blocks([4096, 11008])?.count(), 2752);
/// // Groups that stay inside their row are tiles of one row.
/// assert_eq!(Grouping::tile(1, 128).blocks([2, 256])?.count(), 4);
/// // 7 columns and groups of 4: refused, or two groups of 4 and 3 values.
/// assert!(Grouping::tile(1, 4).blocks([1, 7]).is_err());
/// assert_eq!(Grouping::tile(1, 4).with_tail(Tail::Short).blocks([1, 7])?.len_of(1), 3);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Grouping {
    /// One block.
    Tensor,
    /// One block per row: an output channel of a weight, a token of an activation.
    #[default]
    Row,
    /// Blocks of consecutive elements of the row-major slice, across row ends: the released code's blocks.
    Flat {
        /// Elements of a block.
        len: usize,
        /// What to do with a remainder.
        #[cfg_attr(feature = "serde", serde(default))]
        tail: Tail,
    },
    /// Rectangles.
    Tile {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        cols: usize,
        /// What to do with a remainder, in either direction.
        #[cfg_attr(feature = "serde", serde(default))]
        tail: Tail,
    },
}

impl Grouping {
    /// `len` consecutive elements; a remainder is an error.
    ///
    /// ```
    /// assert!(sw_quant::Grouping::flat(3).blocks([2, 2]).is_err());
    /// ```
    pub const fn flat(len: usize) -> Self {
        Self::Flat {
            len,
            tail: Tail::Error,
        }
    }

    /// Rectangles of `rows` by `cols`; a remainder is an error.
    ///
    /// ```
    /// assert_eq!(sw_quant::Grouping::tile(2, 2).blocks([4, 6]).unwrap().count(), 6);
    /// ```
    pub const fn tile(rows: usize, cols: usize) -> Self {
        Self::Tile {
            rows,
            cols,
            tail: Tail::Error,
        }
    }

    /// This grouping with another rule for remainders.
    ///
    /// ```
    /// use sw_quant::{Grouping, Tail};
    /// assert_eq!(Grouping::flat(3).with_tail(Tail::Short).blocks([2, 2]).unwrap().count(), 2);
    /// ```
    #[must_use]
    pub const fn with_tail(self, rule: Tail) -> Self {
        match self {
            Self::Flat { len, .. } => Self::Flat { len, tail: rule },
            Self::Tile { rows, cols, .. } => Self::Tile {
                rows,
                cols,
                tail: rule,
            },
            whole => whole,
        }
    }

    /// The blocks of a matrix of this shape.
    ///
    /// # Errors
    /// An empty shape, a block of zero elements, a remainder under [`Tail::Error`].
    ///
    /// ```
    /// assert_eq!(sw_quant::Grouping::Row.blocks([3, 5]).unwrap().count(), 3);
    /// ```
    pub fn blocks(&self, shape: [usize; 2]) -> Result<Blocks, Error> {
        let [rows, cols] = shape;
        let total = rows.saturating_mul(cols);
        crate::error::check_shape("shape", total, shape)?;
        let divides = |what, size: usize, block: usize, tail| match block {
            0 => Err(Error::argument(
                "grouping",
                "blocks of at least one element",
                self,
            )),
            _ if tail == Tail::Error && !size.is_multiple_of(block) => {
                Err(Error::Divide { what, block, size })
            }
            _ => Ok(()),
        };
        let cut = match *self {
            Self::Tensor => Cut::Flat { len: total },
            Self::Row => Cut::Flat { len: cols },
            Self::Flat { len, tail } => {
                divides("elements", total, len, tail)?;
                Cut::Flat {
                    len: len.min(total),
                }
            }
            Self::Tile {
                rows: r,
                cols: c,
                tail,
            } => {
                divides("rows", rows, r, tail)?;
                divides("columns", cols, c, tail)?;
                Cut::Tile {
                    rows: r.min(rows),
                    cols: c.min(cols),
                }
            }
        };
        Ok(Blocks { rows, cols, cut })
    }
}

/// The blocks of one matrix, numbered in row-major order of their first element.
///
/// ```
/// let blocks = sw_quant::Grouping::tile(2, 3).blocks([4, 6])?;
/// assert_eq!(blocks.of(3, 1), 2);
/// assert_eq!(blocks.segments(1).collect::<Vec<_>>(), [3..6, 9..12]);
/// # Ok::<(), sw_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    rows: usize,
    cols: usize,
    cut: Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Flat { len: usize },
    Tile { rows: usize, cols: usize },
}

impl Blocks {
    /// How many there are.
    ///
    /// ```
    /// assert_eq!(sw_quant::Grouping::Tensor.blocks([3, 5]).unwrap().count(), 1);
    /// ```
    pub const fn count(&self) -> usize {
        match self.cut {
            Cut::Flat { len } => (self.rows * self.cols).div_ceil(len),
            Cut::Tile { rows, cols } => self.rows.div_ceil(rows) * self.cols.div_ceil(cols),
        }
    }

    /// The block that element `(row, col)` belongs to.
    ///
    /// ```
    /// assert_eq!(sw_quant::Grouping::flat(4).blocks([2, 6]).unwrap().of(1, 1), 1);
    /// ```
    pub const fn of(&self, row: usize, col: usize) -> usize {
        match self.cut {
            Cut::Flat { len } => (row * self.cols + col) / len,
            Cut::Tile { rows, cols } => row / rows * self.cols.div_ceil(cols) + col / cols,
        }
    }

    /// The places of a block in the row-major slice, in order: one range, or one per row of a tile. None for a block
    /// that is not there.
    ///
    /// ```
    /// let mut segments = sw_quant::Grouping::Row.blocks([2, 4]).unwrap().segments(1);
    /// assert_eq!((segments.next(), segments.next()), (Some(4..8), None));
    /// ```
    #[inline]
    pub fn segments(
        &self,
        block: usize,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + use<> {
        let (first, width, repeat) = if block >= self.count() {
            (0, 0, 0)
        } else {
            match self.cut {
                Cut::Flat { len } => (block * len, len.min(self.rows * self.cols - block * len), 1),
                Cut::Tile { rows, cols } => {
                    let across = self.cols.div_ceil(cols);
                    let (row, col) = (block / across * rows, block % across * cols);
                    (
                        row * self.cols + col,
                        cols.min(self.cols - col),
                        rows.min(self.rows - row),
                    )
                }
            }
        };
        let stride = self.cols;
        (0..repeat).map(move |r| first + r * stride..first + r * stride + width)
    }

    /// Elements of a block.
    ///
    /// ```
    /// assert_eq!(sw_quant::Grouping::tile(2, 3).blocks([4, 6]).unwrap().len_of(0), 6);
    /// ```
    pub fn len_of(&self, block: usize) -> usize {
        self.segments(block).map(|s| s.len()).sum()
    }

    /// The elements and blocks of pieces that hold whole blocks and end on whole bytes of codes, about `about` elements
    /// long; `None` where they would be much longer.
    pub(crate) fn pieces(&self, about: usize) -> Option<(usize, usize)> {
        let (len, blocks) = match self.cut {
            Cut::Flat { len } => (len, 1),
            Cut::Tile { rows, cols } => (rows * self.cols, self.cols.div_ceil(cols)),
        };
        let to_bytes = 8 >> len.trailing_zeros().min(3);
        let len = len.checked_mul(to_bytes).filter(|&len| len <= 2 * about)?;
        let times = (about / len).max(1);
        Some((len * times, blocks * to_bytes * times))
    }

    /// Calls `f(block, range)` for the longest runs of `range` that lie in one block, in order.
    #[inline(always)]
    pub(crate) fn runs(&self, range: Range<usize>, mut f: impl FnMut(usize, Range<usize>)) {
        // A run ends with its block's row, and every `stride`-th block starts a row.
        let (width, stride) = match self.cut {
            Cut::Flat { len } => (len, usize::MAX),
            Cut::Tile { cols, .. } => (cols, self.cols),
        };
        let mut at = range.start;
        while at < range.end {
            // One division per row of blocks, not one per block.
            let (row_start, mut block, row_end) = match self.cut {
                Cut::Flat { len } => (0, at / len, range.end),
                Cut::Tile { .. } => {
                    let row = at / stride;
                    (
                        row * stride,
                        self.of(row, at % stride),
                        range.end.min((row + 1) * stride),
                    )
                }
            };
            let mut end = row_start + ((at - row_start) / width + 1) * width;
            while at < row_end {
                f(block, at..end.min(row_end));
                at = end.min(row_end);
                (block, end) = (block + 1, end + width);
            }
        }
    }
}
