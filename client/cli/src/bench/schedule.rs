//! When calls may start and which of them count.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// When a run ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// No call starts at or after this instant.
    At(Instant),
    /// So many calls are left, the warm-up not counted.
    After(AtomicU64),
}

impl Stop {
    pub(super) fn after(operations: u64) -> Self {
        Self::After(AtomicU64::new(operations))
    }
}

/// The course of one run: a warm-up, then calls that count. Shared by all threads.
///
/// A call counts when it starts, in the open loop when it should have started, within the measured
/// time. All calls are waited for, so that none is left out because it was slow.
#[derive(Debug)]
pub(super) struct Schedule {
    begun: Instant,
    measure_from: Instant,
    stop: Stop,
}

impl Schedule {
    pub(super) fn new(measure_from: Instant, stop: Stop) -> Self {
        Self {
            begun: Instant::now(),
            measure_from,
            stop,
        }
    }

    /// When the warm-up began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// When the run ends, if that is known beforehand.
    pub(super) fn ends(&self) -> Option<Instant> {
        match self.stop {
            Stop::At(end) => Some(end),
            Stop::After(_) => None,
        }
    }

    /// Whether a call that starts at `start` counts.
    pub(super) fn counts(&self, start: Instant) -> bool {
        start >= self.measure_from
    }

    /// Whether a call may start at `start`; takes one of those that are left.
    pub(super) fn admits(&self, start: Instant) -> bool {
        match &self.stop {
            Stop::At(end) => start < *end,
            Stop::After(_) if !self.counts(start) => true,
            Stop::After(left) => left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok(),
        }
    }

    /// The time to which the counted calls belong; to be asked once the run is over.
    pub(super) fn measured_time(&self) -> Duration {
        let end = self.ends().unwrap_or_else(Instant::now);
        end.saturating_duration_since(self.measure_from)
    }
}

/// The indices of the key set, each handed out once.
#[derive(Debug)]
pub(super) struct PreloadQueue {
    next: AtomicUsize,
    key_count: usize,
}

impl PreloadQueue {
    pub(super) fn new(key_count: usize) -> Self {
        Self {
            next: AtomicUsize::new(0),
            key_count,
        }
    }

    /// The next index, or none when the whole set has been handed out.
    pub(super) fn take(&self) -> Option<usize> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.key_count).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{PreloadQueue, Schedule, Stop};

    #[test]
    fn the_warm_up_takes_nothing_from_the_number_of_calls() {
        let now = Instant::now();
        let from = now + Duration::from_secs(1);
        let schedule = Schedule::new(from, Stop::after(2));
        let admitted = [now, now, now, from, from, from].map(|start| schedule.admits(start));
        assert_eq!(admitted, [true, true, true, true, true, false]);
        assert!(!schedule.counts(now));
        assert!(schedule.counts(from));
    }

    #[test]
    fn no_call_starts_at_the_end() {
        let from = Instant::now();
        let end = from + Duration::from_secs(1);
        let schedule = Schedule::new(from, Stop::At(end));
        assert!(schedule.admits(from));
        assert!(!schedule.admits(end));
        assert_eq!(schedule.measured_time(), Duration::from_secs(1));
    }

    #[test]
    fn every_key_is_preloaded_once() {
        let queue = PreloadQueue::new(2);
        assert_eq!(
            [queue.take(), queue.take(), queue.take()],
            [Some(0), Some(1), None]
        );
    }
}
