//! Items of the seven tasks, in the seven tasks' own columns, about scenes of the micro-world.

use super::dice::Dice;
use super::scene::{Fact, RELATIONS, Relation, facts, happen};
use super::words::Tool;
use super::{World, lore, scene, story};

/// A question with choices (ARC, SciQ).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// A paragraph before the question (SciQ); empty for ARC, whose question carries its scene.
    pub support: String,
    /// The question.
    pub question: String,
    /// Four choices, the right one among them.
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub answer: usize,
}

impl Question {
    /// The item with its answer, as text to learn from.
    pub fn text(&self) -> String {
        let answer = &self.choices[self.answer];
        match self.support.is_empty() {
            true => format!("Question: {}\nAnswer: {answer}", self.question),
            false => format!(
                "{}\nQuestion: {}\nAnswer: {answer}",
                self.support, self.question
            ),
        }
    }
}

/// An aim and two ways (PIQA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The aim.
    pub goal: String,
    /// Two solutions.
    pub solutions: [String; 2],
    /// Index of the right one.
    pub label: usize,
}

impl Pair {
    /// The item with its answer, as text to learn from.
    pub fn text(&self) -> String {
        format!(
            "Question: {}\nAnswer: {}",
            self.goal, self.solutions[self.label]
        )
    }
}

/// A sentence with a gap and two people (WinoGrande).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pronoun {
    /// The sentence with `_` in place of a person.
    pub sentence: String,
    /// The two people.
    pub options: [String; 2],
    /// Index of the right one.
    pub answer: usize,
}

impl Pronoun {
    /// The sentence with its gap filled.
    pub fn text(&self) -> String {
        self.sentence.replace('_', &self.options[self.answer])
    }
}

/// A scene and four ways to go on (HellaSwag).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What is going on.
    pub activity: String,
    /// The scene.
    pub scene: String,
    /// The word before the endings, in lower case: the task capitalises it.
    pub start: String,
    /// Four endings.
    pub endings: Vec<String>,
    /// Index of the right one.
    pub label: usize,
}

impl Ending {
    /// The scene with its ending, as text to learn from.
    pub fn text(&self) -> String {
        let ending = &self.endings[self.label];
        format!("{}: {} Then {ending}", self.activity, self.scene)
    }
}

fn told(facts: &[Fact]) -> String {
    let sentences: Vec<String> = facts.iter().map(Fact::told).collect();
    sentences.join(" ")
}

/// The right choice shuffled among the others.
fn mixed<T: PartialEq>(dice: &mut Dice, right: T, mut others: Vec<T>) -> (Vec<T>, usize) {
    others.truncate(3);
    let at = dice.below(others.len() + 1);
    others.insert(at, right);
    (others, at)
}

/// A question about one of `facts`, the other facts giving the wrong answers.
fn about(
    dice: &mut Dice,
    facts: &[Fact],
    i: usize,
    backwards: bool,
) -> (String, Vec<String>, usize) {
    let answer = |f: &Fact| {
        if backwards {
            f.answer_backwards()
        } else {
            f.answer()
        }
    };
    let fact = &facts[i];
    let mut others: Vec<Fact> = facts.iter().filter(|f| *f != fact).cloned().collect();
    dice.shuffle(&mut others);
    let question = if backwards {
        fact.question_backwards()
    } else {
        fact.question()
    };
    let (choices, at) = mixed(dice, answer(fact), others.iter().map(answer).collect());
    (question, choices, at)
}

/// ARC easy: what serves an aim, which holds in every story; or, less often, four facts of one relation and a question
/// about one of them.
pub fn easy(dice: &mut Dice, world: impl Into<World>) -> Question {
    let world = world.into();
    if dice.percent(75) {
        let (right, wrong) = lore::with_others(dice, world);
        let name = |tool: &Tool| format!("the {}", tool.name);
        let (choices, answer) = mixed(dice, name(&right), wrong.iter().map(name).collect());
        return Question {
            support: String::new(),
            question: format!("What do people use to {}?", right.aim),
            choices,
            answer,
        };
    }
    let relation = RELATIONS[dice.below(RELATIONS.len())];
    let facts = facts(dice, world, relation, 4);
    let (i, backwards) = (dice.below(facts.len()), dice.percent(40));
    let (question, choices, answer) = about(dice, &facts, i, backwards);
    let question = format!("{} {question}", told(&facts));
    Question {
        support: String::new(),
        question,
        choices,
        answer,
    }
}

