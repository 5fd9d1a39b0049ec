//! `pannier.v1.AdminService`.

mod stats;

use std::sync::Arc;

use pannier_proto::v1::{
    self, ConfigRequest, ConfigResponse, FlushRequest, FlushResponse, HealthRequest,
    HealthResponse, PartHealth, ResetRequest, ResetResponse, StatsRequest, StatsResponse,
    admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::status::status;
use crate::{coherence::Standing, engine::Engine, observe::Observer};

/// The service.
pub(super) struct Admin {
    observer: Arc<Observer>,
    engine: Arc<Engine>,
}

impl Admin {
    pub(super) fn new(observer: Arc<Observer>) -> Self {
        let engine = Arc::clone(observer.engine());
        Self { observer, engine }
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

#[tonic::async_trait]
impl AdminService for Admin {
    async fn stats(
        &self,
        request: Request<StatsRequest>,
    ) -> Result<Response<StatsResponse>, Status> {
        stats::stats(&self.observer, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn reset(&self, _: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        self.observer.reset();
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
