//! The bytes that a stream of Read hands out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};

use super::{AHEAD, Chunks};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    record::CHUNK_BYTES,
};

/// The bytes of a value, as they are asked for.
pub struct Body {
    /// Of a value that is not in chunks, or the first chunk.
    ready: Option<Bytes>,
    chunked: Option<Chunked>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

struct Chunked {
    engine: Arc<Engine>,
    chunks: Chunks,
    /// In order, behind the one that is ready.
    ahead: FuturesOrdered<BoxFuture<'static, Option<Bytes>>>,
    /// The next to be fetched.
    fetch: u32,
    /// The next to be handed out.
    index: u32,
    /// Byte to go on at, and where to end.
    at: u64,
    end: u64,
}

impl Body {
    pub(super) fn nothing() -> Self {
        Self {
            ready: None,
            chunked: None,
        }
    }

    /// Of a value that is here.
    pub(super) fn whole(value: Bytes) -> Self {
        Self {
            ready: Some(value),
            chunked: None,
        }
    }

    /// Of a value in chunks, the first of which is here unless none is asked for.
    pub(super) fn of_chunks(
        engine: Arc<Engine>,
        (chunks, ready): (Chunks, Option<Bytes>),
        (at, end): (u64, u64),
    ) -> Self {
        let index = chunks.manifest.chunk_at(at);
        Self {
            ready,
            chunked: Some(Chunked {
                engine,
                chunks,
                ahead: FuturesOrdered::new(),
                fetch: index + 1,
                index,
                at,
                end,
            }),
        }
    }

    /// Whether it is read chunk by chunk.
    pub(super) fn is_chunked(&self) -> bool {
        self.chunked.is_some()
    }

    /// The next bytes, at most 1 MiB; `None` at the end. `Interrupted` when a chunk has gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(chunked) = &mut self.chunked else {
            let Some(ready) = self.ready.as_mut().filter(|it| !it.is_empty()) else {
                return Ok(None);
            };
            return Ok(Some(ready.split_to(ready.len().min(CHUNK_BYTES))));
        };
        if chunked.at >= chunked.end {
            return Ok(None);
        }
        let ready = self.ready.take();
        chunked.next(ready).await.map(Some)
    }
}

impl Chunked {
    async fn next(&mut self, ready: Option<Bytes>) -> Result<Bytes> {
        let manifest = self.chunks.manifest.clone();
        let last = manifest.chunk_at(self.end - 1);
        while self.ahead.len() < AHEAD && self.fetch <= last {
            let (engine, chunks, index) =
                (Arc::clone(&self.engine), self.chunks.clone(), self.fetch);
            let fetch = async move { engine.chunk(&chunks, index).await };
            self.ahead.push_back(fetch.boxed());
            self.fetch += 1;
        }
        let chunk = match ready {
            Some(chunk) => Some(chunk),
            None => self.ahead.next().await.flatten(),
        };
        let Some(chunk) = chunk else {
            let text = "value: part of it went away while it was read, and what was sent is not \
                        the value; read it again";
            return Err(Error::new(Kind::Interrupted, text));
        };
        let start = manifest.start_of(self.index);
        let from = usize::try_from(self.at - start).unwrap_or(usize::MAX);
        let to = usize::try_from(self.end - start).map_or(chunk.len(), |to| to.min(chunk.len()));
        self.index += 1;
        self.at = start + to as u64;
        Ok(chunk.slice(from..to))
    }
}
