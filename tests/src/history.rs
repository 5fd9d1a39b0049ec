//! What callers of several daemons on one Redis saw, and whether the promises of coherence allow
//! it.
//!
//! A [`History`] is recorded while a test runs: every operation with the instants at which its
//! caller began it and had its answer, by one monotonic clock, and every fault that was injected.
//! [`check`](History::check) looks at it afterwards. It raises no false alarm: it calls something
//! wrong only when no order of events that fits the recorded instants makes it right.
//!
//! # What is known about the order
//!
//! Redis takes one change of a key after the other. Every put writes a value that no other writes,
//! so a value that is gone does not return. Of a put, or a removal, it is known:
//!
//! - *begin*, *end*: its caller's instants. With an outcome APPLIED, Redis took it in between.
//! - *latest*: when at the latest it reached Redis, if it did. APPLIED: its end. Otherwise it may
//!   still have been on the wire (to a Redis that stood still, for example), but no longer than
//!   until its daemon was attached again: then its old connections are closed before anything else.
//!   That is the end of the daemon's first operation that began after this one had ended and says
//!   ATTACHED; for an operation that was never answered, of the first by a later process of that
//!   daemon; if there is none, never.
//! - *effective*: from when on Redis, and so every attached daemon, has it. APPLIED: its end.
//!   DEFERRED: as latest. FAILED or never answered: never, as far as a checker may claim.
//!
//! A put V is *certainly before* a change X when
//! - both were made by one daemon and V had ended when X began; or
//! - X was APPLIED, or made in Redis itself, and latest(V) <= begin(X); or
//! - X was DEFERRED and latest(V) + [`Bounds::stamps`] <= begin(X): when it is replayed, X removes
//!   what has an older stamp, and clocks of daemons agree only so far.
//!
//! The invalidation of a tag is a removal of every key whose puts have it. One that was not APPLIED
//! may undo puts that came after it as well, until it is carried out.
//!
//! A Get decides at its begin at the earliest; begun while its daemon stood still, when that ended
//! at the earliest.
//!
//! Two puts that overlap may come in either order. `FLUSHALL`, and a Redis that comes back without
//! its data, are removals of every key. A Redis that comes back with its data changes nothing.
//!
//! # The rules
//!
//! - **Old** (P6, P7, P8, P9, P10): a Get not marked stale that decides later than the lease after
//!   X was effective does not return a V that is certainly before X. If X removed, V was
//!   resurrected.
//! - **Own** (P5): a Get on the daemon that made X, begun after X ended, fresh or stale, does not
//!   return a V that is certainly before X. That X is DEFERRED is enough here.
//! - **Unread** (P5): a Get on the daemon that made the put V, begun after V ended, finds
//!   something, if V was APPLIED, its lifetime goes on, both say ATTACHED, every other change was
//!   certainly before V or begun after the Get, and nothing was wrong meanwhile but late
//!   invalidations.
//! - **Unbacked** (P9): a Get not marked stale does not return a value that cannot have reached
//!   Redis yet: its put began while nothing could pass from its daemon to Redis, and the Get ended
//!   before that changed.
//! - **Stale** (P9): a Get marked stale does not begin later than lease and `max_stale` after the
//!   begin of a time in which nothing could pass from Redis to its daemon, or, for what this daemon
//!   was given meanwhile, after that put.
//! - **Expired** (P2): nothing is returned by a Get that began after the end of its lifetime.
//! - **Invented** (P3): nothing is returned that was not put under that key before.
//! - **Failed** (P11): no operation fails, unless its daemon was killed while it ran.
//! - **Diverged** (P8, P10): when all faults are over and everybody has settled, a daemon answers
//!   what Redis has, unmarked, and nothing when Redis has nothing.
//! - **Harmed** (P10): then Redis has the last put if it was APPLIED, its lifetime goes on, and
//!   every other change had certainly come before it: ended before it began, and, if not APPLIED,
//!   by the margin of stamps, and could not be on the wire any more.
//!
//! - **Overtaken** (P13): who was told to compute and puts under its lease is refused when a change
//!   that was made after the lease was granted had ended before that put began, or the lease had:
//!   an APPLIED put by any APPLIED change, a DEFERRED one by any of the same daemon.
//! - **Twice** (P13): while a lease lasts that was granted ATTACHED, no other one is, ATTACHED,
//!   unless a change may have come in between.
//!
//! What was refused is no operation: if it is ever returned, it was never put.
//!
//! Not checked: that a Get finds what others put (a cache may forget), how long a stale answer has
//! been replaced when contact was lost several times, and what `FAILED` leaves behind.

use std::time::Duration;

mod check;
mod replacements;
mod report;

pub use check::{Rule, Summary, Violation};

/// Since the begin of the recording.
pub type Instant = Duration;

/// What became of a change in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is there.
    Applied,
    /// It will be.
    Deferred,
    /// It was refused, or left out.
    Failed,
    /// There was no answer.
    Unknown,
}

