//! P17: metrics on `/metrics`, for Prometheus.
//!
//! Proven: every metric is there with a real Redis and in docs/metrics.md, and moves when what it
//! counts happens: local hits, shared hits, misses, puts, deferred puts, answers marked stale,
//! removals, verifications, refusals, errors, batches, pushes, flushes, attachments, the outbox,
//! refused connections and requests. `promtool` finds nothing to say. OpenMetrics is given to those
//! who ask for it. 10,000 namespaces leave it bounded, and the counts of all of them are in it. A
//! reset of the statistics does not make it go back.
//! Not proven here: what damage to the local tier adds (p03, p12 look at Stats), dropped watchers
//! (watch), exports by OTLP.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use pannier_proto::v1::{
    LeaseRequest, ReadOptions, ResetRequest, WatchRequest, invalidate_request::Target,
    write_options::Condition,
};
use pannier_tests::{
    Caller, Daemon, Data, Redis, eventually, metrics::Metrics, request, shared, wire,
};
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Code, Status};

type Labels<'a> = &'a [(&'a str, &'a str)];

const LOCAL: (&str, &str) = ("cache_tier", "local");
const SHARED: (&str, &str) = ("cache_tier", "shared");
const N: (&str, &str) = ("cache_namespace", "n");

fn outcome(name: &str) -> (&'static str, &str) {
    ("cache_outcome", name)
}

/// What is documented, with what is only there with a shared tier.
const NAMES: [&str; 62] = [
    "cache_lookup_seconds",
    "cache_store_seconds",
    "cache_remove_seconds",
    "cache_verify_seconds",
    "cache_wait_seconds",
    "cache_lease_wait_seconds",
    "cache_leases_waiting",
    "cache_leases_granted_total",
    "cache_leases_refreshes_total",
    "cache_leases_waited_total",
    "cache_leases_timed_out_total",
    "cache_leases_refused_total",
    "cache_leases_crowded_total",
    "rpc_server_call_duration_seconds",
    "cache_hit_ratio",
    "cache_hits_total",
    "cache_misses_total",
    "cache_stale_total",
    "cache_puts_total",
    "cache_invalidations_total",
    "cache_errors_total",
    "cache_refusals_total",
    "cache_local_serving",
    "cache_local_disk_usage_bytes",
    "cache_local_disk_limit_bytes",
    "cache_local_memory_usage_bytes",
    "cache_local_memory_limit_bytes",
    "cache_local_keys",
    "cache_local_records_corrupt_total",
    "cache_local_records_expired_total",
    "cache_local_records_refreshed_total",
    "cache_local_reopens_total",
    "cache_local_set_asides_total",
    "cache_shared_attached",
    "cache_shared_attachments_total",
    "cache_shared_pushes_total",
    "cache_shared_flushes_total",
    "cache_shared_copies_verified_total",
    "cache_shared_copies_refuted_total",
    "cache_shared_scans_keys_total",
    "cache_shared_scans_running",
    "cache_shared_contact_age_seconds",
    "cache_shared_redis_memory_usage_bytes",
    "cache_shared_redis_memory_limit_bytes",
    "cache_outbox_depth",
    "cache_outbox_limit",
    "cache_coherence_delay_seconds",
    "cache_staleness_seconds",
    "cache_connections",
    "cache_connections_refused_total",
    "cache_requests_in_flight",
    "cache_requests_limit",
    "cache_requests_overloaded_total",
    "cache_watchers",
    "cache_watch_messages_total",
    "cache_watch_dropped_total",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "pannier_build_info",
];

/// By how much figures moved while something happened.
struct Moved(Metrics, Metrics);

impl Moved {
    fn by(&self, name: &str, labels: Labels<'_>) -> f64 {
        let of = |metrics: &Metrics| metrics.get(name, labels).unwrap_or(0.0);
        of(&self.1) - of(&self.0)
    }

