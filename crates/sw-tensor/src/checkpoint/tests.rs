//! Good files, and every kind of bad one.

use std::path::Path;

use ndarray::Array2;
use tempfile::TempDir;

use super::Checkpoint;
use crate::isa::Isa;
use crate::matmul::matmul_t_each_with;
use crate::testing::Random;
use crate::{Arithmetic, Dtype, Error, Mat, Order, Precision};

/// A safetensors file by hand: header text, then data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn dir(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn error(dir: &TempDir) -> Error {
    Checkpoint::open(dir.path()).unwrap_err()
}

/// `a`: [2, 2] F32, of odd alignment because of the I64 and U8 before it; `b`: [3] BF16.
fn good() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[1,17]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[17,23]},"none":{"dtype":"F32","shape":[0,5],"data_offsets":[23,23]}}"#;
    let mut data = vec![9];
    data.extend(f32s(&[1.0, 2.0, 3.0, 4.0]));
    data.extend([0x80, 0x3f, 0x00, 0x40, 0x40, 0xc0]);
    file(header, &data)
}

#[test]
fn tensors_of_any_alignment() {
    let dir = dir(&[("model.safetensors", &good())]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        ["a", "b", "byte", "none"]
    );
    assert_eq!(checkpoint.metadata("format"), Some("pt"));
    assert_eq!(checkpoint.files().len(), 1);
    let info = checkpoint.info("a").unwrap();
    assert_eq!(
        (info.dtype.clone(), &info.shape[..], info.len),
        (Ok(Dtype::F32), &[2, 2][..], 16)
    );
    let a = checkpoint.mat("a", 2, 2).unwrap();
    assert_eq!(
        [a.get(0, 0), a.get(0, 1), a.get(1, 0), a.get(1, 1)],
        [1.0, 2.0, 3.0, 4.0]
    );
    assert_eq!(checkpoint.vector("b", 3).unwrap(), [1.0, 2.0, -3.0]);
    assert_eq!(checkpoint.mat("none", 0, 5).unwrap().rows(), 0);
}

