//! How the daemon stands to the shared tier, and what happened so far.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;

/// How the daemon stands to the shared tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It hears of every change.
    Attached {
        /// Since when.
        since: Timestamp,
    },
    /// It does not.
    Detached {
        /// Since when.
        since: Timestamp,
        /// Why, for a person.
        reason: String,
    },
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) attached: AtomicU64,
    pub(super) pushes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) verified: AtomicU64,
    pub(super) refuted: AtomicU64,
}

/// Figures of coherence.
#[derive(Debug, Clone, Default)]
pub struct CoherenceStats {
    /// Times the daemon attached.
    pub attachments: u64,
    /// Changes of keys heard of.
    pub changes: u64,
    /// Flushes heard of.
    pub flushes: u64,
    /// Local copies found to be what Redis has, without moving the value.
    pub verified: u64,
    /// Local copies found to be something else.
    pub refuted: u64,
}

impl Counts {
    pub(super) fn stats(&self) -> CoherenceStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CoherenceStats {
            attachments: get(&self.attached),
            changes: get(&self.pushes),
            flushes: get(&self.flushes),
            verified: get(&self.verified),
            refuted: get(&self.refuted),
        }
    }
}
