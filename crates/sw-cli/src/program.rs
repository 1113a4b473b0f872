//! What a program of this workspace does around its work: exit codes, errors in one line, lines on stdout, whole files,
//! threads and progress. `sw` and `cargo xtask` share it.

use std::{
    fmt::Display,
    io::{self, Write},
    num::NonZeroUsize,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Error, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sw_eval::Status;
use sw_tensor::files;

/// Runs a program's work: its exit code is the program's, 1 after an error, which is printed in one line, and 2 where the
/// environment asks for a kernel that this processor does not have. A reader of stdout that has gone away is no error. A file
/// that becomes shorter while it is mapped is an error like the others.
pub fn run(work: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    #[cfg(unix)]
    sw_tensor::report_shortened_files();
    if let Err(error) = sw_tensor::check_isa() {
        tell(format!("error: {error}"));
        return ExitCode::from(2);
    }
    match work() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format!("error: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Characters of an error, at most.
const LINE: usize = 2000;

/// An error and its causes in one line, each said once. What it quotes may come from a stranger's file: control characters
/// are shown by their numbers, and a line that is too long is cut.
pub fn one_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    let line = printable(&line.replace(['\n', '\r', '\t'], " "));
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A text without control characters but newline and tab: the others are shown by their numbers, as in JSON, so that what
/// comes from a stranger's file commands no terminal. Marks that turn the direction of a text are shown so, too.
pub fn printable(text: &str) -> String {
    let commands = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match commands(c) {
            true => shown += &format!("\\u{:04x}", u32::from(c)),
            false => shown.push(c),
        }
    }
    shown
}

fn is_closed_pipe(error: &Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a line to stdout, [`printable`]; a reader that has gone away (`| head`) ends the program quietly.
///
/// # Errors
/// When stdout cannot be written to.
pub fn say(text: impl Display) -> Result<()> {
    let text = printable(&text.to_string());
    writeln!(io::stdout().lock(), "{text}").context("stdout")
}

/// Writes part of a line to stdout, [`printable`], where it is seen at once.
///
/// # Errors
/// When stdout cannot be written to.
pub(crate) fn put(text: impl Display) -> Result<()> {
    let text = printable(&text.to_string());
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes());
    written.and_then(|()| out.flush()).context("stdout")
}

/// Writes a line to stderr, [`printable`]. Where that is not possible, nobody reads it, and the work goes on.
pub fn tell(text: impl Display) {
    let text = printable(&text.to_string());
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a file whole or not at all: beside its place first, renamed when it is on the disk.
///
/// # Errors
/// When the folder cannot be written to; a file that stood there stays as it was.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let written = files::write_whole(path, |file| file.write_all(text.as_bytes()));
    written.with_context(|| path.display().to_string())
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C only makes [`stopped`] true, for whoever works in steps (`after`: what a step is called) and
/// leaves everything whole after one; the second ends the process at once.
pub(crate) fn stop_on_interrupt(after: &'static str) -> Result<()> {
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        tell(format!("stopping after this {after} (once more: at once)"));
    })
    .context("Ctrl-C")
}

/// Whether somebody pressed Ctrl-C.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Worker threads, at most.
const THREADS: usize = 1024;

/// Sets the number of worker threads, one per core where none is given; once, before any work. The calling thread is one of
/// them: one that only waited for the others would have to be woken after each product.
///
/// # Errors
/// Too many threads; when work has begun already.
pub fn set_threads(threads: Option<NonZeroUsize>) -> Result<()> {
    let n = threads.map_or(0, NonZeroUsize::get);
    ensure!(n <= THREADS, "--threads {n}: expected at most {THREADS}");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n);
    pool.use_current_thread()
        .build_global()
        .context("--threads")
}

/// How far an evaluation is, on stderr: a bar where somebody watches, nothing where nobody does; gone when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for one evaluation.
    pub fn new() -> Self {
        Self::styled("{bar:30} {percent:>3}%  {pos}/{len} tokens  {per_sec}  {eta} left")
    }

    /// A bar for one of several evaluations, which stands behind its name.
    pub fn named(name: String) -> Self {
        let bar = Self::styled(
            "{prefix:<40} {bar:20} {percent:>3}%  {pos}/{len} tokens  {per_sec}  {eta} left",
        );
        bar.0.set_prefix(name);
        bar
    }

    fn styled(style: &str) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
        Self(bar)
    }

    /// Shows how far the evaluation is.
    pub fn show(&self, status: Status) {
        self.0.set_length(status.tokens as u64);
        self.0.set_position(status.tokens_done as u64);
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_error_names_is_said_once() {
        let error = anyhow::anyhow!("no such\nfile").context("model: no such\nfile");
        assert_eq!(
            one_line(&error.context("--model x")),
            "--model x: model: no such file"
        );
    }

    #[test]
    fn an_error_commands_no_terminal_and_is_not_endless() {
        let error = anyhow::anyhow!("key \u{1b}]0;title\u{7} \u{9b}2J\t\u{202e}x \u{2603}");
        let expected = r"key \u001b]0;title\u0007 \u009b2J \u202ex ";
        assert_eq!(one_line(&error), format!("{expected}\u{2603}"));
        let line = one_line(&anyhow::anyhow!("\u{2603}".repeat(1 << 20)));
        assert_eq!(line.chars().count(), LINE + 3);
        // What is JSON stays JSON.
        let value = serde_json::json!({"a": "\u{9b}\n"});
        let shown: serde_json::Value =
            serde_json::from_str(&printable(&format!("{value:#}"))).unwrap();
        assert_eq!(shown, value);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_whole(&path, "one").unwrap();
        write_whole(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("no/such/place"), "").is_err());
    }
}