#[test]
fn three_dimensions_are_matrices() {
    let header = r#"{"e":{"dtype":"F32","shape":[2,1,2],"data_offsets":[0,16]},"z":{"dtype":"F32","shape":[0,4,4],"data_offsets":[16,16]}}"#;
    let dir = dir(&[("x.safetensors", &file(header, &f32s(&[1.0, 2.0, 3.0, 4.0])))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mats = checkpoint.mats("e", 2, 1, 2).unwrap();
    assert_eq!([mats[0].get(0, 1), mats[1].get(0, 0)], [2.0, 3.0]);
    assert!(checkpoint.mats("z", 0, 4, 4).unwrap().is_empty());
    assert!(matches!(
        checkpoint.mats("e", 2, 2, 1),
        Err(Error::WrongShape { .. })
    ));
}

#[test]
fn a_wrong_question_names_file_tensor_expected_and_found() {
    let dir = dir(&[("model.safetensors", &good())]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let message = checkpoint.mat("a", 4, 1).unwrap_err().to_string();
    assert!(
        message.contains(r#"model.safetensors: tensor "a": expected shape [4, 1], found [2, 2]"#),
        "{message}"
    );
    let message = checkpoint.vector("byte", 1).unwrap_err().to_string();
    assert!(
        message.contains(r#"tensor "byte": expected F32, F16 or BF16, found U8"#),
        "{message}"
    );
    assert!(matches!(
        checkpoint.mat("c", 1, 1),
        Err(Error::MissingTensor { .. })
    ));
    assert!(matches!(
        checkpoint.vector("a", 4),
        Err(Error::WrongShape { .. })
    ));
}

#[test]
fn no_directory_and_no_files() {
    assert!(matches!(
        Checkpoint::open(Path::new("no/such/place")),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        error(&dir(&[("pytorch_model.bin", b"x")])),
        Error::NoSafetensors { .. }
    ));
    assert!(matches!(
        error(&dir(&[("consolidated.safetensors", &good())])),
        Error::NoSafetensors { .. }
    ));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let dir = dir(&[]);
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    let message = error(&dir).to_string();
    assert!(
        message.contains("model.safetensors") && message.contains("expected a regular file"),
        "{message}"
    );
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = good();
    for len in 0..whole.len() {
        let found = error(&dir(&[("model.safetensors", &whole[..len])]));
        let expected = match len {
            0..8 => matches!(found, Error::BadHeader { .. }),
            _ => matches!(found, Error::HeaderTooLong { .. } | Error::WrongSize { .. }),
        };
        assert!(expected, "{len} bytes: {found}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(
        error(&dir(&[("model.safetensors", &longer)])),
        Error::WrongSize { .. }
    ));
}

/// A file of one matrix `w`, 600 x 512, whose rows begin at any address, and its values.
fn one_matrix() -> (TempDir, Mat) {
    let (rows, cols) = (600, 512);
    let w = Random(3).mat(Dtype::BF16, rows, cols, 0);
    let bytes: Vec<u8> = w
        .to_f32_vec()
        .into_iter()
        .flat_map(|x| half::bf16::from_f32(x).to_le_bytes())
        .collect();
    let header = format!(
        r#"{{"w":{{"dtype":"BF16","shape":[{rows},{cols}],"data_offsets":[0,{}]}}}}"#,
        bytes.len()
    );
    (dir(&[("model.safetensors", &file(&header, &bytes))]), w)
}

#[test]
fn products_are_the_same_from_a_copy_and_from_the_mapping() {
    let (dir, own) = one_matrix();
    for isa in Isa::all() {
        for precision in [Precision::Float32, Precision::Bfloat16] {
            let arithmetic = Arithmetic {
                order: Order::Any,
                precision,
            };
            for height in [1, 2, 7, 12, 16] {
                let x = Random(height as u64).array(height, own.cols());
                let product = |w: &Mat| {
                    let mut y = Array2::<f32>::zeros((height, w.rows()));
                    matmul_t_each_with(isa, arithmetic, x.view(), [(w, y.view_mut())]);
                    y.mapv(f32::to_bits)
                };
                let checkpoint = Checkpoint::open(dir.path()).unwrap();
                let stored = checkpoint.mat("w", own.rows(), own.cols()).unwrap();
                // Copied where there are a few rows, then mapped.
                assert_eq!(product(&stored), product(&own));
                assert_eq!(product(&stored), product(&own));
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn bytes_are_copied_once_and_only_where_the_file_has_them() {
    let (dir, own) = one_matrix();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let w = checkpoint.mat("w", own.rows(), own.cols()).unwrap();
    let mut copy = vec![0; 200 * 1024];
    assert!(w.copy_first(100..300, &mut copy));
    let values = copy
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(half::bf16::from_le_bytes);
    let values: Vec<f32> = values.map(f32::from).collect();
    assert_eq!(values, own.slice_rows(100..300).to_f32_vec());
    assert!(!w.copy_first(100..300, &mut copy));
    // A piece that begins in both.
    assert!(!w.copy_first(250..400, &mut copy));
    assert!(!own.copy_first(0..200, &mut copy), "not a file");
    let path = dir.path().join("model.safetensors");
    let opened = std::fs::File::options().write(true).open(path).unwrap();
    opened.set_len(500 * 1024).unwrap();
    assert!(!w.copy_first(400..600, &mut copy));
}

#[test]
fn headers_that_lie() {
    let huge = u64::MAX.to_le_bytes();
    assert!(matches!(
        error(&dir(&[("model.safetensors", &huge)])),
        Error::HeaderTooLong { .. }
    ));
    for header in [
        "",
        "nonsense",
        "[]",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
    ] {
        let found = error(&dir(&[("model.safetensors", &file(header, &[0; 8]))]));
        assert!(
            matches!(found, Error::BadHeader { .. }),
            "{header}: {found}"
        );
    }
}

const ONE: &str = r#"{"one":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"spare":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
const INDEX: &str = "model.safetensors.index.json";

#[test]
fn an_index_wins_and_only_its_files_count() {
    let shard = file(ONE, &f32s(&[5.0, 6.0]));
    let index = br#"{"metadata":{},"weight_map":{"one":"model-1.safetensors"}}"#;
    let dir = dir(&[
        (INDEX, index),
        ("model-1.safetensors", &shard),
        ("model.safetensors", &good()),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["one", "spare"]);
    assert_eq!(checkpoint.mat("one", 1, 1).unwrap().get(0, 0), 5.0);
}

#[test]
fn an_index_that_cannot_be_followed() {
    let shard = file(ONE, &f32s(&[5.0, 6.0]));
    let with_index = |index: &str| {
        error(&dir(&[
            (INDEX, index.as_bytes()),
            ("m.safetensors", &shard),
        ]))
    };
    for index in [
        "",
        "{}",
        "[]",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"one":1}}"#,
        r#"{"weight_map":{}}"#,
    ] {
        assert!(
            matches!(with_index(index), Error::BadIndex { .. }),
            "{index}"
        );
    }
    for outside in [
        "../m.safetensors",
        "/m.safetensors",
        "a/m.safetensors",
        "./m.safetensors",
        "..",
        "",
        "m.safetensors/",
    ] {
        let index = format!(r#"{{"weight_map":{{"one":"{outside}"}}}}"#);
        assert!(
            matches!(with_index(&index), Error::ShardOutside { .. }),
            "{outside}"
        );
    }
    assert!(matches!(
        with_index(r#"{"weight_map":{"one":"n.safetensors"}}"#),
        Error::MissingShard { .. }
    ));
}

/// What transformers reads: the shards of an index, whatever the index says about the tensors in them.
#[test]
fn an_index_decides_about_files_and_not_about_tensors() {
    let one = r#"{"one":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let index = r#"{"weight_map":{"absent":"m.safetensors","one":"n.safetensors"}}"#;
    let dir = dir(&[
        (INDEX, index.as_bytes()),
        ("m.safetensors", &file(one, &f32s(&[1.0, 2.0]))),
        ("n.safetensors", &file(one, &f32s(&[5.0, 6.0]))),
        ("o.safetensors", &file(one, &f32s(&[7.0, 8.0]))),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    // Two shards hold it; the one that the index names counts, and a file that it does not name is not read.
    assert_eq!(checkpoint.vector("one", 2).unwrap(), [5.0, 6.0]);
    assert_eq!(checkpoint.files().count(), 2);
    let missed = checkpoint.vector("absent", 2).unwrap_err();
    assert!(matches!(&missed, Error::NotInShard { .. }), "{missed}");
    let missed = checkpoint.vector("unheard_of", 2).unwrap_err();
    assert!(matches!(&missed, Error::MissingTensor { .. }), "{missed}");

    let index = r#"{"weight_map":{"absent":"m.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX), index).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.vector("one", 2).unwrap(), [1.0, 2.0]);

    let index = r#"{"weight_map":{"a":"m.safetensors","b":"n.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX), index).unwrap();
    let twice = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(&twice, Error::DuplicateTensor { .. }), "{twice}");
}

#[test]
fn a_tensor_becomes_the_matrices_that_lie_in_it() {
    let header = r#"{"all":{"dtype":"F32","shape":[2,3,1],"data_offsets":[0,24]}}"#;
    let dir = dir(&[(
        "model.safetensors",
        &file(header, &f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
    )]);
    let mut checkpoint = Checkpoint::open(dir.path()).unwrap();
    let parts = |shapes: &[[usize; 2]]| -> Vec<(String, [usize; 2])> {
        let named = shapes.iter().enumerate();
        named.map(|(i, shape)| (i.to_string(), *shape)).collect()
    };
    for (shape, shapes) in [
        (&[3, 2, 1][..], &[[6, 1]][..]), // the tensor has another shape
        (&[2, 3, 1], &[[2, 1], [3, 1]]), // something is left
        (&[2, 3, 1], &[[2, 2], [3, 1]]), // beyond the end
        (&[2, 3, 1], &[[usize::MAX, 2]]),
    ] {
        let refused = checkpoint.split("all", shape, parts(shapes)).unwrap_err();
        assert!(matches!(&refused, Error::WrongShape { .. }), "{refused}");
    }
    checkpoint
        .split("all", &[2, 3, 1], parts(&[[2, 1], [1, 2], [2, 1]]))
        .unwrap();
    checkpoint.rename("2", "last");
    checkpoint.rename("0", "last"); // there is one
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["0", "1", "last"]);
    let row = |name: &str, rows, cols| {
        let mat = checkpoint.mat(name, rows, cols).unwrap();
        let mut values = vec![0.0; rows * cols];
        mat.widen(0..rows, 0..cols, &mut values);
        values
    };
    assert_eq!(row("0", 2, 1), [1.0, 2.0]);
    assert_eq!(row("1", 1, 2), [3.0, 4.0]);
    assert_eq!(row("last", 2, 1), [5.0, 6.0]);
    assert_eq!(checkpoint.bytes("last").unwrap().len(), 8);
}

#[test]
fn two_files_with_the_same_tensor() {
    let shard = file(ONE, &f32s(&[5.0, 6.0]));
    let found = error(&dir(&[
        ("a.safetensors", &shard),
        ("b.safetensors", &shard),
    ]));
    assert!(matches!(found, Error::DuplicateTensor { .. }), "{found}");
}
