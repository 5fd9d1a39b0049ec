//! The engine: the only place that knows which tier is asked when.
//!
//! `read`, `write` and `invalidate` hold the verbs; here stands what they have in common. With no
//! shared tier the local one is the whole cache (P25).

mod invalidate;
mod read;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{
    invalidate::{Invalidated, Target},
    read::{Answer, Existence, Hit, ReadOptions},
    write::{PutOptions, WriteMode, Written},
};
use crate::{
    clock::{Clock, Timestamp},
    config::Config,
    error::{Error, Result},
    namespace::{Namespace, Namespaces},
    stamp::Stamper,
    stats::Counters,
    tier::local::{LocalStats, LocalTier},
};

/// Most keys or items of one batch.
pub const BATCH_MAX: usize = 1000;
/// Items of a batch after which other requests have their turn.
const BATCH_TURN: usize = 64;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// No tier had it.
    #[default]
    None,
    /// The local tier.
    Local,
}

/// What became of a change in one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tier has it.
    Applied,
    /// Not sent there.
    Skipped,
}

/// Where an answer came from and how long it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Provenance {
    /// The tier that answered.
    pub source: Source,
    /// Time since the entry was put.
    pub age: Option<Duration>,
    /// Time spent looking up.
    pub lookup: Option<Duration>,
    /// Time spent storing or removing.
    pub store: Option<Duration>,
}

/// The cache.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    clock: Clock,
    stamper: Stamper,
    namespaces: Namespaces,
    local: LocalTier,
    started: Instant,
    counting_since: AtomicU64,
}

impl Engine {
    /// An engine over an open local tier. `writer` is unique among all running daemons.
    pub fn new(config: Arc<Config>, clock: Clock, writer: u64, local: LocalTier) -> Self {
        Self {
            namespaces: Namespaces::new(Arc::clone(&config)),
            stamper: Stamper::new(clock.clone(), writer),
            counting_since: AtomicU64::new(clock.now().as_millis()),
            started: Instant::now(),
            config,
            clock,
            local,
        }
    }

    /// The configuration in effect.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The time, as lifetimes are measured.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since the engine was made.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Name and counters of each namespace.
    pub fn counters(&self) -> Vec<(String, Arc<Counters>)> {
        self.namespaces.counters()
    }

    /// When counting began.
    pub fn counting_since(&self) -> Timestamp {
        Timestamp::from_millis(self.counting_since.load(Ordering::Relaxed))
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        for (_, counters) in self.namespaces.counters() {
            counters.reset();
        }
        self.counting_since
            .store(self.clock.now().as_millis(), Ordering::Relaxed);
    }

    /// Figures of the local tier.
    pub async fn local_stats(&self) -> Result<LocalStats> {
        self.local.stats().await
    }

    /// Why the local tier does not take writes; `None` when it does.
    pub fn local_trouble(&self) -> Option<String> {
        self.local.trouble()
    }

    /// Drops every entry of the local tier.
    pub async fn flush(&self) -> Result<()> {
        self.local.clear().await
    }

    /// Counts a fault that was found before the engine was asked.
    pub fn counted_for<T>(&self, namespace: &str, result: Result<T>) -> Result<T> {
        if result.is_err() {
            // A name that breaks the rule has no counters; that fault comes first.
            self.namespaces.get(namespace)?.counters.errors.one();
        }
        result
    }

    /// Counts a result that is an error.
    fn counted<T>(namespace: &Namespace, result: Result<T>) -> Result<T> {
        if result.is_err() {
            namespace.counters.errors.one();
        }
        result
    }
}

/// Checks a batch's length; `field` is what the caller sent.
pub fn check_batch(field: &str, count: usize) -> Result<()> {
    if (1..=BATCH_MAX).contains(&count) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{field}: {count} of them, must be 1 to {BATCH_MAX}"
    )))
}

#[cfg(test)]
mod tests;
