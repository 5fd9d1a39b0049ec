//! The local tier: records on this machine's own disk (P2, P12, P14).
//!
//! Invariants:
//! - (L1) Expiry is decided at read, against the clock, before anything is returned.
//! - (L2) Writes of one name happen one after the other: each holds the name's lock from its
//!   decision until the store has it, also when its caller has gone away.
//! - (L3) What a failed write or delete should have replaced is not returned: its name is kept as
//!   *doubtful* until the store works again and the name has been removed (`health`).
//! - (L4) The runtime's threads never wait for the disk: what is not in memory, and what is large,
//!   goes to a blocking thread, of which a fixed number is busy at most.
//!
//! What it does not do: it trusts itself. Whether an entry is still what Redis has is decided by
//! the engine.

mod budget;
mod envelope;
mod health;
mod maintenance;
mod owner;
mod scan;
mod store;

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

use bytes::Bytes;
use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard, RwLock, Semaphore, mpsc},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

pub use self::scan::Selection;
use self::{
    budget::Sizes,
    envelope::Envelope,
    health::Health,
    owner::{Left, Owner},
    store::{INLINE_BYTES_MAX, Lookup, Store, Swept},
};
use super::{Found, Tier};
use crate::{
    clock::{Clock, Timestamp},
    config::LocalConfig,
    error::{Error, Kind, Result},
    key::EntryName,
    record::{Head, Record},
    stamp::Stamp,
};

/// Locks that names share. Two names rarely meet; if they do they only wait for each other.
const NAME_LOCKS: usize = 256;
/// Blocking calls at once. The disk has no use for more.
const BLOCKING_MAX: usize = 32;
/// Records waiting to be written again; when it is full, the next hit asks again.
const REFRESH_QUEUE: usize = 256;

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// No live record of that name.
    Absent,
    /// A live record with this version.
    Version(Stamp),
    /// No live record, or one with the same value and attributes, which is then kept.
    AbsentOrSame,
}

/// How a conditional write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The record was written.
    Written,
    /// The same value was there already and stays ([`Condition::AbsentOrSame`]).
    Kept {
        /// Its fixed part.
        head: Head,
        /// When the tier lets go of it.
        expires: Timestamp,
    },
    /// The condition did not hold.
    Refused,
}

