//! Shards of a run: their results merge to those of the whole, or they are refused.

use super::*;

#[test]
fn shards_merge_to_the_whole_run() {
    for num_fewshot in [0, 2] {
        merge_to_the_whole_run(num_fewshot);
    }
}

fn merge_to_the_whole_run(num_fewshot: usize) {
    let data = data();
    let mut options = options();
    options.num_fewshot = num_fewshot;
    let expected = comparable(&EvalResults::new(run(data.path(), &options).unwrap()));
    for count in [1, 2, 3, 9] {
        let out = tempfile::tempdir().unwrap();
        for index in (1..=count).rev() {
            let mut part = options.clone();
            part.shard = Shard::new(index, count).unwrap();
            write_to(data.path(), out.path(), &part, &mut go).unwrap();
        }
        if count == 1 {
            continue; // that is the whole run
        }
        let shards = shards_in(out.path()).unwrap();
        assert_eq!(shards.len(), count);
        assert_eq!(
            comparable(&merge(&shards).unwrap()),
            expected,
            "{count} shards"
        );

        let error = |paths: &[PathBuf]| merge(paths).unwrap_err().to_string();
        assert!(error(&shards[1..]).contains(&format!("shard 1/{count} is missing")));
        assert!(
            error(&[&shards[..], &shards[..1]].concat())
                .contains(&format!("shard 1/{count} is given twice"))
        );
        assert!(
            error(&[data.path().join("baber/piqa/data/validation-0.jsonl")])
                .contains("not a shard")
        );
    }
}

#[test]
fn shards_of_other_runs_are_refused() {
    let data = data();
    let out = tempfile::tempdir().unwrap();
    for (index, limit) in [(1, 3), (2, 4)] {
        let mut part = options();
        (part.limit, part.shard) = (Some(limit), Shard::new(index, 2).unwrap());
        write_to(data.path(), out.path(), &part, &mut go).unwrap();
    }
    let error = merge(&shards_in(out.path()).unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("different runs"), "{error}");
}

/// Shards are files that anybody may have touched: each of these passed once, with wrong numbers and no word.
#[test]
fn shards_that_were_changed_are_refused() {
    let data = data();
    let out = tempfile::tempdir().unwrap();
    for index in [1, 2] {
        let mut part = options();
        part.shard = Shard::new(index, 2).unwrap();
        write_to(data.path(), out.path(), &part, &mut go).unwrap();
    }
    let shards = shards_in(out.path()).unwrap();
    let before = fs::read_to_string(&shards[1]).unwrap();
    merge(&shards).unwrap();
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut shard: Value = serde_json::from_str(&before).unwrap();
        change(&mut shard);
        fs::write(&shards[1], shard.to_string()).unwrap();
        let error = merge(&shards).unwrap_err().to_string();
        assert!(
            error.contains("shard 2/2") && error.contains(expected),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(
        &|s| s["tasks"].as_array_mut().unwrap().swap(0, 1),
        "its tasks are not those of shard 1/2",
    );
    refused(
        &|s| drop(s["tasks"].as_array_mut().unwrap().pop()),
        "its tasks are not those of shard 1/2",
    );
    refused(
        &|s| s["tasks"][0]["task"] = "../../escaped".into(),
        "its tasks are not those of shard 1/2",
    );
    refused(
        &|s| s["tasks"][0]["source"]["sha256"] = "other".into(),
        "read other data",
    );
    let samples = |s: &mut Value, change: &dyn Fn(&mut Vec<Value>)| {
        change(s["tasks"][0]["samples"].as_array_mut().unwrap());
    };
    refused(
        &|s| samples(s, &|all| drop(all.pop())),
        "piqa: document 5 is missing",
    );
    refused(
        &|s| samples(s, &|all| all[1] = all[0].clone()),
        "piqa: found document 1, expected 3",
    );
    refused(
        &|s| samples(s, &|all| all[0]["doc_id"] = 2.into()),
        "piqa: found document 2, expected 1",
    );
    let sample = |s: &mut Value, key: &str, value: Value| s["tasks"][0]["samples"][0][key] = value;
    refused(
        &|s| s["tasks"][0]["samples"][0]["metrics"]["acc"] = json!(1e299),
        "document 1: acc: found",
    );
    refused(
        &|s| sample(s, "metrics", json!({"acc": 1.0})),
        "found 1 metrics, expected 3",
    );
    refused(&|s| sample(s, "resps", json!([])), "0 answers, expected 2");
    refused(
        &|s| s["tasks"][0]["samples"][0]["resps"][0]["log_prob"] = json!(0.5),
        "document 1: a log-probability of 0.5",
    );
    refused(&|s| sample(s, "gold", json!(0)), "its target is not");
    refused(
        &|s| sample(s, "arguments", json!([["a", "b"], ["c", "d"]])),
        "question 0 is not",
    );
    refused(&|s| sample(s, "doc", json!({})), "goal");
}
