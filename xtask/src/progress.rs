//! Progress on stderr: a bar where somebody watches, nothing where nobody does.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};
use sw_eval::Status;

/// One bar for one setting on one task.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(label: &str, task: &str) -> Self {
        let bar = ProgressBar::new(0);
        let style =
            "{prefix:<40} {bar:20} {percent:>3}%  {pos}/{len} tokens  {per_sec}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
        bar.set_prefix(format!("{label}: {task}"));
        Self(bar)
    }

    pub(crate) fn update(&self, status: Status) -> ControlFlow<()> {
        self.0.set_length(status.tokens as u64);
        self.0.set_position(status.tokens_done as u64);
        ControlFlow::Continue(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
