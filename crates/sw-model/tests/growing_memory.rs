//! Keys and values of a sequence grow in place. One test, in a process of its own, whose allocator counts.

use std::{alloc::System, path::Path};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use sw_model::{Kv, Model};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated while tokens are added one by one.
fn growing_by(model: &Model, kv: &mut Kv, tokens: &[u32]) -> usize {
    let before = COUNTING.stats();
    for token in tokens {
        model.extend_in_place(kv, &[*token], &mut ()).unwrap();
    }
    let used = COUNTING.stats() - before;
    used.bytes_allocated + used.bytes_reallocated.unsigned_abs()
}

#[test]
fn a_token_copies_nothing_of_what_came_before() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(|| {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let model = Model::open(golden.join("llama")).unwrap();
        let spec = model.spec();
        let of_token = 2 * spec.layers.len() * spec.kv_width() * size_of::<f32>();
        let tokens: Vec<u32> = (0..900).map(|i| i * 7 % 64).collect();
        let mut kv = model.prefix(None, &tokens[..100], &mut ()).unwrap();
        let first = growing_by(&model, &mut kv, &tokens[100..200]);
        let last = growing_by(&model, &mut kv, &tokens[200..900]);
        // Copying the prefix for each token would take 500 tokens' memory for each, and a doubling now and then one or two.
        let most = 7 * first + 4 * 900 * of_token;
        assert!(
            last <= most,
            "{last} bytes for 700 tokens, {first} for the first 100"
        );
        assert!(most < 700 * 500 * of_token / 4);
    });
}
