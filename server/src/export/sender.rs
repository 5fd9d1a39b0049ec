//! Brings one message to a collector, by gRPC or by protobuf over HTTP/1.1.
//!
//! What failed for a reason that passes is sent again, a few times, as the protocol says:
//! <https://opentelemetry.io/docs/specs/otlp/>. After any failure the connection is thrown away: it
//! may be one that nobody answers any more.

mod fault;
mod grpc;
mod http;

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{fault::Fault, grpc::Grpc, http::Http};
use super::connector::Connector;
use crate::{
    config::{Destination, Protocol},
    error::Result,
};

/// Attempts for one message.
const ATTEMPTS_MAX: u32 = 5;
/// The pause after the first attempt; each further one is half as long again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause, also when the collector asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Spans.
    Traces,
    /// Figures.
    Metrics,
}

/// What the collector answered. The answers for traces and metrics have the same form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Spans or figures it did not take, and will not.
    pub(super) rejected: u64,
    /// Why.
    pub(super) message: String,
}

impl From<ExportTraceServiceResponse> for Accepted {
    fn from(response: ExportTraceServiceResponse) -> Self {
        let partial = response.partial_success.unwrap_or_default();
        Self {
            rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
            message: partial.error_message,
        }
    }
}

/// The way to one collector for one signal.
pub(super) struct Sender {
    to: Destination,
    target: Target,
    connector: Connector,
    way: Option<Way>,
}

enum Way {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
}

impl Sender {
    /// Connects to nobody yet. `Unavailable` when the files of TLS cannot be used.
    pub(super) fn new(to: &Destination, target: Target) -> Result<Self> {
        let protocol: &[u8] = match to.protocol {
            Protocol::Grpc => b"h2",
            Protocol::Http => b"http/1.1",
        };
        Ok(Self {
            to: to.clone(),
            target,
            connector: Connector::new(to, protocol)?,
            way: None,
        })
    }

    /// Sends an encoded message, for at most `limit`. Once `stop` is cancelled it is tried at most
    /// once more. The error is for people.
    pub(super) async fn send(
        &mut self,
        message: Bytes,
        limit: Duration,
        stop: &CancellationToken,
    ) -> std::result::Result<Accepted, String> {
        let give_up = Instant::now() + limit;
        let mut pause = PAUSE_MIN;
        let mut attempt = 1;
        loop {
            let last = stop.is_cancelled() || attempt == ATTEMPTS_MAX;
            let left = give_up.saturating_duration_since(Instant::now());
            let patience = self.to.timeout.0.min(left);
            let fault = match timeout(patience, self.once(message.clone())).await {
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(fault)) => fault,
                Err(_) => Fault::passing(format!("no answer within {patience:?}")),
            };
            self.way = None;
            let rest = fault
                .wait
                .unwrap_or(pause.mul_f64(0.5 + fastrand::f64()))
                .min(PAUSE_MAX);
            if last || !fault.passes || Instant::now() + rest >= give_up {
                return Err(format!("{}: {}", self.to.endpoint, fault.text));
            }
            tokio::select! {
                () = sleep(rest) => {}
                () = stop.cancelled() => {}
            }
            pause = pause.mul_f64(1.5);
            attempt += 1;
        }
    }

    async fn once(&mut self, message: Bytes) -> std::result::Result<Accepted, Fault> {
        let way = match &mut self.way {
            Some(way) => way,
            none => none.insert(match self.to.protocol {
                Protocol::Grpc => Way::Grpc(Grpc::new(&self.to, &self.connector)?.into()),
                Protocol::Http => Way::Http(Http::new(&self.to, &self.connector)?.into()),
            }),
        };
        match way {
            Way::Grpc(grpc) => grpc.send(self.target, message).await,
            Way::Http(http) => http.send(message).await,
        }
    }
}
