//! OTLP as protobuf over HTTP/1.1.

use std::io::Write;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::{Accepted, fault::Fault};
use crate::{
    config::{Destination, ExportCompression},
    export::connector::Connector,
};

/// Who we say we are.
pub(super) const USER_AGENT: &str = concat!("pannierd/", env!("CARGO_PKG_VERSION"));
/// More than a collector has to say.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A client of one collector.
pub(super) struct Http {
    client: Client<Connector, Body>,
    uri: http::Uri,
    headers: HeaderMap,
    compression: ExportCompression,
}

impl Http {
    /// Connects when something is sent.
    pub(super) fn new(to: &Destination, connector: &Connector) -> Result<Self, Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in &to.headers {
            let name = name.parse::<HeaderName>();
            let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value.expose())) else {
                return Err(Fault::lasting("a configured header cannot be sent"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let fixed = [
            (header::CONTENT_TYPE, "application/x-protobuf"),
            (header::USER_AGENT, USER_AGENT),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if to.compression == ExportCompression::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector.clone()),
            uri: to.endpoint.uri().clone(),
            headers,
            compression: to.compression,
        })
    }

    pub(super) async fn send(&mut self, message: Bytes) -> Result<Accepted, Fault> {
        let message = match self.compression {
            ExportCompression::None => message,
            ExportCompression::Gzip => gzip(&message)?,
        };
        let mut request = Request::new(Body::from(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = self.client.request(request).await;
        let (head, body) = answer.map_err(|error| passing(&error))?.into_parts();
        let body = to_bytes(Body::new(body), ANSWER_BYTES_MAX).await;
        if !head.status.is_success() {
            let wait = head.headers.get(header::RETRY_AFTER);
            let wait = wait.and_then(|wait| wait.to_str().ok());
            // Usually an encoded status, whose text can be read all the same.
            let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            let text = text.replace(|it: char| it.is_control() && it != '\n', "");
            return Err(Fault::of_answer(head.status, wait, &text));
        }
        let body = body.map_err(|error| Fault::passing(error.to_string()))?;
        // It was taken, whatever stands beside.
        let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
        Ok(answer.into())
    }
}

fn gzip(message: &[u8]) -> Result<Bytes, Fault> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(message).and_then(|()| packed.finish());
    let packed = packed.map_err(|error| Fault::lasting(error.to_string()))?;
    Ok(packed.into())
}

fn passing(error: &dyn std::error::Error) -> Fault {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    Fault::passing(text)
}
