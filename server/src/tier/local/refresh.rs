//! Refresh: what is read is written again before it is dropped for space (ADR 0006, P14).
//!
//! A hit on a record in the older half of what the store holds asks for it. One task writes the
//! most urgent first; what is asked for again while it waits is done once. When the task is behind,
//! so that a record waits that has gone three quarters of its way, puts wait for the task:
//! otherwise a flood would outrun what is read.
//!
//! What the store has dropped all the same, and the hot set still has, is written from there. That
//! must not bring back what was removed:
//!
//! ```text
//! scan                            refresh
//! first slice: removes what it
//! finds; "k" is not there, the
//! store has dropped it
//!                                 the hot set's copy of "k" counts: a scan moves the
//!                                 fence of all names at its end only
//!                                 writes "k" behind the scan: wrong
//! moves the fence, acknowledged
//! next read: "k" is back
//! ```
//! So it is done under `slices` shared and while no scan is under way: one that begins later finds
//! what was written, one that has ended has moved the fence. Puts and removals of the name have
//! moved its fence before they give the name's lock back; flush and repair move the fence of all
//! before they give the store back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{
    Inner, SCANS_MAX, Store,
    envelope::{ENVELOPE_BYTES, Envelope},
    off_thread,
};
use crate::{error::Result, key::EntryName};

/// Names waiting at once; when they are full, the next hit asks again.
const WAITING_MAX: usize = 256;
/// Longest that a put waits for the task.
const PATIENCE: Duration = Duration::from_millis(500);

/// Names to be written again.
#[derive(Debug)]
pub(super) struct Refresh {
    waiting: Mutex<Waiting>,
    /// Position of the oldest record that was asked for in time: one load on the way of every put.
    /// `u64::MAX` when there is none.
    oldest: AtomicU64,
    asked: Notify,
    done: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    names: HashMap<EntryName, Request>,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    position: u64,
    /// Asked for before puts have to wait. Nobody waits for a record that is read too rarely.
    in_time: bool,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            oldest: AtomicU64::new(u64::MAX),
            asked: Notify::new(),
            done: Notify::new(),
        }
    }
}

impl Refresh {
    /// Asks for a record that was written at `position`.
    fn ask(&self, name: &EntryName, position: u64, in_time: bool) {
        let mut waiting = self.lock();
        let full = waiting.names.len() >= WAITING_MAX;
        if waiting.closed || full || waiting.names.contains_key(name) {
            return;
        }
        waiting
            .names
            .insert(name.clone(), Request { position, in_time });
        self.note_oldest(&waiting);
        drop(waiting);
        self.asked.notify_one();
    }

    /// The most urgent name; it goes on waiting until [`Refresh::finished`].
    async fn next(&self) -> EntryName {
        loop {
            if let Some(name) = self.most_urgent() {
                return name;
            }
            self.asked.notified().await;
        }
    }

    fn most_urgent(&self) -> Option<EntryName> {
        let waiting = self.lock();
        let oldest = waiting.names.iter().min_by_key(|(_, it)| it.position);
        oldest.map(|(name, _)| name.clone())
    }

    fn finished(&self, name: &EntryName) {
        let mut waiting = self.lock();
        waiting.names.remove(name);
        self.note_oldest(&waiting);
        drop(waiting);
        self.done.notify_waiters();
    }

