//! Writing a value of any size as it comes: what is small becomes an ordinary entry, what is not
//! goes to the tiers chunk by chunk, and becomes visible with its manifest at the end.
//!
//! ```text
//! caller ─▶ Intake ─▶ chunk of 1 MiB ─┬─▶ checksum, SHA-256 ─┬─▶ file of the local tier
//!              ▲                      │   (blocking thread)  └─▶ Redis, for two minutes
//!              └── the next one, meanwhile
//! at the end: sizes and digests agree ─▶ the chunks in Redis get the entry's lifetime
//!             ─▶ the file gets its name ─▶ the manifest is put, as any other record
//! ```
//! At most two chunks of a stream are in memory. A tier that fails on the way is left out, as long
//! as the other one has it all. A stream that ends badly leaves nothing that could be found: its
//! file goes within a second, its chunks in Redis at once, or after two minutes when nobody is left
//! to remove them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ring::digest::{Context, SHA256, digest};
use tokio::task::spawn_blocking;

use super::{
    Engine, Outcome, PutOptions, ReadOptions, Shared, WriteMode, Written,
    placed::Placed,
    shared::shared_is_away,
    write::{Put, check, condition},
};
use crate::{
    entry::{Attributes, Entry},
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::{CHUNK_BYTES, Digest, Manifest, Record, checksum_of},
    stamp::Stamp,
    steps::Steps,
    tier::{
        Found,
        local::{LargeWriter, Pinned},
    },
};

/// Lifetime of chunks in Redis while their stream lasts.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(120);
/// After so long their lifetime is renewed. The front door gives up on a caller who sends nothing
/// before the rest of it is over.
const RENEW_AFTER: Duration = Duration::from_secs(30);
/// How much longer than the entry its chunks live in Redis: who begins to read at its end may
/// still get to the end of the value.
const CHUNKS_OUTLIVE: Duration = Duration::from_secs(10);

/// What is to be written, but for the value.
#[derive(Debug)]
pub struct Draft {
    /// The key.
    pub key: String,
    /// What is said about the value.
    pub attributes: Attributes,
    /// How to write.
    pub options: PutOptions,
    /// Bytes of the value, when they are known.
    pub size: Option<u64>,
    /// Its SHA-256, when it is known.
    pub digest: Option<Digest>,
}

/// What comes after the draft.
#[derive(Debug)]
pub enum Part {
    /// The next bytes.
    Chunk(Bytes),
    /// The end, with the SHA-256 when it is known by then.
    Finish(Option<Digest>),
}

/// A stream that has been written.
#[derive(Debug)]
pub struct Uploaded {
    /// As after a put.
    pub written: Written,
    /// Bytes of the value.
    pub size: u64,
}

