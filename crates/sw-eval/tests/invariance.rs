//! A row's result does not depend on its company: batches, shared beginnings, threads, the order of requests; bit for bit.

use std::{ops::ControlFlow, path::Path};

use sw_eval::{LanguageModel, PyRandom, Runtime, Span};
use sw_intervene::Intervention;
use sw_model::{Model, WeightCoord};

fn model(name: &str) -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden");
    Model::open(golden.join(name)).unwrap()
}

/// Spans that share beginnings on several levels, among others that share none.
fn spans(vocab: usize, longest: usize) -> Vec<Span> {
    let mut random = PyRandom::new(5);
    let mut tokens = |n: usize| {
        (0..n)
            .map(|_| random.below(vocab) as u32)
            .collect::<Vec<_>>()
    };
    let mut spans = Vec::new();
    let header = tokens(longest / 3);
    for document in 0..6 {
        let question = [&header[..], &tokens(longest / 4)].concat();
        let alike = tokens(2);
        for choice in 0..4 {
            // Some choices begin alike, and what is scored does not begin with the choice everywhere.
            let end = [&alike[..document % 3], &tokens(1 + (document + choice) % 5)].concat();
            spans.push(Span {
                from: question.len() - usize::from(document == choice),
                tokens: [&question[..], &end].concat(),
            });
        }
    }
    for n in [2, 3, longest / 2, longest] {
        spans.push(Span {
            tokens: tokens(n),
            from: 1,
        });
    }
    spans
}

fn bits(runtime: &Runtime, spans: &[Span]) -> Vec<(u64, bool)> {
    let mut found = vec![None; spans.len()];
    let mut sink = |i: usize, score: sw_eval::Score| {
        assert!(
            found[i]
                .replace((score.log_prob.to_bits(), score.greedy))
                .is_none(),
            "answered twice"
        );
        ControlFlow::Continue(())
    };
    runtime.score(spans, &mut sink).unwrap();
    found
        .into_iter()
        .map(|f| f.expect("every span is answered"))
        .collect()
}

fn check(model: &Model, interventions: &[Intervention]) {
    check_spans(model, interventions, 24);
}

/// [`check`] with spans of up to so many tokens.
fn check_spans(model: &Model, interventions: &[Intervention], longest: usize) {
    let runtime = || Runtime::new(model, interventions).unwrap();
    let spans = spans(model.spec().vocab_size, longest);
    // One span at a time, nothing shared: the obvious way.
    let expected: Vec<_> = spans
        .iter()
        .flat_map(|s| bits(&runtime().with_sharing(false), std::slice::from_ref(s)))
        .collect();
    for budget in [1, 7, 64, 4096] {
        for sharing in [false, true] {
            let found = bits(&runtime().with_budget(budget).with_sharing(sharing), &spans);
            assert_eq!(
                found, expected,
                "batches of {budget} tokens, sharing {sharing}"
            );
        }
    }
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(
            pool.install(|| bits(&runtime(), &spans)),
            expected,
            "{threads} threads"
        );
    }
    let backwards: Vec<Span> = spans.iter().rev().cloned().collect();
    let mut found = bits(&runtime(), &backwards);
    found.reverse();
    assert_eq!(found, expected, "in another order");
}

#[test]
fn behind_a_soft_prompt() {
    // One of three tokens' embeddings answers as those tokens before every span do.
    let plain = model("llama");
    let given = [3u32, 1, 4];
    let mut values = Vec::new();
    for id in given {
        let mut row = vec![0.0; plain.spec().hidden_size];
        plain.embedding().row_into(id as usize, &mut row);
        values.extend(row);
    }
    let rows = ndarray::Array2::from_shape_vec((3, plain.spec().hidden_size), values).unwrap();
    let prompted = plain.with_soft_prompt(rows).unwrap();
    check(&prompted, &[]);
    let spans = spans(plain.spec().vocab_size, 20);
    let behind = |span: &Span| Span {
        tokens: [&given[..], &span.tokens].concat(),
        from: 3 + span.from,
    };
    let hard: Vec<Span> = spans.iter().map(behind).collect();
    let runtime = |model: &Model| Runtime::new(model, &[]).unwrap();
    let found = runtime(&prompted);
    assert_eq!(bits(&found, &spans), bits(&runtime(&plain), &hard));
    assert_ne!(bits(&found, &spans), bits(&runtime(&plain), &spans));
    let most = plain.spec().max_positions;
    assert_eq!(found.max_length(), most - 3);
    let rows = runtime(&plain).rows(&hard[0].tokens).unwrap();
    let tail = rows.rows().into_iter().skip(3);
    let rows = found.rows(&spans[0].tokens).unwrap();
    assert!(tail.zip(rows.rows()).all(|(a, b)| a == b));
    assert_eq!(rows.nrows(), spans[0].tokens.len());
}

