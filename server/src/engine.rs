//! The engine: the only place that knows which tier is asked when.
//!
//! `read`, `write` and `invalidate` hold the verbs; `look` and `through` what they do when there is
//! a shared tier; `shared` what a local copy is worth then; `tags` what an entry with tags is
//! worth; `lease` who computes what is missing; `outage` what is done for Redis's return; `upload`
//! and `download` what values in chunks need, and `sweep` what is left of them. With no shared tier
//! the local one is the whole cache (P25).

mod download;
mod find;
mod flight;
mod invalidate;
mod lease;
mod look;
mod looked;
mod outage;
mod placed;
mod read;
mod shared;
mod sweep;
mod tags;
mod through;
mod upload;
mod watch;
mod wish;
mod write;

use std::{sync::Arc, time::Duration};

use self::lease::{Leases, check_tags_of_lease, check_token, lease_has_ended};
pub use self::{
    download::{Body, Range, Reading},
    invalidate::{Invalidated, Target},
    lease::{GiveBack, Lease, LeaseRequest, Token, give_back},
    outage::Outage,
    read::{Answer, Existence, Hit, ReadOptions},
    shared::Shared,
    sweep::Sweeps,
    upload::{Draft, Part, Uploaded},
    watch::{News, Told, Watcher},
    write::{PutOptions, WriteMode, Written},
};
use crate::{
    clock::{Clock, Timestamp},
    config::Config,
    error::{Error, Result},
    namespace::{Met, Namespace, Namespaces},
    stamp::Stamper,
    stats::LeaseCounts,
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
    /// The shared tier.
    Shared,
}

/// How the daemon stood to the shared tier when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// There is none, or the namespace leaves it out.
    #[default]
    Disabled,
    /// Every change in it is heard of.
    Attached,
    /// It is out of reach.
    Detached,
}

/// What became of a change in one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tier has it.
    Applied,
    /// Kept durably, and applied when the tier can be reached.
    Deferred,
    /// Not sent there.
    Skipped,
    /// The tier did not take it and will not.
    Failed,
}

/// Where an answer came from and how long it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Provenance {
    /// The tier that answered.
    pub source: Source,
    /// The entry may have been changed since in the shared tier.
    pub stale: bool,
    /// How the daemon stood to the shared tier.
    pub standing: Standing,
    /// Time since the entry was put.
    pub age: Option<Duration>,
    /// Time spent looking up.
    pub lookup: Option<Duration>,
    /// Time spent storing or removing.
    pub store: Option<Duration>,
    /// The shared tier's part of the looking up; `None` when it was not asked.
    pub shared_lookup: Option<Duration>,
    /// The shared tier's part of the storing; `None` when it was not written to.
    pub shared_store: Option<Duration>,
}

/// The cache.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    clock: Clock,
    stamper: Arc<Stamper>,
    namespaces: Namespaces,
    local: LocalTier,
    shared: Option<Shared>,
    leases: Leases,
}

impl Engine {
    /// An engine over an open local tier, and a shared one if there is. The stamper's writer is
    /// unique among all running daemons.
    pub fn new(
        config: Arc<Config>,
        clock: Clock,
        stamper: Arc<Stamper>,
        local: LocalTier,
        shared: Option<Shared>,
    ) -> Self {
        Self {
            namespaces: Namespaces::new(Arc::clone(&config)),
            // Others must have room beside those who wait.
            leases: Leases::new((config.server.max_in_flight / 2).max(1)),
            stamper,
            config,
            clock,
            local,
            shared,
        }
    }

    /// The shared tier's side; `None` when none is configured.
    pub fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// The same for one namespace, which may leave it out.
    fn shared_for(&self, namespace: &Namespace) -> Option<&Shared> {
        self.shared.as_ref().filter(|_| namespace.uses_shared())
    }

    /// A provenance that says only how the daemon stands.
    fn provenance(&self, namespace: &Namespace) -> Provenance {
        let standing = match self.shared_for(namespace) {
            None => Standing::Disabled,
            Some(shared) if shared.coherence.is_attached() => Standing::Attached,
            Some(_) => Standing::Detached,
        };
        Provenance {
            standing,
            ..Provenance::default()
        }
    }

    /// The same for a read, which knows better: whether Redis has answered it.
    fn provenance_of(&self, namespace: &Namespace, standing: Option<Standing>) -> Provenance {
        let provenance = self.provenance(namespace);
        Provenance {
            standing: standing.unwrap_or(provenance.standing),
            ..provenance
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

    /// What was counted of leases.
    pub fn lease_counts(&self) -> &LeaseCounts {
        self.leases.counts()
    }

    /// Lets all who wait for another caller's value go without it, now and from now on.
    pub fn end_waits(&self) {
        self.leases.end_waits();
    }

    /// What was counted for each namespace.
    pub fn counters(&self) -> Vec<Met> {
        self.namespaces.counters()
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

/// What a tier found; a tier that cannot be used has found nothing, which is counted.
fn available<T>(namespace: &Namespace, found: Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, "a tier could not be read");
        namespace.counters.errors.one();
        None
    })
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
