//! Every family against `transformers`, site by site: a failure names the first site that diverges.
//!
//! The expected values and the models they belong to are in `golden/`, with the scripts that make them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::Array2;
use safetensors::SafeTensors;
use sw_model::{Hook, Model, Seq, Site, SiteView};

/// Largest difference at a site, as a part of the largest magnitude there.
const SITE_TOLERANCE: f32 = 1e-4;
/// Largest absolute difference of a logit.
const LOGIT_TOLERANCE: f32 = 1e-3;

macro_rules! cases {
    ($($test:ident: $folder:literal,)*) => {
        $(#[test]
        fn $test() {
            check($folder);
        })*

        #[test]
        fn every_folder_has_a_test() {
            let mut folders: Vec<String> = fs::read_dir(golden(""))
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.path().join("golden.safetensors").is_file())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            folders.sort();
            let mut tested = vec![$($folder),*];
            tested.sort();
            assert_eq!(folders, tested);
        }
    };
}

cases! {
    llama: "llama",
    llama_rope_linear: "llama-linear",
    llama_rope_dynamic: "llama-dynamic",
    llama_rope_llama3: "llama-llama3",
    llama_rope_yarn: "llama-yarn",
    mistral: "mistral",
    mixtral: "mixtral",
    olmo: "olmo",
    olmo2: "olmo2",
    olmoe: "olmoe",
    phi3: "phi3",
    phi3_rope_longrope: "phi3-longrope",
    qwen2: "qwen2",
    qwen3: "qwen3",
    qwen3_moe: "qwen3_moe",
    gemma: "gemma",
    gemma2: "gemma2",
    gemma3: "gemma3_text",
    gpt2: "gpt2",
    gpt2_scaled_by_layer: "gpt2-scaled",
    gpt_neox_parallel: "gpt_neox",
    gpt_neox_sequential: "gpt_neox-sequential",
}

fn check(case: &str) {
    let file = fs::read(golden(case).join("golden.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let written = Model::open(golden(case)).unwrap();
    compare(&format!("{case}, config.json"), &written, &expected);

    // The same weights under the config as published checkpoints spell it.
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(case)).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        let name = match name.to_str().unwrap() {
            "config.json" => continue,
            "config.published.json" => "config.json",
            other => other,
        };
        fs::copy(path, dir.path().join(name)).unwrap();
    }
    let published = Model::open(dir.path()).unwrap();
    compare(
        &format!("{case}, config.published.json"),
        &published,
        &expected,
    );

    rows_stand_alone(case, &written, &expected);
}

/// Both sequences, every site in the order of the computation, then the logits.
fn compare(case: &str, model: &Model, expected: &SafeTensors) {
    for label in ["long", "short"] {
        let tokens = tokens(expected, label);
        let mut record = Record::default();
        let rows = model
            .forward(&[Seq::from(&tokens[..])], &mut record)
            .unwrap();
        for (site, found, routed) in &record.sites {
            let Some(want) = matrix(expected, &format!("{label}.{site}")) else {
                assert_ne!(
                    label, "long",
                    "{case}: {site} is visited, but transformers has no such value"
                );
                continue;
            };
            let tolerance = SITE_TOLERANCE * want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            agree(&format!("{case}, {label}: {site}"), &want, found, tolerance);
            if let Site::ExpertDownIn(l, e) = site {
                assert_eq!(
                    routed.as_ref(),
                    ints(expected, &format!("{label}.expert_rows.{l}.{e}")).as_ref()
                );
            }
        }
        for name in expected
            .names()
            .into_iter()
            .filter_map(|n| n.strip_prefix(label)?.strip_prefix('.'))
        {
            let visited = |site: Site| record.sites.iter().any(|(s, ..)| *s == site);
            let known = name.parse().is_ok_and(visited) || name.starts_with("expert_rows");
            assert!(
                known || ["tokens", "logits"].contains(&name),
                "{case}, {label}: {name} is never visited"
            );
        }
        let logits = model.logits(rows.view()).unwrap();
        let want = matrix(expected, &format!("{label}.logits")).unwrap();
        agree(
            &format!("{case}, {label}: logits"),
            &want,
            &logits,
            LOGIT_TOLERANCE,
        );
    }
}

