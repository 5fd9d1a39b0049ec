//! The outage journal: changes that the shared tier has not been told of yet (P10).
//!
//! While Redis is away, what should have been removed there is kept here, durably, and done when
//! it is back, before any local entry is trusted again. Values are never kept: a replayed put
//! could bring back what another daemon has deleted meanwhile. A put of the outage leaves
//! "remove what is older"; a put into an immutable namespace leaves "publish if absent".
//!
//! A RocksDB store of its own in `<data_dir>/journal`, whose log is synced:
//!
//! ```text
//! "i" sequence (u64 BE)   an item, drawn in `item`; sequences only grow: oldest first
//! "sformat"               1 byte: 1
//! "sdaemon"               u64 BE: random, drawn when the store was made
//! "scontact"              u64 BE: milliseconds of the last contact with Redis; not synced
//! "slost"                 there while items were lost and nobody has settled that
//! ```
//! Invariants:
//! - (J1) An item whose `add` has returned is there after a kill and after a power cut, until
//!   `done` has been told of it or of what took it in (`index` has the rules: same key, all of a
//!   namespace, the limit).
//! - (J2) Items are taken in, and ended, in the order of the calls: one thread does it, from one
//!   queue. The journal's thread waits for the disk, the runtime's do not.
//! - (J3) An item that was replaced after `next` handed it out is not ended by `done`.
//! - (J4) Lost items are noticed: a store that is damaged, or lacks what was acknowledged, is set
//!   aside as `journal-damaged`, and [`Journal::lost`] says so until it is settled, also after a
//!   restart.
//!
//! Memory: text stays on disk; `index` says what an item costs. Without items it is a thread, an
//! empty table and the readers of RocksDB. Disk: about 1.1 KiB an item of 1 KiB key, twice that
//! while tables are merged, and logs of about 5 MiB.
//!
//! What it does not do: it does not know Redis, does not decide what to defer, does not replay.

mod index;
mod item;
mod keeper;
mod store;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot};

use self::keeper::{Job, Keeper, Reply};
use crate::{
    clock::Timestamp,
    error::{Error, Kind, Result},
    stamp::Stamp,
    tier::local::Selection,
};

/// The store's name in the data directory.
const DIRECTORY: &str = "journal";
/// What a damaged one becomes.
const DAMAGED: &str = "journal-damaged";
/// Calls that wait for their turn; further ones wait to be let in.
const QUEUE: usize = 1024;

/// Something the shared tier is to be told.
#[derive(Debug, Clone)]
pub enum Deferred {
    /// Remove a key if what is there is older.
    Remove {
        /// The namespace.
        namespace: String,
        /// The key.
        key: String,
        /// What is older than this goes.
        stamp: Stamp,
    },
    /// Remove what is older of a selection.
    RemoveSelected {
        /// The namespace.
        namespace: String,
        /// Which keys of it.
        selection: Selection,
        /// What is older than this goes.
        stamp: Stamp,
    },
    /// Put the local entry of a key there if there is none.
    Publish {
        /// The namespace, an immutable one.
        namespace: String,
        /// The key.
        key: String,
    },
}

/// What can be asked without the thread.
#[derive(Debug, Default)]
struct Figures {
    depth: AtomicUsize,
    dropped: AtomicU64,
    collapses: AtomicU64,
    lost: AtomicBool,
    /// Milliseconds; 0 for never.
    last_contact: AtomicU64,
    contact_epoch: AtomicU64,
}

/// The journal. Clones are the same one. It ends with [`Journal::close`], or by itself after the
/// last clone is gone and its calls are done; a process that just ends loses nothing.
///
/// Errors are `Unavailable` (disk full, directory gone, store damaged: the same call may work
/// again, the store is opened anew by itself), `Overloaded` or `Invalid` where a method says so.
///
/// Cancel safety: a dropped call has either not been let into the queue, then it never takes
/// effect; or it has, then it takes effect before every call that is made after it was dropped.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: mpsc::Sender<Job>,
    figures: Arc<Figures>,
    daemon_id: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({:?})", self.inner.figures)
    }
}

