//! Reading a value of any size: whole for Get while it fits, in chunks for Read.
//!
//! ```text
//! manifest, judged like any record (look) ─▶ file of the local tier, if it is there
//!                                          ├▶ the file that Redis's chunks fill (fill)
//!                                          └▶ Redis, chunk by chunk
//! ```
//! The first chunk is there before a stream begins, so that an entry whose chunks have gone is a
//! miss. One that goes later ends the stream with an error: what has arrived is then not the value.
//! What a stream hands out is vouched for by the manifest it began with, whatever becomes of the
//! entry meanwhile: chunks never change. A part of a value is read from Redis without being kept.

mod body;
mod fill;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

pub use self::body::Body;
use self::fill::Fill;
pub(super) use self::fill::Fills;
use super::{Answer, Engine, ReadOptions, Source, available, looked::Looked};
use crate::{
    config::UNARY_VALUE_BYTES_MAX,
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::Manifest,
    steps::Steps,
    tier::local::LargeFile,
};

/// Which bytes of a value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// The first.
    pub offset: u64,
    /// How many at most; `None`: to the end.
    pub length: Option<u64>,
}

impl Range {
    /// First byte, and first byte after, in a value of so many bytes.
    fn within(self, size: u64) -> Result<(u64, u64)> {
        let Self { offset, length } = self;
        if offset > size {
            let text = format!("offset: {offset} is beyond the end, the value has {size} bytes");
            return Err(Error::new(Kind::OutOfRange, text));
        }
        let end = length.map_or(size, |length| size.min(offset.saturating_add(length)));
        Ok((offset, end))
    }
}

/// The beginning of a stream.
#[derive(Debug)]
pub struct Reading {
    /// The entry with an empty value, and where it comes from.
    pub answer: Answer,
    /// Bytes of the whole value.
    pub size: u64,
    /// The bytes asked for.
    pub body: Body,
}

/// Chunks that are fetched before they are asked for.
const AHEAD: usize = 2;

/// Where chunks are read from.
#[derive(Clone)]
struct Chunks {
    manifest: Manifest,
    file: Option<LargeFile>,
    fill: Option<Arc<Fill>>,
    redis: bool,
}

impl Engine {
    /// Begins to read. A miss is an answer without an entry; `OutOfRange` when the range begins
    /// beyond the end.
    pub async fn read(
        self: &Arc<Self>,
        namespace: &str,
        key: String,
        (options, tags): (ReadOptions, &[String]),
        range: Range,
        steps: &Steps,
    ) -> Result<Reading> {
        let namespace = self.namespaces.get(namespace)?;
        let read = self.read_in(&namespace, key, (options, tags), range, steps);
        Self::counted(&namespace, Box::pin(read).await)
    }

    async fn read_in(
        self: &Arc<Self>,
        namespace: &Namespace,
        key: String,
        (options, tags): (ReadOptions, &[String]),
        range: Range,
        steps: &Steps,
    ) -> Result<Reading> {
        let key = Key::new(key)?;
        let begun = Instant::now();
        let how = (options, tags, steps);
        let (looked, lease) = self.look_or_elect(namespace, &key, how).await?;
        let manifest = looked.found.as_ref().map(|it| it.record.manifest());
        let manifest = available(namespace, manifest.transpose()).flatten();
        let (mut looked, mut body, mut size) = (looked, Body::nothing(), 0);
        if let Some(manifest) = manifest {
            size = manifest.value_bytes;
            let (at, end) = range.within(size)?;
            let name = EntryName::new(&namespace.name, &key);
            let mut chunks = self.chunks_of(namespace, manifest, options).await;
            if (at, end) == (0, size) {
                self.keep(namespace, &name, &mut chunks, options);
            }
            match self.begin_body(chunks, (at, end)).await {
                Some((source, begun)) => {
                    body = begun;
                    looked.source = source;
                    looked.value = Some(Bytes::new());
                }
                None => looked = self.drop_incomplete(namespace, &key, looked, options).await,
            }
        }
        let mut answer = Answer {
            lease,
            ..self.answer(namespace, looked, begun.elapsed())
        };
        if let Some(hit) = &mut answer.hit
            && !body.is_chunked()
        {
            let value = std::mem::take(&mut hit.entry.value);
            size = value.len() as u64;
            let (at, end) = range.within(size)?;
            // A value that is here has a size that fits.
            let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
            body = Body::whole(value.slice(place(at)..place(end)));
        }
        Ok(Reading { answer, size, body })
    }

    /// With the first chunk, if any is asked for; `None` when it is not to be had.
    async fn begin_body(
        self: &Arc<Self>,
        chunks: Chunks,
        (at, end): (u64, u64),
    ) -> Option<(Source, Body)> {
        let index = chunks.manifest.chunk_at(at);
        let ready = match at < end {
            true => Some(self.chunk(&chunks, index).await?),
            false => None,
        };
        let source = match chunks.file {
            Some(_) => Source::Local,
            None => Source::Shared,
        };
        let body = Body::of_chunks(Arc::clone(self), (chunks, ready), (at, end));
        Some((source, body))
    }

