//! Dropping expired records when RocksDB merges tables.

use std::{
    ffi::CStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{
    compaction_filter::{CompactionFilter, Decision},
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::envelope::Envelope;
use crate::clock::{Clock, Timestamp};

/// Counts that compaction threads write.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) expired: AtomicU64,
}

/// Drops expired records when tables are merged. Runs on several threads and must not panic.
pub(super) struct Sweeper {
    now: Timestamp,
    swept: Arc<Swept>,
}

impl CompactionFilter for Sweeper {
    fn filter(&mut self, _level: u32, _name: &[u8], value: &[u8]) -> Decision {
        // What does not decode, the store's own notes too, is left for a read to find and count.
        let expired =
            Envelope::unwrap(value).is_some_and(|(envelope, _)| envelope.expires <= self.now);
        if expired {
            self.swept.expired.fetch_add(1, Ordering::Relaxed);
            return Decision::Remove;
        }
        Decision::Keep
    }

    fn name(&self) -> &CStr {
        c"pannier.sweeper"
    }
}

pub(super) struct SweeperFactory {
    pub(super) clock: Clock,
    pub(super) swept: Arc<Swept>,
}

impl CompactionFilterFactory for SweeperFactory {
    type Filter = Sweeper;

    fn create(&mut self, _context: CompactionFilterContext) -> Sweeper {
        Sweeper {
            now: self.clock.now(),
            swept: Arc::clone(&self.swept),
        }
    }

    fn name(&self) -> &CStr {
        c"pannier.sweeper"
    }
}
