//! Writing to stdout and stderr.
//!
//! Stdout holds what was asked for and nothing else. A reader that went away ends the command
//! quietly ([`Failure::stdout`]); stderr is best effort.

use std::{fmt, io::Write};

use serde::Serialize;

use crate::exit::Failure;

/// Writes bytes to stdout as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::stdout(&error))
}

/// Writes one line of words to stdout.
pub(crate) fn line(words: fmt::Arguments<'_>) -> Result<(), Failure> {
    bytes(format!("{words}\n").as_bytes())
}

/// Writes one object of JSON on one line to stdout.
pub(crate) fn json(object: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(object).map_err(|error| {
        Failure::refused(
            format!("cannot write JSON: {error}"),
            "this looks like a bug",
        )
    })?;
    text.push(b'\n');
    bytes(&text)
}

/// Says something to the person at the terminal.
pub(crate) fn note(words: fmt::Arguments<'_>) {
    // Nobody can be told that stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// A text that cannot move the cursor or end a line, for names that others chose.
pub(crate) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped_and_other_texts_left_alone() {
        assert_eq!(printable("größe \"a\""), "größe \"a\"");
        assert_eq!(printable("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
    }
}
