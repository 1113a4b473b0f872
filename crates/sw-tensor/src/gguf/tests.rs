//! Values as the `gguf` package has them, products as of plain numbers, and every kind of bad file.

use std::path::Path;

use ndarray::{Array2, ArrayView2};
use tempfile::TempDir;

use super::{Coding, Gguf, GgufValue, TensorView};
use crate::RowOrder;
use crate::{Checkpoint, Error, Mat, Order, matmul_t_each, reference};

/// A GGUF file by hand.
#[derive(Default)]
struct Writer {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Writer {
    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        text(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.key_count += 1;
        self
    }

    /// `dims`: fastest first, as the file has them.
    fn tensor(self, name: &str, dims: &[u64], id: u32, data: &[u8]) -> Self {
        let offset = self.data.len() as u64;
        self.tensor_at(name, dims, id, offset, data)
    }

    fn tensor_at(mut self, name: &str, dims: &[u64], id: u32, offset: u64, data: &[u8]) -> Self {
        text(&mut self.tensors, name);
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|d| self.tensors.extend(d.to_le_bytes()));
        self.tensors.extend(id.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensor_count += 1;
        self
    }

    fn bytes(&self, version: u32) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.key_count.to_le_bytes());
        file.extend(&self.keys);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

fn dir_with(name: &str, bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

fn error(bytes: &[u8]) -> String {
    let dir = dir_with("m.gguf", bytes);
    let error = Gguf::open(dir.path().join("m.gguf")).unwrap_err();
    assert!(matches!(error, Error::BadGguf { .. }), "{error}");
    let line = error.to_string();
    assert!(
        line.contains("m.gguf") && !line.contains('\n') && line.len() < 400,
        "{line}"
    );
    line
}

/// Random blocks of every type and their values, by the `gguf` package.
fn golden() -> Vec<(Coding, Vec<u8>, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_blocks.safetensors");
    let file = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let of = |coding: Coding| {
        let blocks = file.tensor(&format!("{coding}.blocks")).ok()?;
        let values = file.tensor(&format!("{coding}.values")).unwrap();
        let values = values
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        Some((coding, blocks.data().to_vec(), values.collect()))
    };
    Coding::all().filter_map(of).collect()
}

fn id(coding: Coding) -> u32 {
    (0..64)
        .find(|&id| Coding::from_id(id) == Some(Ok(coding)))
        .unwrap()
}

/// A matrix of four rows from a file, and its values.
fn mats() -> Vec<(TempDir, Checkpoint, Mat, Vec<f32>)> {
    let of = |(coding, blocks, values): (Coding, Vec<u8>, Vec<f32>)| {
        let dims = [values.len() as u64 / 4, 4];
        let file = Writer::default()
            .tensor("w", &dims, id(coding), &blocks)
            .bytes(3);
        let dir = dir_with("m.gguf", &file);
        let view = TensorView {
            tensor: "w".into(),
            ..TensorView::default()
        };
        let gguf = Gguf::open(dir.path().join("m.gguf")).unwrap();
        let checkpoint = Checkpoint::from_gguf(dir.path(), gguf, [("hf".into(), view)]).unwrap();
        let mat = checkpoint.mat("hf", 4, values.len() / 4).unwrap();
        assert_eq!(mat.coding(), coding);
        (dir, checkpoint, mat, values)
    };
    golden().into_iter().map(of).collect()
}

#[test]
fn values_are_those_of_the_gguf_package_bit_for_bit() {
    let mats = mats();
    assert_eq!(mats.len(), 14); // all but F32
    for (_dir, checkpoint, mat, values) in &mats {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let all = mat.to_f32_vec();
        assert_eq!(bits(&all), bits(values), "{}", mat.coding());
        // Parts of blocks, single weights, a transposed view, a slice.
        let part = 3..mat.cols() - 2;
        let mut some = vec![0.0; part.len()];
        mat.widen(2..3, part.clone(), &mut some);
        assert_eq!(bits(&some), bits(&values[2 * mat.cols()..][part]));
        let turned = mat.transposed();
        let place = mat.cols() - 1;
        assert_eq!(
            turned.get(place, 3).to_bits(),
            values[4 * mat.cols() - 1].to_bits()
        );
        assert_eq!(turned.slice_rows(5..9).get(2, 1), values[mat.cols() + 7]);
        assert_eq!(mat.slice_rows(1..4).get(2, 0), values[3 * mat.cols()]);
        if mat.dtype() == crate::Dtype::F32 {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(checkpoint.bytes("hf").unwrap(), bytes);
        }
    }
}

#[test]
fn products_of_blocks_are_those_of_their_values() {
    for (_dir, _checkpoint, mat, values) in mats() {
        let edits = [(1, 5, 9.0), (3, 0, 0.0)];
        let wide = Mat::from_f32(4, mat.cols(), values);
        let [mat, wide] = [mat, wide].map(|w| w.edited(&edits).unwrap());
        for rows in [1, 5, 40] {
            let x = Array2::from_shape_fn((rows, mat.cols()), |(t, k)| {
                ((t * 31 + k * 7) % 13) as f32 - 6.0
            });
            for order in [Order::Fixed, Order::Any] {
                let product = |w: &Mat| {
                    let mut y = Array2::zeros((rows, 4));
                    matmul_t_each(order, x.view(), [(w, y.view_mut())]);
                    y
                };
                if mat.dtype() == crate::Dtype::F32 {
                    assert_eq!(product(&mat), product(&wide), "{} {order:?}", mat.coding());
                }
                close(x.view(), &wide, product(&mat));
            }
        }
    }
}

fn close(x: ArrayView2<f32>, w: &Mat, y: Array2<f32>) {
    let expected = reference::matmul_t(x, w);
    for (y, e) in y.iter().zip(&expected) {
        let y = f64::from(*y);
        assert!((y - e).abs() <= 1e-3 * (1.0 + e.abs()), "{y} {e}");
    }
}

#[test]
fn rows_in_another_order_and_parts() {
    let values: Vec<f32> = (0..24u8).map(f32::from).collect();
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = Writer::default()
        .tensor("w", &[4, 6], 0, &data)
        .tensor("v", &[6], 0, &data[..24])
        .tensor("e", &[4, 3, 2], 0, &data)
        .bytes(2);
    let dir = dir_with("m.gguf", &file);
    let rows = RowOrder::new(2, 3, 1);
    let stored: Vec<_> = (0..8).map(|row| rows.unwrap().stored(row)).collect();
    assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8]);
    let view = |tensor: &str| TensorView {
        tensor: tensor.into(),
        ..TensorView::default()
    };
    let views = [
        ("w".into(), TensorView { rows, ..view("w") }),
        (
            "v".into(),
            TensorView {
                rows,
                plus: -1.0,
                ..view("v")
            },
        ),
        (
            "e.1".into(),
            TensorView {
                part: Some([1, 2]),
                ..view("e")
            },
        ),
    ];
    let gguf = Gguf::open(dir.path().join("m.gguf")).unwrap();
    let checkpoint = Checkpoint::from_gguf(dir.path(), gguf, views).unwrap();
    let transposed = TensorView {
        rows,
        transposed: true,
        ..view("w")
    };
    let gguf = Gguf::open(dir.path().join("m.gguf")).unwrap();
    let other = Checkpoint::from_gguf(dir.path(), gguf, [("t".into(), transposed)]).unwrap();
    let w = checkpoint.mat("w", 6, 4).unwrap();
    assert_eq!([w.get(0, 1), w.get(1, 0), w.get(4, 3)], [1.0, 8.0, 15.0]);
    assert_eq!(w.slice_rows(1..3).get(1, 2), 18.0);
    let t = other.mat("t", 4, 6).unwrap();
    assert_eq!([t.get(1, 3), t.transposed().get(3, 1)], [5.0, 5.0]);
    assert_eq!(
        checkpoint.vector("v", 6).unwrap(),
        [-1.0, 1.0, 3.0, 0.0, 2.0, 4.0]
    );
    assert_eq!(checkpoint.mat("e.1", 3, 4).unwrap().get(0, 0), 12.0);
    w.bring_in();
    t.bring_in();
}

