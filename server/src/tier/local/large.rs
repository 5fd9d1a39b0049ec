//! Large values: chunks of one value in one file, beside the store and within its budget.
//!
//! ```text
//! entries/large/<set, 32 hex digits>         whole
//! entries/large/<set, 32 hex digits>.part    being written
//!
//! offset  size
//!      0     4  magic "PNRL"
//!      4     4  version, 1; reserved, zero
//!      8     4  N: bytes of the entry's name, little-endian
//!     12     N  the name
//!   4096     …  the value, chunk after chunk
//! ```
//! The entry's record (its manifest) lies in the store like any other and says what the chunks must
//! be, so a file vouches for nothing: not for its length, not for its bytes, not for being current.
//! Not in the store itself: a value of 1 GiB would go through the log and the write buffers and
//! push out everything small with it (ADR 0014).
//!
//! Invariants:
//! - A file never changes once it is whole; it is found by its set alone. So no fence is needed: a
//!   manifest that counts names the right bytes or none.
//! - A file without a live manifest of its set under its name is removed by the sweep, within
//!   seconds; so is what a writer that went away has left. What a killed process has left half
//!   written is removed at the next start.
//! - All files together stay within what was taken from the store's budget for them, before they
//!   are written. The least recently used goes first; one that is being read goes on being read.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{Inner, LocalTier, closed, envelope::Envelope, off_thread, store_dir};
use crate::{
    clock::Timestamp,
    error::{Error, Kind, Result},
    key::EntryName,
    record::{CHUNK_BYTES, Manifest, Record},
    stamp::Stamp,
};

const MAGIC: &[u8; 8] = b"PNRL\x01\0\0\0";
const VALUE_AT: u64 = 4096;
const NAME_AT: usize = 12;
const PART: &str = "part";
/// Files whose manifest is looked for in one go of the sweep.
const SWEEP_MAX: usize = 256;
/// The budget is divided anew in steps of this part of the store's.
const STEPS: u64 = 16;
/// Where the files lie, below the store's directory.
pub(super) const DIRECTORY: &str = "large";

/// A file that was removed because no entry names it any more.
#[derive(Debug)]
pub struct Dropped {
    /// The entry that did.
    pub name: EntryName,
    /// Its chunks.
    pub set: Stamp,
    /// How many there were.
    pub chunks: u32,
}

/// All files.
pub(super) struct Large {
    dir: PathBuf,
    /// Most bytes that may be taken from the store.
    max: u64,
    /// One step of what is taken.
    step: u64,
    /// Taken from the store's part of the budget.
    taken: AtomicU64,
    index: Mutex<Index>,
    wake: Notify,
    dropped: Mutex<Option<mpsc::Sender<Dropped>>>,
}

#[derive(Default)]
struct Index {
    files: HashMap<Stamp, Held>,
    bytes: u64,
    /// Counts uses; the higher, the later.
    uses: u64,
    /// Where the sweep goes on.
    swept_to: Option<Stamp>,
}

struct Held {
    name: EntryName,
    bytes: u64,
    used: u64,
    state: State,
    /// Whose manifest is about to be written: neither swept nor dropped for space.
    pins: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    Whole,
    /// Its writer has gone.
    Abandoned,
}

impl Large {
    /// Files below `data_dir`, within half of the store's `data_files`.
    pub(super) fn new(data_dir: &Path, data_files: u64) -> Self {
        Self {
            dir: store_dir(data_dir).join(DIRECTORY),
            max: data_files / 2,
            step: data_files / STEPS,
            taken: AtomicU64::new(0),
            index: Mutex::default(),
            wake: Notify::new(),
            dropped: Mutex::default(),
        }
    }

