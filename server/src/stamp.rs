//! Version stamps: 16 bytes that no two writes anywhere share.
//!
//! ```text
//! 0        8        16
//! | time   | writer |    both big-endian, so stamps of one writer sort by time
//! ```
//! `time` is a hybrid logical clock in units of 1/65536 ms, never going back within a process: the
//! wall clock where that moves, one more than the last where it does not (Kulkarni et al.,
//! "Logical Physical Clocks", 2014).
//! `writer` is drawn at random when the process starts. A per-key counter would not do: after a
//! failover that lost writes it would call different bytes equal.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    clock::{Clock, Timestamp},
    error::{Error, Kind, Result},
};

const FRACTION_BITS: u32 = 16;
/// How far clocks of different machines are taken to differ, in microseconds, before the shared
/// tier's clock was ever seen.
const UNKNOWN_ERROR: u64 = 500_000;
/// How fast clocks may drift apart: 100 millionths, more than any that is in order.
const DRIFT: u64 = 10_000;
/// Stamps of others that are ahead by more than this are not followed: 10 s, in microseconds.
const OBSERVE_MAX: u64 = 10_000_000;

/// The version of one write. Compare for equality; the order means something within one writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; Stamp::LEN]);

impl Stamp {
    /// Length in bytes.
    pub const LEN: usize = 16;

    fn new(time: u64, writer: u64) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&time.to_be_bytes());
        bytes[8..].copy_from_slice(&writer.to_be_bytes());
        Self(bytes)
    }

    /// The stamp made of these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The stamp a caller sent in `field`; `Invalid` unless it is 16 bytes.
    pub fn parse(field: &str, bytes: &[u8]) -> Result<Self> {
        bytes.try_into().map(Self).map_err(|_| {
            Error::invalid(format!("{field}: {} bytes, a version has 16", bytes.len()))
        })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Gives out stamps.
#[derive(Debug)]
pub struct Stamper {
    clock: Clock,
    writer: u64,
    last: AtomicU64,
    followed: Mutex<Followed>,
    /// Microseconds that the clock all daemons follow is ahead of this one's.
    ahead: AtomicI64,
}

/// How well the clock that all daemons follow is known.
#[derive(Debug, Clone, Copy)]
struct Followed {
    /// How far wrong it was when it was looked at, in microseconds.
    error: u64,
    /// When that was, by the own clock, in microseconds.
    at: u64,
}

impl Followed {
    fn error_at(self, now: u64) -> u64 {
        self.error + now.saturating_sub(self.at) / DRIFT
    }
}

impl Stamper {
    /// A source whose stamps carry `writer`, which must be unique among all running daemons.
    pub fn new(clock: Clock, writer: u64) -> Self {
        let at = clock.micros();
        Self {
            clock,
            writer,
            last: AtomicU64::new(0),
            followed: Mutex::new(Followed {
                error: UNKNOWN_ERROR,
                at,
            }),
            ahead: AtomicI64::new(0),
        }
    }

    /// A writer drawn from the system's randomness.
    pub fn random_writer() -> Result<u64> {
        let mut bytes = [0_u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
            |error| Error::new(Kind::Internal, "no randomness from the system").caused_by(error),
        )?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Follows a clock that is so many microseconds ahead, give or take: that of the shared tier,
    /// so that stamps of daemons on machines whose clocks differ can be compared. A sample that is
    /// less exact than what is known, its drift since counted in, is not taken.
    pub fn follow(&self, ahead: i64, give_or_take: Duration) {
        let error = u64::try_from(give_or_take.as_micros()).unwrap_or(u64::MAX);
        let at = self.clock.micros();
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = followed.error_at(at);
        // Further away than both errors allow: that clock was set, or it is another server's.
        let moved =
            ahead.abs_diff(self.ahead.load(Ordering::Relaxed)) > error.saturating_add(known);
        if error <= known || moved {
            *followed = Followed { error, at };
            self.ahead.store(ahead, Ordering::Relaxed);
        }
    }

    /// Learns of a stamp of somebody else: the next one will be greater.
    pub fn observe(&self, stamp: &Stamp) {
        let [time @ .., _, _, _, _, _, _, _, _] = stamp.0;
        let time = u64::from_be_bytes(time);
        // A stamp from far ahead is damage or a clock gone wrong, and would take all others along.
        if time < self.physical().saturating_add(ticks(OBSERVE_MAX)) {
            self.last.fetch_max(time, Ordering::AcqRel);
        }
    }

    /// A stamp that is greater than every one given out anywhere until now, as far as clocks can
    /// tell: what is less is older.
    pub fn bound(&self) -> Stamp {
        let now = self.physical().max(self.last.load(Ordering::Acquire));
        Stamp::new(now.saturating_add(ticks(self.margin())), u64::MAX)
    }

    /// The time now, by this daemon's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The latest that a stamp was given out anywhere, by this daemon's clock and as far as clocks
    /// can tell.
    pub fn latest(&self, stamp: &Stamp) -> Timestamp {
        let [time @ .., _, _, _, _, _, _, _, _] = stamp.0;
        let ahead = self.ahead.load(Ordering::Relaxed);
        let micros = micros(u64::from_be_bytes(time))
            .saturating_add(self.margin())
            .saturating_sub_signed(ahead);
        Timestamp::from_millis(micros.div_ceil(1000))
    }

    /// How far two clocks that follow the same may differ, each with its error, in microseconds.
    fn margin(&self) -> u64 {
        let followed = *self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.error_at(self.clock.micros()).saturating_mul(2)
    }

    fn physical(&self) -> u64 {
        let ahead = self.ahead.load(Ordering::Relaxed);
        ticks(self.clock.micros().saturating_add_signed(ahead))
    }

    /// The next stamp, greater than every one before it.
    pub fn next(&self) -> Stamp {
        let physical = self.physical();
        let last = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(physical.max(last.saturating_add(1)))
            })
            .unwrap_or(physical);
        Stamp::new(physical.max(last.saturating_add(1)), self.writer)
    }
}

