//! Glob patterns over keys, in the syntax of Redis (`KEYS`, `SCAN MATCH`), so that both tiers
//! select the same keys: `*` any run, `?` one character, `[abc]`, `[a-z]`, `[^a]` one of a class,
//! `\x` the character x itself.
//!
//! Two differences, both on purpose: matching is by character, not by byte, and a pattern with an
//! open class or a trailing backslash is refused instead of guessed at. Matching takes time
//! O(pattern x text): one point of backtracking, the last star.

use crate::{
    error::{Error, Result},
    key::check_length,
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    Any,
    Run,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: Box<str>,
    tokens: Vec<Token>,
    literal_prefix: String,
}

impl Glob {
    /// Compiles a pattern of 1 to 1024 bytes; `Invalid` says what is wrong where.
    pub fn new(pattern: &str) -> Result<Self> {
        check_length("pattern", pattern)?;
        let mut tokens = Vec::new();
        let mut chars = pattern.char_indices();
        while let Some((at, c)) = chars.next() {
            let token = match c {
                '*' if tokens.last() == Some(&Token::Run) => continue,
                '*' => Token::Run,
                '?' => Token::Any,
                '\\' => Token::Literal(escaped(&mut chars, at)?),
                '[' => class(&mut chars, at)?,
                c => Token::Literal(c),
            };
            tokens.push(token);
        }
        let literal_prefix = tokens
            .iter()
            .map_while(|token| match token {
                Token::Literal(c) => Some(*c),
                _ => None,
            })
            .collect();
        Ok(Self {
            pattern: pattern.into(),
            tokens,
            literal_prefix,
        })
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The characters every match begins with; may be empty.
    pub fn literal_prefix(&self) -> &str {
        &self.literal_prefix
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut token = 0;
        let mut rest = text;
        // Where to go on when what follows the last star does not fit.
        let mut retry: Option<(usize, &str)> = None;
        loop {
            let next = rest.chars().next();
            match (self.tokens.get(token), next) {
                (None, None) => return true,
                (Some(Token::Run), _) => {
                    retry = Some((token + 1, rest));
                    token += 1;
                    continue;
                }
                (Some(one), Some(c)) if one.accepts(c) => {
                    token += 1;
                    rest = &rest[c.len_utf8()..];
                    continue;
                }
                _ => {}
            }
            let Some((after_star, from)) = retry else {
                return false;
            };
            let Some(c) = from.chars().next() else {
                return false;
            };
            rest = &from[c.len_utf8()..];
            token = after_star;
            retry = Some((after_star, rest));
        }
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Literal(own) => *own == c,
            Self::Any => true,
            Self::Run => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

type Chars<'a> = std::str::CharIndices<'a>;

fn escaped(chars: &mut Chars<'_>, at: usize) -> Result<char> {
    chars.next().map(|(_, c)| c).ok_or_else(|| {
        Error::invalid(format!(
            "pattern: backslash at byte {at} has nothing after it"
        ))
    })
}

fn class(chars: &mut Chars<'_>, at: usize) -> Result<Token> {
    let open = || {
        Error::invalid(format!(
            "pattern: class opened at byte {at} is never closed"
        ))
    };
    let mut negated = false;
    let mut ranges: Vec<(char, char)> = Vec::new();
    if chars.as_str().starts_with('^') {
        negated = true;
        chars.next();
    }
    loop {
        let (_, c) = chars.next().ok_or_else(open)?;
        let from = match c {
            ']' => return Ok(Token::Class { negated, ranges }),
            '\\' => chars.next().ok_or_else(open)?.1,
            c => c,
        };
        // A dash right before the closing bracket stands for itself.
        let rest = chars.as_str();
        if rest.starts_with('-') && !rest.starts_with("-]") {
            chars.next();
            let (_, to) = chars.next().ok_or_else(open)?;
            let to = if to == '\\' {
                chars.next().ok_or_else(open)?.1
            } else {
                to
            };
            ranges.push((from.min(to), from.max(to)));
        } else {
            ranges.push((from, from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_what_redis_selects() {
        let table = [
            ("*", "", true),
            ("*", "anything", true),
            ("model:*", "model:7", true),
            ("model:*", "mode:7", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-]x", "-x", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("ü?", "üß", true),
            ("abc", "abcd", false),
            ("**a", "ba", true),
        ];
        for (pattern, text, expected) in table {
            let glob = Glob::new(pattern).expect(pattern);
            assert_eq!(glob.matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn broken_patterns_are_refused_with_the_place() {
        assert_eq!(
            Glob::new("a[b").expect_err("open").message(),
            "pattern: class opened at byte 1 is never closed"
        );
        assert!(
            Glob::new("a\\")
                .expect_err("open")
                .message()
                .contains("backslash at byte 1")
        );
    }

    #[test]
    fn many_stars_stay_fast() {
        let glob = Glob::new(&"a*".repeat(500)).expect("valid");
        assert!(!glob.matches(&"b".repeat(1024)));
        let glob = Glob::new(&format!("{}b", "*a".repeat(400))).expect("valid");
        assert!(!glob.matches(&"a".repeat(1024)));
    }

    #[test]
    fn the_literal_prefix_is_what_every_match_begins_with() {
        assert_eq!(Glob::new("a\\*b*c").expect("valid").literal_prefix(), "a*b");
        assert_eq!(Glob::new("*").expect("valid").literal_prefix(), "");
    }
}