impl Engine {
    /// Writes a value of any size. Errors as of a put, and `Invalid` for a stream that breaks a
    /// limit or does not agree with what it said about itself. With the digest of what is there
    /// already, `parts` are not read. Dropped half way it has written nothing.
    pub async fn write(
        &self,
        namespace: &str,
        draft: Draft,
        parts: impl Stream<Item = Result<Part>> + Send + Unpin,
        steps: &Steps,
    ) -> Result<Uploaded> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.write_in(&namespace, draft, parts, steps).await;
        Self::counted_write(&namespace, result)
    }

    async fn write_in(
        &self,
        namespace: &Namespace,
        draft: Draft,
        parts: impl Stream<Item = Result<Part>> + Send + Unpin,
        steps: &Steps,
    ) -> Result<Uploaded> {
        let begun = Instant::now();
        let policy = &namespace.policy;
        let key = Key::new(draft.key.as_str())?;
        check(policy, &draft.attributes, &draft.options)?;
        self.check_mode(namespace, draft.options.mode)?;
        let (limit, setting) = match policy.raw {
            true => (policy.max_value_size.0, "max_value_size (it is raw)"),
            false => (policy.max_stream_size.0, "max_stream_size"),
        };
        let mut intake = Intake {
            parts,
            limit,
            setting,
            size: draft.size,
            received: 0,
            rest: Bytes::new(),
            finish: None,
        };
        intake.check_size(draft.size.unwrap_or(0))?;
        let whole = (namespace, &key, &draft);
        if let Some(digest) = draft.digest
            && let Some(uploaded) = self.write_again(whole, &digest, steps, begun).await?
        {
            return Ok(uploaded);
        }
        // A raw value is never cut.
        let ordinary = if policy.raw {
            limit
        } else {
            CHUNK_BYTES as u64
        };
        let ordinary = usize::try_from(ordinary).unwrap_or(usize::MAX);
        let first = intake.chunk(ordinary).await?;
        if let Some(told) = intake.finish {
            intake.check_end()?;
            let entry = Entry {
                value: first.concat().into(),
                attributes: draft.attributes.clone(),
            };
            for wanted in [draft.digest, told].into_iter().flatten() {
                check_digest(&wanted, digest(&SHA256, &entry.value).as_ref())?;
            }
            let size = entry.value.len() as u64;
            let put = self.put_entry(namespace, &key, &entry, (draft.options, steps));
            let written = put.await?;
            return Ok(Uploaded { written, size });
        }
        let mut upload = self.begin_upload(namespace, &key, &draft).await?;
        let mut chunk = first;
        while !chunk.is_empty() {
            // The next one is received while this one is stored.
            let (stored, next) = tokio::join!(upload.store(chunk), intake.chunk(CHUNK_BYTES));
            stored?;
            chunk = next?;
        }
        intake.check_end()?;
        upload
            .end(whole, intake.finish.flatten(), (steps, begun))
            .await
    }

    /// The same content under the same key: only its record is written anew. `None` when it is not
    /// there, or not where it is wanted.
    async fn write_again(
        &self,
        (namespace, key, draft): (&Namespace, &Key, &Draft),
        wanted: &Digest,
        steps: &Steps,
        begun: Instant,
    ) -> Result<Option<Uploaded>> {
        let options = ReadOptions::default();
        let looked = self.look_at(namespace, key, options, steps).await?;
        let Some(found) = looked.found.filter(|_| !looked.stale) else {
            return Ok(None);
        };
        let size = found.record.head().value_bytes as u64;
        if draft.size.is_some_and(|it| it != size) {
            return Ok(None);
        }
        let manifest = match found.record.manifest()? {
            Some(manifest) if manifest.digest.as_ref() == Some(wanted) => manifest,
            Some(_) => return Ok(None),
            None => {
                let value = found.record.entry()?.value;
                if digest(&SHA256, &value).as_ref() != wanted {
                    return Ok(None);
                }
                let entry = Entry {
                    value,
                    attributes: draft.attributes.clone(),
                };
                let put = self.put_entry(namespace, key, &entry, (draft.options, steps));
                let written = put.await?;
                return Ok(Some(Uploaded { written, size }));
            }
        };
        let (pinned, placed) = self.find_again(namespace, draft, &found, &manifest).await;
        let wants_redis = draft.options.mode == WriteMode::Shared && placed.is_not_in_redis();
        if wants_redis || (placed.is_not_local() && placed.is_not_in_redis()) {
            return Ok(None);
        }
        let put = self
            .put_of(namespace, key, draft, (&manifest, placed), steps)
            .await?;
        let written = self.publish(&put, begun).await?;
        drop(pinned);
        Ok(Some(Uploaded { written, size }))
    }

    /// Where the chunks of an entry are, which will live as long as the draft wants.
    async fn find_again(
        &self,
        namespace: &Namespace,
        draft: &Draft,
        found: &Found,
        manifest: &Manifest,
    ) -> (Option<Pinned>, Placed) {
        let pinned = match namespace.uses_local() {
            true => self.local.pin_large(manifest.set),
            false => None,
        };
        let local = pinned
            .as_ref()
            .map_or(Outcome::Skipped, |_| Outcome::Applied);
        let mut shared = Outcome::Skipped;
        if let Some(tier) = self.shared_for(namespace)
            && let Some(link) = tier.coherence.link()
            && draft.options.mode != WriteMode::Local
        {
            // Not shorter than what is there, in case the condition does not hold.
            let now = self.now();
            let (_, expires) = self.times(namespace, draft.options.ttl);
            let lifetime = expires.since(now).max(found.expires.since(now)) + CHUNKS_OUTLIVE;
            let renew = link
                .tier()
                .renew_chunks(&manifest.set, manifest.chunks(), lifetime);
            if matches!(renew.await, Ok(true)) {
                shared = Outcome::Applied;
            }
        }
        (pinned, Placed::InChunks { local, shared })
    }

    /// The put of a manifest.
    async fn put_of<'a>(
        &self,
        namespace: &'a Namespace,
        key: &'a Key,
        draft: &Draft,
        (manifest, placed): (&Manifest, Placed),
        steps: &'a Steps,
    ) -> Result<Put<'a>> {
        let (created, expires) = self.times(namespace, draft.options.ttl);
        let tags = draft.attributes.tags();
        let tags = self.generations(namespace, tags, expires).await?;
        let stamp = self.stamper.next();
        let said = (&draft.attributes, &*tags);
        Ok(Put {
            name: EntryName::new(&namespace.name, key),
            namespace,
            key,
            record: Record::of_chunks(manifest, said, stamp, (created, expires))?,
            expires,
            condition: condition(&namespace.policy, &draft.options),
            mode: draft.options.mode,
            placed,
            steps,
        })
    }

    async fn begin_upload<'a>(
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

