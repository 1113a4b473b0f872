//! LoRA and DoRA: against finite differences, merged against unmerged, and to files and back.

mod dice;
mod tuning;

use std::collections::BTreeMap;
use std::path::Path;

use sw_model::{Linear, LinearAt, Model, TensorAt};
use sw_train::mapped::{Text, backward};
use sw_train::tune::{
    Adapter, AdapterOptions, Change, Example, Trained, Trainer, merged, unmerged, write_adapters,
};
use tuning::{ADAM, CLIP, TEXTS, adapters, batch, bits, logits, model, trained};

#[test]
fn a_fresh_adapter_changes_nothing_and_a_trained_one_merges() {
    // S8.
    let (_dir, model) = model(true);
    let base = logits(&model, &TEXTS);
    for dora in [false, true] {
        let what = Trained::Adapters {
            options: adapters(dora),
            seed: 3,
        };
        let fresh = Trainer::new(&model, &what, ADAM, CLIP).unwrap();
        let now = logits(fresh.model(), &TEXTS);
        // DoRA multiplies each channel by a norm over itself: one rounding of each output, through few layers.
        let bound = if dora { 1e-4 } else { 0.0 };
        for (a, b) in base.iter().zip(&now) {
            assert!((a - b).abs() <= bound, "{dora} {a} {b}");
        }
        let trainer = trained(&model, &what, 10);
        let apart = logits(trainer.model(), &TEXTS);
        assert!(base.iter().zip(&apart).any(|(a, b)| (a - b).abs() > 1e-2));
        let unmerged = unmerged(&model, trainer.adapters()).unwrap();
        assert_eq!(logits(&unmerged, &TEXTS), apart);
        let together = logits(&merged(&model, trainer.adapters()).unwrap(), &TEXTS);
        for (a, b) in apart.iter().zip(&together) {
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{dora} {a} {b}");
        }
        // The model of a product that asks for its matrix agrees, too.
        let at = LinearAt::dense(1, Linear::Up);
        let w = trainer.model().weight_at(at).unwrap();
        let twin = trainer.adapters()[&at].merged(model.weight_at(at).unwrap());
        assert_eq!(w.get(3, 4), twin.get(3, 4));
    }
}

#[test]
fn adapters_have_the_slope_of_the_loss_with_the_norm_held() {
    // S8: with DoRA's norm held constant, and through it only for the magnitudes and LoRA.
    let (_dir, model) = model(true);
    let texts: Vec<Example> = batch(1).unwrap();
    let texts: Vec<Text<'_>> = texts.iter().map(Text::from).collect();
    let loss = |model: &Model| {
        let mut none = sw_train::tune::BlockGradients::zeros(model, &BTreeMap::new());
        backward(model, &texts, &mut none).unwrap()
    };
    for dora in [false, true] {
        let what = Trained::Adapters {
            options: adapters(dora),
            seed: 3,
        };
        let mut trainer = trained(&model, &what, 5);
        let before = trainer.adapters().clone();
        let mut loose = Trainer::new(&model, &what, ADAM, 1e9).unwrap();
        std::mem::swap(&mut loose, &mut trainer);
        let dir = tempfile::tempdir().unwrap();
        loose.save_state(&dir.path().join("s")).unwrap();
        trainer.load_state(&dir.path().join("s")).unwrap();
        trainer.step(&texts, 8, 0.0).unwrap();
        for at in [
            LinearAt::dense(0, Linear::V),
            LinearAt::dense(2, Linear::Down),
        ] {
            let w = model.weight_at(at).unwrap();
            // The gains as they are, whatever A and B become.
            let gains = |adapter: &Adapter| {
                let m = adapter.merged(w);
                let v = Adapter {
                    magnitude: None,
                    ..adapter.clone()
                };
                let v = v.merged(w);
                (0..w.rows())
                    .map(|r| m.get(r, 0) / v.get(r, 0))
                    .collect::<Vec<f32>>()
            };
            let held = gains(&before[&at]);
            let moved_loss = |adapter: &Adapter, hold: bool| {
                let mut values = vec![0.0; w.rows() * w.cols()];
                let plain = Adapter {
                    magnitude: None,
                    ..adapter.clone()
                };
                let matrix = match hold {
                    true => plain.merged(w),
                    false => adapter.merged(w),
                };
                matrix.widen(0..w.rows(), 0..w.cols(), &mut values);
                if hold {
                    let rows = values.chunks_mut(w.cols()).zip(&held);
                    rows.for_each(|(row, g)| row.iter_mut().for_each(|v| *v *= g));
                }
                let all = merged(&model, &before).unwrap();
                let mat = sw_model::Mat::from_f32(w.rows(), w.cols(), values);
                let replaced = all.replaced(|here, _| {
                    Ok::<_, sw_model::Error>((here == at).then(|| mat.clone()))
                });
                loss(&replaced.unwrap())
            };
            let epsilon = 1e-2f32;
            let check = |slope: f32, change: &dyn Fn(&mut Adapter, f32), hold: bool| {
                let at = |by: f32| {
                    let mut adapter = before[&at].clone();
                    change(&mut adapter, by);
                    moved_loss(&adapter, hold)
                };
                let found = (at(epsilon) - at(-epsilon)) / f64::from(2.0 * epsilon);
                assert!(
                    (found - f64::from(slope)).abs() < 2e-3,
                    "{dora} {found} {slope}"
                );
            };
            use sw_train::tune::Param::{LoraA, LoraB, Magnitude};
            let of = |param| trainer.gradient().get(param)[0].1.clone();
            let (a, b) = (of(LoraA(at)), of(LoraB(at)));
            check(a[(1, 5)], &|x, by| x.a[(1, 5)] += by, true);
            check(b[(7, 0)], &|x, by| x.b[(7, 0)] += by, true);
            if dora {
                let m = of(Magnitude(at));
                let change = |x: &mut Adapter, by: f32| {
                    x.magnitude.as_mut().unwrap()[(0, 3)] += by;
                };
                check(m[(0, 3)], &change, false);
            }
        }
    }
}

