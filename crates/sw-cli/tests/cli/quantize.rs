//! `sw quantize`.

use std::{fs, path::Path};

use super::{fails, json, shared, small};

#[test]
fn quantize_says_what_it_would_write_and_writes_it() {
    let model = small().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q").display().to_string();
    let args = |more: &[&str]| {
        let base = [
            "quantize", &model, "--out", &out, "--tokens", "1,5,9,2", "--json", "--group", "row",
        ];
        [&base[..], more]
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let run = |more: &[&str]| json(&args(more).iter().map(String::as_str).collect::<Vec<_>>());
    let packed = ["--format", "packed", "--hold", "1:3:2", "--clip-z", "none"];
    let planned = run(&[&packed[..], &["--dry-run"]].concat());
    assert!(!Path::new(&out).exists() && planned["out"].is_null());
    let bits = planned["bits_per_weight"].as_f64().unwrap();
    assert!((4.5..8.0).contains(&bits), "{bits}"); // rows of 24 to 40 codes, a scale, padding to words
    let written = run(&packed);
    assert_eq!(
        (&written["bytes"], &written["tensors"]),
        (&planned["bytes"], &planned["tensors"])
    );
    let weights = fs::metadata(Path::new(&out).join("model.safetensors")).unwrap();
    let header = weights.len() - written["bytes"].as_u64().unwrap();
    assert!(
        header < 8000,
        "the file is its tensors and a header of {header} bytes"
    );
    let names: Vec<_> = written["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["name"])
        .collect();
    assert_eq!(names.len(), 13, "14 maps, one of which holds a weight");

    // What is there is not touched, what is written opens: the packed form of sw itself, too.
    let again = args(&packed);
    let again: Vec<_> = again.iter().map(String::as_str).collect();
    fails(&again, 1, &["exists", "--force"]);
    let own = run(&[
        "--format",
        "packed-sw",
        "--hold",
        "1:3:2",
        "--force",
        "--override",
        "*.q_proj.*=bits=8,levels=symmetric",
    ]);
    let q = own["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["name"].as_str().unwrap().contains("q_proj"));
    assert_eq!(q.unwrap()["bits"], 8);
    let found = json(&["inspect", &out, "--json"]);
    assert_eq!(found["family"], "llama");

    for (more, words) in [
        (&["--hold", "1:3"][..], &["--hold", "LAYER:ROW:COL"][..]),
        (&["--hold", "9:0:0"], &["layers[9]", "no such tensor"]),
        (&["--bits", "9"], &["bits", "2 to 8"]),
        (&["--clip-z=-1"], &["clip.z", "above 0"]),
        (&["--clip-z", "best"], &["--clip-z best", "search"]),
        (&["--group", "0x4"], &["--group 0x4", "AxB"]),
        (&["--group", "7"], &["7", "--short-tail"]),
        (
            &["--override", "*.q_proj.*"],
            &["--override", "PATTERN=keep"],
        ),
        (
            &["--override", "*.q_proj.*=bytes=8"],
            &["--override", "clip-z"],
        ),
        (
            &["--override", "nothing=keep"],
            &["nothing", "matches no matrix"],
        ),
        (&["--shard-size", "0"], &["--shard-size", "above 0"]),
        (
            &["--format", "packed", "--levels", "nf4"],
            &["Nf4", "pack-quantized"],
        ),
    ] {
        let mut args = vec!["quantize", &model, "--out", "unused", "--hold", "none"];
        if more[0] == "--hold" {
            args.truncate(4);
        } else if !more.contains(&"--group") {
            args.extend(["--group", "row"]);
        }
        args.extend(more);
        fails(&args, 1, words);
    }
    assert!(!Path::new("unused").exists());
}

/// The whole way on a real checkpoint: weights that stand out are held, and every format has the perplexity of the plan.
#[test]
fn quantized_tinystories_scores_as_the_intervention_does() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/tinystories-656k").display().to_string();
    let data = shared.join("data").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let hold = path("hold.json");
    let report = json(&["detect", &model, "--json", "--no-proof"]);
    assert!(!report["super_weights"].as_array().unwrap().is_empty());
    fs::write(&hold, report.to_string()).unwrap();
    let (fake, packed, plan) = (path("fake"), path("packed"), path("plan.json"));
    let rule = ["--bits", "3", "--group", "row", "--clip-z", "3"];
    // Nothing in this checkpoint is decisive, so that the default holds nothing; here, what stands out is held.
    let auto = json(
        &[
            &["quantize", &model, "--out", &path("auto"), "--json"][..],
            &rule,
        ]
        .concat(),
    );
    assert_eq!(auto["export"]["hold"].as_array().map(Vec::len), Some(0));
    let fake_of = [
        "quantize", &model, "--out", &fake, "--hold", &hold, "--json",
    ];
    let quantized = json(&[&fake_of[..], &rule].concat());
    let held = &quantized["export"]["hold"];
    assert_eq!(
        held.as_array().map(Vec::len),
        report["super_weights"].as_array().map(Vec::len)
    );
    let by_file = [
        "quantize",
        &model,
        "--out",
        &packed,
        "--json",
        "--format",
        "packed-sw",
        "--hold",
        &hold,
    ];
    let other = json(&[&by_file[..], &rule].concat());
    assert_eq!(
        other["export"]["hold"], *held,
        "auto is what detection reports"
    );
    assert!(other["bits_per_weight"].as_f64().unwrap() < 3.6);

    let scheme = &quantized["export"]["rule"]["scheme"];
    let interventions =
        serde_json::json!([{"kind": "quantize_weights", "scheme": scheme, "hold": held}]);
    fs::write(&plan, interventions.to_string()).unwrap();
    let perplexity = |model: &str, more: &[&str]| {
        let base = [
            "eval",
            model,
            "--tasks",
            "wikitext2",
            "--data",
            &data,
            "--limit",
            "2",
            "--json",
        ];
        json(&[&base[..], more].concat())["results"]["wikitext2"]["perplexity,none"]
            .as_f64()
            .unwrap()
    };
    let expected = perplexity(&model, &["--plan", &plan]);
    assert_eq!(perplexity(&fake, &[]), expected);
    assert_eq!(perplexity(&packed, &[]), expected);
    assert_ne!(perplexity(&model, &[]), expected);
}

/// What quantization does to a model is told, a ruined one with exit code 3; its folder is whole all the same.
#[test]
fn quantize_tells_what_it_did_to_the_model() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/tinystories-656k").display().to_string();
    let stories = shared.join("data/tinystories/validation-sample.txt");
    let stories = std::fs::read_to_string(stories).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("stories.txt");
    let few: String = stories.chars().take(6000).collect();
    std::fs::write(&text, few).unwrap();
    let text = text.display().to_string();
    let run = |bits: &str, more: &[&str]| {
        let out = dir.path().join(bits).display().to_string();
        let base = [
            "quantize", &model, "--out", &out, "--group", "row", "--hold", "none", "--json",
        ];
        let args = [&base[..], &["--bits", bits], more].concat();
        let output = super::sw().args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&stderr);
        json(&["inspect", &out, "--json"]);
        (output.status.code(), report, stderr)
    };
    let (code, fine, _) = run("8", &["--check", &text]);
    let before = fine["check"]["perplexity_before"].as_f64().unwrap();
    let after = fine["check"]["perplexity_after"].as_f64().unwrap();
    assert!(
        code == Some(0) && (after / before - 1.0).abs() < 0.01,
        "{fine}"
    );
    assert_eq!(fine["check"]["worst"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        fine["export"]["rule"]["search"], false,
        "no clip without --calib"
    );

    let (code, ruined, stderr) = run("2", &["--check", &text]);
    let after = ruined["check"]["perplexity_after"].as_f64().unwrap();
    assert!(after > 2.0 * before, "{ruined}");
    assert!(
        code == Some(3) && stderr.contains("more than doubles the perplexity"),
        "{stderr}"
    );

    let (code, calibrated, _) = run("4", &["--calib", &text]);
    let of = |key: &str| calibrated["calibration"][key].as_f64().unwrap();
    let kept = calibrated["calibration"]["kept"] == true;
    let decided = if kept {
        of("kl_clipped")
    } else {
        of("kl_unclipped")
    };
    assert!(code == Some(0) && of("kl_unclipped") > 0.0);
    assert_eq!(calibrated["check"]["kl"].as_f64(), Some(decided));
}
