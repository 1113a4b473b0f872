//! A sequence that is continued token by token: its rows are those of one pass over all of it, its keys and values grow in place,
//! and what shared its beginning keeps it. A process of its own, for its allocator counts.

use std::{alloc::System, path::Path};

use ndarray::Array2;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use sw_model::{Error, Model, Precision, Sampling, Seq};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn open(name: &str) -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    Model::open(golden.join(name)).unwrap()
}

fn bits(rows: &Array2<f32>) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

fn on_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.unwrap().install(f)
}

#[test]
fn growing_changes_no_row_and_no_clone() {
    let tokens: Vec<u32> = (0..80).map(|i| i * 11 % 64).collect();
    for name in [
        "llama",
        "mistral",
        "phi3",
        "gemma3_text",
        "gpt_neox",
        "mixtral",
    ] {
        let model = open(name);
        let run = |tokens, prefix| model.forward(&[Seq { tokens, prefix }], &mut ()).unwrap();
        let whole = run(&tokens, None);
        let mut grown = model.prefix(None, &tokens[..5], &mut ()).unwrap();
        let beginning = grown.clone();
        for (i, token) in tokens.iter().enumerate().skip(5) {
            let row = model.extend_in_place(&mut grown, &[*token], &mut ());
            let expected = whole.select(ndarray::Axis(0), &[i]);
            assert_eq!(bits(&row.unwrap()), bits(&expected), "{name}, token {i}");
        }
        assert_eq!((beginning.len(), grown.len()), (5, 80));
        let rest: Vec<usize> = (5..80).collect();
        let again = run(&tokens[5..], Some(&beginning));
        assert_eq!(
            bits(&again),
            bits(&whole.select(ndarray::Axis(0), &rest)),
            "{name}"
        );
        // What another precision computed does not fit.
        let other = model.with_precision(Precision::Bfloat16);
        let refused = other.extend(Some(&beginning), &tokens[5..], &mut ());
        assert!(matches!(refused, Err(Error::Prefix { .. })));
        let kept = model.extend_in_place(&mut grown, &[1_000_000], &mut ());
        assert!(matches!(kept, Err(Error::TokenId { .. })));
        assert_eq!(grown.len(), 80);
    }
}

/// Bytes that are allocated while tokens are added one by one.
fn growing_by(model: &Model, kv: &mut sw_model::Kv, tokens: &[u32]) -> usize {
    let before = COUNTING.stats();
    for token in tokens {
        model.extend_in_place(kv, &[*token], &mut ()).unwrap();
    }
    let used = COUNTING.stats() - before;
    used.bytes_allocated + used.bytes_reallocated.unsigned_abs()
}

#[test]
fn a_token_copies_nothing_of_what_came_before() {
    on_threads(1, || {
        let model = open("llama");
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

#[test]
fn the_same_seed_gives_the_same_tokens_at_every_number_of_threads() {
    for precision in [Precision::Float32, Precision::Bfloat16] {
        let model = open("llama").with_precision(precision);
        let prompt: Vec<u32> = (0..20).map(|i| i * 5 % 64).collect();
        let draw = |threads, seed, top_p| {
            on_threads(threads, || {
                let sampling = Sampling::new(1.5, top_p, seed).unwrap();
                let mut hook = ();
                let new = model.decoding(&prompt, Some(sampling), &mut hook).unwrap();
                new.take(30).collect::<Result<Vec<u32>, _>>().unwrap()
            })
        };
        let first = draw(1, 7, 0.9);
        for threads in [2, 3] {
            assert_eq!(draw(threads, 7, 0.9), first);
        }
        assert_ne!(draw(1, 8, 0.9), first);
        // A nucleus of one token is the most probable one.
        let greedy = on_threads(1, || model.generate(&prompt, 30, &mut ()).unwrap());
        assert_eq!(draw(2, 9, 1e-9), greedy);
    }
}
