//! A GGUF file with the types of Q4_K_M beside the same shape in BF16: memory when it is opened (what the program holds then,
//! and by how much its private pages grew) and after a detection, and tokens per second of detection, in turn.
//!
//! Files with random weights are made in the folder that `SW_BENCH_DIR` names, else in the system's temporary one, and stay there. The
//! shape is that of Llama-7B with as many layers as an argument says (2): `cargo bench -p sw-benches --bench gguf -- 4`.

use std::{alloc::System, time::Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use sw_benches::{Shape, median, tokens};
use sw_detect::{DetectOptions, detect};
use sw_model::Model;
use sw_tensor::{isa_name, machine};

/// Tokens of the prompt; the default prompt of detection has about so many.
const TOKENS: usize = 12;
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

fn main() {
    // As the programs do: the calling thread computes, too.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global().expect("the first use of threads");
    let mut arguments = std::env::args().skip(1);
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
        // Once before, so that what the process itself allocates is not counted.
        drop(Model::open(&path).expect("the file opens"));
        let (before, held, clock) = (private_kib(), held_kib(), Instant::now());
        let model = Model::open(&path).expect("the file opens");
        let (ms, opened) = (clock.elapsed().as_secs_f64() * 1e3, private_kib());
        println!(
            "{kind:7} opened in {ms:.1} ms, {} KiB held, private pages {} KiB more",
            held_kib() - held,
            opened.saturating_sub(before)
        );
        models.push((kind, model, Vec::new()));
    }
    let prompt = tokens(TOKENS);
    let mut options = DetectOptions::default();
    options.max_rounds = 1;
    for sample in 0..SAMPLES {
        for (kind, model, rates) in &mut models {
            let clock = Instant::now();
            let report = detect(model, &prompt, &options).expect("a detection");
            let rate = (report.rounds * TOKENS) as f64 / clock.elapsed().as_secs_f64();
            if sample == 0 {
                println!(
                    "{kind:7} private memory after a detection {} KiB",
                    private_kib()
                );
            } else {
                rates.push(rate);
            }
        }
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    for (kind, _, rates) in &models {
        let (middle, best) = (median(rates), best(rates));
        println!("{kind:7} detection: {middle:6.1} tokens/s, at best {best:6.1}");
    }
    let ratios: Vec<f64> = models[1]
        .2
        .iter()
        .zip(&models[0].2)
        .map(|(q, b)| q / b)
        .collect();
    println!(
        "Q4_K_M / BF16: {:.2} (median of neighbours' ratios), at best {:.2}",
        median(&ratios),
        best(&models[1].2) / best(&models[0].2)
    );
}