#[test]
fn metadata_of_every_type() {
    let list =
        |kind: u32, n: u64, data: &[u8]| [&kind.to_le_bytes()[..], &n.to_le_bytes(), data].concat();
    let mut words = Vec::new();
    text(&mut words, "a");
    text(&mut words, "\u{2603}");
    let file = Writer::default()
        .key("u8", 0, &[200])
        .key("i8", 1, &[200])
        .key("f32", 6, &1e-5f32.to_le_bytes())
        .key("true", 7, &[1])
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .key("texts", 9, &list(8, 2, &words))
        .key("ints", 9, &list(5, 2, &[1, 0, 0, 0, 255, 255, 255, 255]))
        .bytes(3);
    let dir = dir_with("m.gguf", &file);
    let gguf = Gguf::open(dir.path().join("m.gguf")).unwrap();
    let get = |key: &str| gguf.metadata()[key].clone();
    assert_eq!(get("u8"), GgufValue::Int(200));
    assert_eq!(get("i8"), GgufValue::Int(-56));
    assert_eq!(get("f32"), GgufValue::Float(f64::from(1e-5f32)));
    assert_eq!(get("true").as_bool(), Some(true));
    assert_eq!(get("u64").as_u64(), Some(u64::MAX));
    assert_eq!(get("texts").as_texts().unwrap(), ["a", "\u{2603}"]);
    assert_eq!(get("ints").as_ints().unwrap(), [1, -1]);
}

