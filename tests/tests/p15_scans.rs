//! P15, invalidations by prefix and pattern scan without blocking the daemon.
//!
//! Proven: while the pattern that takes longest runs over thousands of keys, every other kind of
//! call, conditional writes included, is answered without waiting for it.
//! Proven elsewhere: what a scan removes (`api`), that it sees what was put before it began
//! (`p05_own_writes`), that it stops with its caller (`api`).
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_proto::v1::{invalidate_request::Target, write_options::Condition};
use pannier_tests::{
    Daemon,
    load::{fill_for_slow_scan, noise, slowest_pattern},
    request,
};
use tokio::task::JoinSet;

/// Far more than a call takes on a loaded machine, far less than the scan.
const PROMPT: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_scan() {
    // A worker more than the scan could occupy, however few cores there are.
    let daemon = Daemon::builder().config("[server]\nworkers = 2\n").start();
    let mut stub = daemon.stub();
    fill_for_slow_scan(&stub, "slow", 8).await;
    let begun = Instant::now();
    let mut scan = JoinSet::new();
    let target = Target::Pattern(slowest_pattern());
    let mut scanning = daemon.stub();
    scan.spawn(async move {
        scanning
            .invalidate(request::invalidate("slow", target))
            .await
    });
    let (mut longest, mut calls) = ([("", Duration::ZERO); 6], 0_u64);
    while scan.try_join_next().is_none() {
        calls += 1;
        let key = format!("k{calls}");
        let large = request::put("n", &key, noise(calls, 100_000));
        let absent = request::put_if("n", &key, "v", Condition::IfAbsent(true));
        let mut timed = |place: usize, name: &'static str, began: Instant| {
            longest[place] = (name, longest[place].1.max(began.elapsed()));
        };
        let now = Instant::now();
        stub.put(absent).await.unwrap();
        timed(0, "Put if_absent", now);
        let now = Instant::now();
        stub.put(large).await.unwrap();
        timed(1, "Put of a large value", now);
        let now = Instant::now();
        stub.get(request::get("n", &key)).await.unwrap();
        timed(2, "Get", now);
        let now = Instant::now();
        stub.exists(request::exists("slow", &key)).await.unwrap();
        timed(3, "Exists", now);
        let now = Instant::now();
        stub.invalidate(request::invalidate_keys("n", [&key]))
            .await
            .unwrap();
        timed(4, "Invalidate of a key", now);
        let now = Instant::now();
        stub.invalidate(request::invalidate("n", Target::Prefix("k".into())))
            .await
            .unwrap();
        timed(5, "Invalidate of a prefix", now);
    }
    let took = begun.elapsed();
    assert!(took > 2 * PROMPT, "a scan of {took:?} says nothing");
    assert!(calls > 3, "{calls} rounds in {took:?}: {longest:?}");
    for (name, longest) in longest {
        assert!(
            longest < PROMPT,
            "{name} waited {longest:?} during a scan of {took:?}"
        );
    }
}
