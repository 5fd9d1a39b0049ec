//! Copies that were found to be what Redis has: remembered in memory, so that no value has to be
//! read or written again for it.

use quick_cache::{Weighter, sync::Cache};

use crate::{clock::Timestamp, key::EntryName, stamp::Stamp, tier::Mark};

/// Memory of one verification beside its name's, roughly.
const VERIFIED_BYTES: u64 = 120;

/// That a copy was found to be what Redis has.
#[derive(Debug, Clone, Copy)]
pub struct Verified {
    /// Version of the copy.
    pub stamp: Stamp,
    /// How the fences stood before Redis was asked.
    pub mark: Mark,
    /// When its lifetime ends there.
    pub expires: Timestamp,
}

#[derive(Clone)]
struct Weight;

impl Weighter<EntryName, Verified> for Weight {
    fn weight(&self, name: &EntryName, _: &Verified) -> u64 {
        name.as_bytes().len() as u64 + VERIFIED_BYTES
    }
}

/// The latest of them, within a number of bytes.
pub(super) struct VerifiedCopies(Cache<EntryName, Verified, Weight>);

impl VerifiedCopies {
    pub(super) fn new(bytes: u64) -> Self {
        let slots = usize::try_from(bytes / (2 * VERIFIED_BYTES)).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(slots, bytes, Weight))
    }

    pub(super) fn of(&self, name: &EntryName) -> Option<Verified> {
        self.0.get(name)
    }

    pub(super) fn remember(&self, name: &EntryName, verified: Verified) {
        self.0.insert(name.clone(), verified);
    }
}