    /// Bytes taken from the store's part of the budget.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Looks at what is there: after the store was opened, before it is used. Blocks.
    pub(super) fn load(&self) {
        let mut found = Index::default();
        let mut files = Vec::new();
        // Without it nothing can be written, which is told when it is tried.
        let _ = fs::create_dir(&self.dir);
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let whole = path.extension().is_none();
            let set = path.file_name().and_then(|it| it.to_str()).and_then(set_of);
            let name = set.filter(|_| whole).and_then(|_| name_in(&path));
            match (set, name, entry.metadata()) {
                (Some(set), Some(name), Ok(meta)) => {
                    files.push((meta.modified().ok(), set, name, meta.len()));
                }
                // Half written, or none of ours.
                _ => _ = fs::remove_file(&path),
            }
        }
        files.sort_by_key(|(modified, ..)| *modified);
        for (_, set, name, bytes) in files {
            found.bytes += bytes;
            found.uses += 1;
            let held = Held {
                name,
                bytes,
                used: found.uses,
                state: State::Whole,
                pins: 0,
            };
            found.files.insert(set, held);
        }
        *self.lock() = found;
        // Another budget than before: what is beyond goes.
        for set in self.lock().make_room(0, self.max).unwrap_or_default() {
            let _ = fs::remove_file(self.path(&set));
        }
        self.taken.store(self.needed(), Ordering::Relaxed);
    }

    fn path(&self, set: &Stamp) -> PathBuf {
        self.dir.join(format!("{set:?}"))
    }

    fn part(&self, set: &Stamp) -> PathBuf {
        self.path(set).with_extension(PART)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a file that is about to be written; false when there is one already, or one is on
    /// its way.
    fn enter(&self, name: &EntryName, set: Stamp) -> bool {
        let mut index = self.lock();
        if index.files.contains_key(&set) {
            return false;
        }
        let held = Held {
            name: name.clone(),
            bytes: 0,
            used: index.uses,
            state: State::Writing,
            pins: 1,
        };
        index.files.insert(set, held);
        true
    }

    /// Counts bytes that are about to be written; gives what has to go for them, which is no
    /// longer found. `None` when there is no room.
    fn reserve(&self, set: &Stamp, bytes: u64) -> Option<Vec<Stamp>> {
        let mut index = self.lock();
        let gone = index.make_room(bytes, self.max)?;
        let held = index.files.get_mut(set)?;
        held.bytes += bytes;
        index.bytes += bytes;
        Some(gone)
    }

    /// What the files need of the budget, in steps.
    fn needed(&self) -> u64 {
        let bytes = self.lock().bytes;
        (bytes.div_ceil(self.step.max(1)) * self.step).min(self.max)
    }

    fn set_state(&self, set: &Stamp, state: State) {
        if let Some(held) = self.lock().files.get_mut(set) {
            held.state = state;
        }
    }

    fn unpin(&self, set: &Stamp) {
        if let Some(held) = self.lock().files.get_mut(set) {
            held.pins = held.pins.saturating_sub(1);
        }
    }

    /// Notes that a file is used; `None` when it is not whole, or not there.
    fn touch(&self, set: &Stamp, pin: bool) -> Option<()> {
        let mut index = self.lock();
        index.uses += 1;
        let uses = index.uses;
        let held = index.files.get_mut(set)?;
        if held.state != State::Whole {
            return None;
        }
        held.used = uses;
        held.pins += u32::from(pin);
        Some(())
    }

    /// Forgets a file and removes it. Blocks.
    fn remove(&self, set: &Stamp) {
        self.lock().remove(set);
        let _ = fs::remove_file(self.path(set));
    }

    /// What the sweep is to look at next: abandoned files, which are forgotten by this, and whole
    /// ones.
    fn due(&self) -> (Vec<Stamp>, Vec<(Stamp, EntryName)>) {
        let mut index = self.lock();
        let with = |index: &Index, state| {
            let files = index.files.iter();
            files
                .filter(|(_, held)| {
                    held.state == state && (held.pins == 0 || state != State::Whole)
                })
                .map(|(set, held)| (*set, held.name.clone()))
                .collect::<Vec<_>>()
        };
        let abandoned: Vec<_> = with(&index, State::Abandoned)
            .into_iter()
            .map(|it| it.0)
            .collect();
        for set in &abandoned {
            index.remove(set);
        }
        let mut whole = with(&index, State::Whole);
        whole.sort_by_key(|(set, _)| *set);
        let from = index.swept_to;
        let mut next: Vec<_> = whole
            .into_iter()
            .filter(|(set, _)| from.is_none_or(|from| *set > from))
            .collect();
        index.swept_to = (next.len() > SWEEP_MAX).then(|| next[SWEEP_MAX - 1].0);
        next.truncate(SWEEP_MAX);
        (abandoned, next)
    }

    fn tell(&self, dropped: Dropped) {
        let listener = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*listener {
            // One that is full has enough to do: chunks elsewhere end by themselves.
            let _ = listener.try_send(dropped);
        }
    }
}

