//! Writing: one change of a name after the other (L2), small ones at once, large ones elsewhere.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Inner, LocalTier, closed,
    envelope::Envelope,
    store::{INLINE_BYTES_MAX, Store},
};
use crate::{
    clock::Timestamp,
    error::Result,
    key::EntryName,
    record::{Content, Record, is_lease},
    stamp::Stamp,
    tier::{Condition, Found, Leased, Mark, Stored},
};

impl LocalTier {
    /// Writes a record until `expires` if the condition holds; decided atomically. `mark` is kept
    /// beside it.
    pub async fn put_if(
        &self,
        name: &EntryName,
        record: &Record,
        expires: Timestamp,
        mark: Mark,
        condition: Condition,
    ) -> Result<Stored> {
        self.inner.let_refresh_keep_up().await;
        let lock = self.lock(name).await;
        let slice = match condition {
            Condition::Always => None,
            _ => Some(Arc::clone(&self.inner.slices).read_owned().await),
        };
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => self.head(name).await?.is_none(),
            Condition::Version(wanted) => self
                .head(name)
                .await?
                .is_some_and(|(head, ..)| head.stamp == wanted),
            Condition::Lease(wanted) => self
                .head_or_lease(name)
                .await?
                .is_some_and(|(head, ..)| head.stamp == wanted && head.content() == Content::Lease),
            Condition::AbsentOrSame => match self.record(name).await? {
                None => true,
                Some(found) if found.record.says_the_same(record)? => {
                    let head = *found.record.head();
                    return Ok(Stored::Kept {
                        head,
                        expires: found.expires,
                    });
                }
                Some(_) => false,
            },
        };
        if !holds {
            return Ok(Stored::Refused);
        }
        let value = self.wrap(record, expires, mark);
        self.change(name, Change::Put(value), (lock, slice)).await?;
        Ok(Stored::Written)
    }

    /// Gives a lease until `expires` if nothing is there, or nothing but an entry of the version
    /// `over`, whose place it takes, or a lease of another epoch than `mark`'s.
    pub async fn lease(
        &self,
        name: &EntryName,
        lease: &Record,
        expires: Timestamp,
        mark: Mark,
        over: Option<Stamp>,
    ) -> Result<Leased> {
        let lock = self.lock(name).await;
        let slice = Arc::clone(&self.inner.slices).read_owned().await;
        if let Some((head, until, there)) = self.head_or_lease(name).await? {
            let is_lease = head.content() == Content::Lease;
            if is_lease && there.epoch == mark.epoch {
                return Ok(Leased::Held(until));
            }
            if !is_lease && over != Some(head.stamp) {
                return Ok(Leased::Taken);
            }
        }
        let value = self.wrap(lease, expires, mark);
        self.change(name, Change::Lease(value), (lock, slice))
            .await?;
        Ok(Leased::Given)
    }

    /// Keeps a copy of what another tier has, if `holds` says so while the name is locked: so a
    /// copy that was overtaken on its way never replaces what overtook it.
    pub async fn fill(
        &self,
        name: &EntryName,
        found: &Found,
        holds: impl FnOnce() -> bool,
    ) -> Result<Stored> {
        let lock = self.lock(name).await;
        if !holds() {
            return Ok(Stored::Refused);
        }
        let value = self.wrap(&found.record, found.expires, found.mark);
        self.change(name, Change::Fill(value), lock).await?;
        Ok(Stored::Written)
    }

    fn wrap(&self, record: &Record, expires: Timestamp, mark: Mark) -> Vec<u8> {
        let bytes = record.as_bytes();
        let position = self
            .inner
            .position
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let envelope = Envelope {
            expires,
            position,
            mark,
        };
        envelope.wrap(bytes)
    }

    /// Removes whatever lies under a name; `guards` are held until the store has done so.
    pub(super) async fn remove(&self, name: &EntryName, guards: impl Send + 'static) -> Result<()> {
        self.change(name, Change::Remove, guards).await
    }

    /// Removes a record if it is of this version.
    pub async fn remove_version(&self, name: &EntryName, stamp: Stamp) -> Result<()> {
        let lock = self.lock(name).await;
        match self.head(name).await? {
            Some((head, ..)) if head.stamp == stamp => self.remove(name, lock).await,
            _ => Ok(()),
        }
    }

    /// Removes a record; tells whether a live one was there.
    pub(super) async fn delete_record(&self, name: &EntryName) -> Result<bool> {
        let lock = self.lock(name).await;
        let now = self.inner.clock.now();
        let doubtful = self.inner.health.doubts(name);
        let kept = self.inner.hot.get(name).is_some_and(|(envelope, record)| {
            now < envelope.expires && record.head().content() != Content::Lease
        });
        // A lease is removed like an entry, and is none.
        let end = |value: &[u8]| {
            let entry = Envelope::unwrap(value).filter(|(_, record)| !is_lease(record));
            entry.map(|(envelope, _)| envelope.expires)
        };
        let live = match self.stored(name, end).await {
            Ok(None) if !doubtful => {
                // What the store has dropped for space may still be in the hot set.
                self.inner.hot.changed(name);
                self.inner.changes.changed(name);
                return Ok(kept);
            }
            Ok(found) => found.flatten().is_some_and(|expires| now < expires),
            // Unreadable or not: it has to go.
            Err(_) => false,
        };
        self.change(name, Change::Invalidate, lock).await?;
        Ok(live && !doubtful)
    }

    /// Changes a name at once if that needs no waiting, otherwise on a blocking thread. There it
    /// goes on when the caller has gone: the guards go with it.
    async fn change(
        &self,
        name: &EntryName,
        change: Change,
        guards: impl Send + 'static,
    ) -> Result<()> {
        let told = change.is_told();
        if self.inner.health.doubt(name) {
            self.inner.hot.changed(name);
            self.inner.tell(name, told);
            return Err(self.inner.health.unavailable());
        }
        if change.is_small() {
            let slot = self.inner.store.read().await;
            let store = slot.as_ref().ok_or_else(closed);
            let changed = store.and_then(|store| change.apply_at_once(store, name.as_bytes()));
            match changed {
                Ok(false) => {}
                changed => {
                    self.inner.hot.changed(name);
                    let changed = changed.map(drop);
                    let changed = changed.map_err(|error| self.inner.failed(name, error));
                    self.inner.tell(name, told);
                    return changed;
                }
            }
        }
        let (inner, own) = (Arc::clone(&self.inner), name.clone());
        let changed = self.blocking(move |store| {
            let _guards = guards;
            let changed = change.apply(store, own.as_bytes());
            inner.hot.changed(&own);
            let changed = changed.map_err(|error| inner.failed(&own, error));
            inner.tell(&own, told);
            changed
        });
        let changed = changed.await;
        if changed.is_err() {
            // Also when the store was closed for repair before the change came to it.
            self.inner.health.doubt(name);
            self.inner.tell(name, told);
        }
        changed
    }
}

