//! Replays the packed data in `fuzz/regressions` through what the fuzz target checks.

use std::path::Path;

use half::{bf16, f16};
use sw_quant::{
    Arithmetic, Clip, Grouping, Levels, Quantized, Scheme, Steps, Tail, ZeroPoint, quantize,
};

/// The body of `fuzz/fuzz_targets/dequantize_packed.rs`; whether the bytes were accepted.
fn decode(bytes: &[u8]) -> bool {
    let Ok(q) = Quantized::from_bytes(bytes) else {
        return false;
    };
    assert_eq!(q.to_bytes(), bytes);
    let [rows, cols] = q.shape();
    let all = q.dequantize::<f32>();
    assert_eq!(all.len(), rows * cols);
    let mut row = vec![0.0f32; cols];
    q.dequantize_row_into(rows - 1, &mut row)
        .expect("the last row is there");
    assert!(
        row.iter()
            .zip(&all[(rows - 1) * cols..])
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    let blocks = q.view().blocks;
    let last = blocks.count() - 1;
    q.dequantize_block_into(last, &mut vec![0.0f32; blocks.len_of(last)])
        .expect("the last block is there");
    q.dequantize::<bf16>();
    q.dequantize::<f16>();
    true
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn regressions_are_decoded_or_refused() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions/dequantize_packed");
    if !folder.is_dir() {
        println!(
            "skipped: {} is not there (a crate outside its workspace)",
            folder.display()
        );
        return;
    }
    let mut accepted = 0;
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        let sound = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("sound"));
        assert_eq!(decode(&bytes), sound, "{}", path.display());
        accepted += usize::from(sound);
    }
    assert!(accepted > 0, "the folder holds sound data too");
}

/// One small matrix in every kind of levels, grouping and arithmetic, by name: the fuzz target's seeds.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let w = [-1.0f32, -0.5, 0.0, 0.25, 0.75, 3.0, -0.125, 0.5, 0.1, -0.2];
    let asymmetric = |bits, steps, zero| Levels::Asymmetric { bits, steps, zero };
    let cases = [
        (
            "float-zero",
            Scheme::new(Levels::asymmetric(4), Grouping::Tensor),
        ),
        (
            "paper-printed",
            Scheme::new(
                asymmetric(3, Steps::PaperPrinted, ZeroPoint::Float),
                Grouping::Row,
            ),
        ),
        (
            "integer-zero",
            Scheme::new(
                asymmetric(5, Steps::Full, ZeroPoint::Integer),
                Grouping::flat(5),
            ),
        ),
        (
            "symmetric",
            Scheme::new(
                Levels::symmetric(8),
                Grouping::flat(4).with_tail(Tail::Short),
            ),
        ),
        (
            "nf4",
            Scheme::new(Levels::Nf4, Grouping::tile(1, 5)).with_clip(Clip::ZScore { z: 1.0 }),
        ),
        (
            "nf3",
            Scheme::new(Levels::Nf3, Grouping::tile(2, 3).with_tail(Tail::Short)),
        ),
        (
            "release",
            Scheme {
                arithmetic: Arithmetic::ReleaseF16,
                ..Scheme::new(Levels::asymmetric(7), Grouping::Row)
            },
        ),
    ];
    let packed = |scheme| {
        quantize(&w, [2, 5], &scheme, &[(1, 0), (0, 2)])
            .expect("a sound case")
            .to_bytes()
    };
    cases
        .into_iter()
        .map(|(name, scheme)| (format!("sound-{name}"), packed(scheme)))
        .collect()
}

/// `SW_WRITE_SEEDS=1 cargo test -p sw-quant --test regressions` writes them after a change of the layout.
#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn seeds_are_as_committed() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions/dequantize_packed");
    for (name, bytes) in seeds() {
        let path = folder.join(name);
        if std::env::var_os("SW_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &bytes).expect("a writable folder");
        }
        match std::fs::read(&path) {
            Ok(committed) => assert!(
                committed == bytes,
                "{} differs: the layout changed",
                path.display()
            ),
            Err(_) => println!("skipped: {} is not there", path.display()),
        }
    }
}

/// Every single-byte change of every seed: refused, or decoded and written back.
#[test]
fn single_byte_damage() {
    for (_, bytes) in seeds() {
        let step = if cfg!(miri) { 29 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            for value in [0, 1, 2, 7, 9, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                decode(&bytes);
            }
        }
        (0..bytes.len())
            .step_by(step)
            .for_each(|len| assert!(!decode(&bytes[..len])));
    }
}

/// Sizes that would overflow an address or ask for all memory.
#[test]
fn huge_sizes_are_refused() {
    let (_, bytes) = seeds().remove(0);
    for (at, word) in [
        (16, u64::MAX),
        (24, u64::MAX),
        (16, 1 << 40),
        (48, u64::MAX),
        (48, u64::MAX / 8),
        (48, 1 << 50),
    ] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        assert!(!decode(&bytes));
    }
}
