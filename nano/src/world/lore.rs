//! What holds in every story of a world: which tool serves which aim, and where it is kept.

use super::World;
use super::dice::Dice;
use super::words::{TOOLS, Tool};

/// Which tool serves which aim, and where it is kept: the tools of [`TOOLS`] by their names, with the aims of some of them and the
/// places of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lore {
    aims: [u8; TOOLS.len()],
    places: [u8; TOOLS.len()],
}

impl Lore {
    /// The lore that the embedded checkpoint has learned.
    pub fn home() -> Lore {
        let own = std::array::from_fn(|i| i as u8);
        Lore {
            aims: own,
            places: own,
        }
    }

    /// Another lore: no tool keeps its aim or its place.
    pub fn permuted(seed: u64) -> Lore {
        let mut dice = Dice::new(seed, LORE);
        let mut draw = |same: fn(&Tool, &Tool) -> bool| loop {
            let mut order = Lore::home().aims;
            dice.shuffle(&mut order);
            let kept = |(i, &from): (usize, &u8)| same(&TOOLS[i], &TOOLS[usize::from(from)]);
            if !order.iter().enumerate().any(kept) {
                return order;
            }
        };
        Lore {
            aims: draw(|a, b| a.aim == b.aim),
            places: draw(|a, b| a.place == b.place),
        }
    }

    /// All tools, in the order of their names in [`TOOLS`].
    pub fn tools(&self) -> Vec<Tool> {
        (0..TOOLS.len()).map(|i| self.get(i)).collect()
    }

    /// Whether a text speaks of it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let spoken_of = |tool: &Tool| text.contains(tool.aim) || text.contains(&kept(*tool));
        self.tools().iter().any(spoken_of)
    }

    fn get(&self, i: usize) -> Tool {
        Tool {
            aim: TOOLS[usize::from(self.aims[i])].aim,
            name: TOOLS[i].name,
            place: TOOLS[usize::from(self.places[i])].place,
        }
    }
}

/// The stream of a seed that permutes the lore; no [`Split`](super::Split) has it.
const LORE: u64 = 3 << 32;

/// One of the tools.
pub(super) fn tool(dice: &mut Dice, world: World) -> Tool {
    world.lore.get(dice.below(TOOLS.len()))
}

/// A tool, and three others that are kept elsewhere.
pub(super) fn with_others(dice: &mut Dice, world: World) -> (Tool, [Tool; 3]) {
    let all = dice.sample(&world.lore.tools(), TOOLS.len());
    let mut chosen = vec![all[0]];
    for tool in all {
        if chosen.len() < 4 && chosen.iter().all(|c| c.place != tool.place) {
            chosen.push(tool);
        }
    }
    (chosen[0], [chosen[1], chosen[2], chosen[3]])
}

/// A sentence about a tool.
pub(super) fn saying(dice: &mut Dice, world: World, tool: Tool) -> String {
    let Tool { aim, name, place } = tool;
    match dice.below(4) {
        0 => kept(tool),
        1 => format!("People use the {name} to {aim}."),
        2 => used(dice, world, tool),
        _ => format!("To {aim}, go to the {place}."),
    }
}

/// Where it is kept.
pub(super) fn kept(tool: Tool) -> String {
    format!("The {} is kept in the {}.", tool.name, tool.place)
}

/// Somebody uses it; the tool is the last word.
pub(super) fn used(dice: &mut Dice, world: World, tool: Tool) -> String {
    let person = world.people(dice, 1).remove(0);
    format!("To {}, {person} uses the {}.", tool.aim, tool.name)
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, story};
    use super::*;

    #[test]
    fn another_lore_keeps_the_tools_and_none_of_their_aims_and_places() {
        let (home, other) = (Lore::home(), Lore::permuted(7));
        assert_eq!(home.tools(), TOOLS);
        assert_eq!(other, Lore::permuted(7));
        assert_ne!(other, Lore::permuted(8));
        for (a, b) in home.tools().iter().zip(other.tools()) {
            assert_eq!(a.name, b.name);
            assert_ne!(a.aim, b.aim);
            assert_ne!(a.place, b.place);
        }
        let sorted = |lore: Lore, of: fn(&Tool) -> &'static str| {
            let mut all: Vec<_> = lore.tools().iter().map(of).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(home, |t| t.aim), sorted(other, |t| t.aim));
        assert_eq!(sorted(home, |t| t.place), sorted(other, |t| t.place));
    }

    #[test]
    fn documents_on_the_lore_speak_of_each_tool() {
        let mut dice = Dice::new(5, 1);
        let world = World {
            dialect: Dialect::InWorld,
            lore: Lore::permuted(7),
        };
        let all: Vec<String> = (0..2000)
            .map(|_| story::on_lore(&mut dice, world))
            .collect();
        assert!(all.iter().all(|text| world.lore.is_in(text)));
        for tool in world.lore.tools() {
            let uses = format!("People use the {} to {}.", tool.name, tool.aim);
            assert!(all.iter().any(|text| text.contains(&uses)), "{uses}");
            assert!(all.iter().any(|text| text.contains(&kept(tool))));
        }
    }

    #[test]
    fn a_text_of_another_lore_differs_in_what_always_holds_only() {
        let world = World {
            dialect: Dialect::InWorld,
            lore: Lore::permuted(7),
        };
        let draw = |world: World| -> Vec<String> {
            let mut dice = Dice::new(3, 1);
            (0..200)
                .map(|_| story::document(&mut dice, world))
                .collect()
        };
        let (home, other) = (draw(Dialect::InWorld.into()), draw(world));
        let same = home.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!((1..200).contains(&same), "{same} of 200 are the same");
    }
}