    async fn chunks_of(
        &self,
        namespace: &Namespace,
        manifest: Manifest,
        options: ReadOptions,
    ) -> Chunks {
        let file = match namespace.uses_local() && !options.require_shared {
            true => self.local.open_large(manifest.set).await,
            false => None,
        };
        Chunks {
            manifest,
            file,
            fill: None,
            redis: !options.local_only && namespace.uses_shared(),
        }
    }

    /// Has chunks that come from Redis kept in the local tier, unless that is against the policy.
    fn keep(
        &self,
        namespace: &Namespace,
        name: &EntryName,
        chunks: &mut Chunks,
        options: ReadOptions,
    ) {
        let wanted = chunks.file.is_none()
            && chunks.redis
            && namespace.uses_local()
            && !options.require_shared
            && chunks.manifest.value_bytes <= self.local.large_bytes_max();
        let shared = self.shared_for(namespace).filter(|_| wanted);
        chunks.fill = shared.and_then(|shared| {
            let link = shared.coherence.link()?;
            let what = (name, &chunks.manifest);
            Some(shared.fills.join(&self.local, link, what))
        });
    }

    /// One chunk, from wherever it is to be had.
    async fn chunk(&self, chunks: &Chunks, index: u32) -> Option<Bytes> {
        let manifest = &chunks.manifest;
        if let Some(file) = &chunks.file
            && let Some(chunk) = self.local.read_large(file, manifest, index).await
        {
            return Some(chunk);
        }
        if let Some(fill) = &chunks.fill
            && let Some(file) = fill.file_with(index).await
            && let Some(chunk) = self.local.read_large(&file, manifest, index).await
        {
            return Some(chunk);
        }
        let link = self.shared()?.coherence.link().filter(|_| chunks.redis)?;
        match link.tier().chunk(manifest, index).await {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::debug!(%error, "a chunk could not be read");
                None
            }
        }
    }

    /// Chunks that this daemon has just written, to be read again.
    pub(super) async fn written_chunks(
        &self,
        manifest: &Manifest,
        mut each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let chunks = Chunks {
            file: self.local.open_large(manifest.set).await,
            manifest: manifest.clone(),
            fill: None,
            redis: true,
        };
        for index in 0..manifest.chunks() {
            let chunk = self.chunk(&chunks, index).await.ok_or_else(|| {
                let text = "value: it could not be read again to compare its SHA-256";
                Error::new(Kind::Unavailable, text)
            })?;
            each(&chunk);
        }
        Ok(())
    }

    /// A value in chunks as one, for a reply that takes it whole; one that is not in chunks as it
    /// is. `Precondition` when it is larger than a reply can be, `Overloaded` when it does not fit
    /// into what is left of `room`.
    pub(super) async fn assemble(
        &self,
        namespace: &Namespace,
        key: &Key,
        mut looked: Looked,
        options: ReadOptions,
        room: &mut u64,
    ) -> Result<Looked> {
        let Some(found) = looked
            .found
            .as_ref()
            .filter(|it| it.record.head().is_in_chunks())
        else {
            return Ok(looked);
        };
        let size = found.record.head().value_bytes as u64;
        if size > UNARY_VALUE_BYTES_MAX {
            let text = format!(
                "value: {size} bytes, one reply holds at most {UNARY_VALUE_BYTES_MAX}; read it \
                 with Read"
            );
            return Err(Error::new(Kind::Precondition, text));
        }
        let Some(left) = room.checked_sub(size) else {
            let text = "reply: too many large values for one; ask for this key again";
            return Err(Error::new(Kind::Overloaded, text));
        };
        *room = left;
        let Some(manifest) = available(namespace, found.record.manifest()) else {
            return Ok(Looked::nothing());
        };
        let mut chunks = self.chunks_of(namespace, manifest, options).await;
        let name = EntryName::new(&namespace.name, key);
        self.keep(namespace, &name, &mut chunks, options);
        let mut value = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        for index in 0..chunks.manifest.chunks() {
            match self.chunk(&chunks, index).await {
                Some(chunk) => value.extend_from_slice(&chunk),
                None => return Ok(self.drop_incomplete(namespace, key, looked, options).await),
            }
        }
        if chunks.file.is_none() {
            looked.source = Source::Shared;
        }
        looked.value = Some(value.into());
        Ok(looked)
    }

    /// What becomes of an entry whose chunks are not all there: a miss, and if Redis does not have
    /// them either, it is removed there, so that the next reader need not find out again.
    async fn drop_incomplete(
        &self,
        namespace: &Namespace,
        key: &Key,
        looked: Looked,
        options: ReadOptions,
    ) -> Looked {
        let nothing = Looked {
            shared: looked.shared,
            standing: looked.standing,
            ..Looked::nothing()
        };
        let Some(found) = looked
            .found
            .filter(|_| !options.local_only && !looked.stale)
        else {
            return nothing;
        };
        if let Some(shared) = self.shared_for(namespace) {
            let Some(link) = shared.coherence.link() else {
                return nothing;
            };
            let name = shared.name(namespace, key);
            if link
                .tier()
                .remove_incomplete(&name, &found.record)
                .await
                .is_err()
            {
                return nothing;
            }
            shared.coherence.changed(name.as_bytes());
        }
        let name = EntryName::new(&namespace.name, key);
        let stamp = found.record.head().stamp;
        // One that stays is found to be a miss again.
        let _ = self.local.remove_version(&name, stamp).await;
        nothing
    }
}
