//! What a model learns from: files become examples.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sw_model::{Model, Tokenizer};
use sw_tensor::files;
use sw_train::tune::Example;

/// Bytes of a plain text, at most.
const MOST_TEXT: u64 = 4 << 30;

/// Examples to train on, and others to measure on.
pub(super) struct Data {
    pub(super) train: Vec<Example>,
    pub(super) held_out: Vec<Example>,
}

/// How long examples may be.
#[derive(Clone, Copy)]
pub(super) struct Length {
    /// Tokens of a text.
    pub(super) tokens: usize,
    /// Virtual tokens before it, where there is a soft prompt.
    pub(super) before: Option<usize>,
}

impl Data {
    /// Reads a file. The last `share` of it is held out, or what another file holds.
    ///
    /// Plain text, and rows with a `text`, are cut into windows of `length` tokens, one text after the other with the
    /// tokenizer's end of text between them. Rows with `prompt` and `completion` are an example each, and only completions are
    /// predicted.
    pub(super) fn read(
        model: &Model,
        file: &Path,
        held_out: Option<&Path>,
        share: f64,
        length: Length,
    ) -> Result<Self> {
        ensure!(
            (0.0..1.0).contains(&share),
            "--held-out-share {share}: expected a number from 0 to below 1"
        );
        let (most, Length { tokens, before }) = (model.spec().max_positions, length);
        let (longest, why) = match before {
            None => (
                most,
                "the longest sequence that the model is made for".to_owned(),
            ),
            Some(n) => {
                let most_virtual = most.saturating_sub(2);
                ensure!(
                    (1..=most_virtual).contains(&n),
                    "--virtual-tokens {n}: expected 1 to {most_virtual}, so that a text has room in the model's {most} positions"
                );
                let why =
                    format!("the model's {most} positions without the {n} of the soft prompt");
                (most - n, why)
            }
        };
        ensure!(
            (2..=longest).contains(&tokens),
            "--length {tokens}: expected 2 to {longest}, {why}"
        );
        let reader = Reader {
            tokenizer: model.tokenizer()?,
            length: tokens,
        };
        let whole = Source::read(file).context("--data")?;
        let (train, held_out) = match held_out {
            Some(other) => (whole, Source::read(other).context("--held-out")?),
            None => whole.split(share),
        };
        let of = |source: Source| reader.examples(source);
        let (train, held_out) = (
            of(train).context("--data")?,
            of(held_out).context("--held-out")?,
        );
        ensure!(
            !train.is_empty(),
            "--data {}: no example of two tokens or more in the part to train on",
            file.display()
        );
        Ok(Data { train, held_out })
    }
}

/// What a file holds.
enum Source {
    /// Texts one after the other.
    Texts(Vec<String>),
    /// Prompts and completions, and the first row's number.
    Pairs(Vec<(String, String)>, usize),
}

impl Source {
    fn read(file: &Path) -> Result<Source> {
        if file.extension().is_some_and(|e| e == "txt") {
            let text = files::read_text_at_most(file, MOST_TEXT);
            let text = text.with_context(|| file.display().to_string())?;
            ensure!(!text.trim().is_empty(), "{}: no text in it", file.display());
            return Ok(Source::Texts(vec![text]));
        }
        let rows = sw_eval::read_columns(file, &["text", "prompt", "completion"])?;
        let first = rows
            .first()
            .with_context(|| format!("{}: no rows", file.display()))?;
        match first.each_ref().map(Option::is_some) {
            [true, _, _] => {
                let text = |(i, [text, ..]): (usize, [Option<String>; 3])| {
                    text.with_context(|| format!("{}: row {i} has no \"text\"", file.display()))
                };
                let texts = rows.into_iter().enumerate().map(text);
                Ok(Source::Texts(texts.collect::<Result<_>>()?))
            }
            [_, true, true] => {
                let pair = |(i, [_, prompt, completion]): (usize, [Option<String>; 3])| {
                    prompt.zip(completion).with_context(|| {
                        format!(
                            "{}: row {i} has no \"prompt\" or no \"completion\"",
                            file.display()
                        )
                    })
                };
                let pairs = rows.into_iter().enumerate().map(pair);
                Ok(Source::Pairs(pairs.collect::<Result<_>>()?, 0))
            }
            _ => bail!(
                "{}: row 0 has neither \"text\" nor \"prompt\" and \"completion\"",
                file.display()
            ),
        }
    }

    /// The first part, and the last `share`.
    fn split(self, share: f64) -> (Source, Source) {
        match self {
            Source::Texts(mut texts) if texts.len() == 1 => {
                let mut at = (texts[0].len() as f64 * (1.0 - share)) as usize;
                while !texts[0].is_char_boundary(at) {
                    at -= 1;
                }
                let last = texts[0].split_off(at);
                (Source::Texts(texts), Source::Texts(vec![last]))
            }
            Source::Texts(mut texts) => {
                let last = texts.split_off(texts.len() - held(texts.len(), share));
                (Source::Texts(texts), Source::Texts(last))
            }
            Source::Pairs(mut pairs, first) => {
                let last = pairs.split_off(pairs.len() - held(pairs.len(), share));
                let at = first + pairs.len();
                (Source::Pairs(pairs, first), Source::Pairs(last, at))
            }
        }
    }
}

/// How many of `n` rows are held out.
fn held(n: usize, share: f64) -> usize {
    (n as f64 * share).round() as usize
}

struct Reader<'m> {
    tokenizer: &'m Tokenizer,
    length: usize,
}

impl Reader<'_> {
    fn examples(&self, source: Source) -> Result<Vec<Example>> {
        let tokenizer = self.tokenizer;
        let bos: Vec<u32> = tokenizer
            .bos()
            .filter(|_| tokenizer.adds_bos())
            .into_iter()
            .collect();
        match source {
            Source::Texts(texts) => {
                let mut tokens = Vec::new();
                for text in texts {
                    if !tokens.is_empty() {
                        tokens.extend(tokenizer.eos());
                    }
                    tokens.extend(tokenizer.encode(&text, false)?);
                }
                let room = self.length - bos.len().min(self.length - 1);
                let window = |piece: &[u32]| Example {
                    tokens: [&bos[..], piece].concat(),
                    given: 1,
                };
                let windows = tokens.chunks(room).map(window);
                Ok(windows.filter(|w| w.tokens.len() > 1).collect())
            }
            Source::Pairs(pairs, first) => {
                let example = |(i, (prompt, completion)): (usize, (String, String))| {
                    let mut tokens = bos.clone();
                    tokens.extend(tokenizer.encode(&prompt, false)?);
                    let given = tokens.len();
                    tokens.extend(tokenizer.encode(&completion, false)?);
                    tokens.extend(tokenizer.eos());
                    ensure!(
                        tokens.len() <= self.length,
                        "row {} has {} tokens, expected at most --length {}",
                        first + i,
                        tokens.len(),
                        self.length
                    );
                    ensure!(
                        tokens.len() > given.max(1),
                        "row {}: its completion has no token",
                        first + i
                    );
                    Ok(Example { tokens, given })
                };
                pairs.into_iter().enumerate().map(example).collect()
            }
        }
    }
}
