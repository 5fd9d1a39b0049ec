//! gRPC: the services of `pannier.v1`, health and reflection.

mod admin;
mod batch;
mod cache;
mod call;
mod deadline;
mod decode;
mod encode;
mod health;
mod intake;
mod status;
mod traced;
mod transfer;
mod watch;

use std::{io, sync::Arc, time::Duration};

use pannier_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{admin_service_server::AdminServiceServer, cache_service_server::CacheServiceServer},
};
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use self::{admin::Admin, cache::Cache, deadline::Timely, transfer::Transfers};
use super::listen::Connection;
use crate::{
    error::{Error, Kind, Result},
    observe::Observer,
    stats::Door,
};

/// Largest message either way: 4 MiB, the limit most clients come with, and room for the frame.
const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);
/// Large frames cut the work for large values by almost half (ADR 0007).
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// What may be on its way while a piece is written to a file.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const STREAMS_MAX: u32 = 1024;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for the last replies to leave and for requests under way to arrive.
const QUIET: Duration = Duration::from_millis(500);

/// Name of the cache in `grpc.health.v1`.
pub(crate) const CACHE_SERVICE: &str = "pannier.v1.CacheService";
/// Name of the shared tier in `grpc.health.v1`.
pub(crate) const SHARED_PART: &str = "shared";

/// What all workers serve.
#[derive(Clone)]
pub(crate) struct Services {
    observer: Arc<Observer>,
    health: HealthReporter,
    requests: Requests,
    transfers: Transfers,
}

impl Services {
    /// Services over an engine, refusing requests beyond `max_in_flight`.
    pub(crate) fn new(
        observer: Arc<Observer>,
        health: HealthReporter,
        max_in_flight: usize,
    ) -> Self {
        let requests = Requests {
            door: Arc::clone(observer.door()),
            max: max_in_flight,
        };
        let transfers = Transfers::new(observer.engine().config().server.max_transfers);
        Self {
            observer,
            health,
            requests,
            transfers,
        }
    }

    /// Serves these connections until `stop`, then finishes what is in flight.
    pub(crate) async fn serve(
        self,
        connections: impl Stream<Item = io::Result<Connection>>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let observer = Arc::clone(&self.observer);
        let cache = Cache::new(observer, self.requests, self.transfers, stop.clone());
        let cache = CacheServiceServer::new(cache)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let health = tonic_health::server::HealthService::from_health_reporter(self.health);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        Server::builder()
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
            .add_service(Timely(intake::Apart(cache)))
            .add_service(Timely(AdminServiceServer::new(Admin::new(self.observer))))
            .add_service(Timely(tonic_health::pb::health_server::HealthServer::new(
                health::Parts(health),
            )))
            .add_service(
                reflection()
                    .build_v1()
                    .expect("the descriptors are our own build's"),
            )
            .add_service(reflection().build_v1alpha().expect("the same descriptors"))
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
            .await
    }

    /// Ready when no request of the cache has been in flight for [`QUIET`]. Connections that have
    /// nothing to say, or whose clients no longer read, do not count.
    pub(crate) async fn quiet(&self) {
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            sleep(QUIET / 10).await;
            if self.in_flight() > 0 {
                quiet_since = Instant::now();
            }
        }
    }

    /// Requests of the cache that are being answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.door.in_flight.get()
    }
}

/// Counts requests in flight and refuses those beyond the limit.
#[derive(Debug, Clone)]
struct Requests {
    door: Arc<Door>,
    max: usize,
}

/// One request in flight; ends when dropped, whether answered or cancelled.
struct InFlight<'a>(&'a Door);

/// As [`InFlight`], for a stream that goes on after its call has returned.
struct OwnedInFlight(Arc<Door>);

impl Requests {
    fn admit(&self) -> Result<InFlight<'_>> {
        let request = InFlight(&self.door);
        self.check(self.door.in_flight.one()).map(|()| request)
    }

    fn admit_stream(&self) -> Result<OwnedInFlight> {
        let request = OwnedInFlight(Arc::clone(&self.door));
        self.check(self.door.in_flight.one()).map(|()| request)
    }

    fn check(&self, before: usize) -> Result<()> {
        if before < self.max {
            return Ok(());
        }
        self.door.overloaded.one();
        let text = format!(
            "server.max_in_flight: {} requests are in flight already",
            self.max
        );
        Err(Error::new(Kind::Overloaded, text))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.one_less();
    }
}

impl Drop for OwnedInFlight {
    fn drop(&mut self) {
        self.0.in_flight.one_less();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_limit_are_refused_until_one_ends() {
        let requests = Requests {
            door: Arc::default(),
            max: 2,
        };
        let first = requests.admit().expect("one");
        let _second = requests.admit().expect("two");
        let refused = requests.admit().err().expect("three");
        assert_eq!(refused.kind(), Kind::Overloaded);
        assert_eq!(requests.door.overloaded.get(), 1);
        drop(first);
        assert!(requests.admit().is_ok());
    }
}