/// What was asked for, and what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A value was put, which no other operation puts.
    Put {
        /// Its number.
        value: u64,
        /// The end of its lifetime, at the latest.
        expires: Instant,
        /// What became of it.
        reach: Reach,
    },
    /// The key was invalidated, or deleted in Redis.
    Remove {
        /// What became of it.
        reach: Reach,
    },
    /// A tag was invalidated that every put of the key has.
    Untag {
        /// What became of it.
        reach: Reach,
    },
    /// The key was read; `None` is a miss.
    Get {
        /// What was found.
        found: Option<Found>,
    },
    /// The key was read and no answer came.
    Unanswered,
}

/// What a Get returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The number of the value; `None` when it was none that a put of this test writes.
    pub value: Option<u64>,
    /// Marked stale.
    pub stale: bool,
    /// From the local tier.
    pub local: bool,
}

/// One operation of one caller.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The key; `None`: all of them.
    pub key: Option<usize>,
    /// The daemon; `None`: Redis itself was asked.
    pub daemon: Option<usize>,
    /// Which process of that daemon, counted from its first.
    pub process: u32,
    /// Before it was sent.
    pub begin: Instant,
    /// After its answer.
    pub end: Instant,
    /// Whether the answer says that the daemon was attached to Redis.
    pub attached: bool,
    /// What it was.
    pub action: Action,
}

/// A lease that a Get was given.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The key.
    pub key: usize,
    /// The daemon.
    pub daemon: usize,
    /// Before the Get was sent.
    pub begin: Instant,
    /// After its answer.
    pub end: Instant,
    /// Whether the answer says that the daemon was attached to Redis.
    pub attached: bool,
    /// The end of the lease, as the answer says.
    pub expires: Instant,
    /// The value of the put under it, which is an operation; `None` when it was refused, or never
    /// made.
    pub used: Option<u64>,
}

/// What was done to a daemon or to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The process was killed, and started again.
    Down,
    /// Nothing passed between it and Redis, and what was sent is lost.
    Swallowed,
    /// The same of its commands; invalidations passed.
    DataSwallowed,
    /// The same of the invalidations; commands passed.
    TrackingSwallowed,
    /// Nothing passed, but what was sent may arrive when the fault is over.
    Stopped,
    /// The process of the daemon stood still: it read, decided and answered nothing.
    Frozen,
    /// The invalidations were late; everything else passed, at the worst after a moment.
    Late,
    /// Anything else, for the reader of a report.
    Other,
}

impl FaultKind {
    /// Whether no command reaches Redis while it holds.
    fn stops_commands(self) -> bool {
        matches!(self, Self::Swallowed | Self::DataSwallowed | Self::Stopped)
    }

    /// Whether a command that is sent while it holds never reaches Redis.
    fn loses_commands(self) -> bool {
        matches!(self, Self::Swallowed | Self::DataSwallowed)
    }

    /// Whether contact is lost while it holds.
    fn ends_contact(self) -> bool {
        matches!(
            self,
            Self::Swallowed | Self::TrackingSwallowed | Self::Stopped
        )
    }
}

/// A fault while it held.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The daemon; `None`: all of them.
    pub daemon: Option<usize>,
    /// What it did.
    pub kind: FaultKind,
    /// From when it certainly held; of [`FaultKind::Down`], from when it may have held.
    pub from: Instant,
    /// Until when it certainly held; of [`FaultKind::Down`], until when it may have held.
    pub to: Instant,
    /// For the reader of a report.
    pub name: String,
}

/// What was there when all faults were over and everybody had settled.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The key.
    pub key: usize,
    /// When it was looked at.
    pub at: Instant,
    /// The value in Redis.
    pub redis: Option<u64>,
    /// The answer of each daemon: the value, and whether it was marked stale.
    pub daemons: Vec<(Option<u64>, bool)>,
}

/// How far apart things may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The daemons' lease.
    pub lease: Duration,
    /// The namespace's `max_stale`.
    pub max_stale: Duration,
    /// What a busy machine adds to either, and what clocks in milliseconds round.
    pub slack: Duration,
    /// How far the stamps of two daemons may disagree about what was first.
    pub stamps: Duration,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    /// In any order.
    pub faults: Vec<Fault>,
    /// In any order.
    pub grants: Vec<Grant>,
    /// Once for each key, at the end.
    pub settled: Vec<Settled>,
}

impl Operation {
    /// Whether the caller had no answer.
    fn is_unanswered(&self) -> bool {
        match self.action {
            Action::Put { reach, .. } | Action::Remove { reach } | Action::Untag { reach } => {
                reach == Reach::Unknown
            }
            Action::Get { .. } => false,
            Action::Unanswered => true,
        }
    }

    /// What became of a change; `None` for what changes nothing.
    fn reach(&self) -> Option<Reach> {
        match self.action {
            Action::Put { reach, .. } | Action::Remove { reach } | Action::Untag { reach } => {
                Some(reach)
            }
            Action::Get { .. } | Action::Unanswered => None,
        }
    }
}

#[cfg(test)]
mod tests;
