//! Health, for orchestrators and scripts: `grpc.health.v1` and `pannier health`, with a real Redis
//! that goes and comes.
//!
//! Proven: the daemon and the cache serve whatever Redis does; the part `shared` says how Redis is,
//! and a stream of Watch tells each change; an unknown part is NOT_FOUND, and SERVICE_UNKNOWN in a
//! stream. The exit codes of `pannier health` are 0 for a daemon that answers, 4 for a part that is
//! out of order when `--strict` asks for it, 3 without a daemon. `pannier stats` shows what the
//! daemon has counted.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::Duration;

use pannier_tests::{Caller, Daemon, Data, Redis, pannier, pannier_lines, shared, stderr, stdout};
use serde_json::Value;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

const CACHE: &str = "pannier.v1.CacheService";
/// Only a broken build takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

fn part(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn check(daemon: &Daemon, service: &str) -> Result<ServingStatus, Code> {
    let reply = HealthClient::new(daemon.channel())
        .check(part(service))
        .await;
    reply
        .map(|it| it.into_inner().status())
        .map_err(|it| it.code())
}

async fn watch(daemon: &Daemon, service: &str) -> Streaming<HealthCheckResponse> {
    let stream = HealthClient::new(daemon.channel())
        .watch(part(service))
        .await;
    stream.expect("a stream").into_inner()
}

/// Waits for this to be told; what comes before is left out.
async fn told(stream: &mut Streaming<HealthCheckResponse>, wanted: ServingStatus) {
    let wait = async {
        loop {
            let next = stream.message().await.unwrap().expect("the stream goes on");
            if next.status() == wanted {
                return;
            }
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{wanted:?} was not told"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_has_its_health_and_watchers_are_told() {
    let mut redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    let mut of_shared = watch(&daemon, "shared").await;
    let mut of_all = watch(&daemon, "").await;
    told(&mut of_shared, ServingStatus::Serving).await;
    told(&mut of_all, ServingStatus::Serving).await;
    redis.kill();
    told(&mut of_shared, ServingStatus::NotServing).await;
    for service in ["", CACHE] {
        assert_eq!(
            check(&daemon, service).await,
            Ok(ServingStatus::Serving),
            "{service:?}"
        );
    }
    assert_eq!(
        check(&daemon, "shared").await,
        Ok(ServingStatus::NotServing)
    );
    redis.restart(Data::Lost);
    told(&mut of_shared, ServingStatus::Serving).await;
    assert_eq!(check(&daemon, "shared").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&daemon, "nothing").await, Err(Code::NotFound));
    let mut of_nothing = watch(&daemon, "nothing").await;
    told(&mut of_nothing, ServingStatus::ServiceUnknown).await;
    // The other stream was told nothing all the while: the next it hears of is the end.
    daemon.ask_to_stop();
    let next = timeout(PATIENCE, of_all.message()).await.expect("in time");
    if let Ok(Some(next)) = next {
        assert_eq!(next.status(), ServingStatus::NotServing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shared_tier_its_health_is_unknown() {
    let daemon = Daemon::start();
    assert_eq!(check(&daemon, "shared").await, Ok(ServingStatus::Unknown));
    assert_eq!(check(&daemon, CACHE).await, Ok(ServingStatus::Serving));
    assert_eq!(
        pannier(daemon.grpc(), &["health", "--strict"])
            .status
            .code(),
        Some(0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pannier_health_exits_as_scripts_expect() {
    let mut redis = Redis::start();
    let mut daemon = shared::start(&redis.url(), "").await;
    let at = daemon.grpc().to_owned();
    let code = |arguments: &[&str]| pannier(&at, arguments).status.code();
    assert_eq!(code(&["health"]), Some(0));
    assert_eq!(code(&["health", "--strict"]), Some(0));
    redis.kill();
    shared::detached(&daemon).await;
    assert_eq!(code(&["health"]), Some(0));
    let strict = pannier(&at, &["health", "--strict"]);
    assert_eq!(strict.status.code(), Some(4));
    assert!(
        stdout(&strict).contains("shared   out of order"),
        "{}",
        stdout(&strict)
    );
    daemon.terminate();
    assert_eq!(code(&["health"]), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn pannier_stats_shows_what_was_counted() {
    let redis = Redis::builder().memory("64mb", "allkeys-lru").start();
    let daemon = shared::start(&redis.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.get("k").await;
    caller.get("none").await;
    let at = daemon.grpc();
    let shown = pannier(at, &["stats"]);
    let words = stdout(&shown);
    assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    for part in [
        "attached",
        "50.0%",
        "local lookup",
        "shared store",
        "Get ",
        "last ",
        "P99",
    ] {
        assert!(words.contains(part), "{part}:\n{words}");
    }
    let told: Value = serde_json::from_str(&stdout(&pannier(at, &["stats", "--json"]))).unwrap();
    for window in [&told, &told["last_minute"]] {
        assert_eq!(window["total"]["hits"], 1, "{window}");
        assert_eq!(window["namespaces"][0]["hit_rate"], 0.5, "{window}");
        let operations = window["operations"].as_array().unwrap();
        let stored = operations
            .iter()
            .find(|it| it["operation"] == "store" && it["tier"] == "shared" && it["outcome"] == "");
        assert_eq!(stored.unwrap()["count"], 1);
        assert!(stored.unwrap()["p99_us"].as_f64() > Some(0.0));
    }
    assert_eq!(told["shared"]["history"][0]["state"], "attached");
    assert_eq!(told["shared"]["deferred_changes_max"], 100_000);

    let lines = pannier_lines(at, &["stats", "--watch=1", "--json"], 2);
    for line in lines {
        let told: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(told["total"]["hits"], 1);
    }
    assert_eq!(pannier(at, &["stats", "--reset"]).status.code(), Some(0));
    let told: Value = serde_json::from_str(&stdout(&pannier(at, &["stats", "--json"]))).unwrap();
    assert_eq!(told["total"]["hits"], 0);
    assert_eq!(told["last_minute"]["total"]["hits"], 1);
    assert_eq!(pannier(at, &["stats", "--watch=0"]).status.code(), Some(2));
}
