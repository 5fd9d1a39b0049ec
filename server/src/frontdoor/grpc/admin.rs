//! `pannier.v1.AdminService`.

mod stats;

use std::sync::Arc;

use pannier_proto::v1::{
    self, ConfigRequest, ConfigResponse, FlushRequest, FlushResponse, HealthRequest,
    HealthResponse, PartHealth, ResetRequest, ResetResponse, StatsRequest, StatsResponse,
    admin_service_server::AdminService,
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{status::status, traced::traced};
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

    async fn traced<T>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        traced(self.observer.tracer(), (method, ""), metadata, answer).await
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
        let (metadata, _, request) = request.into_parts();
        let answer = async {
            let stats = stats::stats(&self.observer, request).await;
            stats.map(Response::new).map_err(status)
        };
        self.traced("pannier.v1.AdminService/Stats", &metadata, answer)
            .await
    }

    async fn reset(
        &self,
        request: Request<ResetRequest>,
    ) -> Result<Response<ResetResponse>, Status> {
        let answer = async {
            self.observer.reset();
            Ok(Response::new(ResetResponse {}))
        };
        let method = "pannier.v1.AdminService/Reset";
        self.traced(method, request.metadata(), answer).await
    }

    async fn config(
        &self,
        request: Request<ConfigRequest>,
    ) -> Result<Response<ConfigResponse>, Status> {
        let answer = async {
            Ok(Response::new(ConfigResponse {
                toml: self.engine.config().to_toml(),
            }))
        };
        let method = "pannier.v1.AdminService/Config";
        self.traced(method, request.metadata(), answer).await
    }

    async fn flush(
        &self,
        request: Request<FlushRequest>,
    ) -> Result<Response<FlushResponse>, Status> {
        let answer = async {
            self.engine.flush().await.map_err(status)?;
            let local_outcome = v1::TierOutcome::Applied.into();
            Ok(Response::new(FlushResponse { local_outcome }))
        };
        let method = "pannier.v1.AdminService/Flush";
        self.traced(method, request.metadata(), answer).await
    }

    async fn health(
        &self,
        request: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        let answer = async { Ok(Response::new(self.health())) };
        let method = "pannier.v1.AdminService/Health";
        self.traced(method, request.metadata(), answer).await
    }
}
