//! A large value on its way to the tiers, chunk by chunk.

use std::{pin::pin, time::Instant};

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use super::{CHUNKS_OUTLIVE, Draft, Uploaded, check_digest, in_redis::InRedis};
use crate::{
    engine::{Engine, Outcome, Shared, WriteMode, placed::Placed, shared::shared_is_away},
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::{CHUNK_BYTES, Checksum, Digest, Manifest},
    stamp::Stamp,
    steps::Steps,
    tier::local::LargeWriter,
};

/// Written to the file at once: few calls, and all of it still in the processor's cache.
const WRITE_BYTES: usize = 256 << 10;

impl Engine {
    /// Begins to write a large value to the tiers that take it. `Unavailable` when none does.
    pub(super) async fn begin_upload<'a>(
        &'a self,
        namespace: &Namespace,
        key: &Key,
        draft: &Draft,
    ) -> Result<Upload<'a>> {
        let detached = |it: &Shared| !it.coherence.is_attached();
        if draft.options.mode == WriteMode::Shared
            && self.shared_for(namespace).is_some_and(detached)
        {
            return Err(shared_is_away("options.mode: SHARED", ""));
        }
        let set = self.stamper.next();
        let size = draft.size.unwrap_or(0);
        let mut upload = Upload {
            engine: self,
            set,
            file: None,
            local: Outcome::Skipped,
            redis: None,
            shared: Outcome::Skipped,
            shared_max: namespace
                .policy
                .shared_value_max
                .map_or(u64::MAX, |it| it.0),
            checksums: Vec::new(),
            checksum: Checksum::default(),
            in_chunk: 0,
            unwritten: Vec::new(),
            unwritten_bytes: 0,
            hasher: draft.digest.map(|_| Context::new(&SHA256)),
            bytes: 0,
        };
        if namespace.uses_local() && size <= self.local.large_bytes_max() {
            let name = EntryName::new(&namespace.name, key);
            let begun = self.local.begin_large(&name, set, size).await;
            let begun = begun.map(|file| {
                upload.file = file;
            });
            upload.note_local(begun);
        }
        let shared = self.shared_for(namespace).filter(|it| {
            let attached = it.coherence.is_attached();
            attached && draft.options.mode != WriteMode::Local && size <= upload.shared_max
        });
        if let Some(shared) = shared {
            upload.redis = Some(InRedis::new(shared, set));
            upload.shared = Outcome::Applied;
        }
        upload.check_somewhere()?;
        Ok(upload)
    }
}

/// A value on its way to the tiers.
pub(super) struct Upload<'a> {
    engine: &'a Engine,
    set: Stamp,
    file: Option<LargeWriter>,
    /// What becomes of it in the local tier.
    local: Outcome,
    redis: Option<InRedis<'a>>,
    /// What becomes of it in the shared tier.
    shared: Outcome,
    shared_max: u64,
    checksums: Vec<u64>,
    /// Of the chunk at hand, and its bytes so far.
    checksum: Checksum,
    in_chunk: usize,
    /// What the file does not have yet.
    unwritten: Vec<Bytes>,
    unwritten_bytes: usize,
    hasher: Option<Context>,
    bytes: u64,
}

