//! Which files there are, and what they take of the budget.

mod room;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

pub(super) use self::room::Gone;
use self::room::Spare;
use super::{
    DIRECTORY, Dropped,
    files::{name_in, set_of},
};
use crate::{key::EntryName, stamp::Stamp};

/// Files whose manifest is looked for in one go of the sweep.
const SWEEP_MAX: usize = 256;
/// The budget is divided anew in steps of this part of the store's.
const STEPS: u64 = 16;
const PART: &str = "part";
const SPARE: &str = "spare";

/// All files.
pub(in super::super) struct Large {
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
    /// The oldest first.
    spares: Vec<Spare>,
    /// Of all, the spare ones too.
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
    /// Whoever reads it has a clone.
    read: Reading,
}

/// Held by whoever reads a file: what it has open must not be written over.
pub(super) type Reading = Arc<()>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Writing,
    Whole,
    /// Its writer has gone.
    Abandoned,
}

impl Large {
    /// Files below `store_dir`, within half of the store's `data_files`.
    pub(in super::super) fn new(store_dir: &Path, data_files: u64) -> Self {
        Self {
            dir: store_dir.join(DIRECTORY),
            max: data_files / 2,
            step: data_files / STEPS,
            taken: AtomicU64::new(0),
            index: Mutex::default(),
            wake: Notify::new(),
            dropped: Mutex::default(),
        }
    }

    /// Bytes taken from the store's part of the budget.
    pub(in super::super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Looks at what is there: after the store was opened, before it is used. Blocks.
    pub(in super::super) fn load(&self) {
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
                read: Reading::default(),
            };
            found.files.insert(set, held);
        }
        *self.lock() = found;
        // Another budget than before: what is beyond goes.
        let gone = self.lock().make_room(0, self.max).unwrap_or_default();
        self.unlink(gone);
        self.taken.store(self.needed(), Ordering::Relaxed);
    }

    /// Bytes of all files.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Most bytes that may be taken from the store.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// To be woken when there is something to sweep.
    pub(super) fn swept(&self) -> &Notify {
        &self.wake
    }

    /// Whether there is nothing to sweep and nothing to give back.
    pub(super) fn is_empty(&self) -> bool {
        let index = self.lock();
        index.files.is_empty() && index.spares.is_empty() && self.taken() == 0
    }

    /// Sets what is told of dropped files.
    pub(super) fn listen(&self, listener: mpsc::Sender<Dropped>) {
        let mut slot = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(listener);
    }

    /// Takes so much from the store's part of the budget; tells whether that is another part than
    /// before.
    pub(super) fn take(&self, bytes: u64) -> bool {
        self.taken.swap(bytes, Ordering::Relaxed) != bytes
    }

    /// Takes more if it is needed; tells whether it was.
    pub(super) fn take_needed(&self) -> bool {
        let needed = self.needed();
        self.taken.fetch_max(needed, Ordering::Relaxed) < needed
    }

    /// What would be enough, with a step to spare: so that the border does not move to and fro.
    pub(super) fn enough(&self) -> u64 {
        self.needed() + self.step
    }

    /// Forgets a file; its bytes.
    pub(super) fn forget(&self, set: &Stamp) -> u64 {
        self.lock().remove(set).map_or(0, |held| held.bytes)
    }

    pub(super) fn path(&self, set: &Stamp) -> PathBuf {
        self.dir.join(format!("{set:?}"))
    }

    pub(super) fn part(&self, set: &Stamp) -> PathBuf {
        self.path(set).with_extension(PART)
    }

    fn spare(&self, set: &Stamp) -> PathBuf {
        self.path(set).with_extension(SPARE)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a file that is about to be written; false when there is one already, or one is on
    /// its way.
    pub(super) fn enter(&self, name: &EntryName, set: Stamp) -> bool {
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
            read: Reading::default(),
        };
        index.files.insert(set, held);
        true
    }

    /// Counts what a file that is being written needs to be so long; gives what has to go for
    /// that, which is no longer found. `None` when there is no room.
    pub(super) fn reserve(&self, set: &Stamp, length: u64) -> Option<Gone> {
        let mut index = self.lock();
        let more = length.saturating_sub(index.files.get(set)?.bytes);
        let gone = index.make_room(more, self.max)?;
        index.files.get_mut(set)?.bytes += more;
        index.bytes += more;
        Some(gone)
    }

    /// Counts a file that has been written as what it is long.
    pub(super) fn is_whole(&self, set: &Stamp, length: u64) {
        let mut index = self.lock();
        let Some(held) = index.files.get_mut(set) else {
            return;
        };
        let less = held.bytes.saturating_sub(length);
        held.bytes -= less;
        held.state = State::Whole;
        index.bytes -= less;
    }

    /// What the files need of the budget, in steps.
    fn needed(&self) -> u64 {
        let bytes = self.lock().bytes;
        (bytes.div_ceil(self.step.max(1)) * self.step).min(self.max)
    }

    pub(super) fn set_state(&self, set: &Stamp, state: State) {
        if let Some(held) = self.lock().files.get_mut(set) {
            held.state = state;
        }
    }

    pub(super) fn unpin(&self, set: &Stamp) {
        if let Some(held) = self.lock().files.get_mut(set) {
            held.pins = held.pins.saturating_sub(1);
        }
    }

    /// Notes that a file is used; to be held as long as it is read. `None` when it is not whole,
    /// or not there.
    pub(super) fn touch(&self, set: &Stamp, pin: bool) -> Option<Reading> {
        let mut index = self.lock();
        index.uses += 1;
        let uses = index.uses;
        let held = index.files.get_mut(set)?;
        if held.state != State::Whole {
            return None;
        }
        held.used = uses;
        held.pins += u32::from(pin);
        Some(Reading::clone(&held.read))
    }

    /// To be held as long as a file is read that may still be written. `None` when it is not there.
    pub(super) fn reading(&self, set: &Stamp) -> Option<Reading> {
        let index = self.lock();
        index.files.get(set).map(|held| Reading::clone(&held.read))
    }

    /// Forgets a file that is whole and removes it. Blocks.
    pub(super) fn remove(&self, set: &Stamp) {
        let mut index = self.lock();
        let whole = |held: &Held| held.state == State::Whole;
        if index.files.get(set).is_some_and(whole) {
            index.remove(set);
            drop(index);
            let _ = fs::remove_file(self.path(set));
        }
    }

    /// What the sweep is to look at next: abandoned files and whole ones.
    pub(super) fn due(&self) -> (Vec<Stamp>, Vec<(Stamp, EntryName)>) {
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

    pub(super) fn tell(&self, dropped: Dropped) {
        let listener = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*listener {
            // One that is full has enough to do: chunks elsewhere end by themselves.
            let _ = listener.try_send(dropped);
        }
    }
}

impl Index {
    fn remove(&mut self, set: &Stamp) -> Option<Held> {
        let held = self.files.remove(set)?;
        self.bytes = self.bytes.saturating_sub(held.bytes);
        Some(held)
    }
}
