//! Counters, as plain atomics on the way of every request.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count that only grows, until it is reset.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Counts of one namespace.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads answered with an entry.
    pub hits: Count,
    /// Reads answered without one.
    pub misses: Count,
    /// Entries put.
    pub puts: Count,
    /// Live entries removed by invalidation.
    pub invalidations: Count,
    /// Requests, or items of a batch, that ended in an error.
    pub errors: Count,
    /// Writes refused by a condition or a write-once namespace.
    pub refusals: Count,
}

impl Counters {
    /// Sets all to zero.
    pub fn reset(&self) {
        let Self {
            hits,
            misses,
            puts,
            invalidations,
            errors,
            refusals,
        } = self;
        for count in [hits, misses, puts, invalidations, errors, refusals] {
            count.reset();
        }
    }
}
