//! Soft prompts: against embedded tokens, against finite differences, and to files and back.

mod dice;
mod tuning;

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, s};
use safetensors::SafeTensors;
use sw_model::{Linear, LinearAt, Model, Seq};
use sw_train::mapped::{Text, backward};
use sw_train::tune::{
    BlockGradients, Change, Example, Param, PromptInit, PromptOptions, Trained, Trainer,
    write_prompt,
};
use tuning::{ADAM, CLIP, TEXTS, VOCAB, batch, bits, logits, model};

fn prompt(virtual_tokens: usize) -> Trained {
    Trained::Prompt {
        options: options(virtual_tokens),
        seed: 3,
    }
}

fn options(virtual_tokens: usize) -> PromptOptions {
    PromptOptions {
        virtual_tokens,
        init: PromptInit::SampleVocab,
    }
}

/// The examples of a step behind a model's soft prompt.
fn behind(model: &Model, step: usize) -> Vec<Example> {
    let ids = model.virtual_tokens();
    let examples = batch(step).unwrap();
    examples.iter().map(|e| e.behind(&ids)).collect()
}

fn train(trainer: &mut Trainer, steps: std::ops::Range<usize>) -> Vec<f64> {
    let one = |step| {
        let examples = behind(trainer.model(), step);
        let texts: Vec<Text<'_>> = examples.iter().map(Text::from).collect();
        trainer.step(&texts, 8, 0.05).unwrap().loss
    };
    steps.map(one).collect()
}

fn trained(model: &Model, what: &Trained, steps: usize) -> Trainer {
    let mut trainer = Trainer::new(model, what, ADAM, CLIP).unwrap();
    train(&mut trainer, 0..steps);
    trainer
}

#[test]
fn a_prompt_of_embeddings_is_those_tokens_bit_for_bit() {
    let (_dir, model) = model(true);
    let given = [4u32, 0, 11];
    let mut rows = Array2::zeros((3, model.spec().hidden_size));
    for (mut row, &id) in rows.rows_mut().into_iter().zip(&given) {
        let row = row.as_slice_mut().unwrap();
        model.embedding().row_into(id as usize, row);
    }
    let prompted = model.with_soft_prompt(rows).unwrap();
    let ids = prompted.virtual_tokens();
    assert_eq!(ids, [13, 14, 15]);
    for text in TEXTS {
        let [soft, hard] = [&ids[..], &given[..]].map(|before| [before, text].concat());
        let (soft, hard) = (logits(&prompted, &[&soft]), logits(&model, &[&hard]));
        assert_eq!(soft, hard);
    }
    // In a pass of its own, too, and behind a shared beginning.
    let (_, before) = prompted.extend(None, &ids, &mut ()).unwrap();
    let seq = Seq::from(TEXTS[0]).after(&before);
    let rows = prompted.forward(&[seq], &mut ()).unwrap();
    let hard = logits(&model, &[&[&given[..], TEXTS[0]].concat()]);
    let found = prompted.logits(rows.view()).unwrap();
    assert_eq!(found, hard.slice(s![3.., ..]));
}

#[test]
fn a_prompt_has_the_slope_of_the_loss() {
    for tied in [true, false] {
        let (_dir, model) = model(tied);
        let trainer = trained(&model, &prompt(3), 4);
        let rows = trainer.model().soft_prompt().unwrap().clone();
        let examples = behind(trainer.model(), 9);
        let texts: Vec<Text<'_>> = examples.iter().map(Text::from).collect();
        // The loss is over the text's own tokens: as many as without the prompt.
        let plain = batch(9).unwrap();
        let count = |texts: &[Example]| texts.iter().map(|e| Text::from(e).scored()).sum::<usize>();
        assert_eq!(count(&examples), count(&plain));

        let mut loose = Trainer::new(&model, &prompt(3), ADAM, 1e9).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state.safetensors");
        trainer.save_state(&state).unwrap();
        loose.load_state(&state).unwrap();
        loose.step(&texts, 1, 0.0).unwrap(); // in two parts, whose gradients add up
        assert_eq!(
            loose.gradient().params().collect::<Vec<_>>(),
            [Param::Prompt]
        );
        let gradient = &loose.gradient().get(Param::Prompt)[0].1;
        assert_eq!(gradient.dim(), rows.dim());
        let loss = |rows: Array2<f32>| {
            let moved = model.with_soft_prompt(rows).unwrap();
            let mut none = BlockGradients::zeros(&moved, &BTreeMap::new());
            backward(&moved, &texts, &mut none).unwrap()
        };
        let epsilon = 1e-2f32;
        let mut largest = 0.0f64;
        for (at, &slope) in gradient.indexed_iter() {
            let moved = |by: f32| {
                let mut rows = rows.clone();
                rows[at] += by;
                loss(rows)
            };
            let found = (moved(epsilon) - moved(-epsilon)) / f64::from(2.0 * epsilon);
            assert!(
                (found - f64::from(slope)).abs() < 2e-3,
                "{at:?} {found} {slope}"
            );
            largest = largest.max(found.abs());
        }
        assert!(largest > 0.02, "every slope is small: {largest}");
    }
}

