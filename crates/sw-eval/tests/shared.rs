//! A real checkpoint on real benchmark files, against lm-evaluation-harness. Skipped where the shared folder is absent:
//! `SW_SHARED`, else `../shared` beside the workspace.
//!
//! `golden/lm_eval.json` holds what lm-eval 0.4.13 with transformers 5.23 (float32) answers, written by
//! `xtask/compare/lm_eval_compare.py run`; the perplexities are those of its `perplexity --limit 8`.

use std::{
    collections::BTreeMap,
    env,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use sw_eval::{
    Bos, DataDir, Dataset, EvalResults, Metric, Options, Runtime, Split, compare, divergence,
    evaluate, read_texts,
};
use sw_intervene::Intervention;
use sw_model::{Model, WeightCoord};

fn shared() -> Option<(Model, DataDir)> {
    open("tinystories-656k")
}

/// A model of the shared folder, and the data beside it.
fn open(model: &str) -> Option<(Model, DataDir)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = env::var_os("SW_SHARED").map_or_else(|| here.join("../../../shared"), PathBuf::from);
    let (model, data) = (root.join("models").join(model), root.join("data"));
    if !(model.exists() && data.is_dir()) {
        println!("skipped: no checkpoint and data in {}", root.display());
        return None;
    }
    Some((Model::open(model).unwrap(), DataDir::folder(data)))
}

fn options(bos: &str, limit: usize) -> Options {
    let mut options = Options::default();
    (options.bos, options.limit, options.bootstrap_iters) =
        (bos.parse().unwrap(), Some(limit), 100);
    options
}

