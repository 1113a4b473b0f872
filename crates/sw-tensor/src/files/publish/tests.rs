use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// A folder for a test, with a source and a place in it.
fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "out"].map(|name| dir.path().join(name));
    fs::create_dir(&source).unwrap();
    (dir, source, out)
}

fn fill(folder: &Path, word: &str) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "weights"] {
        fs::write(folder.join(name), word).unwrap();
    }
}

/// The word of a folder that is whole.
fn word(folder: &Path) -> String {
    let [a, b] =
        ["config.json", "weights"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    assert_eq!(a, b);
    a
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_there_whole_or_not_at_all() {
    let (dir, source, out) = place();
    let begin = |force| NewFolder::begin(&out, &[&source], force);
    let folder = begin(false).unwrap();
    fill(folder.path(), "first");
    assert!(!out.exists() && is_unfinished(folder.path()));
    let busy = begin(true).unwrap_err().to_string();
    assert!(busy.contains("is being written by another run"), "{busy}");
    folder.publish().unwrap();
    assert_eq!(word(&out), "first");
    assert!(!is_unfinished(&out));
    assert_eq!(names(dir.path()), ["out", "source"]);

    let exists = begin(false).unwrap_err().to_string();
    assert!(exists.contains("--force"), "{exists}");
    let folder = begin(true).unwrap();
    fill(folder.path(), "second");
    assert_eq!(word(&out), "first");
    folder.publish().unwrap();
    assert_eq!(word(&out), "second");

    drop(begin(true).unwrap());
    assert_eq!(word(&out), "second");
    assert_eq!(names(dir.path()), ["out", "source"]);
}

#[test]
fn somebody_elses_folder_is_not_replaced_even_at_the_last_moment() {
    let (_dir, source, out) = place();
    let folder = NewFolder::begin(&out, &[&source], true).unwrap();
    fill(folder.path(), "new");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("letters.txt"), "dear").unwrap();
    let error = folder.publish().unwrap_err().to_string();
    assert!(error.contains("is no checkpoint folder"), "{error}");
    assert_eq!(names(&out), ["letters.txt"]);
}

/// What a kill can leave, step by step: the next run finds its way, and a folder that was there is there.
#[test]
fn what_a_kill_leaves_is_tidied_by_the_next_run() {
    let states: [(&[&str], bool); 7] = [
        (&[], true),
        (&["UNFINISHED"], true),
        (&["UNFINISHED", "new/"], true),
        (&["UNFINISHED", "new/config.json", "new/weights"], true),
        // The old one after the exchange, half removed.
        (&["UNFINISHED", "new/weights"], true),
        // Without an exchange: between the two steps, and after them.
        (&["UNFINISHED", "new/config.json", "old"], false),
        (&["UNFINISHED", "old/weights"], true),
    ];
    for (left, there) in states {
        for force in [false, true] {
            let (dir, source, out) = place();
            let beside = dir.path().join(".out.part");
            fs::create_dir(&beside).unwrap();
            for name in left {
                let path = beside.join(name);
                if *name == "old" {
                    fill(&path, "before");
                } else if name.ends_with('/') {
                    fs::create_dir(path).unwrap();
                } else {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, "").unwrap();
                }
            }
            if there {
                fill(&out, "before");
            }
            let begun = NewFolder::begin(&out, &[&source], force);
            assert_eq!(word(&out), "before", "{left:?}");
            if !force {
                assert!(begun.unwrap_err().to_string().contains("--force"));
                continue;
            }
            let folder = begun.unwrap();
            fill(folder.path(), "after");
            folder.publish().unwrap();
            assert_eq!(word(&out), "after", "{left:?}");
            assert_eq!(names(dir.path()), ["out", "source"], "{left:?}");
        }
    }
}

#[test]
fn what_is_not_from_here_stays() {
    let (dir, source, out) = place();
    let beside = dir.path().join(".out.part");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("letters.txt"), "dear").unwrap();
    let error = NewFolder::begin(&out, &[&source], true)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is in the way, and not from here"),
        "{error}"
    );
    assert_eq!(names(&beside), ["letters.txt"]);
}

#[test]
fn of_writers_at_once_each_is_whole_or_refused() {
    let (dir, source, out) = place();
    fill(&out, "before");
    let published = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (source, out, published) = (&source, &out, &published);
            scope.spawn(move || {
                for round in 0..50 {
                    match NewFolder::begin(out, &[source.as_path()], true) {
                        Ok(folder) => {
                            fill(folder.path(), &format!("{writer}:{round}"));
                            folder.publish().unwrap();
                            published.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => assert!(e.to_string().contains("another run"), "{e}"),
                    }
                }
            });
        }
        let out = &out;
        scope.spawn(move || {
            for _ in 0..500 {
                // At every moment there is one.
                assert!(out.join("config.json").is_file());
            }
        });
    });
    assert!(published.into_inner() > 0);
    assert!(word(&out).contains(':'));
    assert_eq!(names(dir.path()), ["out", "source"]);
}

#[test]
fn a_file_is_replaced_whole_by_many_at_once_or_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..50 {
                    write_whole(path, |file| file.write_all(&[b'0' + writer; 5000])).unwrap();
                    let found = fs::read(path).unwrap();
                    assert_eq!(found, [found[0]; 5000]);
                }
            });
        }
    });
    let full = |_: &mut dyn Write| Err(ErrorKind::StorageFull.into());
    let before = fs::read(&path).unwrap();
    assert!(write_whole(&path, full).is_err());
    assert!(write_whole(&dir.path().join("no/such/place"), |_| Ok(())).is_err());
    assert!(write_whole(dir.path(), |file| file.write_all(b"x")).is_err()); // a folder
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(dir.path()), ["a.json"]);
}

#[test]
fn what_killed_processes_left_is_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = [
        ".a.json.12-x.part",
        ".part",
        "a.1-2.part",
        ".git",
        ".b.part",
    ];
    for name in theirs
        .iter()
        .copied()
        .chain([".a.json.12-0.part", ".results_1.json.9-7.part"])
    {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let busy = File::create(dir.path().join(".c.5-6.part")).unwrap();
    busy.lock().unwrap();
    write_whole(&dir.path().join("a.json"), |_| Ok(())).unwrap();
    let mut expected: Vec<_> = theirs.to_vec();
    expected.extend([".c.5-6.part", "a.json"]);
    expected.sort_unstable();
    assert_eq!(names(dir.path()), expected);
}
