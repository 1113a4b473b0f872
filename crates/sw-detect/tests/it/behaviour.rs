//! What surrounds the search: rankings, traces, sinks, several prompts, the directory.

use sw_detect::{
    DEFAULT_PROMPT, DetectOptions, Directory, ExpertOptions, Match, PROMPTS, RankOptions, Role,
    SinkOptions, detect, detect_prompt, encode, invariance, pruned, rank_rows, sinks,
    super_experts, trace,
};
use sw_model::{Error, Linear, Model};
use sw_tensor::Mat;

use crate::planted::{Plant, Planted, Shape, write};

fn planted(plant: Plant, seed: u64) -> (Planted, Model) {
    let dir = tempfile::tempdir().unwrap();
    let planted = write(dir.path(), Shape::Llama, plant, seed);
    let model = Model::open(dir.path()).unwrap(); // mapped: the files may go
    (planted, model)
}

#[test]
fn the_weights_alone_rank_the_planted_row_first() {
    for seed in 0..20 {
        let (planted, model) = planted(Plant::One, seed);
        let (layer, _, row, _) = planted.super_weights[0];
        let ranked = rank_rows(&model, &RankOptions::default()).unwrap();
        assert_eq!(
            (ranked[0].layer, ranked[0].row),
            (layer, row),
            "seed {seed}: {ranked:?}"
        );
        assert!(
            ranked[0].ratio > 12.0 && ranked[0].ratio > 2.0 * ranked[1].ratio,
            "seed {seed}: {ranked:?}"
        );
        assert_eq!(ranked.len(), RankOptions::default().top);
    }
}

#[test]
fn a_trace_follows_the_super_activation_until_it_is_cancelled() {
    let (planted, model) = planted(Plant::OneAndCanceller, 2);
    let report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
    let (weight, canceller) = (&report.super_weights[0], &report.cancellers[0]);
    let before = trace(&model, &planted.tokens, weight.token, weight.row).unwrap();
    let without = pruned(&model, &report.super_weights).unwrap();
    let after = trace(&without, &planted.tokens, weight.token, weight.row).unwrap();
    assert_eq!(before.layers[weight.layer].down_out, weight.down_out);
    assert!(before.layers[weight.layer].value.abs() > 0.9 * weight.down_out.abs());
    assert_eq!(before.layers[weight.layer].largest.channel, weight.row);
    assert!(after.layers[weight.layer].value.abs() < 0.2 * weight.down_out.abs());
    assert!(canceller.layer > weight.layer && canceller.down_out * weight.down_out < 0.0);
    for (l, point) in before.layers.iter().enumerate() {
        assert_eq!(point.layer, l);
        if l < weight.layer {
            assert_eq!(point, &after.layers[l], "nothing changes before the edit");
        }
    }
}

#[test]
fn uniform_attention_has_the_importance_of_the_harmonic_number() {
    let (_, model) = planted(Plant::Nothing, 1);
    // Without queries all scores are zero.
    let uniform = model
        .replaced::<Error>(|_, linear, old| {
            let zero = || Mat::from_f32(old.rows(), old.cols(), vec![0.0; old.rows() * old.cols()]);
            Ok((linear == Linear::Q).then(zero))
        })
        .unwrap();
    let text: Vec<u32> = (0..64).collect();
    let found = sinks(&uniform, &[text.clone(), text], &SinkOptions::default()).unwrap();
    let harmonic: f64 = (1..=64).map(|i| 1.0 / f64::from(i)).sum();
    assert!(
        (found.importance - harmonic / 64.0).abs() < 1e-6,
        "{}",
        found.importance
    );
    assert!((found.importance - 0.07412).abs() < 5e-6);
    assert_eq!(found.share, 0.0);
    assert!(
        found
            .heads
            .iter()
            .all(|h| (h.importance - harmonic / 64.0).abs() < 1e-6)
    );
}

#[test]
fn a_planted_sink_counts() {
    // Token 0 is visible to one query only in a text of one token: its importance is 1 in every head.
    let (planted, model) = planted(Plant::Nothing, 1);
    let found = sinks(
        &model,
        &[planted.tokens[..1].to_vec()],
        &SinkOptions::default(),
    )
    .unwrap();
    assert_eq!((found.share, found.importance), (1.0, 1.0));
    let mut options = SinkOptions::default();
    options.token = 1;
    let problem = sinks(&model, &[planted.tokens[..1].to_vec()], &options)
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("at least 2 token(s), found 1"),
        "{problem}"
    );
}

