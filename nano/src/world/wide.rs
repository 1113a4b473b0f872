//! A wide lore: so many facts that a small model has to choose what it keeps. Each is an entity, a relation and a value, all of them words
//! that mean nothing; some facts come up often, most of them seldom.

use std::collections::BTreeSet;
use std::path::Path;

use super::dice::Dice;
use super::table::{Column, write};
use super::words::{COLOURS, CONTAINERS, FAMILIES, NAMES, PLACES, THINGS};
use super::{Dialect, Lore, Split, story};
use crate::error::Result;

/// Entities, at most; more facts than four for each are further relations.
const ENTITIES: usize = 384;
/// Relations that every entity has, at least.
const RELATIONS: usize = 4;
/// Values, at most.
const VALUES: usize = 256;
/// The fact of rank `r`, counted from 1, comes up in proportion to `r^-ZIPF`.
pub const ZIPF: f64 = 0.5;
/// What the facts are drawn from: the lore of a number of facts is always the same.
const SEED: u64 = 1;
/// The stream of that seed; no [`Split`] has it.
const WIDE: u64 = 4 << 32;

/// One fact, by the numbers of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideFact {
    entity: usize,
    relation: usize,
    value: usize,
}

/// Many facts, the most frequent first.
#[derive(Clone, Debug)]
pub struct Wide {
    entities: Vec<String>,
    relations: Vec<String>,
    values: Vec<String>,
    facts: Vec<WideFact>,
    /// Sums of the frequencies up to each fact.
    sums: Vec<f64>,
}

impl Lore {
    /// A lore of `n` facts, at least one: always the same one for a number.
    pub fn wide(n: usize) -> Wide {
        let n = n.max(1);
        let mut dice = Dice::new(SEED, WIDE);
        let per_entity = RELATIONS.max(n.div_ceil(ENTITIES));
        let values = (n / 4).clamp(4, VALUES);
        let mut taken = BTreeSet::new();
        let mut words = |count: usize, syllables: usize| -> Vec<String> {
            let mut new = || loop {
                let word = word(&mut dice, syllables);
                if taken.insert(word.clone()) {
                    return word;
                }
            };
            (0..count).map(|_| new()).collect()
        };
        let entities = words(n.div_ceil(per_entity), 3);
        let relations = words(per_entity, 2);
        let values_ = words(values, 3);
        let mut facts: Vec<WideFact> = (0..n)
            .map(|i| WideFact {
                entity: i / per_entity,
                relation: i % per_entity,
                value: dice.below(values),
            })
            .collect();
        dice.shuffle(&mut facts);
        let mut sum = 0.0;
        let up_to = |rank: usize| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        };
        Wide {
            entities,
            relations: relations.into_iter().map(|r| r + "s").collect(),
            values: values_,
            sums: (1..=n).map(up_to).collect(),
            facts,
        }
    }
}

/// A word that is in no scene.
fn word(dice: &mut Dice, syllables: usize) -> String {
    const ONSETS: [&str; 14] = [
        "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z",
    ];
    const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
    loop {
        let syllable = |_| [dice.pick(&ONSETS), dice.pick(&VOWELS)].concat();
        let word: String = (0..syllables).map(syllable).collect();
        let known = [
            &NAMES[..],
            &FAMILIES,
            &THINGS,
            &PLACES,
            &CONTAINERS,
            &COLOURS,
        ];
        let is_known = |list: &&[&str]| list.iter().any(|w| w.eq_ignore_ascii_case(&word));
        if !known.iter().any(is_known) {
            return word;
        }
    }
}

impl Wide {
    /// The facts, the most frequent first.
    pub fn facts(&self) -> &[WideFact] {
        &self.facts
    }

    /// How often a fact comes up, by its place in [`facts`](Self::facts), as a share of all.
    pub fn frequency(&self, rank: usize) -> f64 {
        let before = rank.checked_sub(1).map_or(0.0, |r| self.sums[r]);
        (self.sums[rank] - before) / self.sums[self.sums.len() - 1]
    }

    /// A fact as it stands in a text, without its last word and without a full stop; and that word, with the space before it.
    pub fn question(&self, fact: WideFact) -> (String, String) {
        let (entity, relation) = (&self.entities[fact.entity], &self.relations[fact.relation]);
        let asked = format!("The {entity} {relation}");
        (asked, format!(" {}", self.values[fact.value]))
    }

    fn statement(&self, dice: &mut Dice) -> String {
        let all = self.sums[self.sums.len() - 1];
        // 2^32 steps are many more than facts.
        let at = (dice.below(u32::MAX as usize) as f64 + 0.5) / f64::from(u32::MAX) * all;
        let rank = self.sums.partition_point(|&sum| sum < at);
        let (asked, value) = self.question(self.facts[rank.min(self.facts.len() - 1)]);
        format!("{asked}{value}.")
    }

