//! A clip is kept only where the model gains, and what a quantization does to a model is measured as told.

use std::{cell::Cell, path::Path};

use sw_intervene::{
    Applied, Export, Intervention, Ranges, Rule, calibrate, check, hold_more, judges,
};
use sw_model::{Bos, Model, Seq, WeightCoord};
use sw_quant::{Clip, Grouping, Levels, Scheme};

fn model() -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden/llama");
    Model::open(golden).expect("a checkpoint")
}

fn export(bits: u8, search: bool) -> Export {
    let mut export = Export::default();
    export.rule = Rule {
        scheme: Scheme::new(Levels::asymmetric(bits), Grouping::Row),
        search,
    };
    export
}

/// Windows of tokens below the vocabulary's size, all different.
fn windows(model: &Model, count: usize) -> Vec<Vec<u32>> {
    let vocabulary = model.spec().vocab_size as u32;
    let token = |w: u32, i: u32| (w * 131 + i * 37 + i * i * 7 + 3) % vocabulary;
    (0..count as u32)
        .map(|w| (0..24).map(|i| token(w, i)).collect())
        .collect()
}

#[test]
fn the_choice_is_what_the_judges_say() {
    let model = model();
    let windows = windows(&model, 6);
    let export = export(3, true);
    let found = calibrate(&model, &export, &windows).expect("calibrated");
    assert!(!found.kept || found.kl_proposed < found.kl_unclipped);
    assert!(!found.export.rule.search && found.export.rule.scheme.clip == Clip::None);
    assert_eq!(found.kept, !found.export.overrides.is_empty());
    for o in &found.export.overrides {
        let rule = o.rule.expect("a clip");
        assert!(rule.scheme.clip == Clip::LeastError && !rule.search);
        assert!(found.export.importance.contains_key(&o.pattern));
    }
    // The windows of the report are those that judged, and the export gives the divergence that decided.
    let judged: Vec<_> = judges(&windows).map(<[u32]>::to_vec).collect();
    assert_eq!(judged, [windows[1].clone(), windows[4].clone()]);
    let measured = check(&model, &found.export, &judged).expect("measured");
    let decided = if found.kept {
        found.kl_proposed
    } else {
        found.kl_unclipped
    };
    assert_eq!(measured.kl, decided);
    assert_eq!(measured.tokens, 2 * 23);
}

#[test]
fn no_clip_is_proposed_where_rules_do_not_ask() {
    let model = model();
    let found = calibrate(&model, &export(4, false), &windows(&model, 3)).expect("calibrated");
    assert!(found.kinds.is_empty() && !found.kept && found.export.overrides.is_empty());
    assert_eq!(found.kl_proposed, found.kl_unclipped);
}

#[test]
fn fewer_bits_are_worse_and_the_worst_matrix_is_named() {
    let model = model();
    let windows = windows(&model, 3);
    let [fine, coarse] =
        [8, 2].map(|bits| check(&model, &export(bits, false), &windows).expect("measured"));
    assert!(fine.kl < coarse.kl && fine.kl >= 0.0);
    assert_eq!(fine.perplexity_before, coarse.perplexity_before);
    assert!(coarse.worst[0].1 > fine.worst[0].1 && coarse.worst.is_sorted_by(|a, b| a.1 >= b.1));
    // The perplexity is that of the model's own scores.
    let texts: Vec<&[u32]> = windows.iter().map(|w| &w[..]).collect();
    let scores = model.score_texts(&texts, &mut ()).expect("scores");
    let sum: f64 = scores.iter().flatten().map(|s| s.log_prob).sum();
    let perplexity = (-sum / coarse.tokens as f64).exp();
    assert!((perplexity / coarse.perplexity_before - 1.0).abs() < 1e-5);
}

#[test]
fn one_window_is_too_few() {
    let model = model();
    let error = calibrate(&model, &export(4, true), &windows(&model, 1)).unwrap_err();
    assert!(error.to_string().contains("at least two"), "{error}");
}

/// The small checkpoint of this repository, which has a tokenizer; skipped where the crate stands alone.
#[test]
fn settings_of_one_model_are_calibrated_once() {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model");
    if !nano.is_dir() {
        println!("skipped: {} is not there", nano.display());
        return;
    }
    let model = Model::open(nano).expect("a checkpoint");
    let reads = Cell::new(0);
    let read = |_: &Path, _| {
        reads.set(reads.get() + 1);
        Ok(vec!["A short text.".to_owned()])
    };
    let smooth = |alpha, bos| Intervention::SmoothQuant {
        alpha,
        calibration: "texts.jsonl".into(),
        samples: 1,
        tokens: 8,
        bos,
    };
    let ranges = Ranges::new(&model);
    let tokens = model
        .tokenizer()
        .expect("a tokenizer")
        .encode("A text.", false);
    let tokens = tokens.expect("tokens");
    let rows = |applied: &Applied| {
        let seq = [Seq::from(&tokens[..])];
        let rows = applied.model().forward(&seq, &mut applied.hook());
        rows.expect("a pass")
    };
    let settings = [
        (vec![smooth(0.5, Bos::Auto)], 1),
        (vec![smooth(0.85, Bos::Auto)], 1),
        (vec![smooth(0.5, Bos::Off)], 2),
        // After another intervention the ranges are others.
        (
            vec![
                Intervention::PruneWeights {
                    coords: vec![WeightCoord::down(0, 1, 2)],
                },
                smooth(0.5, Bos::Auto),
            ],
            3,
        ),
    ];
    for (plan, measured) in settings {
        let applied = Applied::with_ranges(&ranges, &plan, &read).expect("applied");
        assert_eq!(reads.get(), measured);
        let alone = Applied::new(&model, &plan, &|_, _| Ok(vec!["A short text.".to_owned()]));
        assert_eq!(rows(&applied), rows(&alone.expect("applied")));
    }
}

#[test]
fn a_budget_buys_the_weights_whose_rounding_costs_most() {
    let model = model();
    let windows = windows(&model, 9);
    let mut export = export(2, false);
    export.hold = vec![WeightCoord::down(0, 1, 2)];
    let weights = model.linears().filter_map(|at| model.weight_at(at));
    let weights: usize = weights.map(|w| w.rows() * w.cols()).sum();
    let bytes = model
        .linears()
        .find_map(|at| model.weight_at(at))
        .unwrap()
        .dtype()
        .size();
    let more = hold_more(&model, &export, &windows, 2.0).expect("a choice");
    // A place takes 128 bits.
    assert_eq!(more.affordable, weights * 2 / (128 + 8 * bytes));
    assert!(more.kl_before > 0.0 && more.kl_after > 0.0);
    if more.added.is_empty() {
        assert!(more.bits_per_weight == 0.0 && more.export.hold == export.hold);
    } else {
        assert!(more.kl_after < more.kl_before);
        assert!(more.bits_per_weight <= 2.0 && more.bits_per_weight > 1.8);
        assert!(more.added.is_sorted_by(|a, b| a.cost >= b.cost));
        assert_eq!(more.export.hold.len(), 1 + more.added.len());
        let mut coords: Vec<_> = more.export.hold.clone();
        coords.sort();
        coords.dedup();
        assert_eq!(coords.len(), more.export.hold.len());
    }

    let mut packed = export.clone();
    packed.format = sw_intervene::Format::Packed;
    for (export, budget, words) in [
        (&export, 0.0, "expected a number above 0"),
        (&export, f64::NAN, "expected a number above 0"),
        (&packed, 0.1, "the format packed"),
    ] {
        let error = hold_more(&model, export, &windows, budget).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