#[test]
fn prompts_learn_and_no_weight_changes() {
    let (_dir, model) = model(true);
    let before = bits(&model);
    let mut trainer = Trainer::new(&model, &prompt(4), ADAM, CLIP).unwrap();
    assert_eq!(trainer.count(), 4 * 16);
    assert_eq!(trainer.bytes().moments, 8 * 4 * 16);
    let losses = train(&mut trainer, 0..120);
    let last = losses[110..].iter().sum::<f64>() / 10.0;
    let first = losses[..10].iter().sum::<f64>() / 10.0;
    assert!(last < first - 0.2, "{first} to {last}");
    assert_eq!(bits(trainer.model()), before);
    // A text without the prompt is not trained on.
    let plain = batch(0).unwrap();
    let texts: Vec<Text<'_>> = plain.iter().map(Text::from).collect();
    let error = trainer.step(&texts, 8, 0.1).unwrap_err().to_string();
    assert!(
        error.contains("does not begin with the virtual tokens"),
        "{error}"
    );
    // Nor is a virtual token predicted.
    let mut example = behind(trainer.model(), 0).remove(0);
    example.given = 2;
    let error = trainer.step(&[Text::from(&example)], 8, 0.1).unwrap_err();
    assert!(error.to_string().contains("is virtual"), "{error}");
}

