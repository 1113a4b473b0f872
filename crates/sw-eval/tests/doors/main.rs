//! Data files as others write them, and as strangers may: `make.py` wrote those beside this file.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use sw_eval::{DataDir, Dataset, Doc, Split, read};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/doors")
        .join(name)
}

fn texts(docs: &[Doc]) -> Vec<&str> {
    docs.iter().map(|doc| doc.text("text").unwrap()).collect()
}

fn error(path: PathBuf) -> String {
    let error = read(&[path]).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn parquet_is_read_in_every_codec_that_pyarrow_writes() {
    let expected = read(&[file("none.parquet")]).unwrap();
    assert_eq!(expected.len(), 64);
    assert!(texts(&expected)[63].starts_with("row 63: \u{2603} the same"));
    for codec in ["snappy", "gzip", "brotli", "lz4", "zstd", "delta"] {
        let docs = read(&[file(&format!("{codec}.parquet"))]).unwrap();
        assert_eq!(docs, expected, "{codec}");
    }
}

#[test]
fn text_that_is_stored_as_plain_binary_is_text() {
    let expected = read(&[file("none.parquet")]).unwrap();
    let docs = read(&[file("binary.parquet")]).unwrap();
    assert_eq!(texts(&docs), texts(&expected));
    let error = docs[0].text("picture").unwrap_err().to_string();
    assert!(
        error.contains(r#"expected text, found {"bytes":3}"#),
        "{error}"
    );
}

#[test]
fn what_unpacks_to_too_much_is_refused_before() {
    let page = error(file("page.parquet"));
    assert!(page.contains("column \"text\": a page of 3"), "{page}");
    let cell = error(file("cell.parquet"));
    assert!(cell.contains("row 0: more than 16777216 bytes"), "{cell}");

    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "line.json.gz",
            format!("{{}}\n{{\"text\": \"{}\"}}\n", "a".repeat(20 << 20)),
        ),
        (
            "array.json.gz",
            format!("[{{}}, {{\"text\": \"{}\"}}]", "a".repeat(20 << 20)),
        ),
    ] {
        let path = dir.path().join(name);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        fs::write(&path, gzip.finish().unwrap()).unwrap();
        let error = error(path);
        assert!(error.contains("more than 16777216 bytes"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.jsonl");
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    let error = error(path);
    assert!(error.contains("device, expected a regular file"), "{error}");
}

/// The reader of this encoding panics where lengths contradict the bytes.
#[test]
fn a_panic_of_the_library_is_one_line() {
    let whole = fs::read(file("delta.parquet")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.parquet");
    let mut panics = 0;
    for at in 4..400 {
        for flip in [0x01, 0x40, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            if let Err(error) = read(std::slice::from_ref(&path)) {
                let error = error.to_string();
                assert_eq!(error.lines().count(), 1, "{error}");
                panics += usize::from(error.contains("the file contradicts itself"));
            }
        }
    }
    assert!(panics > 0, "no damage made the library panic");
}

#[test]
fn json_as_python_and_editors_write_it() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "lines.jsonl",
            "\u{feff}{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
        ),
        ("array.json", "[{\"text\": \"a\"}, {\"text\": \"b\"}]"),
        (
            "pretty.json",
            "\u{feff}\n[\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": \"b\"\n  }\n]\n",
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        assert_eq!(texts(&read(&[path]).unwrap()), ["a", "b"], "{name}");
    }
    for (text, words) in [
        ("[{\"a\": 1}, 2]", "not a JSON array of objects"),
        ("[{\"a\": 1}", "not a JSON array of objects: EOF"),
        ("[{\"a\": 1}] more", "trailing characters"),
        ("[]", "no rows"),
    ] {
        let path = dir.path().join("bad.json");
        fs::write(&path, text).unwrap();
        let error = error(path);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn splits_are_found_in_folders_and_under_other_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = dir.path().join("org/name").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(file("none.parquet"), path).unwrap();
    };
    let data = DataDir::folder(dir.path());
    // As the Hub converts every data set.
    write("main/train/0000.parquet");
    write("main/train/0001.parquet");
    write("main/validation/0000.parquet");
    let files = data.files(&Dataset::new("org/name", Some("main"))).unwrap();
    assert_eq!(files[&Split::Train].len(), 2);
    assert_eq!(files[&Split::Validation].len(), 1);
    for (config, name) in [
        ("a", "valid.jsonl"),
        ("b", "val-00000.parquet"),
        ("c", "set_dev.json"),
    ] {
        write(&format!("{config}/{name}"));
        let files = data.files(&Dataset::new("org/name", Some(config))).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), [&Split::Validation]);
    }
    let missing = |config| data.missing(&Dataset::new("org/name", Some(config)));
    fs::create_dir_all(dir.path().join("org/name/other")).unwrap();
    assert!(
        missing("other").contains("found nothing; fetch it"),
        "{}",
        missing("other")
    );
    fs::write(dir.path().join("org/name/other/test.arrow"), "").unwrap();
    assert!(
        missing("other").contains("found \"test.arrow\"; fetch it"),
        "{}",
        missing("other")
    );
}
