//! How long Redis's word of a change takes: measured on this daemon's own writes, one at a time.
//!
//! ```text
//! expect ── command ──▶ Redis ── reply ──▶ acknowledged
//!    │                    └───── push ──────▶ heard
//!    └───────────── delay ──────────────────────┘
//! ```
//! Every tracking connection is told in one go, so what this daemon sees holds for the others on
//! the same network: an old value is gone there this long after the command that replaces it was
//! sent (P6). Redis's own time for the command is part of it. A command that changed nothing is not
//! told of, and is left out. Of changes that come while one is measured nothing is taken, so the
//! cost is a load for each push and each write.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::xxh3_64;

use super::Coherence;
use crate::metrics::Histogram;

/// A word that does not come within this time never will: the connection that would bring it is
/// gone, or the key was changed before the command.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// The measurement and what came of those before.
#[derive(Debug, Default)]
pub(super) struct Delay {
    /// Of the key whose word is waited for; 0 for none.
    hash: AtomicU64,
    sample: Mutex<Option<Sample>>,
    histogram: Histogram,
}

#[derive(Debug)]
struct Sample {
    hash: u64,
    begun: Instant,
    /// Whether there is something to be told of.
    acknowledged: bool,
    heard: Option<Instant>,
}

/// An own write under way, whose word is waited for. Forgotten when it is dropped before.
#[derive(Debug)]
pub struct Expected<'a> {
    delay: &'a Delay,
    hash: u64,
}

impl Coherence {
    /// To be called before this daemon changes a key, to measure when Redis tells of it; `None`
    /// when another change is being measured.
    pub fn expect(&self, key: &[u8]) -> Option<Expected<'_>> {
        self.delay.expect(key)
    }

    /// How long after an own change was sent to Redis its word of it was heard.
    pub fn delay(&self) -> &Histogram {
        &self.delay.histogram
    }
}

impl Delay {
    /// To be called before a key is changed in Redis; `None` when another one is being measured.
    pub(super) fn expect(&self, key: &[u8]) -> Option<Expected<'_>> {
        // Most of the time one is under way, or there are so few that the lock is free.
        let mut sample = self.sample.try_lock().ok()?;
        let begun = Instant::now();
        let waits = |sample: &Sample| begun.duration_since(sample.begun) < FORGOTTEN;
        if sample.as_ref().is_some_and(waits) {
            return None;
        }
        let hash = hash(key);
        *sample = Some(Sample {
            hash,
            begun,
            acknowledged: false,
            heard: None,
        });
        self.hash.store(hash, Ordering::Release);
        Some(Expected { delay: self, hash })
    }

    /// To be called with each key that Redis tells of.
    pub(super) fn heard(&self, key: &[u8]) {
        if self.hash.load(Ordering::Acquire) == 0 {
            return;
        }
        let hash = hash(key);
        if self.hash.load(Ordering::Acquire) == hash {
            let now = Instant::now();
            self.note(hash, |sample| {
                sample.heard.get_or_insert(now);
            });
        }
    }

    fn note(&self, hash: u64, change: impl FnOnce(&mut Sample)) {
        let mut kept = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sample) = kept.as_mut().filter(|sample| sample.hash == hash) else {
            return;
        };
        change(sample);
        if let (true, Some(heard)) = (sample.acknowledged, sample.heard) {
            let delay = heard.saturating_duration_since(sample.begun);
            self.histogram.observe(delay);
            *kept = None;
            self.hash.store(0, Ordering::Release);
        }
    }
}

impl Expected<'_> {
    /// Redis has acknowledged the change, and there was something to tell of.
    pub fn acknowledged(self) {
        let delay = self.delay;
        delay.note(self.hash, |sample| sample.acknowledged = true);
        // Not forgotten: its word may still come.
        std::mem::forget(self);
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let sample = self.delay.sample.lock();
        let mut sample = sample.unwrap_or_else(PoisonError::into_inner);
        if sample.as_ref().is_some_and(|it| it.hash == self.hash) {
            *sample = None;
            self.delay.hash.store(0, Ordering::Release);
        }
    }
}

/// Never 0.
fn hash(key: &[u8]) -> u64 {
    xxh3_64(key) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(delay: &Delay) -> u64 {
        delay.histogram.counts().buckets.iter().sum()
    }

    #[test]
    fn the_word_may_come_before_and_after_the_acknowledgement() {
        let delay = Delay::default();
        let expected = delay.expect(b"k").expect("nothing is measured");
        delay.heard(b"other");
        expected.acknowledged();
        assert_eq!(count(&delay), 0);
        delay.heard(b"k");
        assert_eq!(count(&delay), 1);
        let expected = delay.expect(b"k").expect("the first one is done");
        delay.heard(b"k");
        assert_eq!(count(&delay), 1);
        expected.acknowledged();
        assert_eq!(count(&delay), 2);
        delay.heard(b"k");
        assert_eq!(count(&delay), 2);
    }

    #[test]
    fn one_is_measured_at_a_time_and_a_failed_one_is_forgotten() {
        let delay = Delay::default();
        let first = delay.expect(b"a").expect("nothing is measured");
        assert!(delay.expect(b"b").is_none());
        drop(first);
        delay.heard(b"a");
        assert_eq!(count(&delay), 0);
        delay.expect(b"b").expect("free again").acknowledged();
        assert!(delay.expect(b"c").is_none(), "its word may still come");
        delay.heard(b"b");
        assert_eq!(count(&delay), 1);
    }
}
