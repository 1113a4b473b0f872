//! Which instruction set the kernels use.

use std::sync::OnceLock;

use crate::Error;

/// The environment variable that forces a kernel. Read in [`from_env`] only.
const VARIABLE: &str = "SW_ISA";

/// An instruction set that this CPU has: a value of it is the proof, so code that holds one may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 F, BW, DQ and VL, besides what [`Avx2`] has.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Whatever the target guarantees.
    Portable,
}

/// Proof that the CPU has AVX-512 F, BW, DQ, VL, AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that the CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn new() -> Option<Avx512> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        (found && Avx2::new().is_some()).then_some(Avx512(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn new() -> Option<Avx2> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Avx2(()))
    }
}

impl Isa {
    /// Every instruction set of this CPU, best first.
    pub(crate) fn all() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::new().map(Isa::Avx512));
            all.extend(Avx2::new().map(Isa::Avx2));
        }
        all.push(Isa::Portable);
        all
    }

    /// The name that `SW_ISA` knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            Isa::Portable => "scalar",
        }
    }

    /// The one in use, chosen once per process: what `SW_ISA` names if this CPU has it, else the best.
    pub(crate) fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| from_env().unwrap_or(Isa::all()[0]))
    }

    /// Runs `f` compiled for this instruction set. What `f` computes does not change: the compiler neither reorders nor
    /// contracts floating-point operations.
    #[inline]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            // SAFETY: the value `Avx512` exists only where the CPU has these features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => unsafe { run_avx512(f) },
            // SAFETY: the value `Avx2` exists only where the CPU has these features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => unsafe { run_avx2(f) },
            Isa::Portable => f(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// What `SW_ISA` asks for; the best of this CPU where it is not set.
fn from_env() -> Result<Isa, Error> {
    let all = Isa::all();
    let Some(found) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) else {
        return Ok(all[0]);
    };
    let named = all.iter().find(|isa| found == isa.name());
    named.copied().ok_or_else(|| Error::UnknownIsa {
        found: found.to_string_lossy().into_owned(),
        supported: all
            .iter()
            .map(|isa| isa.name())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Name of the instruction set in use: `avx512`, `avx2` or `scalar`. Part of a result's metadata.
pub fn isa_name() -> &'static str {
    Isa::current().name()
}

/// Checks `SW_ISA`. A program calls it once at start; without it, a name that this CPU cannot serve is passed over.
///
/// # Errors
/// [`Error::UnknownIsa`] if the variable names no instruction set of this CPU.
pub fn check_isa() -> Result<(), Error> {
    from_env().map(drop)
}
