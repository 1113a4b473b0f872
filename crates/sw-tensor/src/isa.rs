//! Which instruction set the kernels use.

use std::sync::OnceLock;

/// An instruction set that this CPU has: a value of it is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Whatever the target guarantees.
    Portable,
}

impl Isa {
    /// Every instruction set of this CPU, best first.
    pub(crate) fn all() -> Vec<Isa> {
        vec![Isa::Portable]
    }

    /// The one that `SW_ISA` names, if this CPU has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Isa::Portable => "scalar",
        }
    }

    /// The one in use, chosen once per process.
    pub(crate) fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| Isa::all()[0])
    }
}

/// Name of the instruction set in use: `avx512`, `avx2` or `scalar`. Part of a result's metadata.
pub fn isa_name() -> &'static str {
    Isa::current().name()
}
