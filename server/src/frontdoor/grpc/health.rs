//! `grpc.health.v1`, as tonic-health serves it, but for one thing: a stream about a part that does
//! not exist is told SERVICE_UNKNOWN and stays open, as the protocol says
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>), where tonic-health 0.14
//! answers NOT_FOUND.

use futures_util::{StreamExt, stream};
use tonic::{Code, Request, Response, Status};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        health_server::Health,
    },
    server::HealthService,
};

use super::watch::Replies;

/// The service.
pub(super) struct Parts(pub(super) HealthService);

#[tonic::async_trait]
impl Health for Parts {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.check(request).await
    }

    type WatchStream = Replies<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stream: Self::WatchStream = match self.0.watch(request).await {
            Ok(reply) => Box::pin(reply.into_inner()),
            Err(status) if status.code() == Code::NotFound => {
                let unknown = HealthCheckResponse {
                    status: ServingStatus::ServiceUnknown.into(),
                };
                // Parts do not come to be while the daemon runs.
                Box::pin(stream::iter([Ok(unknown)]).chain(stream::pending()))
            }
            Err(status) => return Err(status),
        };
        Ok(Response::new(stream))
    }
}