/// Figures of the local tier.
#[derive(Debug, Clone, Default)]
pub struct LocalStats {
    /// Why it does not serve; `None` when it does.
    pub trouble: Option<String>,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of write buffers, block cache and table readers.
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
    health: Health,
    /// Bytes taken in since the store was made: the age of a record is how far this has moved on.
    position: AtomicU64,
    kept_position: AtomicU64,
    wake: Notify,
    refresh: mpsc::Sender<EntryName>,
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
        let (refresh, refresh_queue) = mpsc::channel(REFRESH_QUEUE);
        let inner = Arc::new(Inner {
            data_dir: config.data_dir.clone(),
            listen: listen.to_owned(),
            sizes: Sizes::new(config.disk_budget, config.memory_budget),
            longest_lifetime,
            clock,
            hasher: RandomState::new(),
            store: Arc::default(),
            owner: StdMutex::default(),
            locks: (0..NAME_LOCKS).map(|_| Arc::default()).collect(),
            slices: Arc::default(),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
            health: Health::default(),
            position: AtomicU64::new(0),
            kept_position: AtomicU64::new(0),
            wake: Notify::new(),
            refresh,
            counts: Counts::default(),
        });
        let opening = Arc::clone(&inner);
        off_thread(move || opening.open_first()).await??;
        let worker = maintenance::run(Arc::clone(&inner), refresh_queue, stop);
        #[expect(clippy::disallowed_methods, reason = "the handle goes to the caller")]
        let maintenance = tokio::spawn(worker);
        Ok((Self { inner }, maintenance))
    }

    /// The fixed part of a live record and its end, without moving the value.
    pub async fn head(&self, name: &EntryName) -> Result<Option<(Head, Timestamp)>> {
        let read = |value: &[u8]| {
            let (envelope, record) = Envelope::unwrap(value)?;
            Some((envelope, Record::check(record).ok()?))
        };
        Ok(self.live(name, read).await?.map(|(envelope, head)| (head, envelope.expires)))
    }

    /// The live records of several names, in their order. What is not in memory is read in one go
    /// on a blocking thread.
    pub async fn get_many(&self, names: &[EntryName]) -> Vec<Result<Option<Found>>> {
        let mut stored = Vec::with_capacity(names.len());
        let mut on_disk = Vec::new();
        for (index, name) in names.iter().enumerate() {
            stored.push(match self.stored_in_memory(name, whole_record) {
                Ok(Lookup::Found(found)) => Ok(Some(found)),
                Ok(Lookup::Absent) => Ok(None),
                Ok(Lookup::OnDisk) => {
                    on_disk.push((index, name.clone()));
                    Ok(None)
                }
                Err(error) => Err(error),
            });
        }
        if !on_disk.is_empty() {
            let read = self.blocking(move |store| {
                let read = |(index, name): (usize, EntryName)| {
                    (index, store.read(name.as_bytes(), whole_record))
                };
                Ok(on_disk.into_iter().map(read).collect::<Vec<_>>())
            });
            // An error here leaves those names as misses, which is what the caller makes of it.
            for (index, found) in read.await.unwrap_or_default() {
                stored[index] = found;
            }
        }
        let mut settled = Vec::with_capacity(names.len());
        for (name, stored) in names.iter().zip(stored) {
            let live = self.settle(name, stored).await;
            settled.push(live.map(|live| live.map(found)));
        }
        settled
    }

    /// Writes a record until `expires` if the condition holds; decided atomically.
    pub async fn put_if(
        &self,
        name: &EntryName,
        record: &Record,
        expires: Timestamp,
        condition: Condition,
    ) -> Result<Stored> {
        let lock = self.lock(name).await;
        let slice = match condition {
            Condition::Always => None,
            _ => Some(Arc::clone(&self.inner.slices).read_owned().await),
        };
        match condition {
            Condition::Always => {}
            Condition::Absent if self.head(name).await?.is_none() => {}
            Condition::Version(wanted)
                if self.head(name).await?.is_some_and(|(head, _)| head.stamp == wanted) => {}
            Condition::AbsentOrSame => match self.get(name).await? {
                None => {}
                Some(found) if found.record.entry()? == record.entry()? => {
                    return Ok(Stored::Kept {
                        head: *found.record.head(),
                        expires: found.expires,
                    });
                }
                Some(_) => return Ok(Stored::Refused),
            },
            _ => return Ok(Stored::Refused),
        }
        self.write(name, record, expires, (lock, slice)).await?;
        Ok(Stored::Written)
    }

    /// Drops everything. Calls of the meantime wait or miss.
    pub async fn clear(&self) -> Result<()> {
        let mut slot = Arc::clone(&self.inner.store).write_owned().await;
        let inner = Arc::clone(&self.inner);
        off_thread(move || {
            let store = slot.take();
            *slot = Some(inner.begin_anew(store).map_err(|error| inner.failed_all(error))?);
            Ok(())
        })
        .await?
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
            if let Some(store) = &*slot {
                stats.memory_bytes = store.memory_bytes();
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

    async fn lock(&self, name: &EntryName) -> OwnedMutexGuard<()> {
        Arc::clone(self.inner.lock_of(name)).lock_owned().await
    }

    /// Reads a live record with `read`, which sees the stored value and says `None` to damage.
    async fn live<T: Send + 'static>(
        &self,
        name: &EntryName,
        read: fn(&[u8]) -> Option<(Envelope, T)>,
    ) -> Result<Option<(Envelope, T)>> {
        let stored = self.stored(name, read).await;
        self.settle(name, stored).await
    }

    /// From what the store said to what the tier says: expiry, doubt, damage.
    async fn settle<T>(
        &self,
        name: &EntryName,
        stored: Result<Option<Option<(Envelope, T)>>>,
    ) -> Result<Option<(Envelope, T)>> {
        match stored {
            Ok(None) => Ok(None),
            Ok(Some(Some((envelope, found)))) => {
                let ended = envelope.expires <= self.inner.clock.now();
                if ended || self.inner.health.doubts(name) {
                    return Ok(None);
                }
                self.refresh_if_aging(name, &envelope);
                Ok(Some((envelope, found)))
            }
            Ok(Some(None)) => self.drop_damaged(name).await,
            Err(error) if error.kind() == Kind::Corrupt => self.drop_damaged(name).await,
            Err(error) => Err(error),
        }
    }

    /// What the store holds under a name, live or not.
    async fn stored<T: Send + 'static>(
        &self,
        name: &EntryName,
        read: fn(&[u8]) -> T,
    ) -> Result<Option<T>> {
        match self.stored_in_memory(name, read)? {
            Lookup::Found(found) => return Ok(Some(found)),
            Lookup::Absent => return Ok(None),
            Lookup::OnDisk => {}
        }
        let name = name.clone();
        self.blocking(move |store| store.read(name.as_bytes(), read)).await
    }

    fn stored_in_memory<T>(&self, name: &EntryName, read: fn(&[u8]) -> T) -> Result<Lookup<T>> {
        // A store under repair is a tier that cannot be used now, not one to wait for.
        let slot = self.inner.store.try_read().map_err(|_| closed())?;
        slot.as_ref().ok_or_else(closed)?.read_in_memory(name.as_bytes(), read)
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

    /// Writes a record; `guards` are held until the store has it.
    async fn write(
        &self,
        name: &EntryName,
        record: &Record,
        expires: Timestamp,
        guards: impl Send + 'static,
    ) -> Result<()> {
        if self.inner.health.doubt(name) {
            return Err(self.inner.health.unavailable());
        }
        let bytes = record.as_bytes();
        let position = self.inner.position.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let value = Envelope { expires, position }.wrap(bytes);
        if value.len() <= INLINE_BYTES_MAX {
            let slot = self.inner.store.read().await;
            let store = slot.as_ref().ok_or_else(closed);
            match store.and_then(|store| store.try_write(name.as_bytes(), &value)) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.inner.failed(name, error)),
            }
        }
        self.change(name, guards, move |store, name| store.write(name, &value)).await
    }

    /// Removes whatever lies under a name; `guards` are held until the store has done so.
    async fn remove(&self, name: &EntryName, guards: impl Send + 'static) -> Result<()> {
        if self.inner.health.doubt(name) {
            return Err(self.inner.health.unavailable());
        }
        {
            let slot = self.inner.store.read().await;
            let store = slot.as_ref().ok_or_else(closed);
            match store.and_then(|store| store.try_delete(name.as_bytes())) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.inner.failed(name, error)),
            }
        }
        self.change(name, guards, Store::delete).await
    }

    /// A change on a blocking thread. It goes on when the caller has gone: the guards go with it.
    async fn change(
        &self,
        name: &EntryName,
        guards: impl Send + 'static,
        call: impl FnOnce(&Store, &[u8]) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        self.blocking(move |store| {
            let _guards = guards;
            call(store, name.as_bytes()).map_err(|error| inner.failed(&name, error))
        })
        .await
    }

    /// A damaged record is a miss, is removed and is counted (P3).
    async fn drop_damaged<T>(&self, name: &EntryName) -> Result<Option<T>> {
        self.inner.counts.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("local tier: a damaged record was dropped");
        // Whoever holds the lock, perhaps this very call, is about to write the name.
        let Ok(lock) = Arc::clone(self.inner.lock_of(name)).try_lock_owned() else {
            return Ok(None);
        };
        // Only if it is still damaged: a put may have replaced it meanwhile.
        let intact = |value: &[u8]| {
            Envelope::unwrap(value).is_some_and(|(_, record)| Record::check(record).is_ok())
        };
        match self.stored(name, intact).await {
            Ok(Some(true) | None) => {}
            _ => drop(self.remove(name, lock).await),
        }
        Ok(None)
    }

    fn refresh_if_aging(&self, name: &EntryName, envelope: &Envelope) {
        if self.inner.is_aging(envelope) {
            // A full queue is no fault: the next hit asks again.
            let _ = self.inner.refresh.try_send(name.clone());
        }
    }
}

