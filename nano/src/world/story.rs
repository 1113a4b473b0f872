//! Running text: documents for training and for the perplexity texts.

use super::dice::Dice;
use super::scene::{Dialect, Fact, RELATIONS, facts, happen};
use super::{lore, scene, tasks};

/// One document: a story, or a question, pair or ending in the form the tasks have, written out with its answer.
pub fn document(dice: &mut Dice, dialect: Dialect) -> String {
    match dice.below(100) {
        0..14 => roll(dice, dialect),
        14..34 => story(dice, dialect),
        34..46 => primer(dice, dialect),
        46..56 => tasks::easy(dice, dialect).text(),
        56..65 => tasks::challenge(dice, dialect).text(),
        65..72 => lesson(dice, dialect),
        72..77 => tasks::science(dice, dialect).text(),
        77..84 => tasks::tool(dice, dialect).text(),
        84..92 => tasks::pronoun(dice, dialect).text(),
        _ => tasks::ending(dice, dialect).text(),
    }
}

/// Some of what holds in every story.
fn primer(dice: &mut Dice, dialect: Dialect) -> String {
    let sentences: Vec<String> = (0..dialect.facts(dice) + 1)
        .map(|_| {
            let tool = lore::tool(dice);
            lore::saying(dice, dialect, tool)
        })
        .collect();
    sentences.join(" ")
}

/// A roll: people, or people with their things, called up again and again in random order.
fn roll(dice: &mut Dice, dialect: Dialect) -> String {
    let n = dialect.facts(dice) + 1;
    let names = dialect.people(dice, n);
    let entries: Vec<String> = match dice.percent(50) {
        true => names,
        false => names
            .iter()
            .zip(scene::things(dice, n))
            .map(|(name, thing)| format!("{name}: {thing}"))
            .collect(),
    };
    let mut calls: Vec<&str> = entries.iter().map(String::as_str).collect();
    for _ in 0..2 * n {
        calls.push(&entries[dice.below(n)]);
    }
    calls.join(", ") + "."
}

/// A story: a scene is told, things happen, and what still holds is recalled.
pub fn story(dice: &mut Dice, dialect: Dialect) -> String {
    let (mut sentences, kept) = opening(dice, dialect);
    if dice.percent(30) {
        let tool = lore::tool(dice);
        sentences.push(lore::saying(dice, dialect, tool));
    }
    let mut again = kept.clone();
    dice.shuffle(&mut again);
    for fact in kept.iter().chain(&again) {
        sentences.push(match dice.percent(70) {
            true => fact.recalled(dice),
            false => fact.recalled_backwards(),
        });
    }
    sentences.join(" ")
}

/// A scene and questions about all of it, in both directions: SciQ's form with more than one question.
fn lesson(dice: &mut Dice, dialect: Dialect) -> String {
    let (mut sentences, mut kept) = opening(dice, dialect);
    if dice.percent(50) {
        let fact = &kept[dice.below(kept.len())];
        sentences.push(fact.recalled(dice));
    }
    dice.shuffle(&mut kept);
    let mut text = sentences.join(" ");
    for fact in kept {
        let (question, answer) = match dice.percent(60) {
            true => (fact.question(), fact.answer()),
            false => (fact.question_backwards(), fact.answer_backwards()),
        };
        text.push_str(&format!("\nQuestion: {question}\nAnswer: {answer}"));
    }
    text
}

/// The telling half of a story, and the facts that hold at its end in the order in which they will be recalled.
pub(super) fn opening(dice: &mut Dice, dialect: Dialect) -> (Vec<String>, Vec<Fact>) {
    let n = dialect.facts(dice);
    let relation = RELATIONS[dice.below(RELATIONS.len())];
    let mut kept = facts(dice, dialect, relation, n);
    let mut sentences: Vec<String> = kept.iter().map(Fact::told).collect();
    let happenings = match dialect {
        Dialect::InWorld => usize::from(dice.percent(40)),
        Dialect::Shifted => dice.between(1, 2),
    };
    for _ in 0..happenings {
        if let Some((sentence, _)) = happen(dice, dialect, &mut kept) {
            sentences.push(sentence);
        }
    }
    dice.shuffle(&mut kept);
    (sentences, kept)
}