impl Upload<'_> {
    fn note_local(&mut self, done: Result<()>) {
        self.local = Outcome::Applied;
        if let Err(error) = done {
            tracing::debug!(%error, "the local tier does not take a large value");
            self.file = None;
            self.local = Outcome::Failed;
        }
    }

    fn note_shared(&mut self, done: Result<()>) {
        if let Err(error) = done {
            tracing::debug!(%error, "the shared tier does not take a large value");
            self.redis = None;
            self.shared = Outcome::Failed;
        }
    }

    fn check_somewhere(&self) -> Result<()> {
        if self.file.is_some() || self.redis.is_some() {
            return Ok(());
        }
        let max = self.engine.local.large_bytes_max();
        let text = format!(
            "value: no tier takes it: the local tier takes large values of up to {max} bytes \
             (local.disk_budget) and the shared one is out of reach, too small or left out"
        );
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Stores the next bytes in both tiers, while the chunk before is on its way to Redis. An error
    /// when neither tier has all of them. Blocks for as long as it takes to copy them to a file.
    pub(super) async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let here = bytes.len().min(CHUNK_BYTES - self.in_chunk);
            self.take_piece(bytes.split_to(here)).await;
            if self.in_chunk == CHUNK_BYTES {
                self.end_chunk().await;
            }
            self.check_somewhere()?;
        }
        Ok(())
    }

    /// Takes what fits into the chunk at hand.
    async fn take_piece(&mut self, piece: Bytes) {
        self.in_chunk += piece.len();
        self.bytes += piece.len() as u64;
        self.checksum.update(&piece);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        if self.file.is_some() && self.bytes > self.engine.local.large_bytes_max() {
            self.file = None;
            self.local = Outcome::Skipped;
        }
        if self.redis.is_some() && self.bytes > self.shared_max {
            self.redis = None;
            self.shared = Outcome::Skipped;
        }
        if let Some(redis) = &mut self.redis {
            redis.gather(piece.clone());
        }
        if self.file.is_some() {
            self.unwritten_bytes += piece.len();
            self.unwritten.push(piece);
            if self.unwritten_bytes >= WRITE_BYTES {
                self.flush().await;
            }
        }
    }

    async fn flush(&mut self) {
        self.unwritten_bytes = 0;
        if let Some(file) = &mut self.file {
            let done = file.append(&self.unwritten).await;
            self.note_local(done);
        }
        self.unwritten.clear();
    }

    async fn end_chunk(&mut self) {
        self.in_chunk = 0;
        self.flush().await;
        self.checksums.push(self.checksum.end());
        if let Some(redis) = &mut self.redis {
            let done = redis.send().await;
            self.note_shared(done);
        }
    }

    /// Waits for something while a chunk is on its way to Redis.
    pub(super) async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        if let Some(redis) = self.redis.as_mut().filter(|it| it.is_sending()) {
            tokio::select! {
                biased;
                done = redis.sent() => self.note_shared(done),
                waited = &mut wait => return waited,
            }
        }
        wait.await
    }

    /// All has come: checks the digests and makes it visible.
    pub(super) async fn end(
        mut self,
        (namespace, key, draft): (&Namespace, &Key, &Draft),
        told: Option<Digest>,
        (steps, begun): (&Steps, Instant),
    ) -> Result<Uploaded> {
        if self.in_chunk > 0 {
            self.end_chunk().await;
        }
        if let Some(hasher) = self.hasher.take() {
            let is = hasher.finish();
            for wanted in [draft.digest, told].into_iter().flatten() {
                check_digest(&wanted, is.as_ref())?;
            }
        }
        let mut pinned = None;
        if let Some(file) = self.file.take() {
            let finished = file.finish().await;
            self.note_local(finished.map(|it| pinned = Some(it)));
        }
        let size = self.bytes;
        let known = draft.digest.or(told);
        let manifest = Manifest::new(self.set, size, std::mem::take(&mut self.checksums), known);
        if draft.digest.is_none()
            && let Some(wanted) = told
        {
            read_digest(self.engine, &manifest, &wanted).await?;
        }
        if let Some(redis) = &mut self.redis {
            let sent = redis.sent().await;
            self.note_shared(sent);
        }
        if let Some(redis) = &mut self.redis {
            let now = self.engine.now();
            let (_, expires) = self.engine.times(namespace, draft.options.ttl);
            let lifetime = expires.since(now) + CHUNKS_OUTLIVE;
            let renewed = redis.live(lifetime).await;
            self.note_shared(renewed);
        }
        let placed = Placed::InChunks {
            local: self.local,
            shared: self.shared,
        };
        if placed.is_not_local() && placed.is_not_in_redis() {
            let text = "value: no tier could keep all of it";
            return Err(Error::new(Kind::Unavailable, text));
        }
        if draft.options.mode == WriteMode::Shared && self.shared == Outcome::Failed {
            let text = "options.mode: SHARED, but the shared tier did not take the value";
            return Err(Error::new(Kind::Unavailable, text));
        }
        let put = self
            .engine
            .put_of(namespace, key, draft, (&manifest, placed), steps)
            .await?;
        let own = put.record.head().stamp;
        let written = self.engine.publish(&put, begun).await?;
        // The same content was there already and stays: this copy of it goes.
        if written.stamp == own
            && let Some(redis) = self.redis.take()
        {
            redis.keep();
        }
        drop(pinned);
        Ok(Uploaded { written, size })
    }
}

/// The digest came with the end only: what was stored is read again.
async fn read_digest(engine: &Engine, manifest: &Manifest, wanted: &Digest) -> Result<()> {
    let mut hasher = Context::new(&SHA256);
    let read = engine.written_chunks(manifest, |it| hasher.update(it));
    read.await?;
    check_digest(wanted, hasher.finish().as_ref())
}
