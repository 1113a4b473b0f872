//! Running text: documents for training and for the perplexity texts.

use super::dice::Dice;
use super::scene::{Dialect, Fact, RELATIONS, facts, happen};
use super::{World, lore, scene, tasks};

/// One document: a story, or a question, pair or ending in the form the tasks have, written out with its answer.
pub fn document(dice: &mut Dice, world: impl Into<World>) -> String {
    let world = world.into();
    match dice.below(100) {
        0..14 => roll(dice, world),
        14..34 => story(dice, world),
        34..46 => primer(dice, world),
        46..56 => tasks::easy(dice, world).text(),
        56..65 => tasks::challenge(dice, world).text(),
        65..72 => lesson(dice, world),
        72..77 => tasks::science(dice, world).text(),
        77..84 => tasks::tool(dice, world).text(),
        84..92 => tasks::pronoun(dice, world).text(),
        _ => tasks::ending(dice, world).text(),
    }
}

/// One document about what always holds: some of it as statements, or a question, pair or ending about it.
pub fn on_lore(dice: &mut Dice, world: impl Into<World>) -> String {
    let world = world.into();
    loop {
        let text = match dice.below(8) {
            0..3 => primer(dice, world),
            3 => tasks::easy(dice, world).text(),
            4 => tasks::challenge(dice, world).text(),
            5 => tasks::science(dice, world).text(),
            6 => tasks::tool(dice, world).text(),
            _ => tasks::ending(dice, world).text(),
        };
        // Some questions are about scenes.
        if world.lore.is_in(&text) {
            return text;
        }
    }
}

/// Some of what holds in every story.
fn primer(dice: &mut Dice, world: World) -> String {
    let sentences: Vec<String> = (0..world.facts(dice) + 1)
        .map(|_| {
            let tool = lore::tool(dice, world);
            lore::saying(dice, world, tool)
        })
        .collect();
    sentences.join(" ")
}

/// A roll: people, or people with their things, called up again and again in random order.
fn roll(dice: &mut Dice, world: World) -> String {
    let n = world.facts(dice) + 1;
    let names = world.people(dice, n);
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
pub fn story(dice: &mut Dice, world: impl Into<World>) -> String {
    let world = world.into();
    let (mut sentences, kept) = opening(dice, world);
    if dice.percent(30) {
        let tool = lore::tool(dice, world);
        sentences.push(lore::saying(dice, world, tool));
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
fn lesson(dice: &mut Dice, world: World) -> String {
    let (mut sentences, mut kept) = opening(dice, world);
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
pub(super) fn opening(dice: &mut Dice, world: World) -> (Vec<String>, Vec<Fact>) {
    let n = world.facts(dice);
    let relation = RELATIONS[dice.below(RELATIONS.len())];
    let mut kept = facts(dice, world, relation, n);
    let mut sentences: Vec<String> = kept.iter().map(Fact::told).collect();
    let happenings = match world.dialect {
        Dialect::InWorld => usize::from(dice.percent(40)),
        Dialect::Shifted => dice.between(1, 2),
    };
    for _ in 0..happenings {
        if let Some((sentence, _)) = happen(dice, world, &mut kept) {
            sentences.push(sentence);
        }
    }
    dice.shuffle(&mut kept);
    (sentences, kept)
}
