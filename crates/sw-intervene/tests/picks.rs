//! What is held out of activations at single sites of single layers.

use std::path::Path;

use sw_intervene::{ActivationSite, Applied, Arithmetic, Intervention, PickAt};
use sw_model::Model;
use sw_quant::{Activation, Grouping, Levels, Pick, Scheme};

fn model() -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sw-model/tests/golden/llama");
    Model::open(golden).expect("a checkpoint")
}

/// Activations that `down_proj` reads in 4 bits, one scale for each sequence.
fn plan(pick: Pick, picks: Vec<PickAt>, arithmetic: Arithmetic) -> Vec<Intervention> {
    let mut recipe = Activation::naive(4);
    recipe.scheme.grouping = Grouping::Tensor;
    recipe.pick = pick;
    vec![
        Intervention::QuantizeWeights {
            scheme: Scheme::new(Levels::symmetric(8), Grouping::Row),
            hold: vec![],
            arithmetic,
        },
        Intervention::QuantizeActivations {
            recipe,
            sites: vec![ActivationSite::DownIn],
            picks,
            arithmetic,
        },
    ]
}

fn rows(model: &Model, plan: &[Intervention]) -> Vec<f32> {
    let applied = Applied::new(model, plan, &|_, _| Err("no texts".into())).expect("a plan");
    let tokens: Vec<u32> = (0..12)
        .map(|i| (i * 37 + 5) % model.spec().vocab_size as u32)
        .collect();
    let rows = applied
        .model()
        .forward(&[(&tokens[..]).into()], &mut applied.hook());
    applied.check().expect("no failure");
    rows.expect("rows").iter().copied().collect()
}

fn at(layer: usize, pick: Pick) -> PickAt {
    PickAt {
        layer,
        site: ActivationSite::DownIn,
        pick,
    }
}

#[test]
fn a_pick_in_every_layer_is_the_recipe_s_own() {
    let model = model();
    let layers = 0..model.spec().layers.len();
    for arithmetic in [Arithmetic::Simulated, Arithmetic::Integer] {
        let run = |pick, picks| rows(&model, &plan(pick, picks, arithmetic));
        let everywhere = layers.clone().map(|l| at(l, Pick::Largest)).collect();
        let (none, all) = (run(Pick::None, vec![]), run(Pick::Largest, vec![]));
        assert_ne!(none, all);
        assert_eq!(run(Pick::None, everywhere), all);
        // One layer alone is neither, and the place of its largest element is the same as naming its channel.
        let alone = run(Pick::None, vec![at(0, Pick::Largest)]);
        assert!(alone != none && alone != all);
        let channels = model.spec().intermediate_size;
        let named = |c| {
            run(
                Pick::None,
                vec![at(0, Pick::Channels { channels: vec![c] })],
            )
        };
        assert!((0..channels).any(|c| named(c) == alone));
        // And the other way round: all but one.
        assert_ne!(run(Pick::Largest, vec![at(0, Pick::None)]), all);
    }
}

#[test]
fn places_that_are_not_there_are_refused() {
    let model = model();
    let layers = model.spec().layers.len();
    let mut elsewhere = at(0, Pick::Largest);
    elsewhere.site = ActivationSite::OIn;
    for (picks, words) in [
        (vec![at(layers, Pick::Largest)], "expected a layer below"),
        (
            vec![elsewhere],
            "expected one of the sites that are quantized",
        ),
        (
            vec![at(0, Pick::Largest), at(0, Pick::None)],
            "expected each place once",
        ),
    ] {
        let plan = plan(Pick::None, picks, Arithmetic::Simulated);
        let error = Applied::new(&model, &plan, &|_, _| Err("no texts".into()))
            .err()
            .expect("refused");
        let text = error.to_string();
        assert!(
            text.contains("quantize_activations") && text.contains(words),
            "{text}"
        );
    }
}
