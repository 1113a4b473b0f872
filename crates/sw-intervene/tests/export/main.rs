//! Quantized checkpoints on disk: the values of the intervention in memory, whole or not at all, never in the way.

mod loads;
mod refused;

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sw_intervene::{
    Applied, Export, Exporting, Format, Intervention, Override, PackedReader, Plan, Rule,
};
use sw_model::{Linear, Model, OpenOptions, WeightCoord};
use sw_quant::{Arithmetic, Clip, Grouping, Levels, Scheme, Steps, Tail, ZeroPoint};

/// A small random checkpoint.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../sw-model/tests/golden")
        .join(name)
}

const INTEGER: Levels = Levels::Asymmetric {
    bits: 4,
    steps: Steps::Full,
    zero: ZeroPoint::Integer,
};

fn scheme(levels: Levels, grouping: Grouping) -> Scheme {
    Scheme::new(levels, grouping)
}

fn export(format: Format, scheme: Scheme, hold: &[WeightCoord]) -> Export {
    let mut export = Export::default();
    export.format = format;
    export.rule = Rule {
        scheme,
        search: false,
    };
    export.hold = hold.to_vec();
    export
}

fn write(model: &Model, export: &Export, out: &Path) -> Plan {
    let plan = Plan::new(model, export).expect("a sound plan");
    let mut last = 0;
    let mut progress = |at: Exporting| {
        assert!(at.done > last && at.done <= at.total);
        last = at.done;
        ControlFlow::Continue(())
    };
    plan.write(out, false, &mut progress).expect("written");
    assert_eq!(last, plan.bytes()[1]);
    plan
}

/// All tensors of a folder: dtype, shape and bytes.
fn tensors(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let files = fs::read_dir(dir)
        .expect("a folder")
        .map(|e| e.expect("an entry").path());
    // A golden folder holds the expected activations, too.
    let weights = files.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    let mut found = BTreeMap::new();
    for path in weights {
        let bytes = fs::read(path).expect("a file");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        let format = metadata.metadata().as_ref().and_then(|m| m.get("format"));
        assert_eq!(
            format.map(String::as_str),
            Some("pt"),
            "what transformers asks for"
        );
        for (name, view) in SafeTensors::deserialize(&bytes)
            .expect("safetensors")
            .tensors()
        {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(found.insert(name, tensor).is_none());
        }
    }
    found
}

fn open_packed(dir: &Path) -> Model {
    let mut options = OpenOptions::default();
    options.decoder = Some(Arc::new(PackedReader));
    Model::open_with(dir, &options).expect("a checkpoint")
}

/// Every linear map, widened.
fn values(model: &Model) -> Vec<Vec<f32>> {
    let widened = |at| {
        let w = model.weight_at(at).expect("a map of the model");
        w.to_f32_vec()
    };
    model.linears().map(widened).collect()
}

fn in_memory(model: &Model, scheme: Scheme, hold: &[WeightCoord]) -> Vec<Vec<f32>> {
    let hold = hold.to_vec();
    let arithmetic = sw_intervene::Arithmetic::Simulated;
    let plan = [Intervention::QuantizeWeights {
        scheme,
        hold,
        arithmetic,
    }];
    let no_texts = |_: &Path, _| Err("no texts".into());
    values(
        Applied::new(model, &plan, &no_texts)
            .expect("a plan")
            .model(),
    )
}

#[test]
fn fake_and_packed_sw_hold_the_values_of_the_intervention() {
    let short = |grouping: Grouping| grouping.with_tail(Tail::Short);
    let z = Clip::ZScore { z: 2.0 };
    let schemes = [
        scheme(Levels::asymmetric(4), Grouping::Row).with_clip(z),
        scheme(Levels::symmetric(3), short(Grouping::flat(33))).with_clip(Clip::HeldOut),
        scheme(INTEGER, short(Grouping::tile(3, 16))),
        scheme(Levels::Nf4, Grouping::Tensor).with_clip(z),
        Scheme {
            arithmetic: Arithmetic::ReleaseF16,
            ..scheme(Levels::asymmetric(8), Grouping::Row)
        },
    ];
    // bf16, fused maps, a transposed layout, experts over several files.
    for name in ["llama", "phi3", "gpt2", "mixtral"] {
        let model = Model::open(golden(name)).expect("a golden model");
        let last = model.linears().last().expect("maps");
        let held = |row, col| WeightCoord {
            layer: last.layer,
            linear: last.linear,
            expert: last.expert,
            row,
            col,
        };
        let hold = [held(5, 7), held(0, 1), held(5, 7)];
        for scheme in schemes {
            let expected = in_memory(&model, scheme, &hold);
            let dir = tempfile::tempdir().expect("a folder");
            let (fake, packed) = (dir.path().join("fake"), dir.path().join("packed"));
            write(&model, &export(Format::Fake, scheme, &hold), &fake);
            assert!(
                values(&Model::open(&fake).expect("opens")) == expected,
                "{name} {scheme:?}"
            );
            write(&model, &export(Format::PackedSw, scheme, &hold), &packed);
            assert!(
                values(&open_packed(&packed)) == expected,
                "{name} {scheme:?}"
            );
            // All else is as it was, byte for byte.
            let matrices: Vec<String> = model
                .linears()
                .filter_map(|at| model.spec().tensor_name_at(at))
                .collect();
            let (before, after) = (tensors(&golden(name)), tensors(&fake));
            assert!(before.keys().eq(after.keys()));
            for (name, tensor) in &before {
                assert_eq!(after[name] == *tensor, !matrices.contains(name), "{name}");
            }
        }
    }
}

