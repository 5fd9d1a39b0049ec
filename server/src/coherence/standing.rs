//! How the daemon stands to the shared tier, and what happened so far.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Coherence;
use crate::{clock::Timestamp, tier::shared::Scans};

/// Changes of the standing that are remembered.
const HISTORY_MAX: usize = 32;

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
    /// The last changes of the standing, the latest last.
    history: Mutex<VecDeque<Standing>>,
    attached: AtomicU64,
    pub(super) pushes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) verified: AtomicU64,
    pub(super) refuted: AtomicU64,
    pub(super) scans: Arc<Scans>,
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
    /// Scans of Redis under way.
    pub scans_running: u64,
    /// Keys of Redis that scans have looked at.
    pub scanned_keys: u64,
}

impl Counts {
    /// Notes a change of the standing.
    pub(super) fn changed(&self, standing: &Standing) {
        if let Standing::Attached { .. } = standing {
            self.attached.fetch_add(1, Ordering::Relaxed);
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(standing.clone());
    }

    pub(super) fn history(&self) -> Vec<Standing> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().cloned().collect()
    }

    pub(super) fn stats(&self) -> CoherenceStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CoherenceStats {
            attachments: get(&self.attached),
            changes: get(&self.pushes),
            flushes: get(&self.flushes),
            verified: get(&self.verified),
            refuted: get(&self.refuted),
            scans_running: self.scans.running(),
            scanned_keys: self.scans.keys(),
        }
    }
}

impl Coherence {
    /// The last changes of the standing, the latest last.
    pub fn history(&self) -> Vec<Standing> {
        self.counts.history()
    }
}
