//! Quantizers on a 4096 x 11008 matrix (the down projection of a 7B model), beside a plain copy of the same bytes.
//!
//! "fake" works in place, "pack" into new memory, "repack" into memory that was used before, as the copy does.
//!
//! Every measurement alternates with a copy in the same loop, so that a shared machine slows both alike, and the table at
//! the end, which is the record, also compares the processor time of all threads (Linux), which waiting for a busy core
//! does not change. `cargo bench -p sw-benches --bench quant --features simd`

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use half::bf16;
use rayon::prelude::*;
use sw_quant::{Dtype, Grouping, Levels, Real, Scheme, fake_quantize, quantize};

const SHAPE: [usize; 2] = [4096, 11008];

/// One line of the record.
struct Line {
    name: String,
    bytes: usize,
    copy: Time,
    work: Time,
}

/// On the clock, and on the processors.
#[derive(Clone, Copy, Default)]
struct Time {
    wall: Duration,
    cpu: Duration,
}

/// The time of `f`; of processor time only what the kernel says.
fn time(f: impl FnOnce()) -> Time {
    let (start, cpu) = (Instant::now(), cpu_time());
    f();
    Time {
        wall: start.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    }
}

/// Processor time of all threads so far, from `schedstat`; zero where there is none.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn median(times: &[Time]) -> Time {
    let middle = |of: fn(&Time) -> Duration| {
        let mut times: Vec<Duration> = times.iter().map(of).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Time {
        wall: middle(|t| t.wall),
        cpu: middle(|t| t.cpu),
    }
}

fn copy<T: Real>(from: &[T], to: &mut [T]) {
    const CHUNK: usize = 1 << 16;
    to.par_chunks_mut(CHUNK)
        .zip(from.par_chunks(CHUNK))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// Values of a fixed generator, roughly normal.
fn matrix<T: Real>() -> Vec<T> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..SHAPE[0] * SHAPE[1])
        .map(|_| T::from_f32(0.02 * (uniform() + uniform() + uniform())))
        .collect()
}

fn bench<T: Real>(criterion: &mut Criterion, lines: &mut Vec<Line>) {
    let (w, mut work, mut other) = (matrix::<T>(), matrix::<T>(), matrix::<T>());
    let bytes = size_of_val(&w[..]);
    let dtype = if T::DTYPE == Dtype::F32 {
        "f32"
    } else {
        "bf16"
    };
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a thread pool");
        let mut group = criterion.benchmark_group(format!("{dtype}/{threads}-thread"));
        group
            .throughput(Throughput::Bytes(bytes as u64))
            .sample_size(10);
        group
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(1200));
        for (grouping_name, grouping) in [
            ("tensor", Grouping::Tensor),
            ("row", Grouping::Row),
            ("flat-128", Grouping::flat(128)),
        ] {
            for bits in [8, 4] {
                let scheme = Scheme::new(Levels::asymmetric(bits), grouping);
                for operation in ["fake", "pack", "repack"] {
                    let mut packed = quantize(&w, SHAPE, &scheme, &[]).ok();
                    let (mut copies, mut works) = (Vec::new(), Vec::new());
                    let id = BenchmarkId::new(operation, format!("{bits}-bit/{grouping_name}"));
                    group.bench_function(id, |bencher| {
                        bencher.iter_custom(|iterations| {
                            let mut total = Duration::ZERO;
                            for _ in 0..iterations {
                                copies.push(time(|| pool.install(|| copy(&w, &mut other))));
                                black_box(&other);
                                let took = time(|| {
                                    pool.install(|| match operation {
                                        "fake" => drop(black_box(fake_quantize(
                                            &mut work,
                                            SHAPE,
                                            &scheme,
                                            &[],
                                        ))),
                                        "pack" => {
                                            drop(black_box(quantize(&w, SHAPE, &scheme, &[])));
                                        }
                                        _ => {
                                            packed = packed.take().and_then(|old| {
                                                old.recycle(&w, SHAPE, &scheme, &[]).ok()
                                            });
                                            black_box(&packed);
                                        }
                                    });
                                });
                                works.push(took);
                                total += took.wall;
                            }
                            total
                        });
                    });
                    if !works.is_empty() {
                        let name =
                            format!("{dtype} | {threads} | {operation} | {bits} | {grouping_name}");
                        lines.push(Line {
                            name,
                            bytes,
                            copy: median(&copies),
                            work: median(&works),
                        });
                    }
                }
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut lines = Vec::new();
    bench::<f32>(&mut criterion, &mut lines);
    bench::<bf16>(&mut criterion, &mut lines);
    criterion.final_summary();

    println!(
        "\nGB/s of the matrix's bytes, medians; the copy is the one measured in turn with each line.\n"
    );
    println!(
        "| dtype | threads | operation | bits | group | ms | GB/s | copy GB/s | of copy | of copy, processor time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for Line {
        name,
        bytes,
        copy,
        work,
    } in &lines
    {
        let speed = |time: Duration| *bytes as f64 / time.as_secs_f64() / 1e9;
        let (wall, cpu) = (
            speed(work.wall) / speed(copy.wall),
            speed(work.cpu) / speed(copy.cpu),
        );
        let (ms, fast, plain) = (
            work.wall.as_secs_f64() * 1e3,
            speed(work.wall),
            speed(copy.wall),
        );
        println!("| {name} | {ms:.1} | {fast:.2} | {plain:.2} | {wall:.2} | {cpu:.2} |");
    }
}