/// Microseconds in units of 1/65536 ms.
fn ticks(micros: u64) -> u64 {
    ((micros / 1000) << FRACTION_BITS) + ((micros % 1000) << FRACTION_BITS) / 1000
}

/// The reverse of [`ticks`], rounded up.
fn micros(ticks: u64) -> u64 {
    let (millis, fraction) = (ticks >> FRACTION_BITS, ticks & ((1 << FRACTION_BITS) - 1));
    millis * 1000 + (fraction * 1000).div_ceil(1 << FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc, thread};

    use super::*;

    #[test]
    fn stamps_grow_even_when_the_clock_stands_still() {
        let stamper = Stamper::new(Clock::mock(Timestamp::from_millis(1)), 9);
        let stamps: Vec<_> = (0..100_000).map(|_| stamper.next()).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn no_two_threads_get_the_same_stamp() {
        let stamper = Arc::new(Stamper::new(Clock::system(), 9));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let stamper = Arc::clone(&stamper);
                thread::spawn(move || (0..10_000).map(|_| stamper.next()).collect::<Vec<_>>())
            })
            .collect();
        let all: Vec<_> = threads
            .into_iter()
            .flat_map(|t| t.join().expect("no panic"))
            .collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn a_bound_is_above_all_stamps_of_clocks_that_follow_the_same() {
        let at = |millis| Stamper::new(Clock::mock(Timestamp::from_millis(millis)), 9);
        assert!(at(10_000).bound() > at(10_400).next());
        let (behind, ahead) = (at(10_000), at(10_400));
        behind.follow(200_000, Duration::from_millis(1));
        ahead.follow(-200_000, Duration::from_millis(1));
        assert!(behind.bound() > ahead.next() && ahead.bound() > behind.next());
        // Much less exact: not taken.
        ahead.follow(100_000, Duration::from_millis(400));
        assert!(behind.bound() > ahead.next());
        // Beyond what the errors allow: that clock has been set.
        behind.follow(60_000_000, Duration::from_millis(400));
        assert!(behind.next() > at(60_000).next());
        behind.follow(200_000, Duration::from_millis(1));
        let seen = at(19_000).next();
        behind.observe(&seen);
        assert!(behind.next() > seen);
        // From a clock gone wrong.
        let wrong = at(99_000_000).next();
        behind.observe(&wrong);
        assert!(behind.next() < wrong);
    }

    #[test]
    fn a_stamp_was_given_out_before_its_latest_by_clocks_that_follow_the_same() {
        let at = |millis| Stamper::new(Clock::mock(Timestamp::from_millis(millis)), 9);
        let (behind, ahead) = (at(10_000), at(10_400));
        let unknown = behind.latest(&behind.next());
        assert_eq!(
            unknown,
            Timestamp::from_millis(11_000),
            "either may be 500 ms off"
        );
        behind.follow(200_000, Duration::from_millis(1));
        ahead.follow(-200_000, Duration::from_millis(1));
        assert_eq!(behind.latest(&ahead.next()), Timestamp::from_millis(10_002));
        assert_eq!(ahead.latest(&behind.next()), Timestamp::from_millis(10_402));
        let end = Stamp::from_bytes([0xff; Stamp::LEN]);
        assert!(
            ahead.latest(&end) > Timestamp::from_millis(1 << 47),
            "saturates"
        );
    }

    #[test]
    fn a_version_of_another_length_is_refused_by_name() {
        let error = Stamp::parse("options.if_version", &[1, 2]).expect_err("too short");
        assert_eq!(
            error.message(),
            "options.if_version: 2 bytes, a version has 16"
        );
    }
}
