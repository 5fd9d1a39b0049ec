//! Counters, as plain atomics on the way of every request.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many there are now.
#[derive(Debug, Default)]
pub struct Level(AtomicUsize);

impl Level {
    /// One more; returns how many there were before.
    pub fn one(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// One less.
    pub fn one_less(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One count that only grows while the process lives.
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
}

/// Counts of the front doors.
#[derive(Debug, Default)]
pub struct Door {
    /// Requests of the cache that are being answered.
    pub in_flight: Level,
    /// Requests refused because too many were.
    pub overloaded: Count,
    /// Connections for gRPC that are open.
    pub connections: Level,
    /// Connections for gRPC that were closed at once: there were too many.
    pub connections_refused: Count,
    /// Connections for HTTP that are open.
    pub http_connections: Level,
    /// Connections for HTTP that were closed at once: there were too many.
    pub http_connections_refused: Count,
}

/// Counts of leases.
#[derive(Debug, Default)]
pub struct LeaseCounts {
    /// Callers that ask for one or wait for a value now.
    pub waiting: Level,
    /// Leases given for missing entries.
    pub granted: Count,
    /// Leases given to compute an entry anew.
    pub refreshes: Count,
    /// Callers that began to wait for another's value.
    pub waited: Count,
    /// Callers whose time was over before the value came.
    pub timed_out: Count,
    /// Puts refused because their lease had ended.
    pub refused: Count,
    /// Callers that could take no part because too many did.
    pub crowded: Count,
}

/// What became of what was to be exported by OTLP.
#[derive(Debug, Clone, Default)]
pub struct Exported {
    /// Where traces go; `None` when they go nowhere.
    pub traces_to: Option<String>,
    /// Where metrics go; `None` when they go nowhere.
    pub metrics_to: Option<String>,
    /// Spans that the collector took.
    pub spans_sent: u64,
    /// Spans dropped because the queue was full.
    pub spans_dropped: u64,
    /// Spans that the collector did not take.
    pub spans_failed: u64,
    /// Exports of metrics that the collector took.
    pub metrics_sent: u64,
    /// Exports of metrics that the collector did not take.
    pub metrics_failed: u64,
    /// The last fault; `None` when the last export succeeded.
    pub trouble: Option<String>,
}

/// Counts of one namespace.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads answered with an entry of the local tier.
    pub hits_local: Count,
    /// Reads answered with an entry of the shared tier.
    pub hits_shared: Count,
    /// Reads answered with an entry marked stale, which are hits as well.
    pub stale: Count,
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

/// A reading of the counters, or the difference of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Reads answered with an entry of the local tier.
    pub hits_local: u64,
    /// Reads answered with an entry of the shared tier.
    pub hits_shared: u64,
    /// Reads answered with an entry marked stale, which are hits as well.
    pub stale: u64,
    /// Reads answered without an entry.
    pub misses: u64,
    /// Entries put.
    pub puts: u64,
    /// Live entries removed by invalidation.
    pub invalidations: u64,
    /// Requests, or items of a batch, that ended in an error.
    pub errors: u64,
    /// Writes refused by a condition or a write-once namespace.
    pub refusals: u64,
}

impl Counters {
    /// The counts now.
    pub fn read(&self) -> Reading {
        Reading {
            hits_local: self.hits_local.get(),
            hits_shared: self.hits_shared.get(),
            stale: self.stale.get(),
            misses: self.misses.get(),
            puts: self.puts.get(),
            invalidations: self.invalidations.get(),
            errors: self.errors.get(),
            refusals: self.refusals.get(),
        }
    }
}

impl Reading {
    /// Reads answered with an entry.
    pub fn hits(&self) -> u64 {
        self.hits_local + self.hits_shared
    }

    /// Share of the reads that were hits; `None` without any.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits() + self.misses;
        (reads > 0).then(|| self.hits() as f64 / reads as f64)
    }

    /// This without `earlier`, a reading of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    /// This and that.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            hits_local: both(self.hits_local, other.hits_local),
            hits_shared: both(self.hits_shared, other.hits_shared),
            stale: both(self.stale, other.stale),
            misses: both(self.misses, other.misses),
            puts: both(self.puts, other.puts),
            invalidations: both(self.invalidations, other.invalidations),
            errors: both(self.errors, other.errors),
            refusals: both(self.refusals, other.refusals),
        }
    }
}
