//! Which file of a folder is opened, and what a file says that is not known.

use std::{fs, path::Path};

use sw_model::{Model, OpenOptions};
use tempfile::TempDir;

use crate::written::Written;

fn folder_with(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in names.iter().enumerate() {
        fs::write(folder.path().join(name), Written::tiny_llama(5 + i).bytes()).unwrap();
    }
    folder
}

fn options(gguf: &str) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.gguf = Some(gguf.into());
    options
}

fn refusal(path: &Path, options: &OpenOptions) -> String {
    let line = Model::open_with(path, options).err().unwrap().to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn the_only_file_of_a_folder_is_the_model() {
    let folder = folder_with(&["m.gguf", "mmproj-m.gguf"]);
    for path in [folder.path().to_path_buf(), folder.path().join("m.gguf")] {
        let model = Model::open(path).unwrap();
        assert_eq!(model.gguf().unwrap().file, folder.path().join("m.gguf"));
        assert_eq!(model.spec().vocab_size, 5);
    }
}

#[test]
fn of_several_files_one_is_picked_by_its_name() {
    let folder = folder_with(&["a.Q4_K_M.gguf", "b.Q8_0.gguf"]);
    let line = refusal(folder.path(), &OpenOptions::default());
    for word in ["a.Q4_K_M.gguf, b.Q8_0.gguf", "found 2", "--gguf NAME"] {
        assert!(line.contains(word), "{line}\n  lacks {word}");
    }
    for (name, vocab) in [("a.Q4_K_M.gguf", 5), ("b.Q8_0.gguf", 6)] {
        let model = Model::open_with(folder.path(), &options(name)).unwrap();
        assert_eq!(model.spec().vocab_size, vocab);
        assert_eq!(model.source(), folder.path().join(name));
    }
    for name in ["c.gguf", "../b.Q8_0.gguf", ""] {
        let line = refusal(folder.path(), &options(name));
        assert!(line.contains("a.Q4_K_M.gguf"), "{line}");
    }
}

#[test]
fn a_file_beside_safetensors_is_opened_where_it_is_named() {
    let folder = folder_with(&["m.gguf"]);
    fs::write(folder.path().join("model.safetensors"), b"").unwrap();
    let line = refusal(folder.path(), &OpenOptions::default());
    assert!(line.contains("config.json"), "{line}");
    assert!(Model::open_with(folder.path(), &options("m.gguf")).is_ok());
}
