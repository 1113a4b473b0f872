//! Files from anyone: what `fuzz/fuzz_targets/open_gguf.rs` checks, on the files in `fuzz/regressions/open_gguf` and on
//! damaged ones.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;
use sw_model::{Model, Seq};

use crate::written::Written;

/// The body of the fuzz target: the error, or `None` where the file is a model.
fn open(path: &Path, bytes: &[u8]) -> Option<String> {
    fs::write(path, bytes).unwrap();
    let model = match Model::open(path) {
        Ok(model) => model,
        Err(e) => {
            let line = e.to_string();
            assert!(!line.contains('\n') && line.len() < 2000, "{line}");
            return Some(line);
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
    None
}

/// A tiny Llama with a tokenizer of this kind.
fn with_tokenizer(kind: &str) -> Vec<u8> {
    let tokens = json!(["<unk>", "<s>", "</s>", "\u{2581}", "e", "l", "el", "<0x0A>"]);
    let mut file = Written::tiny_llama(8);
    file.key("tokenizer.ggml.model", &json!(kind));
    file.key("tokenizer.ggml.pre", &json!("default"));
    file.key("tokenizer.ggml.tokens", &tokens);
    file.key(
        "tokenizer.ggml.token_type",
        &json!([2, 3, 3, 1, 1, 1, 1, 6]),
    );
    match kind {
        "gpt2" => file.key("tokenizer.ggml.merges", &json!(["e l"])),
        _ => file.key(
            "tokenizer.ggml.scores",
            &json!([0.5, 0.5, 0.5, -1.5, -2.5, -3.5, -0.5, 0.5]),
        ),
    }
    file.bytes()
}

/// Bytes with a number put in at a place.
fn put(bytes: &[u8], at: usize, number: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Where a text begins; its length stands before it.
fn find(bytes: &[u8], text: &str) -> usize {
    let mut windows = bytes.windows(text.len());
    windows.position(|w| w == text.as_bytes()).unwrap()
}

/// Sound files, and files that lie about one number each.
fn seeds() -> BTreeMap<&'static str, Vec<u8>> {
    let plain = Written::tiny_llama(5).bytes();
    let tensor = "blk.0.attn_q.weight";
    // After a tensor's name: dimensions (u32), sizes (u64 each), type (u32), offset (u64).
    let described = find(&plain, tensor) + tensor.len();
    let string = find(&plain, "general.architecture") - 8;
    let layers = "llama.block_count";
    let mut of_layers = plain.clone();
    let at = find(&plain, layers) + layers.len() + 4;
    of_layers[at..at + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let mut of_type = plain.clone();
    of_type[described + 20..described + 24].copy_from_slice(&777u32.to_le_bytes());
    // No data, or data that nobody measures, for a thousand million rows.
    let rows = put(&plain, described + 12, 1 << 30);
    let of_columns = put(&rows, described + 4, 0);
    let mut of_unread = rows;
    of_unread[described + 20..described + 24].copy_from_slice(&24u32.to_le_bytes());
    let mut of_value = plain.clone();
    of_value[at - 4..at].copy_from_slice(&13u32.to_le_bytes());
    BTreeMap::from([
        ("refused-columns-0", of_columns),
        ("refused-empty", Vec::new()),
        ("refused-keys-2-to-60", put(&plain, 16, 1 << 60)),
        ("refused-layers-2-to-30", of_layers),
        (
            "refused-offset-beyond",
            put(&plain, described + 24, 1 << 40),
        ),
        ("refused-rows-2-to-60", put(&plain, described + 4, 1 << 60)),
        ("refused-string-2-to-40", put(&plain, string, 1 << 40)),
        ("refused-tensors-2-to-60", put(&plain, 8, 1 << 60)),
        ("refused-tensor-type", of_type),
        ("refused-unread-rows-2-to-30", of_unread),
        ("refused-value-type", of_value),
        ("sound-byte-level", with_tokenizer("gpt2")),
        ("sound-plain", plain),
        ("sound-sentencepiece", with_tokenizer("llama")),
    ])
}

#[test]
fn lies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for (name, bytes) in seeds() {
        let line = open(&path, &bytes);
        assert_eq!(
            line.is_none(),
            name.starts_with("sound"),
            "{name}: {line:?}"
        );
        assert!(line.is_none_or(|line| line.contains("m.gguf")), "{name}");
    }
}

/// `SW_WRITE_SEEDS=1 cargo test -p sw-model --test gguf seeds` writes them.
#[test]
fn seeds_of_the_fuzz_target_are_as_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions/open_gguf");
    let writes = std::env::var_os("SW_WRITE_SEEDS").is_some();
    if writes {
        fs::create_dir_all(&folder).unwrap();
    } else if !folder.is_dir() {
        println!(
            "skipped: {} is not there (a crate outside its workspace)",
            folder.display()
        );
        return;
    }
    for (name, bytes) in seeds() {
        let path = folder.join(name);
        if writes {
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    // What the fuzz target has found lies beside them.
    let scratch = tempfile::tempdir().unwrap();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let line = open(&scratch.path().join("m.gguf"), &fs::read(&path).unwrap());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(
            line.is_none(),
            name.starts_with("sound"),
            "{name}: {line:?}"
        );
    }
}

/// Every fifth byte of a file with a tokenizer, changed to values that mean something somewhere: refused, or a model.
#[test]
fn damaged_files_are_refused_or_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for kind in ["gpt2", "llama"] {
        let sound = with_tokenizer(kind);
        for at in (0..sound.len()).step_by(5) {
            for value in [0, 1, 0x20, 0x7f, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = value;
                open(&path, &bytes);
            }
            open(&path, &sound[..at]);
        }
    }
}
