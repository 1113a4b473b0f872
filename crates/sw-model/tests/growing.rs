//! A sequence that is continued token by token: its rows are those of one pass over all of it, and what shared its beginning keeps it.

use std::path::Path;

use ndarray::Array2;
use sw_model::{Error, Kv, Model, Precision, Sampling, Seq};

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
        let run = |tokens: &[u32], kv: Option<&Kv>| {
            model
                .forward(&[Seq::from(tokens).after(kv)], &mut ())
                .unwrap()
        };
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