impl Index {
    /// Forgets the least recently used files so that there is room; tells which. `None`, and
    /// nothing is forgotten, when that would not be enough.
    fn make_room(&mut self, bytes: u64, max: u64) -> Option<Vec<Stamp>> {
        let mut beyond = (self.bytes + bytes).saturating_sub(max);
        if beyond == 0 {
            return Some(Vec::new());
        }
        let whole = self.files.iter();
        let mut whole: Vec<_> = whole
            .filter(|(_, held)| held.state == State::Whole && held.pins == 0)
            .map(|(set, held)| (held.used, *set, held.bytes))
            .collect();
        whole.sort_unstable();
        let mut gone = Vec::new();
        for (_, set, bytes) in whole {
            if beyond == 0 {
                break;
            }
            beyond = beyond.saturating_sub(bytes);
            gone.push(set);
        }
        (beyond == 0).then_some(())?;
        for set in &gone {
            self.remove(set);
        }
        Some(gone)
    }

    fn remove(&mut self, set: &Stamp) -> Option<Held> {
        let held = self.files.remove(set)?;
        self.bytes = self.bytes.saturating_sub(held.bytes);
        Some(held)
    }
}

/// A whole file, open. What happens to its name meanwhile does not concern it.
#[derive(Clone)]
pub struct LargeFile {
    file: Arc<File>,
}

/// A file that keeps its place until its manifest has been written, or not.
pub struct Pinned {
    inner: Arc<Inner>,
    set: Stamp,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.inner.large.unpin(&self.set);
    }
}

/// Writes one file. Dropped before [`LargeWriter::finish`] it leaves nothing behind.
pub struct LargeWriter {
    pinned: Option<Pinned>,
    tier: LocalTier,
    set: Stamp,
    file: Arc<File>,
    written: u64,
}

impl Drop for LargeWriter {
    fn drop(&mut self) {
        if self.pinned.is_some() {
            let large = &self.tier.inner.large;
            large.set_state(&self.set, State::Abandoned);
            large.wake.notify_one();
        }
    }
}

impl LocalTier {
    /// Most bytes of a value in chunks that the tier can take.
    pub fn large_bytes_max(&self) -> u64 {
        self.inner.large.max - VALUE_AT.min(self.inner.large.max)
    }

