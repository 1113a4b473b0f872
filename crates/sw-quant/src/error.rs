//! What can go wrong, one failure per variant.

/// Why a call was refused. Every message says what was wrong, where, what was expected and found, and what to do.
///
/// No function of this crate panics on bad input; a call that returns an error has changed nothing.
///
/// ```
/// let error = sw_quant::quantize(&[1.0f32, f32::NAN], [1, 2], &sw_quant::Scheme::default(), &[]).unwrap_err();
/// assert_eq!(error.to_string(), "w: value at [0, 1] (index 1) is NaN: expected finite values; find its source or replace it first");
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to work on.
    #[error(
        "{what}: empty, shape [{rows}, {cols}]: expected at least one value; pass a non-empty matrix"
    )]
    Empty {
        /// The argument.
        what: &'static str,
        /// Rows of the shape passed.
        rows: usize,
        /// Columns of the shape passed.
        cols: usize,
    },
    /// A slice does not hold what its shape says.
    #[error(
        "{what}: expected {expected}, found {found} values; pass the shape of the row-major slice"
    )]
    Shape {
        /// The argument.
        what: &'static str,
        /// The shape and how many values it needs.
        expected: String,
        /// Length of the slice.
        found: usize,
    },
    /// An argument lies outside its domain.
    #[error("{name}: expected {expected}, found {found}")]
    Argument {
        /// The argument's name.
        name: &'static str,
        /// Its domain.
        expected: &'static str,
        /// The value passed.
        found: String,
    },
    /// A value is NaN or infinite.
    #[error(
        "{what}: value at [{row}, {col}] (index {index}) is {value}: expected finite values; find its source or replace it first"
    )]
    NotFinite {
        /// The argument.
        what: &'static str,
        /// Row of the first such value.
        row: usize,
        /// Column of the first such value.
        col: usize,
        /// Its place in the slice.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A coordinate lies outside the matrix.
    #[error(
        "{what}[{entry}]: coordinate ({row}, {col}) is outside [{rows}, {cols}]; coordinates count from 0 and are (row, column)"
    )]
    Coordinate {
        /// The list.
        what: &'static str,
        /// The entry of the list.
        entry: usize,
        /// Row asked for.
        row: usize,
        /// Column asked for.
        col: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// Blocks do not divide the tensor, and no short tail was asked for.
    #[error(
        "grouping: blocks of {block} do not divide {size} {what}: choose a divisor, or let the last blocks be shorter (Tail::Short, --short-tail)"
    )]
    Divide {
        /// What is divided: elements, rows or columns.
        what: &'static str,
        /// Block size.
        block: usize,
        /// How many there are to divide.
        size: usize,
    },
    /// The range of a block is not representable in the arithmetic asked for.
    #[error(
        "block {block}: range [{lo}, {hi}] does not fit {arithmetic} arithmetic ({why}); {remedy}"
    )]
    Range {
        /// The block.
        block: usize,
        /// Its lower end, after clipping.
        lo: f32,
        /// Its upper end, after clipping.
        hi: f32,
        /// The arithmetic.
        arithmetic: &'static str,
        /// What overflows.
        why: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Packed bytes do not decode.
    #[error(
        "packed data: {field}: expected {expected}, found {found}; the data is damaged or not in this format"
    )]
    Packed {
        /// The field of the layout, see `docs/formats.md`.
        field: &'static str,
        /// What the layout asks for.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Error {
    pub(crate) fn argument(
        name: &'static str,
        expected: &'static str,
        found: impl std::fmt::Debug,
    ) -> Self {
        Self::Argument {
            name,
            expected,
            found: format!("{found:?}"),
        }
    }

    pub(crate) fn packed(
        field: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Packed {
            field,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// The first value of `w` that is not finite, as an error; `None` when all are.
    pub(crate) fn not_finite<T: crate::Real>(
        what: &'static str,
        w: &[T],
        cols: usize,
    ) -> Option<Self> {
        let index = w.iter().position(|v| !v.to_f32().is_finite())?;
        let (row, col) = (index / cols, index % cols);
        Some(Self::NotFinite {
            what,
            row,
            col,
            index,
            value: w[index].to_f32(),
        })
    }
}

/// The number of values of `shape`, when `len` is that number and not zero.
pub(crate) fn check_shape(
    what: &'static str,
    len: usize,
    [rows, cols]: [usize; 2],
) -> Result<usize, Error> {
    match rows.checked_mul(cols) {
        Some(0) => Err(Error::Empty { what, rows, cols }),
        Some(n) if n == len => Ok(n),
        Some(n) => Err(Error::Shape {
            what,
            expected: format!("[{rows}, {cols}] = {n} values"),
            found: len,
        }),
        None => Err(Error::Shape {
            what,
            expected: format!("[{rows}, {cols}], more than an address holds"),
            found: len,
        }),
    }
}
