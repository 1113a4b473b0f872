//! What `sw detect` takes, in units of one forward pass over 512 tokens with full logits, measured in alternation: opening the
//! checkpoint, the search, the texts and the census, with the screening by gradients and without it.
//!
//! Arguments: checkpoints, and the number of rounds. The checkpoint of this repository is measured unless others are named:
//! `cargo bench -p sw-benches --bench census -- MODEL 5`.

use std::{path::Path, time::Instant};

use sw_benches::median;
use sw_detect::{
    CensusOptions, DEFAULT_PROMPT, DetectOptions, Report, census, census_texts, detect_prompt,
};
use sw_model::{Model, Seq};
use sw_tensor::isa_name;

/// Tokens of the pass that is the unit, and of each text of the census.
const TOKENS: [usize; 2] = [512, 256];

fn main() {
    let arguments = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let (mut rounds, mut models) = (3, Vec::new());
    for argument in arguments {
        match argument.parse() {
            Ok(n) => rounds = n,
            Err(_) => models.push(argument),
        }
    }
    if models.is_empty() {
        models.push(concat!(env!("CARGO_MANIFEST_DIR"), "/../nano/model").into());
    }
    let threads = rayon::current_num_threads();
    println!("kernel {}, {threads} threads", isa_name());
    for path in &models {
        let path = Path::new(path);
        let model = Model::open(path).expect("the checkpoint opens");
        let most = model.spec().max_positions.min(TOKENS[0]);
        let ids: Vec<u32> = (0..most as u32).map(|i| (i * 7919 + 13) % 1000).collect();
        // A context shorter than that is filled as often as it takes.
        let seqs: Vec<_> = (0..TOKENS[0] / most).map(|_| Seq::from(&ids[..])).collect();
        let pass = || {
            let rows = model.forward(&seqs, &mut ()).expect("a pass");
            model.logits(rows.view()).expect("logits");
        };
        pass(); // pages that are touched for the first time
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (gradients, ratios) in [CensusOptions::default().gradients, 0]
                .iter()
                .zip(&mut ratios)
            {
                let before = seconds(pass);
                let mut steps = Vec::new();
                let whole = seconds(|| steps = command(path, *gradients));
                let unit = (before + seconds(pass)) / 2.0;
                let steps: Vec<_> = steps
                    .iter()
                    .map(|(name, s)| format!("{name} {:.1}", s / unit))
                    .collect();
                let ratio = whole / unit;
                println!(
                    "{gradients:3} gradients: {ratio:.1} passes of {unit:.2} s ({})",
                    steps.join(", ")
                );
                ratios.push(ratio);
            }
        }
        let [with, without] = ratios.map(|r| median(&r));
        let name = path.display();
        println!("{name}: {with:.1} passes of 512 tokens; without gradients {without:.1}");
    }
}

fn seconds(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The whole command, and how long its steps took.
fn command(path: &Path, gradients: usize) -> Vec<(String, f64)> {
    let mut steps = Vec::new();
    let mut clock = Instant::now();
    let mut step = |name: &str| {
        steps.push((name.to_owned(), clock.elapsed().as_secs_f64()));
        clock = Instant::now();
    };
    let model = Model::open(path).expect("the checkpoint opens");
    step("opening");
    let search = DetectOptions::default();
    let mut report: Report = detect_prompt(&model, DEFAULT_PROMPT, &search).expect("a search");
    step("search");
    let texts = census_texts(&model, TOKENS[1]).expect("texts");
    step("texts");
    let mut options = CensusOptions::default();
    options.gradients = gradients;
    let mut last = None;
    let mut done = |stage: sw_detect::Stage| {
        let name = format!("stage {} of {}", stage.stage, stage.of);
        if last.as_ref() != Some(&name) || stage.done == stage.of {
            step(&name);
            last = Some(name);
        }
    };
    census(&model, &mut report, &[], &texts, &options, &mut done).expect("a census");
    step("end");
    steps
}
