//! Running a loop with the widest vector instructions of the host.

/// Runs `f`, compiled for the host's widest instructions and chosen at run time, where the feature `simd` is on. The
/// operations and their order are the same (nothing is fused or reassociated), so the results are too.
///
/// Only what is inlined into `f` is compiled that way, so `f`, the closures within and all they call are
/// `#[inline(always)]`.
#[cfg(feature = "simd")]
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    struct Inlined<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Inlined<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Inlined(f))
}

/// Runs `f`, compiled for the target's baseline. The feature `simd` chooses at run time.
#[cfg(not(feature = "simd"))]
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    f()
}
