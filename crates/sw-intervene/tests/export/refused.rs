//! Folders that are written whole or not at all, and exports that are refused.

use super::*;

const CONTINUE: ControlFlow<()> = ControlFlow::Continue(());

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let open = |name: &str| Model::open(golden(name)).expect("a golden model");
    let refused = |name: &str, export: &Export, words: &[&str]| {
        let error = Plan::new(&open(name), export)
            .err()
            .expect("refused")
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        for word in words {
            assert!(error.contains(word), "{error}\n  lacks {word}");
        }
    };
    let plain = scheme(Levels::asymmetric(4), Grouping::Row);
    let of = |format, levels, grouping| export(format, scheme(levels, grouping), &[]);
    refused(
        "llama",
        &of(Format::Packed, Levels::asymmetric(4), Grouping::Row),
        &["layers.0", "packed-sw"],
    );
    refused(
        "llama",
        &of(Format::Packed, Levels::Nf4, Grouping::Row),
        &["Nf4", "pack-quantized"],
    );
    refused(
        "llama",
        &of(Format::Packed, INTEGER, Grouping::tile(2, 8)),
        &["Tile", "grouping"],
    );
    refused(
        "llama",
        &of(Format::Packed, INTEGER, Grouping::flat(16)),
        &["rows of 40", "16 elements"],
    );
    refused(
        "gpt2",
        &of(Format::Packed, INTEGER, Grouping::Row),
        &["gpt2", "[input, output]"],
    );
    refused(
        "llama",
        &of(Format::Fake, Levels::asymmetric(9), Grouping::Row),
        &["bits", "2 to 8", "layers.0"],
    );
    refused(
        "llama",
        &of(Format::Fake, INTEGER, Grouping::flat(7)),
        &["7", "do not divide", "layers.0"],
    );
    refused(
        "llama",
        &export(Format::Fake, plain, &[WeightCoord::down(0, 24, 0)]),
        &["down_proj[24, 0]"],
    );
    let linear = Linear::Qkv;
    let fused = WeightCoord {
        linear,
        ..WeightCoord::down(0, 0, 0)
    };
    refused(
        "llama",
        &export(Format::Fake, plain, &[fused]),
        &["qkv_proj", "no such tensor"],
    );
    let mut pattern = export(Format::Fake, plain, &[]);
    pattern.overrides = vec![Override {
        pattern: "*.dwon_proj.*".into(),
        rule: None,
    }];
    refused(
        "llama",
        &pattern,
        &["dwon_proj", "matches no matrix", "model.layers.0"],
    );
}

/// A copy of a golden model that may be changed.
fn copy(name: &str, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        fs::write(
            to.join(file),
            fs::read(golden(name).join(file)).expect("read"),
        )
        .expect("written");
    }
}

