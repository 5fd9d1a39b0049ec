//! The administrative service of the fake daemon.

use tonic::{Request, Response, Status};

use super::{State, locked};
use crate::proto::{self, TierOutcome, admin_service_server::AdminService};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for State {
    async fn stats(&self, _: Request<proto::StatsRequest>) -> Answer<proto::StatsResponse> {
        self.enter().await?;
        let counters = *locked(&self.counters);
        let keys_estimate = locked(&self.entries).len() as u64;
        Ok(Response::new(proto::StatsResponse {
            since: Some(prost_types::Timestamp::default()),
            uptime: Some(prost_types::Duration {
                seconds: 61,
                nanos: 0,
            }),
            namespaces: vec![proto::NamespaceStats {
                namespace: "default".to_owned(),
                counters: Some(counters),
            }],
            total: Some(counters),
            local: Some(proto::LocalTierStats {
                serving: true,
                keys_estimate,
                ..proto::LocalTierStats::default()
            }),
            shared_state: proto::SharedState::Disabled.into(),
            version: "fake".to_owned(),
            shared: None,
            watch: None,
            operations: Vec::new(),
            calls: Vec::new(),
            last_minute: None,
        }))
    }

    async fn reset(&self, _: Request<proto::ResetRequest>) -> Answer<proto::ResetResponse> {
        self.enter().await?;
        *locked(&self.counters) = proto::Counters::default();
        Ok(Response::new(proto::ResetResponse {}))
    }

    async fn config(&self, _: Request<proto::ConfigRequest>) -> Answer<proto::ConfigResponse> {
        self.enter().await?;
        let toml = "# the fake daemon has no configuration\n".to_owned();
        Ok(Response::new(proto::ConfigResponse { toml }))
    }

    async fn flush(&self, _: Request<proto::FlushRequest>) -> Answer<proto::FlushResponse> {
        self.enter().await?;
        locked(&self.entries).clear();
        let local_outcome = TierOutcome::Applied.into();
        Ok(Response::new(proto::FlushResponse { local_outcome }))
    }

    async fn health(&self, _: Request<proto::HealthRequest>) -> Answer<proto::HealthResponse> {
        self.enter().await?;
        let local = proto::PartHealth {
            name: "local".to_owned(),
            healthy: true,
            message: String::new(),
        };
        let version = "fake".to_owned();
        Ok(Response::new(proto::HealthResponse {
            serving: true,
            parts: vec![local],
            version,
        }))
    }
}
