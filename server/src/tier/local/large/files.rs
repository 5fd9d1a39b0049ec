//! The files on the disk: made, filled, swept. All of it blocks.

use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::time::{MissedTickBehavior, interval};

use super::{Dropped, VALUE_AT, bytes_of};
use crate::{
    clock::Timestamp,
    error::{Error, Kind, Result},
    key::EntryName,
    record::{CHUNK_BYTES, Record},
    stamp::Stamp,
    tier::local::{Inner, closed, envelope::Envelope, off_thread},
};

const MAGIC: &[u8; 8] = b"PNRL\x01\0\0\0";
const NAME_AT: usize = 12;
/// Pieces in one call, the least that systems allow (IOV_MAX).
const SLICES_MAX: usize = 16;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Inner {
    /// What the store's own files may take, as the budget is divided now.
    pub(in super::super) fn data_files(&self) -> u64 {
        self.sizes.data_files - self.large.taken()
    }

    /// A file that will be so long, or longer.
    pub(super) fn create_large(&self, name: &EntryName, set: &Stamp, length: u64) -> Result<File> {
        self.large.reuse(set, length);
        self.room(set, VALUE_AT)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.large.part(set))
            .map_err(unusable)?;
        let length = u32::try_from(name.as_bytes().len()).unwrap_or(u32::MAX);
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&length.to_le_bytes());
        head.extend_from_slice(name.as_bytes());
        file.write_all_at(&head, 0).map_err(unusable)?;
        Ok(file)
    }

    /// Writes the next pieces of a file: makes room for it first in the index, then on the disk,
    /// then in the store's part of the budget. Blocks.
    pub(super) async fn append_large(
        &self,
        (file, set): (&File, &Stamp),
        at: u64,
        pieces: &[Bytes],
    ) -> Result<()> {
        self.room(set, at + bytes_of(pieces))?;
        if self.large.take_needed() {
            let slot = self.store.read().await;
            let store = slot.as_ref().ok_or_else(closed)?;
            store.limit_data_files(self.data_files())?;
        }
        write_at(file, at, pieces).map_err(unusable)
    }

    fn room(&self, set: &Stamp, length: u64) -> Result<()> {
        let Some(gone) = self.large.reserve(set, length) else {
            let text = format!(
                "local.disk_budget: large values may take {} bytes of it, and others are being \
                 written",
                self.large.max()
            );
            return Err(Error::new(Kind::Overloaded, text));
        };
        self.large.unlink(gone);
        Ok(())
    }

    /// Gives a file that is so long its name.
    pub(super) fn finish_large(&self, file: &File, set: &Stamp, length: u64) -> Result<()> {
        // It may have been a longer one.
        file.set_len(length).map_err(unusable)?;
        fs::rename(self.large.part(set), self.large.path(set)).map_err(unusable)?;
        self.large.is_whole(set, length);
        Ok(())
    }

    /// Removes what nobody names, and gives back what is not needed. Blocks.
    fn sweep_large(&self) {
        let (abandoned, whole) = self.large.due();
        for set in &abandoned {
            let _ = fs::remove_file(self.large.part(set));
            let _ = fs::remove_file(self.large.path(set));
            // Last: whoever wants to write it again must not find what is left of it.
            self.large.forget(set);
        }
        let now = self.clock.now();
        // A disk in trouble has better use for what they take.
        let is_well = !self.health.is_failing();
        self.large.remove_spares(is_well.then_some(now));
        let slot = self.store.blocking_read();
        let Some(store) = &*slot else { return };
        for (set, name) in whole {
            let named = store.read(name.as_bytes(), |value| names(value, &set, now));
            // What cannot be read now is left for the next time.
            if matches!(named, Ok(None | Some(false)))
                && let Some(bytes) = self.large.retire(&set, now)
            {
                let chunks = bytes.saturating_sub(VALUE_AT).div_ceil(CHUNK_BYTES as u64);
                self.large.tell(Dropped {
                    name,
                    set,
                    chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
                });
            }
        }
        let enough = self.large.enough();
        if self.large.taken() > enough
            && self.large.take(enough)
            && let Err(error) = store.limit_data_files(self.data_files())
        {
            tracing::warn!(%error, "local tier: the budget could not be divided anew");
        }
    }
}

/// Sweeps once a second and when a writer has gone; never ends.
pub(in super::super) async fn run(inner: &Arc<Inner>) {
    let mut tick = interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = inner.large.swept().notified() => {}
        }
        if inner.large.is_empty() {
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

/// Writes pieces one after the other, as many as possible at once.
fn write_at(file: &File, mut at: u64, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|it| IoSlice::new(it)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let some = left.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &left[..some], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn set_of(file_name: &str) -> Option<Stamp> {
    let digits = file_name.strip_suffix(".part").unwrap_or(file_name);
    let number = u128::from_str_radix(digits, 16).ok()?;
    (digits.len() == 32).then(|| Stamp::from_bytes(number.to_be_bytes()))
}

pub(super) fn name_in(path: &Path) -> Option<EntryName> {
    let file = File::open(path).ok()?;
    let mut head = [0; NAME_AT];
    file.read_exact_at(&mut head, 0).ok()?;
    let length = u32::from_le_bytes(head[8..].try_into().ok()?) as usize;
    if head[..8] != *MAGIC || length as u64 + NAME_AT as u64 > VALUE_AT {
        return None;
    }
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, NAME_AT as u64).ok()?;
    EntryName::from_bytes(name)
}

pub(super) fn unusable(error: io::Error) -> Error {
    let text = "local tier: a large value could not be written";
    Error::new(Kind::Unavailable, text).caused_by(error)
}
