//! Removing: by name, by stamp, by prefix or pattern.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fred::types::{Value, config::Server};

use super::{
    DAMAGED_HEAD_BYTES, Result, SharedName, SharedSpace, SharedTier,
    call::{Call, bytes_of, count_of},
    connection::Metering,
    scripts::{REMOVE_OLDER, REMOVE_SAME},
    trouble::{SharedError, Trouble, unexpected},
};
use crate::{record::Record, stamp::Stamp, tier::local::Selection};

/// Keys that Redis looks at in one go of a scan; others wait meanwhile.
const SCAN_COUNT: i64 = 1000;
/// Keys that are removed in one go.
const REMOVE_MAX: usize = 250;

/// How the scans of one daemon get on, over all attachments.
#[derive(Debug, Default)]
pub struct Scans {
    running: AtomicU64,
    keys: AtomicU64,
}

impl Scans {
    /// Those under way, waiting ones included.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Keys of Redis looked at so far.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    fn run(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }
}

struct Running<'a>(&'a Scans);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedTier {
    /// Removes entries; tells how many were there. On an error some may have been removed.
    pub async fn delete(&self, names: &[SharedName]) -> Result<u64> {
        let keys: Vec<_> = names.iter().map(|name| name.as_bytes().clone()).collect();
        let mut removed = 0;
        for keys in keys.chunks(REMOVE_MAX) {
            removed += self.unlink(keys, Metering::Counted).await?;
        }
        Ok(removed)
    }

