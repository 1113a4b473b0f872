//! Whether a text begins with a beginning-of-sequence token: the one place where that is decided.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whether texts are encoded with a beginning-of-sequence token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// What the tokenizer does by itself, as transformers' `AutoTokenizer` loads it.
    #[default]
    Auto,
    /// Always, even where the tokenizer adds none; not where the text already begins with one.
    On,
    /// Never.
    Off,
}

impl fmt::Display for Bos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bos::Auto => "auto",
            Bos::On => "on",
            Bos::Off => "off",
        })
    }
}

impl FromStr for Bos {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Bos::Auto),
            "on" => Ok(Bos::On),
            "off" => Ok(Bos::Off),
            _ => Err(format!("bos {s:?}: expected auto, on or off")),
        }
    }
}

/// [`Bos`] for one tokenizer.
#[derive(Clone, Copy, Debug)]
pub struct BosRule {
    bos: Bos,
    token: Option<u32>,
    /// What a text without context is conditioned on.
    prefix: Option<u32>,
    /// Whether the tokenizer begins texts with the prefix by itself.
    begins: bool,
}

impl BosRule {
    /// The rule for a tokenizer with these special tokens; `encode(text, special)` gives a text's ids, with what the
    /// tokenizer adds where `special` is set.
    ///
    /// # Errors
    /// `Bos::On` without a BOS token, as a text; or an error of `encode`.
    pub fn new<E: From<NoBos>>(
        bos: Bos,
        token: Option<u32>,
        eos: Option<u32>,
        encode: impl Fn(&str, bool) -> Result<Vec<u32>, E>,
    ) -> Result<Self, E> {
        if bos == Bos::On && token.is_none() {
            return Err(NoBos.into());
        }
        let prefix = token.or(eos);
        let begins =
            bos != Bos::Off && prefix.is_some() && encode("a", true)?.first().copied() == prefix;
        Ok(Self {
            bos,
            token,
            prefix,
            begins,
        })
    }

    /// The token that a text without context is conditioned on: the tokenizer's BOS, else its EOS, as in
    /// lm-evaluation-harness.
    pub fn prefix(&self) -> Option<u32> {
        self.prefix
    }

    /// A text's tokens. A text that begins with BOS by itself gets no second one.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn encode<E>(
        &self,
        text: &str,
        encode: impl Fn(&str, bool) -> Result<Vec<u32>, E>,
    ) -> Result<Vec<u32>, E> {
        if self.bos == Bos::Off {
            return encode(text, false);
        }
        let mut tokens = encode(text, true)?;
        let own = tokens.get(usize::from(self.begins)).copied();
        if self.prefix.is_some() && own == self.prefix {
            return encode(text, false);
        }
        if let (Bos::On, Some(bos)) = (self.bos, self.token)
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}

/// [`Bos::On`] was asked of a tokenizer that has no BOS token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bos on: the tokenizer has no BOS token; use auto or off")]
pub struct NoBos;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes are tokens; `^` is BOS and `$` EOS.
    fn tokens(bos: Bos, adds: &'static str, text: &str) -> Result<String, NoBos> {
        let token = Some(u32::from(b'^')).filter(|_| !adds.contains('$'));
        let encode = |text: &str, special: bool| {
            let text = if special {
                format!("{adds}{text}")
            } else {
                text.into()
            };
            Ok(text.bytes().map(u32::from).collect())
        };
        let rule = BosRule::new(bos, token, Some(u32::from(b'$')), encode)?;
        let ids: Vec<u32> = rule.encode(text, encode)?;
        Ok(ids.iter().map(|&id| char::from(id as u8)).collect())
    }

    #[test]
    fn a_text_gets_one_bos() {
        for (bos, adds, text, expected) in [
            (Bos::Auto, "", "a", "a"),
            (Bos::Auto, "^", "a", "^a"),
            (Bos::Auto, "^", "^a", "^a"),
            (Bos::Auto, "^", "", "^"),
            (Bos::On, "", "a", "^a"),
            (Bos::On, "", "^a", "^a"),
            (Bos::On, "^", "a", "^a"),
            (Bos::On, "^", "^a", "^a"),
            (Bos::Off, "^", "a", "a"),
        ] {
            assert_eq!(
                tokens(bos, adds, text),
                Ok(expected.into()),
                "{bos} {adds} {text}"
            );
        }
        assert_eq!(tokens(Bos::On, "$", "a"), Err(NoBos));
        assert_eq!(tokens(Bos::Auto, "$", "$a"), Ok("$a".into()));
    }
}
