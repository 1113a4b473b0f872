//! Learning whether to grow, at full size: what was expected of it (docs/growing.md has the record).

use std::fs;

use assert_cmd::Command;
use serde_json::Value;

#[test]
#[ignore = "takes a minute with optimisation and many without; its record is in docs/growing.md"]
fn what_was_expected_of_five_draws_came_so() {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("xtask").unwrap();
    let output = command
        .args(["reproduce-lw2g", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json = fs::read_to_string(out.path().join("lw2g.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let expected = json["expected"].as_array().unwrap();
    assert_eq!(expected.len(), 16);
    for e in expected {
        assert_eq!(e["holds"], true, "{e}");
    }
}
