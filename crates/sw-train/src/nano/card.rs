//! The model card.

use std::fmt::Write as _;

use super::recipe::Recipe;
use crate::params::Shape;

/// The card of a checkpoint grown by `recipe`; `lines` are `emergence.csv`'s.
pub fn card(recipe: &Recipe, shape: &Shape, weights: usize, lines: &[String]) -> String {
    let mut text = String::from("# nano\n\n");
    let _ = writeln!(
        text,
        "A Llama of {weights} weights ({} layers, {} channels, {} heads, {} neurons per layer, vocabulary {}), seed {}.\n",
        shape.layers, shape.hidden, shape.heads, shape.intermediate, shape.vocab, recipe.seed
    );
    text
}
