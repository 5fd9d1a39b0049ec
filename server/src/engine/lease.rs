//! Leases: of all who miss an entry together one is told to compute it, the others wait (P13).
//!
//! The lease is a record in the place of the entry that nobody has yet: no value, a stamp of its
//! own and an end (ADR 0013). It lies where the entry will lie, so whatever happens to the entry
//! happens to the lease: a put replaces it, an invalidation removes it, its lifetime ends it.
//!
//! ```text
//!   attached     in Redis, for all daemons          token: its stamp
//!   otherwise    in the local tier, for this one    token: its stamp, and which outage it is for
//! ```
//! A put with a token is a put under the condition that the lease with this stamp is still there.
//!
//! Waiting: an alarm is armed, then the entry is looked at, then the lease is asked for, then the
//! alarm is waited for. So each change costs a daemon one look and one question, however many wait
//! (`flight`), and no change is missed. Who waits is woken by the lease's end as well, and asks
//! again; Redis gives the next lease to one of all daemons.
//!
//! What it does not do: it knows nothing of values, and gives nothing to who waits but the result
//! of an ordinary read.

mod election;
mod give_back;
mod put;
mod refresh;
mod token;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(in crate::engine) use self::put::{check_tags_of_lease, check_token, lease_has_ended};
use self::{election::Told, refresh::Refreshes};
pub use self::{
    give_back::{GiveBack, give_back},
    token::Token,
};
use super::flight::Flights;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    stats::LeaseCounts,
};

/// Longest time that a caller may wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Shortest and longest time that a holder may be given.
const DURATION_MIN: Duration = Duration::from_millis(100);
const DURATION_MAX: Duration = Duration::from_secs(600);
/// What a holder is given who does not say.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// How a caller wants to take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRequest {
    /// How long to wait for another caller's value.
    pub(super) wait: Duration,
    /// How long the holder may take.
    pub(super) duration: Duration,
    /// About how long the computation takes: to be asked for before the entry ends.
    pub(super) early_refresh: Option<Duration>,
}

impl LeaseRequest {
    /// Checks the limits; `field` is what the caller sent.
    pub fn new(field: &str, wait: Option<Duration>, duration: Option<Duration>) -> Result<Self> {
        let wait = wait.unwrap_or_default();
        if wait > WAIT_MAX {
            return Err(Error::invalid(format!(
                "{field}.wait_duration: {wait:?}, the limit is {WAIT_MAX:?}"
            )));
        }
        let duration = duration.unwrap_or(DURATION_DEFAULT);
        if !(DURATION_MIN..=DURATION_MAX).contains(&duration) {
            return Err(Error::invalid(format!(
                "{field}.lease_duration: {duration:?}, must be {DURATION_MIN:?} to {DURATION_MAX:?}"
            )));
        }
        Ok(Self {
            wait,
            duration,
            early_refresh: None,
        })
    }

    /// The same, to be told early as well; `field` is what the caller sent.
    pub fn early(self, field: &str, takes: Option<Duration>) -> Result<Self> {
        if let Some(takes) = takes
            && takes > DURATION_MAX
        {
            return Err(Error::invalid(format!(
                "{field}.early_refresh: {takes:?}, the limit is {DURATION_MAX:?}"
            )));
        }
        Ok(Self {
            early_refresh: takes,
            ..self
        })
    }
}

/// The right, and the duty, to compute a missing value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// What a put has to show.
    pub token: Token,
    /// When it ends.
    pub expires: Timestamp,
}

/// All callers that take part at present.
#[derive(Debug)]
pub(super) struct Leases {
    /// Most of them.
    max: usize,
    counts: LeaseCounts,
    /// Questions to Redis, one for each entry at a time.
    elections: Flights<Told>,
    refreshes: Refreshes,
    /// The daemon is stopping: nobody waits any more.
    stopping: CancellationToken,
}

/// One caller that takes part; ends when dropped.
struct Taking<'a>(&'a LeaseCounts);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.waiting.one_less();
    }
}

impl Leases {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            counts: LeaseCounts::default(),
            elections: Flights::default(),
            refreshes: Refreshes::default(),
            stopping: CancellationToken::new(),
        }
    }

    pub(super) fn counts(&self) -> &LeaseCounts {
        &self.counts
    }

    /// Lets all who wait go, now and from now on.
    pub(super) fn end_waits(&self) {
        self.stopping.cancel();
    }

    /// `None` when too many take part already.
    fn take_part(&self) -> Option<Taking<'_>> {
        let taking = Taking(&self.counts);
        if self.counts.waiting.one() < self.max {
            return Some(taking);
        }
        self.counts.crowded.one();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_limited_and_have_defaults() {
        let new = |wait, duration| {
            let millis = |it: Option<u64>| it.map(Duration::from_millis);
            LeaseRequest::new("options.lease", millis(wait), millis(duration))
        };
        let default = new(None, None).expect("valid");
        assert_eq!(
            (default.wait, default.duration),
            (Duration::ZERO, DURATION_DEFAULT)
        );
        for (wait, duration) in [(0, 100), (60_000, 600_000)] {
            assert!(new(Some(wait), Some(duration)).is_ok());
        }
        let message =
            |request: Result<LeaseRequest>| request.expect_err("refused").message().to_owned();
        assert_eq!(
            message(new(Some(60_001), None)),
            "options.lease.wait_duration: 60.001s, the limit is 60s"
        );
        for duration in [99, 600_001, 0] {
            let message = message(new(None, Some(duration)));
            assert!(
                message.starts_with("options.lease.lease_duration: "),
                "{message}"
            );
            assert!(message.ends_with("must be 100ms to 600s"), "{message}");
        }
    }

    #[test]
    fn who_takes_part_is_counted_and_limited() {
        let leases = Leases::new(2);
        let first = leases.take_part().expect("one");
        let _second = leases.take_part().expect("two");
        assert!(leases.take_part().is_none());
        assert_eq!(
            (leases.counts.waiting.get(), leases.counts.crowded.get()),
            (2, 1)
        );
        drop(first);
        assert!(leases.take_part().is_some());
    }
}