impl Journal {
    /// Opens or creates the journal of a data directory, which the caller owns, and starts its
    /// thread. At most `limit` items are kept. `Unavailable` when the directory cannot be used;
    /// a damaged journal is set aside, an empty one begun, and [`Journal::lost`] is true then.
    pub async fn open(data_dir: &Path, limit: usize) -> Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (ready, opened) = oneshot::channel();
        let figures = Arc::new(Figures::default());
        let (data_dir, shared) = (data_dir.to_owned(), Arc::clone(&figures));
        let thread =
            thread::Builder::new()
                .name("journal".into())
                .spawn(move || match Keeper::open(&data_dir, limit, shared) {
                    Ok(keeper) => {
                        let _ = ready.send(Ok(keeper.daemon_id()));
                        keeper.run(queue);
                    }
                    Err(error) => _ = ready.send(Err(error)),
                });
        let thread = thread.map_err(|error| {
            Error::new(Kind::Unavailable, "journal: no thread could be started").caused_by(error)
        })?;
        let daemon_id = opened.await.map_err(|_| ended())??;
        let inner = Inner {
            jobs,
            figures,
            daemon_id,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Keeps an item, durably: it is synced to the disk when this returns `Ok`.
    ///
    /// A removal takes the place of an earlier one of the same key or selection, with the newer
    /// stamp of the two; a removal of all takes in what is older of its namespace. At the limit
    /// the largest namespace becomes one removal of all (`index`, R4); a publication that has no
    /// room is dropped, counted, and `Ok`.
    ///
    /// `Overloaded` when every item is of another namespace and none can be made less. After an
    /// error the item may be there or not, whole: removing more than was acknowledged does no harm.
    pub async fn add(&self, item: &Deferred) -> Result<()> {
        let item = item.clone();
        self.ask(|reply| Job::Add(item, reply)).await
    }

    /// Items there are.
    pub fn depth(&self) -> usize {
        self.inner.figures.depth.load(Ordering::Relaxed)
    }

    /// Publications that were dropped for want of room since the start.
    pub fn dropped(&self) -> u64 {
        self.inner.figures.dropped.load(Ordering::Relaxed)
    }

    /// Times a namespace's items became one removal of all since the start.
    pub fn collapses(&self) -> u64 {
        self.inner.figures.collapses.load(Ordering::Relaxed)
    }

    /// Whether items were lost with a damaged store, so that anything may be deferred and unknown.
    /// Kept over restarts until [`Journal::settle_loss`].
    pub fn lost(&self) -> bool {
        self.inner.figures.lost.load(Ordering::Relaxed)
    }

    /// Notes, durably, that the loss has been dealt with.
    pub async fn settle_loss(&self) -> Result<()> {
        self.ask(Job::SettleLoss).await
    }

    /// Up to `max` items, oldest first, each with its number. The same again until
    /// [`Journal::done`]. They are in memory then: choose `max` by what a key may be long.
    pub async fn next(&self, max: usize) -> Result<Vec<(u64, Deferred)>> {
        self.ask(|reply| Job::Next(max, reply)).await
    }

    /// Ends items by their numbers, durably. One that was replaced since [`Journal::next`] stays,
    /// under its new number; a number nobody has is nothing.
    pub async fn done(&self, up_to: &[u64]) -> Result<()> {
        let numbers = up_to.to_vec();
        self.ask(|reply| Job::Done(numbers, reply)).await
    }

    /// A random number of this data directory, the same at every start. A new one after damage.
    pub fn daemon_id(&self) -> u64 {
        self.inner.daemon_id
    }

    /// The last epoch in which Redis was reached, and when that was last; `None` for never. After a
    /// power cut it may be a few seconds too early.
    pub fn last_contact(&self) -> Option<(u64, Timestamp)> {
        let figures = &self.inner.figures;
        let millis = figures.last_contact.load(Ordering::Relaxed);
        let epoch = figures.contact_epoch.load(Ordering::Relaxed);
        (millis != 0).then(|| (epoch, Timestamp::from_millis(millis)))
    }

    /// Keeps epoch and time of a contact. Survives a kill; not synced.
    pub async fn set_last_contact(&self, epoch: u64, at: Timestamp) -> Result<()> {
        self.ask(|reply| Job::Contact(epoch, at, reply)).await
    }

    /// Waits for the calls before it, syncs and closes the store; later calls are `Unavailable`.
    /// Closed already is `Ok`.
    pub async fn close(&self) -> Result<()> {
        let (reply, closed) = oneshot::channel();
        if self.inner.jobs.send(Job::Close(reply)).await.is_err() {
            return Ok(());
        }
        let result = closed.await.unwrap_or(Ok(()));
        let thread = {
            let mut thread = self
                .inner
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            thread.take()
        };
        // It has answered, so it is on its last line.
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(Kind::Internal, "journal: its thread panicked")),
            _ => result,
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.jobs.send(job(reply)).await;
        sent.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Error {
    Error::new(Kind::Unavailable, "journal: it is closed")
}

#[cfg(test)]
mod tests;
