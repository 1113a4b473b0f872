//! A journal of answered spans, so that a run that is killed goes on where it stopped.
//!
//! One line of JSON each; the first names the configuration. A line counts only when its newline is there: a torn last
//! line is dropped and overwritten. Nothing that stands in the file is ever rewritten.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sw_tensor::files;

use crate::{
    error::{Error, Result},
    model::Score,
    shard::Shard,
};

/// What a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The configuration's hash.
    pub config: String,
    /// The part of the documents.
    pub shard: Shard,
    /// Spans in all.
    pub spans: usize,
}

/// The most bytes of a line; an answer takes a twentieth.
const LINE: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Line {
    span: usize,
    #[serde(flatten)]
    score: Score,
}

/// A journal, open for more answers.
#[derive(Debug)]
pub struct Journal<W = File> {
    path: PathBuf,
    file: W,
}

impl Journal {
    /// Opens a journal or begins one; returns the answers it holds.
    ///
    /// # Errors
    /// A journal of another configuration or in use by another process, a broken line before the last, a file that cannot
    /// be read or written.
    pub fn open(path: impl Into<PathBuf>, key: &Key) -> Result<(Self, HashMap<usize, Score>)> {
        let path = path.into();
        let mut file = loop {
            if path.is_symlink() {
                let problem =
                    "it is a link, expected a file of its own; remove it, or name another folder";
                return Err(Error::journal(&path, problem));
            }
            if path.exists() {
                files::open_regular(&path).map_err(|e| Error::io(&path, e))?;
            }
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = opened.map_err(|e| Error::io(&path, e))?;
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                let problem = "another process is writing to it; wait for it, name another folder, or give each process its --shard";
                return Err(Error::journal(&path, problem));
            } // a file system without locks is trusted
            if files::is_at(&file, &path).map_err(|e| Error::io(&path, e))? {
                break file;
            } // the run that it belonged to ended and removed it before it was locked
        };
        let (found, end) = read(&path, &mut file, key)?;
        file.set_len(end)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|e| Error::io(&path, e))?;
        let mut journal = Self { path, file };
        if end == 0 {
            journal.write(key)?;
        }
        Ok((journal, found))
    }
}

impl Journal {
    /// The journal's lock, which is held until both are dropped: no other run begins while this one's results are written.
    pub(crate) fn lock(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(&self.path, e))
    }
}

impl<W: Write> Journal<W> {
    /// Appends an answer.
    ///
    /// # Errors
    /// When it cannot be written (a full disk, say); the lines before it stay.
    pub fn append(&mut self, span: usize, score: Score) -> Result<()> {
        self.write(&Line { span, score })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(line).expect("keys and scores are JSON") + "\n";
        let written = self
            .file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush());
        written.map_err(|e| {
            let problem = format!(
                "{e}; the answers before it are kept: make room and run the same command again"
            );
            Error::journal(&self.path, problem)
        })
    }
}

/// The answers of a journal, and the length of its whole lines.
fn read(path: &Path, file: &mut File, key: &Key) -> Result<(HashMap<usize, Score>, u64)> {
    let mut reader = BufReader::new(file);
    let mut found = HashMap::new();
    let mut end = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = (&mut reader)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io(path, e))?;
        if line.last() != Some(&b'\n') && length as u64 == LINE {
            let problem = format!(
                "line {number}: more than {LINE} bytes, not an answer; remove the file to start over"
            );
            return Err(Error::journal(path, problem));
        }
        if line.last() != Some(&b'\n') {
            break; // the end, or a line that was torn when the run was killed
        }
        let broken = |what: &str| {
            Error::journal(
                path,
                format!("line {number}: {what}; remove the file to start over"),
            )
        };
        if number == 1 {
            let begun: Key = serde_json::from_slice(&line)
                .map_err(|_| broken("not the beginning of a journal"))?;
            if begun != *key {
                let problem = format!(
                    "belongs to another run (configuration {}, shard {}, {} requests; this one is {}, {}, {}); remove it, or name another folder",
                    short(&begun.config),
                    begun.shard,
                    begun.spans,
                    short(&key.config),
                    key.shard,
                    key.spans
                );
                return Err(Error::journal(path, problem));
            }
        } else {
            let Line { span, score } =
                serde_json::from_slice(&line).map_err(|_| broken("not an answer"))?;
            if span >= key.spans {
                return Err(broken("an answer to a request that does not exist"));
            }
            if !score.can_be() {
                return Err(broken("a log-probability above 0"));
            }
            found.insert(span, score);
        }
        end += length as u64;
    }
    Ok((found, end))
}

