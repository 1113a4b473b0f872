//! What a process says when a file that it has mapped becomes shorter: the system then kills whoever reads beyond the new
//! end (SIGBUS), without a word.

use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Maps that are known at once; of more, a process says nothing.
const SLOTS: usize = 1024;

/// A map, and the line that is printed when it cannot be read.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    line: AtomicPtr<String>,
}

static MAPS: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        line: AtomicPtr::new(std::ptr::null_mut()),
    }
}; SLOTS];

/// Makes this process say which file it was, and end with exit code 1, when a file that a [`Checkpoint`](crate::Checkpoint)
/// or a [`Gguf`](crate::Gguf) maps becomes shorter while it is read. For programs; libraries leave signals alone.
pub fn report_shortened_files() {
    // SAFETY: the structure is plain data for which zeros are valid; the handler calls what may be called in a handler
    // only (`write`, `_exit`, `pause`, `signal`) and reads atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Whether a thread is saying it; others may be at the same file.
static SAID: AtomicBool = AtomicBool::new(false);

extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the system passes the place of the fault.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &MAPS {
        if slot.start.load(Ordering::Acquire) <= at && at < slot.end.load(Ordering::Acquire) {
            while SAID.swap(true, Ordering::AcqRel) {
                // SAFETY: `pause` may be called in a handler. The thread that came first ends the process.
                unsafe { libc::pause() };
            }
            let line = slot.line.load(Ordering::Acquire);
            // SAFETY: whoever reads a map keeps it alive, and its line with it. `write` and `_exit` may be called here.
            unsafe {
                if let Some(line) = line.as_ref() {
                    libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
                }
                libc::_exit(1);
            }
        }
    }
    // Not from here: the next attempt is answered as the system does.
    // SAFETY: `signal` may be called in a handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// A map's place in the list; given up when dropped.
#[derive(Debug)]
pub(super) struct Listed(Option<usize>);

/// Lists a map of the file at `path`.
pub(super) fn list(bytes: &[u8], path: &Path) -> Listed {
    let range = bytes.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    if start == end {
        return Listed(None);
    }
    let shown: String = path
        .display()
        .to_string()
        .chars()
        .flat_map(char::escape_debug)
        .collect();
    let line = format!(
        "error: {shown}: became shorter while it was read; what was written before is kept: restore the file and run the same command again\n"
    );
    let free = MAPS.iter().position(|slot| {
        let taken = slot
            .end
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    });
    if let Some(slot) = free.map(|i| &MAPS[i]) {
        slot.line
            .store(Box::into_raw(Box::new(line)), Ordering::Release);
        slot.start.store(start, Ordering::Release);
        slot.end.store(end, Ordering::Release);
    }
    Listed(free)
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Some(slot) = self.0.map(|i| &MAPS[i]) else {
            return;
        };
        slot.end.store(1, Ordering::Release); // taken, and without a place
        let line = slot.line.swap(std::ptr::null_mut(), Ordering::AcqRel);
        slot.start.store(0, Ordering::Release);
        // SAFETY: it was boxed by `list`, and taken out of the list by nobody else.
        drop(unsafe { Box::from_raw(line) });
        slot.end.store(0, Ordering::Release);
    }
}
