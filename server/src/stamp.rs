//! Version stamps: 16 bytes that no two writes anywhere share.
//!
//! ```text
//! 0        8        16
//! | time   | writer |    both big-endian, so stamps of one writer sort by time
//! ```
//! `time` is a hybrid logical clock: 48 bits of wall-clock milliseconds, then a counter of 16
//! bits, never going back within a process (Kulkarni et al., "Logical Physical Clocks", 2014).
//! `writer` is drawn at random when the process starts. A per-key counter would not do: after a
//! failover that lost writes it would call different bytes equal.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    clock::Clock,
    error::{Error, Kind, Result},
};

const COUNTER_BITS: u32 = 16;

/// The version of one write. Compare for equality; the order means something within one writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; Stamp::LEN]);

impl Stamp {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// The stamp made of these bytes.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
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
}

impl Stamper {
    /// A source whose stamps carry `writer`, which must be unique among all running daemons.
    pub fn new(clock: Clock, writer: u64) -> Self {
        Self {
            clock,
            writer,
            last: AtomicU64::new(0),
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

    /// The next stamp, greater than every one before it.
    pub fn next(&self) -> Stamp {
        let physical = self.clock.now().as_millis() << COUNTER_BITS;
        let last = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(physical.max(last.saturating_add(1)))
            })
            .unwrap_or(physical);
        let time = physical.max(last.saturating_add(1));
        let mut bytes = [0; Stamp::LEN];
        bytes[..8].copy_from_slice(&time.to_be_bytes());
        bytes[8..].copy_from_slice(&self.writer.to_be_bytes());
        Stamp(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc, thread};

    use super::*;
    use crate::clock::Timestamp;

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
    fn a_version_of_another_length_is_refused_by_name() {
        let error = Stamp::parse("options.if_version", &[1, 2]).expect_err("too short");
        assert_eq!(
            error.message(),
            "options.if_version: 2 bytes, a version has 16"
        );
    }
}
