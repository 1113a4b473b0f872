//! The census beside an exhaustive check: every weight of the linear maps of a small checkpoint zeroed once, on 128 tokens.
//! Needs the shared data; skipped where it is absent.

use serde::{Deserialize, Serialize};
use sw_detect::{
    CensusOptions, DetectOptions, Proposal, Report, Source, census, census_texts, detect_prompt,
};
use sw_model::{Model, WeightCoord};

/// What zeroing every weight has shown; made by [`zeroing_every_weight`].
#[derive(Deserialize, Serialize)]
struct Record {
    /// The text.
    tokens: Vec<u32>,
    /// How many weights were zeroed.
    weights: usize,
    /// Those that cost most, in order.
    top: Vec<Costly>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Costly {
    #[serde(flatten)]
    weight: WeightCoord,
    /// In nats per token.
    effect: f64,
}

/// The first so many of both lists are compared, and so many of them must agree.
const TOP: usize = 20;
const AGREE: usize = 19;

fn text(model: &Model) -> Vec<u32> {
    census_texts(model, 128).unwrap().swap_remove(0)
}

/// A census of `proposals` beside what it finds itself, all stages on one text.
fn taken(model: &Model, text: &[u32], proposals: &[Proposal], gradients: usize) -> Report {
    let search = DetectOptions::default();
    let mut report = detect_prompt(model, sw_detect::DEFAULT_PROMPT, &search).unwrap();
    let mut options = CensusOptions::default();
    options.candidates += proposals.len();
    options.gradients = gradients;
    options.short = text.len();
    let texts = [text.to_vec()];
    census(model, &mut report, proposals, &texts, &options, &mut |_| ()).unwrap();
    report
}

/// What a report has measured, most costly first.
fn costly(report: &Report) -> Vec<Costly> {
    let mut all: Vec<Costly> = Vec::new();
    for p in &report.candidates {
        if let Some(effect) = p.effect
            && all.iter().all(|c| c.weight != p.coord)
        {
            let weight = p.coord;
            all.push(Costly { weight, effect });
        }
        if all.len() == TOP {
            break;
        }
    }
    all
}

#[test]
fn the_census_finds_what_zeroing_every_weight_finds() {
    let Some(model) = crate::tinystories::open() else {
        return;
    };
    let record: Record = serde_json::from_str(include_str!("../golden/exhaustive.json")).unwrap();
    let text = text(&model);
    assert_eq!(text, record.tokens);
    let gradients = CensusOptions::default().gradients;
    let found = costly(&taken(&model, &text, &[], gradients));
    let mut agree = 0;
    for truth in &record.top {
        let Some(ours) = found.iter().find(|c| c.weight == truth.weight) else {
            println!("{}: {} is not among the first", truth.weight, truth.effect);
            continue;
        };
        assert!(
            (ours.effect - truth.effect).abs() < 1e-5,
            "{}",
            truth.weight
        );
        agree += 1;
    }
    assert!(agree >= AGREE, "{agree} of {TOP}");
}

/// Takes half an hour on two idle cores; prints the record.
#[test]
#[ignore = "zeroes 393,216 weights"]
fn zeroing_every_weight() {
    let Some(model) = crate::tinystories::open() else {
        return;
    };
    let text = text(&model);
    let (mut weights, mut top) = (0, Vec::new());
    let maps: Vec<_> = model.linears().collect();
    for at in maps.into_iter().rev() {
        let [rows, cols] = model.spec().shape(at);
        let all = (0..rows * cols).map(|i| Proposal {
            coord: WeightCoord {
                layer: at.layer,
                linear: at.linear,
                expert: at.expert,
                row: i / cols,
                col: i % cols,
            },
            source: Source::Gradient,
            score: 1.0,
            effect: None,
        });
        let report = taken(&model, &text, &all.collect::<Vec<_>>(), 0);
        let here = report.candidates.iter().filter(|p| p.coord.at() == at);
        let measured = here.filter(|p| p.source == Source::Gradient && p.effect.is_some());
        let n = measured.count();
        println!("{at}: {n} of {}", rows * cols);
        weights += n;
        top.extend(costly(&report).into_iter().filter(|c| c.weight.at() == at));
        top.sort_by(|a: &Costly, b: &Costly| b.effect.total_cmp(&a.effect));
        top.truncate(TOP);
        let (tokens, top) = (text.clone(), top.clone());
        let record = Record {
            tokens,
            weights,
            top,
        };
        println!("{}", serde_json::to_string(&record).unwrap());
    }
}