    /// One document: a story of the small world, or about as many words of facts.
    pub fn document(&self, dice: &mut Dice) -> String {
        if dice.percent(50) {
            return story::story(dice, Dialect::InWorld);
        }
        let n = dice.between(8, 16);
        let statements: Vec<String> = (0..n).map(|_| self.statement(dice)).collect();
        statements.join(" ")
    }

    /// Every piece of text that documents are made of, but the rarest of stories: as [`pieces`] cuts them.
    pub(crate) fn vocabulary(&self) -> BTreeSet<String> {
        const STORIES: usize = 20_000;
        let mut found: BTreeSet<String> = ["\n", " The", "The", "."].map(String::from).into();
        let words = [&self.entities, &self.relations, &self.values];
        found.extend(words.into_iter().flatten().map(|w| format!(" {w}")));
        let mut dice = Split::Tokenizer.dice(SEED);
        for _ in 0..STORIES {
            let text = story::story(&mut dice, Dialect::InWorld);
            for piece in pieces(&text) {
                if !found.contains(piece) {
                    found.insert(piece.to_string());
                }
            }
        }
        found
    }

    /// Writes evaluation sets of this lore, laid out as the Hugging Face dataset repositories lay theirs out: the facts as
    /// LAMBADA's last words, the most frequent `items` of them, and `texts` as WikiText's rows.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_evaluation(&self, dir: &Path, items: usize, texts: &[String]) -> Result<()> {
        let whole = |&fact: &WideFact| {
            let (asked, value) = self.question(fact);
            asked + &value
        };
        let facts = self.facts.iter().take(items).map(whole);
        let path = "EleutherAI/lambada_openai/default/test-00000-of-00001.parquet";
        write(&dir.join(path), &[Column::text("text", facts)])?;
        let path = "Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet";
        write(&dir.join(path), &[Column::text("text", texts)])
    }
}

/// A text cut into words with the space before them, runs of line breaks, and everything else by kind: what the pattern of the
/// tokenizer cuts, without a regular expression.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    #[derive(PartialEq)]
    enum Kind {
        Letter,
        Number,
        Space,
        Other,
    }
    let kind = |c: char| match c {
        _ if c.is_alphabetic() => Kind::Letter,
        _ if c.is_numeric() => Kind::Number,
        _ if c.is_whitespace() => Kind::Space,
        _ => Kind::Other,
    };
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let run = |text: &str, same: &dyn Fn(char) -> bool| -> usize {
            text.find(|c| !same(c)).unwrap_or(text.len())
        };
        let after = rest.strip_prefix(' ').unwrap_or(rest);
        let space = rest.len() - after.len();
        let word = after.chars().next().map(kind).filter(|k| *k != Kind::Space);
        let length = match (first, word) {
            ('\n', _) => run(rest, &|c| c == '\n'),
            (_, Some(word)) => space + run(after, &|c| kind(c) == word),
            _ => first.len_utf8(),
        };
        let (piece, left) = rest.split_at(length);
        found.push(piece);
        rest = left;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lore_of_a_number_is_always_the_same_and_a_larger_one_has_more() {
        for n in [1, 12, 1536, 3072, 12288] {
            let wide = Lore::wide(n);
            assert_eq!(wide.facts().len(), n);
            assert_eq!(wide.facts(), Lore::wide(n).facts());
            let pairs: BTreeSet<_> = wide.facts.iter().map(|f| (f.entity, f.relation)).collect();
            assert_eq!(pairs.len(), n, "one value for an entity and a relation");
            let sum: f64 = (0..n).map(|r| wide.frequency(r)).sum();
            assert!((sum - 1.0).abs() < 1e-9);
            assert!(wide.entities.len() <= ENTITIES && wide.values.len() <= VALUES);
        }
        let wide = Lore::wide(1536);
        assert!((wide.frequency(0) / wide.frequency(99) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn facts_come_up_as_often_as_they_should() {
        let wide = Lore::wide(64);
        let mut dice = Dice::new(1, 0);
        let (asked, value) = wide.question(wide.facts()[0]);
        let first = format!("{asked}{value}.");
        let draws = 20_000;
        let times = (0..draws)
            .filter(|_| wide.statement(&mut dice) == first)
            .count();
        let share = times as f64 / f64::from(draws);
        assert!(
            (share - wide.frequency(0)).abs() < 0.006,
            "{share} {}",
            wide.frequency(0)
        );
    }
}
