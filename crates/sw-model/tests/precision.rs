//! `Precision::Bfloat16` rounds what enters linear maps, and nothing else.

use std::path::Path;

use half::bf16;
use ndarray::Array2;
use sw_model::{Error, Hook, LinearAt, Mat, Model, Precision, Seq, Site, SiteView};

fn open(name: &str) -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    Model::open(golden.join(name)).unwrap()
}

fn rounded(w: &Mat) -> Mat {
    let places = (0..w.rows()).flat_map(|r| (0..w.cols()).map(move |c| (r, c)));
    let values = places.map(|(r, c)| bf16::from_f32(w.get(r, c)));
    Mat::from_bf16(w.rows(), w.cols(), values.collect())
}

/// Rounds what linear maps read, by hand.
struct Rounding;

impl Hook for Rounding {
    fn wants(&self, site: Site) -> bool {
        matches!(
            site,
            Site::AttnIn(_) | Site::OIn(_) | Site::MlpIn(_) | Site::DownIn(_)
        )
    }
    fn visit(&mut self, _: Site, mut view: SiteView<'_>) {
        view.data.mapv_inplace(|x| bf16::from_f32(x).to_f32());
    }
}

fn largest(x: &Array2<f32>) -> f32 {
    x.fold(0.0, |max, x| max.max(x.abs()))
}

#[test]
fn it_is_float32_with_inputs_and_weights_that_were_rounded_by_hand() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 64).collect();
    for name in ["llama", "olmo2", "phi3", "gemma3_text", "gpt_neox", "gpt2"] {
        let model = open(name);
        let seqs = [Seq::from(&tokens[..])];
        let exact = model.forward(&seqs, &mut ()).unwrap();
        let low = model.with_precision(Precision::Bfloat16);
        let found = low.forward(&seqs, &mut ()).unwrap();
        let round = |_: LinearAt, w: &Mat| Ok::<_, Error>(Some(rounded(w)));
        let by_hand = model.replaced(round).unwrap();
        let expected = by_hand.forward(&seqs, &mut Rounding).unwrap();
        // A last bit of a sum may carry an activation to the next BF16, which is what the small share allows for.
        let (error, effect) = (&found - &expected, &expected - &exact);
        let norm = |x: &Array2<f32>| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(
            norm(&effect) > 1e-4 * norm(&exact),
            "{name}: nothing was rounded"
        );
        assert!(
            norm(&error) < 0.3 * norm(&effect),
            "{name}: {} of {}",
            norm(&error),
            norm(&effect)
        );
        assert!(largest(&effect) < 0.2 * largest(&exact), "{name}");
        // There and back.
        let back = low.with_precision(Precision::Float32);
        let again = back.forward(&seqs, &mut ()).unwrap();
        assert_eq!(again.mapv(f32::to_bits), exact.mapv(f32::to_bits), "{name}");
    }
}

#[test]
fn a_row_depends_on_itself_alone() {
    let tokens: Vec<u32> = (0..60).map(|i| i * 7 % 64).collect();
    for name in ["llama", "mixtral", "gpt2"] {
        let model = open(name).with_precision(Precision::Bfloat16);
        let whole = model.forward(&[Seq::from(&tokens[..])], &mut ()).unwrap();
        let both = model
            .forward(&[Seq::from(&tokens[..9]), Seq::from(&tokens[..])], &mut ())
            .unwrap();
        for (i, row) in whole.rows().into_iter().enumerate() {
            assert!(
                row.iter()
                    .zip(both.row(9 + i))
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
        let prefix = model.prefix(None, &tokens[..23], &mut ()).unwrap();
        let rest = Seq::from(&tokens[23..]).after(&prefix);
        let rest = model.forward(&[rest], &mut ()).unwrap();
        for (i, row) in rest.rows().into_iter().enumerate() {
            assert!(
                row.iter()
                    .zip(whole.row(23 + i))
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
    }
}
