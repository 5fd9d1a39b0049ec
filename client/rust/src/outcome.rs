//! What became of a change under fail-open.

use crate::Error;

/// What became of a change: done, or passed over because the daemon was away.
///
/// `Skipped` only occurs when the client was built with [fail-open](crate::Builder::fail_open).
#[derive(Debug, Clone)]
pub enum Outcome<T> {
    /// The daemon did it.
    Done(T),
    /// The daemon was away; the change may or may not have happened. The error says why.
    Skipped(Error),
}

impl<T> Outcome<T> {
    /// The result when it was done.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(result) => Some(result),
            Self::Skipped(_) => None,
        }
    }

    /// Whether it was passed over.
    pub fn is_skipped(&self) -> bool {
        matches!(self, Self::Skipped(_))
    }
}
