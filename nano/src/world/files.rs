//! The evaluation sets as files, laid out as the Hugging Face dataset repositories lay theirs out.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::dice::Dice;
use super::scene::Dialect;
use super::table::{Column, Values, write};
use super::tasks::{self, Question};
use super::{Lore, Split, World};
use sw_train::checkpoint;

use crate::error::{Error, Result};

/// Held-out sets, by number of their stream.
const EASY: u32 = 1;
const CHALLENGE: u32 = 2;
const SCIENCE: u32 = 3;
const TOOL: u32 = 4;
const PRONOUN: u32 = 5;
const ENDING: u32 = 6;
const LAST_WORD: u32 = 7;
const IN_WORLD: u32 = 8;
const SHIFTED: u32 = 9;
/// Text that is in no test set, for calibration.
const CALIBRATION: u32 = 10;

/// Writes the seven tasks' sets with `items` items each and two perplexity texts under `dir/ORG/NAME/..`: WikiText's rows
/// in-world, C4's in the shifted dialect, all of this lore; WikiText's training split, a quarter as many rows, is for calibration.
///
/// `passage(dice, world, n)` draws text that is `n` tokens short of one window. WikiText's protocol joins the rows by
/// blank lines and cuts the whole into windows: as each row fills one, a window begins with BOS or with a blank line,
/// which is how the texts that the model learns from begin. C4's draws windows at random places of rows that are longer
/// than one: with BOS, each row is longer by one token, so its window begins with BOS.
///
/// # Errors
/// If a passage cannot be drawn or a file cannot be written.
pub fn write_evaluation(
    dir: &Path,
    lore: Lore,
    seed: u64,
    items: usize,
    mut passage: impl FnMut(&mut Dice, World, usize) -> Result<String>,
) -> Result<()> {
    let in_dialect = |dialect| World { dialect, lore };
    let world = in_dialect(Dialect::InWorld);
    let questions = |set, one: fn(&mut Dice, World) -> Question| {
        draw(seed, set, items, |dice| one(dice, world))
    };
    let arc = "allenai/ai2_arc";
    let (set, name) = (questions(EASY, tasks::easy), "arc_easy");
    write(
        &dir.join(arc).join("ARC-Easy/test-00000-of-00001.parquet"),
        &choices(&set, name),
    )?;
    let (set, name) = (questions(CHALLENGE, tasks::challenge), "arc_challenge");
    write(
        &dir.join(arc)
            .join("ARC-Challenge/test-00000-of-00001.parquet"),
        &choices(&set, name),
    )?;

    let set = questions(SCIENCE, tasks::science);
    let wrong = |n: usize| {
        set.iter().map(move |q| {
            (0..4)
                .filter(|&i| i != q.answer)
                .nth(n)
                .map_or("", |i| q.choices[i].as_str())
        })
    };
    let columns = [
        Column::text("question", set.iter().map(|q| q.question.as_str())),
        Column::text("distractor3", wrong(2)),
        Column::text("distractor1", wrong(0)),
        Column::text("distractor2", wrong(1)),
        Column::text(
            "correct_answer",
            set.iter().map(|q| q.choices[q.answer].as_str()),
        ),
        Column::text("support", set.iter().map(|q| q.support.as_str())),
    ];
    write(
        &dir.join("allenai/sciq/data/test-00000-of-00001.parquet"),
        &columns,
    )?;

    let set = draw(seed, TOOL, items, |dice| tasks::tool(dice, world));
    let columns = [
        Column::text("goal", set.iter().map(|p| p.goal.as_str())),
        Column::text("sol1", set.iter().map(|p| p.solutions[0].as_str())),
        Column::text("sol2", set.iter().map(|p| p.solutions[1].as_str())),
        Column {
            name: "label",
            values: Values::Int64(set.iter().map(|p| p.label as i64).collect()),
        },
    ];
    write(
        &dir.join("baber/piqa/data/validation-00000-of-00001.parquet"),
        &columns,
    )?;

    let set = draw(seed, PRONOUN, items, |dice| tasks::pronoun(dice, world));
    let columns = [
        Column::text("sentence", set.iter().map(|p| p.sentence.as_str())),
        Column::text("option1", set.iter().map(|p| p.options[0].as_str())),
        Column::text("option2", set.iter().map(|p| p.options[1].as_str())),
        Column::text("answer", set.iter().map(|p| (p.answer + 1).to_string())),
    ];
    write(
        &dir.join("allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet"),
        &columns,
    )?;

    let set = draw(seed, ENDING, items, |dice| tasks::ending(dice, world));
    let same = |text: &'static str| Column::text("source_id", std::iter::repeat_n(text, items));
    let columns = [
        Column {
            name: "ind",
            values: Values::Int32((0..items as i32).collect()),
        },
        Column::text("activity_label", set.iter().map(|e| e.activity.as_str())),
        Column::text("ctx_a", set.iter().map(|e| e.scene.as_str())),
        Column::text("ctx_b", set.iter().map(|e| e.start.as_str())),
        Column::text(
            "ctx",
            set.iter().map(|e| format!("{} {}", e.scene, e.start)),
        ),
        Column::texts("endings", set.iter().map(|e| e.endings.clone())),
        same(""),
        Column {
            name: "split",
            ..same("val")
        },
        Column {
            name: "split_type",
            ..same("indomain")
        },
        Column::text("label", set.iter().map(|e| e.label.to_string())),
    ];
    write(
        &dir.join("Rowan/hellaswag/data/validation-00000-of-00001.parquet"),
        &columns,
    )?;

    let set = draw(seed, LAST_WORD, items, |dice| tasks::last_word(dice, world));
    let path = "EleutherAI/lambada_openai/default/test-00000-of-00001.parquet";
    write(&dir.join(path), &[Column::text("text", set)])?;

    let set = draw(seed, IN_WORLD, items, |dice| passage(dice, world, 1));
    let set = set.into_iter().collect::<Result<Vec<_>>>()?;
    let path = "Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet";
    write(&dir.join(path), &[Column::text("text", set)])?;

    let set = draw(seed, CALIBRATION, items.div_ceil(4), |dice| {
        passage(dice, world, 1)
    });
    let set = set.into_iter().collect::<Result<Vec<_>>>()?;
    let path = "Salesforce/wikitext/wikitext-2-raw-v1/train-00000-of-00001.parquet";
    write(&dir.join(path), &[Column::text("text", set)])?;

    let set = draw(seed, SHIFTED, items, |dice| {
        passage(dice, in_dialect(Dialect::Shifted), 0)
    });
    let set = set.into_iter().collect::<Result<Vec<_>>>()?;
    write_lines(
        &dir.join("allenai/c4/en/c4-validation.00000-of-00008.json.gz"),
        &set,
    )
}

