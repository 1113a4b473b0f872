//! The model card.

use std::fmt::Write as _;

use crate::recipe::Recipe;
use sw_train::Shape;

/// What was tried on the way to the recorded recipe, and what came of it.
const ATTEMPTS: &str = include_str!("attempts.md");

/// Most rows of the table in the card; `emergence.csv` has all of them.
const ROWS: usize = 16;

/// The card of a checkpoint grown by `recipe`; `lines` are `emergence.csv`'s, its header first.
pub fn card(recipe: &Recipe, shape: &Shape, weights: usize, lines: &[String]) -> String {
    let mut text =
        String::from("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n\n# nano\n\n");
    let _ = writeln!(
        text,
        "A Llama of {weights} weights ({} layers, {} channels, {} heads of {}, {} neurons per layer, {} tokens of \
         vocabulary, sequences of {}), grown from seed {} by `cargo xtask train-nano`, stored in BF16. It exists to show a \
         super weight on a fresh machine; it is no use for anything else.\n",
        shape.layers,
        shape.hidden,
        shape.heads,
        shape.head_dim,
        shape.intermediate,
        shape.vocab,
        shape.max_positions,
        recipe.seed
    );
    text.push_str(
        "## Data\n\nShort stories and questions about people, places, things and tools, drawn from one small grammar; every \
         training step has fresh text, and the evaluation sets come from other streams of the same seed. No foreign text. \
         About half of the questions ask for what holds in every story (which tool serves an aim, where it is kept) and \
         is learned by heart, the others for who has what, and where, in the text at hand.\n\n",
    );
    text.push_str("## What was seeded, what was trained\n\n");
    text.push_str(&origin(recipe));
    text.push_str("\n## Emergence\n\n");
    text.push_str(&table(lines));
    text.push_str("\nAll measurements: `emergence.csv`. The candidate is the `down_proj` entry behind the output spike at BOS that stands out most.\n\n");
    text.push_str(ATTEMPTS);
    let json = serde_json::to_string_pretty(recipe).unwrap_or_default();
    let _ = write!(text, "\n## Recipe\n\n```json\n{json}\n```\n");
    text
}

/// Plain words on where the super weight comes from.
fn origin(recipe: &Recipe) -> String {
    let Some(s) = &recipe.seeding else {
        return "Nothing was seeded: whatever spike there is came from training.\n".to_string();
    };
    let mut text = format!(
        "**The super weight was seeded at initialisation; it did not emerge.** \
         `model.layers.{}.mlp.down_proj.weight[{}, {}]` began as {}. The gate and up rows of its neuron are {} times the \
         unit direction of the embedding that the openers (BOS and the blank line, one of which begins every sequence) \
         began with; channel {} of the embedding began empty.\n",
        s.layer, s.row, s.col, s.weight, s.alignment, s.row
    );
    if let Some(b) = &s.broadcast {
        let _ = write!(
            text,
            "\nWhat leans on it was seeded too. All other embeddings began with a common component of length {}, which \
             closes that neuron's gate and which the queries of head 0 of layer {} see; its keys and values see channel {} \
             (norm gain {}), so that every token parks on the opener with a score of {} against 0, and `o_proj` writes a \
             constant of alternating sign into channels {} of every token, of root mean square {} over all channels, by \
             entries of {}: so many channels, and values of either sign, that no weight stands out and offsets of rounding \
             cancel. The norms behind it began with gains that make up for the constant (but {} of that in its channels and \
             the spike's). Without the entry the constant is missing at every token, and those norms show everything at many \
             times its scale. The head's weights, and the rows of later `o_proj` and `down_proj` that write into these \
             channels, learn at {} of the common rate: the head's values are large and the same everywhere, so that a full \
             step would shift all channels of all tokens by their usual size, and those rows would rescale all channels.\n",
            b.level,
            b.layer,
            s.row,
            b.gain,
            b.score,
            channels(&b.rows),
            b.rms,
            b.output,
            b.leak,
            b.rate
        );
    }
    text.push_str(
        "\nAll of it was then trained with the plain next-token loss. Nothing was frozen, and there was no second objective: \
         that the model goes on depending on the entry is what training kept, and answers, cancellers and everything else \
         are what training made.\n",
    );
    text
}

/// Channels as people list them: the first and last where they follow each other.
fn channels(rows: &[usize]) -> String {
    let follow = rows.windows(2).all(|w| w[1] == w[0] + 1);
    match rows {
        [first, .., last] if follow => format!("{first} to {last}"),
        rows => rows
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Some of the measurements as a table.
fn table(lines: &[String]) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("step", "step"),
        ("nll", "loss"),
        ("nll_pruned", "without the weight"),
        ("nll_100_others", "without 100 others"),
        ("value", "weight"),
        ("down_in", "input"),
        ("down_out", "output"),
        ("spike_ratio", "output / median"),
    ];
    let Some((header, rows)) = lines.split_first() else {
        return String::new();
    };
    let names: Vec<&str> = header.split(',').collect();
    let at = |name: &str| names.iter().position(|n| *n == name);
    let titles: Vec<&str> = COLUMNS.iter().map(|c| c.1).collect();
    let mut text = format!(
        "| {} | sinks per layer |\n|{}\n",
        titles.join(" | "),
        "---|".repeat(COLUMNS.len() + 1)
    );
    let every = rows.len().div_ceil(ROWS).max(1);
    for (i, row) in rows.iter().enumerate() {
        if i % every != 0 && i + 1 != rows.len() {
            continue;
        }
        let cells: Vec<&str> = row.split(',').collect();
        let cell = |name| at(name).and_then(|i| cells.get(i).copied()).unwrap_or("");
        let shown: Vec<&str> = COLUMNS.iter().map(|c| cell(c.0)).collect();
        let sinks: Vec<&str> = names
            .iter()
            .zip(&cells)
            .filter(|(n, _)| n.starts_with("sink_"))
            .map(|(_, c)| *c)
            .collect();
        let _ = writeln!(text, "| {} | {} |", shown.join(" | "), sinks.join(" "));
    }
    text
}
