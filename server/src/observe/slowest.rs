//! The slowest requests of the last minutes, each with what it did.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::calls::{Finished, Method};
use crate::{
    clock::Timestamp,
    config::TierName,
    key::NAMESPACE_BYTES_MAX,
    steps::{Ended, Step, What},
};

/// Requests that are kept.
const KEPT_MAX: usize = 32;
/// How long one is kept.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// A request that was slow.
#[derive(Debug, Clone)]
pub struct Slow {
    /// When it ended.
    pub at: Timestamp,
    /// What was called.
    pub method: Method,
    /// The namespace, at most as much of it as a valid one can have.
    pub namespace: String,
    /// A hash of the key; `None` where there is not one key.
    pub key: Option<u64>,
    /// How long it took.
    pub took: Duration,
    /// The number of its code.
    pub code: usize,
    /// What it did.
    pub steps: Vec<SlowStep>,
}

/// What a slow request did in a tier.
#[derive(Debug, Clone, Copy)]
pub struct SlowStep {
    /// What was done.
    pub what: What,
    /// Where.
    pub tier: TierName,
    /// How it ended.
    pub ended: Ended,
    /// How long after the beginning of the request it began.
    pub after: Duration,
    /// How long it took.
    pub took: Duration,
    /// Items of a batch it stands for; 1 otherwise.
    pub items: u32,
}

/// The slowest requests. One that is not slow costs one load.
#[derive(Debug, Default)]
pub(super) struct Slowest {
    /// What a request must exceed, in nanoseconds.
    floor: AtomicU64,
    kept: Mutex<Vec<Slow>>,
}

impl Slowest {
    pub(super) fn note(&self, finished: &Finished<'_>, now: impl FnOnce() -> Timestamp) {
        let nanos = u64::try_from(finished.took.as_nanos()).unwrap_or(u64::MAX);
        if nanos <= self.floor.load(Ordering::Relaxed) {
            return;
        }
        let slow = Slow {
            at: now(),
            method: finished.method,
            namespace: finished
                .namespace
                .chars()
                .take(NAMESPACE_BYTES_MAX)
                .collect(),
            key: finished.key,
            took: finished.took,
            code: finished.code,
            steps: finished
                .steps
                .list()
                .map(|step: Step| SlowStep {
                    what: step.what,
                    tier: step.tier,
                    ended: step.ended,
                    after: step.begun.saturating_duration_since(finished.begun),
                    took: step.took,
                    items: step.items,
                })
                .collect(),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            let fastest = kept.iter().enumerate().min_by_key(|(_, it)| it.took);
            if let Some((index, _)) = fastest {
                kept.swap_remove(index);
            }
        }
        kept.push(slow);
        self.raise_floor(&kept);
    }

    /// Old ones make room.
    pub(super) fn forget_before(&self, now: Timestamp) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|it| now.since(it.at) < KEPT_FOR);
        self.raise_floor(&kept);
    }

    fn raise_floor(&self, kept: &[Slow]) {
        let floor = match kept.len() >= KEPT_MAX {
            true => kept.iter().map(|it| it.took).min().unwrap_or_default(),
            false => Duration::ZERO,
        };
        let nanos = u64::try_from(floor.as_nanos()).unwrap_or(u64::MAX);
        self.floor.store(nanos, Ordering::Relaxed);
    }

    /// The slowest first.
    pub(super) fn list(&self) -> Vec<Slow> {
        let mut kept = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.clone()
        };
        kept.sort_by_key(|it| std::cmp::Reverse(it.took));
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::steps::Steps;

    fn note(slowest: &Slowest, millis: u64, at: u64) {
        let finished = Finished {
            method: Method::Get,
            namespace: "n",
            key: Some(1),
            begun: Instant::now(),
            took: Duration::from_millis(millis),
            steps: &Steps::default(),
            provenance: None,
            code: 0,
            trace: None,
        };
        slowest.note(&finished, || Timestamp::from_millis(at));
    }

    fn millis(slowest: &Slowest) -> Vec<u128> {
        slowest
            .list()
            .iter()
            .map(|it| it.took.as_millis())
            .collect()
    }

    #[test]
    fn only_the_slowest_stay_and_only_for_some_time() {
        let slowest = Slowest::default();
        for took in 1..=40 {
            note(&slowest, took, took);
        }
        note(&slowest, 8, 41);
        let kept = millis(&slowest);
        assert_eq!((kept.len(), kept[0], kept[KEPT_MAX - 1]), (KEPT_MAX, 40, 9));
        slowest.forget_before(Timestamp::from_millis(600_039));
        assert_eq!(millis(&slowest), [40]);
        note(&slowest, 1, 600_040);
        assert_eq!(millis(&slowest), [40, 1]);
    }
}
