use std::{fs, io::Write};

use super::*;

/// The shared data folder, where there is one.
fn shared() -> Option<PathBuf> {
    let dir = std::env::var_os("SW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let found = dir.join("data").is_dir();
    if !found {
        println!("skipped: no shared data in {}", dir.display());
    }
    found.then(|| dir.join("data"))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn splits_are_found_as_repositories_lay_them_out() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("org/name");
    for file in [
        "main/test-00000-of-00001.parquet",
        "main/train-00001-of-00002.parquet",
        "main/train-00000-of-00002.parquet",
        "main/README.md",
    ] {
        let path = repository.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let data = DataDir::folder(dir.path());
    let files = data.files(&Dataset::new("org/name", Some("main"))).unwrap();
    let names = |s| {
        files[&s]
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(files.len(), 2);
    assert_eq!(
        names(Split::Train),
        [
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet"
        ]
    );
    assert_eq!(names(Split::Test), ["test-00000-of-00001.parquet"]);
    assert!(
        data.files(&Dataset::new("org/other", None))
            .unwrap()
            .is_empty()
    );
    let missing = data.missing(&Dataset::new("org/other", None));
    assert!(
        missing.contains("hf download --repo-type dataset org/other --local-dir"),
        "{missing}"
    );
}

#[test]
fn json_lines_plain_and_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"text\": \"a\", \"n\": 1}\n\n{\"text\": \"b\"}\n";
    for (name, bytes) in [
        ("x.jsonl", text.as_bytes().to_vec()),
        ("x.json.gz", gzip(text)),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let docs = read(&[path]).unwrap();
        assert_eq!(
            docs.iter()
                .map(|d| d.text("text").unwrap())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(docs[0].integer("n").unwrap(), 1);
    }
}

/// Thirty million rows for a limit of two are counted, not kept.
#[test]
fn rows_beyond_the_wanted_are_only_counted() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("x.jsonl", "{\"n\": 0}\n{\"n\": 1}\nnot looked at\n"),
        ("x.json", "[{\"n\": 0}, {\"n\": 1}, 3]"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let found = |limit, shard: &str| {
            let shard = shard.parse().unwrap();
            let rows = read_some(std::slice::from_ref(&path), Wanted { limit, shard }).unwrap();
            assert_eq!(rows.total, 3, "{name}");
            let number = |(i, doc): &(usize, Doc)| (*i, doc.integer("n").unwrap());
            rows.docs.iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(found(2, "1/1"), [(0, 0), (1, 1)], "{name}");
        assert_eq!(found(2, "1/2"), [(0, 0)], "{name}");
        assert_eq!(found(9, "2/2"), [(1, 1)], "{name}");
        assert_eq!(found(9, "4/4"), [], "{name}");
    }
}

#[test]
fn shards_count_rows_over_all_files_of_a_split() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["a.jsonl", "b.json"].map(|name| dir.path().join(name));
    fs::write(&files[0], "{\"n\": 0}\n{\"n\": 1}\n{\"n\": 2}\n").unwrap();
    fs::write(&files[1], "[{\"n\": 3}, {\"n\": 4}, {\"n\": 5}]").unwrap();
    for (limit, shard, expected) in [
        (9, "1/2", vec![0, 2, 4]),
        (5, "2/2", vec![1, 3]),
        (9, "3/4", vec![2]),
        (9, "9/9", vec![]),
    ] {
        let shard = shard.parse().unwrap();
        let rows = read_some(&files, Wanted { limit, shard }).unwrap();
        assert_eq!(rows.total, 6);
        let found: Vec<usize> = rows.docs.iter().map(|(i, _)| *i).collect();
        assert_eq!(found, expected);
        for (i, doc) in &rows.docs {
            assert_eq!(doc.integer("n").unwrap(), *i as i64);
        }
    }
}

#[test]
fn broken_files_get_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut cut = gzip(&"{\"text\": \"a\"}\n".repeat(1000));
    cut.truncate(cut.len() / 2);
    for (name, bytes, words) in [
        ("empty.parquet", vec![], "the file is empty (0 bytes)"),
        ("empty.json.gz", vec![], "the file is empty (0 bytes)"),
        (
            "text.parquet",
            b"hello, this is no parquet file".to_vec(),
            "not a parquet file that can be read",
        ),
        ("none.jsonl", b"\n".to_vec(), "no rows"),
        (
            "bad.jsonl",
            b"{\"a\": 1}\n[1]\n".to_vec(),
            "line 2: not a JSON object",
        ),
        ("cut.json.gz", cut, "broken after line"),
        (
            "plain.json.gz",
            b"{\"a\": 1}\n".to_vec(),
            "broken after line 0",
        ),
        (
            "latin.jsonl",
            b"{\"a\": \"\xe9\"}\n".to_vec(),
            "broken after line 0",
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read(&[path]).unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains(name) && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_parquet_file_never_panics() {
    let Some(data) = shared() else { return };
    let whole =
        fs::read(data.join("allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet"))
            .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.parquet");
    for i in 0..60 {
        let at = whole.len() * i / 60;
        fs::write(&path, &whole[..at]).unwrap();
        assert!(read(std::slice::from_ref(&path)).is_err());
        let mut flipped = whole.clone();
        let at = whole.len() - 1 - i * 37; // the footer is at the end
        flipped[at] ^= 0x55;
        fs::write(&path, &flipped).unwrap();
        let _ = read(std::slice::from_ref(&path));
    }
}

#[test]
fn shared_files_are_read_whole() {
    let Some(data) = shared() else { return };
    let data = DataDir::folder(data);
    for (path, config, split, rows, column) in [
        (
            "allenai/ai2_arc",
            Some("ARC-Easy"),
            Split::Test,
            2376,
            "choices.text",
        ),
        (
            "Rowan/hellaswag",
            None,
            Split::Validation,
            10_042,
            "endings",
        ),
        ("allenai/c4", Some("en"), Split::Validation, 2000, "text"),
    ] {
        let docs = read(&data.files(&Dataset::new(path, config)).unwrap()[&split]).unwrap();
        assert_eq!(docs.len(), rows);
        assert!(docs[0].texts(column).is_ok() || docs[0].text(column).is_ok());
    }
}
