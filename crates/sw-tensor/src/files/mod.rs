//! Files: what strangers left is opened only if it is a regular file, read only if its reader has room for it, and links lead
//! out of no folder; what is written is there whole or not at all.

mod publish;

pub use publish::{NewFolder, is_at, is_unfinished, write_whole};

use std::{
    fs::{File, Metadata},
    io::{Error, ErrorKind, Read, Result},
    path::Path,
};

/// Opens a regular file for reading, through links. A FIFO, a device, a socket or a folder is refused before it is opened:
/// opening or reading those may wait for ever, or never end.
///
/// # Errors
/// The system's, or what the path is instead.
pub fn open_regular(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(&file.metadata()?)?; // it may have been replaced in between
    Ok(file)
}

/// Checks that a path leads, through links, to something in its own folder. A snapshot in a Hugging Face cache links into
/// `blobs` of its repository, which counts as inside. A folder from a stranger may hold a link to anything that its reader
/// may read, and what is read may be copied, or quoted in an error.
///
/// # Errors
/// The system's, or where it leads instead.
pub fn check_inside(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let leads = std::fs::canonicalize(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::canonicalize(folder)?;
    let snapshots = folder
        .ancestors()
        .find(|above| above.ends_with("snapshots"));
    let blobs = snapshots.map(|snapshots| snapshots.with_file_name("blobs"));
    if leads.starts_with(&folder) || blobs.is_some_and(|blobs| leads.starts_with(blobs)) {
        return Ok(());
    }
    let leads = leads.display();
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "it is a link out of its folder, to {leads}; put a copy there if it is to be trusted"
        ),
    ))
}

/// Opens a regular file of a folder from a stranger.
///
/// # Errors
/// Those of [`check_inside`] and [`open_regular`].
pub fn open_inside(path: impl AsRef<Path>) -> Result<File> {
    check_inside(path.as_ref())?;
    open_regular(path)
}

fn regular(found: &Metadata) -> Result<()> {
    match (found.is_file(), found.is_dir()) {
        (true, _) => Ok(()),
        (_, true) => Err(Error::new(
            ErrorKind::IsADirectory,
            "it is a folder, expected a file",
        )),
        _ => Err(Error::other(
            "it is a pipe, socket or device, expected a regular file",
        )),
    }
}

/// All bytes of a regular file of at most `most` bytes. A longer one is refused before it is read.
///
/// # Errors
/// Those of [`open_regular`]; a file that is longer, or grows to be.
pub fn read_at_most(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>> {
    read(open_regular(path)?, most)
}

/// All bytes of a regular file, of at most `most` bytes, of a folder from a stranger.
///
/// # Errors
/// Those of [`check_inside`] and [`read_at_most`].
pub fn read_inside(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>> {
    read(open_inside(path)?, most)
}

fn read(file: File, most: u64) -> Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let refuse = |size: u64| {
        Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("it has {size} bytes, expected at most {most}"),
        ))
    };
    if size > most {
        return refuse(size);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return refuse(bytes.len() as u64);
    }
    Ok(bytes)
}

/// The text of a regular file of at most `most` bytes.
///
/// # Errors
/// Those of [`read_at_most`]; a file that is not UTF-8.
pub fn read_text_at_most(path: impl AsRef<Path>, most: u64) -> Result<String> {
    text(read_at_most(path, most)?)
}

/// The text of a regular file of at most `most` bytes of a folder from a stranger.
///
/// # Errors
/// Those of [`read_inside`]; a file that is not UTF-8.
pub fn read_text_inside(path: impl AsRef<Path>, most: u64) -> Result<String> {
    text(read_inside(path, most)?)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidData, e.utf8_error()))
}

/// Whether something is at a path, as far as the system tells: a folder that may not be searched is not an absent file.
///
/// # Errors
/// The system's, but for "not found".
pub fn is_there(path: impl AsRef<Path>) -> Result<bool> {
    match path.as_ref().metadata() {
        Ok(_) => Ok(true),
        // A component that is a file, too: nothing can be below it.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_long_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let error = |path: &Path, most| read_at_most(path, most).unwrap_err().to_string();
        assert!(error(dir.path(), 9).contains("folder"));
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_text_at_most(&path, 4).unwrap(), "four");
        assert!(error(&path, 3).contains("4 bytes, expected at most 3"));
        // A sparse file of 7 GiB, as a stranger may send one in a few bytes of an archive.
        File::create(&path).unwrap().set_len(7 << 30).unwrap();
        assert!(error(&path, 1 << 20).contains("7516192768 bytes"));
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            assert!(error(&link, 9).contains("device"));
            let fifo = dir.path().join("fifo");
            let made = std::process::Command::new("mkfifo").arg(&fifo).status();
            assert!(made.unwrap().success());
            assert!(error(&fifo, 9).contains("pipe"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_out_of_no_folder_but_a_snapshot() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["models--a--b/blobs", "models--a--b/snapshots/1", "own"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["models--a--b/blobs/0f", "own/file", "secret"] {
            std::fs::write(at(file), file).unwrap();
        }
        let read = |name: &str| read_text_inside(at(name), 100).map_err(|e| e.to_string());
        symlink("../../blobs/0f", at("models--a--b/snapshots/1/config.json")).unwrap();
        symlink("file", at("own/other")).unwrap();
        assert!(read("models--a--b/snapshots/1/config.json").is_ok());
        assert!(read("own/other").is_ok());
        for (link, leads) in [
            ("own/LICENSE", "../secret"),
            ("own/NOTICE", "other/../../secret"),
            ("own/blob", "../models--a--b/blobs/0f"),
            ("models--a--b/snapshots/1/LICENSE", "../../../secret"),
        ] {
            symlink(leads, at(link)).unwrap();
            assert!(read(link).is_err(), "{link}");
        }
        assert!(
            read("own/LICENSE")
                .unwrap_err()
                .contains("a link out of its folder")
        );
        // The folder itself may be reached in any way.
        symlink("own", at("way")).unwrap();
        assert!(read("way/file").is_ok());
    }
}
