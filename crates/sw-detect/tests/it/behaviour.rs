//! What surrounds the search: rankings, traces, sinks, several prompts, the directory.

use sw_detect::{
    Candidate, DEFAULT_PROMPT, DetectOptions, Directory, Effect, ExpertOptions, Match, PROMPTS,
    ProofOptions, RankOptions, Role, SinkOptions, detect, detect_prompt, encode, invariance,
    measure, prove, pruned, rank_rows, sinks, super_experts, trace,
};
use sw_model::{EditOp, Error, Linear, Model, WeightCoord, WeightEdit};
use sw_tensor::Mat;

use crate::planted::{Plant, Planted, Shape, write};

fn planted(plant: Plant, seed: u64) -> (Planted, Model) {
    planted_in(Shape::Llama, plant, seed)
}

fn planted_in(shape: Shape, plant: Plant, seed: u64) -> (Planted, Model) {
    let dir = tempfile::tempdir().unwrap();
    let planted = write(dir.path(), shape, plant, seed);
    let model = Model::open(dir.path()).unwrap(); // mapped: the files may go
    (planted, model)
}

#[test]
fn the_weights_alone_rank_the_planted_row_first() {
    for seed in 0..20 {
        for shape in [Shape::Llama, Shape::Olmo, Shape::Phi3, Shape::Mixtral] {
            let (planted, model) = planted_in(shape, Plant::One, seed);
            let (layer, expert, row, _) = planted.super_weights[0];
            let ranked = rank_rows(&model, &RankOptions::default()).unwrap();
            let what = format!("{shape:?} seed {seed}: {ranked:?}");
            assert_eq!(
                (ranked[0].layer, ranked[0].expert, ranked[0].row),
                (layer, expert, row),
                "{what}"
            );
            assert!(
                ranked[0].ratio > 12.0 && ranked[0].ratio > 2.0 * ranked[1].ratio,
                "{what}"
            );
            assert_eq!(ranked.len(), RankOptions::default().top);
        }
    }
}

#[test]
fn the_expert_that_holds_the_super_weight_is_a_super_expert() {
    for seed in 0..20 {
        let (planted, model) = planted_in(Shape::Mixtral, Plant::One, seed);
        let (layer, expert, row, _) = planted.super_weights[0];
        let found = super_experts(&model, &planted.tokens, &ExpertOptions::default()).unwrap();
        let all: Vec<_> = found.iter().filter(|o| o.super_expert).collect();
        assert_eq!(all.len(), 1, "seed {seed}: {found:?}");
        assert_eq!(
            (
                all[0].layer,
                Some(all[0].expert),
                all[0].channel,
                all[0].token
            ),
            (layer, expert, row, 0)
        );
    }
}

