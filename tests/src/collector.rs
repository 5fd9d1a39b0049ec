//! A collector: takes traces and metrics by OTLP, over gRPC and over HTTP, and keeps them.
//!
//! It has a thread of its own, so that it answers while a test is blocked, or does not, when it is
//! told so. What the network does to it is a [`crate::Proxy`]'s business.

mod tls;

use std::{
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::timeout,
};
use tonic::{
    Code, Request, Response, Status, codec::CompressionEncoding, transport::server::TcpIncoming,
};

use tokio_rustls::TlsAcceptor;

use crate::{Certificates, EVENTUALLY_MAX};

/// What it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    /// It takes everything.
    #[default]
    Take,
    /// It has no room at the moment; over HTTP with this `Retry-After` in seconds.
    Busy(Option<u32>),
    /// It wants nothing of it.
    Refuse,
    /// It takes all but so many spans.
    Partly(i64),
    /// It takes everything and keeps nothing; over HTTP it does not even look at it.
    Forget,
}

/// What it has taken so far.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// All spans.
    pub spans: Vec<Span>,
    /// The metrics of the last message with some.
    pub metrics: Vec<Metric>,
    /// Who sent the last message.
    pub resource: Option<Resource>,
    /// Everything, encoded.
    pub bytes: Vec<u8>,
    /// The headers of the last message.
    pub headers: Vec<(String, String)>,
    /// Messages that came, taken or not.
    pub messages: usize,
}

/// A running collector; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    grpc: SocketAddr,
    http: SocketAddr,
    tls: SocketAddr,
    inner: Arc<Inner>,
    /// `None` only while it is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    received: watch::Sender<Received>,
    answer: Mutex<Answer>,
}

impl Collector {
    /// Starts one that takes everything.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> Self {
        Self::start_behind(None)
    }

    /// Starts one that listens with TLS as well, and demands a client's certificate there.
    ///
    /// # Panics
    /// When it cannot listen, or the certificates are no good.
    pub fn start_with_tls(certificates: &Certificates) -> Self {
        Self::start_behind(Some(tls::acceptor(certificates)))
    }

    fn start_behind(acceptor: Option<TlsAcceptor>) -> Self {
        let inner = Arc::new(Inner {
            received: watch::Sender::default(),
            answer: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let served = Arc::clone(&inner);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let grpc = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let http = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let secure = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let addresses =
                    [&grpc, &http, &secure].map(|it| it.local_addr().expect("is bound"));
                tell.send(addresses).expect("is waited for");
                let front = async {
                    match acceptor {
                        Some(acceptor) => {
                            let to = (addresses[0], addresses[1]);
                            tls::serve(secure, acceptor, to).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = serve_grpc(grpc, Arc::clone(&served)) => {}
                    () = serve_http(http, served) => {}
                    () = front => {}
                    _ = stopped => {}
                }
            });
        });
        let [grpc, http, tls] = told.recv().expect("the collector listens");
        Self {
            grpc,
            http,
            tls,
            inner,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it takes OTLP over gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it takes OTLP over HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it takes both over TLS, if it was started so.
    pub fn tls(&self) -> SocketAddr {
        self.tls
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: Answer) {
        *self.inner.lock() = answer;
    }

    /// What it has taken so far.
    pub fn received(&self) -> Received {
        self.inner.received.borrow().clone()
    }

    /// Waits until what it has taken answers `ask`.
    ///
    /// # Panics
    /// When that takes longer than [`EVENTUALLY_MAX`].
    pub async fn wait_for<T>(&self, what: &str, ask: impl Fn(&Received) -> Option<T>) -> T {
        let mut receiver = self.inner.received.subscribe();
        let found = async {
            let state = receiver.wait_for(|received| ask(received).is_some()).await;
            state.ok().and_then(|received| ask(&received))
        };
        match timeout(EVENTUALLY_MAX, found).await {
            Ok(Some(found)) => found,
            _ => panic!(
                "not within {EVENTUALLY_MAX:?}: {what}; {}",
                summary(&self.received())
            ),
        }
    }

    /// Waits for the spans of a trace, its root among them, and gives them in the order they begin.
    pub async fn trace(&self, trace_id: &[u8; 16]) -> Vec<Span> {
        self.wait_for("the spans of a trace", |received| {
            let own = received
                .spans
                .iter()
                .filter(|span| span.trace_id == trace_id);
            let mut own: Vec<_> = own.cloned().collect();
            own.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
            (!own.is_empty()).then_some(own)
        })
        .await
    }
}

fn summary(received: &Received) -> String {
    let names: Vec<_> = received
        .spans
        .iter()
        .map(|span| span.name.as_str())
        .collect();
    format!(
        "{} messages came, with the spans {names:?}",
        received.messages
    )
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of one that keeps nothing, if it is told to.
    fn forget(&self) -> Option<Reply> {
        let answer = self.lock().clone();
        (answer == Answer::Forget).then(|| {
            self.received.send_modify(|received| received.messages += 1);
            reply(&answer)
        })
    }

    /// Notes a message and says what to answer.
    fn take(&self, headers: Vec<(String, String)>, keep: impl FnOnce(&mut Received)) -> Answer {
        let answer = self.lock().clone();
        self.received.send_modify(|received| {
            received.messages += 1;
            received.headers = headers;
            if matches!(answer, Answer::Take | Answer::Partly(_)) {
                keep(received);
            }
        });
        answer
    }
}

fn keep_traces(received: &mut Received, message: ExportTraceServiceRequest) {
    received.bytes.extend(message.encode_to_vec());
    for of_resource in message.resource_spans {
        received.resource = of_resource.resource;
        for of_scope in of_resource.scope_spans {
            received.spans.extend(of_scope.spans);
        }
    }
}

fn keep_metrics(received: &mut Received, message: ExportMetricsServiceRequest) {
    received.bytes.extend(message.encode_to_vec());
    let mut metrics = Vec::new();
    for of_resource in message.resource_metrics {
        received.resource = of_resource.resource;
        for of_scope in of_resource.scope_metrics {
            metrics.extend(of_scope.metrics);
        }
    }
    received.metrics = metrics;
}

struct Service(Arc<Inner>);

async fn serve_grpc(listener: TcpListener, inner: Arc<Inner>) {
    let (gzip, size_max) = (CompressionEncoding::Gzip, 64 << 20);
    let traces = TraceServiceServer::new(Service(Arc::clone(&inner)))
        .accept_compressed(gzip)
        .max_decoding_message_size(size_max);
    let metrics = MetricsServiceServer::new(Service(inner))
        .accept_compressed(gzip)
        .max_decoding_message_size(size_max);
    let server = tonic::transport::Server::builder()
        .add_service(traces)
        .add_service(metrics);
    let incoming = TcpIncoming::from(listener);
    server.serve_with_incoming(incoming).await.expect("serves");
}

fn metadata<T>(request: &Request<T>) -> Vec<(String, String)> {
    texts(request.metadata().as_ref())
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let texts = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    texts.collect()
}

fn status(answer: &Answer) -> Option<Status> {
    match answer {
        Answer::Take | Answer::Partly(_) | Answer::Forget => None,
        Answer::Busy(_) => Some(Status::new(Code::Unavailable, "busy")),
        Answer::Refuse => Some(Status::new(Code::InvalidArgument, "not wanted")),
    }
}

fn taken(answer: &Answer) -> ExportTraceServiceResponse {
    let partly = match answer {
        Answer::Partly(rejected) => Some(ExportTracePartialSuccess {
            rejected_spans: *rejected,
            error_message: "not all of it".into(),
        }),
        _ => None,
    };
    ExportTraceServiceResponse {
        partial_success: partly,
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = metadata(&request);
        let keep = |received: &mut Received| keep_traces(received, request.into_inner());
        let answer = self.0.take(headers, keep);
        status(&answer).map_or_else(|| Ok(Response::new(taken(&answer))), Err)
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let headers = metadata(&request);
        let keep = |received: &mut Received| keep_metrics(received, request.into_inner());
        let answer = self.0.take(headers, keep);
        let taken = Response::new(ExportMetricsServiceResponse::default());
        status(&answer).map_or(Ok(taken), Err)
    }
}

async fn serve_http(listener: TcpListener, inner: Arc<Inner>) {
    let router = Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(metrics))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(inner);
    axum::serve(listener, router).await.expect("serves");
}