#[test]
fn adapters_go_to_files_and_back() {
    let (_dir, model) = model(true);
    for dora in [false, true] {
        let what = Trained::Adapters {
            options: adapters(dora),
            seed: 3,
        };
        let trainer = trained(&model, &what, 3);
        let dir = tempfile::tempdir().unwrap();
        let options = adapters(dora);
        write_adapters(&model, trainer.adapters(), &options, "base", dir.path()).unwrap();
        let read = Change::read(&model, dir.path()).unwrap();
        assert_eq!(read, Change::Adapters(trainer.adapters().clone()));
    }
}

fn refused(model: &Model, dir: &Path, field: &str, value: serde_json::Value) -> String {
    let path = dir.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config[field] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    let error = Change::read(model, dir).unwrap_err().to_string();
    std::fs::write(&path, text).unwrap();
    error
}

#[test]
fn what_is_not_known_of_an_adapter_is_refused_by_name() {
    let (_dir, model) = model(true);
    let what = Trained::Adapters {
        options: adapters(false),
        seed: 3,
    };
    let trainer = Trainer::new(&model, &what, ADAM, CLIP).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_adapters(&model, trainer.adapters(), &adapters(false), "base", dir).unwrap();
    for (field, value) in [
        ("peft_type", "IA3".into()),
        ("bias", "all".into()),
        ("modules_to_save", vec!["lm_head"].into()),
        ("fan_in_fan_out", true.into()),
        ("lora_alpha", "eight".into()),
    ] {
        let error = refused(&model, dir, field, value);
        assert!(error.contains(field), "{error}");
    }
    // DoRA without magnitudes; a rank that does not fit; a folder of nothing.
    let error = refused(&model, dir, "use_dora", true.into());
    assert!(error.contains("lora_magnitude_vector"), "{error}");
    let error = Change::read(&model, &dir.join("none"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    let wide = AdapterOptions {
        rank: 9,
        ..adapters(false)
    };
    let what = Trained::Adapters {
        options: wide,
        seed: 0,
    };
    let error = Trainer::new(&model, &what, ADAM, CLIP)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("rank 9: expected 1 to 8"), "{error}");
    // Values that are no numbers are not trained on.
    let mut broken = model.clone();
    broken
        .change(TensorAt::FinalNorm, |values| values[0] = 3e38)
        .unwrap();
    let mut trainer = Trainer::new(&broken, &Trained::Full, ADAM, CLIP).unwrap();
    let examples = batch(0).unwrap();
    let texts: Vec<Text<'_>> = examples.iter().map(Text::from).collect();
    assert!(trainer.step(&texts, 8, 0.1).is_err());
    assert_eq!(bits(trainer.model()), bits(&broken));
}
