//! Coherence: whether a local copy still counts, decided when it is read (P5-P9).
//!
//! ```text
//!              every push ── fences ──┐
//!   Redis ──┐                         ├── `is_fresh(mark)`  ── engine
//!           └─ beats ──── lease ──────┘
//! ```
//! A daemon is **attached** while it hears of every change in Redis: every tracking connection has
//! answered a beat that was sent within the last lease. Everything else is **detached**.
//!
//! ```text
//!              resolve, connect, replay         gate held, epoch + 1
//!   DETACHED ────────────────────────▶ joining ────────────────────▶ ATTACHED
//!      ▲                                 │                              │
//!      └────────── anything wrong ───────┴──── epoch + 1, lease over ───┘
//! ```
//!
//! Invariants:
//! - (C1) A copy counts as fresh only while its epoch is the present one, its fence has not moved
//!   since it was taken, and the lease lasts. All three are looked at when it is served.
//! - (C2) Any doubt (a lost connection, a missed beat, a flush, another topology, a failed write)
//!   is a new epoch. Nothing is removed: copies of older epochs are verified when they are read.
//! - (C3) What is deferred to the journal is deferred while detached, and the gate makes sure that
//!   a daemon never attaches between the look at its state and the journal's entry.
//! - (C4) A link is used for one attachment. Nothing is sent on it after it failed.
//!
//! The epoch is drawn at random when the process starts and counts on from there, so a copy from
//! an earlier process never carries the present one, and nothing has to be made durable for that.

mod delay;
mod epochs;
mod fences;
mod link;
mod staleness;
mod standing;
mod supervisor;
mod topology;
mod tracking;
mod verified;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, RwLock as Gate, RwLockReadGuard, watch};

use self::{
    delay::Delay, epochs::Epochs, fences::Fences, standing::Counts, verified::VerifiedCopies,
};
pub use self::{
    delay::Expected,
    link::Link,
    standing::{CoherenceStats, Standing},
    supervisor::{Replay, Supervisor, supervise},
    verified::Verified,
};
use crate::{
    changes::Changes,
    clock::{Clock, Timestamp},
    key::EntryName,
    stamp::Stamp,
    tier::Mark,
};

/// Stripes of the fences: 8 MiB, of which only what is touched becomes resident.
const STRIPES_LOG2: u32 = 20;
/// Stripes for invalidations by wish, which immutable namespaces look at.
const WISH_STRIPES_LOG2: u32 = 12;

/// What the daemon knows of its standing.
pub struct Coherence {
    clock: Clock,
    /// Told of what Redis pushes, and of gaps.
    watched: Changes,
    first_epoch: u64,
    fences: Fences,
    /// Moved by invalidations that somebody wished for, not by Redis.
    wishes: Fences,
    /// When the lease ends, in milliseconds; zero while detached.
    lease_until: AtomicU64,
    link: RwLock<Option<Arc<Link>>>,
    state: Mutex<State>,
    changes: watch::Sender<Standing>,
    /// When the last beat was sent that all tracking connections have answered.
    contact: watch::Sender<Timestamp>,
    /// Held shared from the look at the standing to the journal's entry, alone while attaching.
    gate: Gate<()>,
    verified: VerifiedCopies,
    /// Asks the tracking connections for a beat now.
    nudge: Notify,
    counts: Counts,
    delay: Delay,
}

struct State {
    standing: Standing,
    epochs: Epochs,
    /// The last epoch that was attached, and the contact at its end if it has ended.
    last: Option<(u64, Option<Timestamp>)>,
}

impl fmt::Debug for Coherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coherence({:?})", self.standing())
    }
}

