//! How a command ends: the exit codes, and the line that goes with a failure.
//!
//! The codes are part of the contract and stand in `pannier --help`.

use std::{error::Error as _, fmt, io, process::ExitCode};

use pannier_client::{Address, Error, Kind};

use crate::output;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or a hit.
    Ok = 0,
    /// A miss.
    Miss = 1,
    /// Wrong usage, or a request that breaks a limit.
    Usage = 2,
    /// No daemon, one that cannot serve now, or no answer in time.
    Unreachable = 3,
    /// Everything else that did not work.
    Refused = 4,
    /// Ended by Ctrl-C, as a shell would say it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not work: what happened and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    // Absent when there is nobody left to tell: the reader of our output has gone.
    message: Option<Message>,
}

#[derive(Debug)]
struct Message {
    what: String,
    remedy: String,
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.what, self.remedy)
    }
}

impl Failure {
    fn new(exit: Exit, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit,
            message: Some(Message {
                what: what.into(),
                remedy: remedy.into(),
            }),
        }
    }

    /// The command was called in a way that cannot work.
    pub(crate) fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, remedy)
    }

    /// The daemon went away.
    pub(crate) fn unreachable(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, what, remedy)
    }

    /// Something did not work that has no code of its own.
    pub(crate) fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Refused, what, remedy)
    }

    /// Stdout could not be written. A reader that went away is no fault (`pannier get k | head`).
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                exit: Exit::Ok,
                message: None,
            };
        }
        Self::refused(
            format!("cannot write to stdout: {error}"),
            "is the disk full?",
        )
    }

    /// A call to the daemon at `address` failed.
    pub(crate) fn call(error: &Error, address: &Address) -> Self {
        let message = error.message();
        match error.kind() {
            Kind::Unreachable if error.answered() => Self::unreachable(
                format!("the daemon at {address} cannot serve this now: {message}"),
                "see `pannier health`",
            ),
            Kind::Unreachable => {
                let remedy = "start one with `pannierd`, or set PANNIER_ADDR";
                // That nobody listens goes without saying; another cause does not.
                let what = if nobody_listens(error) {
                    format!("no daemon at {address}")
                } else {
                    message.to_owned()
                };
                Self::unreachable(what, remedy)
            }
            Kind::Deadline => Self::unreachable(
                format!("no answer from {address} in time"),
                "raise --timeout, or see `pannier health`",
            ),
            Kind::InvalidArgument => Self::usage(message, "correct the request"),
            Kind::Refused => Self::refused(message, remedy_of_refusal(message)),
            Kind::Overloaded => Self::refused(message, "try again in a moment"),
            Kind::Unimplemented => Self::refused(
                format!(
                    "the daemon at {address} does not serve this: {}",
                    or_none(message)
                ),
                "a newer pannierd may",
            ),
            Kind::Internal => Self::refused(message, "this looks like a bug: please report it"),
        }
    }

    /// Says it on stderr and gives the code.
    pub(crate) fn report(self) -> Exit {
        if let Some(message) = self.message {
            output::note(format_args!("pannier: {message}"));
        }
        self.exit
    }
}

fn or_none(message: &str) -> &str {
    if message.is_empty() {
        "it gives no reason"
    } else {
        message
    }
}

/// The daemon's message begins with the field that stands in the way.
fn remedy_of_refusal(message: &str) -> &'static str {
    let names = |field| message.starts_with(field);
    if names("options.require_shared:") || names("options.mode:") {
        "configure a shared tier, or do not demand it"
    } else {
        "check the condition, or what you may do"
    }
}

fn nobody_listens(error: &Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            );
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Exit, Failure, remedy_of_refusal};

    #[test]
    fn a_reader_that_went_away_is_no_fault() {
        let failure = Failure::stdout(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.is_none()), (Exit::Ok, true));
        let failure = Failure::stdout(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(
            (failure.exit, failure.message.is_none()),
            (Exit::Refused, false)
        );
    }

    #[test]
    fn a_shared_tier_that_is_not_there_is_no_condition() {
        let shared = remedy_of_refusal("options.require_shared: no shared tier is configured");
        assert!(shared.contains("shared tier"), "{shared}");
        let condition = remedy_of_refusal("options.if_absent: the key has a live entry");
        assert!(condition.contains("condition"), "{condition}");
    }

    #[test]
    fn what_happened_comes_before_what_to_do() {
        let failure = Failure::usage("no value", "name a FILE");
        let message = failure.message.expect("a message");
        assert_eq!(message.to_string(), "no value (name a FILE)");
    }
}
