//! What each parser is asked, and what must hold of its answer.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    sync::Arc,
};

use sw_eval::{DataDir, EvalResults, Journal, Key, Runtime, Shard};
use sw_intervene::{Intervention, PackedReader};
use sw_model::{Model, OpenOptions};
use sw_quant::Quantized;
use sw_tensor::Checkpoint;
use tempfile::TempDir;

use crate::seeds::{FAMILIES, copy_golden, golden};

/// A folder of this thread for this name: in memory where the system has that.
fn folder(name: &'static str, prepare: impl FnOnce(&Path)) -> PathBuf {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    let memory = Path::new("/dev/shm");
    let make = || match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let root = FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| make().expect("a temporary folder"));
        folder.path().to_owned()
    });
    let folder = root.join(name);
    if !folder.is_dir() {
        std::fs::create_dir(&folder).expect("a folder");
        prepare(&folder);
    }
    folder
}

fn file(name: &'static str, as_name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder(name, |_| ()).join(as_name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// An error is one line of bounded length.
fn refused(error: &dyn std::fmt::Display) -> bool {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without a word");
    false
}

fn read_all(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let info = checkpoint.info(name).expect("a tensor of this name");
        if let Some(bytes) = checkpoint.bytes(name) {
            assert_eq!(bytes.len(), info.len, "{name}");
        }
    }
}

pub(crate) fn safetensors(bytes: &[u8]) -> bool {
    let path = file("safetensors", "model.safetensors", bytes);
    match Checkpoint::open(path.parent().expect("a folder")) {
        Ok(checkpoint) => {
            read_all(&checkpoint);
            true
        }
        Err(error) => refused(&error),
    }
}

pub(crate) fn index(bytes: &[u8]) -> bool {
    let dir = folder("index", |dir| copy_golden("mixtral", dir));
    std::fs::write(dir.join("model.safetensors.index.json"), bytes).expect("written");
    match Checkpoint::open(&dir) {
        Ok(checkpoint) => {
            read_all(&checkpoint);
            true
        }
        Err(error) => refused(&error),
    }
}

/// Runs a model that could be opened: two tokens, which may be refused, but not panicked on.
fn runs(model: &Model) {
    let _ = model.generate(&[1, 2], 1, &mut ());
    if let Ok(tokenizer) = model.tokenizer() {
        for text in ["Hello  there\n", "", " \u{2603} <s> 123"] {
            if let Ok(ids) = tokenizer.encode(text, true) {
                let _ = tokenizer.decode(&ids);
            }
        }
        let _ = tokenizer.adds_bos();
        let _ = tokenizer.vocab_size();
    }
}

/// The first byte chooses whose weights lie beside the config.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let Some((first, config)) = bytes.split_first() else {
        return false;
    };
    let family = FAMILIES[usize::from(*first) % FAMILIES.len()];
    let dir = folder(family, |dir| copy_golden(family, dir));
    std::fs::write(dir.join("config.json"), config).expect("written");
    match Model::open(&dir) {
        Ok(model) => {
            runs(&model);
            true
        }
        Err(error) => refused(&error),
    }
}

/// `tokenizer.json`, then, after a zero, `tokenizer_config.json`.
pub(crate) fn tokenizer(bytes: &[u8]) -> bool {
    let dir = folder("tokenizer", |dir| copy_golden("llama", dir));
    let mut parts = bytes.splitn(2, |&b| b == 0);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let part = parts.next().unwrap_or(b"{}");
        std::fs::write(dir.join(name), part).expect("written");
    }
    let model = Model::open(&dir).expect("a golden model, whatever its tokenizer is");
    runs(&model);
    match model.tokenizer() {
        Ok(_) => true,
        Err(error) => refused(&error),
    }
}

pub(crate) fn open_gguf(bytes: &[u8]) -> bool {
    let path = file("open_gguf", "model.gguf", bytes);
    match Model::open(&path) {
        Ok(model) => {
            runs(&model);
            true
        }
        Err(error) => refused(&error),
    }
}

/// Rows that can be read are read again alike.
fn rows(path: PathBuf) -> bool {
    match sw_eval::read(std::slice::from_ref(&path)) {
        Ok(docs) => {
            assert!(!docs.is_empty());
            for doc in &docs {
                let _ = doc.text("text");
                let _ = doc.integer("label");
            }
            true
        }
        Err(error) => refused(&error),
    }
}