#[test]
fn a_proof_agrees_with_edited_models_in_every_shape() {
    for shape in [Shape::Llama, Shape::Olmo, Shape::Phi3, Shape::Mixtral] {
        let (planted, model) = planted_in(shape, Plant::TwoInOneRow, 5);
        let mut report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
        let texts = [planted.tokens.clone(), (1..20).collect(), vec![1, 9, 8, 7]];
        prove(&model, &mut report, &texts, &ProofOptions::default()).unwrap();
        let nll = |model: &Model| {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let scores = model.score_texts(&texts, &mut ()).unwrap();
            let all: Vec<f64> = scores.iter().flatten().map(|s| -s.log_prob).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let close = |effect: &Effect, edits: Vec<WeightEdit>, what: &str| {
            let expected = nll(&model.edited(&edits).unwrap()) - nll(&model);
            assert!(
                (effect.nll - expected).abs() < 1e-4,
                "{shape:?} {what}: {} and {expected}",
                effect.nll
            );
        };
        let edit = |c: &Candidate, row, col, op| WeightEdit {
            coord: WeightCoord {
                row,
                col,
                ..c.coord()
            },
            op,
        };
        close(
            &report.proof.as_ref().unwrap().joint,
            prunes(&report.super_weights),
            "joint",
        );
        for (i, c) in report.super_weights.iter().enumerate() {
            let effects = c.effects.as_ref().unwrap();
            close(&effects.zero, prunes(&report.super_weights[i..=i]), "zero");
            close(
                effects.flip.as_ref().unwrap(),
                vec![edit(c, c.row, c.col, EditOp::Scale(-1.0))],
                "flip",
            );
            close(
                effects.row.as_ref().unwrap(),
                (0..64)
                    .map(|k| edit(c, c.row, k, EditOp::Set(0.0)))
                    .collect(),
                "row",
            );
            close(
                effects.neuron.as_ref().unwrap(),
                (0..32)
                    .map(|j| edit(c, j, c.col, EditOp::Set(0.0)))
                    .collect(),
                "neuron",
            );
            let others = [&report.super_weights[..i], &report.super_weights[i + 1..]].concat();
            close(
                effects.leave_one_out.as_ref().unwrap(),
                prunes(&others),
                "leave one out",
            );
            for control in effects
                .random
                .iter()
                .chain(&effects.largest)
                .chain(&effects.same_row)
            {
                close(
                    &control.effect,
                    vec![edit(c, control.row, control.col, EditOp::Set(0.0))],
                    "control",
                );
            }
            assert_eq!(effects.random.len(), 3);
            assert!(c.verdict.is_some());
        }
    }
}

fn prunes(candidates: &[Candidate]) -> Vec<WeightEdit> {
    candidates
        .iter()
        .map(|c| WeightEdit::prune(c.coord()))
        .collect()
}

#[test]
fn weights_that_are_named_are_measured_as_if_detected() {
    for shape in [Shape::Llama, Shape::Mixtral] {
        let (planted, model) = planted_in(shape, Plant::One, 3);
        let options = DetectOptions::default();
        let report = detect(&model, &planted.tokens, &options).unwrap();
        let coord = report.super_weights[0].coord();
        let other = WeightCoord {
            row: (coord.row + 1) % 32,
            ..coord
        };
        let measured = measure(&model, &planted.tokens, &[other, coord], &options).unwrap();
        assert_eq!(measured[1], report.super_weights[0]);
        assert!(
            measured[0].weak && measured[0].coord() == other,
            "{:?}",
            measured[0]
        );

        let line = |coord| {
            measure(&model, &planted.tokens, &[coord], &options)
                .unwrap_err()
                .to_string()
        };
        let beyond = line(WeightCoord { layer: 5, ..coord });
        assert!(beyond.contains("layer 5: expected 0 to 4"), "{beyond}");
        assert!(
            line(WeightCoord { row: 32, ..coord }).contains("outside the tensor's shape [32, 64]")
        );
        if shape == Shape::Mixtral {
            let gate = WeightCoord {
                linear: Linear::Gate,
                ..coord
            };
            assert!(line(gate).contains("whose inputs are seen"));
        } else {
            let up = WeightCoord {
                linear: Linear::Up,
                row: coord.col,
                col: coord.row,
                ..coord
            };
            let measured = measure(&model, &planted.tokens, &[up], &options).unwrap();
            assert_eq!(measured[0].value, model.value(up).unwrap());
        }
    }
}

#[test]
fn without_a_plant_ratios_stay_well_below_the_threshold() {
    let mut largest = [0f32; 2];
    for seed in 0..50 {
        for shape in [Shape::Llama, Shape::Olmo, Shape::Phi3] {
            let (planted, model) = planted_in(shape, Plant::Nothing, seed);
            let report = detect(&model, &planted.tokens, &DetectOptions::default()).unwrap();
            for l in &report.profile {
                for (largest, peak) in largest.iter_mut().zip([l.down_in, l.down_out]) {
                    *largest = largest.max(peak.value.abs() / peak.median);
                }
            }
        }
    }
    println!("largest ratios at inputs and outputs: {largest:?}");
    assert!(
        largest[1] < 0.6 * DetectOptions::default().relative,
        "{largest:?}"
    );
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
        .replaced::<Mat, Error>(|at, old| {
            let zero = || Mat::from_f32(old.rows(), old.cols(), vec![0.0; old.rows() * old.cols()]);
            Ok((at.linear == Linear::Q).then(zero))
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

#[test]
fn options_may_be_given_in_part_and_unknown_ones_are_named() {
    let options: DetectOptions =
        serde_json::from_str(r#"{"mode": "relative", "relative": 5.0}"#).unwrap();
    assert_eq!(
        (options.relative, options.absolute),
        (5.0, DetectOptions::default().absolute)
    );
    let error = serde_json::from_str::<ProofOptions>(r#"{"min_efect": 0.1}"#)
        .unwrap_err()
        .to_string();
    assert!(error.contains("min_efect"), "{error}");
}
