//! Rules about single files: words that stand in certain places only, lengths, links.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A Rust file with more lines than this holds more than one subject.
const LONGEST: usize = 500;

/// Files that are tables of data, and may be longer.
const TABLES: [&str; 0] = [];

/// A word of the language that stands in few places.
struct Rule {
    words: &'static [&'static str],
    /// Where the rule holds: path prefixes.
    within: &'static [&'static str],
    /// Where the words may stand all the same: path prefixes.
    except: &'static [&'static str],
    why: &'static str,
}

const LIBRARIES: &[&str] = &[
    "crates/sw-detect/src",
    "crates/sw-eval/src",
    "crates/sw-intervene/src",
    "crates/sw-model/src",
    "crates/sw-quant/src",
    "crates/sw-tensor/src",
    "crates/sw-train/src",
];

const RULES: [Rule; 5] = [
    Rule {
        words: &["unsafe"],
        within: &["crates/", "xtask/src", "nano/", "benches/src"],
        // candle's program is a text here: it is built elsewhere, and only where it is measured.
        except: &["crates/sw-tensor/src", "xtask/src/peers/candle.rs"],
        why: "only sw-tensor contains unsafe code",
    },
    Rule {
        words: &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        within: LIBRARIES,
        // This module is a test alone.
        except: &["crates/sw-model/src/family/published.rs"],
        why: "libraries print nothing",
    },
    Rule {
        words: &[
            "env::var",
            "env::var_os",
            "env::vars",
            "env::vars_os",
            "env::home_dir",
        ],
        within: LIBRARIES,
        except: &[
            "crates/sw-tensor/src/isa.rs",
            "crates/sw-model/src/locate.rs",
        ],
        why: "libraries read no environment, except the kernel override and the place of the cache",
    },
    Rule {
        words: &["fs::read", "fs::read_to_string", "File::open"],
        within: LIBRARIES,
        except: &[
            "crates/sw-tensor/src/files",
            // What the system says of itself, and what has been looked at before it is opened.
            "crates/sw-tensor/src/machine.rs",
            "crates/sw-tensor/src/matmul/cache.rs",
            "crates/sw-tensor/src/checkpoint",
            // What this program has written itself.
            "crates/sw-train/src",
            // This module is a test alone.
            "crates/sw-model/src/family/published.rs",
        ],
        why: "a stranger's file may be a pipe, endless, or a link: sw_tensor::files opens it",
    },
    Rule {
        words: &["todo!", "unimplemented!"],
        within: &["crates/", "xtask/", "nano/", "benches/"],
        except: &[],
        why: "nothing unfinished is committed",
    },
];

/// The broken rules, a line each. `files` are relative to `root`.
pub(super) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in files {
        let kind = file.extension().and_then(|e| e.to_str());
        if !matches!(kind, Some("rs" | "md")) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(file));
        let text = text.with_context(|| file.display().to_string())?;
        broken.extend(match kind {
            Some("rs") => rust(file, &text),
            _ => document(root, file, &text),
        });
    }
    Ok(broken)
}

fn rust(file: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST && !TABLES.iter().any(|table| file == Path::new(table)) {
        broken.push(format!(
            "{}: {lines} lines, at most {LONGEST} are one subject",
            file.display()
        ));
    }
    let is_test = file.ends_with("tests.rs") || file.iter().any(|part| part == "tests");
    let here = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
    for rule in RULES {
        if is_test || !here(rule.within) || here(rule.except) {
            continue;
        }
        // A `#[cfg(test)]` block at the end of a file is a test; comments and strings are no code.
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
        for (number, line) in code.lines().enumerate() {
            if let Some(word) = rule.words.iter().find(|word| stands_in(line, word)) {
                broken.push(format!(
                    "{}:{}: `{word}`: {}",
                    file.display(),
                    number + 1,
                    rule.why
                ));
            }
        }
    }
    broken
}

/// Whether a line of code, without its comment and its strings, holds the word, whole.
fn stands_in(line: &str, word: &str) -> bool {
    let code: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    let code = code.split("//").next().unwrap_or_default();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// Links of a document to files of the repository. A crate's README is published with the crate alone.
fn document(root: &Path, file: &Path, text: &str) -> Vec<String> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut broken = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            let place = || format!("{}:{}: the link to {target}", file.display(), number + 1);
            if !root.join(folder).join(target).exists() {
                broken.push(format!("{} leads nowhere", place()));
            }
            let leaves = Path::new(target)
                .components()
                .any(|c| c == Component::ParentDir);
            if leaves && file.starts_with("crates") {
                broken.push(format!(
                    "{} leaves the crate, which is published alone",
                    place()
                ));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{document, rust, stands_in};

    #[test]
    fn words_count_in_code_and_nowhere_else() {
        assert!(stands_in("    unsafe { read(p) }", "unsafe"));
        assert!(!stands_in("#![forbid(unsafe_code)]", "unsafe"));
        assert!(!stands_in("// unsafe", "unsafe"));
        assert!(!stands_in("let s = \"unsafe\";", "unsafe"));
        assert!(stands_in("std::env::var(\"X\")", "env::var"));
        assert!(!stands_in("eprintln!(\"x\")", "println!"));
    }

    #[test]
    fn a_broken_rule_is_named_with_its_line() {
        let library = Path::new("crates/sw-eval/src/run.rs");
        let found = rust(
            library,
            "fn f() {\n    println!(\"x\");\n}\n\n#[cfg(test)]\nmod tests {\n    print!()\n}\n",
        );
        assert_eq!(
            found,
            ["crates/sw-eval/src/run.rs:2: `println!`: libraries print nothing"]
        );
        assert!(rust(Path::new("crates/sw-cli/src/run.rs"), "println!()").is_empty());
        assert!(rust(Path::new("crates/sw-tensor/src/map.rs"), "unsafe {}").is_empty());
        assert_eq!(rust(library, &"\n".repeat(501)).len(), 1);
    }

    #[test]
    fn links_lead_somewhere_and_stay_in_a_published_crate() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let readme = Path::new("crates/README.md");
        assert_eq!(
            document(
                root,
                Path::new("README.md"),
                "[a](src/main.rs) [b](https://x.y)"
            ),
            [""; 0]
        );
        assert_eq!(
            document(root, Path::new("README.md"), "[a](src/absent.rs)").len(),
            1
        );
        assert_eq!(document(root, readme, "[a](../src)").len(), 2);
    }
}
