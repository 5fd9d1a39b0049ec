//! P16: a trace for each request with a span for each tier, W3C context taken from the caller, OTLP
//! export, sampling; exporting never slows or blocks a request and survives a dead collector.
//!
//! A real collector takes what a real daemon sends. Proven: the whole tree of a local hit, a shared
//! hit, a miss, a put, a put while Redis is away, batches, an invalidation, a replay, each in the
//! caller's trace; an unsampled caller leaves nothing; no key in clear in any byte; every family of
//! `/metrics` arrives by OTLP; both protocols, with gzip, with TLS; what a busy collector did not
//! take is sent again; while the collector refuses, hangs, or is cut off in the middle of an
//! answer, every request is answered, drops are counted, nothing grows, and SIGTERM ends the daemon
//! within two seconds of its drain; also with one worker.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    metrics::v1::{AggregationTemporality, metric::Data},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use pannier_proto::v1::{
    LeaseRequest, StatsRequest, WatchRequest, cache_service_client::CacheServiceClient,
};
use pannier_tests::{
    Builder, Certificates, Collector, Daemon, EVENTUALLY_MAX, Mode, Path, Proxy, Redis,
    collector::{Answer, attribute},
    eventually, request, shared, wire,
};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};

const KEY: &str = "a-key-that-nobody-may-read";
const CALLER: [u8; 8] = *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";

/// Exports to this collector, quickly. The protocol is gRPC unless `more` says otherwise.
fn exporting(how: Builder, to: SocketAddr, more: &[(&str, &str)]) -> Builder {
    let endpoint = format!("http://{to}");
    let usual = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let all = usual.iter().chain(more);
    all.fold(how, |how, (name, value)| how.environment(name, *value))
}

/// A trace of a caller, told apart by a number.
fn trace(number: u8) -> [u8; 16] {
    [number; 16]
}

/// A request in that trace.
fn traced<T>(number: u8, sampled: bool, message: T) -> Request<T> {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
    let flags = u8::from(sampled);
    let parent = format!("00-{}-{}-{flags:02x}", hex(&trace(number)), hex(&CALLER));
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().expect("a value"));
    metadata.insert("tracestate", "vendor=opaque".parse().expect("a value"));
    request
}

/// What a trace looks like: each span with its tier and outcome, children indented under their
/// parent in the order they begin.
fn tree(spans: &[Span]) -> Vec<String> {
    let root = spans.iter().find(|span| span.parent_span_id == CALLER);
    let root = root.expect("a span whose parent is the caller's");
    assert_eq!(root.kind(), SpanKind::Server);
    let mut lines = vec![root.name.clone()];
    for child in spans.iter().filter(|span| span.span_id != root.span_id) {
        assert_eq!(child.parent_span_id, root.span_id, "{child:?}");
        assert_eq!(child.trace_id, root.trace_id);
        assert!(
            child.start_time_unix_nano >= root.start_time_unix_nano
                && child.end_time_unix_nano <= root.end_time_unix_nano
                && child.start_time_unix_nano <= child.end_time_unix_nano,
            "{child:?} is not within {root:?}"
        );
        let of = |name: &str| attribute(&child.attributes, name).expect(name);
        assert_eq!(of("cache.namespace"), "n");
        let (tier, outcome) = (of("cache.tier"), of("cache.outcome"));
        lines.push(format!("  {} {tier} {outcome}", child.name));
    }
    for span in spans {
        assert_eq!(span.trace_state, "vendor=opaque");
        assert_eq!(span.flags & 1, 1, "sampled");
    }
    lines
}

fn root(spans: &[Span]) -> &Span {
    let root = spans.iter().find(|span| span.parent_span_id == CALLER);
    root.expect("a span whose parent is the caller's")
}

fn of_root(spans: &[Span], name: &str) -> Option<String> {
    attribute(&root(spans).attributes, name)
}

