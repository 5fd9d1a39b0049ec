//! The one table from our errors to gRPC's codes.

use tonic::{Code, Status};

use crate::error::{Error, Kind};

/// The code of a kind.
pub(super) fn code(kind: Kind) -> Code {
    match kind {
        // The caller's fault, and will be again.
        Kind::Invalid => Code::InvalidArgument,
        // `if_absent`, or a second value in an immutable namespace.
        Kind::Exists => Code::AlreadyExists,
        // `if_version`, or the shared tier asked for where there is none.
        Kind::Precondition => Code::FailedPrecondition,
        // An offset beyond the end of the value.
        Kind::OutOfRange => Code::OutOfRange,
        // A value that went away while it was read.
        Kind::Interrupted => Code::Aborted,
        // A full queue: safe to retry after a pause.
        Kind::Overloaded => Code::ResourceExhausted,
        // No tier could be used, or the daemon is stopping. `Held` only occurs at the start.
        Kind::Unavailable | Kind::Held => Code::Unavailable,
        // In the contract, not in this version.
        Kind::Unsupported => Code::Unimplemented,
        // Damage is a miss before it comes this far; if it does come, that is a bug.
        Kind::Corrupt | Kind::Internal => Code::Internal,
    }
}

/// The status of an error. The cause stays in the log: it may tell of paths and addresses.
pub(super) fn status(error: Error) -> Status {
    let code = code(error.kind());
    if code == Code::Internal {
        tracing::error!(%error, "a request failed for a reason that is a bug");
    }
    Status::new(code, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code() {
        let table = [
            (Kind::Invalid, Code::InvalidArgument),
            (Kind::Exists, Code::AlreadyExists),
            (Kind::Precondition, Code::FailedPrecondition),
            (Kind::OutOfRange, Code::OutOfRange),
            (Kind::Interrupted, Code::Aborted),
            (Kind::Overloaded, Code::ResourceExhausted),
            (Kind::Unavailable, Code::Unavailable),
            (Kind::Held, Code::Unavailable),
            (Kind::Unsupported, Code::Unimplemented),
            (Kind::Corrupt, Code::Internal),
            (Kind::Internal, Code::Internal),
        ];
        for (kind, expected) in table {
            let status = status(Error::new(kind, "what happened"));
            assert_eq!(
                (status.code(), status.message()),
                (expected, "what happened")
            );
        }
    }

    #[test]
    fn causes_are_not_told_to_callers() {
        let cause = std::io::Error::other("/secret/path");
        let error = Error::new(Kind::Unavailable, "no").caused_by(cause);
        assert_eq!(status(error).message(), "no");
    }
}