    /// The task has ended: nobody waits for it any more.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.names.clear();
        waiting.closed = true;
        self.note_oldest(&waiting);
        drop(waiting);
        self.done.notify_waiters();
    }

    fn note_oldest(&self, waiting: &Waiting) {
        let in_time = waiting.names.values().filter(|it| it.in_time);
        let oldest = in_time.map(|it| it.position).min().unwrap_or(u64::MAX);
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes again what is asked for; never ends.
pub(super) async fn run(inner: &Arc<Inner>) {
    loop {
        let name = inner.refresh.next().await;
        refresh(inner, &name).await;
        inner.refresh.finished(&name);
    }
}

/// Writes a record again so that it is not dropped with the oldest, unless it has changed.
pub(super) async fn refresh(inner: &Arc<Inner>, name: &EntryName) {
    let lock = Arc::clone(inner.lock_of(name)).lock_owned().await;
    let slice = Arc::clone(&inner.slices).read_owned().await;
    let slot = Arc::clone(&inner.store).read_owned().await;
    let (worker, name) = (Arc::clone(inner), name.clone());
    let _ = off_thread(move || {
        let _guards = (lock, slice);
        let Some(store) = &*slot else { return };
        if worker.health.is_failing() {
            return;
        }
        let written = match worker.younger(store, &name) {
            Ok(Some(value)) => store.write(name.as_bytes(), &value).map(|()| true),
            Ok(None) => Ok(false),
            // For the next read to find: it asks the store.
            Err(_) => return worker.hot.changed(&name),
        };
        worker.hot.changed(&name);
        match written {
            Ok(true) => _ = worker.counts.refreshed.fetch_add(1, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => _ = worker.failed(&name, error),
        }
    })
    .await;
}

impl Inner {
    /// A hit: asks for the record if it is in the older half of what the store holds.
    pub(super) fn was_read(&self, name: &EntryName, envelope: &Envelope) {
        let age = self.age(envelope.position);
        if age > self.data_files() / 2 {
            let in_time = age <= self.overdue();
            self.refresh.ask(name, envelope.position, in_time);
        }
    }

    /// Waits while a record that was asked for in time is about to be dropped. To be called while
    /// nothing is held that the task may need.
    pub(super) async fn let_refresh_keep_up(&self) {
        if !self.is_ahead_of_refresh() {
            return;
        }
        let caught_up = async {
            loop {
                let mut done = std::pin::pin!(self.refresh.done.notified());
                done.as_mut().enable();
                if !self.is_ahead_of_refresh() {
                    return;
                }
                done.await;
            }
        };
        // A put that is late is worse than a record that is lost.
        let _ = timeout(PATIENCE, caught_up).await;
    }

    fn is_ahead_of_refresh(&self) -> bool {
        self.age(self.refresh.oldest.load(Ordering::Relaxed)) > self.overdue()
    }

    /// The age at which a record should have been written again. Tables are dropped as a whole,
    /// and merged ones hold up to a sixteenth of all, so that not all of the way can be used.
    fn overdue(&self) -> u64 {
        self.data_files() / 4 * 3
    }

    fn age(&self, position: u64) -> u64 {
        let now = self.position.load(Ordering::Relaxed);
        now.saturating_sub(position)
    }

    /// What to store so that a record is young again; `None` when it is, has ended or is gone. To
    /// be called under the name's lock and `slices`, which are held until it is stored.
    fn younger(&self, store: &Store, name: &EntryName) -> Result<Option<Vec<u8>>> {
        let again = |envelope: Envelope, record: &[u8]| {
            let live = self.clock.now() < envelope.expires;
            let aging = self.age(envelope.position) > self.data_files() / 2;
            (live && aging).then(|| {
                let bytes = (ENVELOPE_BYTES + record.len()) as u64;
                let position = self.position.fetch_add(bytes, Ordering::Relaxed);
                let envelope = Envelope {
                    position,
                    ..envelope
                };
                envelope.wrap(record)
            })
        };
        let stored = store.read(name.as_bytes(), |value| {
            let (envelope, record) = Envelope::unwrap(value)?;
            again(envelope, record)
        })?;
        if let Some(value) = stored {
            return Ok(value);
        }
        // Dropped for space. In this order: see the top.
        if self.scans.available_permits() < SCANS_MAX {
            return Ok(None);
        }
        let kept = self.hot.get(name);
        Ok(kept.and_then(|(envelope, record)| again(envelope, record.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::conformance::name;

    #[tokio::test]
    async fn the_oldest_is_first_and_each_is_done_once() {
        let refresh = Refresh::default();
        let (old, young) = (name("n", "old"), name("n", "young"));
        refresh.ask(&young, 20, true);
        refresh.ask(&old, 10, false);
        refresh.ask(&young, 20, true);
        assert_eq!(refresh.oldest.load(Ordering::Relaxed), 20, "asked in time");
        assert_eq!(refresh.next().await, old);
        refresh.finished(&old);
        assert_eq!(refresh.next().await, young);
        refresh.finished(&young);
        assert_eq!(refresh.most_urgent(), None);
        assert_eq!(refresh.oldest.load(Ordering::Relaxed), u64::MAX);
    }

    #[test]
    fn it_is_bounded_and_takes_nothing_after_its_end() {
        let refresh = Refresh::default();
        for index in 0..2 * WAITING_MAX {
            refresh.ask(&name("n", &index.to_string()), 1, true);
        }
        assert_eq!(refresh.lock().names.len(), WAITING_MAX);
        refresh.close();
        refresh.ask(&name("n", "late"), 1, true);
        assert_eq!(refresh.most_urgent(), None);
        assert_eq!(refresh.oldest.load(Ordering::Relaxed), u64::MAX);
    }
}
