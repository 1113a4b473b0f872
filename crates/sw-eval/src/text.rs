//! Python's string operations where Rust's differ: the harness's rules are written in them.

/// `str.isspace` of one character: Unicode white space and the four separators U+001C to U+001F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip`.
pub(crate) fn strip(s: &str) -> &str {
    s.trim_matches(is_space)
}

/// `str.capitalize`: the first character in title case, all others in lower case.
pub(crate) fn capitalize(s: &str) -> String {
    let Some(first) = s.chars().next() else {
        return String::new();
    };
    let lower = s.to_lowercase();
    let rest = &lower[first.to_lowercase().map(char::len_utf8).sum()..];
    title(first) + rest
}

/// The title case of a character: its upper case, except for the letters that are two in one.
fn title(c: char) -> String {
    match c {
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".into(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".into(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".into(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".into(),
        _ => {
            let mut upper = c.to_uppercase();
            upper
                .next()
                .into_iter()
                .chain(upper.flat_map(char::to_lowercase))
                .collect()
        }
    }
}

/// `len(re.split(r"\s+", s))`: pieces between runs of white space, empty ones at the ends included.
pub(crate) fn words(s: &str) -> usize {
    let mut count = 1;
    let mut in_space = false;
    for c in s.chars() {
        let space = is_space(c);
        count += usize::from(space && !in_space);
        in_space = space;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitalize_is_pythons() {
        for (from, to) in [
            ("", ""),
            ("HELLO World", "Hello world"),
            ("éTÉ", "Été"),
            ("ßA", "Ssa"),
            ("ǆA", "ǅa"),
            ("ΑΣ", "Ας"),
            ("ﬁN", "Fin"),
            ("1A", "1a"),
        ] {
            assert_eq!(capitalize(from), to);
        }
    }

    #[test]
    fn words_and_spaces_are_pythons() {
        assert_eq!(words(""), 1);
        assert_eq!(words(" a  b\n"), 4);
        assert_eq!(words("a\u{1c}b\u{a0}c"), 3);
        assert_eq!(strip("\u{1f} a \u{3000}"), "a");
    }
}
