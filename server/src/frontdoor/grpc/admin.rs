//! `pannier.v1.AdminService`.

use std::sync::Arc;

use pannier_proto::v1::{
    self, ConfigRequest, ConfigResponse, FlushRequest, FlushResponse, HealthRequest,
    HealthResponse, LocalTierStats, NamespaceStats, PartHealth, ResetRequest, ResetResponse,
    SharedTierStats, StatsRequest, StatsResponse, WatchStats, admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::{encode, status::status};
use crate::{
    coherence::Standing, engine::Engine, error::Result, key::check_namespace, stats::Counters,
};

/// The service.
pub(super) struct Admin {
    engine: Arc<Engine>,
}

impl Admin {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn stats(&self, request: StatsRequest) -> Result<StatsResponse> {
        let wanted = request.namespace.as_str();
        if !wanted.is_empty() {
            check_namespace(wanted)?;
        }
        let mut total = v1::Counters::default();
        let mut namespaces = Vec::new();
        for (namespace, counters) in self.engine.counters() {
            let counters = snapshot(&counters);
            add(&mut total, &counters);
            if wanted.is_empty() || wanted == namespace {
                namespaces.push(NamespaceStats {
                    namespace,
                    counters: Some(counters),
                });
            }
        }
        Ok(StatsResponse {
            since: Some(encode::timestamp(self.engine.counting_since())),
            uptime: Some(encode::duration(self.engine.uptime())),
            total: Some(total),
            namespaces,
            local: Some(self.local_stats().await?),
            shared_state: self.shared_state().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            shared: self.shared_stats(),
            watch: Some(self.watch_stats()),
        })
    }

    fn watch_stats(&self) -> WatchStats {
        let stats = self.engine.watch_stats();
        WatchStats {
            watchers: stats.followers,
            messages: stats.told,
            dropped: stats.dropped,
        }
    }

    fn shared_state(&self) -> v1::SharedState {
        match self.engine.shared() {
            None => v1::SharedState::Disabled,
            Some(shared) if shared.coherence().is_attached() => v1::SharedState::Attached,
            Some(_) => v1::SharedState::Detached,
        }
    }

    fn shared_stats(&self) -> Option<SharedTierStats> {
        let shared = self.engine.shared()?;
        let coherence = shared.coherence();
        let stats = coherence.stats();
        let (since, message) = match coherence.standing() {
            Standing::Attached { since } => (since, String::new()),
            Standing::Detached { since, reason } => (since, reason),
        };
        let contact = coherence.last_contact();
        Some(SharedTierStats {
            state: self.shared_state().into(),
            since: Some(encode::timestamp(since)),
            message,
            attachments: stats.attachments,
            changes: stats.changes,
            flushes: stats.flushes,
            verified_copies: stats.verified,
            refuted_copies: stats.refuted,
            deferred_changes: shared.deferred() as u64,
            contact_age: contact.map(|(_, at)| encode::duration(self.engine.now().since(at))),
        })
    }

    async fn local_stats(&self) -> Result<LocalTierStats> {
        let stats = self.engine.local_stats().await?;
        let config = &self.engine.config().local;
        Ok(LocalTierStats {
            serving: stats.trouble.is_none(),
            message: stats.trouble.unwrap_or_default(),
            disk_bytes: stats.disk_bytes,
            disk_budget_bytes: config.disk_budget.0,
            memory_bytes: stats.memory_bytes,
            memory_budget_bytes: config.memory_budget.0,
            keys_estimate: stats.keys_estimate,
            corrupt_records: stats.corrupt_records,
            expired_records: stats.expired_records,
            refreshed_records: stats.refreshed_records,
            reopens: stats.reopens,
            set_asides: stats.set_asides,
        })
    }

    fn health(&self) -> HealthResponse {
        let trouble = self.engine.local_trouble();
        let local = PartHealth {
            name: "local".into(),
            healthy: trouble.is_none(),
            message: trouble.unwrap_or_default(),
        };
        let shared = self.engine.shared().map(|shared| {
            let message = match shared.coherence().standing() {
                Standing::Attached { .. } => String::new(),
                Standing::Detached { reason, .. } => {
                    format!("{reason}; serving from the local tier, trying again")
                }
            };
            PartHealth {
                name: "shared".into(),
                healthy: message.is_empty(),
                message,
            }
        });
        // The daemon answers either way: without a usable tier every read is a miss.
        HealthResponse {
            serving: true,
            parts: [local].into_iter().chain(shared).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

fn snapshot(counters: &Counters) -> v1::Counters {
    v1::Counters {
        hits: counters.hits.get(),
        misses: counters.misses.get(),
        puts: counters.puts.get(),
        invalidations: counters.invalidations.get(),
        errors: counters.errors.get(),
        refusals: counters.refusals.get(),
    }
}

fn add(total: &mut v1::Counters, one: &v1::Counters) {
    total.hits += one.hits;
    total.misses += one.misses;
    total.puts += one.puts;
    total.invalidations += one.invalidations;
    total.errors += one.errors;
    total.refusals += one.refusals;
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn stats(
        &self,
        request: Request<StatsRequest>,
    ) -> Result<Response<StatsResponse>, Status> {
        self.stats(request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn reset(&self, _: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        self.engine.reset_counters();
        Ok(Response::new(ResetResponse {}))
    }

    async fn config(&self, _: Request<ConfigRequest>) -> Result<Response<ConfigResponse>, Status> {
        Ok(Response::new(ConfigResponse {
            toml: self.engine.config().to_toml(),
        }))
    }

    async fn flush(&self, _: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        self.engine.flush().await.map_err(status)?;
        let local_outcome = v1::TierOutcome::Applied.into();
        Ok(Response::new(FlushResponse { local_outcome }))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(self.health()))
    }
}
