//! Spans and instants between the protos and the standard library.

use std::time::{Duration, SystemTime};

use crate::{Error, Kind, Result};

/// A span for a request.
///
/// # Errors
/// [`Kind::InvalidArgument`] when the span is longer than the protos can say (292 billion years).
pub(crate) fn to_proto(span: Duration, field: &str) -> Result<prost_types::Duration> {
    prost_types::Duration::try_from(span)
        .map_err(|_| Error::local(Kind::InvalidArgument, format!("{field} is too long")))
}

/// A span of an answer; a negative or malformed one counts as absent.
pub(crate) fn from_proto(span: Option<prost_types::Duration>) -> Option<Duration> {
    span.and_then(|span| Duration::try_from(span).ok())
}

/// An instant of an answer that the contract requires.
pub(crate) fn instant(timestamp: Option<prost_types::Timestamp>, what: &str) -> Result<SystemTime> {
    timestamp
        .and_then(|timestamp| SystemTime::try_from(timestamp).ok())
        .ok_or_else(|| Error::malformed(what))
}
