//! A process that is killed at a system call of its own, one after the other.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// In the process that is traced: it stops until its tracer goes on.
pub(super) fn stop_for_tracer() -> Result<()> {
    ptrace::traceme().context("this system lets no process be traced")?;
    raise(Signal::SIGSTOP)?;
    Ok(())
}

/// Whether a call changes files or their names (of the calls of the thread that writes; those of others change none).
fn changes(regs: &libc::user_regs_struct) -> bool {
    let call = regs.orig_rax as i64;
    let makes = |flags: u64| flags as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0;
    match call {
        libc::SYS_open => makes(regs.rsi),
        libc::SYS_openat => makes(regs.rdx),
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev => regs.rdi > 2,
        libc::SYS_mkdir | libc::SYS_mkdirat => true,
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => true,
        libc::SYS_unlink | libc::SYS_unlinkat | libc::SYS_rmdir => true,
        libc::SYS_ftruncate | libc::SYS_fallocate | libc::SYS_copy_file_range => true,
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_flock => true,
        libc::SYS_chmod | libc::SYS_fchmod | libc::SYS_fchmodat => true,
        _ => false,
    }
}

/// Runs a command that stops for its tracer; before its call number `at` (from 1) that changes something, it is killed.
/// How many of these calls it made, and how it ended.
pub(super) fn run(command: &mut Command, at: usize) -> Result<(usize, ExitStatus)> {
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(pid, None)?;
    ensure!(
        matches!(stopped, WaitStatus::Stopped(_, Signal::SIGSTOP)),
        "it did not stop for its tracer: {stopped:?}"
    );
    ptrace::setoptions(
        pid,
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL,
    )?;
    let (mut calls, mut inside, mut signal) = (0, false, None);
    loop {
        ptrace::syscall(pid, signal.take())?;
        match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) => {
                inside = !inside;
                if inside && changes(&ptrace::getregs(pid)?) {
                    calls += 1;
                    if calls == at {
                        kill(pid, Signal::SIGKILL)?;
                        return Ok((calls, died(pid)?));
                    }
                }
            }
            WaitStatus::Stopped(_, found) => signal = Some(found),
            WaitStatus::Exited(_, code) => return Ok((calls, ExitStatus::from_raw(code << 8))),
            WaitStatus::Signaled(_, found, _) => {
                return Ok((calls, ExitStatus::from_raw(found as i32)));
            }
            _ => {}
        }
    }
}

/// Waits for the end of a process that was killed.
fn died(pid: Pid) -> Result<ExitStatus> {
    loop {
        match waitpid(pid, None)? {
            WaitStatus::Exited(_, code) => return Ok(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, found, _) => return Ok(ExitStatus::from_raw(found as i32)),
            _ => {}
        }
    }
}
