//! The tensor types of GGUF: how many weights a block holds, and in how many bytes.

use std::fmt;

/// How the weights of a tensor in a GGUF file are coded: as numbers, or as blocks of small integers with scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // the names that everybody knows them by
pub enum Coding {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for 16, in blocks of 256.
    Q2_K,
    /// 3 bits, 6-bit scales for 16, in blocks of 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima for 32, in blocks of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima for 32, in blocks of 256.
    Q5_K,
    /// 6 bits, 8-bit scales for 16, in blocks of 256.
    Q6_K,
    /// 4 bits that choose one of 16 uneven levels, a scale for 32.
    IQ4_NL,
    /// 4 bits that choose one of 16 uneven levels, 6-bit scales for 32, in blocks of 256.
    IQ4_XS,
}

/// Numbers that the format gives to its types: those that are read, and the names of the others.
const IDS: [(u32, Result<Coding, &str>); 35] = {
    use Coding::*;
    [
        (0, Ok(F32)),
        (1, Ok(F16)),
        (2, Ok(Q4_0)),
        (3, Ok(Q4_1)),
        (6, Ok(Q5_0)),
        (7, Ok(Q5_1)),
        (8, Ok(Q8_0)),
        (9, Err("Q8_1")),
        (10, Ok(Q2_K)),
        (11, Ok(Q3_K)),
        (12, Ok(Q4_K)),
        (13, Ok(Q5_K)),
        (14, Ok(Q6_K)),
        (15, Err("Q8_K")),
        (16, Err("IQ2_XXS")),
        (17, Err("IQ2_XS")),
        (18, Err("IQ3_XXS")),
        (19, Err("IQ1_S")),
        (20, Ok(IQ4_NL)),
        (21, Err("IQ3_S")),
        (22, Err("IQ2_S")),
        (23, Ok(IQ4_XS)),
        (24, Err("I8")),
        (25, Err("I16")),
        (26, Err("I32")),
        (27, Err("I64")),
        (28, Err("F64")),
        (29, Err("IQ1_M")),
        (30, Ok(BF16)),
        (34, Err("TQ1_0")),
        (35, Err("TQ2_0")),
        (39, Err("MXFP4")),
        (40, Err("NVFP4")),
        (41, Err("Q1_0")),
        (42, Err("Q2_0")),
    ]
};

impl Coding {
    /// Every type that is read.
    pub fn all() -> impl Iterator<Item = Coding> {
        IDS.iter().filter_map(|(_, coding)| coding.ok())
    }

    /// The type of a number: `None` where the format has no such number, the name where it is one that is not read.
    pub(super) fn from_id(id: u32) -> Option<Result<Coding, String>> {
        let (_, coding) = IDS.iter().find(|(known, _)| *known == id)?;
        Some(coding.map_err(str::to_owned))
    }

    /// Weights of a block; they are neighbours in a row.
    pub fn block_len(self) -> usize {
        match self {
            Coding::F32 | Coding::F16 | Coding::BF16 => 1,
            Coding::Q4_0 | Coding::Q4_1 | Coding::Q5_0 | Coding::Q5_1 => 32,
            Coding::Q8_0 | Coding::IQ4_NL => 32,
            Coding::Q2_K | Coding::Q3_K | Coding::Q4_K => 256,
            Coding::Q5_K | Coding::Q6_K | Coding::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Coding::F32 => 4,
            Coding::F16 | Coding::BF16 => 2,
            Coding::Q4_0 | Coding::IQ4_NL => 18,
            Coding::Q4_1 => 20,
            Coding::Q5_0 => 22,
            Coding::Q5_1 => 24,
            Coding::Q8_0 => 34,
            Coding::Q2_K => 84,
            Coding::Q3_K => 110,
            Coding::Q4_K => 144,
            Coding::Q5_K => 176,
            Coding::Q6_K => 210,
            Coding::IQ4_XS => 136,
        }
    }

    /// Bytes of a row of whole blocks; `None` where `cols` are not whole blocks, or beyond all memory.
    pub(crate) fn row_bytes(self, cols: usize) -> Option<usize> {
        let blocks = cols / self.block_len();
        let is_whole = cols.is_multiple_of(self.block_len());
        blocks.checked_mul(self.block_bytes()).filter(|_| is_whole)
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