#[test]
fn families() {
    for name in [
        "llama", "mistral", "gpt2", "gemma2", "mixtral", "olmo2", "phi3", "pr_moe",
    ] {
        check(&model(name), &[]);
    }
}

/// Where the rope's frequencies depend on the length, sharing gives way.
#[test]
fn lengths_that_change_the_rope() {
    for name in ["llama-dynamic", "llama-yarn", "phi3-longrope"] {
        check_spans(&model(name), &[], 24);
        check_spans(&model(name), &[], 48);
    }
}

#[test]
fn interventions() {
    let model = model("llama");
    let coords = vec![WeightCoord::down(0, 1, 2), WeightCoord::down(1, 3, 0)];
    let json = |text: &str| serde_json::from_str::<Intervention>(text).unwrap();
    let prune = Intervention::PruneWeights {
        coords: coords.clone(),
    };
    let restore = Intervention::RestoreSuperActivation {
        coords: coords.clone(),
    };
    check(&model, &[prune.clone(), restore]);
    check(
        &model,
        &[Intervention::ScaleWeights {
            coords,
            factor: 1.5,
        }],
    );
    check(
        &model,
        &[json(
            r#"{"kind": "prune_largest", "select": "global", "count": 20}"#,
        )],
    );
    check(
        &model,
        &[json(
            r#"{"kind": "set_weights", "weights": [{"layer": 1, "linear": "down_proj", "row": 0, "col": 5, "value": 0.75}]}"#,
        )],
    );
    check(
        &model,
        &[json(
            r#"{"kind": "add_constants", "constants": [{"layer": 0, "position": 0, "channel": 3, "value": 2.5}, {"layer": 1, "position": 4, "channel": 1, "value": -1.0}]}"#,
        )],
    );
    let by_token = r#"{"kind": "quantize_activations", "recipe": {"scheme": {"grouping": {"kind": "row"}}, "pick": {"kind": "none"}}}"#;
    check(&model, &[json(by_token)]);
    let whole = r#"{"kind": "quantize_activations", "recipe": {"scheme": {"grouping": {"kind": "tensor"}}, "pick": {"kind": "largest"}}}"#;
    check(&model, &[prune, json(whole)]);
    check(
        &model,
        &[json(r#"{"kind": "quantize_weights", "scheme": {}}"#)],
    );
}

const SUPER: &str = r#"{"layer": 0, "linear": "down_proj", "row": 1, "col": 2}"#;

/// Integers in the places of matrices: weights alone, with activations of each token, of the whole sequence.
#[test]
fn integers() {
    let plan = |text: &str| serde_json::from_str::<Vec<Intervention>>(text).unwrap();
    let int4 = r#"[{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "asymmetric", "bits": 4}, "grouping": {"kind": "row"}}, "hold": [{"layer": 0, "linear": "o_proj", "row": 1, "col": 2}]}]"#;
    let bytes = |recipe: &str| {
        plan(&format!(
            r#"[{{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {{"levels": {{"kind": "symmetric", "bits": 8}}, "grouping": {{"kind": "tensor"}}}}, "hold": [{{"layer": 0, "linear": "down_proj", "row": 1, "col": 2}}]}},
                {{"kind": "quantize_activations", "arithmetic": "integer", "recipe": {recipe}}}]"#
        ))
    };
    let by_token = r#"{"scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}, "pick": {"kind": "row_largest"}}"#;
    let whole = r#"{"scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}, "pick": {"kind": "largest"}}"#;
    for name in ["llama", "phi3"] {
        let model = model(name);
        check(&model, &plan(int4));
        check(&model, &bytes(by_token));
        check(&model, &bytes(whole));
    }
    check(&model("mixtral"), &plan(int4));
}

#[test]
fn refused_interventions_say_why() {
    let weights = r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "tensor"}}}"#;
    let acts = r#"{"kind": "quantize_activations", "arithmetic": "integer", "recipe": {"scheme": {"grouping": {"kind": "row"}}}}"#;
    let model = model("llama");
    for (json, words) in [
        (
            r#"{"kind": "prune_weights", "coords": [{"layer": 99, "linear": "down_proj", "row": 0, "col": 0}]}"#,
            "layers[99]",
        ),
        (
            r#"{"kind": "prune_weights", "coords": [{"layer": 0, "linear": "down_proj", "row": 9999, "col": 0}]}"#,
            "outside",
        ),
        (
            r#"{"kind": "restore_super_activation", "coords": [{"layer": 0, "linear": "down_proj", "row": 0, "col": 0}]}"#,
            "not pruned",
        ),
        (
            r#"{"kind": "restore_super_activation", "coords": [{"layer": 0, "linear": "up_proj", "row": 0, "col": 0}]}"#,
            "dense down_proj",
        ),
        (
            r#"{"kind": "prune_largest", "select": "per_matrix", "fraction": 2.0}"#,
            "expected 0 to 1",
        ),
        (
            r#"{"kind": "quantize_weights", "scheme": {"clip": {"kind": "z_score", "z": -1.0}}}"#,
            "clip.z",
        ),
        (
            r#"{"kind": "quantize_weights", "scheme": {}, "hold": [{"layer": 0, "linear": "down_proj", "row": 9999, "col": 0}]}"#,
            "outside",
        ),
        (
            r#"{"kind": "set_weights", "weights": [{"layer": 0, "linear": "down_proj", "row": 0, "col": 9999, "value": 1.0}]}"#,
            "outside",
        ),
        (
            r#"{"kind": "add_constants", "constants": [{"layer": 0, "position": 0, "channel": 9999, "value": 1.0}]}"#,
            "channel 9999",
        ),
        (
            r#"{"kind": "smooth_quant", "alpha": 0.5, "calibration": "nowhere.jsonl"}"#,
            "nowhere.jsonl",
        ),
        (
            r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "nf4"}}}"#,
            "evenly spaced levels",
        ),
        (
            r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"arithmetic": "release_f16"}}"#,
            "single precision, found ReleaseF16",
        ),
        (
            r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "symmetric", "bits": 5}}}"#,
            "q_proj.weight: integers need weights of 4 or 8 bits, found 5",
        ),
        (
            r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"grouping": {"kind": "flat", "len": 36, "tail": "short"}}}"#,
            "blocks that are rectangles",
        ),
        (
            r#"{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {}, "hold": [{"layer": 0, "linear": "down_proj", "row": 9999, "col": 0}]}"#,
            "outside",
        ),
        (acts, "must stand before"),
        (
            &format!(r#"{weights}, {{"kind": "prune_weights", "coords": []}}"#),
            "it must stand before quantize_weights",
        ),
        (&format!("{weights}, {weights}"), "it must stand before"),
        (&format!("{weights}, {acts}, {acts}"), "already"),
        (
            &format!(
                r#"{weights}, {}"#,
                acts.replace(r#""row""#, r#""flat", "len": 4"#)
            ),
            "one scale for each token or tensor",
        ),
        (
            &format!(
                r#"{}, {acts}"#,
                weights.replace(r#""symmetric""#, r#""asymmetric""#)
            ),
            "integers times integers need symmetric weights",
        ),
        (
            &format!(
                r#"{{"kind": "prune_weights", "coords": [{SUPER}]}}, {{"kind": "restore_super_activation", "coords": [{SUPER}]}}, {weights}, {acts}"#
            ),
            "would not see the integers",
        ),
    ] {
        let plan: Vec<Intervention> = serde_json::from_str(&format!("[{json}]")).unwrap();
        let error = Runtime::new(&model, &plan)
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(words) && !error.contains('\n'),
            "{json}: {error}"
        );
    }
}