impl Coherence {
    /// Detached, with `first_epoch` for its first epoch: a random number but zero. `previous` is
    /// the last attached epoch of the process before and when it had contact last.
    /// `verified_bytes` bounds the memory of verifications. `watched` is told of gaps.
    pub fn new(
        clock: Clock,
        watched: Changes,
        first_epoch: u64,
        previous: Option<(u64, Timestamp)>,
        verified_bytes: u64,
    ) -> Self {
        let standing = Standing::Detached {
            since: clock.now(),
            reason: "not connected yet".to_owned(),
        };
        let fences = Fences::new(first_epoch, STRIPES_LOG2);
        let first_epoch = fences.mark().epoch;
        Self {
            first_epoch,
            fences,
            wishes: Fences::new(first_epoch, WISH_STRIPES_LOG2),
            lease_until: AtomicU64::new(0),
            link: RwLock::default(),
            changes: watch::Sender::new(standing.clone()),
            contact: watch::Sender::new(Timestamp::from_millis(0)),
            state: Mutex::new(State {
                standing,
                epochs: Epochs::new(previous),
                last: None,
            }),
            gate: Gate::default(),
            verified: VerifiedCopies::new(verified_bytes),
            nudge: Notify::new(),
            counts: Counts::default(),
            delay: Delay::default(),
            watched,
            clock,
        }
    }

    /// How the daemon stands, as far as anybody has noticed.
    pub fn standing(&self) -> Standing {
        self.changes.borrow().clone()
    }

    /// Tells of every change of the standing.
    pub fn follow(&self) -> watch::Receiver<Standing> {
        self.changes.subscribe()
    }

    /// Whether every change up to a lease ago has been heard of.
    pub fn is_attached(&self) -> bool {
        self.clock.now().as_millis() < self.lease_until.load(Ordering::Acquire)
    }

    /// The link to Redis while attached. A caller that finds trouble says so with
    /// [`Coherence::lost`].
    pub fn link(&self) -> Option<Arc<Link>> {
        if !self.is_attached() {
            return None;
        }
        self.link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How the fences stand. To be taken before Redis is asked.
    pub fn mark(&self) -> Mark {
        self.fences.mark()
    }

    /// The same for what an immutable namespace keeps.
    pub fn immutable_mark(&self) -> Mark {
        self.wishes.mark()
    }

    /// The number of the last change of a key. To be taken when a read begins.
    pub fn last_change(&self, key: &[u8]) -> u64 {
        self.fences.last_change(key)
    }

    /// Whether nothing has been heard of this key since `mark` was taken, and no gap came between.
    pub fn holds(&self, mark: Mark, key: &[u8]) -> bool {
        self.fences.holds(mark, key)
    }

    /// Whether a copy can be served as what Redis has (C1).
    pub fn is_fresh(&self, mark: Mark, key: &[u8]) -> bool {
        self.is_attached() && self.fences.holds(mark, key)
    }

    /// Whether a copy of an immutable namespace can be served: nobody has wished it away.
    pub fn is_unwished(&self, mark: Mark, key: &[u8]) -> bool {
        let present = self.wishes.mark().epoch;
        let of_this_process = (self.first_epoch..=present).contains(&mark.epoch);
        match of_this_process {
            true => self.wishes.holds(mark, key),
            // From an earlier process: all wishes heard are later than it.
            false => present == self.first_epoch && self.wishes.last_change(key) == 0,
        }
    }

    /// To be called when this daemon has changed a key, or may have: at the acknowledgement, at an
    /// error, at a time-out. Returns the number of the change.
    pub fn changed(&self, key: &[u8]) -> u64 {
        self.fences.changed(key)
    }

    /// To be called when somebody wished a key away.
    pub fn wished_away(&self, key: &[u8]) {
        self.fences.changed(key);
        self.wishes.changed(key);
    }

    /// To be called when somebody wished more of an immutable namespace away than can be named.
    pub fn wished_all_away(&self) {
        self.wishes.changed_all();
    }

    /// What is remembered of the verification of a copy with this stamp.
    pub fn verified(&self, name: &EntryName, stamp: &Stamp, key: &[u8]) -> Option<Verified> {
        let verified = self.verified.of(name)?;
        (verified.stamp == *stamp && self.is_fresh(verified.mark, key)).then_some(verified)
    }

    /// How the fences stood when a copy with this stamp was verified last, however long ago.
    pub fn last_verified(&self, name: &EntryName, stamp: &Stamp) -> Option<Mark> {
        let verified = self.verified.of(name)?;
        (verified.stamp == *stamp).then_some(verified.mark)
    }

    /// Remembers that a copy was found to be what Redis has.
    pub fn verify(&self, name: &EntryName, verified: Verified) {
        self.counts.verified.fetch_add(1, Ordering::Relaxed);
        self.verified.remember(name, verified);
    }

    /// Counts a copy that was found to be something else.
    pub fn refute(&self) {
        self.counts.refuted.fetch_add(1, Ordering::Relaxed);
    }

    /// To be held while the standing is looked at and the journal written (C3).
    pub async fn hold_gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Whether the daemon is detached, and stays so while the gate is held. An attachment whose
    /// lease is over ends here: a late beat must not prolong it after something was deferred.
    pub fn is_detached_for_sure(&self, _gate: &RwLockReadGuard<'_, ()>) -> bool {
        if self.is_attached() {
            return false;
        }
        let link = self
            .link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(link) = link {
            self.lost(&link, "no answer within the lease");
        }
        true
    }

    /// Waits until everything that Redis has acknowledged before has been heard of. False when the
    /// daemon detached meanwhile.
    pub async fn settle(&self) -> bool {
        let now = self.clock.now();
        let mut contact = self.contact.subscribe();
        loop {
            if *contact.borrow_and_update() > now {
                return true;
            }
            if !self.is_attached() {
                return false;
            }
            self.nudge.notify_waiters();
            let changed = tokio::time::timeout(Duration::from_millis(20), contact.changed());
            // Late or not: looked at again above.
            let _ = changed.await;
        }
    }

    /// Ends the attachment of a link, if it is still the present one.
    pub fn lost(&self, link: &Link, reason: &str) {
        let present = self
            .link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|present| present.is(link));
        if present {
            self.detach(reason);
        }
        link.fail(reason);
    }

