//! Quantized models as integer arithmetic: what it computes is what the simulation computes.

use std::{ops::ControlFlow, path::Path};

use sw_eval::{DataDir, Divergence, Metric, Options, Runtime, divergence, evaluate};
use sw_intervene::Intervention;
use sw_model::{Mat, Model};

fn model(name: &str) -> Model {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let golden = root.join("crates/sw-model/tests/golden").join(name);
    let dir = if name == "nano" {
        root.join("nano/model")
    } else {
        golden
    };
    Model::open(dir).unwrap()
}

/// The same numbers stored in f32, so that a simulated weight is not rounded once more to the checkpoint's type.
fn in_f32(model: &Model) -> Model {
    let wide = |_, w: &Mat| {
        let values = w.to_f32_vec();
        Ok::<_, sw_model::Error>(Some(Mat::from_f32(w.rows(), w.cols(), values)))
    };
    model.replaced(wide).unwrap()
}

fn plan(text: &str) -> Vec<Intervention> {
    serde_json::from_str(text).unwrap()
}

/// The plan as it stands, and as integers.
fn both(model: &Model, text: &str) -> [Runtime; 2] {
    let integer = text.replace(r#""simulated""#, r#""integer""#);
    assert_ne!(integer, text);
    [plan(text), plan(&integer)].map(|plan| Runtime::new(model, &plan).unwrap())
}

fn texts(model: &Model) -> Vec<Vec<u32>> {
    let vocab = model.spec().vocab_size as u32;
    let token = |text: u32, i: u32| {
        let hash = (text * 7919 + i * 104_729).wrapping_mul(2_654_435_761);
        (hash >> 8) % vocab
    };
    let text = |t| {
        (0..60)
            .map(|i| if i == 0 { 0 } else { token(t, i) })
            .collect()
    };
    (0..4).map(text).collect()
}

/// How far the arithmetic moves the predictions, and how far the quantization itself.
fn moved(model: &Model, text: &str) -> [Divergence; 2] {
    let [simulated, integer] = both(model, text);
    let original = Runtime::new(model, &[]).unwrap();
    let texts = texts(model);
    [&integer, &original].map(|other| divergence(&simulated, other, &texts).unwrap())
}

const HOLD: &str = r#"[{"layer": 0, "linear": "o_proj", "row": 1, "col": 2}, {"layer": 1, "linear": "o_proj", "row": 3, "col": 3}]"#;

const WEIGHTS: [&str; 7] = [
    r#"{"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "tensor"}}"#,
    r#"{"levels": {"kind": "symmetric", "bits": 4}, "grouping": {"kind": "row"}}"#,
    r#"{"levels": {"kind": "asymmetric", "bits": 4}, "grouping": {"kind": "tile", "rows": 8, "cols": 8, "tail": "short"}}"#,
    r#"{"levels": {"kind": "asymmetric", "bits": 4, "zero": "integer"}, "grouping": {"kind": "tile", "rows": 1, "cols": 16, "tail": "short"}}"#,
    r#"{"levels": {"kind": "asymmetric", "bits": 8}, "grouping": {"kind": "flat", "len": 4}}"#,
    r#"{"levels": {"kind": "asymmetric", "bits": 4}, "grouping": {"kind": "flat", "len": 480, "tail": "short"}}"#,
    r#"{"levels": {"kind": "symmetric", "bits": 4}, "grouping": {"kind": "tensor"}, "clip": {"kind": "z_score", "z": 3.0}}"#,
];

/// Weights alone: a product's activations are rounded to 16 bits, an error of about 3e-5 (docs/numerics.md). A few layers
/// make some 1e-4 of it in a log-probability, and the divergence is half the square of that: less than 1e-6.
#[test]
fn weights_as_codes_predict_what_the_simulation_predicts() {
    for name in ["llama", "gpt2", "phi3", "gpt_neox", "mixtral", "olmo2"] {
        let model = in_f32(&model(name));
        for scheme in WEIGHTS {
            // 480 elements are whole rows, or lie in one, in this model alone.
            if scheme.contains("480") && name != "llama" {
                continue;
            }
            let text = format!(
                r#"[{{"kind": "quantize_weights", "scheme": {scheme}, "hold": {HOLD}, "arithmetic": "simulated"}}]"#
            );
            let [found, whole] = moved(&model, &text);
            assert!(found.kl_mean.abs() < 1e-6, "{name} {scheme}: {found:?}");
            assert!(whole.kl_mean > 1e-5, "the quantization shows: {whole:?}");
        }
    }
}

fn w8a8(pick: &str, levels: &str, hold: &str) -> String {
    let weights = r#"{"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "tensor"}}"#;
    let acts = format!(
        r#"{{"levels": {{"kind": "{levels}", "bits": 8}}, "grouping": {{"kind": "row"}}}}"#
    );
    format!(
        r#"[{{"kind": "quantize_weights", "scheme": {weights}, "hold": {hold}, "arithmetic": "simulated"}},
            {{"kind": "quantize_activations", "recipe": {{"scheme": {acts}, "pick": {{"kind": "{pick}"}}}}, "arithmetic": "simulated"}}]"#
    )
}