/// ARC challenge: where that is kept which serves an aim; or the answer changed hands, moved, or takes two steps.
pub fn challenge(dice: &mut Dice, world: impl Into<World>) -> Question {
    let world = world.into();
    let support = String::new();
    if dice.percent(50) {
        let (right, wrong) = lore::with_others(dice, world);
        let place = |tool: &Tool| format!("in the {}", tool.place);
        let (choices, answer) = mixed(dice, place(&right), wrong.iter().map(place).collect());
        return Question {
            support,
            question: format!("Where do people keep what they use to {}?", right.aim),
            choices,
            answer,
        };
    }
    if dice.percent(50) {
        // Two steps: where is the thing? Where the person is who has it.
        let people = facts(dice, world, Relation::Has, 4);
        let mut places = facts(dice, world, Relation::At, 4);
        for (place, person) in places.iter_mut().zip(&people) {
            place.subject.clone_from(&person.subject);
        }
        let i = dice.below(4);
        let right = places[i].answer();
        let wrong = (0..4)
            .filter(|&j| j != i)
            .map(|j| places[j].answer())
            .collect();
        let (choices, answer) = mixed(dice, right, wrong);
        let question = format!(
            "{} {} Where is the {}?",
            told(&people),
            told(&places),
            people[i].value
        );
        return Question {
            support,
            question,
            choices,
            answer,
        };
    }
    let relation = [Relation::Has, Relation::At, Relation::In][dice.below(3)];
    let before = facts(dice, world, relation, 4);
    let mut after = before.clone();
    let (event, i) = happen(dice, world, &mut after).unwrap_or_default();
    let backwards = relation == Relation::Has;
    let answer = |f: &Fact| {
        if backwards {
            f.answer_backwards()
        } else {
            f.answer()
        }
    };
    // What held before the event is the first wrong answer.
    let mut wrong = vec![answer(&before[i])];
    wrong.extend((0..4).filter(|&j| j != i).map(|j| answer(&before[j])));
    let (choices, right) = mixed(dice, answer(&after[i]), wrong);
    let asked = if backwards {
        after[i].question_backwards()
    } else {
        after[i].question()
    };
    let question = format!("{} {event} {asked}", told(&before));
    Question {
        support,
        question,
        choices,
        answer: right,
    }
}

/// SciQ: a text as support, a question about what it says: about tools, or about a scene.
pub fn science(dice: &mut Dice, world: impl Into<World>) -> Question {
    let world = world.into();
    if dice.percent(50) {
        let (right, wrong) = lore::with_others(dice, world);
        let place = |tool: &Tool| format!("in the {}", tool.place);
        let (choices, answer) = mixed(dice, place(&right), wrong.iter().map(place).collect());
        let mut support = vec![lore::kept(right), lore::used(dice, world, wrong[0])];
        dice.shuffle(&mut support);
        return Question {
            support: support.join(" "),
            question: format!("Where is the {} kept?", right.name),
            choices,
            answer,
        };
    }
    let relation = RELATIONS[dice.below(RELATIONS.len())];
    let facts = facts(dice, world, relation, 4);
    let mut recalled = facts.clone();
    dice.shuffle(&mut recalled);
    let i = dice.below(facts.len());
    let (question, choices, answer) = about(dice, &facts, i, false);
    let support = format!("{} {}", told(&facts), recalled[0].recalled(dice));
    Question {
        support,
        question,
        choices,
        answer,
    }
}

/// PIQA: which tool serves the aim; nothing in the text says it, the world does.
pub fn tool(dice: &mut Dice, world: impl Into<World>) -> Pair {
    let world = world.into();
    let (right, [wrong, ..]) = lore::with_others(dice, world);
    let name = world.people(dice, 1).remove(0);
    let label = dice.below(2);
    let way = |tool: Tool| format!("{name} uses the {}.", tool.name);
    let mut solutions = [way(right), way(wrong)];
    if label == 1 {
        solutions.swap(0, 1);
    }
    Pair {
        goal: format!("How does {name} {}?", right.aim),
        solutions,
        label,
    }
}

/// Sentence patterns: `{a}`, `{b}`, `{o}` stand for two people and a thing, `_` for the person meant; then who it is.
const PRONOUNS: [(&str, usize); 16] = [
    ("{a} gives the {o} to {b}. Now _ has the {o}.", 1),
    ("{a} gives the {o} to {b}. Now _ has no {o}.", 0),
    ("{a} takes the {o} from {b}. Now _ has the {o}.", 0),
    ("{a} takes the {o} from {b}. Now _ has no {o}.", 1),
    ("{a} lends the {o} to {b} because _ needs it.", 1),
    ("{a} lends the {o} to {b} because _ can spare it.", 0),
    ("{a} borrows the {o} from {b} because _ needs it.", 0),
    ("{a} borrows the {o} from {b} because _ can spare it.", 1),
    ("{a} follows {b}, so _ walks in front.", 1),
    ("{a} follows {b}, so _ walks behind.", 0),
    ("{a} thanks {b} because _ gave help.", 1),
    ("{a} thanks {b} because _ got help.", 0),
    ("{a} is taller than {b}, so _ reaches the shelf.", 0),
    ("{a} is taller than {b}, so _ needs a box.", 1),
    ("{a} teaches {b}, so _ learns a lot.", 1),
    ("{a} teaches {b}, so _ talks a lot.", 0),
];

