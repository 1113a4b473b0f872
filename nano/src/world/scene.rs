//! A scene: who has what, who is where, what is in what, what colour it is; how it is told and how it changes.

use super::World;
use super::dice::Dice;
use super::words::{AGES, COLOURS, CONTAINERS, FAMILIES, MAKES, NAMES, PLACES, THINGS};

/// What a [`Fact`] says of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A person has a thing.
    Has,
    /// A person is at a place.
    At,
    /// A thing is in a container.
    In,
    /// A thing has a colour.
    Colour,
}

/// All relations.
pub const RELATIONS: [Relation; 4] = [Relation::Has, Relation::At, Relation::In, Relation::Colour];

/// One statement about the world, true at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What kind of statement.
    pub relation: Relation,
    /// A person (`Has`, `At`) or a thing.
    pub subject: String,
    /// A thing, place, container or colour.
    pub value: String,
}

/// How the text is drawn: the in-world distribution or the shifted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Short scenes, the first 24 names nine times in ten.
    InWorld,
    /// This grammar with longer scenes, all names alike and more happening.
    Shifted,
}

impl Dialect {
    /// `n` people with different first names and different family names.
    pub fn people(self, dice: &mut Dice, n: usize) -> Vec<String> {
        match self {
            Dialect::InWorld if dice.percent(90) => pairs(dice, &NAMES[..24], &FAMILIES, n),
            _ => pairs(dice, &NAMES, &FAMILIES, n),
        }
    }

    /// How many facts a scene opens with.
    pub fn facts(self, dice: &mut Dice) -> usize {
        match self {
            Dialect::InWorld => dice.between(2, 4),
            Dialect::Shifted => dice.between(4, 5),
        }
    }
}

/// `n` facts of one relation about different subjects with different values.
pub fn facts(dice: &mut Dice, world: World, relation: Relation, n: usize) -> Vec<Fact> {
    let subjects = match relation {
        Relation::Has | Relation::At => world.people(dice, n),
        Relation::In => things(dice, n),
        Relation::Colour => dice
            .sample(&THINGS, n)
            .into_iter()
            .map(String::from)
            .collect(),
    };
    let values = match relation {
        Relation::Has => things(dice, n),
        Relation::At => places(dice, n),
        Relation::In => containers(dice, n),
        Relation::Colour => dice
            .sample(&COLOURS, n)
            .into_iter()
            .map(String::from)
            .collect(),
    };
    let both = subjects.into_iter().zip(values);
    both.map(|(subject, value)| Fact {
        relation,
        subject,
        value,
    })
    .collect()
}

/// `n` pairs of words, no word twice.
fn pairs(dice: &mut Dice, first: &[&str], second: &[&str], n: usize) -> Vec<String> {
    let both = dice
        .sample(first, n)
        .into_iter()
        .zip(dice.sample(second, n));
    both.map(|(a, b)| format!("{a} {b}")).collect()
}

/// `n` things, "red ball".
pub fn things(dice: &mut Dice, n: usize) -> Vec<String> {
    pairs(dice, &COLOURS, &THINGS, n)
}

fn places(dice: &mut Dice, n: usize) -> Vec<String> {
    pairs(dice, &AGES, &PLACES, n)
}

fn containers(dice: &mut Dice, n: usize) -> Vec<String> {
    pairs(dice, &MAKES, &CONTAINERS, n)
}

impl Fact {
    /// The sentence that introduces the fact.
    pub fn told(&self) -> String {
        let Fact {
            subject: s,
            value: v,
            ..
        } = self;
        match self.relation {
            Relation::Has => format!("{s} has the {v}."),
            Relation::At => format!("{s} is in the {v}."),
            Relation::In => format!("The {s} is in the {v}."),
            Relation::Colour => format!("The {s} is {v}."),
        }
    }

    /// A later sentence that only a reader who kept the fact can finish: the value is its last word.
    pub fn recalled(&self, dice: &mut Dice) -> String {
        let Fact {
            subject: s,
            value: v,
            ..
        } = self;
        match (self.relation, dice.below(2)) {
            (Relation::Has, 0) => format!("{s} still holds the {v}."),
            (Relation::Has, _) => format!("{s} likes the {v}."),
            (Relation::At, 0) => format!("{s} stays in the {v}."),
            (Relation::At, _) => format!("{s} rests in the {v}."),
            (Relation::In, 0) => format!("Look for the {s} in the {v}."),
            (Relation::In, _) => format!("The {s} stays in the {v}."),
            (Relation::Colour, 0) => format!("The {s} stays {v}."),
            (Relation::Colour, _) => format!("The {s} looks {v}."),
        }
    }

    /// A later sentence that names the value and ends in the subject.
    pub fn recalled_backwards(&self) -> String {
        let Fact {
            subject: s,
            value: v,
            ..
        } = self;
        match self.relation {
            Relation::Has => format!("The {v} is with {s}."),
            Relation::At => format!("In the {v} is {s}."),
            Relation::In => format!("In the {v} is the {s}."),
            Relation::Colour => format!("The {v} thing is the {s}."),
        }
    }

    /// A question for the value.
    pub fn question(&self) -> String {
        let s = &self.subject;
        match self.relation {
            Relation::Has => format!("What does {s} have?"),
            Relation::At => format!("Where is {s}?"),
            Relation::In => format!("Where is the {s}?"),
            Relation::Colour => format!("What colour is the {s}?"),
        }
    }

    /// The answer to [`Fact::question`].
    pub fn answer(&self) -> String {
        let v = &self.value;
        match self.relation {
            Relation::Has => format!("the {v}"),
            Relation::At | Relation::In => format!("in the {v}"),
            Relation::Colour => v.clone(),
        }
    }

    /// A question for the subject.
    pub fn question_backwards(&self) -> String {
        let v = &self.value;
        match self.relation {
            Relation::Has => format!("Who has the {v}?"),
            Relation::At => format!("Who is in the {v}?"),
            Relation::In => format!("What is in the {v}?"),
            Relation::Colour => format!("What is {v}?"),
        }
    }

    /// The answer to [`Fact::question_backwards`].
    pub fn answer_backwards(&self) -> String {
        match self.relation {
            Relation::Has | Relation::At => self.subject.to_string(),
            Relation::In | Relation::Colour => format!("the {}", self.subject),
        }
    }
}

/// Lets something happen to one of `facts` and tells it; returns the sentence and the index of the fact that changed.
/// Colours do not change: `None`.
pub fn happen(dice: &mut Dice, world: World, facts: &mut [Fact]) -> Option<(String, usize)> {
    let i = dice.below(facts.len());
    let fact = facts[i].clone();
    // A word that nobody and nothing in the scene has: of more than there are facts, one is free.
    let n = facts.len() + 1;
    let free = |words: Vec<String>| {
        words
            .into_iter()
            .find(|w| facts.iter().all(|f| f.subject != *w && f.value != *w))
    };
    let sentence = match fact.relation {
        Relation::Has => {
            let to = free(world.people(dice, n))?;
            let sentence = format!("{} gives the {} to {to}.", fact.subject, fact.value);
            facts[i].subject = to;
            sentence
        }
        Relation::At => {
            facts[i].value = free(places(dice, n))?;
            format!("{} goes to the {}.", fact.subject, facts[i].value)
        }
        Relation::In => {
            facts[i].value = free(containers(dice, n))?;
            format!("Now the {} lies in the {}.", fact.subject, facts[i].value)
        }
        Relation::Colour => return None,
    };
    Some((sentence, i))
}
