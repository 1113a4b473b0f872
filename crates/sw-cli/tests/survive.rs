//! Long runs survive: killed, interrupted, out of disk, in parts; what they leave is that of a run left alone.
#![cfg(unix)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const LAUNCHERS: [&str; 6] = [
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    "SLURM_PROCID",
    "SLURM_NTASKS",
];

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sw"));
    for variable in LAUNCHERS {
        command.env_remove(variable);
    }
    command
}

/// A run over real data into a folder, in small batches, so that there is time to disturb it.
fn eval(out: &Path) -> Option<Command> {
    eval_on(None, out)
}

/// An evaluation of a model, a small real one where none is given; `None` where the real data are absent.
fn eval_on(model: Option<&Path>, out: &Path) -> Option<Command> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("SW_SHARED").map_or_else(default, PathBuf::from);
    if !shared.is_dir() {
        println!("skipped: {} is not there", shared.display());
        return None;
    }
    let mut command = program();
    command
        .arg("eval")
        .arg(model.map_or(shared.join("models/tinystories-656k"), Path::to_owned));
    command.arg("--data").arg(shared.join("data"));
    command.args(["--tasks", "piqa,lambada_openai", "--limit", "40"]);
    command.args(["--batch-size", "64", "--threads", "1", "--log-samples"]);
    command.arg("--output-path").arg(out);
    Some(command)
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that must succeed.
#[track_caller]
fn done(command: &mut Command) {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

/// What a finished run left, by kind of file; dates and durations left out.
fn left(out: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut text = fs::read_to_string(&path).unwrap();
        if name.starts_with("shard_") {
            continue;
        }
        if name.starts_with("results_") {
            let mut json: Value = serde_json::from_str(&text).unwrap();
            json["super_weight"]["environment"] = Value::Null;
            text = json.to_string();
        }
        let (kind, _) = name.rsplit_once('_').unwrap();
        // A run killed between its last two steps has written its files: the next writes them once more.
        let before = files.insert(kind.to_owned(), text.clone());
        assert!(before.is_none_or(|before| before == text), "two {kind}");
    }
    files
}

/// A run left alone, to compare with.
fn alone() -> Option<BTreeMap<String, String>> {
    let dir = tempfile::tempdir().unwrap();
    done(&mut eval(dir.path())?);
    let files = left(dir.path());
    let kinds: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["results", "samples_lambada_openai", "samples_piqa"]);
    Some(files)
}

fn journal(out: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(out).ok()?.filter_map(|e| Some(e.ok()?.path()));
    paths.find(|p| {
        p.extension().is_some_and(|e| e == "jsonl") && p.to_string_lossy().contains("journal_")
    })
}

/// Starts a run and waits until its journal holds so many answers.
fn started(out: &Path, answers: usize) -> Option<Child> {
    started_as(eval(out)?, out, answers)
}

fn started_as(mut command: Command, out: &Path, answers: usize) -> Option<Child> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let since = Instant::now();
    let lines = || {
        journal(out)
            .and_then(|p| fs::read(p).ok())
            .map_or(0, |b| b.iter().filter(|&&c| c == b'\n').count())
    };
    while lines() <= answers && child.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(300), "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(child)
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_files() {
    let Some(expected) = alone() else { return };
    let mut killed = 0;
    for answers in [0, 1, 30, 70, 110] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = started(dir.path(), answers).unwrap();
        child.kill().unwrap(); // SIGKILL: nothing can be tidied up
        killed += usize::from(!child.wait().unwrap().success());
        done(&mut eval(dir.path()).unwrap());
        assert_eq!(left(dir.path()), expected, "killed after {answers} answers");
    }
    assert!(killed > 0, "the runs were too quick to be killed");
}

#[test]
fn interrupted_it_says_so_and_goes_on_to_the_same_files() {
    let Some(expected) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let child = started(dir.path(), 10).unwrap();
    run(Command::new("kill").args(["-INT", &child.id().to_string()])); // it may have ended
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("error: interrupted after"), "{stderr}");
        assert!(stderr.contains("run the same command again"), "{stderr}");
        assert!(journal(dir.path()).is_some());
        done(&mut eval(dir.path()).unwrap());
    }
    assert_eq!(left(dir.path()), expected);
}

/// The limit on a file's size stands in for a disk that is full: the write that crosses it is cut short, the next fails.
#[test]
fn a_full_disk_loses_nothing_and_says_so() {
    let Some(expected) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inner = eval(dir.path()).unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "bash"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let output = run(&mut command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("the answers before it are kept: make room"),
        "{stderr}"
    );
    let kept = fs::read(journal(dir.path()).unwrap()).unwrap();
    assert_eq!(kept.len(), 4096);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "only the journal"
    );
    done(&mut eval(dir.path()).unwrap());
    assert_eq!(left(dir.path()), expected);
}

#[test]
fn parts_started_by_launchers_are_joined_to_the_whole() {
    let Some(expected) = alone() else { return };
    for [rank, size] in [
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
        ["SLURM_PROCID", "SLURM_NTASKS"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        for part in ["2", "0", "1"] {
            let mut command = eval(dir.path()).unwrap();
            done(
                command
                    .args(["--shard", "auto"])
                    .env(rank, part)
                    .env(size, "3"),
            );
        }
        done(program().args(["merge", "--log-samples"]).arg(dir.path()));
        assert_eq!(left(dir.path()), expected, "{rank}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = run(eval(dir.path()).unwrap().args(["--shard", "auto"]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("started by no known launcher"), "{stderr}");
}

/// A file that becomes shorter while it is mapped: one line, and the journal stays.
#[test]
fn a_model_that_is_cut_short_is_one_line_and_the_run_goes_on_later() {
    let Some(command) = eval(Path::new("unused")) else {
        return;
    };
    let model = PathBuf::from(command.get_args().nth(1).unwrap());
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&model).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let [left_alone, out] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    done(&mut eval_on(Some(copy.path()), left_alone.path()).unwrap());
    let weights = copy.path().join("model.safetensors");
    let child = started_as(
        eval_on(Some(copy.path()), out.path()).unwrap(),
        out.path(),
        10,
    )
    .unwrap();
    let file = fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(4096).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains("model.safetensors: became shorter while it was read"),
            "{stderr}"
        );
        assert!(journal(out.path()).is_some());
    }
    fs::copy(model.join("model.safetensors"), &weights).unwrap();
    done(&mut eval_on(Some(copy.path()), out.path()).unwrap());
    assert_eq!(left(out.path()), left(left_alone.path()));
}
