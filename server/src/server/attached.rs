//! What runs only when a Redis is configured: the supervisor of the attachment, and what serves it.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    clock::Clock,
    coherence::{Coherence, Standing, Supervisor, supervise},
    config::Config,
    engine::{Outage, Shared, Sweeps, give_back},
    error::Result,
    frontdoor::grpc::SHARED_PART,
    journal::Journal,
    stamp::Stamper,
    tier::{local::LocalTier, shared::tls::tls_client},
    trace::Tracer,
};

/// Share of the memory budget for remembering which copies were verified: a thirty-second.
const VERIFIED_SHARE: u64 = 32;

/// The tasks, and what they leave to be closed.
pub(super) struct Attached {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    journal: Journal,
    standing: watch::Receiver<Standing>,
}

impl Attached {
    /// Opens the journal and begins to attach; `None` when no Redis is configured. Redis need not
    /// be there. `Unavailable` when the journal cannot be opened.
    pub(super) async fn begin(
        config: &Arc<Config>,
        clock: &Clock,
        stamper: &Arc<Stamper>,
        local: &LocalTier,
        tracer: &Tracer,
    ) -> Result<Option<(Shared, Self)>> {
        if config.shared.topology.is_none() {
            return Ok(None);
        }
        let tls = tls_client(&config.shared)?;
        let journal = Journal::open(&config.local.data_dir, config.shared.journal_max).await?;
        let coherence = Arc::new(Coherence::new(
            clock.clone(),
            local.changes().clone(),
            first_epoch()?,
            journal.last_contact(),
            config.local.memory_budget.0 / VERIFIED_SHARE,
        ));
        let (outage, remove_wished) = Outage::new(
            Arc::clone(config),
            clock.clone(),
            Arc::clone(stamper),
            Arc::clone(&coherence),
            journal.clone(),
            local.clone(),
        );
        let supervisor = Supervisor {
            coherence: Arc::clone(&coherence),
            config: config.shared.clone(),
            tls,
            prefixes: config.tracked_prefixes(),
            replay: outage.traced_by(tracer),
            daemon_id: journal.daemon_id(),
        };
        let (tell, dropped) = Sweeps::dropped();
        local.tell_of_dropped(tell);
        let (sweeps, sweep) = Sweeps::new(Arc::clone(config), Arc::clone(&coherence), dropped);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(supervisor, stop.clone()));
        tasks.spawn(remove_wished);
        let stopped = stop.clone();
        tasks.spawn(async move {
            // The engine outlives it.
            tokio::select! {
                () = sweep => {}
                () = stopped.cancelled() => {}
            }
        });
        let (give_back, giving) = give_back(Arc::clone(&coherence), stop.clone());
        tasks.spawn(giving);
        let standing = coherence.follow();
        let shared = Shared::new(
            config.shared.clone(),
            coherence,
            journal.clone(),
            sweeps,
            give_back,
            Arc::clone(stamper),
        );
        let own = Self {
            tasks,
            stop,
            journal,
            standing,
        };
        Ok(Some((shared, own)))
    }

    /// Tells the health service of every change, for ever.
    pub(super) fn tell(&self, health: HealthReporter) -> impl Future<Output = ()> + Send + use<> {
        let mut standing = self.standing.clone();
        async move {
            loop {
                let status = match *standing.borrow_and_update() {
                    Standing::Attached { .. } => ServingStatus::Serving,
                    Standing::Detached { .. } => ServingStatus::NotServing,
                };
                health.set_service_status(SHARED_PART, status).await;
                if standing.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Detaches and closes the journal.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Err(error) = self.journal.close().await {
            tracing::warn!(%error, "the journal was not closed in order");
        }
    }
}

/// Not zero, and far enough from the end to be counted on.
fn first_epoch() -> Result<u64> {
    Ok((Stamper::random_writer()? >> 1) + 1)
}
