//! Which GGUF file a path means.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The GGUF file that a path means, if it means one: itself, the file of the folder that is named, or the only one of a
/// folder without safetensors.
pub(crate) fn find(path: &Path, name: Option<&str>) -> Result<Option<PathBuf>> {
    let is_gguf = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    };
    if path.is_file() {
        return match is_gguf(path) || starts_as_gguf(path) {
            true => Ok(Some(path.into())),
            false => Err(Error::NoModel { path: path.into() }),
        };
    }
    if !path.is_dir() {
        return Ok(None);
    }
    if let Some(name) = name {
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let file = path.join(name);
        return match inside && file.is_file() {
            true => from_folder(file),
            false => Err(Error::MissingGguf {
                dir: path.into(),
                name: name.into(),
                found: listed(path)?.1,
            }),
        };
    }
    let (has_safetensors, names) = listed(path)?;
    match names.as_slice() {
        _ if has_safetensors => Ok(None),
        [] => Ok(None),
        [only] => from_folder(path.join(only)),
        several => Err(Error::several(path, several)),
    }
}

/// A file of a folder, and not one elsewhere that a link leads to.
fn from_folder(file: PathBuf) -> Result<Option<PathBuf>> {
    match sw_tensor::files::check_inside(&file) {
        Ok(()) => Ok(Some(file)),
        Err(e) => Err(Error::io(file, e)),
    }
}

/// Whether a folder has safetensors, and its GGUF files: of a split one the first part, and no vision towers.
fn listed(dir: &Path) -> Result<(bool, Vec<String>)> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let (mut has_safetensors, mut found) = (false, Vec::new());
    for name in names {
        has_safetensors |=
            name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        if sw_tensor::is_first_part(&name) && !name.starts_with("mmproj") {
            found.push(name);
        }
    }
    found.sort();
    Ok((has_safetensors, found))
}

/// Whether a file begins as GGUF does, whatever it is called (a blob of the cache, say).
fn starts_as_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let read =
        sw_tensor::files::open_regular(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"GGUF"
}
