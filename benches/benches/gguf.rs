//! A GGUF file with the types of Q4_K_M beside the same shape in BF16: memory when it is opened, in a process of its own (what it
//! holds then, and by how much its private pages grew), and after a detection; tokens per second of detection, in turn, with
//! opening and closing the file, and on pages that are mapped already.
//!
//! Files with random weights are made in the folder that `SW_BENCH_DIR` names, else in the system's temporary one, and stay there. The
//! shape is that of Llama-7B with as many layers as an argument says (2): `cargo bench -p sw-benches --bench gguf -- 4`.

use std::{
    alloc::System,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use sw_benches::{Shape, median, tokens};
use sw_detect::{DetectOptions, detect};
use sw_model::Model;
use sw_tensor::{isa_name, machine};

/// Tokens of the prompt; the default prompt of detection has about so many.
const TOKENS: usize = 12;
/// How often each file is opened in a process of its own.
const OPENED: usize = 3;
/// Samples of each file; the first of each is not counted.
const SAMPLES: usize = 8;

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What the program holds of what it has allocated.
fn held_kib() -> isize {
    let stats = COUNTING.stats();
    let held = stats.bytes_allocated as isize - stats.bytes_deallocated as isize;
    held >> 10
}

fn private_kib() -> usize {
    machine::private_bytes().unwrap_or(0) as usize >> 10
}

/// Tokens per second.
#[derive(Default)]
struct Samples {
    /// The file is opened and closed in that time, too.
    whole: Vec<f64>,
    /// The detection runs alone, on pages that are mapped.
    mapped: Vec<f64>,
}

/// Before the name of what a process of its own opens.
const OPEN: &str = "open";

/// Opens a model in a process that does nothing else, and says what that took.
fn open(path: &Path) {
    let (before, held, clock) = (private_kib(), held_kib(), Instant::now());
    let model = Model::open(path).expect("the file opens");
    let (ms, after) = (clock.elapsed().as_secs_f64() * 1e3, private_kib());
    println!(
        "opened in {ms:.1} ms, {} KiB held, private pages {} KiB more",
        held_kib() - held,
        after.saturating_sub(before)
    );
    drop(model);
}

fn main() {
    // As the programs do: the calling thread computes, too.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global().expect("the first use of threads");
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|a| a == OPEN).is_some()
        && let Some(path) = arguments.next()
    {
        return open(path.as_ref());
    }
    let layers = arguments.find_map(|a| a.parse().ok()).unwrap_or(2);
    let name: &'static str = format!("7b{layers}").leak();
    let mut shape = Shape::named("7b4").expect("the shape of Llama-7B");
    (shape.name, shape.layers) = (name, layers);
    let dir = std::env::var_os("SW_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let paths = [
        ("BF16", shape.checkpoint(&dir)),
        ("Q4_K_M", shape.gguf(&dir)),
    ];
    println!(
        "kernel {}, {} threads, {layers} layers of the 7B shape",
        isa_name(),
        rayon::current_num_threads()
    );
    let mut models = Vec::new();
    for (kind, path) in paths {
        let path = path.expect("a file with random weights");
        for _ in 0..OPENED {
            let program = std::env::current_exe().expect("this program");
            let opened = Command::new(program).arg(OPEN).arg(&path).output();
            let said = opened.expect("a process of its own").stdout;
            print!("{kind:7} {}", String::from_utf8_lossy(&said));
        }
        models.push((kind, path, Samples::default()));
    }
    let prompt = tokens(TOKENS);
    let mut options = DetectOptions::default();
    options.max_rounds = 1;
    for sample in 0..SAMPLES {
        for (kind, path, samples) in &mut models {
            // As `sw detect` does it, then once more with all pages mapped.
            let clock = Instant::now();
            let model = Model::open(path).expect("the file opens");
            let detect = || detect(&model, &prompt, &options).expect("a detection");
            let first = detect();
            let after = private_kib();
            let again = Instant::now();
            let second = detect();
            let again = again.elapsed();
            drop(model);
            let whole = clock.elapsed() - again;
            let rate =
                |rounds: usize, time: Duration| (rounds * TOKENS) as f64 / time.as_secs_f64();
            if sample == 0 {
                println!("{kind:7} private memory after a detection {after} KiB");
            } else {
                samples.whole.push(rate(first.rounds, whole));
                samples.mapped.push(rate(second.rounds, again));
            }
        }
    }
    let [(_, _, bf16), (_, _, q4)] = &models[..] else {
        unreachable!("two files")
    };
    let kinds = [
        ("opened, detected, closed", &bf16.whole, &q4.whole),
        ("detected, pages mapped", &bf16.mapped, &q4.mapped),
    ];
    for (what, bf16, q4) in kinds {
        let ratios: Vec<f64> = q4.iter().zip(bf16).map(|(q, b)| q / b).collect();
        println!(
            "{what}: BF16 {:.1}, Q4_K_M {:.1} tokens/s, {:.2} (median of neighbours' ratios)",
            median(bf16),
            median(q4),
            median(&ratios)
        );
    }
}