/// The figure of `/metrics` whose line begins so.
async fn figure(daemon: &Daemon, begins: &str) -> u64 {
    let (code, text) = wire::http_get(daemon.http(), "/metrics")
        .await
        .expect("is served");
    assert_eq!(code, 200);
    let line = text.lines().find_map(|line| line.strip_prefix(begins));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

async fn spans_that(daemon: &Daemon, outcome: &str) -> u64 {
    figure(
        daemon,
        &format!("cache_export_spans_total{{cache_outcome=\"{outcome}\"}}"),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_leaves_the_tree_of_what_it_did() {
    let (collector, redis) = (Collector::start(), Redis::start());
    let proxy = Proxy::start(redis.address());
    let other = shared::start(&redis.url(), "").await;
    let how = exporting(shared::builder(&proxy.url(), ""), collector.grpc(), &[]);
    let daemon = how.start();
    shared::attached(&daemon).await;
    let mut stub = daemon.stub();

    stub.get(traced(1, true, request::get("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(1)).await;
    let get = "pannier.v1.CacheService/Get".to_owned();
    let lines = tree(&spans);
    let missed = ["  tier.lookup local miss", "  tier.lookup shared miss"];
    assert_eq!(
        (&lines[0], &lines[1..]),
        (&get, &missed.map(String::from)[..])
    );
    assert_eq!(of_root(&spans, "rpc.system.name").as_deref(), Some("grpc"));
    assert_eq!(of_root(&spans, "rpc.method"), Some(get.clone()));
    assert_eq!(
        of_root(&spans, "rpc.response.status_code").as_deref(),
        Some("OK")
    );
    assert_eq!(of_root(&spans, "cache.namespace").as_deref(), Some("n"));
    assert_eq!(of_root(&spans, "cache.hit").as_deref(), Some("false"));
    assert_eq!(of_root(&spans, "cache.tier").as_deref(), Some("none"));
    let hash = of_root(&spans, "cache.key.hash").expect("a hash");
    assert!(
        hash.len() == 16 && hash.bytes().all(|it| it.is_ascii_hexdigit()),
        "{hash}"
    );

    // What is read before the word of the put has come is read once more.
    let heard = async || daemon.stats().await.shared.unwrap().changes;
    let before = heard().await;
    other.stub().put(request::put("n", KEY, "v")).await.unwrap();
    eventually("the daemon has heard of the put", async || {
        heard().await > before
    })
    .await;
    stub.get(traced(2, true, request::get("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(2)).await;
    let lines = tree(&spans);
    let found = [
        "  tier.lookup local miss",
        "  tier.lookup shared hit",
        "  tier.fill local applied",
    ];
    assert_eq!(lines[1..], found, "a shared hit");
    assert_eq!(of_root(&spans, "cache.hit").as_deref(), Some("true"));
    assert_eq!(of_root(&spans, "cache.tier").as_deref(), Some("shared"));
    assert_eq!(
        of_root(&spans, "cache.key.hash"),
        Some(hash),
        "the same key, the same hash"
    );

    stub.get(traced(3, true, request::get("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(3)).await;
    assert_eq!(
        tree(&spans)[1..],
        ["  tier.lookup local hit"],
        "a local hit"
    );
    assert_eq!(of_root(&spans, "cache.tier").as_deref(), Some("local"));
    assert_eq!(of_root(&spans, "cache.stale").as_deref(), Some("false"));

    stub.put(traced(4, true, request::put("n", KEY, "w")))
        .await
        .unwrap();
    let spans = collector.trace(&trace(4)).await;
    let put = ["  tier.store shared applied", "  tier.store local applied"];
    assert_eq!(tree(&spans)[1..], put, "a put");

    // The own put leaves an unverified copy.
    stub.get(traced(5, true, request::get("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(5)).await;
    let verified = ["  tier.lookup local hit", "  cache.verify shared hit"];
    let mut lines = tree(&spans)[1..].to_vec();
    lines.sort();
    lines.reverse();
    assert_eq!(lines, verified, "a verified hit");

    stub.exists(traced(6, true, request::exists("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(6)).await;
    assert_eq!(tree(&spans)[0], "pannier.v1.CacheService/Exists");
    assert_eq!(of_root(&spans, "cache.hit").as_deref(), Some("true"));

    stub.invalidate(traced(7, true, request::invalidate_keys("n", [KEY])))
        .await
        .unwrap();
    let spans = collector.trace(&trace(7)).await;
    let mut lines = tree(&spans)[1..].to_vec();
    lines.sort();
    assert_eq!(
        lines,
        [
            "  tier.remove local applied",
            "  tier.remove shared applied"
        ]
    );

    let items = ["a", "b"].map(|key| (key.to_owned(), "v"));
    stub.put_many(traced(8, true, request::put_many("n", items)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(8)).await;
    let mut lines = tree(&spans);
    lines[1..].sort();
    let stored = ["  tier.store local applied", "  tier.store shared applied"];
    assert_eq!(
        (lines[0].as_str(), &lines[1..]),
        (
            "pannier.v1.CacheService/PutMany",
            &stored.map(String::from)[..]
        )
    );
    let child = spans
        .iter()
        .find(|span| span.name == "tier.store")
        .expect("a child");
    assert_eq!(
        attribute(&child.attributes, "cache.items").as_deref(),
        Some("2")
    );
    stub.get_many(traced(9, true, request::get_many("n", ["a", "b", "c"])))
        .await
        .unwrap();
    let spans = collector.trace(&trace(9)).await;
    assert_eq!(tree(&spans)[0], "pannier.v1.CacheService/GetMany");

    proxy.set(Mode::Cut);
    shared::detached(&daemon).await;
    stub.put(traced(10, true, request::put("n", KEY, "x")))
        .await
        .unwrap();
    let spans = collector.trace(&trace(10)).await;
    let deferred = ["  tier.store local applied", "  tier.store shared deferred"];
    assert_eq!(tree(&spans)[1..], deferred, "a put while Redis is away");
    stub.get(traced(11, true, request::get("n", KEY)))
        .await
        .unwrap();
    let spans = collector.trace(&trace(11)).await;
    assert_eq!(tree(&spans)[1..], ["  tier.lookup local stale"]);
    assert_eq!(of_root(&spans, "cache.stale").as_deref(), Some("true"));

    proxy.set(Mode::Pass);
    shared::attached(&daemon).await;
    let replay = collector
        .wait_for("the span of the replay", |received| {
            let mut spans = received.spans.iter();
            spans.find(|span| span.name == "cache.replay").cloned()
        })
        .await;
    assert!(replay.parent_span_id.is_empty());
    assert_eq!(
        attribute(&replay.attributes, "cache.items").as_deref(),
        Some("1")
    );

    let received = collector.received();
    let text = String::from_utf8_lossy(&received.bytes);
    assert!(text.contains("pannier.v1.CacheService/Get") && !text.contains(KEY));
    let resource = received.resource.expect("who sent it").attributes;
    assert_eq!(
        attribute(&resource, "service.name").as_deref(),
        Some("pannierd")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_marked_and_the_caller_alone_decides_what_is_traced() {
    let collector = Collector::start();
    let daemon = exporting(Daemon::builder(), collector.grpc(), &[]).start();
    let mut stub = daemon.stub();
    stub.get(traced(1, false, request::get("n", KEY)))
        .await
        .unwrap();
    let refused = stub
        .get(traced(2, true, request::get("Not A Name", KEY)))
        .await;
    assert!(refused.is_err());
    let unserved = pannier_proto::v1::ReadRequest::default();
    assert!(stub.read(traced(3, true, unserved)).await.is_err());
    let mut lease = request::get("n", KEY);
    lease.options.get_or_insert_default().lease = Some(LeaseRequest {
        wait_duration: Some(request::span(50, 0)),
        lease_duration: Some(request::span(50, 0)),
        early_refresh: None,
        tags: Vec::new(),
    });
    let held = stub.get(traced(1, false, lease.clone())).await.unwrap();
    assert!(held.into_inner().lease.is_some());
    let mut lease = traced(4, true, lease);
    lease.set_timeout(Duration::from_millis(300));
    assert!(stub.get(lease).await.is_err());

    let spans = collector.trace(&trace(2)).await;
    let code = of_root(&spans, "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("INVALID_ARGUMENT"));
    let status = root(&spans).status.as_ref().expect("a status").code();
    assert_eq!(
        status,
        StatusCode::Unset,
        "the caller's fault is not the server's"
    );
    let spans = collector.trace(&trace(4)).await;
    let status = root(&spans).status.as_ref().expect("a status").code();
    assert_eq!(status, StatusCode::Error);
    assert_eq!(
        of_root(&spans, "error.type").as_deref(),
        Some("DEADLINE_EXCEEDED")
    );
    let waited = spans.iter().find(|span| span.name == "lease.wait");
    let outcome = attribute(&waited.expect("a step").attributes, "cache.outcome");
    assert_eq!(outcome.as_deref(), Some("miss"));

    // It came first: had it left a span, that would have come as well.
    let unsampled = collector.received().spans;
    assert!(unsampled.iter().all(|span| span.trace_id != trace(1)));
    let text = String::from_utf8_lossy(&collector.received().bytes).into_owned();
    assert!(!text.contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_caller_the_ratio_decides_and_off_means_off() {
    let collector = Collector::start();
    let never = [("OTEL_TRACES_SAMPLER_ARG", "0")];
    let daemon = exporting(Daemon::builder(), collector.grpc(), &never).start();
    let mut stub = daemon.stub();
    for _ in 0..50 {
        stub.get(request::get("n", "k")).await.unwrap();
    }
    stub.get(traced(1, true, request::get("n", "k")))
        .await
        .unwrap();
    assert_eq!(collector.trace(&trace(1)).await.len(), 2);
    assert_eq!(
        collector.received().spans.len(),
        2,
        "only what the caller traces"
    );

    let off = [("OTEL_SDK_DISABLED", "true")];
    let daemon = exporting(Daemon::builder(), collector.grpc(), &off).start();
    let messages = collector.received().messages;
    daemon
        .stub()
        .get(traced(2, true, request::get("n", "k")))
        .await
        .unwrap();
    drop(daemon);
    let more = &collector.received().spans;
    assert!(
        more.iter().all(|span| span.trace_id != trace(2)),
        "{messages}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_an_administrator_are_traced_when_they_are_answered() {
    let collector = Collector::start();
    let daemon = exporting(Daemon::builder(), collector.grpc(), &[]).start();
    let watch = WatchRequest {
        namespace: "n".into(),
        ..WatchRequest::default()
    };
    // Held open: its span must not wait for its end.
    let _stream = daemon.stub().watch(traced(1, true, watch)).await.unwrap();
    let spans = collector.trace(&trace(1)).await;
    assert_eq!(tree(&spans), ["pannier.v1.CacheService/Watch"]);
    assert_eq!(of_root(&spans, "cache.namespace").as_deref(), Some("n"));
    let stats = daemon
        .admin()
        .stats(traced(2, true, StatsRequest::default()))
        .await;
    stats.unwrap();
    let spans = collector.trace(&trace(2)).await;
    assert_eq!(tree(&spans), ["pannier.v1.AdminService/Stats"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_carries_the_same_with_headers_and_compressed() {
    let collector = Collector::start();
    let more = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%20ecret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.version=mine,team=a"),
        ("OTEL_SERVICE_NAME", "cache-of-a"),
    ];
    let how = exporting(Daemon::builder(), collector.http(), &more);
    let mut daemon = how.start();
    daemon
        .stub()
        .put(traced(1, true, request::put("n", KEY, "v")))
        .await
        .unwrap();
    let spans = collector.trace(&trace(1)).await;
    assert_eq!(
        tree(&spans),
        ["pannier.v1.CacheService/Put", "  tier.store local applied"]
    );
    let received = collector
        .wait_for("metrics", |it| (!it.metrics.is_empty()).then(|| it.clone()))
        .await;
    let header = |name: &str| {
        let mut all = received.headers.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(header("api-key"), Some("s ecret"));
    assert_eq!(header("content-encoding"), Some("gzip"));
    let resource = received.resource.clone().expect("who sent it").attributes;
    for (name, value) in [
        ("service.name", "cache-of-a"),
        ("service.version", "mine"),
        ("team", "a"),
    ] {
        assert_eq!(attribute(&resource, name).as_deref(), Some(value));
        let times = resource.iter().filter(|it| it.key == name).count();
        assert_eq!(times, 1, "{name}");
    }
    assert!(!String::from_utf8_lossy(&received.bytes).contains(KEY));
    let ended = daemon.terminate();
    assert!(!ended.stderr.contains("s ecret") && !ended.stderr.contains("s%20ecret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_of_the_metrics_arrives_with_its_beginning_and_traces_beside_it() {
    let (collector, redis) = (Collector::start(), Redis::start());
    let how = exporting(shared::builder(&redis.url(), ""), collector.grpc(), &[]);
    let daemon = how.start();
    shared::attached(&daemon).await;
    let mut stub = daemon.stub();
    stub.put(traced(1, true, request::put("n", KEY, "v")))
        .await
        .unwrap();
    stub.get(traced(2, true, request::get("n", KEY)))
        .await
        .unwrap();

    let (_, text) = wire::http_get(daemon.http(), "/metrics").await.unwrap();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families: Vec<_> = families.filter_map(|line| line.split(' ').next()).collect();
    assert!(families.len() > 25, "{families:?}");
    collector
        .wait_for("every family", |received| {
            let names = received.metrics.iter().map(|it| in_prometheus(&it.name));
            let names: Vec<_> = names.collect();
            let arrived =
                |family: &&str| names.iter().any(|name| family.starts_with(name.as_str()));
            families.iter().all(arrived).then_some(())
        })
        .await;

    // A figure that was seen counts on, from the same beginning.
    let points = |want: u64| {
        move |received: &pannier_tests::collector::Received| {
            let metric = received.metrics.iter().find(|it| it.name == "cache.puts")?;
            let Some(Data::Sum(sum)) = &metric.data else {
                return None;
            };
            assert!(sum.is_monotonic);
            let cumulative = AggregationTemporality::Cumulative;
            assert_eq!(sum.aggregation_temporality(), cumulative);
            let point = sum
                .data_points
                .iter()
                .find(|it| attribute(&it.attributes, "cache.namespace").as_deref() == Some("n"))?;
            let value = format!("{:?}", point.value);
            (value == format!("Some(AsInt({want}))")).then_some(point.start_time_unix_nano)
        }
    };
    let began = collector.wait_for("one put", points(1)).await;
    stub.put(request::put("n", KEY, "w")).await.unwrap();
    assert_eq!(collector.wait_for("two puts", points(2)).await, began);
    assert!(began > 1_600_000_000_000_000_000, "nanoseconds since 1970");

    let received = collector.received();
    let lookup = received
        .metrics
        .iter()
        .find(|it| it.name == "cache.lookup")
        .expect("lookups");
    let Some(Data::Histogram(histogram)) = &lookup.data else {
        panic!("{lookup:?}")
    };
    let hit = histogram.data_points.iter().find(|point| {
        let of = |name: &str| attribute(&point.attributes, name);
        (of("cache.tier").as_deref(), of("cache.outcome").as_deref())
            == (Some("local"), Some("hit"))
    });
    let hit = hit.expect("local hits");
    assert_eq!(hit.bucket_counts.len(), hit.explicit_bounds.len() + 1);
    assert_eq!(hit.bucket_counts.iter().sum::<u64>(), hit.count);
    let traces: Vec<_> = hit.exemplars.iter().map(|it| it.trace_id.clone()).collect();
    assert!(traces.contains(&trace(2).to_vec()), "{traces:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_collector_gets_it_later_and_one_that_refuses_does_not() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start();
        let to = match protocol {
            "grpc" => collector.grpc(),
            _ => collector.http(),
        };
        let more = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        let daemon = exporting(Daemon::builder(), to, &more).start();
        let mut stub = daemon.stub();
        collector.answer(Answer::Busy(Some(1)));
        stub.get(traced(1, true, request::get("n", KEY)))
            .await
            .unwrap();
        collector
            .wait_for("a first attempt", |it| (it.messages > 0).then_some(()))
            .await;
        collector.answer(Answer::Take);
        collector.trace(&trace(1)).await;
        eventually("two spans were sent", async || {
            spans_that(&daemon, "sent").await == 2
        })
        .await;

        collector.answer(Answer::Refuse);
        stub.get(traced(2, true, request::get("n", KEY)))
            .await
            .unwrap();
        eventually("two spans failed", async || {
            spans_that(&daemon, "failed").await == 2
        })
        .await;
        collector.answer(Answer::Partly(1));
        stub.get(traced(3, true, request::get("n", KEY)))
            .await
            .unwrap();
        eventually("one more failed", async || {
            spans_that(&daemon, "failed").await == 3
        })
        .await;
        assert_eq!(spans_that(&daemon, "sent").await, 3);
        let log = daemon.stderr();
        assert!(
            log.contains("not wanted") && log.contains("cannot be exported"),
            "{log}"
        );
    }
}

/// How the name begins in Prometheus: by OpenTelemetry's rule, but for what Prometheus itself
/// names differently.
fn in_prometheus(name: &str) -> String {
    let other = match name {
        "process.cpu.time" => "process_cpu_seconds_total",
        "process.memory.usage" => "process_resident_memory_bytes",
        "process.open_file_descriptor.count" => "process_open_fds",
        "process.open_file_descriptor.limit" => "process_max_fds",
        _ => return name.replace('.', "_"),
    };
    other.to_owned()
}

/// Many traced requests at once, all of which are answered.
async fn hammer(stub: &CacheServiceClient<Channel>, requests: usize) {
    let tasks = (0..16).map(|_| {
        let mut stub = stub.clone();
        tokio::spawn(async move {
            for number in 0..requests / 16 {
                let key = format!("k{}", number % 10);
                let reply = stub.get(traced(9, true, request::get("n", &key))).await;
                reply.expect("no request fails because of the collector");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        timeout(EVENTUALLY_MAX, task)
            .await
            .expect("answered in time")
            .unwrap();
    }
}

/// What is wrong with the collector, by the proxy in front of it.
const FAULTS: [(&str, Mode); 3] = [
    ("refuses", Mode::Cut),
    ("hangs", Mode::Silence),
    ("is cut off in an answer", Mode::Truncate(5)),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    for protocol in ["grpc", "http/protobuf"] {
        for (what, mode) in FAULTS {
            let collector = Collector::start();
            let to = match protocol {
                "grpc" => collector.grpc(),
                _ => collector.http(),
            };
            let proxy = Proxy::start(to);
            let more = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "200"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
            ];
            let config = "[server]\nworkers = 1\n";
            let how = Daemon::builder().config(config);
            let mut daemon = exporting(how, proxy.address(), &more).start();
            let stub = daemon.stub();
            hammer(&stub, 320).await;
            eventually("spans are sent", async || {
                spans_that(&daemon, "sent").await > 0
            })
            .await;

            proxy.set(mode);
            proxy.sever(Path::All);
            hammer(&stub, 4_000).await;
            let before = daemon.resident_bytes();
            let dropped = spans_that(&daemon, "dropped").await;
            assert!(dropped > 4_000, "{what}: {dropped} dropped");
            hammer(&stub, 8_000).await;
            let grown = daemon.resident_bytes().saturating_sub(before);
            assert!(grown < 4 << 20, "{what}: {grown} bytes more");
            assert!(
                spans_that(&daemon, "dropped").await > dropped + 8_000,
                "{what}"
            );

            let begun = Instant::now();
            let ended = daemon.terminate();
            let took = begun.elapsed();
            assert_eq!(ended.code(), Some(0), "{what}: {}", ended.stderr);
            // The drain of idle connections takes half a second, the test machine some more.
            assert!(took < Duration::from_secs(4), "{what} {protocol}: {took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_back_gets_spans_again() {
    let collector = Collector::start();
    let proxy = Proxy::start(collector.grpc());
    let more = [("OTEL_EXPORTER_OTLP_TIMEOUT", "300")];
    let daemon = exporting(Daemon::builder(), proxy.address(), &more).start();
    let mut stub = daemon.stub();
    for (number, (what, mode)) in (1..).zip(FAULTS) {
        proxy.set(mode);
        proxy.sever(Path::All);
        stub.get(traced(100 + number, true, request::get("n", "k")))
            .await
            .unwrap();
        let failed = spans_that(&daemon, "failed").await;
        let metrics = "cache_export_metrics_total{cache_outcome=\"failed\"}";
        let before = figure(&daemon, metrics).await;
        eventually(what, async || {
            spans_that(&daemon, "failed").await > failed || figure(&daemon, metrics).await > before
        })
        .await;
        proxy.set(Mode::Pass);
        stub.get(traced(number, true, request::get("n", "k")))
            .await
            .unwrap();
        collector.trace(&trace(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_is_verified_and_verifies() {
    let home = Daemon::builder();
    let certificates = Certificates::make(&home.home().join("certificates"));
    let collector = Collector::start_with_tls(&certificates);
    let endpoint = format!("https://localhost:{}", collector.tls().port());
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let (chain, key) = certificates.client();
    let (chain, key) = (text(chain), text(key));
    let start = |protocol: &str, authority: String| {
        let more = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.as_str()),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", chain.as_str()),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.as_str()),
        ];
        exporting(Daemon::builder(), collector.grpc(), &more).start()
    };
    for (number, protocol) in (1..).zip(["grpc", "http/protobuf"]) {
        let daemon = start(protocol, text(certificates.authority()));
        let get = traced(number, true, request::get("n", "k"));
        daemon.stub().get(get).await.unwrap();
        collector.trace(&trace(number)).await;
    }
    let daemon = start("grpc", text(certificates.stranger()));
    let get = traced(9, true, request::get("n", "k"));
    daemon.stub().get(get).await.unwrap();
    eventually("the log says why", async || {
        let log = daemon.stderr();
        log.contains("cannot be exported") && log.contains("UnknownIssuer")
    })
    .await;
    let spans = collector.received().spans;
    assert!(spans.iter().all(|span| span.trace_id != trace(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start();
    // Nothing would be sent for a minute.
    let more = [
        ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60000"),
    ];
    let mut daemon = exporting(Daemon::builder(), collector.grpc(), &more).start();
    daemon
        .stub()
        .get(traced(1, true, request::get("n", "k")))
        .await
        .unwrap();
    assert_eq!(collector.received().messages, 0);
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let received = collector.received();
    assert_eq!(received.spans.len(), 2);
    assert!(!received.metrics.is_empty());
}
