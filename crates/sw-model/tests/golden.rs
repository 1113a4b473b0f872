//! Every family against `transformers`, site by site: a failure names the first site that diverges.
//!
//! The expected values and the models they belong to are in `golden/`, with the scripts that make them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::Array2;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sw_model::{Hook, Model, Seq, Site, SiteView};
use tempfile::TempDir;

/// Largest difference at a site, as a part of the largest magnitude there.
const SITE_TOLERANCE: f32 = 1e-5;
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
    pr_moe: "pr_moe",
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
    for config in ["config.json", "config.published.json"] {
        let dir = copy(case, &read_json(&golden(case).join(config)));
        let model = Model::open(dir.path()).unwrap();
        if let Some(first) = divergence(&model, &expected) {
            panic!("{case} under {config}: the first to diverge is {first}");
        }
        rows_stand_alone(case, &model, &expected);
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The weights of a case under some config.
fn copy(case: &str, config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for entry in fs::read_dir(golden(case)).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if name.to_str().unwrap().starts_with("model") {
            fs::copy(path, dir.path().join(name)).unwrap();
        }
    }
    dir
}

/// The values are sharp enough: a model that differs in one setting does not pass, and the report says where.
#[test]
fn another_setting_diverges() {
    let cases = [
        ("llama", "rms_norm_eps", json!(1.1e-3), "long.attn_in.0"),
        (
            "llama-dynamic",
            "max_position_embeddings",
            json!(9),
            "long.rot_query.0",
        ),
        ("mistral", "sliding_window", json!(6), "long.o_in.0"),
        (
            "mixtral",
            "num_experts_per_tok",
            json!(3),
            "long.expert_down_in.0",
        ),
        ("olmo", "clip_qkv", json!(0.81), "long.rot_query.0"),
        ("olmoe", "norm_topk_prob", json!(true), "long.down_out.0"),
        ("phi3", "sliding_window", json!(null), "long.o_in.0"),
        ("pr_moe", "norm_topk_prob", json!(true), "long.resid_post.0"),
        ("qwen2", "max_window_layers", json!(2), "long.o_in.1"),
        ("gemma2", "query_pre_attn_scalar", json!(18), "long.o_in.0"),
        (
            "gemma2",
            "attn_logit_softcapping",
            json!(2.1),
            "long.o_in.0",
        ),
        (
            "gemma2",
            "final_logit_softcapping",
            json!(5.1),
            "long.logits",
        ),
        (
            "gemma3_text",
            "rope_local_base_freq",
            json!(301),
            "long.rot_query.0",
        ),
        ("gemma3_text", "rope_theta", json!(9100), "long.rot_query.1"),
        (
            "gpt2",
            "activation_function",
            json!("gelu"),
            "long.down_in.0",
        ),
        (
            "gpt2-scaled",
            "scale_attn_by_inverse_layer_idx",
            json!(false),
            "long.o_in.1",
        ),
        (
            "gpt_neox",
            "use_parallel_residual",
            json!(false),
            "resid_mid.0",
        ),
        ("gpt_neox", "rotary_pct", json!(0.25), "long.rot_query.0"),
    ];
    for (case, field, value, site) in cases {
        let mut config = read_json(&golden(case).join("config.published.json"));
        assert_ne!(config[field], value, "{case}: {field}");
        config[field] = value;
        let file = fs::read(golden(case).join("golden.safetensors")).unwrap();
        let model = Model::open(copy(case, &config).path()).unwrap();
        let first = divergence(&model, &SafeTensors::deserialize(&file).unwrap());
        let first = first.unwrap_or_else(|| panic!("{case}: {field} makes no difference"));
        assert!(first.starts_with(site), "{case}, {field}: {first}");
    }
}

