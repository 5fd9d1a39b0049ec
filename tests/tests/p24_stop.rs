//! P24, graceful stop: not ready, finish what is in flight, close the store, exit 0 within the
//! grace period.
//!
//! Proven: during the drain the daemon says that it is not ready and answers what it was asked
//! before; clients that only hold a connection, watch the health or have stopped reacting do not
//! hold it up; what was acknowledged is there after the next start; a request that does not end is
//! cut off at `drain_timeout` with exit code 4, or at once by a second signal.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_tests::{
    Daemon, eventually,
    load::{SlowScan, fill_for_slow_scan, noise},
    request, wire,
};
use tokio::net::TcpStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// A drain that only a request in flight can make as long as this.
const PROMPT: Duration = Duration::from_secs(5);

/// A call whose message never comes: it is in flight as long as the connection.
async fn half_sent_put(daemon: &Daemon) -> wire::Connection {
    let mut connection = wire::Connection::open(daemon.grpc()).await;
    connection.begin("Put", None).await;
    connection.seen().await;
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished_and_the_daemon_says_not_ready() {
    let config = "[server]\nmax_in_flight = 1\ndrain_timeout = \"60s\"\n";
    let mut daemon = Daemon::builder().config(config).start();
    let stub = daemon.stub();
    stub.clone()
        .put(request::put("n", "k", "kept"))
        .await
        .unwrap();
    stub.clone()
        .put(request::put("n", "large", noise(1, 300_000)))
        .await
        .unwrap();
    fill_for_slow_scan(&stub, "slow", 5).await;
    let scan = SlowScan::begin(&stub, "slow").await;
    assert_eq!(
        wire::http_get(daemon.http(), "/readyz").await.unwrap().0,
        200
    );

    daemon.ask_to_stop();
    eventually("readyz says 503", async || {
        let reply = wire::http_get(daemon.http(), "/readyz").await;
        reply.expect("HTTP is served during the drain").0 == 503
    })
    .await;
    let health = wire::http_get(daemon.http(), "/healthz").await.unwrap();
    assert_eq!(health.0, 200, "stopping is not dead");
    let answer = scan.answer().await.expect("what was in flight is answered");
    assert_eq!(answer.count, 0);
    let ended = daemon.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);

    let daemon = daemon.restart();
    let mut stub = daemon.stub();
    for (key, value) in [("k", "kept".into()), ("large", noise(1, 300_000))] {
        let got = stub.get(request::get("n", key)).await.unwrap().into_inner();
        assert!(
            got.entry.expect("data present after the restart").value == value,
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_stops_at_once_by_either_signal() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start();
        let begun = Instant::now();
        let id = daemon.id().to_string();
        let kill = std::process::Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        assert!(kill.success());
        let ended = daemon.wait();
        assert_eq!(ended.code(), Some(0), "{signal}: {}", ended.stderr);
        assert!(begun.elapsed() < PROMPT, "{signal}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_it_up() {
    let mut daemon = Daemon::start();
    let mut stubs: Vec<_> = (0..10).map(|_| daemon.stub()).collect();
    for stub in &mut stubs {
        stub.put(request::put("n", "k", "v")).await.unwrap();
    }
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_said_nothing_do_not_hold_it_up() {
    let mut daemon = Daemon::start();
    let grpc = TcpStream::connect(daemon.grpc()).await.unwrap();
    let http = TcpStream::connect(daemon.http()).await.unwrap();
    daemon
        .stub()
        .put(request::put("n", "k", "v"))
        .await
        .unwrap();
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(
        ended.code(),
        Some(0),
        "nothing was in flight: {}",
        ended.stderr
    );
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop((grpc, http));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_no_longer_reacts_does_not_hold_it_up() {
    let mut daemon = Daemon::start();
    // As of a client that is stopped, swapped out or behind a cut network.
    let frozen = wire::Connection::open(daemon.grpc()).await;
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(
        ended.code(),
        Some(0),
        "nothing was in flight: {}",
        ended.stderr
    );
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop(frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_the_health_is_told_and_does_not_hold_it_up() {
    let mut daemon = Daemon::start();
    let mut client = HealthClient::new(daemon.channel());
    let request = HealthCheckRequest {
        service: "pannier.v1.CacheService".into(),
    };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().expect("a first state");
    assert_eq!(first.status().as_str_name(), "SERVING");
    let begun = Instant::now();
    daemon.ask_to_stop();
    let next = watch
        .message()
        .await
        .unwrap()
        .expect("the change before the end");
    assert_eq!(next.status().as_str_name(), "NOT_SERVING");
    let ended = daemon.wait();
    assert_eq!(
        ended.code(),
        Some(0),
        "no request was cut off: {}",
        ended.stderr
    );
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_is_cut_off_at_the_deadline() {
    let mut daemon = Daemon::builder()
        .config("[server]\ndrain_timeout = \"500ms\"\n")
        .start();
    daemon
        .stub()
        .put(request::put("n", "k", "v"))
        .await
        .unwrap();
    let half_sent = half_sent_put(&daemon).await;
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(500)..PROMPT).contains(&took),
        "{took:?}"
    );
    drop(half_sent);
    let daemon = daemon.restart();
    let got = daemon
        .stub()
        .get(request::get("n", "k"))
        .await
        .unwrap()
        .into_inner();
    assert!(got.entry.is_some(), "what was acknowledged stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let config = "[server]\nmax_in_flight = 1\ndrain_timeout = \"10m\"\n";
    let mut daemon = Daemon::builder().config(config).start();
    let stub = daemon.stub();
    stub.clone().put(request::put("n", "k", "v")).await.unwrap();
    let half_sent = half_sent_put(&daemon).await;
    daemon.ask_to_stop();
    // The first signal has arrived; two that wait together would be one.
    eventually("the drain has begun", async || {
        wire::http_get(daemon.http(), "/readyz")
            .await
            .is_ok_and(|(status, _)| status == 503)
    })
    .await;
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop(half_sent);
    let daemon = daemon.restart();
    let got = daemon
        .stub()
        .get(request::get("n", "k"))
        .await
        .unwrap()
        .into_inner();
    assert!(got.entry.is_some(), "what was acknowledged stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_invalidation_does_not_outlive_the_deadline() {
    let config = "[server]\nmax_in_flight = 1\ndrain_timeout = \"100ms\"\n";
    let mut daemon = Daemon::builder().config(config).start();
    let stub = daemon.stub();
    fill_for_slow_scan(&stub, "slow", 40).await;
    let scan = SlowScan::begin(&stub, "slow").await;
    let begun = Instant::now();
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    assert!(scan.answer().await.is_err(), "it was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_until_the_stop_are_acknowledged_and_kept_or_refused() {
    let mut daemon = Daemon::start();
    let stub = daemon.stub();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let mut stub = stub.clone();
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for count in 0_u64.. {
                let key = format!("{writer}-{count}");
                let size = if count % 20 == 0 { 100_000 } else { 100 };
                let value = noise(count, size);
                match stub.put(request::put("n", &key, value.clone())).await {
                    Ok(_) => acknowledged.push((key, value)),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    eventually("the writers are at it", async || {
        daemon
            .stats()
            .await
            .total
            .is_some_and(|total| total.puts > 200)
    })
    .await;
    let ended = daemon.terminate();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() > 200);
    let daemon = daemon.restart();
    let mut stub = daemon.stub();
    for (key, value) in acknowledged {
        let got = stub
            .get(request::get("n", &key))
            .await
            .unwrap()
            .into_inner();
        assert!(
            got.entry.is_some_and(|entry| entry.value == value),
            "{key} was acknowledged"
        );
    }
}