/// A row does not depend on its neighbours in a batch, nor on a shared prefix: bit for bit.
fn rows_stand_alone(case: &str, model: &Model, expected: &SafeTensors) {
    let (long, short) = (tokens(expected, "long"), tokens(expected, "short"));
    let run = |seqs: &[Seq<'_>]| model.forward(seqs, &mut ()).unwrap();
    let (alone, also) = (run(&[long[..].into()]), run(&[short[..].into()]));
    let together = run(&[long[..].into(), short[..].into()]);
    assert_eq!(
        together,
        ndarray::concatenate![ndarray::Axis(0), alone, also],
        "{case}: batch"
    );

    let prefix = model.prefix(None, &long[..6], &mut ()).unwrap();
    match model.forward(
        &[Seq {
            tokens: &long[6..],
            prefix: Some(&prefix),
        }],
        &mut (),
    ) {
        Ok(rest) => assert_eq!(rest, alone.slice(ndarray::s![6.., ..]), "{case}: prefix"),
        // Rotary frequencies that depend on the length cannot share a shorter sequence's keys.
        Err(error) => assert!(
            ["llama-dynamic", "phi3-longrope"].contains(&case),
            "{case}: {error}"
        ),
    }
}

/// Keeps every site in the order of the visits, with the rows an expert was given.
#[derive(Default)]
struct Record {
    sites: Vec<(Site, Array2<f32>, Option<Vec<usize>>)>,
}

impl Hook for Record {
    fn wants(&self, _: Site) -> bool {
        true
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        self.sites.push((
            site,
            view.data.to_owned(),
            view.tokens.map(<[usize]>::to_vec),
        ));
    }
}

fn agree(what: &str, want: &Array2<f32>, found: &Array2<f32>, tolerance: f32) {
    assert_eq!(
        want.dim(),
        found.dim(),
        "{what}: shape, expected (left) and found"
    );
    let worst = want
        .indexed_iter()
        .map(|(index, w)| (index, (w - found[index]).abs()))
        .fold(
            ((0, 0), 0.0),
            |a, b| if b.1 > a.1 || b.1.is_nan() { b } else { a },
        );
    let ((t, c), difference) = worst;
    assert!(
        difference <= tolerance,
        "{what} is the first to diverge: {difference:e} at token {t}, channel {c} (expected {}, found {}, tolerance {tolerance:e})",
        want[[t, c]],
        found[[t, c]],
    );
}

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

fn words(file: &SafeTensors, name: &str) -> Option<(Vec<usize>, Vec<[u8; 4]>)> {
    let tensor = file.tensor(name).ok()?;
    Some((
        tensor.shape().to_vec(),
        tensor
            .data()
            .chunks_exact(4)
            .map(|b| b.try_into().unwrap())
            .collect(),
    ))
}

fn matrix(file: &SafeTensors, name: &str) -> Option<Array2<f32>> {
    let (shape, words) = words(file, name)?;
    let values = words.into_iter().map(f32::from_le_bytes).collect();
    Some(Array2::from_shape_vec((shape[0], shape[1]), values).unwrap())
}

fn ints(file: &SafeTensors, name: &str) -> Option<Vec<usize>> {
    Some(
        words(file, name)?
            .1
            .into_iter()
            .map(|b| u32::from_le_bytes(b) as usize)
            .collect(),
    )
}

fn tokens(file: &SafeTensors, label: &str) -> Vec<u32> {
    ints(file, &format!("{label}.tokens"))
        .unwrap()
        .into_iter()
        .map(|id| id as u32)
        .collect()
}
