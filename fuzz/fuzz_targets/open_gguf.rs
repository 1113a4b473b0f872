//! A GGUF file from anyone: refused in one line, or a model that encodes a text and runs without a panic.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use sw_model::{Model, Seq};

/// One file for each process.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("sw-fuzz-{}.gguf", std::process::id()))
});

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*FILE, bytes).expect("a writable folder for temporary files");
    let model = match Model::open(&*FILE) {
        Ok(model) => model,
        Err(e) => {
            let line = e.to_string();
            assert!(!line.contains('\n') && line.len() < 2000, "{line}");
            return;
        }
    };
    if let Ok(tokenizer) = model.tokenizer()
        && let Ok(ids) = tokenizer.encode(" Hello there\u{2603} 12", true)
    {
        let _ = tokenizer.decode(&ids);
    }
    if let Ok(rows) = model.forward(&[Seq::from(&[0u32, 1][..])], &mut ()) {
        let _ = model.logits(rows.view());
    }
});
