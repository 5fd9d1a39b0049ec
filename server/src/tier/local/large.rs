//! Large values: chunks of one value in one file, beside the store and within its budget.
//!
//! ```text
//! entries/large/<set, 32 hex digits>         whole
//! entries/large/<set, 32 hex digits>.part    being written
//! entries/large/<set, 32 hex digits>.spare   of no use any more, to be written over
//!
//! offset  size
//!      0     4  magic "PNRL"
//!      4     4  version, 1; reserved, zero
//!      8     4  N: bytes of the entry's name, little-endian
//!     12     N  the name
//!   4096     …  the value, chunk after chunk
//! ```
//! The entry's record (its manifest) lies in the store like any other and says what the chunks must
//! be, so a file vouches for nothing: not for its length, not for its bytes, not for being current.
//! Not in the store itself: a value of 1 GiB would go through the log and the write buffers and
//! push out everything small with it (ADR 0014).
//!
//! Invariants:
//! - A file never changes as long as it has its set's name or is being read; it is found by its set
//!   alone. So no fence is needed: a manifest that counts names the right bytes or none.
//! - A file without a live manifest of its set under its name is found by the sweep, within
//!   seconds, and the next value is written over it: that costs half of what a new file does, and
//!   nothing has to be removed. Without one it goes after a minute, and before any that is of use.
//!   When it is being read at that moment it is removed instead, as is what a writer that went away
//!   has left. What a killed process has left half written or spare is removed at the next start.
//!   After a power cut a name may lead to bytes of another value, which no manifest vouches for.
//! - All files together stay within what was taken from the store's budget for them, before they
//!   are written. The least recently used goes first, and is written over if it can be; one that
//!   is being read goes on being read.

mod files;
mod index;
mod threads;

use std::{
    fs::File,
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use rustix::{buffer::spare_capacity, io::Errno};
use tokio::{runtime::Handle, sync::mpsc};

use self::index::{Reading, State};
pub(super) use self::{files::run, index::Large, threads::Threads};
use super::{Inner, LocalTier, closed};
use crate::{error::Result, key::EntryName, record::Manifest, stamp::Stamp};

/// Where the value begins in a file.
const VALUE_AT: u64 = 4096;
/// Where the files lie, below the store's directory.
pub(super) const DIRECTORY: &str = "large";

/// A file that was removed because no entry names it any more.
#[derive(Debug)]
pub struct Dropped {
    /// The entry that did.
    pub name: EntryName,
    /// Its chunks.
    pub set: Stamp,
    /// How many there were.
    pub chunks: u32,
}

/// A file, open: whole, or what there is of it so far. What happens to its name meanwhile does not
/// concern it.
#[derive(Debug, Clone)]
pub struct LargeFile {
    file: Arc<File>,
    _reading: Reading,
}

/// A file that keeps its place until its manifest has been written, or not.
pub struct Pinned {
    inner: Arc<Inner>,
    set: Stamp,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let large = &self.inner.large;
        large.unpin(&self.set);
        // Its manifest may have replaced another one, whose file is of no use then.
        large.swept().notify_one();
    }
}

/// Writes one file. Dropped before [`LargeWriter::finish`] it leaves nothing behind.
pub struct LargeWriter {
    unfinished: Unfinished,
    tier: LocalTier,
    set: Stamp,
    file: Arc<File>,
    written: u64,
}

/// A file that is abandoned when this is dropped, unless the pin was taken out.
struct Unfinished(Option<Pinned>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(pinned) = &self.0 {
            let large = &pinned.inner.large;
            large.set_state(&pinned.set, State::Abandoned);
        }
    }
}

impl LocalTier {
    /// Most bytes of a value in chunks that the tier can take.
    pub fn large_bytes_max(&self) -> u64 {
        self.inner.large.max().saturating_sub(VALUE_AT)
    }

    /// Tells of every file that goes because no entry names it any more.
    pub fn tell_of_dropped(&self, listener: mpsc::Sender<Dropped>) {
        self.inner.large.listen(listener);
    }