pub(crate) fn parquet(bytes: &[u8]) -> bool {
    rows(file("rows", "test.parquet", bytes))
}

pub(crate) fn json(bytes: &[u8]) -> bool {
    rows(file("rows", "test.json", bytes))
}

pub(crate) fn json_gz(bytes: &[u8]) -> bool {
    rows(file("rows", "test.json.gz", bytes))
}

/// Packed bytes are refused, or decoded and written back byte for byte.
pub(crate) fn packed(bytes: &[u8]) -> bool {
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
    let last_row = &all[(rows - 1) * cols..];
    assert!(
        row.iter()
            .zip(last_row)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    let blocks = q.view().blocks;
    let last = blocks.count() - 1;
    let mut block = vec![0.0f32; blocks.len_of(last)];
    q.dequantize_block_into(last, &mut block)
        .expect("the last block is there");
    q.dequantize::<half::bf16>();
    q.dequantize::<half::f16>();
    assert!(q.bits_per_weight() >= 2.0);
    true
}

/// A checkpoint as `sw quantize --format packed-sw` writes it.
pub(crate) fn packed_checkpoint(bytes: &[u8]) -> bool {
    let dir = folder("packed_checkpoint", |dir| {
        let written = crate::seeds::packed_folder();
        std::fs::copy(written.path().join("config.json"), dir.join("config.json")).expect("copied");
    });
    std::fs::write(dir.join("model.safetensors"), bytes).expect("written");
    let mut options = OpenOptions::default();
    options.decoder = Some(Arc::new(PackedReader));
    match Model::open_with(&dir, &options) {
        Ok(model) => {
            runs(&model);
            true
        }
        Err(error) => refused(&error),
    }
}

pub(crate) fn plan(bytes: &[u8]) -> bool {
    thread_local! {
        static MODEL: OnceCell<Model> = const { OnceCell::new() };
    }
    let Ok(plan) = serde_json::from_slice::<Vec<Intervention>>(bytes) else {
        return false;
    };
    // Interventions that read a file are not given one.
    if plan.iter().any(|one| one.file().is_some()) {
        return false;
    }
    MODEL.with(|model| {
        let model = model.get_or_init(|| Model::open(golden("llama")).expect("a golden model"));
        match Runtime::new(model, &plan) {
            Ok(runtime) => runtime.rows(&[1, 2]).is_ok(),
            Err(error) => refused(&error),
        }
    })
}

pub(crate) fn journal(bytes: &[u8]) -> bool {
    let path = file("journal", "journal.jsonl", bytes);
    let key = Key {
        config: "0f".into(),
        shard: Shard::default(),
        spans: 100,
    };
    match Journal::open(&path, &key) {
        Ok((journal, found)) => {
            assert!(found.keys().all(|span| *span < key.spans));
            drop(journal);
            let (_, again) = Journal::open(&path, &key).expect("it could be opened");
            assert_eq!(found, again);
            true
        }
        Err(error) => refused(&error),
    }
}

/// Shards that are merged have metrics that can be.
pub(crate) fn results(bytes: &[u8]) -> bool {
    let path = file("results", "shard.json", bytes);
    match sw_eval::merge(&[path]) {
        Ok(results) => {
            accuracies_can_be(&results);
            results.to_json().to_string();
            true
        }
        Err(error) => refused(&error),
    }
}

fn accuracies_can_be(results: &EvalResults) {
    for task in &results.run().tasks {
        for metric in [sw_eval::Metric::Acc, sw_eval::Metric::AccNorm] {
            if let Some(aggregate) = results.get(&task.task, metric) {
                assert!((0.0..=1.0).contains(&aggregate.value), "{}", task.task);
            }
        }
    }
}

pub(crate) fn directory(bytes: &[u8]) -> bool {
    let path = file("directory", "directory.json", bytes);
    match sw_detect::Directory::read(&path) {
        Ok(directory) => {
            directory.of("llama-7b");
            true
        }
        Err(error) => refused(&error),
    }
}

pub(crate) fn coordinates(bytes: &[u8]) -> bool {
    let path = file("coordinates", "weights.json", bytes);
    match sw_detect::coordinates(&path.display().to_string()) {
        Ok(coords) => {
            assert!(coords.is_sorted());
            true
        }
        Err(error) => refused(&error),
    }
}

/// Where the data of a repository's own checkpoint lies.
pub(crate) fn data() -> DataDir {
    DataDir::folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../nano/data"))
}
