//! Reading: the hot set, then the store's memory, then its files.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{LocalTier, closed, envelope::Envelope, store::Lookup};
use crate::{
    clock::Timestamp,
    error::{Kind, Result},
    key::EntryName,
    record::{Content, Head, Record},
    tier::{Found, Mark},
};

impl LocalTier {
    /// The fixed part of what is there, be it a lease.
    pub(super) async fn head_or_lease(
        &self,
        name: &EntryName,
    ) -> Result<Option<(Head, Timestamp, Mark)>> {
        let stored = match self.inner.hot.get(name) {
            Some((envelope, record)) => Ok(Some(Some((envelope, *record.head())))),
            None => self.stored(name, head_of).await,
        };
        let live = self.settle(name, stored).await?;
        Ok(live.map(|(envelope, head)| (head, envelope.expires, envelope.mark)))
    }

    /// The fixed part of a live record that is no lease, its end and its mark, without moving the
    /// value.
    pub async fn head(&self, name: &EntryName) -> Result<Option<(Head, Timestamp, Mark)>> {
        let there = self.head_or_lease(name).await?;
        Ok(there.filter(|(head, ..)| head.content() != Content::Lease))
    }

    /// A live record.
    pub(super) async fn record(&self, name: &EntryName) -> Result<Option<Found>> {
        if let Some(kept) = self.inner.hot.get(name) {
            return Ok(self
                .settle(name, Ok(Some(Some(kept))))
                .await?
                .and_then(found));
        }
        let ticket = self.inner.hot.ticket(name);
        let stored = self.stored(name, record_of).await;
        if let Ok(Some(Some((envelope, record)))) = &stored {
            self.inner.hot.keep(ticket, name, *envelope, record);
        }
        Ok(self.settle(name, stored).await?.and_then(found))
    }

    /// The live records of several names, in their order. What is not in memory is read in one go
    /// on a blocking thread.
    pub async fn get_many(&self, names: &[EntryName]) -> Vec<Result<Option<Found>>> {
        let mut stored = Vec::with_capacity(names.len());
        let mut on_disk = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if let Some(kept) = self.inner.hot.get(name) {
                stored.push(Ok(Some(Some(kept))));
                continue;
            }
            let ticket = self.inner.hot.ticket(name);
            stored.push(match self.stored_in_memory(name, record_of) {
                Ok(Lookup::Found(found)) => {
                    if let Some((envelope, record)) = &found {
                        self.inner.hot.keep(ticket, name, *envelope, record);
                    }
                    Ok(Some(found))
                }
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
                    (index, store.read(name.as_bytes(), record_of))
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
            settled.push(live.map(|live| live.and_then(found)));
        }
        settled
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
                self.inner.was_read(name, &envelope);
                Ok(Some((envelope, found)))
            }
            Ok(Some(None)) => self.drop_damaged(name).await,
            Err(error) if error.kind() == Kind::Corrupt => self.drop_damaged(name).await,
            Err(error) => Err(error),
        }
    }

    /// What the store holds under a name, live or not.
    pub(super) async fn stored<T: Send + 'static>(
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
        self.blocking(move |store| store.read(name.as_bytes(), read))
            .await
    }

    fn stored_in_memory<T>(&self, name: &EntryName, read: fn(&[u8]) -> T) -> Result<Lookup<T>> {
        // A store under repair is a tier that cannot be used now, not one to wait for.
        let slot = self.inner.store.try_read().map_err(|_| closed())?;
        slot.as_ref()
            .ok_or_else(closed)?
            .read_in_memory(name.as_bytes(), read)
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
        let intact = |value: &[u8]| head_of(value).is_some();
        match self.stored(name, intact).await {
            Ok(Some(true) | None) => {}
            // If it cannot be removed it stays in doubt, which is a miss as well.
            _ => drop(self.remove(name, lock).await),
        }
        Ok(None)
    }
}

fn head_of(value: &[u8]) -> Option<(Envelope, Head)> {
    let (envelope, record) = Envelope::unwrap(value)?;
    Some((envelope, Record::check(record).ok()?))
}

/// Copied out: what RocksDB returns pins a block, or is its own copy.
fn record_of(value: &[u8]) -> Option<(Envelope, Record)> {
    let (envelope, record) = Envelope::unwrap(value)?;
    Some((
        envelope,
        Record::decode(Bytes::copy_from_slice(record)).ok()?,
    ))
}

/// A lease is nothing to whoever looks for an entry.
fn found((envelope, record): (Envelope, Record)) -> Option<Found> {
    (record.head().content() != Content::Lease).then_some(Found {
        record,
        expires: envelope.expires,
        mark: envelope.mark,
    })
}
