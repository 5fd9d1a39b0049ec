//! The local tier: records on this machine's own disk (P2, P12, P14).
//!
//! Invariants:
//! - (L1) Expiry is decided at read, against the clock, before anything is returned.
//! - (L2) Writes of one name happen one after the other: each holds the name's lock from its
//!   decision until the store has it, also when its caller has gone away.
//! - (L3) What a failed write or delete should have replaced is not returned: its name is kept as
//!   *doubtful* until the store works again and the name has been removed (`health`).
//! - (L4) A record in the hot set is served only while nobody has changed its name in the store
//!   since it was read from there (`hot`).
//! - (L5) The runtime's threads never wait for the disk: what is not in memory, and what is large,
//!   goes to a blocking thread, of which a fixed number is busy at most.
//!
//! What it does not do: it trusts itself. Whether an entry is still what Redis has is decided by
//! the engine.

mod budget;
mod envelope;
mod health;
mod hot;
mod large;
mod maintenance;
mod owner;
mod read;
mod refresh;
mod scan;
mod store;
mod sweep;
mod write;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard, RwLock, Semaphore},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::{
    budget::Sizes,
    health::Health,
    hot::Hot,
    large::{Large, Threads},
    owner::{Left, Owner},
    refresh::Refresh,
    store::{INLINE_BYTES_MAX, Store},
    sweep::Swept,
};
pub use self::{
    large::{Dropped, LargeFile, LargeWriter, Pinned},
    scan::Selection,
};
use super::{Condition, Found, Mark, Tier};
use crate::{
    changes::Changes,
    clock::{Clock, Timestamp},
    config::LocalConfig,
    error::{Error, Kind, Result},
    key::EntryName,
    record::Record,
};

/// Locks that names share. Two names rarely meet; if they do they only wait for each other.
const NAME_LOCKS: usize = 256;
/// Blocking calls at once. The disk has no use for more.
const BLOCKING_MAX: usize = 32;
/// Scans at once. They have permits of their own: a scan waits for `slices`, and whoever holds
/// `slices` may be waiting for a blocking call.
const SCANS_MAX: usize = 4;

/// Figures of the local tier.
#[derive(Debug, Clone, Default)]
pub struct LocalStats {
    /// Why it does not serve; `None` when it does.
    pub trouble: Option<String>,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of hot set, write buffers, block cache and table readers.
    pub memory_bytes: u64,
    /// Keys, as the store estimates them.
    pub keys_estimate: u64,
    /// Damaged records found.
    pub corrupt_records: u64,
    /// Expired records dropped by merging.
    pub expired_records: u64,
    /// Records written again because they were read when about to be dropped.
    pub refreshed_records: u64,
    /// Times the store was opened again after a fault.
    pub reopens: u64,
    /// Times a damaged store was set aside.
    pub set_asides: u64,
}

#[derive(Debug, Default)]
struct Counts {
    corrupt: AtomicU64,
    refreshed: AtomicU64,
    reopens: AtomicU64,
    set_asides: AtomicU64,
    /// Shared with the compaction threads of every store this tier has opened.
    swept: Arc<Swept>,
}

/// The local tier. Cheap to clone; the last clone does not close it, [`LocalTier::close`] does.
#[derive(Clone)]
pub struct LocalTier {
    inner: Arc<Inner>,
}

struct Inner {
    data_dir: PathBuf,
    listen: String,
    sizes: Sizes,
    longest_lifetime: Duration,
    clock: Clock,
    hasher: RandomState,
    /// Empty while the store is closed for repair. Readers hold it for one call, whoever closes or
    /// opens the store holds it alone.
    store: Arc<RwLock<Option<Store>>>,
    owner: StdMutex<Option<Owner>>,
    locks: Box<[Arc<Mutex<()>>]>,
    /// Held shared by whoever decides on a record and then writes it, alone by each slice of a
    /// scan that deletes: so that nothing is written again that a scan has just removed.
    slices: Arc<RwLock<()>>,
    blocking: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    health: Health,
    hot: Hot,
    large: Large,
    large_threads: Threads,
    /// Told of every put and removal once it is in the store; not of copies and of damage.
    changes: Changes,
    /// Bytes taken in since the store was made: the age of a record is how far this has moved on.
    position: AtomicU64,
    kept_position: AtomicU64,
    wake: Notify,
    refresh: Refresh,
    counts: Counts,
}

/// The background work of a tier; ends when its token is cancelled.
pub type Maintenance = JoinHandle<()>;

impl std::fmt::Debug for LocalTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalTier({})", self.inner.data_dir.display())
    }
}

