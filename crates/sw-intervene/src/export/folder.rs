//! A folder that is there whole or not at all.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Lies in a folder that is being written, locked by the one who writes.
const MARK: &str = "UNFINISHED";

/// A folder being written beside its place; removed unless it is published.
#[derive(Debug)]
pub struct Folder {
    /// Where it will be.
    out: PathBuf,
    /// Where it is.
    beside: PathBuf,
    /// Held for its lock.
    mark: File,
    published: bool,
}

impl Folder {
    /// Checks that `out` may be written, and begins beside it.
    ///
    /// # Errors
    /// `out` is the source, holds it or lies in it; lies in a Hugging Face cache; exists and `force` is not given, or
    /// does not look like a checkpoint; or somebody is writing it.
    pub fn new(out: &Path, source: &Path, force: bool) -> Result<Self> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::io(&path, e)
        };
        let no = |problem: &str| Error::Options(format!("{}: {problem}", out.display()));
        let place = resolved(out).map_err(io(out))?;
        let source = fs::canonicalize(source).map_err(io(source))?;
        if place.starts_with(&source) || source.starts_with(&place) {
            return Err(no(
                "is, holds or lies in the original, which is never changed; choose another folder",
            ));
        }
        if place
            .iter()
            .any(|part| part.to_string_lossy().starts_with("models--"))
        {
            return Err(no(
                "lies in a Hugging Face cache, which is never written; choose another folder",
            ));
        }
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(no("is no place for a folder"));
        };
        if place.symlink_metadata().is_ok() {
            if !force {
                return Err(no(
                    "exists; choose another folder, or replace it with --force",
                ));
            }
            let empty = || {
                place
                    .read_dir()
                    .is_ok_and(|mut entries| entries.next().is_none())
            };
            if place.is_symlink() || !(place.join("config.json").is_file() || empty()) {
                return Err(no(
                    "exists and is no checkpoint folder; --force replaces only those",
                ));
            }
        }
        fs::create_dir_all(parent).map_err(io(parent))?;
        let beside = parent.join(format!(".{}.part", name.to_string_lossy()));
        let mark = beside.join(MARK);
        if beside.symlink_metadata().is_ok() {
            // Left by a run that was killed, or written right now.
            let left = File::open(&mark).map_err(|_| {
                no(&format!(
                    "{} is in the way, and not from here; remove it",
                    beside.display()
                ))
            })?;
            if left.try_lock().is_err() {
                return Err(no("is being written by another run"));
            }
            fs::remove_dir_all(&beside).map_err(io(&beside))?;
        }
        fs::create_dir(&beside).map_err(io(&beside))?;
        let file = File::create(&mark).map_err(io(&mark))?;
        file.lock().map_err(io(&mark))?;
        Ok(Self {
            out: place,
            beside,
            mark: file,
            published: false,
        })
    }

    /// Where files are written for now.
    pub fn path(&self) -> &Path {
        &self.beside
    }

    /// Lets others read a file as they may read any new one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open_to_others(&self, path: &Path) -> Result<()> {
        let usual = self.mark.metadata().map(|m| m.permissions());
        usual
            .and_then(|usual| fs::set_permissions(path, usual))
            .map_err(|e| Error::io(path, e))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// When the system refuses; what was there is there still.
    pub fn publish(mut self) -> Result<()> {
        let mark = self.beside.join(MARK);
        fs::remove_file(&mark).map_err(|e| Error::io(&mark, e))?;
        let old = self.beside.with_extension("old");
        let replaces = self.out.exists();
        let moved = |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| Error::io(to, e));
        if replaces {
            moved(&self.out, &old)?;
        }
        if let Err(e) = moved(&self.beside, &self.out) {
            if replaces {
                moved(&old, &self.out)?;
            }
            return Err(e);
        }
        self.published = true;
        if replaces {
            fs::remove_dir_all(&old).map_err(|e| Error::io(&old, e))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.beside); // the error that led here matters more
        }
    }
}

/// The path without links and dots, as far as it exists.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut rest = Vec::new();
    let mut known = path.as_path();
    loop {
        if known.exists() {
            let real = fs::canonicalize(known)?;
            return Ok(rest.iter().rev().fold(real, |path, part| path.join(part)));
        }
        match (known.parent(), known.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                known = parent;
            }
            _ => return Ok(path), // `..` below what does not exist
        }
    }
}
