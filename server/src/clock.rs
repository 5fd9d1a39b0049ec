//! Time, as the whole daemon sees it.
//!
//! Wall-clock milliseconds that never step within one process: the wall clock is read once at the
//! start and carried on by `CLOCK_BOOTTIME`, which counts suspend and ignores whoever sets the
//! clock. So a lifetime lasts as long as it was asked to last. A clock that was wrong at the start
//! stays wrong by the same amount until a restart.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// An instant: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The instant `millis` after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// The instant `span` later, at most the end of time.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Time from `earlier` to this instant; zero when it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A source of the time, the machine's or a test's.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    /// Wall clock at process start minus boot time at process start, in microseconds.
    System {
        offset: u64,
    },
    Mock(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    pub fn system() -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        Self(Source::System {
            offset: wall.saturating_sub(boot_micros()),
        })
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it. Clones move together.
    pub fn mock(start: Timestamp) -> Self {
        Self(Source::Mock(Arc::new(AtomicU64::new(start.0))))
    }

    /// Moves a mock clock; the machine's clock does not move.
    pub fn advance(&self, span: Duration) {
        if let Source::Mock(now) = &self.0 {
            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            now.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.micros() / 1000)
    }

    /// Microseconds since the Unix epoch, for whoever compares clocks.
    pub fn micros(&self) -> u64 {
        match &self.0 {
            Source::System { offset } => offset.saturating_add(boot_micros()),
            Source::Mock(now) => now.load(Ordering::SeqCst).saturating_mul(1000),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now().0)
    }
}

fn boot_micros() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_agrees_with_the_wall_and_never_steps_back() {
        let clock = Clock::system();
        #[expect(clippy::disallowed_methods, reason = "compared against")]
        let wall = std::time::SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let wall = Timestamp(u64::try_from(wall.as_millis()).expect("fits"));
        assert!(clock.now().since(wall) < Duration::from_secs(1));
        assert!(wall.since(clock.now()) < Duration::from_secs(1));
        let first = clock.now();
        assert!(clock.now() >= first);
    }

    #[test]
    fn clones_of_a_mock_clock_move_together() {
        let clock = Clock::mock(Timestamp(5));
        let other = clock.clone();
        clock.advance(Duration::from_millis(7));
        assert_eq!(other.now(), Timestamp(12));
    }
}
