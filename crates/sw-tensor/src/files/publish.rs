//! Writing so that a reader, or whoever comes after a kill, finds all of it or none.
//!
//! ```text
//! .OUT.part/UNFINISHED   the mark, locked by the one who writes; made first, removed last
//! .OUT.part/new          the folder that is being written; its exchange with OUT is one step of the file system
//! .OUT.part/old          what OUT was, for a moment, where the file system cannot exchange
//! ```

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::Error;

/// Lies beside a folder that is being written, locked by the one who writes.
const MARK: &str = "UNFINISHED";

/// A folder with one of these may be replaced: a checkpoint, an adapter, tiles.
const REPLACED: [&str; 3] = ["config.json", "adapter_config.json", "selection.json"];

/// A folder that is written beside its place and put there when it is whole. Dropped before, nothing of it stays; a run that
/// is killed leaves `.OUT.part`, which opens as no model and which the next run to the same place removes.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (out, source) = (dir.path().join("out"), dir.path().join("source"));
/// # std::fs::create_dir(&source)?;
/// let folder = sw_tensor::files::NewFolder::begin(&out, &[&source], false)?;
/// std::fs::write(folder.path().join("config.json"), "{}")?;
/// assert!(!out.exists());
/// folder.publish()?;
/// assert!(out.join("config.json").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NewFolder {
    /// Where it will be.
    place: PathBuf,
    /// What lies beside its place while it is written.
    beside: PathBuf,
    /// The folder that is written.
    new: PathBuf,
    /// Held for its lock.
    mark: File,
    force: bool,
    published: bool,
}

impl NewFolder {
    /// Checks that `out` may be written, tidies what a killed run left there, and begins beside it.
    ///
    /// `sources`: what the folder is made from, which is never changed. `force`: a checkpoint that is there already is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Place`]: `out` is a source, holds one or lies in one; lies in a Hugging Face cache; exists and `force` is not
    /// given, or is neither empty nor a checkpoint, an adapter or tiles; or somebody is writing it.
    /// [`Error::Io`]: the system refuses.
    pub fn begin(out: &Path, sources: &[&Path], force: bool) -> Result<NewFolder, Error> {
        let no = |problem: String| Error::Place {
            path: out.into(),
            problem,
        };
        let place = resolved(out).map_err(io_at(out, "find"))?;
        for source in sources {
            let source = fs::canonicalize(source).map_err(io_at(source, "find"))?;
            if place.starts_with(&source) || source.starts_with(&place) {
                let problem = "is, holds or lies in the original, which is never changed; choose another folder";
                return Err(no(problem.into()));
            }
        }
        let in_cache = |part: &OsStr| part.to_string_lossy().starts_with("models--");
        if place.iter().any(in_cache) {
            let problem =
                "lies in a Hugging Face cache, which is never written; choose another folder";
            return Err(no(problem.into()));
        }
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(no("is no place for a folder".into()));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".part");
        let beside = parent.join(hidden);
        // Before anything is made: what is there already is the user's.
        if beside.symlink_metadata().is_err() {
            may_be_written(&place, force).map_err(|problem| no(problem.into()))?;
        }
        fs::create_dir_all(parent).map_err(io_at(parent, "make"))?;
        let mark = locked(&beside).map_err(|e| match e {
            Locked::Foreign => no(format!(
                "{} is in the way, and not from here; remove it",
                beside.display()
            )),
            Locked::Busy => no("is being written by another run".into()),
            Locked::Io(source) => io_at(&beside, "make")(source),
        })?;
        let folder = NewFolder {
            new: beside.join("new"),
            place,
            beside,
            mark,
            force,
            published: false,
        };
        folder
            .recover()
            .map_err(io_at(&folder.beside, "tidy what a killed run left in"))?;
        may_be_written(&folder.place, force).map_err(|problem| no(problem.into()))?;
        fs::create_dir(&folder.new).map_err(io_at(&folder.new, "make"))?;
        Ok(folder)
    }

    /// Where files are written for now.
    pub fn path(&self) -> &Path {
        &self.new
    }

    /// Lets others read a file as they may read any new one (some libraries make private files).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open_to_others(&self, path: &Path) -> Result<(), Error> {
        let usual = self.mark.metadata().map(|m| m.permissions());
        usual
            .and_then(|usual| fs::set_permissions(path, usual))
            .map_err(io_at(path, "set the permissions of"))
    }

    /// Puts it in its place, in one step: at every moment the place holds all of the old folder or all of the new one.
    /// (Where a file system cannot exchange two names, the old one lies in `.OUT.part/old` for a moment, and the next run
    /// puts it back if this one is killed just then.)
    ///
    /// # Errors
    /// When the system refuses; what was in the place is there still. Or when what was replaced cannot be removed.
    pub fn publish(mut self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.new).map_err(io_at(&self.new, "list"))? {
            let path = entry.map_err(io_at(&self.new, "list"))?.path();
            let file = OpenOptions::new()
                .read(true)
                .write(cfg!(windows))
                .open(&path);
            let synced = file.and_then(|file| file.sync_all());
            synced.map_err(io_at(&path, "write"))?;
        }
        // Somebody may have come in between.
        may_be_written(&self.place, self.force).map_err(|problem| Error::Place {
            path: self.place.clone(),
            problem: problem.into(),
        })?;
        let put = if self.place.symlink_metadata().is_ok() {
            exchange(&self.new, &self.place).or_else(|_| {
                let old = self.beside.join("old");
                fs::rename(&self.place, &old)?;
                fs::rename(&self.new, &self.place).inspect_err(|_| {
                    let _ = fs::rename(&old, &self.place); // the first error matters more
                })
            })
        } else {
            fs::rename(&self.new, &self.place)
        };
        put.map_err(io_at(&self.place, "put the new folder to"))?;
        self.published = true;
        if let Some(parent) = self.place.parent() {
            let _ = File::open(parent).and_then(|dir| dir.sync_all()); // some systems cannot
        }
        self.tidy()
            .map_err(io_at(&self.beside, "remove what was replaced, now in"))
    }

    /// Puts an old folder back that a killed run left aside, and removes the rest.
    fn recover(&self) -> io::Result<()> {
        let old = self.beside.join("old");
        if old.symlink_metadata().is_ok() && self.place.symlink_metadata().is_err() {
            fs::rename(&old, &self.place)?;
        }
        for entry in fs::read_dir(&self.beside)? {
            let path = entry?.path();
            if path != self.beside.join(MARK) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what lies beside the place: the mark last, so that whoever finds something there finds the mark, too.
    fn tidy(&self) -> io::Result<()> {
        for name in ["new", "old"] {
            let path = self.beside.join(name);
            if path.symlink_metadata().is_ok() {
                remove(&path)?;
            }
        }
        fs::remove_file(self.beside.join(MARK))?;
        let _ = fs::remove_dir(&self.beside); // another run may have begun in it
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.tidy(); // the error that led here matters more
        }
    }
}