    /// Removes a damaged record unless another has taken its place. It is a miss either way.
    pub(super) async fn remove_damaged(&self, name: &SharedName, value: &Bytes) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        let head = &value[..value.len().min(DAMAGED_HEAD_BYTES)];
        let args = [Bytes::copy_from_slice(head), value.len().to_string().into()];
        // Whoever reads it next tries again.
        let _ = self.run(&REMOVE_SAME, name.as_bytes(), &args).await;
    }

    /// Removes a record whose chunks are not all there, unless another has taken its place.
    pub async fn remove_incomplete(&self, name: &SharedName, record: &Record) -> Result<()> {
        let bytes = record.as_bytes();
        let head = bytes.slice(..bytes.len().min(DAMAGED_HEAD_BYTES));
        let args = [head, bytes.len().to_string().into()];
        self.run(&REMOVE_SAME, name.as_bytes(), &args)
            .await
            .map(drop)
    }

    /// Removes what is older than a version, and what is no record; tells whether it did. Plain
    /// strings have no age: they are removed.
    pub async fn remove_older(&self, name: &SharedName, than: &Stamp) -> Result<bool> {
        if name.is_raw() {
            return Ok(self.delete(std::slice::from_ref(name)).await? > 0);
        }
        let than = Bytes::copy_from_slice(than.as_bytes());
        let removed = self.run(&REMOVE_OLDER, name.as_bytes(), &[than]).await?;
        Ok(count_of("a script", &removed)? > 0)
    }

    /// Removes the record of this version, if it is still there; tells whether it was.
    pub async fn remove_version(&self, name: &SharedName, stamp: &Stamp) -> Result<bool> {
        let stamp = Bytes::copy_from_slice(stamp.as_bytes());
        let removed = self.run(&REMOVE_SAME, name.as_bytes(), &[stamp]).await?;
        Ok(count_of("a script", &removed)? > 0)
    }

    /// Removes the selected entries of a namespace, of a raw one every string that is selected;
    /// with `older` only what is older than that version. Tells how many.
    ///
    /// Goes through all keys of all masters without blocking them. What was there before it began
    /// is removed, what comes meanwhile perhaps. On an error some have been removed. `All` of a raw
    /// namespace without a prefix is refused.
    ///
    /// Slots of a Cluster may move meanwhile. A key that was missed because it did has left its
    /// master before that one's turn was over, so it has been with the new one since before a
    /// second round began, and is found there.
    pub async fn remove_selected(
        &self,
        space: &SharedSpace,
        selection: &Selection,
        older: Option<&Stamp>,
    ) -> Result<u64> {
        if space.prefix().is_empty() && matches!(selection, Selection::All) {
            let message = "this raw namespace has no raw_prefix, so all of it is the whole \
                           database; name keys, a prefix or a pattern, or configure raw_prefix";
            return Err(SharedError::new(Trouble::Unexpected, message));
        }
        let _running = self.scans.run();
        let closed = |_| SharedError::new(Trouble::Lost, "the connection to Redis has ended");
        let _permit = self.turns.acquire().await.map_err(closed)?;
        let before = self.connection.slots().await?;
        let mut removed = self.remove_everywhere(space, selection, older).await?;
        let Some(before) = before else {
            return Ok(removed);
        };
        let moving = before.iter().any(|slots| slots.contains('['));
        if moving || self.connection.slots().await?.as_ref() != Some(&before) {
            removed += self.remove_everywhere(space, selection, older).await?;
        }
        Ok(removed)
    }

    async fn remove_everywhere(
        &self,
        space: &SharedSpace,
        selection: &Selection,
        older: Option<&Stamp>,
    ) -> Result<u64> {
        let mut removed = 0;
        for master in self.connection.masters()? {
            let found = self.remove_selected_at(&master, space, selection, older);
            removed += found.await?;
        }
        Ok(removed)
    }

    async fn remove_selected_at(
        &self,
        master: &Option<Server>,
        space: &SharedSpace,
        selection: &Selection,
        older: Option<&Stamp>,
    ) -> Result<u64> {
        let pattern = space.pattern(selection);
        let older = older.filter(|_| !space.is_raw());
        let (mut removed, mut cursor) = (0, Bytes::from_static(b"0"));
        loop {
            let call = Call::named("SCAN").bytes(cursor).text("MATCH");
            let call = call.bytes(pattern.clone());
            let call = call.text("COUNT").number(SCAN_COUNT).at(master.clone());
            // Lists and hashes under the prefix of a raw namespace are somebody else's.
            let call = match space.is_raw() {
                true => call.text("TYPE").text("string"),
                false => call,
            };
            let mut replies = self.connection.calls(vec![call], Metering::Exempt).await?;
            let reply = replies.pop().ok_or_else(|| unexpected("SCAN"))??;
            let (next, mut keys) = page(reply).ok_or_else(|| unexpected("SCAN"))?;
            let looked_at = keys.len() as u64;
            self.scans.keys.fetch_add(looked_at, Ordering::Relaxed);
            keys.retain(|key| space.selects(selection, key));
            for keys in keys.chunks(REMOVE_MAX) {
                removed += match older {
                    None => self.unlink(keys, Metering::Exempt).await?,
                    Some(than) => self.remove_each_older(keys, than).await?,
                };
            }
            if &*next == b"0" {
                return Ok(removed);
            }
            cursor = Bytes::copy_from_slice(&next);
        }
    }

    async fn remove_each_older(&self, keys: &[Bytes], than: &Stamp) -> Result<u64> {
        let than = [Bytes::copy_from_slice(than.as_bytes())];
        let replies = self
            .run_each(&REMOVE_OLDER, keys, &than, Metering::Exempt)
            .await?;
        let mut removed = 0;
        for reply in replies {
            removed += count_of("a script", &reply?)?;
        }
        Ok(removed)
    }

    async fn unlink(&self, keys: &[Bytes], metering: Metering) -> Result<u64> {
        // Only keys of one slot go into one command of a Cluster.
        let calls = match self.connection.is_clustered() {
            true => keys.chunks(1).map(Call::remove).collect(),
            false => vec![Call::remove(keys)],
        };
        let mut removed = 0;
        for reply in self.connection.calls(calls, metering).await? {
            removed += count_of("UNLINK", &reply?)?;
        }
        Ok(removed)
    }
}

/// Cursor and keys of a page of a scan.
fn page(reply: Value) -> Option<(Bytes, Vec<Bytes>)> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let [cursor, keys] = <[Value; 2]>::try_from(parts).ok()?;
    let Value::Array(keys) = keys else {
        return None;
    };
    let keys: Option<Vec<_>> = keys.into_iter().map(bytes_of).collect();
    Some((bytes_of(cursor)?, keys?))
}
