//! From the MODEL or dataset argument of a program to a directory: itself, or a snapshot in the Hugging Face cache.

use std::{
    env,
    path::{Path, PathBuf},
};

use sw_tensor::files;

use crate::error::{Error, Result};

/// What kind of repository is looked up in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repo {
    /// `models--ORG--NAME`, or `models--NAME`.
    Model,
    /// `datasets--ORG--NAME`, or `datasets--NAME`.
    Dataset,
}

/// A model argument: an existing directory or GGUF file, else `ORG/NAME` or `ORG/NAME@REVISION` in the Hugging Face cache. The
/// oldest repositories have no organization: `gpt2`.
///
/// # Errors
/// [`Error::NotFound`] names every place searched, and the command that would fetch the model.
pub fn locate_model(model: &str) -> Result<PathBuf> {
    if files::is_there(model).map_err(|e| Error::io(model, e))? {
        return Ok(model.into());
    }
    let (name, revision) = model.split_once('@').unwrap_or((model, "main"));
    let mut searched = vec![PathBuf::from(model)];
    snapshot(Repo::Model, name, revision, &mut searched).ok_or_else(|| Error::NotFound {
        model: model.into(),
        searched,
    })
}

/// A dataset repository, `ORG/NAME` or an old one's `NAME`, in the Hugging Face cache.
pub fn locate_dataset(name: &str) -> Option<PathBuf> {
    snapshot(Repo::Dataset, name, "main", &mut Vec::new())
}

fn snapshot(
    kind: Repo,
    name: &str,
    revision: &str,
    searched: &mut Vec<PathBuf>,
) -> Option<PathBuf> {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |p: &&str| !p.is_empty() && !p.starts_with('.');
    if parts.len() > 2 || !parts.iter().all(plain) || !is_plain_revision(revision) {
        return None;
    }
    let kind = match kind {
        Repo::Model => "models",
        Repo::Dataset => "datasets",
    };
    let folder = format!("{kind}--{}", parts.join("--"));
    let root = hub_cache()?.join(folder);
    searched.push(root.clone());
    let commit = files::read_text_at_most(root.join("refs").join(revision), 1 << 10);
    let dir = root
        .join("snapshots")
        .join(commit.as_deref().map_or(revision, str::trim));
    dir.is_dir().then_some(dir)
}

/// The cache folder, from the environment: the one place where this library reads it.
fn hub_cache() -> Option<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")))
}

/// A branch, tag or commit: nothing that leaves the cache.
fn is_plain_revision(revision: &str) -> bool {
    let mut parts = Path::new(revision).components();
    !revision.is_empty() && parts.all(|c| matches!(c, std::path::Component::Normal(_)))
}
