//! Which tokens are stopwords.

/// The closed classes of English: articles and other determiners, pronouns, prepositions, conjunctions, auxiliary verbs with
/// their short forms, and the particles "not", "to" and "there". The paper's figures name no list; this one is by word class,
/// so that everyone can check a word of it.
const WORDS: &str = "
a an the this that these those
my your his her its our their whose
each every either neither some any no all both half several many much few little more most less least enough such other another
i you he she it we they me him us them mine yours hers ours theirs
myself yourself himself herself itself ourselves yourselves themselves
who whom which what one ones someone somebody something anyone anybody anything everyone everybody everything nobody nothing none
about above across after against along among around as at before behind below beneath beside besides between beyond by despite down
during except for from in inside into like near of off on onto out outside over past per since than through throughout till to
toward towards under until up upon via with within without
and but or nor so yet if because although though unless whereas while whether when where whenever wherever how why
am is are was were be been being have has had having do does did doing
can could may might must shall should will would ought
not n't 's 're 've 'll 'd 'm t s there
";

/// Whether a token, as [`spelled`](super::figure5::spelled), is a function word: in either case, with or without the space
/// before it.
pub(super) fn is_function_word(token: &str) -> bool {
    let word = token.trim_start_matches('\u{2423}').to_lowercase();
    WORDS.split_whitespace().any(|w| w == word)
}

/// Whether a token is punctuation alone.
pub(super) fn is_punctuation(token: &str) -> bool {
    let token = token.trim_start_matches('\u{2423}');
    let mark = |c: char| {
        c.is_ascii_punctuation()
            || "\u{2018}\u{2019}\u{201c}\u{201d}\u{2013}\u{2014}\u{2026}".contains(c)
    };
    !token.is_empty() && token.chars().all(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks() {
        for token in ["\u{2423}the", "The", "n't", "\u{2423}would"] {
            assert!(is_function_word(token) && !is_punctuation(token), "{token}");
        }
        for token in [",", "\u{2423}\"", "...", "\u{2019}"] {
            assert!(is_punctuation(token) && !is_function_word(token), "{token}");
        }
        for token in ["\u{2423}cat", "\u{2423}", "them2", ""] {
            assert!(
                !is_punctuation(token) && !is_function_word(token),
                "{token}"
            );
        }
    }
}
