//! A large value on its way to the tiers, chunk by chunk.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tokio::task::{JoinError, spawn_blocking};

use super::{CHUNKS_OUTLIVE, Draft, Uploaded, check_digest};
use crate::{
    engine::{Engine, Outcome, Shared, WriteMode, placed::Placed, shared::shared_is_away},
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::{Digest, Manifest, checksum_of},
    stamp::Stamp,
    steps::Steps,
    tier::local::LargeWriter,
};

/// Lifetime of chunks in Redis while their stream lasts.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(120);
/// After so long their lifetime is renewed. The front door gives up on a caller who sends nothing
/// before the rest of it is over.
const RENEW_AFTER: Duration = Duration::from_secs(30);

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
            hasher: draft.digest.map(|_| Context::new(&SHA256)),
            bytes: 0,
        };
        if namespace.uses_local() && size <= self.local.large_bytes_max() {
            let name = EntryName::new(&namespace.name, key);
            let begun = self.local.begin_large(&name, set).await;
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
            upload.redis = Some(InRedis {
                shared,
                set,
                chunks: 0,
                renewed: Instant::now(),
            });
            upload.shared = Outcome::Applied;
        }
        upload.check_somewhere()?;
        Ok(upload)
    }
}

/// Chunks on their way to Redis; removed again unless they are kept.
struct InRedis<'a> {
    shared: &'a Shared,
    set: Stamp,
    chunks: u32,
    renewed: Instant,
}

impl Drop for InRedis<'_> {
    fn drop(&mut self) {
        if self.chunks > 0 {
            self.shared.sweeps.abandon(self.set, self.chunks);
        }
    }
}

impl InRedis<'_> {
    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        let away = || Error::new(Kind::Unavailable, "the shared tier cannot be reached");
        let link = self.shared.coherence.link().ok_or_else(away)?;
        let index = self.chunks;
        // Counted before it is sent: what was given up on may arrive.
        self.chunks += 1;
        let put = link
            .tier()
            .put_chunk(&self.set, index, bytes, UPLOAD_LIFETIME);
        put.await.map_err(of_redis)?;
        if self.renewed.elapsed() > RENEW_AFTER {
            self.live(UPLOAD_LIFETIME).await?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    /// Gives all chunks this lifetime from now on.
    async fn live(&self, lifetime: Duration) -> Result<()> {
        let gone = || Error::new(Kind::Unavailable, "chunks have gone from Redis already");
        let link = self.shared.coherence.link().ok_or_else(gone)?;
        let renew = link.tier().renew_chunks(&self.set, self.chunks, lifetime);
        match renew.await.map_err(of_redis)? {
            true => Ok(()),
            false => Err(gone()),
        }
    }

    fn keep(mut self) {
        self.chunks = 0;
    }
}

/// What is computed of each chunk.
struct Sums {
    checksum: u64,
    hasher: Option<Context>,
}

impl Sums {
    /// Blocks for as long as that takes.
    fn of(pieces: &[Bytes], mut hasher: Option<Context>) -> Self {
        if let Some(hasher) = &mut hasher {
            pieces.iter().for_each(|piece| hasher.update(piece));
        }
        let checksum = checksum_of(pieces);
        Self { checksum, hasher }
    }
}

/// Computes the sums of a chunk, and appends it where there is a file: off the thread that others
/// are served on, in one go.
async fn keep(
    file: Option<&mut LargeWriter>,
    pieces: Vec<Bytes>,
    hasher: Option<Context>,
) -> Result<(Sums, Option<Result<()>>)> {
    let panicked =
        |error: JoinError| Error::new(Kind::Internal, "a blocking call panicked").caused_by(error);
    let Some(file) = file else {
        let sums = spawn_blocking(move || Sums::of(&pieces, hasher));
        return Ok((sums.await.map_err(panicked)?, None));
    };
    let append = file.append_after(pieces, move |pieces| Sums::of(pieces, hasher));
    let (sums, done) = append.await?;
    Ok((sums, Some(done)))
}

fn of_redis(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unavailable, error.to_string())
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

    /// Stores the next chunk in both tiers. An error when neither has all of them.
    pub(super) async fn store(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        self.bytes += pieces.iter().map(|it| it.len() as u64).sum::<u64>();
        if self.redis.is_some() && self.bytes > self.shared_max {
            self.redis = None;
            self.shared = Outcome::Skipped;
        }
        if self.file.is_some() && self.bytes > self.engine.local.large_bytes_max() {
            self.file = None;
            self.local = Outcome::Skipped;
        }
        let for_redis = match (self.redis.is_some(), &*pieces) {
            (true, [one]) => one.clone(),
            (true, many) => many.concat().into(),
            (false, _) => Bytes::new(),
        };
        let hasher = self.hasher.take();
        let (file, redis) = (&mut self.file, &mut self.redis);
        let local = keep(file.as_mut(), pieces, hasher);
        let shared = async {
            match redis {
                Some(redis) => Some(redis.put(for_redis).await),
                None => None,
            }
        };
        let (local, shared) = tokio::join!(local, shared);
        let (sums, done) = local?;
        self.checksums.push(sums.checksum);
        self.hasher = sums.hasher;
        if let Some(done) = done {
            self.note_local(done);
        }
        if let Some(done) = shared {
            self.note_shared(done);
        }
        self.check_somewhere()
    }

    /// All has come: checks the digests and makes it visible.
    pub(super) async fn end(
        mut self,
        (namespace, key, draft): (&Namespace, &Key, &Draft),
        told: Option<Digest>,
        (steps, begun): (&Steps, Instant),
    ) -> Result<Uploaded> {
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
            self.read_digest(&manifest, &wanted).await?;
        }
        if let Some(redis) = &self.redis {
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

    /// The digest came with the end only: what was stored is read again.
    async fn read_digest(&self, manifest: &Manifest, wanted: &Digest) -> Result<()> {
        let mut hasher = Context::new(&SHA256);
        let read = self.engine.written_chunks(manifest, |it| hasher.update(it));
        read.await?;
        check_digest(wanted, hasher.finish().as_ref())
    }
}
