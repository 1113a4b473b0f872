//! The census: exact effects, whatever the map, and candidates from all sources.

use sw_detect::{
    CensusOptions, DetectOptions, Proposal, Source, Verdict, census, detect, detect_prompt,
};
use sw_model::{Linear, Model, WeightCoord, WeightEdit};

use crate::planted::{Plant, Shape, write};

/// The mean negative log-likelihood of some texts.
fn nll(model: &Model, texts: &[Vec<u32>]) -> f64 {
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let scores = model.score_texts(&texts, &mut ()).unwrap();
    let all: Vec<f64> = scores.iter().flatten().map(|s| -s.log_prob).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// Every map of a model, split or fused: what the census says of a weight is what the edited model says.
#[test]
fn effects_are_those_of_the_edited_model_in_every_map() {
    for shape in [Shape::Llama, Shape::Olmo, Shape::Phi3, Shape::Mixtral] {
        let dir = tempfile::tempdir().unwrap();
        let planted = write(dir.path(), shape, Plant::TwoInOneRow, 5);
        let model = Model::open(dir.path()).unwrap();
        let texts = [planted.tokens.clone(), (1..30).collect()];
        // The most costly are measured to the end, so each map's weights are tried in a census of their own.
        for linear in Linear::ALL {
            let at = model.linears().find(|at| at.linear == linear);
            let Some(at) = at.filter(|at| at.expert.is_none() || linear == Linear::Down) else {
                continue;
            };
            let [rows, cols] = model.spec().shape(at);
            let proposals: Vec<_> = (0..12)
                .map(|i| Proposal {
                    coord: WeightCoord {
                        layer: at.layer,
                        linear,
                        expert: at.expert,
                        row: i * 7 * rows / 84,
                        col: i * 5 % cols,
                    },
                    source: Source::Gradient,
                    score: 1.0,
                    effect: None,
                })
                .collect();
            let mut report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
            let mut options = CensusOptions::default();
            options.gradients = 0;
            options.short = 64;
            census(
                &model,
                &mut report,
                &proposals,
                &texts[..1],
                &options,
                &mut |_| (),
            )
            .unwrap();
            let mut seen = 0;
            let base = nll(&model, &texts[..1]);
            for p in &report.candidates {
                let Some(effect) = p.effect.filter(|_| p.coord.at() == at) else {
                    continue;
                };
                let edited = model.edited(&[WeightEdit::prune(p.coord)]).unwrap();
                let expected = nll(&edited, &texts[..1]) - base;
                assert!(
                    (effect - expected).abs() < 1e-4,
                    "{shape:?} {}: {effect} and {expected}",
                    p.coord
                );
                seen += 1;
            }
            assert!(seen >= 12, "{shape:?} {linear}: {seen} weights were tried");
        }
    }
}

/// The planted checkpoint's one weight, on the checkpoint's own language.
#[test]
fn the_embedded_checkpoint_has_one_decisive_weight() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model");
    let model = Model::open(dir).unwrap();
    let mut report =
        detect_prompt(&model, sw_detect::DEFAULT_PROMPT, &DetectOptions::default()).unwrap();
    let texts = sw_detect::census_texts(&model, 256).unwrap();
    census(
        &model,
        &mut report,
        &[],
        &texts,
        &CensusOptions::default(),
        &mut |_| (),
    )
    .unwrap();
    let proof = report.proof.as_ref().unwrap();
    let guess = (model.spec().vocab_size as f64).ln();
    assert!(
        proof.nll < 0.5 * guess,
        "{}: not a language that it knows",
        proof.nll
    );
    let [found] = &report.super_weights[..] else {
        panic!("{:#?}", report.super_weights);
    };
    assert_eq!((found.layer, found.row, found.col), (0, 5, 17));
    assert_eq!(found.verdict, Some(Verdict::Decisive));
    let census = report.census.as_ref().unwrap();
    assert!(census.sources.contains(&Source::Gradient));
    assert!(
        census
            .sentence
            .starts_with("Zeroing 1 of 1,311,872 weights"),
        "{}",
        census.sentence
    );
}

/// Random models whose weights have heavy tails: nothing in them is decisive.
#[test]
fn nothing_is_decisive_in_random_models() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let planted = write(dir.path(), Shape::Llama, Plant::Nothing, seed);
        let model = Model::open(dir.path()).unwrap();
        // A cubed normal value has a heavy tail.
        let model = model
            .replaced::<sw_tensor::Mat, sw_model::Error>(|_, w| {
                let mut values = vec![0.0; w.rows() * w.cols()];
                w.widen(0..w.rows(), 0..w.cols(), &mut values);
                let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
                let sd = square.sqrt();
                values
                    .iter_mut()
                    .for_each(|x| *x = (*x / sd).powi(3) * sd / 4.0);
                Ok(Some(sw_tensor::Mat::from_f32(w.rows(), w.cols(), values)))
            })
            .unwrap();
        let mut report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
        let texts = [(1..60).collect::<Vec<u32>>(), (2..50).rev().collect()];
        census(
            &model,
            &mut report,
            &[],
            &texts,
            &CensusOptions::default(),
            &mut |_| (),
        )
        .unwrap();
        assert!(
            report.super_weights.is_empty(),
            "seed {seed}: {:#?}",
            report.super_weights
        );
    }
}