fn run(model: &Model, data: &DataDir, tasks: &[&str], options: &Options) -> EvalResults {
    evaluate(model, tasks, data, options, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

#[test]
fn log_likelihoods_are_the_harness() {
    let Some((model, data)) = shared() else {
        return;
    };
    type Answers = BTreeMap<String, BTreeMap<String, Vec<f64>>>;
    let golden: BTreeMap<String, Answers> =
        serde_json::from_str(include_str!("golden/lm_eval.json")).unwrap();
    for (bos, tasks) in golden {
        for (task, docs) in tasks {
            let limit = docs
                .keys()
                .filter_map(|d| d.parse::<usize>().ok())
                .max()
                .unwrap()
                + 1;
            let results = run(&model, &data, &[&task], &options(&bos, limit));
            for sample in &results.run().tasks[0].samples {
                let expected = &docs[&sample.doc_id.to_string()];
                assert_eq!(sample.resps.len(), expected.len());
                for (found, expected) in sample.resps.iter().zip(expected) {
                    let bound = 2e-3_f64.max(expected.abs() * 1e-6); // a page is tens of thousands of nats
                    assert!(
                        (found.log_prob - expected).abs() < bound,
                        "{task}, bos {bos}, document {}",
                        sample.doc_id
                    );
                }
            }
        }
    }
}

#[test]
fn perplexities_are_the_gptq_protocol() {
    let Some((model, data)) = shared() else {
        return;
    };
    let tasks = ["wikitext2", "c4", "c4_new"];
    for (bos, expected) in [
        ("on", [470.636846, 263.240913, 269.319913]),
        ("off", [474.371694, 263.223246, 266.296816]),
    ] {
        let results = run(&model, &data, &tasks, &options(bos, 8));
        for (task, expected) in tasks.into_iter().zip(expected) {
            let found = results.get(task, Metric::Perplexity).unwrap().value;
            assert!(
                (found / expected - 1.0).abs() < 1e-4,
                "{task}, bos {bos}: {found}, expected {expected}"
            );
        }
    }
}

/// What transformers (5.24) makes of WikiText-2 with the real GGUF file; `golden/gguf_wikitext.py` wrote it.
#[derive(serde::Deserialize)]
struct Wikitext {
    /// How many tokens every 100 rows have, and a digest of their ids.
    tokens: Vec<(usize, String)>,
    /// The perplexity of the first window, of the first two, and so on.
    perplexity: Vec<f64>,
}

#[test]
fn the_gguf_file_has_the_tokens_and_the_perplexity_of_transformers() {
    let Some((model, data)) = open("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let expected: Wikitext =
        serde_json::from_str(include_str!("golden/gguf_wikitext.json")).unwrap();

    let wikitext = Dataset::new("Salesforce/wikitext", Some("wikitext-2-raw-v1"));
    let files = &data.files(&wikitext).unwrap()[&Split::Test];
    let tokenizer = model.tokenizer().unwrap();
    let rows = read_texts(&files[0], 2000).unwrap();
    for (at, (rows, expected)) in rows.chunks(100).zip(&expected.tokens).enumerate() {
        let ids: Vec<u32> = rows
            .iter()
            .flat_map(|row| tokenizer.encode(row, true).unwrap())
            .collect();
        let fnv = |value: u64, id: &u32| (value ^ u64::from(*id)).wrapping_mul(0x100_0000_01b3);
        let digest = ids.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        assert_eq!(
            (ids.len(), format!("{digest:016x}")),
            *expected,
            "rows from {}",
            100 * at
        );
    }

    let windows = 1; // three take more than two minutes without optimisation
    let results = run(&model, &data, &["wikitext2"], &options("auto", windows));
    let found = results.get("wikitext2", Metric::Perplexity).unwrap().value;
    let expected = expected.perplexity[windows - 1];
    assert!(
        (found / expected - 1.0).abs() < 1e-4,
        "{found}, expected {expected}"
    );
}

/// The massive activation of this checkpoint stands at BOS: pruning the weight behind it shows, restoring it helps.
#[test]
fn settings_are_compared() {
    let Some((model, data)) = shared() else {
        return;
    };
    let coords = vec![WeightCoord::down(0, 88, 165)];
    let prune = Intervention::PruneWeights {
        coords: coords.clone(),
    };
    let restore = Intervention::RestoreSuperActivation { coords };
    let plans = [vec![], vec![prune.clone()], vec![prune, restore]];
    let results = plans.clone().map(|interventions| {
        let mut options = options("on", 20);
        options.interventions = interventions;
        run(&model, &data, &["lambada_openai", "wikitext2"], &options)
    });
    assert_eq!(
        results[1].to_json()["super_weight"]["interventions"][0]["kind"],
        "prune_weights"
    );
    let compared = compare(results[0].run(), results[1].run(), 500, 1).unwrap();
    assert_eq!(compared.len(), 2);
    assert!(
        compared
            .iter()
            .all(|c| c.documents == 20 && c.log_likelihood.difference != 0.0)
    );

    let text: Vec<Vec<u32>> = vec![(3..200).collect()];
    let [original, pruned, restored] = plans.map(|plan| Runtime::new(&model, &plan).unwrap());
    let none = divergence(&original, &original, &text).unwrap();
    assert_eq!((none.kl_mean, none.same_top, none.tokens), (0.0, 1.0, 196));
    let (pruned, restored) = (
        divergence(&original, &pruned, &text).unwrap(),
        divergence(&original, &restored, &text).unwrap(),
    );
    assert!(pruned.kl_mean > 0.0 && restored.kl_mean != pruned.kl_mean);
}

#[test]
fn quantization_and_smoothing_as_interventions() {
    let Some((model, data)) = shared() else {
        return;
    };
    let texts = tempfile::tempdir().unwrap();
    let file = texts.path().join("calibration.jsonl");
    std::fs::write(&file, "{\"text\": \"Once upon a time there was a little girl.\"}\n{\"text\": \"They went home.\"}\n").unwrap();
    let json = |text: &str| serde_json::from_str::<Intervention>(text).unwrap();
    let smooth = Intervention::SmoothQuant {
        alpha: 0.5,
        calibration: file,
        samples: 2,
        tokens: 64,
        bos: sw_eval::Bos::Auto,
    };
    let acts = r#"{"kind": "quantize_activations", "recipe": {"scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}, "pick": {"kind": "none"}}}"#;
    let perplexity = |interventions: Vec<Intervention>| {
        let mut options = options("on", 4);
        options.interventions = interventions;
        run(&model, &data, &["wikitext2"], &options)
            .get("wikitext2", Metric::Perplexity)
            .unwrap()
            .value
    };
    let plain = perplexity(vec![]);
    let near = |found: f64, share: f64| {
        assert!(
            (found / plain - 1.0).abs() < share,
            "{found}, without {plain}"
        )
    };
    near(perplexity(vec![smooth.clone()]), 1e-4); // the same function, before anything is rounded
    near(
        perplexity(vec![json(
            r#"{"kind": "quantize_weights", "scheme": {"levels": {"kind": "asymmetric", "bits": 8}}}"#,
        )]),
        0.02,
    );
    near(perplexity(vec![smooth, json(acts)]), 0.05);
    let coarse = perplexity(vec![json(
        r#"{"kind": "quantize_weights", "scheme": {"levels": {"kind": "asymmetric", "bits": 3}, "grouping": {"kind": "tensor"}}}"#,
    )]);
    assert!(coarse > 1.1 * plain, "{coarse}, without {plain}");
}

/// Equal to `auto` here, since this tokenizer adds BOS by itself.
#[test]
fn bos_is_recorded() {
    let Some((model, data)) = shared() else {
        return;
    };
    let [auto, on, off] =
        ["auto", "on", "off"].map(|bos| run(&model, &data, &["piqa"], &options(bos, 3)));
    assert_eq!(auto.results(), on.results());
    assert_ne!(
        on.run().tasks[0].samples[0].resps,
        off.run().tasks[0].samples[0].resps
    );
    assert_eq!(off.to_json()["super_weight"]["bos"], "off");
    assert_eq!(auto.run().options.bos, Bos::Auto);
}
