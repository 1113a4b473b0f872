//! The target `json` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sw_fuzz::run("json", bytes);
});