    #[track_caller]
    fn expect(&self, expected: &[(&str, Labels<'_>, f64)]) {
        for (name, labels, by) in expected {
            assert_eq!(self.by(name, labels), *by, "{name} {labels:?}");
        }
    }
}

/// What moved at a daemon while `act` was done.
async fn moved(daemon: &Daemon, act: impl AsyncFnOnce()) -> Moved {
    let before = Metrics::of(daemon).await;
    act().await;
    Moved(before, Metrics::of(daemon).await)
}

const LOOKUPS: &str = "cache_lookup_seconds_count";
const STORES: &str = "cache_store_seconds_count";
const CALLS: &str = "rpc_server_call_duration_seconds_count";

fn call(method: &str) -> (&'static str, &str) {
    ("rpc_method", method)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_and_promtool_finds_no_fault() {
    let redis = Redis::builder().memory("64mb", "allkeys-lru").start();
    let daemon = shared::start(&redis.url(), "").await;
    let other = shared::start(&redis.url(), "").await;
    let (here, there) = (Caller::new(&daemon, "n"), Caller::new(&other, "n"));
    there.put("k", "v").await;
    here.get("k").await;
    here.put("k", "w").await;
    here.get("k").await;
    here.invalidate("k").await;
    here.get("k").await;
    let lease = ReadOptions {
        lease: Some(LeaseRequest {
            wait_duration: Some(request::milliseconds(1)),
            ..LeaseRequest::default()
        }),
        ..ReadOptions::default()
    };
    for _ in 0..2 {
        here.get_with("leased", lease.clone()).await;
    }
    // Redis's memory is asked for now and then; waited for in histograms needs two at a time.
    eventually("every metric is there", async || {
        let mut readers = JoinSet::new();
        there.put("wait", "v").await;
        for _ in 0..16 {
            let here = here.clone();
            readers.spawn(async move { here.get("wait").await });
        }
        readers.join_all().await;
        let metrics = Metrics::of(&daemon).await;
        let names = metrics.names();
        NAMES.iter().all(|name| names.contains(name))
    })
    .await;
    let metrics = Metrics::of(&daemon).await;
    let known: Vec<_> = metrics.names().into_iter().map(str::to_owned).collect();
    let documented = include_str!("../../docs/metrics.md");
    for name in &known {
        assert!(NAMES.contains(&name.as_str()), "{name} is new");
        assert!(
            documented.contains(name.as_str()),
            "{name} is not documented"
        );
    }
    metrics.check_with_promtool();
    assert_eq!(metrics.get("cache_shared_attached", &[]), Some(1.0));
    let limit = metrics.get("cache_shared_redis_memory_limit_bytes", &[]);
    assert_eq!(limit, Some(64.0 * 1024.0 * 1024.0));
    let used = metrics.get("cache_shared_redis_memory_usage_bytes", &[]);
    assert!(used.unwrap() > 100_000.0, "{used:?}");
    let ratio = metrics.get("cache_hit_ratio", &[]).unwrap();
    assert!(ratio > 0.5 && ratio < 1.0, "{ratio}");
    let age = metrics.get("cache_shared_contact_age_seconds", &[]);
    assert!(age.unwrap() < 2.0, "{age:?}");
    assert!(metrics.get("process_resident_memory_bytes", &[]).unwrap() > 1e6);
    assert!(metrics.get("process_cpu_seconds_total", &[]).unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_written_is_counted_where_it_happened() {
    let redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    let other = shared::start(&redis.url(), "").await;
    let (here, there) = (Caller::new(&daemon, "n"), Caller::new(&other, "n"));
    there.put("k", "v").await;

    let first = moved(&daemon, async || drop(here.get("k").await)).await;
    first.expect(&[
        ("cache_hits_total", &[N, SHARED], 1.0),
        ("cache_hits_total", &[N, LOCAL], 0.0),
        ("cache_misses_total", &[N], 0.0),
        (LOOKUPS, &[LOCAL, outcome("miss")], 1.0),
        (LOOKUPS, &[SHARED, outcome("hit")], 1.0),
        // The copy that was kept.
        (STORES, &[LOCAL, outcome("applied")], 1.0),
        (STORES, &[SHARED], 0.0),
        (CALLS, &[call("pannier.v1.CacheService/Get")], 1.0),
        (CALLS, &[("rpc_response_status_code", "OK")], 1.0),
    ]);
    here.has_local("k", b"v").await;
    let again = moved(&daemon, async || drop(here.get("k").await)).await;
    again.expect(&[
        ("cache_hits_total", &[N, LOCAL], 1.0),
        (LOOKUPS, &[LOCAL, outcome("hit")], 1.0),
        (LOOKUPS, &[SHARED], 0.0),
    ]);
    let spent = again.by("cache_lookup_seconds_sum", &[LOCAL]);
    let whole = again.by("rpc_server_call_duration_seconds_sum", &[]);
    assert!(
        spent > 0.0 && spent < whole && whole < 10.0,
        "{spent} {whole}"
    );

    let none = moved(&daemon, async || drop(here.get("none").await)).await;
    none.expect(&[
        ("cache_misses_total", &[N], 1.0),
        ("cache_hits_total", &[], 0.0),
        (LOOKUPS, &[SHARED, outcome("miss")], 1.0),
    ]);
    let put = moved(&daemon, async || drop(here.put("k", "w").await)).await;
    put.expect(&[
        ("cache_puts_total", &[N], 1.0),
        (STORES, &[LOCAL, outcome("applied")], 1.0),
        (STORES, &[SHARED, outcome("applied")], 1.0),
    ]);
    // An own write is verified by its version when it is read first.
    let verified = moved(&daemon, async || drop(here.get("k").await)).await;
    verified.expect(&[
        ("cache_verify_seconds_count", &[SHARED, outcome("hit")], 1.0),
        ("cache_shared_copies_verified_total", &[], 1.0),
        ("cache_hits_total", &[N, LOCAL], 1.0),
        (LOOKUPS, &[LOCAL, outcome("hit")], 1.0),
    ]);
    let changed = moved(&daemon, async || {
        there.put("k", "x").await;
        here.becomes("k", Some(b"x")).await;
    })
    .await;
    changed.expect(&[
        ("cache_verify_seconds_count", &[outcome("miss")], 1.0),
        ("cache_shared_copies_refuted_total", &[], 1.0),
    ]);
    assert!(changed.by("cache_shared_pushes_total", &[]) >= 1.0);
    let removed = moved(&daemon, async || _ = here.invalidate("k").await).await;
    removed.expect(&[
        ("cache_invalidations_total", &[N], 1.0),
        (
            "cache_remove_seconds_count",
            &[LOCAL, outcome("applied")],
            1.0,
        ),
        (
            "cache_remove_seconds_count",
            &[SHARED, outcome("applied")],
            1.0,
        ),
        (STORES, &[], 0.0),
    ]);
    let there_is = moved(&daemon, async || _ = here.exists("k").await).await;
    there_is.expect(&[
        (CALLS, &[call("pannier.v1.CacheService/Exists")], 1.0),
        (LOOKUPS, &[SHARED, outcome("miss")], 1.0),
        // Whether something is there is no read.
        ("cache_misses_total", &[], 0.0),
    ]);
    let flushed = moved(&daemon, async || {
        redis.command(&["FLUSHALL"]);
        eventually("the flush is heard of", async || {
            Metrics::of(&daemon)
                .await
                .get("cache_shared_flushes_total", &[])
                >= Some(1.0)
        })
        .await;
    })
    .await;
    assert!(flushed.by("cache_shared_flushes_total", &[]) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_refusals_and_errors_are_counted_by_item() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let keys = || (0..100).map(|it| format!("k{it}"));
    let put = moved(&daemon, async || {
        let items = keys().take(60).map(|key| (key, "v"));
        let batch = request::put_many("n", items);
        caller.stub().put_many(batch).await.unwrap();
    })
    .await;
    put.expect(&[
        ("cache_puts_total", &[N], 60.0),
        (STORES, &[LOCAL, outcome("applied")], 60.0),
        (CALLS, &[call("pannier.v1.CacheService/PutMany")], 1.0),
    ]);
    let got = moved(&daemon, async || {
        let batch = request::get_many("n", keys());
        caller.stub().get_many(batch).await.unwrap();
    })
    .await;
    got.expect(&[
        ("cache_hits_total", &[N, LOCAL], 60.0),
        ("cache_misses_total", &[N], 40.0),
        (LOOKUPS, &[LOCAL, outcome("hit")], 60.0),
        (LOOKUPS, &[LOCAL, outcome("miss")], 40.0),
        (CALLS, &[call("pannier.v1.CacheService/GetMany")], 1.0),
    ]);
    // The time of the batch is shared by its items, not counted for each.
    let spent = got.by("cache_lookup_seconds_sum", &[LOCAL]);
    let whole = got.by("rpc_server_call_duration_seconds_sum", &[]);
    assert!(spent > 0.0 && spent < whole, "{spent} of {whole}");
    let refused = moved(&daemon, async || {
        let put = request::put_if("n", "k1", "other", Condition::IfAbsent(true));
        caller.try_put(put).await.unwrap_err();
    })
    .await;
    refused.expect(&[
        ("cache_refusals_total", &[N], 1.0),
        ("cache_errors_total", &[], 0.0),
        (STORES, &[LOCAL, outcome("skipped")], 1.0),
        (
            CALLS,
            &[("rpc_response_status_code", "ALREADY_EXISTS")],
            1.0,
        ),
    ]);
    let wrong = moved(&daemon, async || {
        caller.try_get("", None).await.unwrap_err();
    })
    .await;
    wrong.expect(&[
        ("cache_errors_total", &[N], 1.0),
        (
            CALLS,
            &[("rpc_response_status_code", "INVALID_ARGUMENT")],
            1.0,
        ),
        // The caller's fault is none of the daemon's.
        (CALLS, &[("error_type", "INVALID_ARGUMENT")], 0.0),
    ]);
    let removed = moved(&daemon, async || {
        caller.invalidate_by(Target::All(true)).await;
    })
    .await;
    removed.expect(&[("cache_invalidations_total", &[N], 60.0)]);
    // Without a shared tier there is nothing to say of one.
    let metrics = Metrics::of(&daemon).await;
    assert!(!metrics.names().contains("cache_shared_attached"));
    assert_eq!(metrics.get(LOOKUPS, &[SHARED]), None);
    metrics.check_with_promtool();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_seen() {
    let mut redis = Redis::builder().durable().start();
    let daemon = shared::start(&redis.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.has_local("k", b"v").await;
    redis.kill();
    shared::detached(&daemon).await;
    let outage = moved(&daemon, async || {
        caller.get("k").await;
        caller.put("other", "v").await;
        caller.invalidate("gone").await;
    })
    .await;
    outage.expect(&[
        ("cache_stale_total", &[N], 1.0),
        ("cache_hits_total", &[N, LOCAL], 1.0),
        (LOOKUPS, &[LOCAL, outcome("stale")], 1.0),
        (LOOKUPS, &[LOCAL, outcome("hit")], 0.0),
        ("cache_staleness_seconds_count", &[], 1.0),
        (STORES, &[LOCAL, outcome("applied")], 1.0),
        (STORES, &[SHARED, outcome("deferred")], 1.0),
        (
            "cache_remove_seconds_count",
            &[SHARED, outcome("deferred")],
            1.0,
        ),
        ("cache_outbox_depth", &[], 2.0),
    ]);
    let now = Metrics::of(&daemon).await;
    assert_eq!(now.get("cache_shared_attached", &[]), Some(0.0));
    assert!(now.get("cache_outbox_limit", &[]).unwrap() > 2.0);
    now.check_with_promtool();
    redis.restart(Data::Kept);
    shared::attached(&daemon).await;
    let after = Metrics::of(&daemon).await;
    assert_eq!(after.get("cache_shared_attached", &[]), Some(1.0));
    assert_eq!(after.get("cache_shared_attachments_total", &[]), Some(2.0));
    assert_eq!(after.get("cache_outbox_depth", &[]), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_limits_refuse_is_counted() {
    let redis = Redis::start();
    let more = "[server]\nmax_in_flight = 1\nmax_connections = 3";
    let daemon = shared::start(&redis.url(), more).await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    let watching = moved(&daemon, async || {
        let request = WatchRequest {
            namespace: "n".into(),
            ..WatchRequest::default()
        };
        let mut stream = caller.stub().watch(request).await.unwrap().into_inner();
        let now = Metrics::of(&daemon).await;
        assert_eq!(now.get("cache_watchers", &[]), Some(1.0));
        caller.put("k", "w").await;
        stream.message().await.unwrap().unwrap();
    })
    .await;
    assert!(watching.by("cache_watch_messages_total", &[]) >= 1.0);

    // One hangs for the command time-out, the others come while it does.
    redis.freeze();
    let mut puts = JoinSet::new();
    for _ in 0..8 {
        let caller = caller.clone();
        puts.spawn(async move { caller.try_put(caller.put_request("k", "x")).await });
    }
    let ends = puts.join_all().await.into_iter();
    let refused = ends.filter(|it| {
        let code = it.as_ref().map_err(Status::code);
        matches!(code, Err(Code::ResourceExhausted))
    });
    let refused = refused.count() as f64;
    redis.thaw();
    assert!(refused >= 1.0);
    let now = Metrics::of(&daemon).await;
    let overloaded = now.get("cache_requests_overloaded_total", &[]);
    assert_eq!(overloaded, Some(refused));
    assert_eq!(now.get("cache_requests_in_flight", &[]), Some(0.0));
    assert_eq!(now.get("cache_requests_limit", &[]), Some(1.0));

    let grpc = [("cache_door", "grpc")];
    let mut held = Vec::new();
    eventually("a connection is refused", async || {
        held.push(TcpStream::connect(daemon.grpc()).await.unwrap());
        let now = Metrics::of(&daemon).await;
        now.get("cache_connections_refused_total", &grpc) >= Some(1.0)
    })
    .await;
    let now = Metrics::of(&daemon).await;
    assert_eq!(now.get("cache_connections", &grpc), Some(3.0));
    assert_eq!(
        now.get("cache_connections", &[("cache_door", "http")]),
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_namespaces_leave_it_bounded() {
    const MANY: usize = 10_000;
    let daemon = Daemon::builder()
        .config("[telemetry]\nnamespaces_max = 50\n[namespaces.configured]\n[namespaces.other]\n")
        .start();
    let empty = Metrics::of(&daemon).await;
    Caller::new(&daemon, "first").get("k").await;
    let stub = daemon.stub();
    let mut readers = JoinSet::new();
    for part in 0..16 {
        let mut stub = stub.clone();
        readers.spawn(async move {
            for number in (part..MANY).step_by(16) {
                let get = request::get(&format!("n{number}"), "k");
                stub.get(get).await.unwrap();
            }
        });
    }
    readers.join_all().await;
    for name in ["configured", "other"] {
        Caller::new(&daemon, name).get("k").await;
    }
    let full = Metrics::of(&daemon).await;
    // Two are configured, one of which has the name of those that have none.
    assert_eq!(full.lines("cache_misses_total", &[]).count(), 50);
    assert_eq!(full.get("cache_misses_total", &[]), Some(MANY as f64 + 3.0));
    for name in ["first", "configured"] {
        let label = [("cache_namespace", name)];
        assert_eq!(full.get("cache_misses_total", &label), Some(1.0), "{name}");
    }
    let other = [("cache_namespace", "other")];
    assert_eq!(full.lines("cache_misses_total", &other).count(), 1);
    let others = MANY as f64 + 3.0 - 49.0;
    assert_eq!(full.get("cache_misses_total", &other), Some(others));
    assert!(full.len() < empty.len() + 51 * 9, "{} figures", full.len());
    assert!(full.text.len() < 256 << 10, "{} bytes", full.text.len());
    full.check_with_promtool();
    // What has a name keeps it, and what has none gets none.
    for name in ["first", "n9999"] {
        Caller::new(&daemon, name).get("k").await;
    }
    let later = Metrics::of(&daemon).await;
    let first = [("cache_namespace", "first")];
    assert_eq!(later.get("cache_misses_total", &first), Some(2.0));
    assert_eq!(later.lines("cache_misses_total", &[]).count(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_statistics_does_not_make_it_go_back() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.get("k").await;
    daemon.admin().reset(ResetRequest {}).await.unwrap();
    caller.get("k").await;
    let metrics = Metrics::of(&daemon).await;
    assert_eq!(metrics.get("cache_hits_total", &[N, LOCAL]), Some(2.0));
    let stats = daemon.stats().await;
    let counters = request::counters(&stats, "n");
    assert_eq!((counters.hits, counters.puts), (1, 0));
    let gets = stats.calls.iter().find(|it| it.method == "Get").unwrap();
    assert_eq!(gets.duration.unwrap().count, 1);
    let minute = stats.last_minute.unwrap();
    assert_eq!(minute.total.unwrap().hits, 2);
    let lookups = minute.operations.iter();
    let lookups: Vec<_> = lookups
        .filter(|it| it.operation == "lookup" && it.outcome.is_empty())
        .map(|it| it.duration.unwrap())
        .collect();
    assert_eq!((lookups.len(), lookups[0].count), (1, 2));
    assert!(lookups[0].p99.is_some() && lookups[0].p99 != Some(request::span(0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_is_for_those_who_ask_for_it() {
    let daemon = Daemon::start();
    Caller::new(&daemon, "n").get("k").await;
    let asked = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let open = wire::http(daemon.http(), "GET", "/metrics", asked)
        .await
        .unwrap();
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.body.ends_with("\n# EOF\n"));
    assert!(open.body.contains("# TYPE cache_misses counter\n"));
    assert!(open.body.contains("# UNIT cache_lookup_seconds seconds\n"));
    assert!(
        open.body
            .contains("cache_misses_total{cache_namespace=\"n\"} 1\n")
    );
    let plain = wire::http(daemon.http(), "GET", "/metrics", "")
        .await
        .unwrap();
    assert_eq!(
        plain.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    // The same figures, whichever way they are shown.
    let names = |text: &str| Metrics::read(text.to_owned()).len();
    assert_eq!(names(&open.body), names(&plain.body));
}
