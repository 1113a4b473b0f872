//! Every family of models can be searched: the small random checkpoints that sw-model is tested with.

use std::path::PathBuf;

use sw_detect::{DetectOptions, RankOptions, detect, measure, profile, rank_rows};
use sw_model::Model;

fn checkpoints() -> Vec<(String, Model)> {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden");
    let mut dirs: Vec<_> = std::fs::read_dir(&golden)
        .expect("the checkpoints of sw-model's tests")
        .map(|entry| entry.expect("an entry").path())
        .filter(|dir| dir.join("config.json").is_file())
        .collect();
    dirs.sort();
    let name = |dir: &PathBuf| {
        dir.file_name()
            .expect("a folder")
            .to_string_lossy()
            .into_owned()
    };
    dirs.iter()
        .map(|dir| (name(dir), Model::open(dir).expect("it opens")))
        .collect()
}

#[test]
fn every_family_is_searched_to_the_end() {
    let all = checkpoints();
    assert!(all.len() > 10);
    for (name, model) in all {
        let tokens: Vec<u32> = (1..10).collect();
        let options = DetectOptions::default();
        let report = detect(&model, &tokens, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            report.complete && report.super_weights.is_empty(),
            "{name}: {report:#?}"
        );
        assert_eq!(report.profile, profile(&model, &tokens).unwrap(), "{name}");
        assert!(
            report
                .profile
                .iter()
                .all(|l| l.down_in.value != 0.0 && l.down_out.value != 0.0),
            "{name}"
        );
        let weak = report
            .weak_candidate
            .unwrap_or_else(|| panic!("{name}: a strongest candidate"));
        assert_eq!(model.value(weak.coord()).unwrap(), weak.value, "{name}");
        assert!(weak.tensor.ends_with(".weight"), "{name}: {}", weak.tensor);
        let measured = measure(&model, &tokens, &[weak.coord()], &options).unwrap();
        assert_eq!(
            (measured[0].value, measured[0].weak),
            (weak.value, true),
            "{name}"
        );
    }
}

#[test]
fn a_ranking_by_weights_alone_needs_a_gated_mlp() {
    for (name, model) in checkpoints() {
        let ranked = rank_rows(&model, &RankOptions::default());
        if model.spec().gated {
            assert!(
                !ranked.unwrap_or_else(|e| panic!("{name}: {e}")).is_empty(),
                "{name}"
            );
        } else {
            let line = ranked.expect_err("no gate").to_string();
            assert!(
                line.contains("layer 0: expected gate, up and down projections"),
                "{line}"
            );
        }
    }
}
