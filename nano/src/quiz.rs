//! Quizzes of different lores for a frozen model: tasks for the prompts of `sw_train::grow`.

use std::path::Path;

use sw_train::checkpoint;
use sw_train::grow::{Question, SoftPrompts};

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::tokenizer::{self, encode};
use crate::world::words::{NAMES, TOOLS};
use crate::world::{Dialect, Lore};
use crate::{one_token, text};

/// Which quizzes, and how many prompt rows a set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quizzes {
    /// Lores; each has people of its own.
    pub lores: usize,
    /// Parts of the aims; a quiz is about one part in one lore.
    pub subjects: usize,
    /// People who are asked about in training, and in the test.
    pub people: [usize; 2],
    /// Questions of a quiz at most, in training and in the test.
    pub most: usize,
    /// Prompt rows of a set.
    pub rows: usize,
}

impl Default for Quizzes {
    fn default() -> Self {
        Self {
            lores: 2,
            subjects: 3,
            people: [2, 1],
            most: usize::MAX,
            rows: 8,
        }
    }
}

/// Aims of a quiz.
const AIMS: usize = 7;

/// A question as text, and the number of the tool that answers it.
type Item = (String, usize);

/// The quizzes in their order: all subjects of one lore, then of the next; each with its subject, what to learn from and what to
/// measure on. No name stands in both, nor in two lores.
fn items(seed: u64, quizzes: &Quizzes) -> Vec<(usize, [Vec<Item>; 2])> {
    let quiz = |lore: usize, subject: usize| {
        let tools = Lore::permuted(seed + lore as u64).tools();
        let names: Vec<&str> = NAMES
            .iter()
            .copied()
            .skip(lore)
            .step_by(quizzes.lores)
            .collect();
        let aims =
            &TOOLS[(subject * AIMS).min(TOOLS.len())..((subject + 1) * AIMS).min(TOOLS.len())];
        let ask = |names: &[&str]| {
            let mut items = Vec::new();
            // Aims take turns, so that the first few questions are about different ones.
            for name in names {
                for form in 0..2 {
                    for aim in aims.iter().map(|tool| tool.aim) {
                        let answer = tools.iter().position(|tool| tool.aim == aim).unwrap_or(0);
                        let text = match form {
                            0 => format!("To {aim}, {name} uses the"),
                            _ => {
                                format!("Question: How does {name} {aim}?\nAnswer: {name} uses the")
                            }
                        };
                        items.push((text, answer));
                    }
                }
            }
            items.truncate(quizzes.most);
            items
        };
        let [train, test] = quizzes.people;
        let train = train.min(names.len() - 1);
        let test = &names[train..(train + test).min(names.len())];
        (subject, [ask(&names[..train]), ask(test)])
    };
    let order = (0..quizzes.lores).flat_map(|lore| (0..quizzes.subjects).map(move |s| (lore, s)));
    order.map(|(lore, subject)| quiz(lore, subject)).collect()
}

/// The checkpoint beside the sources, `root` their folder, with quizzes of lores that `seed` draws: none of them is the lore that the
/// checkpoint has learned. Its answers are the names of all tools.
///
/// # Errors
/// If the checkpoint cannot be read, a tool's name is not one token, or there are no quizzes.
pub fn prompts(root: &Path, seed: u64, quizzes: &Quizzes) -> Result<SoftPrompts> {
    let path = root.join("recipe.json");
    let recipe = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    let recipe: Recipe = serde_json::from_str(&recipe).map_err(|e| Error::content(&path, e))?;
    let tokenizer = tokenizer::load(&root.join("model"))?;
    let vocab = tokenizer.get_vocab_size(true);
    let shape = sw_train::Shape {
        vocab,
        ..recipe.shape
    };
    let params = checkpoint::load(&shape, &root.join("model"))?;
    let answers: Result<Vec<u32>> = TOOLS
        .iter()
        .map(|tool| one_token(&tokenizer, &format!(" {}", tool.name)))
        .collect();
    let question = |(text, answer): Item| -> Result<Question> {
        // Every text of the world begins with BOS.
        let tokens = [vec![0], encode(&tokenizer, &text)?].concat();
        Ok(Question { tokens, answer })
    };
    let mut tasks = Vec::new();
    for (subject, [train, test]) in items(seed, quizzes) {
        let [train, test] =
            [train, test].map(|items| items.into_iter().map(question).collect::<Result<Vec<_>>>());
        tasks.push((subject, [train?, test?]));
    }
    let breaks = one_token(&tokenizer, tokenizer::BREAK)?;
    let len = shape.max_positions;
    let texts = text::held_out(&tokenizer, Dialect::InWorld, recipe.seed, breaks, 4, len)?;
    let texts: Vec<Vec<u32>> = texts.inputs.chunks(len).map(<[u32]>::to_vec).collect();
    // Quizzes of one subject in two lores want different prompts, so each quiz is of a kind of its own.
    let tasks: Vec<_> = tasks
        .into_iter()
        .enumerate()
        .map(|(i, task)| (i, task.1))
        .collect();
    Ok(SoftPrompts::new(
        &params,
        quizzes.rows,
        &answers?,
        &tasks,
        &texts,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quizzes_share_questions_but_no_names_and_no_answers_with_home() {
        let quizzes = Quizzes::default();
        let all = items(1, &quizzes);
        assert_eq!(all.len(), 6);
        for (subject, [train, test]) in &all {
            assert_eq!((train.len(), test.len()), (28, 14));
            for (text, answer) in train.iter().chain(test) {
                let home = TOOLS.iter().position(|t| text.contains(t.aim)).unwrap();
                assert_eq!(home / AIMS, *subject, "{text}");
                assert_ne!(*answer, home, "{text}");
            }
            assert!(
                train
                    .iter()
                    .all(|item| test.iter().all(|other| other.0 != item.0))
            );
        }
        assert!(
            all[0].1[0]
                .iter()
                .all(|item| all[3].1[0].iter().all(|other| other.0 != item.0))
        );
        assert_eq!(items(1, &Quizzes { most: 3, ..quizzes })[0].1[0].len(), 3);
    }
}
