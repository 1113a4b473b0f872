//! What this machine can do at most, measured in place: the yardstick beside every benchmark.
//!
//! A product can be no faster than its multiply-adds, nor than its weights can be read. Both limits change with the
//! clock and with who else is running, so measure them in the same run, alternating with what they are compared to.

use std::hint::black_box;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;

#[cfg(target_arch = "x86_64")]
use crate::isa::Avx512Bf16;
use crate::isa::Isa;
use crate::sum::sum_by;

/// Billions of f32 operations per second (a multiply-add counts two) on all threads of the current rayon pool: chains
/// of multiply-adds in registers with the best instruction set. Takes about `duration`. Zero where there is no vector
/// kernel to compare with.
pub fn fma_gflops(duration: Duration) -> f64 {
    let isa = Isa::all()[0];
    rate(duration, || burst(isa, 20_000))
}

/// Billions of 8-bit integer operations per second (a multiply-add counts two) on all threads of the current rayon pool:
/// chains of AVX-512 VNNI dot products in registers. Zero where there are none.
pub fn vnni_gops(duration: Duration) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::all()[0].vnni().is_some() {
        return rate(duration, || {
            // SAFETY: the value `Vnni` exists only where the CPU has these features.
            unsafe { x86::chains_vnni(20_000) };
            (20_000 * x86::CHAINS_AVX512 * 64 * 2) as f64
        });
    }
    let _ = duration;
    0.0
}

/// Billions of operations per second (a multiply-add counts two) on all threads of the current rayon pool: chains of dot
/// products of BF16 pairs (AVX-512 BF16) in registers. Zero where there are none.
pub fn bf16_gflops(duration: Duration) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let Isa::Amx(_) | Isa::Avx512(_) = Isa::all()[0]
        && is_x86_feature_detected!("avx512bf16")
    {
        return rate(duration, || {
            // SAFETY: the CPU has AVX-512 BF16, as was just found.
            unsafe { x86::chains_bf16(20_000) };
            (20_000 * x86::CHAINS_AVX512 * 32 * 2) as f64
        });
    }
    let _ = duration;
    0.0
}

/// Whether a dot product of BF16 pairs takes so little time beside a multiply-add, which does half as much, that kernels gain.
#[cfg(target_arch = "x86_64")]
pub(crate) fn bf16_dots_are_fast(_proof: Avx512Bf16) -> bool {
    const STEPS: usize = 10_000;
    const ROUNDS: usize = 7;
    let time = |chains: &dyn Fn()| {
        let start = Instant::now();
        chains();
        start.elapsed()
    };
    let (mut dots, mut adds) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        // SAFETY: `_proof` exists only where the CPU has AVX-512 and AVX-512 BF16.
        dots = dots.min(time(&|| unsafe { x86::chains_bf16(STEPS) }));
        // SAFETY: as above.
        adds = adds.min(time(&|| unsafe { x86::chains_avx512(STEPS) }));
    }
    dots.as_secs_f64() < 1.6 * adds.as_secs_f64()
}

/// What all threads of the current rayon pool do together, in billions per second: `burst` returns how much one call did.
fn rate(duration: Duration, burst: impl Fn() -> f64 + Sync) -> f64 {
    let of_thread = |_: rayon::BroadcastContext<'_>| {
        let (start, mut operations) = (Instant::now(), 0.0);
        while start.elapsed() < duration {
            operations += burst();
        }
        operations / start.elapsed().as_secs_f64() / 1e9
    };
    rayon::broadcast(of_thread).into_iter().sum()
}

/// Bytes of private memory (`RssAnon`: no mapped files) that this process holds now; `None` where the system does not say.
pub fn private_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// How often threads of this process have waited for a page that came from a disk; `None` where the system does not say.
pub fn major_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program comes second, in brackets; it may hold spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(9)?.parse().ok()
}

/// Watches how much private memory this process holds ([`private_bytes`]), from its start until it is asked.
///
/// A thread looks every 10 ms, because Linux keeps no such peak: memory that is held for a shorter time may be missed.
pub struct PrivatePeak {
    stop: mpsc::Sender<()>,
    watch: JoinHandle<Option<u64>>,
}

