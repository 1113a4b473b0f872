//! What holds in every story of the world: which tool serves which aim, and where it is kept.

use super::dice::Dice;
use super::scene::Dialect;
use super::words::{TOOLS, Tool};

/// One of the tools.
pub(super) fn tool(dice: &mut Dice) -> Tool {
    TOOLS[dice.below(TOOLS.len())]
}

/// A tool, and three others that are kept elsewhere.
pub(super) fn with_others(dice: &mut Dice) -> (Tool, [Tool; 3]) {
    let all = dice.sample(&TOOLS, TOOLS.len());
    let mut chosen = vec![all[0]];
    for tool in all {
        if chosen.len() < 4 && chosen.iter().all(|c| c.place != tool.place) {
            chosen.push(tool);
        }
    }
    (chosen[0], [chosen[1], chosen[2], chosen[3]])
}

/// A sentence about a tool.
pub(super) fn saying(dice: &mut Dice, dialect: Dialect, tool: Tool) -> String {
    let Tool { aim, name, place } = tool;
    match dice.below(4) {
        0 => kept(tool),
        1 => format!("People use the {name} to {aim}."),
        2 => used(dice, dialect, tool),
        _ => format!("To {aim}, go to the {place}."),
    }
}

/// Where it is kept.
pub(super) fn kept(tool: Tool) -> String {
    format!("The {} is kept in the {}.", tool.name, tool.place)
}

/// Somebody uses it; the tool is the last word.
pub(super) fn used(dice: &mut Dice, dialect: Dialect, tool: Tool) -> String {
    let person = dialect.people(dice, 1).remove(0);
    format!("To {}, {person} uses the {}.", tool.aim, tool.name)
}
