//! Running a loop with the widest vector instructions of the host.

/// Runs `f`, compiled for the host's widest instructions and chosen at run time, where the feature `simd` is on. The
/// operations and their order are the same (nothing is fused or reassociated), so the results are too.
#[cfg(feature = "simd")]
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Runs `f`, compiled for the target's baseline. The feature `simd` chooses at run time.
#[cfg(not(feature = "simd"))]
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    f()
}