impl LocalTier {
    /// Opens the tier and starts its background work, which ends with `stop`. `listen` is what a
    /// second daemon on the same directory is told. `Held` when another daemon has the directory,
    /// `Unavailable` when it cannot be used. A damaged store is set aside and a fresh one begun.
    pub async fn open(
        config: &LocalConfig,
        longest_lifetime: Duration,
        listen: &str,
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<(Self, Maintenance)> {
        let sizes = Sizes::new(config.disk_budget, config.memory_budget);
        let inner = Arc::new(Inner {
            data_dir: config.data_dir.clone(),
            listen: listen.to_owned(),
            hot: Hot::new(sizes.hot, INLINE_BYTES_MAX),
            large: Large::new(&store_dir(&config.data_dir), sizes.data_files),
            large_threads: Threads::new()?,
            sizes,
            longest_lifetime,
            changes: Changes::new(clock.clone()),
            clock,
            hasher: RandomState::new(),
            store: Arc::default(),
            owner: StdMutex::default(),
            locks: (0..NAME_LOCKS).map(|_| Arc::default()).collect(),
            slices: Arc::default(),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            health: Health::default(),
            position: AtomicU64::new(0),
            kept_position: AtomicU64::new(0),
            wake: Notify::new(),
            refresh: Refresh::default(),
            counts: Counts::default(),
        });
        let opening = Arc::clone(&inner);
        off_thread(move || opening.open_first()).await??;
        let worker = maintenance::run(Arc::clone(&inner), stop);
        #[expect(clippy::disallowed_methods, reason = "the handle goes to the caller")]
        let maintenance = tokio::spawn(worker);
        Ok((Self { inner }, maintenance))
    }

    /// Drops everything. Calls of the meantime wait or miss.
    pub async fn clear(&self) -> Result<()> {
        let mut slot = Arc::clone(&self.inner.store).write_owned().await;
        let inner = Arc::clone(&self.inner);
        off_thread(move || {
            let store = slot.take();
            let begun = inner
                .begin_anew(store)
                .map_err(|error| inner.failed_all(error));
            inner.hot.changed_all();
            inner.changes.everything();
            *slot = Some(begun?);
            Ok(())
        })
        .await?
    }

    /// What watchers are told of. Whoever hears of further changes adds them.
    pub fn changes(&self) -> &Changes {
        &self.inner.changes
    }

    /// Figures of the moment. Looks at every file of the data directory.
    pub async fn stats(&self) -> Result<LocalStats> {
        let counts = &self.inner.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut stats = LocalStats {
            trouble: self.inner.health.trouble(),
            corrupt_records: get(&counts.corrupt),
            expired_records: get(&counts.swept.expired),
            refreshed_records: get(&counts.refreshed),
            reopens: get(&counts.reopens),
            set_asides: get(&counts.set_asides),
            ..LocalStats::default()
        };
        let inner = Arc::clone(&self.inner);
        let slot = Arc::clone(&self.inner.store).read_owned().await;
        off_thread(move || {
            stats.disk_bytes = store::disk_bytes(&inner.data_dir);
            stats.memory_bytes = inner.hot.bytes();
            if let Some(store) = &*slot {
                stats.memory_bytes += store.memory_bytes();
                stats.keys_estimate = store.keys_estimate();
            }
            stats
        })
        .await
    }

    /// Why the tier does not take writes; `None` when it does.
    pub fn trouble(&self) -> Option<String> {
        self.inner.health.trouble()
    }

    /// Writes everything out, syncs it and closes the store; later calls are `Unavailable`.
    pub async fn close(&self) -> Result<()> {
        let mut slot = Arc::clone(&self.inner.store).write_owned().await;
        let inner = Arc::clone(&self.inner);
        off_thread(move || inner.close(slot.take())).await?
    }

    /// Runs a call that may block, within the limit of them.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.inner.blocking).acquire_owned().await;
        let slot = Arc::clone(&self.inner.store).read_owned().await;
        off_thread(move || {
            let result = call(slot.as_ref().ok_or_else(closed)?);
            drop(permit);
            result
        })
        .await?
    }

    async fn lock(&self, name: &EntryName) -> OwnedMutexGuard<()> {
        Arc::clone(self.inner.lock_of(name)).lock_owned().await
    }
}

impl Inner {
    fn lock_of(&self, name: &EntryName) -> &Arc<Mutex<()>> {
        let hash = self.hasher.hash_one(name.as_bytes());
        &self.locks[usize::try_from(hash % NAME_LOCKS as u64).unwrap_or(0)]
    }
}

impl Tier for LocalTier {
    async fn get(&self, name: &EntryName) -> Result<Option<Found>> {
        self.record(name).await
    }

    async fn put(&self, name: &EntryName, record: &Record, expires: Timestamp) -> Result<()> {
        self.put_if(name, record, expires, Mark::default(), Condition::Always)
            .await
            .map(drop)
    }

    async fn delete(&self, name: &EntryName) -> Result<bool> {
        self.delete_record(name).await
    }
}

fn closed() -> Error {
    Error::new(
        Kind::Unavailable,
        "local tier: the store is closed for repair",
    )
}

/// Runs `call` on a thread that may block.
async fn off_thread<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    spawn_blocking(call).await.map_err(|error| {
        Error::new(Kind::Internal, "local tier: a blocking call panicked").caused_by(error)
    })
}

fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("entries")
}

#[cfg(test)]
mod tests;
