//! Chunks on their way to Redis.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    engine::Shared,
    error::{Error, Kind, Result},
    stamp::Stamp,
};

/// Lifetime of chunks in Redis while their stream lasts.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(120);
/// After so long their lifetime is renewed. The front door gives up on a caller who sends nothing
/// before the rest of it is over.
const RENEW_AFTER: Duration = Duration::from_secs(30);

/// The chunks of one value; removed again unless they are kept.
pub(super) struct InRedis<'a> {
    shared: &'a Shared,
    set: Stamp,
    /// How many were sent.
    chunks: u32,
    renewed: Instant,
    /// The next one.
    pieces: Vec<Bytes>,
    /// The one before it, as long as it is under way.
    sending: Option<BoxFuture<'static, Result<()>>>,
}

impl Drop for InRedis<'_> {
    fn drop(&mut self) {
        if self.chunks > 0 {
            self.shared.sweeps.abandon(self.set, self.chunks);
        }
    }
}

impl<'a> InRedis<'a> {
    pub(super) fn new(shared: &'a Shared, set: Stamp) -> Self {
        Self {
            shared,
            set,
            chunks: 0,
            renewed: Instant::now(),
            pieces: Vec::new(),
            sending: None,
        }
    }

    /// Adds to the next chunk.
    pub(super) fn gather(&mut self, piece: Bytes) {
        self.pieces.push(piece);
    }

    /// Begins to send what was gathered, once the chunk before has arrived.
    pub(super) async fn send(&mut self) -> Result<()> {
        self.sent().await?;
        if self.renewed.elapsed() > RENEW_AFTER {
            self.live(UPLOAD_LIFETIME).await?;
            self.renewed = Instant::now();
        }
        let away = || Error::new(Kind::Unavailable, "the shared tier cannot be reached");
        let link = self.shared.coherence.link().ok_or_else(away)?;
        let bytes = match &*self.pieces {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        self.pieces.clear();
        let (set, index) = (self.set, self.chunks);
        // Counted before it is sent: what was given up on may arrive.
        self.chunks += 1;
        let put = async move {
            let put = link.tier().put_chunk(&set, index, bytes, UPLOAD_LIFETIME);
            put.await.map_err(of_redis)
        };
        self.sending = Some(put.boxed());
        Ok(())
    }

    /// Whether a chunk is under way.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Waits until what is under way has arrived, which it does only while somebody waits. Cancel
    /// safe.
    pub(super) async fn sent(&mut self) -> Result<()> {
        let Some(sending) = &mut self.sending else {
            return Ok(());
        };
        let done = sending.await;
        self.sending = None;
        done
    }

    /// Gives all chunks this lifetime from now on.
    pub(super) async fn live(&mut self, lifetime: Duration) -> Result<()> {
        let gone = || Error::new(Kind::Unavailable, "chunks have gone from Redis already");
        let link = self.shared.coherence.link().ok_or_else(gone)?;
        let renew = link.tier().renew_chunks(&self.set, self.chunks, lifetime);
        match renew.await.map_err(of_redis)? {
            true => Ok(()),
            false => Err(gone()),
        }
    }

    pub(super) fn keep(mut self) {
        self.chunks = 0;
    }
}

fn of_redis(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unavailable, error.to_string())
}
