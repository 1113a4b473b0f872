//! Opening what strangers left: regular files only, and no more of a file than its reader has room for.

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
    let file = open_regular(path)?;
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
    let bytes = read_at_most(path, most)?;
    String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidData, e.utf8_error()))
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
}
