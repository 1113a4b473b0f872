//! A peer: a process that answers line by line.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// A process that answers line by line.
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) process: Child,
    pub(super) to: ChildStdin,
    pub(super) from: BufReader<ChildStdout>,
}

impl Peer {
    pub(super) fn start(command: &mut Command, name: &str) -> Result<Peer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .with_context(|| command.get_program().display().to_string())?;
        let (to, from) = (process.stdin.take(), process.stdout.take());
        let (Some(to), Some(from)) = (to, from) else {
            bail!("no pipes")
        };
        let mut peer = Peer {
            name: name.to_owned(),
            process,
            to,
            from: BufReader::new(from),
        };
        let first = peer.line()?;
        if first != "ready" {
            bail!("{name}: expected \"ready\", found {first:?}");
        }
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("{} ended: {}", self.name, self.process.wait()?);
        }
        Ok(line.trim().to_owned())
    }

    /// The numbers that it answers, once its threads have come to rest.
    pub(super) fn ask(&mut self, command: &str) -> Result<Vec<f64>> {
        /// Threads of a peer that are done wait for more work for some milliseconds, each on a core.
        const REST: Duration = Duration::from_millis(50);
        writeln!(self.to, "{command}")?;
        let line = self.line()?;
        thread::sleep(REST);
        let numbers = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<f64>, _>>();
        let numbers = numbers.with_context(|| format!("{}: {command}: {line}", self.name))?;
        if numbers.is_empty() {
            bail!("{}: {command}: no answer", self.name);
        }
        Ok(numbers)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