    /// Tells of every file that goes because no entry names it any more.
    pub fn tell_of_dropped(&self, listener: mpsc::Sender<Dropped>) {
        let mut slot = self.inner.large.dropped.lock();
        *slot
            .as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut()) = Some(listener);
    }

    /// Begins to write the chunks of a set for an entry. `None` when they are there or on their
    /// way. `Unavailable` when the disk does not take them.
    pub async fn begin_large(&self, name: &EntryName, set: Stamp) -> Result<Option<LargeWriter>> {
        if self.inner.health.is_failing() {
            return Err(self.inner.health.unavailable());
        }
        if !self.inner.large.enter(name, set) {
            return Ok(None);
        }
        let pinned = Pinned {
            inner: Arc::clone(&self.inner),
            set,
        };
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        let opened = self
            .off_thread_within(move || inner.create_large(&name, &set))
            .await;
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(error) => {
                self.inner.large.set_state(&set, State::Abandoned);
                return Err(error);
            }
        };
        Ok(Some(LargeWriter {
            pinned: Some(pinned),
            tier: self.clone(),
            set,
            file,
            written: 0,
        }))
    }

    /// The file with the chunks of a set; `None` when there is none.
    pub async fn open_large(&self, set: Stamp) -> Option<LargeFile> {
        self.inner.large.touch(&set, false)?;
        let inner = Arc::clone(&self.inner);
        let open = move || Ok(File::open(inner.large.path(&set)));
        match self.off_thread_within(open).await {
            Ok(Ok(file)) => Some(LargeFile {
                file: Arc::new(file),
            }),
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.inner.large.lock().remove(&set);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps a whole file from being swept while an entry that names it is being written; `None`
    /// when there is no such file.
    pub fn pin_large(&self, set: Stamp) -> Option<Pinned> {
        self.inner.large.touch(&set, true)?;
        Some(Pinned {
            inner: Arc::clone(&self.inner),
            set,
        })
    }

    /// One chunk. `None` when the file does not have it as it should be: then the file is removed.
    pub async fn read_large(
        &self,
        file: &LargeFile,
        manifest: &Manifest,
        index: u32,
    ) -> Option<Bytes> {
        let (inner, file, manifest) = (Arc::clone(&self.inner), file.clone(), manifest.clone());
        let read = move || {
            let mut bytes = vec![0; manifest.bytes_of(index)];
            let at = VALUE_AT + manifest.start_of(index);
            let read = file.file.read_exact_at(&mut bytes, at);
            if read.is_ok() && manifest.vouches_for(index, &bytes) {
                return Ok(Some(Bytes::from(bytes)));
            }
            inner.counts.corrupt.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("local tier: a damaged large value was dropped");
            inner.large.remove(&manifest.set);
            Ok(None)
        };
        self.off_thread_within(read).await.ok().flatten()
    }

    /// Runs what does not need the store on a thread that may block, within the limit of them.
    async fn off_thread_within<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.inner.blocking).acquire_owned().await;
        off_thread(move || {
            let result = call();
            drop(permit);
            result
        })
        .await?
    }
}

impl LargeWriter {
    /// Appends the next chunk, which lies in pieces. Once it has failed the writer is of no use:
    /// `Overloaded` when there is no room beside what others are writing, `Unavailable` when the
    /// disk does not take it.
    pub async fn append(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let bytes: u64 = pieces.iter().map(|it| it.len() as u64).sum();
        let at = VALUE_AT + self.written;
        self.written += bytes;
        let (inner, file, set) = (
            Arc::clone(&self.tier.inner),
            Arc::clone(&self.file),
            self.set,
        );
        let write = move || inner.append_large(&file, &set, at, &pieces);
        self.tier.off_thread_within(write).await
    }

    /// Gives the file its name. It stays until what is returned is dropped, and then as long as an
    /// entry names it.
    pub async fn finish(mut self) -> Result<Pinned> {
        let (inner, set) = (Arc::clone(&self.tier.inner), self.set);
        let rename = move || {
            let large = &inner.large;
            fs::rename(large.part(&set), large.path(&set)).map_err(unusable)?;
            large.set_state(&set, State::Whole);
            Ok(())
        };
        self.tier.off_thread_within(rename).await?;
        self.pinned.take().ok_or_else(closed)
    }
}

impl Inner {
    /// What the store's own files may take, as the budget is divided now.
    pub(super) fn data_files(&self) -> u64 {
        self.sizes.data_files - self.large.taken()
    }

