//! P18: what is asked over HTTP beside gRPC.
//!
//! Proven: `/cache/health` and `/cache/metrics` say exactly what programs of the time before
//! Pannier read, without Redis, with it, and after it has gone. `/status.json` has what a person
//! asks for: rates, percentiles, the tiers against their budgets, each change of Redis's state with
//! its reason, the slowest requests with what they did; and no secret. HEAD is answered like GET
//! without a body, other methods with 405, unknown paths with 404, another host than this one with
//! 421. One who sends nothing, and too many, are got rid of. `/healthz` and `/readyz` do not depend
//! on Redis (p11, p24 have more).
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_tests::{
    Caller, Daemon, Data, Redis, eventually,
    metrics::Metrics,
    shared,
    wire::{HttpReply, http, http_host},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PATHS: [(&str, &str); 8] = [
    ("/", "text/html; charset=utf-8"),
    ("/page/page.js", "text/javascript; charset=utf-8"),
    ("/healthz", "text/plain; charset=utf-8"),
    ("/readyz", "text/plain; charset=utf-8"),
    ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ("/status.json", "application/json"),
    ("/cache/health", "application/json"),
    ("/cache/metrics", "application/json"),
];

async fn ask(daemon: &Daemon, method: &str, path: &str) -> HttpReply {
    let reply = http(daemon.http(), method, path, "").await;
    reply.expect("an answer")
}

async fn body(daemon: &Daemon, path: &str) -> String {
    let reply = ask(daemon, "GET", path).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    reply.body
}

async fn status(daemon: &Daemon) -> Value {
    serde_json::from_str(&body(daemon, "/status.json").await).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_and_other_methods_are_not() {
    let daemon = Daemon::start();
    for (path, kind) in PATHS {
        let got = ask(&daemon, "GET", path).await;
        assert_eq!(
            (got.status, got.header("content-type")),
            (200, Some(kind)),
            "{path}"
        );
        assert!(!got.body.is_empty(), "{path}");
        let head = ask(&daemon, "HEAD", path).await;
        assert_eq!(
            (head.status, head.header("content-type"), head.body.as_str()),
            (200, Some(kind), ""),
            "{path}"
        );
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let refused = ask(&daemon, method, path).await;
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), Some("get,head"), "{method} {path}");
        }
    }
    for path in [
        "/cache",
        "/cache/health/",
        "/metricsx",
        "/status",
        "/page",
        "/page/",
        "/%00",
    ] {
        let reply = ask(&daemon, "GET", path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        // It names what there is, but for the parts of the page.
        let named = |(known, _): &&(&str, &str)| reply.body.contains(&format!(" {known}"));
        assert_eq!(
            PATHS.iter().filter(named).count(),
            PATHS.len() - 1,
            "{}",
            reply.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_health_and_cache_metrics_say_exactly_what_is_expected_of_them() {
    let daemon = Daemon::start();
    assert_eq!(
        body(&daemon, "/cache/health").await,
        "{\"enabled\":true,\"connected\":false,\"message\":\"No shared tier configured, using the \
         local tier\",\"hits\":0,\"misses\":0}"
    );
    assert_eq!(
        body(&daemon, "/cache/metrics").await,
        "{\"total_requests\":0,\"hits\":0,\"misses\":0,\"hit_rate\":\"0.00%\",\"sets\":0,\
         \"deletes\":0,\"errors\":0,\"categories\":{}}"
    );
    let (context, tool) = (
        Caller::new(&daemon, "context"),
        Caller::new(&daemon, "tool"),
    );
    context.put("a", "v").await;
    context.get("a").await;
    context.get("none").await;
    context.get("none").await;
    tool.put("b", "v").await;
    tool.get("b").await;
    tool.invalidate("b").await;
    tool.try_get("", None).await.unwrap_err();
    Caller::new(&daemon, "unread").put("c", "v").await;
    assert_eq!(
        body(&daemon, "/cache/metrics").await,
        "{\"total_requests\":4,\"hits\":2,\"misses\":2,\"hit_rate\":\"50.00%\",\"sets\":3,\
         \"deletes\":1,\"errors\":1,\"categories\":{\
         \"context\":{\"hits\":1,\"misses\":2,\"hit_rate\":\"33.33%\"},\
         \"tool\":{\"hits\":1,\"misses\":0,\"hit_rate\":\"100.00%\"}}}"
    );
    let health: Value = serde_json::from_str(&body(&daemon, "/cache/health").await).unwrap();
    assert_eq!((&health["hits"], &health["misses"]), (&json!(2), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_health_follows_redis() {
    let mut redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    let health = |connected: bool, message: &str| {
        format!(
            "{{\"enabled\":true,\"connected\":{connected},\"message\":\"{message}\",\"hits\":0,\
             \"misses\":0}}"
        )
    };
    assert_eq!(
        body(&daemon, "/cache/health").await,
        health(true, "Connected")
    );
    redis.kill();
    shared::detached(&daemon).await;
    assert_eq!(
        body(&daemon, "/cache/health").await,
        health(false, "Connection failed, using fallback")
    );
    // An orchestrator must not act on it.
    assert_eq!(body(&daemon, "/healthz").await, "ok\n");
    assert_eq!(body(&daemon, "/readyz").await, "ready\n");
    redis.restart(Data::Lost);
    shared::attached(&daemon).await;
    assert_eq!(
        body(&daemon, "/cache/health").await,
        health(true, "Connected")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_what_a_person_asks_for() {
    let mut redis = Redis::builder().password("very-secret").start();
    let daemon = shared::start(&redis.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.has_local("k", b"v").await;
    caller.get("none").await;
    let seen = status(&daemon).await;
    assert_eq!(seen["version"], env!("CARGO_PKG_VERSION"));
    for window in ["since_reset", "last_minute"] {
        let window = &seen[window];
        let total = &window["total"];
        let (hits, misses) = (total["hits"].as_u64(), total["misses"].as_u64());
        assert!(hits >= Some(1) && misses == Some(1), "{total}");
        let ratio = hits.unwrap() as f64 / (hits.unwrap() + 1) as f64;
        assert_eq!(total["hit_ratio"].as_f64(), Some(ratio));
        assert!(total["reads_per_second"].as_f64() > Some(0.0));
        assert_eq!(window["namespaces"][0]["namespace"], "n");
        let local = &window["tiers"][0];
        assert_eq!(
            (&local["tier"], local["hit_ratio"].is_f64()),
            (&json!("local"), true)
        );
        let operations = window["operations"].as_array().unwrap();
        let stored = operations.iter().find(|it| {
            (&it["operation"], &it["tier"], &it["outcome"])
                == (&json!("store"), &json!("shared"), &json!("applied"))
        });
        let stored = stored.unwrap();
        assert_eq!(stored["count"], 1);
        assert!(stored["p50"].as_f64() > Some(0.0) && stored["p99"].as_f64() < Some(10.0));
    }
    let local = &seen["local"];
    assert_eq!(
        (&local["serving"], &local["message"]),
        (&json!(true), &json!(""))
    );
    assert!(local["disk_bytes"].as_u64() < local["disk_budget_bytes"].as_u64());
    assert!(local["memory_bytes"].as_u64() < local["memory_budget_bytes"].as_u64());
    let config = seen["config"].as_str().unwrap();
    assert!(
        config.contains("[shared]") && config.contains("heartbeat"),
        "{config}"
    );
    assert!(!seen.to_string().contains("very-secret"), "{config}");

    redis.kill();
    shared::detached(&daemon).await;
    caller.put("later", "v").await;
    redis.restart(Data::Lost);
    shared::attached(&daemon).await;
    redis.kill();
    shared::detached(&daemon).await;
    let seen = status(&daemon).await;
    let shared = &seen["shared"];
    assert_eq!(
        (&shared["attached"], &shared["attachments"]),
        (&json!(false), &json!(2))
    );
    assert_eq!(shared["outbox_depth"], 0);
    assert!(!shared["message"].as_str().unwrap().is_empty());
    let history = shared["history"].as_array().unwrap();
    let states: Vec<_> = history
        .iter()
        .map(|it| it["attached"].as_bool().unwrap())
        .collect();
    assert_eq!(states, [true, false, true, false]);
    for change in history {
        let attached = change["attached"] == true;
        assert_eq!(change["reason"] == "", attached, "{change}");
        assert!(change["at"].as_u64() <= seen["at"].as_u64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_request_was_slow_is_told() {
    let redis = Redis::start();
    let daemon = shared::start(&redis.url(), "command_timeout = \"300ms\"").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("fast", "v").await;
    redis.freeze();
    let begun = Instant::now();
    caller.put("a secret name", "v").await;
    let took = begun.elapsed().as_secs_f64();
    redis.thaw();
    let seen = status(&daemon).await;
    let slowest = seen["slowest"].as_array().unwrap();
    let first = &slowest[0];
    assert_eq!(
        (&first["method"], &first["namespace"], &first["status"]),
        (&json!("Put"), &json!("n"), &json!("OK"))
    );
    let told = first["took"].as_f64().unwrap();
    assert!(told > 0.1 && told <= took, "{told} of {took}");
    assert_eq!(first["key_hash"].as_str().unwrap().len(), 16);
    assert!(!seen.to_string().contains("a secret name"));
    let steps = first["steps"].as_array().unwrap();
    let failed = &steps[0];
    assert_eq!(
        (&failed["what"], &failed["tier"], &failed["outcome"]),
        (&json!("store"), &json!("shared"), &json!("failed"))
    );
    assert!(failed["took"].as_f64() > Some(0.1), "{failed}");
    let ends: Vec<_> = steps
        .iter()
        .map(|it| it["outcome"].as_str().unwrap())
        .collect();
    assert!(
        ends.contains(&"deferred") && ends.contains(&"applied"),
        "{ends:?}"
    );
    let times = slowest.iter().map(|it| it["took"].as_f64().unwrap());
    assert!(times.is_sorted_by(|a, b| a >= b));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_a_loopback_address_for_a_foreign_host_learns_nothing() {
    let daemon = Daemon::start();
    let (address, port) = (daemon.http(), daemon.http().rsplit(':').next().unwrap());
    for (path, _) in PATHS {
        for host in ["evil.example", &format!("127.0.0.1.evil.example:{port}")] {
            let reply = http_host((address, host), "GET", path, "").await.unwrap();
            assert_eq!(reply.status, 421, "{host}{path}");
            assert!(reply.body.starts_with("Host: "), "{}", reply.body);
        }
        for host in [
            "localhost",
            &format!("localhost:{port}"),
            "127.0.0.1",
            "[::1]",
        ] {
            let reply = http_host((address, host), "GET", path, "").await.unwrap();
            assert_eq!(reply.status, 200, "{host}{path}");
        }
    }
}

/// Bytes that come until the other side closes.
async fn until_closed(mut stream: TcpStream) -> usize {
    let mut bytes = Vec::new();
    // One that is reset is closed as well.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_sends_nothing_is_got_rid_of_and_so_are_too_many() {
    let daemon = Daemon::builder()
        .config("[server]\nmax_http_connections = 2")
        .start();
    let mut slow = TcpStream::connect(daemon.http()).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
        .await
        .unwrap();
    let begun = Instant::now();
    let _other = TcpStream::connect(daemon.http()).await.unwrap();
    // Both places are taken.
    eventually("one too many is closed at once", async || {
        let late = TcpStream::connect(daemon.http()).await.unwrap();
        until_closed(late).await == 0 && begun.elapsed() < Duration::from_secs(8)
    })
    .await;
    until_closed(slow).await;
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(8),
        "not before its time: {waited:?}"
    );
    let http = [("cache_door", "http")];
    eventually("the others are served again", async || {
        let reply = http_metrics(&daemon).await;
        reply.is_some_and(|it| it.get("cache_connections_refused_total", &http) >= Some(1.0))
    })
    .await;
}

async fn http_metrics(daemon: &Daemon) -> Option<Metrics> {
    let reply = http(daemon.http(), "GET", "/metrics", "").await.ok()?;
    (reply.status == 200).then(|| Metrics::read(reply.body))
}