type Reply = (StatusCode, HeaderMap, Vec<u8>);

async fn traces(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Reply {
    if let Some(reply) = inner.forget() {
        return reply;
    }
    let Some(message) = decoded::<ExportTraceServiceRequest>(&headers, &body) else {
        return (StatusCode::BAD_REQUEST, HeaderMap::new(), Vec::new());
    };
    let answer = inner.take(texts(&headers), |received| keep_traces(received, message));
    reply(&answer)
}

async fn metrics(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Reply {
    if let Some(reply) = inner.forget() {
        return reply;
    }
    let Some(message) = decoded::<ExportMetricsServiceRequest>(&headers, &body) else {
        return (StatusCode::BAD_REQUEST, HeaderMap::new(), Vec::new());
    };
    let answer = inner.take(texts(&headers), |received| keep_metrics(received, message));
    reply(&answer)
}

fn decoded<M: Message + Default>(headers: &HeaderMap, body: &Bytes) -> Option<M> {
    if headers.get("content-type")? != "application/x-protobuf" {
        return None;
    }
    match headers.get("content-encoding").map(|it| it.as_bytes()) {
        None => M::decode(body.as_ref()).ok(),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            let mut unpacked = flate2::read::GzDecoder::new(body.as_ref());
            unpacked.read_to_end(&mut plain).ok()?;
            M::decode(plain.as_slice()).ok()
        }
        Some(_) => None,
    }
}

fn reply(answer: &Answer) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        "application/x-protobuf".parse().expect("a value"),
    );
    match answer {
        Answer::Take | Answer::Partly(_) | Answer::Forget => {
            (StatusCode::OK, headers, taken(answer).encode_to_vec())
        }
        Answer::Busy(seconds) => {
            if let Some(seconds) = seconds {
                headers.insert("retry-after", (*seconds).into());
            }
            (StatusCode::SERVICE_UNAVAILABLE, headers, b"busy".to_vec())
        }
        Answer::Refuse => (StatusCode::BAD_REQUEST, headers, b"not wanted".to_vec()),
    }
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}
