//! Chunks of large values in Redis: plain strings under names of their own, spread over the slots.
//!
//! ```text
//! {key_prefix}!chunk:<set, 32 hex digits>:<index>     value: bytes of the value
//! ```
//! No namespace begins with an exclamation mark, so no entry has such a name. Under the daemon's
//! own prefix, although that is tracked: an ACL user, a shared Redis and whoever cleans up after us
//! know only of that (ADR 0014).
//!
//! They go over a connection of their own, opened when it is first needed: a small request never
//! waits behind a megabyte. What is sent on it is harmless whenever it arrives, because a chunk
//! never changes; so its loss is not the loss of the link, and it is opened anew.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fred::types::Value;
use rustls::ClientConfig;
use tokio::sync::{Mutex, Semaphore};

use super::{
    Result, SharedTier, Target,
    asking::Asking,
    call::{Call, bytes_of, count_of},
    connection::{Connection, Metering},
    settings::Settings,
    trouble::{SharedError, Trouble, unexpected},
};
use crate::{
    config::SharedConfig,
    record::{CHUNK_BYTES, Manifest},
    stamp::Stamp,
};

/// Chunks on their way at once, of all transfers together.
const IN_FLIGHT_MAX: usize = 8;
/// Commands without values that are sent in one go.
const BATCH: u32 = 256;

/// The connection for chunks, and what it is opened with.
pub(super) struct Bulk {
    at: Target,
    config: SharedConfig,
    tls: Option<Arc<ClientConfig>>,
    client_name: String,
    open: Mutex<Option<Arc<Connection>>>,
    permits: Semaphore,
}

impl Bulk {
    pub(super) fn new(
        at: &Target,
        config: &SharedConfig,
        tls: Option<Arc<ClientConfig>>,
        client_name: &str,
    ) -> Self {
        Self {
            at: at.clone(),
            config: config.clone(),
            tls,
            client_name: client_name.to_owned(),
            open: Mutex::default(),
            permits: Semaphore::new(IN_FLIGHT_MAX),
        }
    }

    fn name(&self, set: &Stamp, index: u32) -> Bytes {
        format!("{}!chunk:{set:?}:{index}", self.config.key_prefix).into()
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|it| !it.has_ended()) {
            return Ok(Arc::clone(connection));
        }
        let settings = Settings::new(&self.at, &self.config, self.tls.clone());
        let asking = Asking::new(&self.config, self.tls.clone(), &self.client_name);
        let opened = Connection::open(settings, asking, &self.client_name).await?;
        let opened = Arc::new(opened);
        *open = Some(Arc::clone(&opened));
        Ok(opened)
    }

    async fn calls(&self, calls: Vec<Call>) -> Result<Vec<Result<Value>>> {
        let connection = self.connection().await?;
        connection.calls(calls, Metering::Exempt).await
    }

    async fn one(&self, call: Call) -> Result<Value> {
        let closed = |_| SharedError::new(Trouble::Lost, "the connection to Redis has ended");
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let mut replies = self.calls(vec![call]).await?;
        replies.pop().unwrap_or_else(|| Err(unexpected("a chunk")))
    }

    /// Nobody waits any longer.
    pub(super) fn give_up(&self, reason: &str) {
        // One that is being opened now is found ended by whoever owns it.
        if let Ok(mut open) = self.open.try_lock()
            && let Some(connection) = open.take()
        {
            connection.lose(SharedError::new(Trouble::Lost, reason));
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.open.lock().await.take() {
            connection.close().await;
        }
    }
}

impl SharedTier {
    /// Writes a chunk for `lifetime`.
    pub async fn put_chunk(
        &self,
        set: &Stamp,
        index: u32,
        bytes: Bytes,
        lifetime: Duration,
    ) -> Result<()> {
        let name = self.bulk.name(set, index);
        let told = self
            .bulk
            .one(Call::write(&name, bytes, millis(lifetime), false));
        match bytes_of(told.await?).as_deref() {
            Some(b"OK") => Ok(()),
            _ => Err(unexpected("SET")),
        }
    }

    /// Gives the first chunks of a set this lifetime; tells whether all of them were there.
    pub async fn renew_chunks(&self, set: &Stamp, chunks: u32, lifetime: Duration) -> Result<bool> {
        let millis = millis(lifetime);
        let mut all = true;
        for from in (0..chunks).step_by(BATCH as usize) {
            let batch = from..chunks.min(from + BATCH);
            let renew = |index| {
                let call = Call::named("PEXPIRE").key(&self.bulk.name(set, index));
                call.number(millis)
            };
            for reply in self.bulk.calls(batch.map(renew).collect()).await? {
                all &= count_of("PEXPIRE", &reply?)? == 1;
            }
        }
        Ok(all)
    }

    /// Reads a chunk; `None` when it is not there as it should be. Shares the memory that it was
    /// read into: it is for passing on, not for keeping.
    pub async fn chunk(&self, manifest: &Manifest, index: u32) -> Result<Option<Bytes>> {
        let name = self.bulk.name(&manifest.set, index);
        // Waited for as long as for all that may be on their way with it.
        let told = self
            .bulk
            .one(Call::read(&name, CHUNK_BYTES * IN_FLIGHT_MAX))
            .await?;
        let value = match told {
            Value::Array(mut values) if values.len() == 1 => values.pop(),
            _ => None,
        };
        match value {
            Some(Value::Null) => Ok(None),
            value => {
                let bytes = value.and_then(bytes_of).ok_or_else(|| unexpected("MGET"))?;
                Ok(Some(bytes).filter(|bytes| manifest.vouches_for(index, bytes)))
            }
        }
    }

    /// Removes the first chunks of a set.
    pub async fn remove_chunks(&self, set: &Stamp, chunks: u32) -> Result<()> {
        for from in (0..chunks).step_by(BATCH as usize) {
            let batch = from..chunks.min(from + BATCH);
            let remove = |index| Call::remove(&[self.bulk.name(set, index)]);
            for reply in self.bulk.calls(batch.map(remove).collect()).await? {
                reply?;
            }
        }
        Ok(())
    }
}

fn millis(lifetime: Duration) -> i64 {
    let lifetime = lifetime.min(super::LIFETIME_MAX);
    i64::try_from(lifetime.as_millis().max(1)).unwrap_or(i64::MAX)
}
