//! Which instruction set the kernels use.

use std::sync::OnceLock;

use crate::{Error, Precision};

/// The environment variable that forces a kernel. Read in [`from_env`] only.
const VARIABLE: &str = "SW_ISA";

/// An instruction set that this CPU has: a value of it is the proof, so code that holds one may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Tiles of BF16 with f32 sums, besides what [`Avx512`] has.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// AVX-512 F, BW, DQ and VL, besides what [`Avx2`] has.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Whatever the target guarantees.
    Portable,
}

/// Proof that the CPU has AMX with BF16, that the system lets this process use it, and of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(Avx512);

/// Proof that the CPU has AVX-512 F, BW, DQ, VL, AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that the CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    fn new() -> Option<Amx> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let avx512 = Avx512::new()?;
        USABLE.get_or_init(amx::usable).then_some(Amx(avx512))
    }

    /// What is below it.
    pub(crate) fn avx512(self) -> Avx512 {
        self.0
    }

    /// Whether its tiles multiply 8-bit integers too.
    pub(crate) fn multiplies_bytes(self) -> bool {
        static FOUND: OnceLock<bool> = OnceLock::new();
        *FOUND.get_or_init(amx::has_bytes)
    }
}

/// Proof that the CPU has dot products of BF16 pairs (AVX-512 BF16), besides what [`Avx512`] has.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Bf16(Avx512);

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// Whether or not they are fast.
    pub(crate) fn of_cpu(avx512: Avx512) -> Option<Avx512Bf16> {
        is_x86_feature_detected!("avx512bf16").then_some(Avx512Bf16(avx512))
    }

    /// Where they are faster than multiply-adds, which some processors run twice as fast and others at half the speed:
    /// measured once per process, in about two milliseconds.
    pub(crate) fn if_fast(avx512: Avx512) -> Option<Avx512Bf16> {
        static FAST: OnceLock<bool> = OnceLock::new();
        let found = Avx512Bf16::of_cpu(avx512)?;
        let is_fast = *FAST.get_or_init(|| crate::machine::bf16_dots_are_fast(found));
        is_fast.then_some(found)
    }

    /// What is below it.
    pub(crate) fn avx512(self) -> Avx512 {
        self.0
    }
}

/// Proof that the CPU has AVX-512 VNNI, besides what [`Avx512`] has.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vnni(());

#[cfg(target_arch = "x86_64")]
impl Vnni {
    pub(crate) fn new(_: Avx512) -> Option<Vnni> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(()))
    }
}

/// Finding AMX: the standard library does not detect it in stable Rust, and Linux grants its registers on request.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Whether the CPU has BF16 tiles of 16 rows of 64 bytes, and the system saves and grants them.
    pub(super) fn usable() -> bool {
        has_tiles() && state_is_saved() && granted()
    }

    fn has_tiles() -> bool {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const PALETTES: u32 = 0x1d;
        if __cpuid(0).eax < PALETTES {
            return false;
        }
        let palette = __cpuid_count(PALETTES, 1);
        let [row_bytes, names, rows] = [
            palette.ebx & 0xffff,
            palette.ebx >> 16,
            palette.ecx & 0xffff,
        ];
        __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
            && (row_bytes, rows) == (64, 16)
            && names >= 8
    }

    /// Whether tiles hold 8-bit integers too.
    pub(super) fn has_bytes() -> bool {
        const INT8: u32 = 1 << 25;
        __cpuid_count(7, 0).edx & INT8 != 0
    }

    /// Whether the system switches the tiles' configuration and data with the threads.
    fn state_is_saved() -> bool {
        const OSXSAVE: u32 = 1 << 27;
        const TILES: u32 = 0b11 << 17;
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        let low: u32;
        // SAFETY: XGETBV exists where OSXSAVE is set; register 0 always does. Nothing but these registers changes.
        unsafe {
            std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack));
        }
        low & TILES == TILES
    }

    /// Asks Linux for the tile data, for this process and once and for all.
    #[cfg(target_os = "linux")]
    fn granted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: this system call reads and writes no memory of the process; `syscall` changes rax, rcx and r11 only.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn granted() -> bool {
        false
    }
}

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
            all.extend(Amx::new().map(Isa::Amx));
            all.extend(Avx512::new().map(Isa::Avx512));
            all.extend(Avx2::new().map(Isa::Avx2));
        }
        all.push(Isa::Portable);
        all
    }

    /// The proof of AVX-512, if this instruction set includes it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512(self) -> Option<Avx512> {
        match self {
            Isa::Amx(proof) => Some(proof.avx512()),
            Isa::Avx512(proof) => Some(proof),
            Isa::Avx2(_) | Isa::Portable => None,
        }
    }

    /// The integer dot products that go with it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn vnni(self) -> Option<Vnni> {
        self.avx512().and_then(Vnni::new)
    }

    /// The name that `SW_ISA` knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) => "amx",
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

    /// Runs `work` compiled for this instruction set. What it computes does not change: the compiler neither reorders nor
    /// contracts floating-point operations.
    #[inline]
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            // SAFETY: the values `Amx` and `Avx512` exist only where the CPU has these features.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) | Isa::Avx512(_) => unsafe { run_avx512(work) },
            // SAFETY: the value `Avx2` exists only where the CPU has these features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => unsafe { run_avx2(work) },
            Isa::Portable => work.work(),
        }
    }
}

/// What [`Isa::run`] compiles for an instruction set. A short closure will do; the compiler does not take a long one along,
/// which must be a value whose `work` is `#[inline(always)]`.
pub(crate) trait Work {
    type Output;

    fn work(self) -> Self::Output;
}

impl<R, F: FnOnce() -> R> Work for F {
    type Output = R;

    #[inline(always)]
    fn work(self) -> R {
        self()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<W: Work>(work: W) -> W::Output {
    work.work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<W: Work>(work: W) -> W::Output {
    work.work()
}

/// Whether the processor is AMD's of family 26 or later, a Zen 5. It is the fastest with other ways of reading memory than a
/// Zen 4, and no feature tells them apart; what is computed is the same.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_zen5() -> bool {
    use std::arch::x86_64::__cpuid;
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let vendor = __cpuid(0);
        let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        // Where the first field of the family is full, another one is added to it.
        let version = __cpuid(1).eax;
        let family = match version >> 8 & 0xf {
            0xf => 0xf + (version >> 20 & 0xff),
            family => family,
        };
        vendor.as_flattened() == b"AuthenticAMD" && family >= 26
    })
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

/// Name of the instruction set in use: `amx`, `avx512`, `avx2` or `scalar`. Part of a result's metadata.
pub fn isa_name() -> &'static str {
    Isa::current().name()
}

/// Name of the kernel that multiplies in a precision: `avx512_bf16` where dot products of BF16 pairs do, else that of the
/// [instruction set](isa_name). Results of different kernels differ in their last bits.
pub fn kernel_name(precision: Precision) -> &'static str {
    let isa = Isa::current();
    match (precision, isa) {
        #[cfg(target_arch = "x86_64")]
        (Precision::Bfloat16, Isa::Avx512(proof)) if Avx512Bf16::if_fast(proof).is_some() => {
            "avx512_bf16"
        }
        _ => isa.name(),
    }
}

/// Checks `SW_ISA`. A program calls it once at start; without it, a name that this CPU cannot serve is passed over.
///
/// # Errors
/// [`Error::UnknownIsa`] if the variable names no instruction set of this CPU.
pub fn check_isa() -> Result<(), Error> {
    from_env().map(drop)
}
