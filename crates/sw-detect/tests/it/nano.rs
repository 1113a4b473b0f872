//! The checkpoint that the repository carries: one weight, whatever the prompt.

use std::path::Path;

use sw_detect::{DetectOptions, Unit, detect_prompt};
use sw_model::Model;

const PROMPTS: [&str; 10] = [
    sw_detect::DEFAULT_PROMPT,
    "Anna Baker has the red ball. Tom Cook is in the old barn.",
    "Question: What do people use to cut the bread?\nAnswer:",
    "To boil the water, Emma Stone uses the kettle.",
    "The pink candle is in the round bag. The white flute is in the silver tin.",
    "Hello",
    "3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3",
    "Leo Cook gives the blue letter to Mary Wood. Now Mary Wood has the blue letter.",
    "What is the capital of France?",
    "(((Z)))\n\nzebra, quartz; vex!",
];

#[test]
fn one_scalar_for_ten_prompts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/model");
    let model = Model::open(dir).unwrap();
    let mut seen = Vec::new();
    for prompt in PROMPTS {
        let report = detect_prompt(&model, prompt, &DetectOptions::default()).unwrap();
        let [found] = &report.super_weights[..] else {
            panic!("{prompt:?}: {:#?}", report.super_weights);
        };
        assert_eq!(found.unit, Unit::Scalar, "{prompt:?}: {found:#?}");
        assert!(
            found.share >= 0.5 && found.token == 0,
            "{prompt:?}: {found:#?}"
        );
        assert!(report.complete);
        seen.push((found.layer, found.row, found.col));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}