/// The packed form read by its description: signed codes `q` in 32-bit words, `w^ = (q - zero)*scale`.
fn unpacked(
    found: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    module: &str,
    bits: usize,
    strategy: &str,
) -> (Vec<f32>, Vec<f32>) {
    let get = |end: &str| found.get(&format!("{module}.{end}"));
    let word = |bytes: &[u8], i: usize| {
        u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))
    };
    // Code `i` of a stream of words that lie `stride` apart, from the `first` on.
    let code = |bytes: &[u8], first: usize, stride: usize, i: usize| {
        let bit = |b: usize| word(bytes, first + b / 32 * stride) >> (b % 32) & 1;
        let unsigned = (0..bits).fold(0, |code, b| code | bit(i * bits + b) << b);
        unsigned as i32 - (1 << (bits - 1))
    };
    let (_, _, shape) = get("weight_shape").expect("a shape");
    let size = |i: usize| i64::from_le_bytes(shape[8 * i..8 * i + 8].try_into().unwrap()) as usize;
    let [rows, cols] = [size(0), size(1)];
    let (dtype, packed_shape, packed) = get("weight_packed").expect("codes");
    let words = (cols * bits).div_ceil(32);
    assert_eq!(
        (*dtype, &packed_shape[..]),
        (Dtype::I32, &[rows, words][..])
    );
    let (dtype, scale_shape, scales) = get("weight_scale").expect("scales");
    assert_eq!(*dtype, Dtype::BF16);
    let groups = scale_shape.get(1).copied().unwrap_or(1);
    let (mut values, mut steps) = (Vec::new(), Vec::new());
    for r in 0..rows {
        for c in 0..cols {
            let group = c / (cols / groups);
            let at = if strategy == "tensor" {
                0
            } else {
                r * groups + group
            };
            let scale = half::bf16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32();
            let zero = match get("weight_zero_point") {
                None => 0,
                Some((Dtype::I8, _, zeros)) => i32::from(zeros[0] as i8),
                Some((_, _, zeros)) => code(zeros, group, groups, r),
            };
            values.push((code(packed, r * words, 1, c) - zero) as f32 * scale);
            steps.push(scale);
        }
    }
    (values, steps)
}

#[test]
fn packed_is_what_compressed_tensors_describes() {
    let model = Model::open(golden("llama")).expect("a golden model");
    let hold = [WeightCoord::down(1, 3, 2)];
    let eight = Levels::Asymmetric {
        bits: 8,
        steps: Steps::Full,
        zero: ZeroPoint::Integer,
    };
    for (levels, grouping, strategy, size) in [
        (INTEGER, Grouping::Row, "channel", Value::Null),
        (INTEGER, Grouping::tile(1, 8), "group", 8.into()),
        (eight, Grouping::flat(4), "group", 4.into()),
        (Levels::symmetric(3), Grouping::Row, "channel", Value::Null),
        (
            Levels::symmetric(4),
            Grouping::Tensor,
            "tensor",
            Value::Null,
        ),
        (INTEGER, Grouping::Tensor, "tensor", Value::Null),
    ] {
        let scheme = scheme(levels, grouping);
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("packed");
        let plan = write(&model, &export(Format::Packed, scheme, &hold), &out);
        let text = fs::read_to_string(out.join("config.json")).expect("a config");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let config = &config["quantization_config"];
        assert_eq!(config["format"], "pack-quantized");
        let ignored = ["lm_head", "model.layers.1.mlp.down_proj"];
        assert_eq!(config["ignore"], Value::from(&ignored[..]));
        let weights = &config["config_groups"]["group_0"]["weights"];
        assert_eq!(
            (&weights["strategy"], &weights["group_size"]),
            (&strategy.into(), &size)
        );
        let symmetric = matches!(levels, Levels::Symmetric { .. });
        assert_eq!(
            (&weights["symmetric"], &weights["num_bits"]),
            (&symmetric.into(), &levels.bits().into())
        );

        let (before, found) = (tensors(&golden("llama")), tensors(&out));
        for t in plan.tensors() {
            let Some(bits) = t.bits else {
                assert_eq!(found[&t.name], before[&t.name], "{}", t.name);
                continue;
            };
            let module = t.name.trim_end_matches(".weight");
            assert!(!found.contains_key(&t.name));
            let (values, steps) = unpacked(&found, module, bits.into(), strategy);
            let original = &before[&t.name].2;
            for ((v, step), b) in values.iter().zip(steps).zip(original.as_chunks::<2>().0) {
                let w = half::bf16::from_le_bytes(*b).to_f32();
                // Half a step; at the ends of the range a step (the zero is rounded too), and what a rounded scale cuts.
                let cut = 256.0 * step * 2f32.powi(-9);
                let reach = if symmetric { 0.5 } else { 1.0 } * step;
                assert!((v - w).abs() <= reach * 1.001 + cut, "{v} {w} step {step}");
            }
        }
        let bytes: usize = found.values().map(|(_, _, bytes)| bytes.len()).sum();
        assert_eq!(bytes as u64, plan.bytes()[1]);
    }
}

