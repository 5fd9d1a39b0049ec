//! What was counted: by each thread for itself, added up at the end.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies are kept in nanoseconds with three significant digits; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(120);
const SIGNIFICANT_DIGITS: u8 = 3;

/// Whether a call reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What came of one call.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) kind: Kind,
    /// Keys that were read or written.
    pub(super) keys: u64,
    /// Keys read that had an entry.
    pub(super) hits: u64,
    /// Bytes of values, in either direction.
    pub(super) value_bytes: u64,
    /// Keys for which there was an error instead of an answer; a call that failed counts once.
    pub(super) errors: u64,
    /// What the first of them said.
    pub(super) error: Option<String>,
}

/// The sums of many calls.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Calls made in all, those of the warm-up included.
    pub(super) calls: u64,
    /// Keys, hits, bytes and errors of the calls that count.
    pub(super) keys: u64,
    pub(super) keys_read: u64,
    pub(super) hits: u64,
    pub(super) value_bytes: u64,
    pub(super) errors: u64,
    /// The first error, of the warm-up as well.
    pub(super) error: Option<String>,
    /// Open loop: calls that fell due and for which no slot was free before the end.
    pub(super) unstarted: u64,
    /// Latencies of the calls that count, failed ones included.
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), SIGNIFICANT_DIGITS)
            .expect("bounds are in order and five digits are allowed");
        Self {
            calls: 0,
            keys: 0,
            keys_read: 0,
            hits: 0,
            value_bytes: 0,
            errors: 0,
            error: None,
            unstarted: 0,
            reads: histogram.clone(),
            writes: histogram,
        }
    }

    /// Counts one call; one that does not `count` only as made.
    pub(super) fn record(&mut self, outcome: Outcome, latency: Duration, counts: bool) {
        self.calls += 1;
        if self.error.is_none() {
            self.error = outcome.error;
        }
        if !counts {
            return;
        }
        self.keys += outcome.keys;
        self.hits += outcome.hits;
        self.value_bytes += outcome.value_bytes;
        self.errors += outcome.errors;
        match outcome.kind {
            Kind::Read => {
                self.keys_read += outcome.keys;
                self.reads.saturating_record(nanoseconds(latency));
            }
            Kind::Write => self.writes.saturating_record(nanoseconds(latency)),
        }
    }

    /// Adds what another thread counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.keys += other.keys;
        self.keys_read += other.keys_read;
        self.hits += other.hits;
        self.value_bytes += other.value_bytes;
        self.errors += other.errors;
        self.error = self.error.take().or_else(|| other.error.clone());
        self.unstarted += other.unstarted;
        self.reads += &other.reads;
        self.writes += &other.writes;
    }

    /// Calls that count.
    pub(super) fn measured_calls(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// Latencies of reads and writes together.
    pub(super) fn latencies(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        all += &self.writes;
        all
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Kind, Outcome, Tally};

    fn hit(kind: Kind) -> Outcome {
        Outcome {
            kind,
            keys: 1,
            hits: 1,
            value_bytes: 10,
            errors: 0,
            error: None,
        }
    }

    #[test]
    fn the_warm_up_counts_as_made_only() {
        let mut tally = Tally::new();
        tally.record(hit(Kind::Read), Duration::from_micros(5), false);
        tally.record(hit(Kind::Read), Duration::from_micros(7), true);
        assert_eq!((tally.calls, tally.measured_calls(), tally.hits), (2, 1, 1));
        assert_eq!(tally.latencies().max() / 100, 70);
    }

    #[test]
    fn sums_of_threads_add_up() {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        one.record(hit(Kind::Read), Duration::from_micros(1), true);
        let failed = Outcome {
            hits: 0,
            errors: 1,
            error: Some("no".into()),
            ..hit(Kind::Write)
        };
        other.record(failed, Duration::from_micros(3), true);
        one.add(&other);
        assert_eq!(
            (one.calls, one.keys, one.keys_read, one.hits, one.errors),
            (2, 2, 1, 1, 1)
        );
        assert_eq!(one.error.as_deref(), Some("no"));
        assert_eq!((one.reads.len(), one.writes.len()), (1, 1));
    }
}