    /// Begins to write the chunks of a set for an entry, so many bytes or more. `None` when they
    /// are there or on their way. `Unavailable` when the disk does not take them.
    pub async fn begin_large(
        &self,
        name: &EntryName,
        set: Stamp,
        bytes: u64,
    ) -> Result<Option<LargeWriter>> {
        if self.inner.health.is_failing() {
            return Err(self.inner.health.unavailable());
        }
        if !self.inner.large.enter(name, set) {
            return Ok(None);
        }
        let unfinished = Unfinished(Some(Pinned {
            inner: Arc::clone(&self.inner),
            set,
        }));
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        // Whoever waits for it may give up: then it is abandoned, but not before it is there.
        let create = move || {
            let file = inner.create_large(&name, &set, VALUE_AT + bytes)?;
            Ok((file, unfinished))
        };
        let (file, unfinished) = self.on_large_thread(create).await?;
        Ok(Some(LargeWriter {
            unfinished,
            tier: self.clone(),
            set,
            file: Arc::new(file),
            written: 0,
        }))
    }

    /// The file with the chunks of a set; `None` when there is none.
    pub async fn open_large(&self, set: Stamp) -> Option<LargeFile> {
        let reading = self.inner.large.touch(&set, false)?;
        let inner = Arc::clone(&self.inner);
        let open = move || Ok(File::open(inner.large.path(&set)));
        match self.on_large_thread(open).await {
            Ok(Ok(file)) => Some(LargeFile {
                file: Arc::new(file),
                _reading: reading,
            }),
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.inner.large.forget(&set);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps a whole file from being swept while an entry that names it is being written; `None`
    /// when there is no such file.
    pub fn pin_large(&self, set: Stamp) -> Option<Pinned> {
        self.inner.large.touch(&set, true)?;
        Some(Pinned {
            inner: Arc::clone(&self.inner),
            set,
        })
    }

    /// One chunk. `None` when the file does not have it as it should be: then the file is removed.
    pub async fn read_large(
        &self,
        file: &LargeFile,
        manifest: &Manifest,
        index: u32,
    ) -> Option<Bytes> {
        let (inner, file, manifest) = (Arc::clone(&self.inner), file.clone(), manifest.clone());
        let read = move || {
            let at = VALUE_AT + manifest.start_of(index);
            let bytes = read_at(&file.file, at, manifest.bytes_of(index));
            if manifest.vouches_for(index, &bytes) {
                return Ok(Some(Bytes::from(bytes)));
            }
            inner.counts.corrupt.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("local tier: a damaged large value was dropped");
            inner.large.remove(&manifest.set);
            Ok(None)
        };
        self.on_large_thread(read).await.ok().flatten()
    }

    /// Runs what concerns files of large values on a thread that may block.
    async fn on_large_thread<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.large_threads.run(call).await?
    }

    /// The runtimes of the threads of large values, for connections that are for transfers only.
    pub fn large_handles(&self) -> Vec<Handle> {
        self.inner.large_threads.handles().to_vec()
    }

    /// Starts what moves a large value by itself, as [`LocalTier::with_large`] runs it.
    pub fn start_large(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.large_threads.start(work);
    }

    /// Runs what moves a large value on a thread where [`LargeWriter::append`] may block. Dropped,
    /// it ends too.
    pub async fn with_large<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.inner.large_threads.work(work).await
    }
}

impl LargeWriter {
    /// Appends the next bytes. Once it has failed the writer is of no use: `Overloaded` when there
    /// is no room beside what others are writing, `Unavailable` when the disk does not take it.
    /// Blocks for as long as it takes to copy them: for [`LocalTier::with_large`].
    pub async fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        let at = VALUE_AT + self.written;
        self.written += bytes_of(pieces);
        let inner = &self.tier.inner;
        let append = inner.append_large((&self.file, &self.set), at, pieces);
        append.await
    }

    /// What has been appended, to be read while more comes: also when the file is finished or given
    /// up.
    pub fn so_far(&self) -> Option<LargeFile> {
        Some(LargeFile {
            file: Arc::clone(&self.file),
            _reading: self.tier.inner.large.reading(&self.set)?,
        })
    }

    /// Gives the file its name. It stays until what is returned is dropped, and then as long as an
    /// entry names it.
    pub async fn finish(mut self) -> Result<Pinned> {
        let (inner, file, set) = (
            Arc::clone(&self.tier.inner),
            Arc::clone(&self.file),
            self.set,
        );
        let length = VALUE_AT + self.written;
        let finish = move || inner.finish_large(&file, &set, length);
        self.tier.on_large_thread(finish).await?;
        self.unfinished.0.take().ok_or_else(closed)
    }
}

fn bytes_of(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|it| it.len() as u64).sum()
}

/// So many bytes of a file, or what there is of them. Blocks.
fn read_at(file: &File, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let next = at + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), next) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests;
