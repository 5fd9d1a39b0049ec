//! Threads for what moves large values: streams of Write run on them from end to end, chunks that
//! are read or come from Redis are. They copy megabytes at a time and would share the processors
//! equally with those that answer small requests, which have microseconds to do: so they come
//! after them.

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{Error, Kind, Result},
    tier::local::closed,
};

/// Streams that are written at once; each may wait for the disk.
const STREAM_THREADS: usize = 4;
/// Chunks that are read or written at once. The disk has no use for more, and each is in memory.
const CHUNK_THREADS_MAX: usize = 8;
/// A third of the weight of a thread of normal priority, when both want the processor.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Dropped, it lets what is under way run to its end.
pub(in super::super) struct Threads {
    runtime: Option<Runtime>,
}

impl Threads {
    pub(in super::super) fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("pannier-large")
            .worker_threads(STREAM_THREADS)
            .max_blocking_threads(CHUNK_THREADS_MAX)
            .enable_all()
            .on_thread_start(come_after_others)
            .build();
        let runtime = runtime.map_err(|error| {
            Error::new(Kind::Unavailable, "local tier: no threads").caused_by(error)
        })?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Runs a call that may block on one of them.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.handle()?.spawn_blocking(call).await.map_err(panicked)
    }

    /// Runs work that may block for as long as one piece of a value takes. Dropped, it ends too.
    pub(in super::super) async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let work = self.handle()?.spawn(work);
        AbortOnDropHandle::new(work).await.map_err(panicked)
    }

    fn handle(&self) -> Result<&Handle> {
        self.runtime.as_ref().map(Runtime::handle).ok_or_else(closed)
    }
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::new(Kind::Internal, "local tier: work on a large value panicked").caused_by(error)
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops it may be on another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

fn come_after_others() {
    // On Linux this is the thread's own; elsewhere it may fail, or not exist.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "large values keep the priority of the others");
    }
}