/// A constant in the place of a super weight's product at one token is the super weight, as far as that token goes.
#[test]
fn a_constant_at_its_position_is_the_weight() {
    use sw_model::{Hook, Seq, Site, SiteView};

    struct In(f32);
    impl Hook for In {
        fn wants(&self, site: Site) -> bool {
            site == Site::DownIn(0)
        }
        fn visit(&mut self, _: Site, view: SiteView<'_>) {
            self.0 = view.data[[0, 2]];
        }
    }

    let model = model("llama");
    let coord = WeightCoord::down(0, 1, 2);
    let tokens: Vec<u32> = (3..14).collect();
    let mut input = In(0.0);
    model
        .forward(&[Seq::from(&tokens[..1])], &mut input)
        .unwrap();
    let value = input.0 * model.value(coord).unwrap();
    assert!(value != 0.0);
    let constants = serde_json::json!([
        {"kind": "prune_weights", "coords": [coord]},
        {"kind": "add_constants", "constants": [{"layer": 0, "position": 0, "channel": 1, "value": value}]},
    ]);
    let plan: Vec<Intervention> = serde_json::from_value(constants).unwrap();
    let rows = |plan: &[Intervention], n: usize| {
        Runtime::new(&model, plan)
            .unwrap()
            .rows(&tokens[..n])
            .unwrap()
    };
    let difference = |n| {
        (rows(&plan, n) - rows(&[], n))
            .mapv(f32::abs)
            .into_iter()
            .fold(0.0, f32::max)
    };
    assert!(difference(1) < 1e-5, "one token: {}", difference(1));
    assert!(difference(11) > 1e-5, "the other tokens lack the weight");
}