impl Inner {
    /// Tells watchers, once reads no longer return what was there before.
    fn tell(&self, name: &EntryName, told: bool) {
        if told {
            self.changes.changed(name);
        }
    }
}

enum Change {
    /// A new value.
    Put(Vec<u8>),
    /// A copy of what another tier has.
    Fill(Vec<u8>),
    /// A lease.
    Lease(Vec<u8>),
    /// What is no longer of use.
    Remove,
    /// What somebody wished away.
    Invalidate,
}

impl Change {
    fn is_small(&self) -> bool {
        match self {
            Self::Put(value) | Self::Fill(value) | Self::Lease(value) => {
                value.len() <= INLINE_BYTES_MAX
            }
            Self::Remove | Self::Invalidate => true,
        }
    }

    /// Whether watchers are told.
    fn is_told(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Invalidate)
    }

    fn apply_at_once(&self, store: &Store, name: &[u8]) -> Result<bool> {
        match self {
            Self::Put(value) | Self::Fill(value) | Self::Lease(value) => {
                store.try_write(name, value)
            }
            Self::Remove | Self::Invalidate => store.try_delete(name),
        }
    }

    fn apply(&self, store: &Store, name: &[u8]) -> Result<()> {
        match self {
            Self::Put(value) | Self::Fill(value) | Self::Lease(value) => store.write(name, value),
            Self::Remove | Self::Invalidate => store.delete(name),
        }
    }
}
