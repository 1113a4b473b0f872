//! The target `packed_checkpoint` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sw_fuzz::run("packed_checkpoint", bytes);
});