pub(crate) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            config: "abc".into(),
            shard: Shard::default(),
            spans: 10,
        }
    }

    fn score(x: f64) -> Score {
        Score {
            log_prob: x,
            greedy: x > -1.0,
        }
    }

    #[test]
    fn answers_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let values = [
            -0.1 - 0.2,
            -1.0 / 3.0,
            -123_456.789e-30,
            -7.000_000_000_000_001,
        ];
        let (mut journal, found) = Journal::open(&path, &key()).unwrap();
        assert!(found.is_empty());
        for (span, value) in [3, 4, 0, 9].into_iter().zip(values) {
            journal.append(span, score(value)).unwrap();
        }
        drop(journal);
        let (_, found) = Journal::open(&path, &key()).unwrap();
        assert_eq!(
            found,
            HashMap::from([
                (3, score(values[0])),
                (4, score(values[1])),
                (0, score(values[2])),
                (9, score(values[3]))
            ])
        );
    }

    #[test]
    fn a_torn_line_is_dropped_at_every_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path, &key()).unwrap();
        journal.append(1, score(-1.5)).unwrap();
        journal.append(2, score(-2.5)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, found) = Journal::open(&path, &key()).unwrap();
            for (span, value) in [(1, -1.5), (2, -2.5)]
                .into_iter()
                .filter(|(i, _)| !found.contains_key(i))
            {
                journal.append(span, score(value)).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {length}");
        }
    }

    #[test]
    fn two_runs_at_once_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let first = Journal::open(&path, &key()).unwrap();
        let error = Journal::open(&path, &key()).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        Journal::open(&path, &key()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let other = dir.path().join("other");
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let error = Journal::open(&path, &key()).unwrap_err().to_string();
        assert!(error.contains("it is a link"), "{error}");
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "");
    }

    /// A run may remove its journal between another's opening and locking it.
    #[test]
    fn a_journal_that_was_removed_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let file = File::create(&path).unwrap();
        assert!(files::is_at(&file, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!files::is_at(&file, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!files::is_at(&file, &path).unwrap());
    }

    #[test]
    fn other_runs_and_broken_lines_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        Journal::open(&path, &key())
            .unwrap()
            .0
            .append(1, score(-1.5))
            .unwrap();
        let other = Journal::open(
            &path,
            &Key {
                config: "abd".into(),
                ..key()
            },
        )
        .unwrap_err()
        .to_string();
        assert!(other.contains("belongs to another run"), "{other}");
        let shard = Journal::open(
            &path,
            &Key {
                shard: Shard::new(1, 2).unwrap(),
                ..key()
            },
        )
        .unwrap_err()
        .to_string();
        assert!(shard.contains("shard 1/1"), "{shard}");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + "{\"span\": 1, \"log\n{}\n").unwrap();
        let broken = Journal::open(&path, &key()).unwrap_err().to_string();
        assert!(broken.contains("line 3: not an answer"), "{broken}");
        std::fs::remove_file(&path).unwrap();
        let (mut journal, _) = Journal::open(&path, &key()).unwrap();
        journal.append(1, score(0.5)).unwrap();
        drop(journal);
        let above = Journal::open(&path, &key()).unwrap_err().to_string();
        assert!(
            above.contains("line 2: a log-probability above 0"),
            "{above}"
        );
        // A sparse file, as a stranger may send one in a few bytes of an archive.
        File::create(&path).unwrap().set_len(7 << 30).unwrap();
        let long = Journal::open(&path, &key()).unwrap_err().to_string();
        assert!(long.contains("line 1: more than 4096 bytes"), "{long}");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(
            Journal::open(&path, &key())
                .unwrap_err()
                .to_string()
                .contains("not the beginning")
        );
    }

    /// A disk that is full after some bytes.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let room = self.1 - self.0.len();
            if room == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(bytes.len().min(room))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_nothing_already_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        for size in 60..200 {
            let mut journal = Journal {
                path: path.clone(),
                file: Full(Vec::new(), size),
            };
            journal.write(&key()).unwrap();
            let mut kept = 0;
            let error = (0..10).find_map(|i| match journal.append(i, score(-1.5)) {
                Ok(()) => {
                    kept += 1;
                    None
                }
                Err(e) => Some(e.to_string()),
            });
            assert!(
                error
                    .unwrap()
                    .contains("make room and run the same command again")
            );
            std::fs::write(&path, &journal.file.0).unwrap();
            let (_, found) = Journal::open(&path, &key()).unwrap();
            assert_eq!(found.len(), kept, "a disk of {size} bytes");
        }
    }
}
