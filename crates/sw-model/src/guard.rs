//! Libraries that panic on broken files, kept to one line.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Whether a panic of this thread is an answer, not to be printed.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls a library that reads a file. On some broken files it panics where it should refuse; that is `None`, and the panic
/// is not printed.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                print(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let called = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    called.ok()
}
