//! Disks without room.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use super::{
    Extent, Row, Try,
    jobs::{Job, Scene},
    run::{ended, is_one_line, spawn},
};

pub(super) const ROWS: [(&str, Try); 1] = [("a disk without room, of every size", full)];

/// A small file system of its own in memory; unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where this process may mount nothing.
    fn new(kilobytes: usize) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let options = format!("size={kilobytes}k,mode=755");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path());
        let mounted = mount.stderr(Stdio::null()).status();
        Ok(mounted.is_ok_and(|s| s.success()).then_some(Self(dir)))
    }

    fn grow(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=64m"]).arg(self.0.path());
        ensure!(mount.status()?.success(), "cannot enlarge the file system");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Every job on disks from nearly nothing to what it needs: one line, nothing half, and with more room it is done. Where this
/// process may mount nothing, a limit on the size of a file stands in.
fn full(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let mut mounted = true;
    let mut refused = 0;
    for job in &scene.jobs {
        let steps = extent.of(32, 4);
        let most = job.kilobytes() * 5 / 4 + 64;
        for step in 0..steps {
            let size = 8 + most * step / steps;
            let outcome = match Disk::new(job.kilobytes_before() + size)? {
                Some(disk) => on_disk(job, disk.0.path(), || disk.grow(), &mut refused),
                None => {
                    mounted = false;
                    limited(job, size, &mut refused)
                }
            };
            row.tried(outcome.map_err(|e| e.context(format!("{} with {size} KiB", job.name))));
        }
    }
    let kind = match mounted {
        true => "file systems in memory",
        false => "limits on a file's size (nothing may be mounted here)",
    };
    row.note = format!("{kind}; {refused} did not fit");
    Ok(())
}

fn on_disk(
    job: &Job,
    dir: &Path,
    grow: impl Fn() -> Result<()>,
    refused: &mut usize,
) -> Result<()> {
    job.prepare(dir)?;
    let end = ended(spawn(&mut job.command(dir)?)?)?;
    if end.0 == 0 {
        return job.is_done(dir);
    }
    *refused += 1;
    is_one_line(&end)?;
    job.nothing_half(dir)?;
    grow()?;
    job.goes_on(dir)
}

fn limited(job: &Job, size: usize, refused: &mut usize) -> Result<()> {
    let dir = job.folder()?;
    let inner = job.command(dir.path())?;
    let mut command = Command::new("bash");
    let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", size.min(1 << 20));
    command
        .args(["-c", &limit, "bash"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let end = ended(spawn(&mut command)?)?;
    if end.0 == 0 {
        return job.is_done(dir.path());
    }
    *refused += 1;
    is_one_line(&end)?;
    job.nothing_half(dir.path())?;
    job.goes_on(dir.path())
}

/// The size of what lies in a folder.
pub(super) fn kilobytes(files: &super::run::Tree) -> usize {
    files
        .values()
        .map(|bytes| bytes.len().div_ceil(4096) * 4)
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_whole_pages() {
        let files = [
            ("a".to_owned(), vec![0; 4097]),
            ("b".to_owned(), Vec::new()),
        ];
        assert_eq!(super::kilobytes(&files.into()), 8);
    }
}
