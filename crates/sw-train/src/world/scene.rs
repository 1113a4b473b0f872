//! A scene: who has what, who is where, what is in what, what colour it is; how it is told and how it changes.

use super::dice::Dice;
use super::words::{COLOURS, CONTAINERS, NAMES, PLACES, THINGS};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What kind of statement.
    pub relation: Relation,
    /// A person (`Has`, `At`) or a thing.
    pub subject: &'static str,
    /// A thing, place, container or colour.
    pub value: &'static str,
}

/// How the text is drawn: the in-world distribution or the shifted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Short scenes, the first 32 names nine times in ten.
    InWorld,
    /// The same grammar with longer scenes, all names alike and more happening.
    Shifted,
}

impl Dialect {
    /// `n` different people.
    pub fn people(self, dice: &mut Dice, n: usize) -> Vec<&'static str> {
        match self {
            Dialect::InWorld if dice.percent(90) => dice.sample(&NAMES[..32], n),
            _ => dice.sample(&NAMES, n),
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
pub fn facts(dice: &mut Dice, dialect: Dialect, relation: Relation, n: usize) -> Vec<Fact> {
    let subjects = match relation {
        Relation::Has | Relation::At => dialect.people(dice, n),
        Relation::In | Relation::Colour => dice.sample(&THINGS, n),
    };
    let values = match relation {
        Relation::Has => dice.sample(&THINGS, n),
        Relation::At => dice.sample(&PLACES, n),
        Relation::In => dice.sample(&CONTAINERS, n),
        Relation::Colour => dice.sample(&COLOURS, n),
    };
    let pairs = subjects.into_iter().zip(values);
    pairs
        .map(|(subject, value)| Fact {
            relation,
            subject,
            value,
        })
        .collect()
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
        let s = self.subject;
        match self.relation {
            Relation::Has => format!("What does {s} have?"),
            Relation::At => format!("Where is {s}?"),
            Relation::In => format!("Where is the {s}?"),
            Relation::Colour => format!("What colour is the {s}?"),
        }
    }

    /// The answer to [`Fact::question`].
    pub fn answer(&self) -> String {
        let v = self.value;
        match self.relation {
            Relation::Has => format!("the {v}"),
            Relation::At | Relation::In => format!("in the {v}"),
            Relation::Colour => v.to_string(),
        }
    }

    /// A question for the subject.
    pub fn question_backwards(&self) -> String {
        let v = self.value;
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
pub fn happen(dice: &mut Dice, dialect: Dialect, facts: &mut [Fact]) -> Option<(String, usize)> {
    let i = dice.below(facts.len());
    let fact = facts[i];
    let other = |all: &[&'static str], dice: &mut Dice, taken: &dyn Fn(&str) -> bool| {
        let free: Vec<_> = all.iter().copied().filter(|w| !taken(w)).collect();
        dice.sample(&free, 1).first().copied()
    };
    let same: Vec<Fact> = facts
        .iter()
        .copied()
        .filter(|f| f.relation == fact.relation)
        .collect();
    let sentence = match fact.relation {
        Relation::Has => {
            let names: Vec<_> = dialect.people(dice, NAMES.len());
            let to = other(&names, dice, &|w| facts.iter().any(|f| f.subject == w))?;
            facts[i].subject = to;
            format!("{} gives the {} to {to}.", fact.subject, fact.value)
        }
        Relation::At => {
            facts[i].value = other(&PLACES, dice, &|w| same.iter().any(|f| f.value == w))?;
            format!("{} goes to the {}.", fact.subject, facts[i].value)
        }
        Relation::In => {
            facts[i].value = other(&CONTAINERS, dice, &|w| same.iter().any(|f| f.value == w))?;
            format!("Now the {} lies in the {}.", fact.subject, facts[i].value)
        }
        Relation::Colour => return None,
    };
    Some((sentence, i))
}