    /// Figures so far.
    pub fn stats(&self) -> CoherenceStats {
        self.counts.stats()
    }

    /// The last epoch in which the daemon was attached, and when there was contact last in it;
    /// `None` when it never was.
    pub fn last_contact(&self) -> Option<(u64, Timestamp)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, ended) = state.last?;
        Some((epoch, ended.unwrap_or_else(|| *self.contact.borrow())))
    }

    fn attach(&self, link: Arc<Link>, lease_until: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.clock.now();
        state.last = Some((self.fences.changed_all(), None));
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link);
        self.lease_until
            .store(lease_until.as_millis(), Ordering::Release);
        state.standing = Standing::Attached { since };
        self.counts.changed(&state.standing);
        self.changes.send_replace(state.standing.clone());
        self.watched.gap();
    }

    /// Ends the present attachment, if there is one; the reason of an earlier end is replaced.
    fn detach(&self, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reason.to_owned();
        match state.standing {
            Standing::Attached { .. } => {
                self.lease_until.store(0, Ordering::Release);
                let link = {
                    let mut link = self.link.write().unwrap_or_else(PoisonError::into_inner);
                    link.take()
                };
                if let Some(link) = link {
                    link.fail(&reason);
                }
                self.end_epoch(&mut state);
                if let Some((_, ended)) = &mut state.last {
                    *ended = Some(*self.contact.borrow());
                }
                let since = self.clock.now();
                state.standing = Standing::Detached { since, reason };
                self.counts.changed(&state.standing);
            }
            Standing::Detached { since, .. } => {
                state.standing = Standing::Detached { since, reason };
            }
        }
        self.changes.send_replace(state.standing.clone());
    }

    /// Everything may have changed, though contact was never lost: a new epoch.
    pub fn doubt_everything(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.end_epoch(&mut state);
        let attached = matches!(state.standing, Standing::Attached { .. });
        if let Some((epoch, _)) = state.last.as_mut().filter(|_| attached) {
            *epoch = next;
        }
    }

    /// Begins the next epoch and tells which it is. What an epoch kept while attached was right at
    /// the last contact.
    fn end_epoch(&self, state: &mut State) -> u64 {
        if let Standing::Attached { .. } = state.standing {
            let contact = *self.contact.borrow();
            state.epochs.ended(self.fences.mark().epoch, contact);
        }
        let next = self.fences.changed_all();
        self.watched.gap();
        next
    }

    /// All tracking connections have answered a beat that was sent at `sent_at` or later.
    fn beat(&self, sent_at: Timestamp, lease: Duration) {
        self.contact.send_replace(sent_at);
        // Only prolonged: whoever detached has set it to zero for good.
        let until = sent_at.after(lease).as_millis();
        let _ = self
            .lease_until
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now != 0).then_some(until.max(now))
            });
    }
}
