//! The real checkpoint and the real tokenizers of the shared folder, against `transformers`. Skipped where it is absent:
//! `SW_SHARED`, else `../shared` beside the workspace.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use ndarray::ArrayView2;
use safetensors::SafeTensors;
use serde::Deserialize;
use sw_model::{Hook, Model, Seq, Site, SiteView};

fn shared(part: &str) -> Option<PathBuf> {
    let root = env::var_os("SW_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = root.join(part);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Largest |difference| between a tensor of the golden file and what was found.
fn difference(file: &SafeTensors, name: &str, found: ArrayView2<'_, f32>) -> f32 {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.shape(), found.shape(), "{name}");
    let expected = tensor
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    expected
        .zip(found)
        .map(|(e, f)| (e - f).abs())
        .fold(0.0, f32::max)
}

#[test]
fn tinystories_logits() {
    let Some(dir) = shared("models/tinystories-656k") else {
        return;
    };
    let file = fs::read(golden("tinystories.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let tokens: Vec<u32> = file
        .tensor("tokens")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect();

    struct Down(Vec<(Site, ndarray::Array2<f32>)>);
    impl Hook for Down {
        fn wants(&self, site: Site) -> bool {
            matches!(site, Site::DownIn(0) | Site::DownOut(0))
        }
        fn visit(&mut self, site: Site, view: SiteView<'_>) {
            self.0.push((site, view.data.to_owned()));
        }
    }

    let model = Model::open(dir).unwrap();
    let mut down = Down(Vec::new());
    let rows = model.forward(&[Seq::from(&tokens[..])], &mut down).unwrap();
    assert_eq!(down.0.len(), 2);
    for (site, found) in down.0 {
        let error = difference(&file, &site.to_string(), found.view());
        let scale = found.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(error <= 1e-5 * scale, "{site}: {error:e} of {scale}");
    }
    let error = difference(&file, "logits", model.logits(rows.view()).unwrap().view());
    assert!(error <= 1e-3, "logits: {error:e}");
}

/// A small model that has the tokenizer of another folder.
fn with_tokenizer_of(folder: &Path) -> Model {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("llama").join(file), dir.path().join(file)).unwrap();
    }
    for file in fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if file
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .contains("token")
        {
            fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    Model::open(dir.path()).unwrap()
}

/// One text and its ids: as `tokenizer.json` has them, without and with the tokens that the tokenizer adds.
#[derive(Deserialize)]
struct Encoded {
    text: String,
    plain: Vec<u32>,
    special: Vec<u32>,
    rebuilt: Option<Vec<u32>>,
}

#[test]
fn tokenizer_ids() {
    let expected = fs::read_to_string(golden("tokenizers.json")).unwrap();
    let expected: BTreeMap<String, Vec<Encoded>> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 3);
    for (folder, rows) in expected {
        let Some(dir) = shared(&folder) else { continue };
        let model = with_tokenizer_of(&dir);
        let tokenizer = model.tokenizer().unwrap();
        for row in rows {
            let encode = |special| tokenizer.encode(&row.text, special).unwrap();
            let bos = &row.special[..row.special.len() - row.plain.len()];
            let plain = row.rebuilt.unwrap_or(row.plain);
            assert_eq!(encode(false), plain, "{folder}: {:?}", row.text);
            assert_eq!(
                encode(true),
                [bos, &plain].concat(),
                "{folder}: {:?} with special tokens",
                row.text
            );
        }
        assert_eq!(
            tokenizer.adds_bos(),
            folder.starts_with("models/tinystories"),
            "{folder}"
        );
    }
}