    fn create_large(&self, name: &EntryName, set: &Stamp) -> Result<File> {
        self.make_room(set, VALUE_AT)?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(self.large.part(set))
            .map_err(unusable)?;
        let length = u32::try_from(name.as_bytes().len()).unwrap_or(u32::MAX);
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&length.to_le_bytes());
        head.extend_from_slice(name.as_bytes());
        file.write_all_at(&head, 0).map_err(unusable)?;
        Ok(file)
    }

    fn append_large(&self, file: &File, set: &Stamp, at: u64, pieces: &[Bytes]) -> Result<()> {
        let bytes = pieces.iter().map(|it| it.len() as u64).sum();
        self.make_room(set, bytes)?;
        let mut at = at;
        for piece in pieces {
            file.write_all_at(piece, at).map_err(unusable)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes room for bytes of a file: first in the index, then on the disk, then in the store's
    /// part of the budget.
    fn make_room(&self, set: &Stamp, bytes: u64) -> Result<()> {
        let Some(gone) = self.large.reserve(set, bytes) else {
            let text = format!(
                "local.disk_budget: large values may take {} bytes of it, and others are being \
                 written",
                self.large.max
            );
            return Err(Error::new(Kind::Overloaded, text));
        };
        for set in &gone {
            let _ = fs::remove_file(self.large.path(set));
        }
        let needed = self.large.needed();
        if needed > self.large.taken() {
            let slot = self.store.blocking_read();
            let store = slot.as_ref().ok_or_else(closed)?;
            self.large.taken.fetch_max(needed, Ordering::Relaxed);
            store.limit_data_files(self.data_files())?;
        }
        Ok(())
    }

    /// Removes what nobody names, and gives back what is not needed. Blocks.
    fn sweep_large(&self) {
        let (abandoned, whole) = self.large.due();
        for set in &abandoned {
            let _ = fs::remove_file(self.large.part(set));
            let _ = fs::remove_file(self.large.path(set));
        }
        let slot = self.store.blocking_read();
        let Some(store) = &*slot else { return };
        let now = self.clock.now();
        for (set, name) in whole {
            let named = store.read(name.as_bytes(), |value| names(value, &set, now));
            // What cannot be read now is left for the next time.
            if matches!(named, Ok(None | Some(false))) {
                let bytes = self.large.lock().remove(&set).map_or(0, |it| it.bytes);
                let _ = fs::remove_file(self.large.path(&set));
                let chunks = bytes.saturating_sub(VALUE_AT).div_ceil(CHUNK_BYTES as u64);
                self.large.tell(Dropped {
                    name,
                    set,
                    chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
                });
            }
        }
        // A step more than is needed stays, so that the border does not move to and fro.
        let enough = self.large.needed() + self.large.step;
        if self.large.taken() > enough {
            self.large.taken.store(enough, Ordering::Relaxed);
            if let Err(error) = store.limit_data_files(self.data_files()) {
                tracing::warn!(%error, "local tier: the budget could not be divided anew");
            }
        }
    }
}

/// Sweeps once a second and when a writer has gone; never ends.
pub(super) async fn run(inner: &Arc<Inner>) {
    let mut tick = tokio::time::interval(super::maintenance::WATCH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = inner.large.wake.notified() => {}
        }
        if inner.large.lock().files.is_empty() && inner.large.taken() == 0 {
            continue;
        }
        let worker = Arc::clone(inner);
        let _ = off_thread(move || worker.sweep_large()).await;
    }
}

/// Whether a value of the store is a live record whose chunks are this set.
fn names(value: &[u8], set: &Stamp, now: Timestamp) -> bool {
    let Some((envelope, record)) = Envelope::unwrap(value) else {
        return false;
    };
    let record = Record::decode(Bytes::copy_from_slice(record)).ok();
    let manifest = record.and_then(|it| it.manifest().ok().flatten());
    now < envelope.expires && manifest.is_some_and(|it| it.set == *set)
}

fn set_of(file_name: &str) -> Option<Stamp> {
    let digits = file_name.strip_suffix(".part").unwrap_or(file_name);
    let number = u128::from_str_radix(digits, 16).ok()?;
    (digits.len() == 32).then(|| Stamp::from_bytes(number.to_be_bytes()))
}

fn name_in(path: &Path) -> Option<EntryName> {
    let file = File::open(path).ok()?;
    let mut head = [0; NAME_AT];
    file.read_exact_at(&mut head, 0).ok()?;
    let length = u32::from_le_bytes(head[8..].try_into().ok()?) as usize;
    if head[..8] != *MAGIC || length > VALUE_AT as usize - NAME_AT {
        return None;
    }
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, NAME_AT as u64).ok()?;
    EntryName::from_bytes(name)
}

fn unusable(error: io::Error) -> Error {
    let text = "local tier: a large value could not be written";
    Error::new(Kind::Unavailable, text).caused_by(error)
}

#[cfg(test)]
mod tests;
