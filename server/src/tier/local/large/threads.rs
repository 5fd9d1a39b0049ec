//! Threads for the chunks of large values. They copy megabytes at a time and would share the
//! processors equally with those that answer small requests, which have microseconds to do: so
//! they come after them.

use tokio::runtime::{Builder, Runtime};

use crate::{
    error::{Error, Kind, Result},
    tier::local::closed,
};

/// Chunks that are read or written at once. The disk has no use for more, and each is in memory.
const THREADS_MAX: usize = 8;
/// A third of the weight of a thread of normal priority, when both want the processor.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Dropped, it lets what is under way run to its end.
pub(in super::super) struct Threads {
    /// For its threads alone: nothing runs on it.
    runtime: Option<Runtime>,
}

impl Threads {
    pub(in super::super) fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .thread_name("pannier-chunks")
            .max_blocking_threads(THREADS_MAX)
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
        let runtime = self.runtime.as_ref().ok_or_else(closed)?;
        runtime.spawn_blocking(call).await.map_err(|error| {
            Error::new(Kind::Internal, "local tier: a blocking call panicked").caused_by(error)
        })
    }
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