#[test]
fn overrides_shards_and_searches() {
    let model = Model::open(golden("llama")).expect("a golden model");
    let base = scheme(Levels::asymmetric(4), Grouping::Row);
    let eight = scheme(Levels::asymmetric(8), Grouping::Row);
    let mut export = export(Format::Fake, base, &[]);
    export.rule.search = true;
    let over = |pattern: &str, scheme: Option<Scheme>| Override {
        pattern: pattern.into(),
        rule: scheme.map(|scheme| Rule {
            scheme,
            search: false,
        }),
    };
    export.overrides = vec![
        over("*.mlp.*", Some(eight)),
        over("model.layers.1.*", None),
        over("*.1.mlp.down_proj.weight", Some(base)),
    ];
    export.shard_bytes = 6000;
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let plan = write(&model, &export, &out);
    let bits = |name: &str| {
        plan.tensors()
            .iter()
            .find(|t| t.name == name)
            .expect("a tensor")
            .bits
    };
    assert_eq!(bits("model.layers.0.self_attn.q_proj.weight"), Some(4));
    assert_eq!(bits("model.layers.0.mlp.up_proj.weight"), Some(8));
    assert_eq!(bits("model.layers.1.self_attn.q_proj.weight"), None);
    assert_eq!(bits("model.layers.1.mlp.down_proj.weight"), Some(4));

    let index = fs::read_to_string(out.join("model.safetensors.index.json")).expect("an index");
    let index: Value = serde_json::from_str(&index).expect("JSON");
    assert_eq!(index["metadata"]["total_size"], plan.bytes()[1]);
    assert_eq!(
        index["weight_map"].as_object().expect("a map").len(),
        plan.tensors().len()
    );
    let files = fs::read_dir(&out).expect("a folder").count();
    assert!(files > 5, "{files} files");
    let quantized = Model::open(&out).expect("opens");

    // By hand: the searched z is the one of least error, and clipping that does not pay is none.
    let record = fs::read_to_string(out.join("superweight.json")).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let tensors = record["tensors"].as_array().expect("a list");
    for (i, at) in model.linears().enumerate() {
        let name = model.spec().tensor_name_at(at).expect("a name");
        let mut w = values(&model).swap_remove(i);
        if let Some(bits) = bits(&name) {
            let of = |t: &&Value| t["name"] == name.as_str();
            let z = tensors.iter().find(of).expect("in the record")["z"].as_f64();
            let clip = z.map_or(Clip::None, |z| Clip::ZScore { z: z as f32 });
            let m = model.weight_at(at).expect("a map");
            let shape = [m.rows(), m.cols()];
            let scheme = scheme(Levels::asymmetric(bits), Grouping::Row).with_clip(clip);
            let mut half: Vec<half::bf16> = w.iter().map(|&v| half::bf16::from_f32(v)).collect();
            if bits == 4 && at.layer == 0 {
                let found = sw_quant::search::weight_error(
                    &half,
                    shape,
                    &scheme,
                    &[],
                    &sw_quant::search::ZS,
                );
                let found = found.expect("a search");
                assert_eq!(z.is_some(), found.error < found.baseline, "{name}");
                assert!(z.is_none_or(|z| z as f32 == found.best), "{name}");
            }
            sw_quant::fake_quantize(&mut half, shape, &scheme, &[]).expect("a sound case");
            w = half.iter().map(|v| v.to_f32()).collect();
        }
        assert_eq!(values(&quantized)[i], w, "{name}");
    }
}