/// A stream of parts, cut into chunks anew.
struct Intake<S> {
    parts: S,
    limit: u64,
    setting: &'static str,
    size: Option<u64>,
    received: u64,
    rest: Bytes,
    finish: Option<Option<Digest>>,
}

impl<S: Stream<Item = Result<Part>> + Unpin> Intake<S> {
    /// The next `bytes`, in pieces; fewer at the end only. Once that has come `finish` is set.
    async fn chunk(&mut self, bytes: usize) -> Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        let mut missing = bytes;
        loop {
            if !self.rest.is_empty() {
                // One more is looked at, so that the end is known with the last chunk.
                if missing == 0 {
                    return Ok(pieces);
                }
                let piece = self.rest.split_to(self.rest.len().min(missing));
                missing -= piece.len();
                pieces.push(piece);
                continue;
            }
            if self.finish.is_some() {
                return Ok(pieces);
            }
            match self.parts.next().await {
                Some(Ok(Part::Chunk(chunk))) => {
                    self.received += chunk.len() as u64;
                    self.check_size(self.received)?;
                    self.rest = chunk;
                }
                Some(Ok(Part::Finish(digest))) => self.finish = Some(digest),
                Some(Err(error)) => return Err(error),
                None => {
                    let text = "finish: the stream ended without it; it is discarded";
                    return Err(Error::invalid(text));
                }
            }
        }
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        let (limit, setting) = (self.limit, self.setting);
        if bytes > limit {
            return Err(Error::invalid(format!(
                "value: {bytes} bytes or more, the namespace's {setting} is {limit}"
            )));
        }
        match self.size.filter(|size| bytes > *size) {
            Some(size) => Err(disagrees(size, bytes, " or more")),
            None => Ok(()),
        }
    }

    fn check_end(&self) -> Result<()> {
        match self.size.filter(|size| *size != self.received) {
            Some(size) => Err(disagrees(size, self.received, "")),
            None => Ok(()),
        }
    }
}

fn disagrees(said: u64, sent: u64, more: &str) -> Error {
    Error::invalid(format!(
        "size_bytes: the header says {said}, the stream has {sent}{more}"
    ))
}

fn check_digest(wanted: &Digest, is: &[u8]) -> Result<()> {
    if is == wanted {
        return Ok(());
    }
    let text = "sha256: the bytes that came have another SHA-256";
    Err(Error::invalid(text))
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

fn of_redis(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unavailable, error.to_string())
}

/// A value on its way to the tiers.
struct Upload<'a> {
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
    async fn store(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let pieces = self.take_sums(pieces).await?;
        self.bytes += pieces.iter().map(|it| it.len() as u64).sum::<u64>();
        if self.redis.is_some() && self.bytes > self.shared_max {
            self.redis = None;
            self.shared = Outcome::Skipped;
        }
        if self.file.is_some() && self.bytes > self.engine.local.large_bytes_max() {
            self.file = None;
            self.local = Outcome::Skipped;
        }
        let (file, redis) = (&mut self.file, &mut self.redis);
        let for_redis = match (redis.is_some(), &*pieces) {
            (true, [one]) => one.clone(),
            (true, many) => many.concat().into(),
            (false, _) => Bytes::new(),
        };
        let local = async {
            match file {
                Some(file) => Some(file.append(pieces).await),
                None => None,
            }
        };
        let shared = async {
            match redis {
                Some(redis) => Some(redis.put(for_redis).await),
                None => None,
            }
        };
        let (local, shared) = tokio::join!(local, shared);
        if let Some(done) = local {
            self.note_local(done);
        }
        if let Some(done) = shared {
            self.note_shared(done);
        }
        self.check_somewhere()
    }

    /// Checksum and digest, off the thread that others are served on.
    async fn take_sums(&mut self, pieces: Vec<Bytes>) -> Result<Vec<Bytes>> {
        let hasher = self.hasher.take();
        let sums = spawn_blocking(move || {
            let mut hasher = hasher;
            if let Some(hasher) = &mut hasher {
                pieces.iter().for_each(|piece| hasher.update(piece));
            }
            let checksum = checksum_of(&pieces);
            (pieces, checksum, hasher)
        });
        let (pieces, checksum, hasher) = sums.await.map_err(|error| {
            Error::new(Kind::Internal, "a blocking call panicked").caused_by(error)
        })?;
        self.checksums.push(checksum);
        self.hasher = hasher;
        Ok(pieces)
    }

    /// All has come: checks the digests and makes it visible.
    async fn end(
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
