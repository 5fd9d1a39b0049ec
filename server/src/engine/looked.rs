//! What a look into the tiers has come to.

use std::time::Duration;

use bytes::Bytes;

use super::{Source, Standing};
use crate::tier::Found;

/// What was found for a key, and where.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) found: Option<Found>,
    pub(super) source: Source,
    pub(super) stale: bool,
    /// Time spent on the shared tier; `None` when it was not asked.
    pub(super) shared: Option<Duration>,
    /// Whether Redis has answered or could not be asked; `None` when it was not needed.
    pub(super) standing: Option<Standing>,
    /// The value of an entry whose record does not hold it.
    pub(super) value: Option<Bytes>,
}

impl Looked {
    pub(super) fn nothing() -> Self {
        Self {
            found: None,
            source: Source::None,
            stale: false,
            shared: None,
            standing: None,
            value: None,
        }
    }

    /// Whether its value is still to be fetched.
    pub(super) fn is_in_chunks(&self) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|it| it.record.head().is_in_chunks())
    }

    pub(super) fn local(found: Found) -> Self {
        Self {
            found: Some(found),
            source: Source::Local,
            ..Self::nothing()
        }
    }
}
