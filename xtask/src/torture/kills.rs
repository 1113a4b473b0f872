//! Kills and signals.

use std::{
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};

use super::{
    Extent, Row, Try,
    jobs::{Job, Scene},
    run::{ended, is_one_line, spawn, succeeds},
};

pub(super) const ROWS: [(&str, Try); 3] = [
    (
        "killed at every system call that changes a file",
        at_every_call,
    ),
    ("killed at random moments, again and again", at_random),
    ("SIGINT, SIGTERM, SIGHUP at random moments", signalled),
];

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn at_every_call(_: &Scene, _: &mut Extent, row: &mut Row) -> Result<()> {
    row.note = "only tried on Linux on x86-64".into();
    Ok(())
}

/// Every job, killed before its first such call, its second, and so on; in the short form before every n-th, and all of the
/// last ones, where names change.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn at_every_call(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    use super::trace;
    let traced = |job: &Job, dir: &std::path::Path| -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("traced-sw")
            .args(job.args(dir))
            .env_remove("SW_ISA");
        let null = std::process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null());
        Ok(command)
    };
    let mut notes = Vec::new();
    for job in &scene.jobs {
        let dir = job.folder()?;
        let (calls, status) = trace::run(&mut traced(job, dir.path())?, 0)?;
        ensure!(status.success(), "{} under a tracer: {status}", job.name);
        notes.push(format!("{}: {calls}", job.name));
        let first_of_last = calls.saturating_sub(12);
        let step = extent.of(1, 1 + calls / 8);
        for at in (1..=calls).filter(|at| at % step == 0 || *at > first_of_last) {
            let dir = job.folder()?;
            let (_, status) = trace::run(&mut traced(job, dir.path())?, at)?;
            if status.success() {
                continue; // it made fewer calls this time
            }
            let outcome = job
                .nothing_half(dir.path())
                .and_then(|()| job.goes_on(dir.path()));
            row.tried(outcome.map_err(|e| e.context(format!("{} before call {at}", job.name))));
        }
    }
    row.note = format!("calls: {}", notes.join("; "));
    Ok(())
}

/// Kills that meet a running process; between two of them the folder is left as it is.
fn at_random(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let each = extent.kills.div_ceil(scene.jobs.len());
    let mut killed = 0;
    for job in &scene.jobs {
        let whole = {
            let dir = job.folder()?;
            succeeds(&mut job.command(dir.path())?)?
        };
        let (mut done, mut dir) = (0, job.folder()?);
        while done < each {
            let mut child = spawn(&mut job.command(dir.path())?)?;
            sleep(moment(extent, whole));
            child.kill()?;
            let (code, stderr) = ended(child)?;
            if code == 0 {
                dir = job.folder()?; // it had ended before
                continue;
            }
            (done, killed) = (done + 1, killed + 1);
            if code > 0 {
                row.tried(Err(anyhow!("{}: exit code {code}: {stderr}", job.name)));
                continue;
            }
            let half = job.nothing_half(dir.path());
            let outcome = match done % 4 {
                0 => half.and_then(|()| job.goes_on(dir.path())),
                _ => half,
            };
            row.tried(outcome.map_err(|e| e.context(job.name)));
            if done % 4 == 0 {
                dir = job.folder()?;
            }
        }
    }
    row.note = format!("{killed} kills; every fourth is followed by a run to the end");
    Ok(())
}

fn moment(extent: &mut Extent, whole: Duration) -> Duration {
    let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(extent.below(micros + micros / 8))
}

fn send(child: &Child, signal: &str) -> Result<()> {
    let id = child.id().to_string();
    // It may have ended.
    Command::new("kill")
        .args([signal, &id])
        .stderr(std::process::Stdio::null())
        .status()?;
    Ok(())
}

/// A signal ends a command or is too late; either way the same command leaves what it should.
fn signalled(scene: &Scene, extent: &mut Extent, row: &mut Row) -> Result<()> {
    let mut met = 0;
    for job in &scene.jobs {
        let whole = {
            let dir = job.folder()?;
            succeeds(&mut job.command(dir.path())?)?
        };
        for i in 0..extent.of(24, 3) {
            let dir = job.folder()?;
            let child = spawn(&mut job.command(dir.path())?)?;
            sleep(moment(extent, whole));
            send(&child, ["-INT", "-TERM", "-HUP"][i % 3])?;
            let end = ended(child)?;
            met += usize::from(end.0 != 0);
            let ended_well = match end.0 {
                1 => is_one_line(&end).and_then(|()| job.is_tidy(dir.path())), // it ends after a step, and says so
                _ => Ok(()),
            };
            let outcome = ended_well
                .and_then(|()| job.nothing_half(dir.path()))
                .and_then(|()| job.goes_on(dir.path()));
            row.tried(outcome.map_err(|e| e.context(job.name)));
        }
    }
    row.note = format!("{met} met a running process");
    Ok(())
}