/// Whether `dir` is a folder that is being written, or was when a run was killed.
pub fn is_unfinished(dir: &Path) -> bool {
    dir.parent()
        .is_some_and(|parent| parent.join(MARK).is_file())
}

/// Writes a file whole or not at all: beside its place first, under a name of its own (`.NAME.PROCESS-NUMBER.part`), renamed
/// when it is on the disk. Such files in the same folder that nobody holds, because a run was killed, are removed.
///
/// # Errors
/// The system's, or those of `write`; a file that stood there stays as it was, and nothing else is left.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    sweep(path);
    let (file, beside) = begin(path, name)?;
    let mut file = BufWriter::new(file);
    let written = write(&mut file)
        .and_then(|()| file.flush())
        .and_then(|()| file.get_ref().sync_all())
        .and_then(|()| fs::rename(&beside, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside); // the first error matters more
    })
}

/// A new file beside a path, locked.
fn begin(path: &Path, name: &OsStr) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".{}-{number}.part", std::process::id()));
        let beside = path.with_file_name(hidden);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&beside);
        let file = match opened {
            // Of a process that had this number before.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
            file => file?,
        };
        let _ = file.lock(); // a file system without locks is trusted
        if is_at(&file, &beside)? {
            return Ok((file, beside));
        } // another process took it for a dead one's before it was locked
    }
}

/// Removes what killed processes left when they wrote files into the folder of `path`.
fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let left = entry.file_name().to_str().is_some_and(is_ours);
        if left && let Ok(file) = OpenOptions::new().write(true).open(entry.path()) {
            // Whoever writes it holds it. What cannot be removed is in nobody's way.
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether a name is of the form `.NAME.PROCESS-NUMBER.part`.
fn is_ours(name: &str) -> bool {
    let middle = name.strip_prefix('.').and_then(|n| n.strip_suffix(".part"));
    let numbers = middle.and_then(|n| n.rsplit_once('.'));
    let numbers = numbers.and_then(|(_, n)| n.split_once('-'));
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

fn io_at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        path: path.into(),
        action,
        source,
    }
}

/// Whether a folder may be put here.
fn may_be_written(place: &Path, force: bool) -> Result<(), &'static str> {
    if place.symlink_metadata().is_err() {
        return Ok(());
    }
    if !force {
        return Err("exists; choose another folder, or replace it with --force");
    }
    let empty = || place.read_dir().is_ok_and(|mut all| all.next().is_none());
    let ours = || REPLACED.iter().any(|name| place.join(name).is_file());
    if place.is_symlink() || !(ours() || empty()) {
        return Err("exists and is no checkpoint folder; --force replaces only those");
    }
    Ok(())
}

enum Locked {
    Foreign,
    Busy,
    Io(io::Error),
}

/// Makes the folder beside the place, or takes over what a killed run left, and locks its mark.
fn locked(beside: &Path) -> Result<File, Locked> {
    let mark = beside.join(MARK);
    loop {
        match fs::create_dir(beside) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Locked::Io(e)),
            _ => {}
        }
        if !beside.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Locked::Foreign);
        }
        // Without its mark, only an empty one is from here. The second look is for one that has just been begun or tidied.
        let others = || {
            let mut entries = fs::read_dir(beside).into_iter().flatten().flatten();
            entries.any(|entry| entry.path() != mark)
        };
        let foreign = || !mark.is_file() && others();
        if mark.is_symlink() || (foreign() && foreign()) {
            return Err(Locked::Foreign);
        }
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&mark);
        let file = match opened {
            Err(e) if e.kind() == ErrorKind::NotFound => continue, // another run ended and removed the folder
            file => file.map_err(Locked::Io)?,
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Locked::Busy);
        } // a file system without locks is trusted
        if is_at(&file, &mark).map_err(Locked::Io)? {
            return Ok(file);
        }
    }
}

/// Whether an open file is still the one at its path: another process may have removed or replaced it.
///
/// # Errors
/// The system's.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match path.symlink_metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (open.dev(), open.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether an open file is still the one at its path. Other systems do not remove a file that is open.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Exchanges what two names stand for, in one step.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// The path without links and dots, as far as it exists.
fn resolved(path: &Path) -> io::Result<PathBuf> {
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

#[cfg(test)]
mod tests;