#[test]
fn an_interrupted_training_of_a_prompt_goes_on_bit_for_bit() {
    let (_dir, model) = model(true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let whole = trained(&model, &prompt(3), 12);
    trained(&model, &prompt(3), 5).save_state(&path).unwrap();
    let mut rest = Trainer::new(&model, &prompt(3), ADAM, CLIP).unwrap();
    rest.load_state(&path).unwrap();
    train(&mut rest, 5..12);
    let rows = |trainer: &Trainer| trainer.model().soft_prompt().cloned().unwrap();
    assert_eq!(
        rows(&whole).mapv(f32::to_bits),
        rows(&rest).mapv(f32::to_bits)
    );
    // Another number of virtual tokens is another training.
    let mut other = Trainer::new(&model, &prompt(4), ADAM, CLIP).unwrap();
    assert!(other.load_state(&path).is_err());
}

#[test]
fn what_a_prompt_begins_as_is_decided_by_its_seed() {
    let (_dir, model) = model(true);
    let begin = |init: PromptInit, seed| {
        let options = PromptOptions {
            virtual_tokens: 5,
            init,
        };
        options.begin(&model, seed).unwrap()
    };
    for init in [PromptInit::SampleVocab, PromptInit::Random] {
        assert_eq!(begin(init.clone(), 1), begin(init.clone(), 1));
        assert_ne!(begin(init.clone(), 1), begin(init, 2));
    }
    let sampled = begin(PromptInit::SampleVocab, 1);
    for row in sampled.rows() {
        let is = |id: usize| (0..16).all(|c| model.embedding().get(id, c) == row[c]);
        assert!((0..VOCAB).any(is), "a row is no embedding");
    }
    let error = options(15).begin(&model, 0).unwrap_err().to_string();
    assert!(
        error.contains("15 virtual tokens: expected 1 to 14"),
        "{error}"
    );
    let text = PromptOptions {
        virtual_tokens: 2,
        init: PromptInit::Text("a".into()),
    };
    assert!(
        text.begin(&model, 0).is_err(),
        "a model without a tokenizer"
    );
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap();
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    data.data().chunks_exact(4).map(number).collect()
}

#[test]
fn an_adapter_of_peft_gives_the_logits_and_gradients_that_pytorch_computes() {
    // golden/soft_prompt.py writes the folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = Model::open(root.join("../../nano/model")).unwrap();
    let dir = root.join("tests/golden/soft_prompt");
    let prompted = Change::read(&model, &dir).unwrap().merged(&model).unwrap();
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let text = file.tensor("text").unwrap();
    let number = |b: &[u8]| i64::from_le_bytes(b.try_into().unwrap()) as u32;
    let text: Vec<u32> = text.data().chunks_exact(8).map(number).collect();
    let example = Example {
        tokens: text,
        given: 1,
    };
    let example = example.behind(&prompted.virtual_tokens());
    let found = logits(&prompted, &[&example.tokens]);
    let found = found.slice(s![4.., ..]);
    let expected = floats(&file, "logits");
    assert_eq!(found.len(), expected.len());
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let bound = 2e-5 * largest(&expected);
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= bound, "logit {a}, PyTorch {b}");
    }
    let whole = vec![sw_train::Block {
        rows: 0..4,
        cols: 0..model.spec().hidden_size,
    }];
    let mut gradient = BlockGradients::zeros(&prompted, &[(Param::Prompt, whole)].into());
    let loss = backward(&prompted, &[&example], &mut gradient).unwrap();
    let expected = f64::from(floats(&file, "loss")[0]);
    assert!(
        (loss - expected).abs() < 1e-6 * expected,
        "{loss}, PyTorch {expected}"
    );
    let expected = floats(&file, "gradient");
    let found = &gradient.get(Param::Prompt)[0].1;
    assert_eq!(found.len(), expected.len());
    let bound = 1e-3 * largest(&expected);
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= bound, "slope {a}, PyTorch {b}");
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
fn prompts_go_to_files_and_back() {
    let (_dir, model) = model(true);
    let trainer = trained(&model, &prompt(3), 3);
    let dir = tempfile::tempdir().unwrap();
    write_prompt(trainer.model(), &options(3), "base", dir.path()).unwrap();
    let read = Change::read(&model, dir.path()).unwrap();
    let rows = trainer.model().soft_prompt().unwrap();
    assert_eq!(read, Change::Prompt(rows.clone()));
    assert_eq!((read.count(), read.tensors().len()), (3 * 16, 0));
    let prompted = read.merged(&model).unwrap();
    assert_eq!(prompted.soft_prompt(), Some(rows));
    // Edits keep it.
    let at = LinearAt::dense(0, Linear::Up);
    let same = |here: LinearAt, w: &sw_model::Mat| {
        Ok::<_, sw_model::Error>((here == at).then(|| w.clone()))
    };
    assert_eq!(prompted.replaced(same).unwrap().soft_prompt(), Some(rows));

    for (field, value, word) in [
        ("num_virtual_tokens", 0.into(), "expected 1 to 15"),
        (
            "num_virtual_tokens",
            4_000_000_000_000u64.into(),
            "expected 1 to 15",
        ),
        ("num_virtual_tokens", 4.into(), "expected [4, 16]"),
        ("token_dim", 8.into(), "token_dim is 8, expected 16"),
        ("num_transformer_submodules", 2.into(), "expected 1"),
        (
            "peft_type",
            "PREFIX_TUNING".into(),
            "expected \"LORA\" or \"PROMPT_TUNING\"",
        ),
        ("peft_type", "LORA".into(), "lora_alpha"),
    ] {
        let error = refused(&model, dir.path(), field, value);
        assert!(error.contains(word), "{field}: {error}");
    }
    let wide = Array2::zeros((2, 8));
    let error = model.with_soft_prompt(wide).err().unwrap().to_string();
    assert!(
        error.contains("rows of 8 numbers, expected the model's 16"),
        "{error}"
    );
    let nan = Array2::from_elem((2, 16), f32::NAN);
    let error = model.with_soft_prompt(nan).err().unwrap().to_string();
    assert!(error.contains("not finite"), "{error}");
}