impl Inner {
    fn lock_of(&self, name: &EntryName) -> &Arc<Mutex<()>> {
        let hash = self.hasher.hash_one(name.as_bytes());
        &self.locks[usize::try_from(hash % NAME_LOCKS as u64).unwrap_or(0)]
    }

    /// Whether a record will soon be dropped for space: more than three quarters of what the store
    /// holds have been written since.
    fn is_aging(&self, envelope: &Envelope) -> bool {
        let age = self.position.load(Ordering::Relaxed).saturating_sub(envelope.position);
        age > self.sizes.data_files / 4 * 3
    }
}

impl Tier for LocalTier {
    async fn get(&self, name: &EntryName) -> Result<Option<Found>> {
        Ok(self.live(name, whole_record).await?.map(found))
    }

    async fn put(&self, name: &EntryName, record: &Record, expires: Timestamp) -> Result<()> {
        self.put_if(name, record, expires, Condition::Always).await.map(drop)
    }

    async fn delete(&self, name: &EntryName) -> Result<bool> {
        let lock = self.lock(name).await;
        let now = self.inner.clock.now();
        let live = |value: &[u8]| Envelope::unwrap(value).map(|(envelope, _)| envelope.expires);
        let there = match self.stored(name, live).await {
            Ok(None) if !self.inner.health.doubts(name) => return Ok(false),
            Ok(found) => found.flatten().is_some_and(|expires| now < expires),
            // Unreadable or not: it has to go.
            Err(_) => false,
        };
        let there = there && !self.inner.health.doubts(name);
        self.remove(name, lock).await?;
        Ok(there)
    }
}

fn whole_record(value: &[u8]) -> Option<(Envelope, Record)> {
    let (envelope, record) = Envelope::unwrap(value)?;
    Some((envelope, Record::decode(Bytes::copy_from_slice(record)).ok()?))
}

fn found((envelope, record): (Envelope, Record)) -> Found {
    Found { record, expires: envelope.expires }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "local tier: the store is closed for repair")
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
