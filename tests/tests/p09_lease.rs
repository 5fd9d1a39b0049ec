//! P9: an answer not marked stale was current in Redis within the last lease period, silence on the
//! wire included; while detached, what is at home is served marked stale for at most `max_stale`.
//!
//! Proven: with the path of the invalidations frozen (Redis alive and the path of data open), with
//! both frozen, with Redis stopped where it stands, and with the daemon itself stopped and going
//! on: an old value is served without the mark for at most the lease after its replacement was
//! acknowledged, for leases of 1 s and 300 ms; then it is marked, with the state DETACHED; the
//! namespace's `max_stale` and the request's end that; `on_shared_down = "miss"` serves nothing;
//! what a daemon wrote itself before it lost contact is treated alike.
//!
//! These tests let real time pass: that is what they are about.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_proto::v1::{ReadOptions, SharedState, Tier};
use pannier_tests::{
    Mode, Pair, Path,
    caller::{is_stale, state, tier, value},
    eventually, request, shared,
};
use tokio::task::JoinSet;

/// What a busy machine may add to a bound.
const SLACK: Duration = Duration::from_millis(150);
const POLICIES: &str = "
[namespaces.short]
max_stale = \"1s\"
[namespaces.fresh]
on_shared_down = \"miss\"
";

const LEASE: Duration = Duration::from_secs(1);

/// The near one has this lease.
async fn start(lease: Duration) -> Pair {
    let milliseconds = lease.as_millis();
    let beat = milliseconds / 6;
    let near = format!(
        "lease = \"{milliseconds}ms\"\nheartbeat = \"{beat}ms\"\n\
         command_timeout = \"200ms\"\n{POLICIES}"
    );
    Pair::start(&near, POLICIES).await
}

/// Reads until the old value has been served marked stale, and returns for how long after
/// `since` it was served without the mark. Each read counts from where it began.
async fn freshly_served(pair: &Pair, key: &str, old: &str, since: Instant) -> Duration {
    let near = pair.near("n");
    let mut last = Duration::ZERO;
    eventually("the old value is marked", async || {
        let begun = Instant::now();
        let reply = near.get(key).await;
        let is_old = value(&reply).is_some_and(|it| it == old);
        if is_old && !is_stale(&reply) {
            last = begun - since;
        }
        is_old && is_stale(&reply) && state(&reply) == SharedState::Detached
    })
    .await;
    println!("served as fresh for {last:?}");
    last
}

async fn assert_bounded_while_frozen(pair: &Pair, lease: Duration, path: Path) {
    pair.hold("n", "k", "old").await;
    pair.proxy.set_for(path, Mode::Silence);
    pair.other("n").put("k", "new").await;
    let served = freshly_served(pair, "k", "old", Instant::now()).await;
    assert!(
        served <= lease + SLACK,
        "{path:?}: served as fresh for {served:?}"
    );
    pair.proxy.set(Mode::Pass);
    pair.near("n").becomes("k", Some(b"new")).await;
    pair.other("n").invalidate("k").await;
    pair.near("n").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_path_is_noticed_within_the_lease() {
    let pair = start(LEASE).await;
    for path in [Path::Tracking, Path::All, Path::Tracking] {
        assert_bounded_while_frozen(&pair, LEASE, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_lease_is_a_tighter_bound() {
    let lease = Duration::from_millis(300);
    let pair = start(lease).await;
    for path in [Path::Tracking, Path::All, Path::Tracking] {
        assert_bounded_while_frozen(&pair, lease, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_ends_freshness_too() {
    let pair = start(LEASE).await;
    pair.hold("n", "k", "old").await;
    pair.redis.freeze();
    let served = freshly_served(&pair, "k", "old", Instant::now()).await;
    assert!(served <= LEASE + SLACK, "served as fresh for {served:?}");
    pair.redis.thaw();
    shared::attached(&pair.near).await;
    pair.near("n").has_local("k", b"old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stood_still_does_not_trust_what_it_has() {
    let pair = start(LEASE).await;
    for round in 0..4 {
        let callers: Vec<_> = (0..8).map(|_| pair.near("n")).collect();
        pair.hold("n", "k", "old").await;
        for caller in &callers {
            caller.has_local("k", b"old").await;
        }
        // Nothing but the clock tells the daemon.
        pair.proxy.set_for(Path::Tracking, Mode::Silence);
        pair.other("n").put("k", "new").await;
        pair.near.freeze();
        let past_lease = Instant::now() + LEASE + SLACK;
        // They lie in its sockets when it goes on, and race with its noticing.
        let mut gets = JoinSet::new();
        for caller in callers {
            gets.spawn(async move { caller.get("k").await });
        }
        eventually("the lease is over", async || Instant::now() > past_lease).await;
        pair.near.thaw();
        for reply in gets.join_all().await {
            let is_old = value(&reply).is_some_and(|it| it == "old");
            assert!(
                !is_old || is_stale(&reply),
                "round {round}: the old value is served as fresh"
            );
        }
        pair.proxy.set(Mode::Pass);
        pair.near("n").becomes("k", Some(b"new")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staleness_ends_where_namespace_or_request_say() {
    let pair = start(LEASE).await;
    for namespace in ["n", "short", "fresh"] {
        pair.hold(namespace, "k", "v").await;
    }
    pair.near("short").put("own", "v").await;
    pair.proxy.set(Mode::Cut);
    let cut = Instant::now();
    shared::detached(&pair.near).await;
    assert_eq!(
        pair.near("fresh").value("k").await,
        None,
        "on_shared_down = miss"
    );
    let reply = pair.near("n").get("k").await;
    assert_eq!(
        (value(&reply).unwrap(), is_stale(&reply)),
        ("v".into(), true)
    );
    assert_eq!(
        (tier(&reply), state(&reply)),
        (Tier::Local, SharedState::Detached)
    );
    let none = ReadOptions {
        max_stale: Some(request::milliseconds(0)),
        ..ReadOptions::default()
    };
    assert_eq!(value(&pair.near("n").get_with("k", none).await), None);

    let near = pair.near("short");
    for key in ["k", "own"] {
        eventually("max_stale is over", async || {
            let begun = Instant::now();
            let reply = near.get(key).await;
            if value(&reply).is_none() {
                return true;
            }
            assert!(is_stale(&reply));
            let age = begun - cut;
            assert!(
                age <= Duration::from_secs(1) + LEASE + SLACK,
                "served after {age:?}"
            );
            false
        })
        .await;
    }
    let short = ReadOptions {
        max_stale: Some(request::milliseconds(500)),
        ..ReadOptions::default()
    };
    let reply = pair.near("n").get_with("k", short).await;
    assert_eq!(value(&reply), None, "the request's max_stale is over");
    assert!(
        pair.near("n").value("k").await.is_some(),
        "the namespace's is not"
    );

    pair.proxy.set(Mode::Pass);
    for namespace in ["n", "short", "fresh"] {
        pair.near(namespace).becomes("k", Some(b"v")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contact_in_between_begins_staleness_anew() {
    let pair = start(LEASE).await;
    pair.hold("short", "k", "v").await;
    for _ in 0..3 {
        pair.proxy.set(Mode::Cut);
        shared::detached(&pair.near).await;
        let reply = pair.near("short").get("k").await;
        assert_eq!(
            (value(&reply).unwrap(), is_stale(&reply)),
            ("v".into(), true)
        );
        pair.proxy.set(Mode::Pass);
        shared::attached(&pair.near).await;
        pair.near("short").has_local("k", b"v").await;
    }
}
