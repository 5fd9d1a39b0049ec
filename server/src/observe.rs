//! What the daemon knows of itself: every figure and state that anybody is shown.
//!
//! ```text
//!   front door ── each finished request ──▶ calls (histograms), slowest
//!   engine, tiers, coherence, doors ◀── asked for their figures ── snapshot, status
//!   every five seconds ──▶ windows (the last minute), the memory of Redis
//! ```
//! Figures only grow while the process lives. "Since the last reset" and "the last minute" are
//! differences of two *frames*, readings of everything that counts.

mod calls;
mod frame;
mod process;
mod slowest;
mod snapshot;
mod status;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::{calls::Calls, frame::Windows, slowest::Slowest};
pub use self::{
    calls::{CODES, Finished, Method, Operation, OperationKey},
    frame::{Frame, Window},
    slowest::{Slow, SlowStep},
    snapshot::{NAMESPACE, OUTCOME, TIER, tier_name},
};
use crate::{
    clock::{Clock, Timestamp},
    engine::Engine,
    stats::{Door, Exported},
    trace::Tracer,
};

/// How often the windows move on.
const TICK: Duration = Duration::from_secs(5);
/// How often Redis is asked for its memory.
const REDIS_EVERY: Duration = Duration::from_secs(15);

/// What Redis says of its memory.
#[derive(Debug, Clone, Copy)]
pub struct RedisMemory {
    /// Bytes in use.
    pub used: u64,
    /// Most bytes; 0 is no limit.
    pub max: u64,
}

/// The one who is asked how the daemon is.
pub struct Observer {
    engine: Arc<Engine>,
    clock: Clock,
    door: Arc<Door>,
    started: (Instant, Timestamp),
    calls: Calls,
    slowest: Slowest,
    windows: Windows,
    redis: Mutex<Option<(Instant, RedisMemory)>>,
    tracer: Tracer,
    exported: OnceLock<Box<dyn Fn() -> Exported + Send + Sync>>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Observer {
    /// Counting begins now. The tracer is the one of all requests.
    pub fn new(engine: Arc<Engine>, clock: Clock, door: Arc<Door>, tracer: Tracer) -> Self {
        let started = (Instant::now(), clock.now());
        Self {
            calls: Calls::new(engine.shared().is_some()),
            slowest: Slowest::default(),
            windows: Windows::new(started.1),
            redis: Mutex::default(),
            tracer,
            exported: OnceLock::new(),
            started,
            engine,
            clock,
            door,
        }
    }

    /// The cache that is observed.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Counts of the front doors.
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Who decides which requests are traced.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Time since the daemon was started.
    pub fn uptime(&self) -> Duration {
        self.started.0.elapsed()
    }

    /// Says who is to be asked what became of exports. Once; later calls do nothing.
    pub fn ask_for_exports(&self, ask: impl Fn() -> Exported + Send + Sync + 'static) {
        let _ = self.exported.set(Box::new(ask));
    }

    /// What became of exports; `None` when nothing is exported.
    pub fn exported(&self) -> Option<Exported> {
        self.exported.get().map(|ask| ask())
    }

    /// Notes a request that has been answered, refused or given up.
    pub fn note(&self, finished: &Finished<'_>) {
        self.calls.note(finished, || self.clock.now());
        self.slowest.note(finished, || self.clock.now());
    }

    /// What counted since the start or the last reset.
    pub fn since_reset(&self) -> Window {
        self.windows.since_reset(self.frame())
    }

    /// What counted in the last minute.
    pub fn last_minute(&self) -> Window {
        self.windows.last_minute(self.frame())
    }

    /// Counting since the last reset begins anew.
    pub fn reset(&self) {
        self.windows.reset(self.frame());
    }

    /// The slowest requests of the last ten minutes, the slowest first.
    pub fn slowest(&self) -> Vec<Slow> {
        self.slowest.list()
    }

    /// What Redis last said of its memory, while the daemon is attached.
    pub fn redis_memory(&self) -> Option<RedisMemory> {
        let redis = self.redis.lock().unwrap_or_else(PoisonError::into_inner);
        redis.map(|(_, memory)| memory)
    }

    /// Moves the windows on, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is at once.
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.windows.tick(self.frame());
            self.slowest.forget_before(self.clock.now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ask_redis() => {}
            }
        }
    }

    async fn ask_redis(&self) {
        let Some(shared) = self.engine.shared() else {
            return;
        };
        let Some(link) = shared.coherence().link() else {
            *self.redis.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        };
        {
            let known = self.redis.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_some_and(|(at, _)| at.elapsed() < REDIS_EVERY) {
                return;
            }
        }
        // An error is for those to judge whose requests meet it; INFO may simply be forbidden.
        let memory = link.tier().memory().await.ok();
        let memory = memory.map(|(used, max)| (Instant::now(), RedisMemory { used, max }));
        *self.redis.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    /// A reading of everything that counts.
    fn frame(&self) -> Frame {
        let shared = self.engine.shared();
        Frame {
            at: self.clock.now(),
            namespaces: self.engine.counters(),
            operations: self.calls.operations(),
            calls: self.calls.calls(),
            staleness: shared.map(|it| it.staleness().counts()).unwrap_or_default(),
            delay: shared
                .map(|it| it.coherence().delay().counts())
                .unwrap_or_default(),
        }
    }
}