/// Pruning by the overlay and restoring by the hook leave exactly one element of the layer's output to differ.
#[test]
fn a_restored_super_activation_is_one_element() {
    use sw_model::{Hook, Seq, Site, SiteView};

    struct Out(Vec<ndarray::Array2<f32>>);
    impl Hook for Out {
        fn wants(&self, site: Site) -> bool {
            site == Site::DownOut(0)
        }
        fn visit(&mut self, _: Site, view: SiteView<'_>) {
            self.0.push(view.data.to_owned());
        }
    }

    let model = model("llama");
    let coord = WeightCoord::down(0, 1, 2);
    let edited = model.edited(&[sw_model::WeightEdit::prune(coord)]).unwrap();
    let tokens: Vec<u32> = (3..14).collect();
    let out = |model: &Model| {
        let mut out = Out(Vec::new());
        model.forward(&[Seq::from(&tokens[..])], &mut out).unwrap();
        out.0.remove(0)
    };
    let (original, pruned) = (out(&model), out(&edited));
    let largest = (0..tokens.len())
        .max_by(|&a, &b| original[[a, 1]].abs().total_cmp(&original[[b, 1]].abs()))
        .unwrap();
    // What the restored run computes downstream equals a run whose element is put back by hand.
    struct PutBack([usize; 2], f32);
    impl Hook for PutBack {
        fn wants(&self, site: Site) -> bool {
            site == Site::DownOut(0)
        }
        fn visit(&mut self, _: Site, mut view: SiteView<'_>) {
            view.data[self.0] = self.1;
        }
    }
    let restored = Runtime::new(
        &model,
        &[
            Intervention::PruneWeights {
                coords: vec![coord],
            },
            Intervention::RestoreSuperActivation {
                coords: vec![coord],
            },
        ],
    );
    let found = restored.unwrap().rows(&tokens).unwrap();
    let expected = edited
        .forward(
            &[Seq::from(&tokens[..])],
            &mut PutBack([largest, 1], original[[largest, 1]]),
        )
        .unwrap();
    assert!((&found - &expected).iter().all(|d| d.abs() < 1e-4));
    assert!(
        (pruned[[largest, 1]] - original[[largest, 1]]).abs() > 1e-4,
        "pruning changes the element"
    );
}

/// A router reads what its experts read.
#[test]
fn activations_of_mixtures_stay_simulated() {
    let plan = r#"[{"kind": "quantize_weights", "arithmetic": "integer", "scheme": {"levels": {"kind": "symmetric", "bits": 8}, "grouping": {"kind": "row"}}},
        {"kind": "quantize_activations", "arithmetic": "integer", "recipe": {"scheme": {"grouping": {"kind": "row"}}}}]"#;
    let plan: Vec<Intervention> = serde_json::from_str(plan).unwrap();
    let refused = Runtime::new(&model("mixtral"), &plan);
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(error.contains("a router reads"), "{error}");
    assert!(Runtime::new(&model("mixtral"), &plan[..1]).is_ok());
}
