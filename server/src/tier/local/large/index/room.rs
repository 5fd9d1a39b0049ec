//! Room for what is written: spare files, and what goes for it.

use std::{fs, sync::Arc, time::Duration};

use super::{Held, Index, Large, State};
use crate::{clock::Timestamp, stamp::Stamp};

/// How long a file that is not needed any more waits for a value that is written over it.
const SPARE_MAX: Duration = Duration::from_secs(60);
/// How many wait at most: about as many as are written at once.
const SPARES_MAX: usize = 4;

/// A file that nobody names and nobody reads. The next value is written over it: the system has
/// its blocks already, and often its pages.
pub(super) struct Spare {
    set: Stamp,
    bytes: u64,
    since: Timestamp,
}

/// What is to be removed from the disk.
#[derive(Default)]
pub(in super::super) struct Gone {
    spares: Vec<Stamp>,
    files: Vec<Stamp>,
}

impl Large {
    /// Makes a file the part of a set that will be so long: a spare one, or the one that would have
    /// to go for it. Without either there is none. Blocks.
    pub(in super::super) fn reuse(&self, set: &Stamp, length: u64) {
        let mut index = self.lock();
        let (from, bytes) = if let Some(spare) = index.spares.pop() {
            (self.spare(&spare.set), spare.bytes)
        } else if let Some((old, held)) = index.take_oldest(length, self.max) {
            (self.path(&old), held.bytes)
        } else {
            return;
        };
        if fs::rename(&from, self.part(set)).is_err() {
            index.bytes -= bytes;
            let _ = fs::remove_file(from);
        } else if let Some(held) = index.files.get_mut(set) {
            held.bytes = bytes;
        }
    }

    /// Forgets a whole file that nobody names; its bytes. It is kept for the next value unless it
    /// is being read. `None`, and it stays, when somebody is about to name it. Blocks.
    pub(in super::super) fn retire(&self, set: &Stamp, now: Timestamp) -> Option<u64> {
        let mut index = self.lock();
        if index.files.get(set)?.pins > 0 {
            return None;
        }
        let held = index.files.remove(set)?;
        let mut gone = Gone::default();
        if held.is_unread() && fs::rename(self.path(set), self.spare(set)).is_ok() {
            index.spares.push(Spare {
                set: *set,
                bytes: held.bytes,
                since: now,
            });
            let beyond = index.spares.len().saturating_sub(SPARES_MAX);
            gone.spares = index.forget_spares(beyond);
        } else {
            index.bytes -= held.bytes;
            gone.files.push(*set);
        }
        drop(index);
        self.unlink(gone);
        Some(held.bytes)
    }

    /// Removes spare files that have waited long enough: until `now`, or any time. Blocks.
    pub(in super::super) fn remove_spares(&self, now: Option<Timestamp>) {
        let mut index = self.lock();
        let is_old = |spare: &&Spare| now.is_none_or(|now| now.since(spare.since) >= SPARE_MAX);
        let old = index.spares.iter().take_while(is_old).count();
        let spares = index.forget_spares(old);
        drop(index);
        self.unlink(Gone {
            spares,
            files: Vec::new(),
        });
    }

    /// Removes files that are no longer found. Blocks.
    pub(in super::super) fn unlink(&self, gone: Gone) {
        let spares = gone.spares.iter().map(|set| self.spare(set));
        let files = gone.files.iter().map(|set| self.path(set));
        for path in spares.chain(files) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Held {
    fn may_go(&self) -> bool {
        self.state == State::Whole && self.pins == 0
    }

    /// Whether nobody reads it. It can be found through the index only: while that is locked,
    /// nobody begins to.
    fn is_unread(&self) -> bool {
        Arc::strong_count(&self.read) == 1
    }
}

impl Index {
    /// Takes out the least recently used file if it would have to go for so many bytes more; what
    /// it takes still counts. `None` also when it is being read.
    fn take_oldest(&mut self, bytes: u64, max: u64) -> Option<(Stamp, Held)> {
        if self.bytes + bytes <= max {
            return None;
        }
        let files = self.files.iter().filter(|(_, held)| held.may_go());
        let (set, held) = files.min_by_key(|(_, held)| held.used)?;
        let set = held.is_unread().then_some(*set)?;
        self.files.remove_entry(&set)
    }

    /// Forgets spare files, and then the least recently used ones, so that there is room; tells
    /// which. `None`, and nothing is forgotten, when that would not be enough.
    pub(super) fn make_room(&mut self, bytes: u64, max: u64) -> Option<Gone> {
        let mut beyond = (self.bytes + bytes).saturating_sub(max);
        if beyond == 0 {
            return Some(Gone::default());
        }
        let mut spares = 0;
        for spare in &self.spares {
            if beyond == 0 {
                break;
            }
            beyond = beyond.saturating_sub(spare.bytes);
            spares += 1;
        }
        let whole = self.files.iter();
        let mut whole: Vec<_> = whole
            .filter(|(_, held)| held.may_go())
            .map(|(set, held)| (held.used, *set, held.bytes))
            .collect();
        whole.sort_unstable();
        let mut files = Vec::new();
        for (_, set, bytes) in whole {
            if beyond == 0 {
                break;
            }
            beyond = beyond.saturating_sub(bytes);
            files.push(set);
        }
        (beyond == 0).then_some(())?;
        for set in &files {
            self.remove(set);
        }
        let spares = self.forget_spares(spares);
        Some(Gone { spares, files })
    }

    /// Forgets the oldest.
    fn forget_spares(&mut self, count: usize) -> Vec<Stamp> {
        let spares: Vec<_> = self.spares.drain(..count).collect();
        self.bytes -= spares.iter().map(|it| it.bytes).sum::<u64>();
        spares.into_iter().map(|it| it.set).collect()
    }
}