#[test]
fn hostile_files_are_one_clear_line() {
    let huge = (1u64 << 60).to_le_bytes();
    let list = |kind: u32, n: u64| [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let ok = || Writer::default();
    let mut counts = ok().bytes(3);
    counts[8..16].copy_from_slice(&huge);
    let mut keys = ok().bytes(3);
    keys[16..24].copy_from_slice(&huge);
    for (file, said) in [
        (b"".to_vec(), "GGUF"),
        (b"GG".to_vec(), "GGUF"),
        (b"ZIPP and more bytes than a header".to_vec(), "GGUF"),
        (ok().bytes(1), "version 2 or 3, found 1"),
        (ok().bytes(3u32.swap_bytes()), "big-endian"),
        (counts, "tensors are announced"),
        (keys, "metadata keys are announced"),
        (
            ok().key("s", 8, &(1u64 << 40).to_le_bytes()).bytes(3),
            "1099511627776 bytes of s",
        ),
        (
            ok().key("k", 99, &[]).bytes(3),
            "type of value from 0 to 12, found 99",
        ),
        (ok().key("k", 9, &list(9, 1)).bytes(3), "lists of lists"),
        (
            ok().key("k", 9, &list(77, 1)).bytes(3),
            "found a list of 77",
        ),
        (
            ok().key("k", 9, &list(10, 1 << 60)).bytes(3),
            "elements of \"k\"",
        ),
        (
            ok().key("k", 7, &[1]).key("k", 7, &[1]).bytes(3),
            "there twice",
        ),
        (
            ok().key("general.alignment", 4, &0u32.to_le_bytes())
                .bytes(3),
            "power of two",
        ),
        (
            ok().key("general.alignment", 4, &3u32.to_le_bytes())
                .bytes(3),
            "power of two",
        ),
        (
            ok().tensor("t", &[4], 200, &[0; 16]).bytes(3),
            "no type of number 200",
        ),
        (
            ok().tensor("t", &[33, 1], 2, &[0; 36]).bytes(3),
            "whole blocks of 32",
        ),
        (
            ok().tensor("t", &[1 << 40, 1 << 40], 0, &[]).bytes(3),
            "beyond all memory",
        ),
        (ok().tensor("t", &[u64::MAX], 0, &[]).bytes(3), "\"t\""),
        (
            ok().tensor("t", &[1, 1, 1, 1, 1], 0, &[0; 4]).bytes(3),
            "at most 4 dimensions, found 5",
        ),
        (
            ok().tensor("t", &[1 << 40], 0, &[]).bytes(3),
            "beyond the end of the file",
        ),
        (
            ok().tensor_at("t", &[4], 0, 1 << 40, &[0; 16]).bytes(3),
            "beyond the end of the file",
        ),
        (
            ok().tensor_at("t", &[4], 0, u64::MAX - 31, &[0; 16])
                .bytes(3),
            "beyond the end of the file",
        ),
        (
            ok().tensor_at("t", &[4], 0, 5, &[0; 32]).bytes(3),
            "no multiple of the alignment",
        ),
        (
            ok().tensor("t", &[4], 0, &[0; 16])
                .tensor("t", &[4], 0, &[0; 16])
                .bytes(3),
            "there twice",
        ),
    ] {
        let line = error(&file);
        assert!(line.contains(said), "{said}: {line}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = Writer::default()
        .key(
            "general.name",
            8,
            &[&3u64.to_le_bytes()[..], b"abc"].concat(),
        )
        .tensor("t", &[32, 2], 2, &[7; 36])
        .bytes(3);
    let dir = dir_with("m.gguf", &whole);
    assert!(Gguf::open(dir.path().join("m.gguf")).is_ok());
    // What follows the last tensor may be missing.
    let used = whole.len() - (64 - 36);
    for len in 0..used {
        error(&whole[..len]);
    }
}

#[test]
fn types_without_a_kernel_are_named_when_they_are_asked_for() {
    let file = Writer::default()
        .tensor("t", &[256, 1], 16, &[0; 66])
        .bytes(3);
    let dir = dir_with("m.gguf", &file);
    let gguf = Gguf::open(dir.path().join("m.gguf")).unwrap();
    let view = TensorView {
        tensor: "t".into(),
        ..TensorView::default()
    };
    let checkpoint = Checkpoint::from_gguf(dir.path(), gguf, [("hf".into(), view)]).unwrap();
    let line = checkpoint.mat("hf", 1, 256).unwrap_err().to_string();
    assert!(line.contains("IQ2_XXS") && line.contains("hf"), "{line}");
}

#[test]
fn split_files_are_joined() {
    let part = |no: u16, name: &str| {
        Writer::default()
            .key("split.no", 2, &no.to_le_bytes())
            .key("split.count", 2, &2u16.to_le_bytes())
            .tensor(name, &[1], 0, &f32::from(no).to_le_bytes())
            .bytes(3)
    };
    let dir = dir_with("m-00001-of-00002.gguf", &part(0, "a"));
    let [first, second] =
        ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|n| dir.path().join(n));
    let line = Gguf::open(&first).unwrap_err().to_string();
    assert!(
        line.contains("one of 2 parts") && line.contains("m-00002-of-00002.gguf"),
        "{line}"
    );
    std::fs::write(&second, part(1, "b")).unwrap();
    for path in [&first, &second] {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.files().len(), 2);
        assert_eq!(gguf.vector("b"), Some(vec![1.0]));
    }
    std::fs::write(&second, part(0, "b")).unwrap();
    assert!(
        Gguf::open(&first)
            .unwrap_err()
            .to_string()
            .contains("says that it is part 1 of 2")
    );
    std::fs::write(&second, part(1, "a")).unwrap();
    assert!(matches!(
        Gguf::open(&first),
        Err(Error::DuplicateTensor { .. })
    ));
}

#[cfg(unix)]
#[test]
fn later_parts_that_lead_elsewhere_are_refused() {
    use std::os::unix::fs::symlink;
    let part = |no: u16, name: &str| {
        Writer::default()
            .key("split.no", 2, &no.to_le_bytes())
            .key("split.count", 2, &2u16.to_le_bytes())
            .tensor(name, &[1], 0, &1.0f32.to_le_bytes())
            .bytes(3)
    };
    let elsewhere = dir_with("second", &part(1, "b"));
    let dir = dir_with("m-00001-of-00002.gguf", &part(0, "a"));
    let at = |name: &str| dir.path().join(name);
    let second = at("m-00002-of-00002.gguf");
    symlink(elsewhere.path().join("second"), &second).unwrap();
    let line = Gguf::open(at("m-00001-of-00002.gguf"))
        .unwrap_err()
        .to_string();
    assert!(line.contains("m-00002-of-00002.gguf"), "{line}");
    // Named by itself it is the user's choice; within its folder a link is as good as a file, and so is one to the blobs of
    // a cache.
    assert!(Gguf::open(&second).is_ok());
    std::fs::rename(elsewhere.path().join("second"), at("own")).unwrap();
    std::fs::remove_file(&second).unwrap();
    symlink("own", &second).unwrap();
    assert!(Gguf::open(at("m-00001-of-00002.gguf")).is_ok());
    let (blobs, snapshot) = (at("models--a--b/blobs"), at("models--a--b/snapshots/1"));
    for folder in [&blobs, &snapshot] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for (blob, from, name) in [
        ("1", "m-00001-of-00002.gguf", "m-00001-of-00002.gguf"),
        ("2", "own", "m-00002-of-00002.gguf"),
    ] {
        std::fs::rename(at(from), blobs.join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        assert_eq!(Gguf::open(snapshot.join(name)).unwrap().files().len(), 2);
    }
}
