//! The one error type of the daemon.
//!
//! An `Error` is a fault or a refusal. A miss is `None`, never an error. The kind is closed and
//! knows nothing of gRPC or HTTP: each front door holds one table from kind to wire code.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// What sort of fault or refusal it is; callers branch on this only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request breaks a limit or a rule; the same request will never succeed.
    Invalid,
    /// A write condition asked for an absent key, or the namespace is write-once.
    Exists,
    /// A write condition asked for another version.
    Precondition,
    /// A part of a value was asked for that begins beyond its end.
    OutOfRange,
    /// What was being read has gone meanwhile; the same request may find it, or a miss.
    Interrupted,
    /// A queue is full; the same request may succeed after a pause.
    Overloaded,
    /// The data directory belongs to another daemon. Only at the start.
    Held,
    /// No tier could serve the request, or the daemon is stopping.
    Unavailable,
    /// What was read is damaged. Never leaves the tier: there it becomes a miss.
    Corrupt,
    /// Part of the contract that this version does not serve.
    Unsupported,
    /// A bug.
    Internal,
}

/// A fault with its kind, a sentence for the caller and the cause for the log.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` is shown to the caller.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// A broken limit or rule of the request.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What sort it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence for the caller, without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
