//! OTLP over gRPC. Messages come encoded, so that one that is sent again is not encoded again.

use axum::http::uri::PathAndQuery;
use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Request, Status,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{Accepted, Target, fault::Fault};
use crate::{
    config::{Destination, ExportCompression},
    export::connector::Connector,
};

/// More than a collector has to say.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A channel to a collector.
pub(super) struct Grpc {
    client: tonic::client::Grpc<Channel>,
    headers: MetadataMap,
}

impl Grpc {
    /// Connects when something is sent. Within a runtime.
    pub(super) fn new(to: &Destination, connector: &Connector) -> Result<Self, Fault> {
        let endpoint = Endpoint::from(to.endpoint.uri().clone())
            .user_agent(super::http::USER_AGENT)
            .map_err(|error| Fault::lasting(error.to_string()))?;
        let channel = endpoint.connect_with_connector_lazy(connector.clone());
        let mut client =
            tonic::client::Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        if to.compression == ExportCompression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let mut headers = MetadataMap::new();
        for (name, value) in &to.headers {
            let name = name.parse::<MetadataKey<Ascii>>();
            let value = value.expose().parse::<MetadataValue<Ascii>>();
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(Fault::lasting("a configured header cannot be sent"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self { client, headers })
    }

    pub(super) async fn send(&mut self, target: Target, message: Bytes) -> Result<Accepted, Fault> {
        let path = PathAndQuery::from_static(match target {
            Target::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Target::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        });
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        let answer = async {
            self.client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            self.client.unary(request, path, Encoded).await
        };
        match answer.await {
            Ok(answer) => Ok(answer.into_inner().into()),
            Err(status) => Err(Fault::of_status(&status)),
        }
    }
}

/// Messages that are encoded already.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        match ExportTraceServiceResponse::decode(bytes) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => Err(Status::internal(format!("not an answer of OTLP: {error}"))),
        }
    }
}
