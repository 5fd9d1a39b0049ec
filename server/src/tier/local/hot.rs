//! The hot set: records lately read, in memory, ready to be answered.
//!
//! A record is kept with the state of its name's *fence* from before the store was asked, and is
//! served only while the fence still stands there. Whoever changes a name in the store moves its
//! fence after the store has the change and before the change is acknowledged:
//!
//! ```text
//! reader                          writer
//! ticket: fence is 5
//! asks the store, gets v1
//!                                 store has v2
//!                                 fence moves to 6
//!                                 acknowledged
//! keeps v1 with ticket 5
//! next read: ticket 5 is not 6, so v1 is not served; the store is asked
//! ```
//! So nothing has to be removed, and no lock is held across the reading. Names share fences: a
//! neighbour's change costs a look into the store, never a wrong answer. A change of many names
//! moves the one fence that all tickets carry.

use std::{
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

use quick_cache::{DefaultHashBuilder, Weighter, sync::Cache};

use super::envelope::Envelope;
use crate::{key::EntryName, record::Record};

/// Fences that names share.
const FENCES: usize = 1 << 14;
/// Memory of one kept record beside its bytes and its name's, roughly.
const OVERHEAD_BYTES: usize = 160;
/// What the number of slots is guessed from.
const RECORD_BYTES_GUESS: u64 = 1024;

/// How the fences of a name stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    name: u64,
    all: u64,
}

#[derive(Clone)]
struct Kept {
    ticket: Ticket,
    envelope: Envelope,
    record: Record,
}

#[derive(Clone)]
struct Weight;

impl Weighter<EntryName, Kept> for Weight {
    fn weight(&self, name: &EntryName, kept: &Kept) -> u64 {
        (name.as_bytes().len() + kept.record.as_bytes().len() + OVERHEAD_BYTES) as u64
    }
}

pub(super) struct Hot {
    kept: Cache<EntryName, Kept, Weight>,
    hasher: DefaultHashBuilder,
    fences: Box<[AtomicU64]>,
    all: AtomicU64,
    record_bytes_max: usize,
}

impl Hot {
    /// A set of at most `bytes`, for records of at most `record_bytes_max` each.
    pub(super) fn new(bytes: u64, record_bytes_max: usize) -> Self {
        let slots = usize::try_from(bytes / RECORD_BYTES_GUESS).unwrap_or(usize::MAX);
        Self {
            kept: Cache::with_weighter(slots, bytes, Weight),
            hasher: DefaultHashBuilder::default(),
            fences: (0..FENCES).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
            record_bytes_max,
        }
    }

    /// How the name's fences stand. To be taken before the store is asked.
    pub(super) fn ticket(&self, name: &EntryName) -> Ticket {
        let name = self.fence(name).load(Ordering::SeqCst);
        Ticket {
            name,
            all: self.all.load(Ordering::SeqCst),
        }
    }

    /// The record of this name, if it has not been changed since it was read.
    pub(super) fn get(&self, name: &EntryName) -> Option<(Envelope, Record)> {
        let kept = self.kept.get(name)?;
        (kept.ticket == self.ticket(name)).then_some((kept.envelope, kept.record))
    }

    /// Keeps what the store said after `ticket` was taken.
    pub(super) fn keep(
        &self,
        ticket: Ticket,
        name: &EntryName,
        envelope: Envelope,
        record: &Record,
    ) {
        if record.as_bytes().len() <= self.record_bytes_max {
            let record = record.clone();
            self.kept.insert(
                name.clone(),
                Kept {
                    ticket,
                    envelope,
                    record,
                },
            );
        }
    }

    /// To be called after the store has changed this name, or may have.
    pub(super) fn changed(&self, name: &EntryName) {
        self.fence(name).fetch_add(1, Ordering::SeqCst);
    }

    /// To be called after the store has changed any number of names.
    pub(super) fn changed_all(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.kept.clear();
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    fn fence(&self, name: &EntryName) -> &AtomicU64 {
        let hash = self.hasher.hash_one(name.as_bytes());
        &self.fences[usize::try_from(hash % FENCES as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        tier::{
            Mark,
            conformance::{name, record},
        },
    };

    const END: Timestamp = Timestamp::from_millis(9);
    const ENVELOPE: Envelope = Envelope {
        expires: END,
        position: 0,
        mark: Mark {
            epoch: 0,
            sequence: 0,
        },
    };

    #[test]
    fn what_was_read_before_a_change_is_not_served_after_it() {
        let hot = Hot::new(1 << 20, 16 << 10);
        let (key, other) = (name("n", "k"), name("n", "other"));
        let ticket = hot.ticket(&key);
        // The change comes between the reading of the store and the keeping.
        hot.changed(&key);
        hot.keep(ticket, &key, ENVELOPE, &record(1, 10, END));
        assert!(hot.get(&key).is_none());

        for name in [&key, &other] {
            hot.keep(hot.ticket(name), name, ENVELOPE, &record(1, 10, END));
            assert!(hot.get(name).is_some());
        }
        hot.changed(&key);
        assert!(hot.get(&key).is_none());
        let ticket = hot.ticket(&other);
        hot.changed_all();
        assert!(hot.get(&other).is_none());
        hot.keep(ticket, &other, ENVELOPE, &record(1, 10, END));
        assert!(hot.get(&other).is_none());
    }

    #[test]
    fn it_stays_within_its_bytes_and_leaves_large_records_out() {
        let hot = Hot::new(100_000, 16 << 10);
        for i in 0..1000 {
            let name = name("n", &i.to_string());
            hot.keep(hot.ticket(&name), &name, ENVELOPE, &record(i, 1000, END));
            assert!(hot.bytes() <= 100_000);
        }
        let large = name("n", "large");
        hot.keep(
            hot.ticket(&large),
            &large,
            ENVELOPE,
            &record(1, 17 << 10, END),
        );
        assert!(hot.get(&large).is_none());
    }
}
