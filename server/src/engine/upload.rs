//! Writing a value of any size as it comes: what is small becomes an ordinary entry, what is not
//! goes to the tiers chunk by chunk, and becomes visible with its manifest at the end.
//!
//! ```text
//! caller ─▶ Intake ─▶ piece ─▶ checksum, SHA-256 ─┬─▶ file of the local tier, at once
//!              ▲                                  └─▶ chunk of 1 MiB ─▶ Redis, for two minutes
//!              └── the next ones, while a chunk is on its way to Redis
//! at the end: sizes and digests agree ─▶ the chunks in Redis get the entry's lifetime
//!             ─▶ the file gets its name ─▶ the manifest is put, as any other record
//! ```
//! All this runs on the threads of large values, one piece after the other, each while it is still
//! in the processor's cache. At most four chunks of a stream are in memory. A tier that fails on
//! the way is left out, as long as the other one has it all. A stream that ends badly leaves
//! nothing that could be found: its file goes within a second, its chunks in Redis at once, or
//! after two minutes when nobody is left to remove them.

mod in_redis;
mod intake;
mod transfer;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use ring::digest::{SHA256, digest};

use self::intake::Intake;
use super::{
    Engine, Outcome, PutOptions, ReadOptions, WriteMode, Written, check_tags_of_lease,
    lease_has_ended,
    placed::Placed,
    write::{Put, check, condition},
};
use crate::{
    entry::{Attributes, Entry},
    error::{Error, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::{CHUNK_BYTES, Digest, Manifest, Record},
    steps::Steps,
    tier::{Found, local::Pinned},
};

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
    /// Runs what calls [`Engine::write`] on the threads of large values. Dropped, it ends too.
    pub async fn with_large<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.local.with_large(work).await
    }

    /// Writes a value of any size. Errors as of a put, and `Invalid` for a stream that breaks a
    /// limit or does not agree with what it said about itself. With the digest of what is there
    /// already, `parts` are not read. Dropped half way it has written nothing.
    /// Blocks for as long as it takes to copy a piece to a file: for [`Engine::with_large`].
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
        let mut intake = Intake::new(parts, (limit, setting), draft.size);
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
        let first = intake.first(ordinary).await?;
        if let Some(told) = intake.finish() {
            intake.check_end()?;
            return self
                .write_small(whole, first.concat().into(), told, steps)
                .await;
        }
        let mut upload = self.begin_upload(namespace, &key, &draft).await?;
        for piece in first {
            upload.take(piece).await?;
        }
        while let Some(piece) = upload.meanwhile(intake.next()).await? {
            upload.take(piece).await?;
        }
        intake.check_end()?;
        upload
            .end(whole, intake.finish().flatten(), (steps, begun))
            .await
    }

    /// What has come to its end already is an ordinary entry.
    async fn write_small(
        &self,
        (namespace, key, draft): (&Namespace, &Key, &Draft),
        value: Bytes,
        told: Option<Digest>,
        steps: &Steps,
    ) -> Result<Uploaded> {
        for wanted in [draft.digest, told].into_iter().flatten() {
            check_digest(&wanted, digest(&SHA256, &value).as_ref())?;
        }
        let size = value.len() as u64;
        let entry = Entry {
            value,
            attributes: draft.attributes.clone(),
            negative: false,
        };
        let put = self.put_entry(namespace, key, &entry, (draft.options, steps));
        let written = put.await?;
        Ok(Uploaded { written, size })
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
                    negative: false,
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
        if draft
            .options
            .lease
            .is_some_and(|token| token.is_over(created))
        {
            return Err(lease_has_ended());
        }
        let names = draft.attributes.tags();
        let tags = self.generations(namespace, names, expires).await?;
        if let Some(token) = draft.options.lease {
            check_tags_of_lease(token, names, &tags)?;
        }
        let stamp = self.stamper.next();
        let said = (&draft.attributes, &*tags);
        Ok(Put {
            name: EntryName::new(&namespace.name, key),
            namespace,
            key,
            record: Record::of_chunks(manifest, said, stamp, (created, expires))?,
            expires,
            condition: condition(&namespace.policy, &draft.options),
            lease: draft.options.lease,
            mode: draft.options.mode,
            placed,
            steps,
        })
    }
}

fn check_digest(wanted: &Digest, is: &[u8]) -> Result<()> {
    if is == wanted {
        return Ok(());
    }
    let text = "sha256: the bytes that came have another SHA-256";
    Err(Error::invalid(text))
}