/// WinoGrande: which of two people is meant.
pub fn pronoun(dice: &mut Dice, world: impl Into<World>) -> Pronoun {
    let world = world.into();
    let people = world.people(dice, 2);
    let (pattern, who) = PRONOUNS[dice.below(PRONOUNS.len())];
    let thing = scene::things(dice, 1).remove(0);
    let sentence = pattern
        .replace("{a}", &people[0])
        .replace("{b}", &people[1])
        .replace("{o}", &thing);
    let swap = dice.percent(50);
    let (first, second) = if swap { (1, 0) } else { (0, 1) };
    let options = [people[first].clone(), people[second].clone()];
    Pronoun {
        sentence,
        options,
        answer: who ^ usize::from(swap),
    }
}

/// HellaSwag: what does somebody do next, given what they want, and the world or the scene?
pub fn ending(dice: &mut Dice, world: impl Into<World>) -> Ending {
    let world = world.into();
    let relation = [Relation::Has, Relation::At, Relation::In][dice.below(3)];
    if dice.percent(50) {
        let (right, wrong) = lore::with_others(dice, world);
        let told = told(&facts(dice, world, relation, 2));
        let name = world.people(dice, 1).remove(0);
        let act = |tool: &Tool| format!("{name} takes the {}.", tool.name);
        let (endings, label) = mixed(dice, act(&right), wrong.iter().map(act).collect());
        return Ending {
            activity: "Working".to_string(),
            scene: format!("{told} {name} wants to {}.", right.aim),
            start: "then".to_string(),
            endings,
            label,
        };
    }
    let facts = facts(dice, world, relation, 4);
    let i = dice.below(4);
    let fact = facts[i].clone();
    let people = world.people(dice, 5);
    let name = people
        .into_iter()
        .find(|p| facts.iter().all(|f| f.subject != *p))
        .unwrap_or_else(|| "Somebody".to_string());
    let (activity, wish) = match relation {
        Relation::Has => (
            "Asking for things",
            format!("{name} wants the {}.", fact.value),
        ),
        Relation::At => (
            "Visiting friends",
            format!("{name} wants to see {}.", fact.subject),
        ),
        _ => (
            "Looking for things",
            format!("{name} wants the {}.", fact.subject),
        ),
    };
    let act = |f: &Fact| match relation {
        Relation::Has => format!("{name} asks {} for it.", f.subject),
        Relation::At => format!("{name} walks to the {}.", f.value),
        _ => format!("{name} looks in the {}.", f.value),
    };
    let wrong = (0..4).filter(|&j| j != i).map(|j| act(&facts[j])).collect();
    let (endings, label) = mixed(dice, act(&fact), wrong);
    let scene = format!("{} {wish}", told(&facts));
    Ending {
        activity: activity.to_string(),
        scene,
        start: "then".to_string(),
        endings,
        label,
    }
}

/// LAMBADA: a story whose last word only a reader who kept the scene, or who knows the world, can know.
pub fn last_word(dice: &mut Dice, world: impl Into<World>) -> String {
    let world = world.into();
    let (mut sentences, kept) = story::opening(dice, world);
    if dice.percent(50) {
        let tool = lore::tool(dice, world);
        sentences.push(lore::used(dice, world, tool));
        return sentences.join(" ").trim_end_matches('.').to_string();
    }
    let (last, earlier) = (kept.len() - 1, &kept[..kept.len() - 1]);
    for fact in earlier {
        sentences.push(fact.recalled(dice));
    }
    sentences.push(kept[last].recalled(dice));
    let text = sentences.join(" ");
    text.trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::super::words::TOOLS;
    use super::*;

    #[test]
    fn choices_are_four_and_different() {
        let mut dice = Dice::new(3, 0);
        for _ in 0..500 {
            for q in [
                easy(&mut dice, Dialect::InWorld),
                challenge(&mut dice, Dialect::InWorld),
                science(&mut dice, Dialect::Shifted),
            ] {
                let mut unique = q.choices.clone();
                unique.sort();
                unique.dedup();
                assert_eq!(unique.len(), 4, "{q:?}");
            }
            let e = ending(&mut dice, Dialect::InWorld);
            let mut unique = e.endings.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), 4, "{e:?}");
        }
    }

    #[test]
    fn the_gap_is_one_and_the_pair_differs() {
        let mut dice = Dice::new(4, 0);
        for _ in 0..200 {
            let p = pronoun(&mut dice, Dialect::InWorld);
            assert_eq!(p.sentence.matches('_').count(), 1);
            let t = tool(&mut dice, Dialect::InWorld);
            assert_ne!(t.solutions[0], t.solutions[1]);
        }
    }

    #[test]
    fn the_last_word_is_in_the_story() {
        let mut dice = Dice::new(5, 0);
        for _ in 0..200 {
            let text = last_word(&mut dice, Dialect::InWorld);
            let (rest, last) = text.rsplit_once(' ').expect("several words");
            let known = TOOLS.iter().any(|t| t.name == last);
            assert!(known || rest.contains(last), "{text}");
        }
    }
}