/// Gemma 3 with a vision tower is the text model under another prefix, its config inside another.
#[test]
fn gemma3_with_vision() {
    let text = read_json(&golden("gemma3_text").join("config.published.json"));
    let dir = copy(
        "gemma3_text",
        &json!({"model_type": "gemma3", "text_config": text, "vision_config": {}}),
    );
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let renamed = tensors
        .iter()
        .map(|(name, view)| (format!("language_model.{name}"), view));
    safetensors::serialize_to_file(renamed, None, &path).unwrap();
    let file = fs::read(golden("gemma3_text").join("golden.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(
        divergence(&Model::open(dir.path()).unwrap(), &expected),
        None
    );
}

/// Both sequences, every site in the order of the computation, then the logits: the first that diverges.
fn divergence(model: &Model, expected: &SafeTensors) -> Option<String> {
    ["long", "short"].into_iter().find_map(|label| {
        let tokens = tokens(expected, label);
        let mut record = Record::default();
        let rows = model.forward(&[Seq::from(&tokens[..])], &mut record);
        let rows = rows.unwrap();
        let at = |site: &Site| format!("{label}.{site}");
        for (site, found, routed) in &record.sites {
            let Some(want) = matrix(expected, &at(site)) else {
                // The files hold what is made of these two, the input of down_proj, which is compared in their place.
                let made_of = matches!(site, Site::GateOut(_) | Site::UpOut(_));
                if label == "long" && !made_of {
                    return Some(format!(
                        "{site} is visited, but transformers has no such value"
                    ));
                }
                continue;
            };
            if let Site::ExpertDownIn(l, e) = site {
                let want = ints(expected, &format!("{label}.expert_rows.{l}.{e}"));
                if *routed != want {
                    return Some(format!(
                        "{}: tokens {routed:?}, expected {want:?}",
                        at(site)
                    ));
                }
            }
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let problem = difference(&want, found, SITE_TOLERANCE * largest);
            if let Some(problem) = problem {
                return Some(format!("{}: {problem}", at(site)));
            }
        }
        let visited: Vec<String> = record.sites.iter().map(|(s, ..)| s.to_string()).collect();
        let missed = expected.names().into_iter().find(|name| {
            let Some(name) = name.strip_prefix(&format!("{label}.")) else {
                return false;
            };
            let of_pass = !["tokens", "logits"].contains(&name) && !name.starts_with("expert_rows");
            of_pass && !visited.iter().any(|v| v == name)
        });
        if let Some(missed) = missed {
            return Some(format!("{missed} is never visited"));
        }
        let logits = model.logits(rows.view()).unwrap();
        let want = matrix(expected, &format!("{label}.logits")).unwrap();
        let problem = difference(&want, &logits, LOGIT_TOLERANCE)?;
        Some(format!("{label}.logits: {problem}"))
    })
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

    let some = run(&[
        Seq::from(&long[..]).wanting_from(4),
        Seq::from(&short[..]).wanting_from(99),
    ]);
    let wanted = (4..long.len()).chain([together.nrows() - 1]);
    let wanted: Vec<usize> = wanted.collect();
    assert_eq!(
        some,
        together.select(ndarray::Axis(0), &wanted),
        "{case}: wanted rows"
    );

    let prefix = model.prefix(None, &long[..6], &mut ()).unwrap();
    match model.forward(&[Seq::from(&long[6..]).after(&prefix)], &mut ()) {
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

/// The largest difference, if it exceeds the tolerance, and where it is.
fn difference(want: &Array2<f32>, found: &Array2<f32>, tolerance: f32) -> Option<String> {
    if want.dim() != found.dim() {
        return Some(format!(
            "shape {:?}, expected {:?}",
            found.dim(),
            want.dim()
        ));
    }
    let worst = want
        .indexed_iter()
        .map(|(index, w)| (index, (w - found[index]).abs()))
        .fold(
            ((0, 0), 0.0),
            |a, b| if b.1 > a.1 || b.1.is_nan() { b } else { a },
        );
    let ((t, c), error) = worst;
    (error.is_nan() || error > tolerance).then(|| {
        format!(
            "off by {error:e} at token {t}, channel {c} (expected {}, found {}, tolerance {tolerance:e})",
            want[[t, c]],
            found[[t, c]],
        )
    })
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