impl PrivatePeak {
    /// Begins to watch; `None` where the system does not say, or no thread can be started.
    pub fn watch() -> Option<PrivatePeak> {
        const EVERY: Duration = Duration::from_millis(10);
        private_bytes()?;
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            let mut peak = private_bytes();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(private_bytes());
            }
            peak.max(private_bytes())
        };
        let watch = thread::Builder::new().spawn(watch).ok()?;
        Some(PrivatePeak { stop, watch })
    }

    /// The most bytes that were seen; ends the watch.
    pub fn bytes(self) -> Option<u64> {
        drop(self.stop);
        self.watch.join().ok()?
    }
}

/// Billions of bytes per second that all threads of the current rayon pool together read, once through.
pub fn read_gbytes(bytes: &[u8]) -> f64 {
    // Pieces small enough that no thread waits long for another, of whole pages.
    const PIECE: usize = 1 << 22;
    let isa = Isa::current();
    let start = Instant::now();
    bytes.par_chunks(PIECE).for_each(|part| {
        let (_, floats, _) = bytemuck::pod_align_to::<u8, f32>(part);
        black_box(isa.run(|| sum_by(floats, |x| x)));
    });
    bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// `steps` rounds of independent multiply-adds; returns the number of operations.
fn burst(isa: Isa, steps: usize) -> f64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(_) | Isa::Avx512(_) => {
            // SAFETY: the values `Amx` and `Avx512` exist only where the CPU has these features.
            unsafe { x86::chains_avx512(steps) };
            (steps * x86::CHAINS_AVX512 * 16 * 2) as f64
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => {
            // SAFETY: the value `Avx2` exists only where the CPU has these features.
            unsafe { x86::chains_avx2(steps) };
            (steps * x86::CHAINS_AVX2 * 8 * 2) as f64
        }
        Isa::Portable => 0.0,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    // Enough chains to hide the latency of a multiply-add (4 cycles, two per cycle), few enough for the registers.
    pub(super) const CHAINS_AVX512: usize = 24;
    pub(super) const CHAINS_AVX2: usize = 12;

    // Assembly, because a compiler sees through chains that all compute the same.
    macro_rules! chains {
        ($name:ident, $features:literal, $step:literal, $zero:literal, $vector:literal, $factor:literal, [$($sum:literal)*]) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(steps: usize) {
                if steps == 0 {
                    return;
                }
                // SAFETY: touches nothing but the vector registers declared below and its own counter; the function's
                // features include the instructions.
                unsafe {
                    asm!(
                        $(concat!($zero, " ", $vector, $sum, ", ", $vector, $sum, ", ", $vector, $sum),)*
                        concat!($zero, " ", $vector, $factor, ", ", $vector, $factor, ", ", $vector, $factor),
                        "2:",
                        $(concat!($step, " ", $vector, $sum, ", ", $vector, $factor, ", ", $vector, $factor),)*
                        "dec rcx",
                        "jnz 2b",
                        inout("rcx") steps => _,
                        clobber_abi("sysv64"),
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    chains!(chains_avx2, "avx2,fma", "vfmadd231ps", "vxorps", "ymm", "15", ["0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"]);
    chains!(chains_avx512, "avx512f", "vfmadd231ps", "vpxord", "zmm", "31", [
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"
        "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22" "23"
    ]);
    chains!(chains_bf16, "avx512f,avx512bf16", "vdpbf16ps", "vpxord", "zmm", "31", [
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"
        "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22" "23"
    ]);
    chains!(chains_vnni, "avx512f,avx512vnni", "vpdpbusd", "vpxord", "zmm", "31", [
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"
        "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22" "23"
    ]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn limits_are_positive() {
        assert!(super::fma_gflops(Duration::from_millis(1)) >= 0.0);
        assert!(super::vnni_gops(Duration::from_millis(1)) >= 0.0);
        assert!(super::bf16_gflops(Duration::from_millis(1)) >= 0.0);
        assert!(super::read_gbytes(&[1; 1000]) > 0.0);
        assert!(super::private_bytes().is_none_or(|bytes| bytes > 0));
        assert_eq!(super::major_faults().is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn a_peak_that_is_over_was_seen() {
        const SIZE: usize = 64 << 20;
        let Some(peak) = super::PrivatePeak::watch() else {
            return;
        };
        let mut held = vec![0u8; SIZE];
        for page in held.chunks_mut(4096) {
            page[0] = 1;
        }
        std::thread::sleep(Duration::from_millis(200));
        drop(std::hint::black_box(held));
        assert!(peak.bytes().is_some_and(|bytes| bytes >= SIZE as u64));
    }
}