/// Weights and activations: sums are the same integers, and what differs first are roundings of floats, 1e-7 of a value.
/// An activation that lies so near the middle between two codes gets the other one: of values in 127 steps, a few in
/// 100,000 (a few in 10,000 in a deep layer). Each moves by a whole step, twelve times the mean square of all others'
/// rounding, so the divergence between the two is of the order of 1/100 of the quantization's own, mostly far less.
#[test]
fn bytes_predict_what_the_simulation_predicts() {
    for name in ["nano", "llama", "gpt2", "phi3", "gpt_neox", "olmo2"] {
        let model = in_f32(&model(name));
        for pick in ["none", "largest", "row_largest"] {
            for levels in ["symmetric", "asymmetric"] {
                for hold in ["[]", HOLD] {
                    let [found, whole] = moved(&model, &w8a8(pick, levels, hold));
                    assert!(
                        found.kl_mean.abs() < whole.kl_mean / 50.0,
                        "{name} {pick} {levels} {hold}: {found:?} of {whole:?}"
                    );
                }
            }
        }
    }
}

/// On 1500 tokens of the embedded checkpoint. Codes that differ move a token's log-probability by some 0.02, the square
/// root of twice the divergence above, and a mean of 1500 by 5e-4: four times that is allowed. Weights alone have no codes
/// to differ in. The checkpoint as it is stored, in BF16, is looser: there simulated weights are rounded once more.
#[test]
fn perplexities_are_those_of_the_simulation() {
    let model = model("nano");
    let data = DataDir::folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/data"));
    let perplexity = |model: &Model, text: &str| {
        let mut options = Options::default();
        options.limit = Some(12);
        options.interventions = plan(text);
        let go_on = &mut |_: sw_eval::Status| ControlFlow::Continue(());
        let results = evaluate(model, &["wikitext2"], &data, &options, go_on).unwrap();
        results.get("wikitext2", Metric::Perplexity).unwrap().value
    };
    let int4 = r#"[{"kind": "quantize_weights", "scheme": {"levels": {"kind": "asymmetric", "bits": 4}, "grouping": {"kind": "tile", "rows": 1, "cols": 32}}, "arithmetic": "simulated"}]"#;
    let plans = [
        (w8a8("none", "symmetric", "[]"), 2e-3),
        (w8a8("largest", "symmetric", "[]"), 2e-3),
        (int4.to_owned(), 1e-4),
    ];
    let wide = in_f32(&model);
    for (text, most) in plans {
        for (model, most) in [(&wide, most), (&model, 5e-3)] {
            let integer = text.replace(r#""simulated""#, r#""integer""#);
            let [simulated, integer] = [&text, &integer].map(|t| perplexity(model, t));
            assert!(
                (integer / simulated - 1.0).abs() < most,
                "{text}: {simulated}, {integer}"
            );
        }
    }
}