#[test]
fn several_prompts_find_the_same() {
    let (planted, model) = planted(Plant::TwoInOneRow, 4);
    let prompts: Vec<Vec<u32>> = (0..5)
        .map(|i| [&planted.tokens[..], &[10 + i, 20 + i]].concat())
        .collect();
    let found = invariance(&model, &prompts, &DetectOptions::default()).unwrap();
    assert!(found.invariant, "{found:?}");
    assert_eq!(found.super_weights.len(), 2);
    assert!(
        found
            .super_weights
            .iter()
            .all(|s| s.prompts == [0, 1, 2, 3, 4])
    );
}

#[test]
fn ten_prompts_on_a_published_checkpoint() {
    let Some(model) = crate::tinystories::open() else {
        return;
    };
    let prompts: Vec<_> = PROMPTS.iter().map(|p| encode(&model, p).unwrap()).collect();
    let found = invariance(&model, &prompts, &DetectOptions::default()).unwrap();
    let first = &found.super_weights[0];
    assert_eq!(
        (first.layer, first.row, first.col, first.prompts.len()),
        (0, 88, 165, 10),
        "{found:?}"
    );
}

#[test]
fn a_detection_can_be_added_to_the_directory_and_verified() {
    let (planted, model) = planted(Plant::OneAndCanceller, 2);
    let report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
    let shipped = Directory::shipped();
    let nothing = shipped.verify(&model, "planted", &report).unwrap();
    assert_eq!((nothing.matched, nothing.unlisted.len()), (Match::None, 1));

    let directory = shipped.with("our/planted", &model, &report);
    assert_eq!(
        directory.super_weights.len(),
        shipped.super_weights.len() + 2
    );
    assert_eq!(
        directory.with("our/planted", &model, &report),
        directory,
        "nothing is added twice"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("directory.json");
    std::fs::write(&path, serde_json::to_string(&directory).unwrap()).unwrap();
    let directory = Directory::read(&path).unwrap();
    for (name, matched) in [("our/planted", Match::Name), ("elsewhere", Match::Shape)] {
        let found = directory.verify(&model, name, &report).unwrap();
        assert_eq!(
            (found.matched, found.models.as_slice()),
            (matched, &["our/planted".to_owned()][..])
        );
        assert!(found.unlisted.is_empty() && found.entries.iter().all(|e| e.agrees == Some(true)));
        assert!(found.entries[0].detected && found.entries[0].entry.role == Role::SuperWeight);
        assert!(found.entries[1].canceller && found.entries[1].entry.role == Role::Canceller);
    }
    let outside = shipped
        .verify(&model, "huggyllama/llama-7b", &report)
        .unwrap_err()
        .to_string();
    assert!(
        outside.contains("layers[2].down_proj[3968, 7003]"),
        "{outside}"
    );

    std::fs::write(&path, "{\"models\": 3}").unwrap();
    let broken = Directory::read(&path).unwrap_err().to_string();
    assert!(
        broken.contains("directory.json") && !broken.contains('\n'),
        "{broken}"
    );
}

#[test]
fn bad_input_gets_one_line() {
    let (planted, model) = planted(Plant::Nothing, 1);
    let options = DetectOptions::default();
    let lines = [
        detect(&model, &[], &options).unwrap_err().to_string(),
        detect(&model, &[1, 64], &options).unwrap_err().to_string(),
        detect_prompt(&model, DEFAULT_PROMPT, &options)
            .unwrap_err()
            .to_string(),
        trace(&model, &planted.tokens, 99, 0)
            .unwrap_err()
            .to_string(),
        trace(&model, &planted.tokens, 0, 32)
            .unwrap_err()
            .to_string(),
        super_experts(&model, &planted.tokens, &ExpertOptions::default())
            .unwrap_err()
            .to_string(),
    ];
    let expected = [
        "expected at least 1 token(s), found 0",
        "token id 64 at position 1 is beyond the vocabulary of 64",
        "tokenizer.json",
        "expected at least 100 token(s)",
        "channel 32: expected 0 to 31",
        "expected a mixture of experts",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected) && !line.contains('\n'), "{line}");
    }
}
