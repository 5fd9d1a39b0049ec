//! One error type, and the one table from a gRPC status to its kind.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use tonic::{Code, Status, TimeoutExpired};

use crate::{Address, proto};

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of fault it was, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No daemon could be reached, the connection broke, or the daemon said that it cannot serve
    /// now ([`Error::answered`] tells which).
    Unreachable,
    /// The deadline of the call passed.
    Deadline,
    /// The request breaks a limit or is malformed; the message names the field.
    InvalidArgument,
    /// A condition did not hold, or the caller may not do this.
    Refused,
    /// A queue of the daemon is full; safe to retry after a pause.
    Overloaded,
    /// The daemon does not serve this call or option.
    Unimplemented,
    /// A bug, on either side.
    Internal,
}

impl Kind {
    /// Whether [fail-open](crate::Builder::fail_open) passes over it.
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unreachable | Self::Deadline)
    }
}

/// A fault of a call. A miss is never one.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    answered: bool,
    // Shared, because a status cannot be cloned and an outcome that holds an error can.
    source: Option<Arc<Status>>,
}

impl Error {
    /// The kind, to decide by.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A sentence for people. Holds no key and no value, unless the daemon put one there.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the daemon itself said so; false when the fault was found on this side: no
    /// connection, a broken one, a deadline that passed here, an argument refused before sending.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// A fault found on this side.
    pub(crate) fn local(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            answered: false,
            source: None,
        }
    }

    /// An answer that breaks the contract of the protos.
    pub(crate) fn malformed(what: &str) -> Self {
        Self::local(Kind::Internal, format!("the daemon's answer has {what}"))
    }

    /// The deadline passed on this side.
    pub(crate) fn deadline(address: &Address, deadline: Duration) -> Self {
        let message = format!("no answer from {address} within {deadline:?}");
        Self::local(Kind::Deadline, message)
    }

    /// A status that a call ended with.
    pub(crate) fn from_status(status: Status, address: &Address) -> Self {
        // A status that came over the wire has no source; one with a source was made by the
        // transport on this side, whatever its code.
        let (kind, message, answered) = match status.source() {
            None => (kind_of(status.code()), status.message().to_owned(), true),
            Some(source) if in_chain::<TimeoutExpired>(source) => (
                Kind::Deadline,
                format!("no answer from {address} in time"),
                false,
            ),
            Some(source) => {
                let message = format!("no daemon at {address}: {}", root(source));
                (Kind::Unreachable, message, false)
            }
        };
        Self {
            kind,
            message,
            answered,
            source: Some(Arc::new(status)),
        }
    }

    /// The fault of one item of a batch.
    pub(crate) fn from_fault(fault: proto::Fault) -> Self {
        let code = i32::try_from(fault.code).map_or(Code::Unknown, Code::from_i32);
        Self {
            kind: kind_of(code),
            message: fault.message,
            answered: true,
            source: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|status| status as &(dyn StdError + 'static))
    }
}

/// The table from what came over the wire to a kind.
fn kind_of(code: Code) -> Kind {
    match code {
        // The daemon is stopping, or no tier could be used.
        Code::Unavailable => Kind::Unreachable,
        // The caller's `grpc-timeout` passed inside the daemon.
        Code::DeadlineExceeded => Kind::Deadline,
        // How tonic's server reports an expired `grpc-timeout`; nothing else cancels for us.
        Code::Cancelled => Kind::Deadline,
        // A field breaks its limit.
        Code::InvalidArgument => Kind::InvalidArgument,
        // An offset beyond the end, or a message over the size limit of either side.
        Code::OutOfRange => Kind::InvalidArgument,
        // `if_absent` did not hold, or an immutable namespace holds another value.
        Code::AlreadyExists => Kind::Refused,
        // `if_version` did not hold, or the call needs a tier that is not configured.
        Code::FailedPrecondition => Kind::Refused,
        // The caller's scopes do not cover the call.
        Code::PermissionDenied => Kind::Refused,
        // The caller has not shown who it is.
        Code::Unauthenticated => Kind::Refused,
        // A queue of the daemon is full.
        Code::ResourceExhausted => Kind::Overloaded,
        // Not served, or not by this version.
        Code::Unimplemented => Kind::Unimplemented,
        // A bug of the daemon.
        Code::Internal => Kind::Internal,
        // A value that went away while it was read, or a stream that was silent for too long.
        Code::Aborted => Kind::Unreachable,
        // Not in the contract: whoever answered is not, or not only, a pannierd.
        Code::Ok | Code::Unknown | Code::NotFound | Code::DataLoss => Kind::Internal,
    }
}

fn in_chain<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The innermost cause, which is the one that says something ("connection refused").
fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::{Code, Error, Kind, Status, TimeoutExpired, kind_of};
    use crate::proto;

    #[test]
    fn every_code_has_its_kind() {
        for (code, kind) in [
            (Code::Ok, Kind::Internal),
            (Code::Cancelled, Kind::Deadline),
            (Code::Unknown, Kind::Internal),
            (Code::InvalidArgument, Kind::InvalidArgument),
            (Code::DeadlineExceeded, Kind::Deadline),
            (Code::NotFound, Kind::Internal),
            (Code::AlreadyExists, Kind::Refused),
            (Code::PermissionDenied, Kind::Refused),
            (Code::ResourceExhausted, Kind::Overloaded),
            (Code::FailedPrecondition, Kind::Refused),
            (Code::Aborted, Kind::Unreachable),
            (Code::OutOfRange, Kind::InvalidArgument),
            (Code::Unimplemented, Kind::Unimplemented),
            (Code::Internal, Kind::Internal),
            (Code::Unavailable, Kind::Unreachable),
            (Code::DataLoss, Kind::Internal),
            (Code::Unauthenticated, Kind::Refused),
        ] {
            assert_eq!(kind_of(code), kind, "{code:?}");
        }
    }

    #[test]
    fn only_outages_are_passed_over() {
        for (kind, outage) in [
            (Kind::Unreachable, true),
            (Kind::Deadline, true),
            (Kind::InvalidArgument, false),
            (Kind::Refused, false),
            (Kind::Overloaded, false),
            (Kind::Unimplemented, false),
            (Kind::Internal, false),
        ] {
            assert_eq!(kind.is_outage(), outage, "{kind:?}");
        }
    }

    #[test]
    fn a_status_made_by_the_transport_is_told_from_an_answer() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let answer = Error::from_status(Status::unavailable("stopping"), &address);
        assert_eq!(
            (answer.kind(), answer.answered()),
            (Kind::Unreachable, true)
        );
        assert_eq!(answer.message(), "stopping");

        let timeout = Status::from_error(Box::new(TimeoutExpired(())));
        let timeout = Error::from_status(timeout, &address);
        assert_eq!(
            (timeout.kind(), timeout.answered()),
            (Kind::Deadline, false)
        );

        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Error::from_status(Status::from_error(Box::new(broken)), &address);
        assert_eq!(
            (broken.kind(), broken.answered()),
            (Kind::Unreachable, false)
        );
        assert!(broken.message().contains("127.0.0.1:1"), "{broken}");
    }

    #[test]
    fn a_fault_of_a_batch_uses_the_same_table() {
        let fault = proto::Fault {
            code: 8,
            message: "ask again".to_owned(),
        };
        let error = Error::from_fault(fault);
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Overloaded, "ask again")
        );
        let fault = proto::Fault {
            code: u32::MAX,
            message: String::new(),
        };
        assert_eq!(Error::from_fault(fault).kind(), Kind::Internal);
    }
}