#[test]
fn folders_are_whole_or_absent_and_the_original_is_safe() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("source");
    copy("llama", &source);
    let model = Model::open(&source).expect("opens");
    let plain = scheme(Levels::asymmetric(4), Grouping::Row);
    let plan = Plan::new(&model, &export(Format::Fake, plain, &[])).expect("a plan");
    let write = |out: &Path, force: bool| plan.write(out, force, &mut |_| CONTINUE);
    let refused = |out: &Path, force: bool, words: &str| {
        let error = write(out, force).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}\n  lacks {words}");
    };
    for inside in [
        source.clone(),
        source.join("new"),
        dir.path().into(),
        source.join("../source/./q"),
    ] {
        refused(&inside, true, "the original");
    }
    refused(
        &dir.path().join("models--a--b/snapshots/x"),
        false,
        "Hugging Face cache",
    );

    // A folder that is there is replaced only when asked to, and only if it is a checkpoint.
    let out = dir.path().join("a/b");
    fs::create_dir_all(&out).expect("a folder");
    refused(&out, false, "--force");
    fs::write(out.join("letters.txt"), "dear").expect("written");
    refused(&out, true, "no checkpoint folder");
    assert_eq!(
        fs::read_to_string(out.join("letters.txt")).expect("there"),
        "dear"
    );
    fs::write(out.join("config.json"), "{}").expect("written");
    write(&out, true).expect("replaced");
    assert!(Model::open(&out).is_ok() && !out.join("letters.txt").exists());

    // Nothing is there before all is there; what a killed run left is no obstacle, another run is.
    let (out, beside) = (dir.path().join("c"), dir.path().join(".c.part"));
    fs::create_dir(&beside).expect("a folder");
    fs::write(beside.join("letters.txt"), "dear").expect("written");
    refused(&out, false, "is in the way");
    fs::remove_file(beside.join("letters.txt")).expect("removed");
    let mark = fs::File::create(beside.join("UNFINISHED")).expect("a file");
    mark.lock().expect("locked");
    refused(&out, false, "another run");
    drop(mark);
    let mut seen = 0;
    plan.write(&out, false, &mut |_| {
        seen += 1;
        assert!(beside.is_dir() && !out.exists());
        CONTINUE
    })
    .expect("written");
    assert!(seen > 10 && out.is_dir() && !beside.exists());

    // Stopped by whoever hears of the progress: nothing more is computed, and nothing is left.
    let out = dir.path().join("stopped");
    let mut seen = 0;
    let stopped = plan.write(&out, false, &mut |_| {
        seen += 1;
        match seen {
            3 => ControlFlow::Break(()),
            _ => CONTINUE,
        }
    });
    let error = stopped.expect_err("stopped").to_string();
    assert!(error.ends_with("stopped: stopped before it was whole; nothing of it is left"));
    assert!(seen == 3 && !out.exists() && !dir.path().join(".stopped.part").exists());

    // An error half-way leaves nothing.
    let broken = dir.path().join("broken");
    copy("llama", &broken);
    let path = broken.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("read");
    let at = {
        let name = "model.layers.1.mlp.down_proj.weight";
        let view = SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = view.tensor(name).expect("there").data().as_ptr() as usize;
        data - bytes.as_ptr() as usize
    };
    bytes[at..at + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    fs::write(&path, bytes).expect("written");
    let model = Model::open(&broken).expect("opens");
    let out = dir.path().join("d");
    for format in [Format::Fake, Format::PackedSw] {
        let plan = Plan::new(&model, &export(format, plain, &[])).expect("a plan");
        let error = plan
            .write(&out, false, &mut |_| CONTINUE)
            .expect_err("a NaN")
            .to_string();
        let expected = "model.layers.1.mlp.down_proj.weight: w: value at [0, 0] (index 0) is NaN";
        assert!(error.starts_with(expected), "{error}");
        assert!(!out.exists() && !dir.path().join(".d.part").exists());
    }
}

#[test]
fn damaged_packed_checkpoints_are_refused() {
    let model = Model::open(golden("llama")).expect("a golden model");
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("packed");
    let hold = [WeightCoord::down(0, 3, 2)];
    let plain = scheme(Levels::asymmetric(4), Grouping::Row);
    write(&model, &export(Format::PackedSw, plain, &hold), &out);
    let error = Model::open(&out)
        .err()
        .expect("needs its reader")
        .to_string();
    assert!(error.contains("superweight"), "{error}");
    open_packed(&out);

    let path = out.join("model.safetensors");
    let whole = fs::read(&path).expect("read");
    let place = |name: &str| {
        let view = SafeTensors::deserialize(&whole).expect("safetensors");
        view.tensor(name).expect("there").data().as_ptr() as usize - whole.as_ptr() as usize
    };
    let weight = "model.layers.0.mlp.down_proj.weight";
    for (name, offset, byte, words) in [
        (weight, 0, b'X', "magic"),
        (weight, 5, 3, "length"),
        (
            "model.layers.0.mlp.down_proj.weight_held_at",
            0,
            24,
            "outside [24, 40]",
        ),
    ] {
        let mut bytes = whole.clone();
        bytes[place(name) + offset] = byte;
        fs::write(&path, bytes).expect("written");
        let mut options = OpenOptions::default();
        options.decoder = Some(Arc::new(PackedReader));
        let error = Model::open_with(&out, &options)
            .err()
            .expect("damaged")
            .to_string();
        assert!(error.contains(weight) && error.contains(words), "{error}");
    }
}
