//! The target `safetensors` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sw_fuzz::run("safetensors", bytes);
});
