//! Texts to run: the paper's prompt, ten of our own, and how they become tokens.

use sw_model::{Bos, Model};

use crate::error::{Error, Result};

/// The prompt of the paper's released code.
pub const DEFAULT_PROMPT: &str = "Apple Inc. is a worldwide tech company.";

/// Ten short prompts of different kinds, for the question whether the coordinates depend on the prompt.
pub const PROMPTS: [&str; 10] = [
    "The river froze early this year, and the ferry stayed in port.",
    "She opened the old tin box and found a letter inside.",
    "To bake the bread, mix the flour with warm water and a little salt.",
    "Once upon a time there was a small fox who lived under a hill.",
    "What is the capital of the country where the meeting was held?",
    "In 1987 the two towns built a bridge together, and they still share its cost.",
    "fn add(a: i32, b: i32) -> i32 { a + b }",
    "He said that he would come on Tuesday, but nobody saw him.",
    "Light bends when it passes from air into glass.",
    "Buy two tickets, show them at the gate, and keep them until the end.",
];

/// Short texts in plain words, on which a proof measures log-likelihoods.
pub const PROOF_TEXTS: [&str; 8] = [
    "Tom had a red ball. He took the ball to the park and played with his friend Sara until it was dark.",
    "It was raining all day. Anna sat by the window and read a book about a ship that was lost at sea.",
    "The old man has a garden behind his house. Every morning he gives the flowers water and talks to the birds.",
    "A little dog ran down the road. It was looking for its mother, and it was very hungry.",
    "They wanted to make a cake, but there was no sugar in the kitchen. So they went to the shop and bought some.",
    "The train leaves at nine. If you are late, you must wait two hours for the next one.",
    "Ben was afraid of the big tree, because at night its branches made a strange sound in the wind.",
    "In the summer the children swim in the lake, and in the winter they walk across the ice.",
];

/// Longer texts, on which a census measures: a story and an article in plain English, and two texts in the language of the
/// checkpoint that this repository grows.
const CENSUS_TEXTS: [[&str; 2]; 2] = [
    [
        include_str!("../data/texts/story.txt"),
        include_str!("../data/texts/article.txt"),
    ],
    [
        include_str!("../data/texts/nano-1.txt"),
        include_str!("../data/texts/nano-2.txt"),
    ],
];

/// The first tokens of two texts that come with this crate, in the language that the model predicts best: effects on a text
/// that a model cannot predict say nothing. As many tokens as are asked for, where the model's context and the texts allow.
///
/// # Errors
/// As [`encode`], and whatever stops a forward pass.
pub fn census_texts(model: &Model, tokens_per_text: usize) -> Result<Vec<Vec<u32>>> {
    let most = tokens_per_text.min(model.spec().max_positions).max(2);
    let mut best: Option<(f64, Vec<Vec<u32>>)> = None;
    for texts in CENSUS_TEXTS {
        let cut = |text: &str| {
            let mut tokens = encode(model, text.trim_end())?;
            tokens.truncate(most);
            Ok(tokens)
        };
        let texts = texts.into_iter().map(cut).collect::<Result<Vec<_>>>()?;
        let begins: Vec<&[u32]> = texts.iter().map(|t| &t[..t.len().min(32)]).collect();
        let scores = match model.score_texts(&begins, &mut ()) {
            // Another language's tokens may be beyond the vocabulary.
            Err(sw_model::Error::TokenId { .. }) if best.is_some() => continue,
            scores => scores?,
        };
        let scores: Vec<f64> = scores.iter().flatten().map(|s| -s.log_prob).collect();
        let nll = scores.iter().sum::<f64>() / scores.len() as f64;
        if best.as_ref().is_none_or(|(least, _)| nll < *least) {
            best = Some((nll, texts));
        }
    }
    Ok(best.map(|(_, texts)| texts).unwrap_or_default())
}

/// [`PROOF_TEXTS`] as tokens.
///
/// # Errors
/// As [`encode`].
pub fn proof_texts(model: &Model) -> Result<Vec<Vec<u32>>> {
    PROOF_TEXTS.iter().map(|text| encode(model, text)).collect()
}

/// The tokens of a prompt, which begins with a BOS where the tokenizer adds one.
///
/// # Errors
/// When the model has no tokenizer, or the text encodes to nothing.
pub fn encode(model: &Model, prompt: &str) -> Result<Vec<u32>> {
    let tokens = model.tokenizer()?.encode_with(prompt, Bos::Auto)?;
    at_least(1, &tokens, || prompt.into())?;
    Ok(tokens)
}

/// At least one token.
pub(crate) fn some(tokens: &[u32]) -> Result<()> {
    at_least(1, tokens, String::new)
}

/// At least so many tokens.
pub(crate) fn at_least(expected: usize, tokens: &[u32], prompt: impl Fn() -> String) -> Result<()> {
    let found = tokens.len();
    if found < expected {
        let prompt = prompt();
        return Err(Error::Prompt {
            prompt,
            expected,
            found,
        });
    }
    Ok(())
}
