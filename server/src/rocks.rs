//! What every RocksDB store of the daemon needs: the table from its errors to ours, and a
//! [`Watermark`] for what its recovery drops without a word.

mod watermark;

use rocksdb::ErrorKind;

pub(crate) use self::watermark::Watermark;
use crate::error::{Error, Kind};

/// How the system says that a file is gone, or that it is a directory, or its directory a file.
const MISPLACED: [&str; 3] = [
    "No such file or directory",
    "Is a directory",
    "Not a directory",
];

/// The one table from RocksDB's errors to ours. `store` begins the sentence.
pub(crate) fn store_error(store: &str, error: &rocksdb::Error) -> Error {
    let text = format!("{store}: {}", error.as_ref());
    match error.kind() {
        // A file that the store's own books name is gone, or something else is in its place.
        ErrorKind::IOError if MISPLACED.iter().any(|words| text.contains(words)) => {
            Error::new(Kind::Corrupt, text)
        }
        // A block or log that does not agree with its checksum.
        ErrorKind::Corruption => Error::new(Kind::Corrupt, text),
        // Full, read-only or vanished disk; also what a store answers after such a fault.
        ErrorKind::IOError | ErrorKind::Aborted | ErrorKind::ShutdownInProgress => {
            Error::new(Kind::Unavailable, text)
        }
        // Never asked for without `no_slowdown`, but a wait would help.
        ErrorKind::Incomplete | ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::TryAgain => {
            Error::new(Kind::Overloaded, text)
        }
        _ => Error::new(Kind::Internal, text),
    }
}
