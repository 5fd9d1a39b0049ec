//! Threads for large values. They copy megabytes at a time and would share the processors equally
//! with those that answer small requests, which have microseconds to do: so they come after them.
//!
//! Each has a runtime of its own, as a worker has, and what runs on it may block for as long as it
//! takes to copy a piece of a value to or from a file: so a piece stays in the processor's cache
//! from the network to the file. Connections that say they are for transfers live there; of
//! others, a stream of Write comes over, and so does each chunk that is read.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Kind, Result},
    tier::local::closed,
};

/// A disk has no use for more copying at once.
const THREADS_MAX: usize = 4;
/// Chunks that others read or write at once, for each thread; each is in memory.
const CHUNKS_MAX: usize = 4;
/// A third of the weight of a thread of normal priority, when both want the processor.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

thread_local! {
    /// Whether this is one of them.
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Dropped, they end; blocking calls that are under way run to their end.
pub(in super::super) struct Threads {
    handles: Vec<Handle>,
    next: AtomicUsize,
    /// What nobody waits for.
    works: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

impl Threads {
    pub(in super::super) fn new() -> Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let stop = CancellationToken::new();
        // Those that were started end when one cannot be.
        let guard = stop.clone().drop_guard();
        let handles = (0..processors.min(THREADS_MAX)).map(|index| start(index, stop.clone()));
        let handles = handles.collect::<Result<_>>()?;
        Ok(Self {
            handles,
            next: AtomicUsize::new(0),
            works: Mutex::default(),
            stop: guard.disarm(),
        })
    }

    /// Their runtimes.
    pub(in super::super) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Runs a call that may block: here, if this is one of them, or beside one of them.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if MAY_BLOCK.get() {
            return Ok(call());
        }
        self.one()?.spawn_blocking(call).await.map_err(panicked)
    }

    /// Runs work that may block for as long as one piece of a value takes: here, if this is one of
    /// them, or on one of them. Dropped, it ends too.
    pub(in super::super) async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        if MAY_BLOCK.get() {
            return Ok(work.await);
        }
        let mut works = JoinSet::new();
        works.spawn_on(work, self.one()?);
        let work = works.join_next().await.ok_or_else(closed)?;
        work.map_err(panicked)
    }

    /// As [`Threads::work`], without waiting for its end; nothing when they are ending.
    pub(in super::super) fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut works = self.works.lock().unwrap_or_else(PoisonError::into_inner);
        while works.try_join_next().is_some() {}
        if let Ok(handle) = self.one() {
            works.spawn_on(work, handle);
        }
    }

    fn one(&self) -> Result<&Handle> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let index = next.checked_rem(self.handles.len()).ok_or_else(closed)?;
        self.handles.get(index).ok_or_else(closed)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts one; it ends with `stop`.
fn start(index: usize, stop: CancellationToken) -> Result<Handle> {
    let failed = |error| {
        let text = "local tier: a thread for large values cannot be started";
        Error::new(Kind::Unavailable, text).caused_by(error)
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name(format!("pannier-chunk-{index}"))
        .max_blocking_threads(CHUNKS_MAX)
        .on_thread_start(come_after_others)
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("pannier-large-{index}"))
        .spawn(move || {
            MAY_BLOCK.set(true);
            come_after_others();
            runtime.block_on(stop.cancelled());
        })
        .map_err(failed)?;
    Ok(handle)
}

fn panicked(error: JoinError) -> Error {
    Error::new(Kind::Internal, "local tier: work on a large value panicked").caused_by(error)
}

fn come_after_others() {
    // On Linux this is the thread's own; elsewhere it may fail, or not exist.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "large values keep the priority of the others");
    }
}
