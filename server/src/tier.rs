//! Tiers: places that keep records.
//!
//! A tier knows nothing of namespaces' policies, of other tiers or of the wire. What only one tier
//! can do (scan, conditional writes, statistics) stands on that tier, not here.

#[cfg(test)]
pub(crate) mod conformance;
pub mod local;
#[cfg(test)]
mod memory;
pub mod shared;

use std::future::Future;

use crate::{
    clock::Timestamp,
    error::Result,
    key::EntryName,
    record::{Head, Record},
    stamp::Stamp,
};

/// A record a tier holds, with the end of its lifetime there.
#[derive(Debug, Clone)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// When the tier lets go of it. Not later than the entry's own end (P2).
    pub expires: Timestamp,
    /// What was known of it when it was kept.
    pub mark: Mark,
}

/// How the fences of coherence stood when a copy was taken: what decides, at each read, whether
/// the copy still counts. A tier keeps it and gives it back, and makes nothing of it.
///
/// The default never counts: such a copy has to be verified before it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The epoch; a gap in what was heard of the shared tier ends one.
    pub epoch: u64,
    /// The number of the last change heard of; 0 is before all of them.
    pub sequence: u64,
}

impl Mark {
    /// Set in the sequence of a copy that has to be verified first.
    const UNVERIFIED: u64 = 1 << 63;

    /// The mark of a copy that has to be verified before it is trusted. A later change of the key
    /// tells all the same that it is wrong.
    #[must_use]
    pub fn unverified(self) -> Self {
        Self {
            sequence: self.sequence | Self::UNVERIFIED,
            ..self
        }
    }

    /// Whether it has to be verified whatever was heard of since.
    pub fn is_unverified(self) -> bool {
        self.sequence == 0 || self.sequence & Self::UNVERIFIED != 0
    }

    /// The number of the last change heard of.
    pub fn last_change(self) -> u64 {
        self.sequence & !Self::UNVERIFIED
    }
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// No live record of that name.
    Absent,
    /// A live record with this version.
    Version(Stamp),
    /// No live record, or one with the same value and attributes, which is then kept.
    AbsentOrSame,
    /// The lease with this stamp, and nothing since. To all other conditions a lease is nothing.
    Lease(Stamp),
}

/// How the wish for a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    /// Nothing was there, and the lease has its place now.
    Given,
    /// Somebody has one, until then.
    Held(Timestamp),
    /// Something else was there, or came and went.
    Taken,
    /// An entry is there whose value is with the daemon that put it.
    Withheld,
}

/// How a conditional write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The record was written.
    Written,
    /// The same value was there already and stays ([`Condition::AbsentOrSame`]).
    Kept {
        /// Its fixed part.
        head: Head,
        /// When the tier lets go of it.
        expires: Timestamp,
    },
    /// The condition did not hold.
    Refused,
}

/// The contract every tier keeps; `conformance` is its test.
///
/// - A `get` that starts after a `put` or `delete` of the same name has returned sees its effect.
/// - Nothing is returned at or after its end, whatever the tier still has stored (P2).
/// - A record that is damaged is not returned: it is a miss, is removed and is counted (P3).
/// - Errors are of kind `Unavailable` (the tier cannot be used now) or `Overloaded`. After an
///   error of `put` or `delete` the old record is not returned until one of them has succeeded.
/// - Every method is cancel safe: a dropped call has either taken effect or will do so before any
///   later call for the same name does.
pub trait Tier: Send + Sync {
    /// The live record of this name; `None` is a miss.
    fn get(&self, name: &EntryName) -> impl Future<Output = Result<Option<Found>>> + Send;

    /// Keeps a record until `expires`, replacing what is there.
    fn put(
        &self,
        name: &EntryName,
        record: &Record,
        expires: Timestamp,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes a record; tells whether a live one was there.
    fn delete(&self, name: &EntryName) -> impl Future<Output = Result<bool>> + Send;
}
