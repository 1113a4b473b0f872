//! Prefill with full logits: tokens per second at 128, 512 and 2048 tokens, beside what the machine's multiply-add peak
//! would allow, measured after each sample.
//!
//! Checkpoints with random weights are made in the folder that `SW_BENCH_DIR` names, else in the system's temporary one,
//! and stay there. Arguments choose: `cargo bench -p sw-benches --bench forward -- 1b 512`.

use std::time::{Duration, Instant};

use sw_benches::{SHAPES, VOCABULARY, median, tokens};
use sw_model::{Model, Seq};
use sw_tensor::{Precision, isa_name, machine};

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |name: &str| {
        let words: Vec<&str> = name.split(' ').collect();
        arguments.iter().all(|a| words.contains(&a.as_str()))
    };
    let dir = std::env::var_os("SW_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    println!(
        "kernel {}, {} threads",
        isa_name(),
        rayon::current_num_threads()
    );
    for shape in &SHAPES[..2] {
        let precisions = [Precision::Float32, Precision::Bfloat16];
        let lengths = [128, 512, 2048].into_iter();
        let lengths = lengths.flat_map(|n| precisions.map(|p| (n, p)));
        let lengths = lengths.map(|(n, p)| ((n, p), format!("{} {n} {}", shape.name, p.name())));
        let lengths: Vec<_> = lengths.collect();
        if !lengths.iter().any(|(_, name)| wanted(name)) {
            continue;
        }
        let path = shape
            .checkpoint(&dir)
            .expect("a checkpoint with random weights");
        let model = Model::open(path).expect("the checkpoint opens");
        let weights = shape.layers * parameters(shape) + VOCABULARY * shape.hidden;
        for ((n, precision), name) in lengths.iter().filter(|(_, name)| wanted(name)) {
            let model = model.with_precision(*precision);
            let ids = tokens(*n);
            let (mut rates, mut shares) = (Vec::new(), Vec::new());
            for sample in 0..if *n > 1000 { 4 } else { 8 } {
                let start = Instant::now();
                let rows = model
                    .forward(&[Seq::from(ids.as_slice())], &mut ())
                    .expect("a pass");
                let logits = model.logits(rows.view()).expect("logits");
                let rate = *n as f64 / start.elapsed().as_secs_f64();
                assert_eq!(logits.dim(), (*n, VOCABULARY));
                if sample == 0 {
                    continue; // pages that are touched for the first time
                }
                let peak = machine::fma_gflops(Duration::from_millis(100)) * 1e9;
                rates.push(rate);
                shares.push(rate * 2.0 * weights as f64 / peak);
            }
            println!(
                "{name:18} {:8.1} tokens/s   {:.2} times what the multiply-add peak allows the weights   private memory {} MiB",
                median(&rates),
                median(&shares),
                machine::private_bytes().unwrap_or(0) >> 20
            );
        }
    }
}

/// Weights of a layer.
fn parameters(shape: &sw_benches::Shape) -> usize {
    let kv = shape.hidden / shape.heads * shape.kv_heads;
    2 * shape.hidden * (shape.hidden + kv) + 3 * shape.hidden * shape.inner
}
