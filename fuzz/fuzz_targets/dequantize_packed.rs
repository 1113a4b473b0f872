//! The target `dequantize_packed` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sw_fuzz::run("dequantize_packed", bytes);
});