fn draw<T>(seed: u64, set: u32, items: usize, mut one: impl FnMut(&mut Dice) -> T) -> Vec<T> {
    let mut dice = Split::HeldOut(set).dice(seed);
    (0..items).map(|_| one(&mut dice)).collect()
}

/// ARC's columns.
fn choices(set: &[Question], name: &str) -> [Column; 5] {
    let labels = || ["A", "B", "C", "D"].map(String::from);
    [
        Column::text("id", (0..set.len()).map(|i| format!("{name}_{i}"))),
        Column::text("question", set.iter().map(|q| q.question.as_str())),
        Column::texts("choices.text", set.iter().map(|q| q.choices.clone())),
        Column::texts(
            "choices.label",
            set.iter()
                .map(|q| labels()[..q.choices.len().min(4)].to_vec()),
        ),
        Column::text(
            "answerKey",
            set.iter().map(|q| labels()[q.answer.min(3)].clone()),
        ),
    ]
}

/// One JSON object with a `text` per line, compressed; no time stamp, so that equal texts give equal files.
fn write_lines(path: &Path, texts: &[String]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    }
    let mut zip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    for text in texts {
        let line = json!({ "text": text }).to_string() + "\n";
        zip.write_all(line.as_bytes()).map_err(Error::file(path))?;
    }
    let bytes = zip.finish().map_err(Error::file(path))?;
    Ok(checkpoint::write(path, &bytes)?)
}
