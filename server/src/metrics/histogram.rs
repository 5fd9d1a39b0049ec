//! A histogram of durations that many threads add to at once.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::clock::Timestamp;

/// Upper bounds of the buckets, in seconds, each inclusive; one more bucket takes the rest. From a
/// lookup in memory to a request that somebody gave up on.
pub const BOUNDS: [f64; BUCKETS - 1] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
];
/// Number of buckets.
pub const BUCKETS: usize = 23;
/// The same bounds in nanoseconds.
const BOUNDS_NANOS: [u64; BUCKETS - 1] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Copies of the counts. Each thread adds to its own, so that workers do not wait for one another.
const SHARDS: usize = 8;

/// How many durations fell into each bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many in each bucket, not summed up.
    pub buckets: [u64; BUCKETS],
    /// All of them together, in nanoseconds.
    pub sum_nanos: u64,
}

/// A duration whose request was traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span in it.
    pub span_id: [u8; 8],
    /// How long it took.
    pub took: Duration,
    /// When.
    pub at: Timestamp,
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    shards: [Shard; SHARDS],
    /// Written by traced requests only.
    exemplars: Mutex<Vec<(usize, Exemplar)>>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Adds one.
    pub fn observe(&self, took: Duration) {
        self.observe_many(took, 1);
    }

    /// Adds `count` that took `together` in all: each counts as the average.
    pub fn observe_many(&self, together: Duration, count: u32) {
        if count == 0 {
            return;
        }
        let nanos = u64::try_from(together.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.shards[own_shard()];
        let count = u64::from(count);
        shard.buckets[bucket(nanos / count)].fetch_add(count, Ordering::Relaxed);
        shard.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Remembers a traced one, which was added as well.
    pub fn exemplify(&self, exemplar: Exemplar) {
        let nanos = u64::try_from(exemplar.took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        let mut all = self.lock();
        match all.iter_mut().find(|(index, _)| *index == bucket) {
            Some((_, kept)) => *kept = exemplar,
            None => all.push((bucket, exemplar)),
        }
    }

    /// How many so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            for (sum, bucket) in counts.buckets.iter_mut().zip(&shard.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            let nanos = shard.sum_nanos.load(Ordering::Relaxed);
            counts.sum_nanos = counts.sum_nanos.saturating_add(nanos);
        }
        counts
    }

    /// The last traced one of each bucket.
    pub fn exemplars(&self) -> Vec<(usize, Exemplar)> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Exemplar)>> {
        self.exemplars
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn bucket(nanos: u64) -> usize {
    BOUNDS_NANOS.partition_point(|bound| *bound < nanos)
}

/// Threads are numbered when they observe first: the workers, of which there are few, get shards
/// of their own.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        own.get()
    })
}

impl Counts {
    /// How many in all buckets.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// These without those of `earlier`, a reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            buckets: std::array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at])),
            sum_nanos: self.sum_nanos.saturating_sub(earlier.sum_nanos),
        }
    }

    /// These and those.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            buckets: std::array::from_fn(|at| self.buckets[at] + other.buckets[at]),
            sum_nanos: self.sum_nanos.saturating_add(other.sum_nanos),
        }
    }

    /// The duration that this share of them did not exceed (0.99: p99), as far as buckets tell:
    /// they are taken to lie evenly in theirs. `None` without any; what lies beyond the last bound
    /// counts as the last bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0_u64;
        for (index, here) in self.buckets.iter().copied().enumerate() {
            if here > 0 && (below + here) as f64 >= rank {
                let Some(upper) = BOUNDS.get(index).copied() else {
                    break;
                };
                let lower = index.checked_sub(1).map_or(0.0, |at| BOUNDS[at]);
                let part = ((rank - below as f64) / here as f64).clamp(0.0, 1.0);
                return Some(Duration::from_secs_f64(lower + (upper - lower) * part));
            }
            below += here;
        }
        BOUNDS.last().copied().map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_in_seconds_and_in_nanoseconds_are_the_same() {
        for (seconds, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!(
                Duration::from_secs_f64(*seconds),
                Duration::from_nanos(nanos)
            );
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000, 1_001, 10_000_000_000, 10_000_000_001] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let counts = histogram.counts();
        let mut expected = [0; BUCKETS];
        (expected[0], expected[1]) = (2, 1);
        (expected[BUCKETS - 2], expected[BUCKETS - 1]) = (1, 1);
        assert_eq!(counts.buckets, expected);
        assert_eq!(counts.sum_nanos, 20_000_002_002);
    }

    #[test]
    fn what_many_threads_observe_is_all_counted() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..SHARDS + 3 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        histogram.observe(Duration::from_micros(30));
                    }
                });
            }
        });
        let counts = histogram.counts();
        assert_eq!(counts.count(), 11_000);
        assert_eq!(counts.sum(), Duration::from_millis(330));
    }

    #[test]
    fn many_at_once_count_as_their_average() {
        let histogram = Histogram::default();
        histogram.observe_many(Duration::from_micros(64), 32);
        histogram.observe_many(Duration::ZERO, 0);
        let counts = histogram.counts();
        assert_eq!((counts.buckets[1], counts.count()), (32, 32));
        assert_eq!(counts.sum(), Duration::from_micros(64));
    }

    #[test]
    fn quantiles_lie_where_the_ranks_do() {
        let mut counts = Counts::default();
        assert_eq!(counts.quantile(0.5), None);
        // 90 between 5 and 10 us, 10 between 1 and 2.5 ms.
        (counts.buckets[3], counts.buckets[10]) = (90, 10);
        let micros = |share| counts.quantile(share).map(|it| it.as_micros());
        assert_eq!(micros(0.45), Some(7));
        assert_eq!(micros(0.9), Some(10));
        assert_eq!(micros(0.95), Some(1750));
        assert_eq!(micros(1.0), Some(2500));
        counts.buckets[BUCKETS - 1] = 1000;
        assert_eq!(counts.quantile(0.99), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_difference_of_two_readings_is_what_came_between() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        let earlier = histogram.counts();
        histogram.observe(Duration::from_millis(3));
        let between = histogram.counts().since(&earlier);
        assert_eq!(
            (between.count(), between.sum()),
            (1, Duration::from_millis(3))
        );
        assert_eq!(between.and(&earlier), histogram.counts());
    }

    #[test]
    fn the_last_exemplar_of_a_bucket_stays() {
        let histogram = Histogram::default();
        let exemplar = |micros, id| Exemplar {
            trace_id: [id; 16],
            span_id: [id; 8],
            took: Duration::from_micros(micros),
            at: Timestamp::from_millis(1),
        };
        for (micros, id) in [(30, 1), (2000, 2), (40, 3)] {
            histogram.exemplify(exemplar(micros, id));
        }
        let kept: Vec<_> = histogram
            .exemplars()
            .into_iter()
            .map(|(bucket, it)| (bucket, it.span_id[0]))
            .collect();
        assert_eq!(kept, [(5, 3), (10, 2)]);
    }
}
