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
    Caller, Daemon, Mode, Path, Proxy, Redis,
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

struct Stage {
    redis: Redis,
    proxy: Proxy,
    near: Daemon,
    other: Daemon,
    lease: Duration,
}

impl Stage {
    async fn start(lease: Duration) -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.address());
        let milliseconds = lease.as_millis();
        let beat = milliseconds / 6;
        let more = format!(
            "lease = \"{milliseconds}ms\"\nheartbeat = \"{beat}ms\"\n\
             command_timeout = \"200ms\"\n{POLICIES}"
        );
        let near = shared::start(&proxy.url(), &more).await;
        let other = shared::start(&redis.url(), POLICIES).await;
        Self {
            redis,
            proxy,
            near,
            other,
            lease,
        }
    }

    fn near(&self, namespace: &str) -> Caller {
        Caller::new(&self.near, namespace)
    }

    fn other(&self, namespace: &str) -> Caller {
        Caller::new(&self.other, namespace)
    }

    async fn hold(&self, namespace: &str, key: &str, value: &str) {
        self.other(namespace).put(key, value.to_owned()).await;
        self.near(namespace).has_local(key, value.as_bytes()).await;
    }

    /// Reads until the old value has been served marked stale, and returns for how long after
    /// `since` it was served without the mark. Each read counts from where it began.
    async fn freshly_served(&self, key: &str, old: &str, since: Instant) -> Duration {
        let near = self.near("n");
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
        println!("lease {:?}: served as fresh for {last:?}", self.lease);
        last
    }
}

async fn assert_bounded_while_frozen(stage: &Stage, path: Path) {
    stage.hold("n", "k", "old").await;
    stage.proxy.set_for(path, Mode::Silence);
    stage.other("n").put("k", "new").await;
    let served = stage.freshly_served("k", "old", Instant::now()).await;
    assert!(
        served <= stage.lease + SLACK,
        "{path:?}: served as fresh for {served:?}"
    );
    stage.proxy.set(Mode::Pass);
    stage.near("n").becomes("k", Some(b"new")).await;
    stage.other("n").invalidate("k").await;
    stage.near("n").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_path_is_noticed_within_the_lease() {
    let stage = Stage::start(Duration::from_secs(1)).await;
    for path in [Path::Tracking, Path::All, Path::Tracking] {
        assert_bounded_while_frozen(&stage, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_lease_is_a_tighter_bound() {
    let stage = Stage::start(Duration::from_millis(300)).await;
    for path in [Path::Tracking, Path::All, Path::Tracking] {
        assert_bounded_while_frozen(&stage, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_ends_freshness_too() {
    let stage = Stage::start(Duration::from_secs(1)).await;
    stage.hold("n", "k", "old").await;
    stage.redis.freeze();
    let served = stage.freshly_served("k", "old", Instant::now()).await;
    assert!(
        served <= stage.lease + SLACK,
        "served as fresh for {served:?}"
    );
    stage.redis.thaw();
    shared::attached(&stage.near).await;
    stage.near("n").has_local("k", b"old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stood_still_does_not_trust_what_it_has() {
    let stage = Stage::start(Duration::from_secs(1)).await;
    for round in 0..4 {
        let callers: Vec<_> = (0..8).map(|_| stage.near("n")).collect();
        stage.hold("n", "k", "old").await;
        for caller in &callers {
            caller.has_local("k", b"old").await;
        }
        // Nothing but the clock tells the daemon.
        stage.proxy.set_for(Path::Tracking, Mode::Silence);
        stage.other("n").put("k", "new").await;
        stage.near.freeze();
        let past_lease = Instant::now() + stage.lease + SLACK;
        // They lie in its sockets when it goes on, and race with its noticing.
        let mut gets = JoinSet::new();
        for caller in callers {
            gets.spawn(async move { caller.get("k").await });
        }
        eventually("the lease is over", async || Instant::now() > past_lease).await;
        stage.near.thaw();
        for reply in gets.join_all().await {
            let is_old = value(&reply).is_some_and(|it| it == "old");
            assert!(
                !is_old || is_stale(&reply),
                "round {round}: the old value is served as fresh"
            );
        }
        stage.proxy.set(Mode::Pass);
        stage.near("n").becomes("k", Some(b"new")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staleness_ends_where_namespace_or_request_say() {
    let stage = Stage::start(Duration::from_secs(1)).await;
    for namespace in ["n", "short", "fresh"] {
        stage.hold(namespace, "k", "v").await;
    }
    stage.near("short").put("own", "v").await;
    stage.proxy.set(Mode::Cut);
    let cut = Instant::now();
    shared::detached(&stage.near).await;
    assert_eq!(
        stage.near("fresh").value("k").await,
        None,
        "on_shared_down = miss"
    );
    let reply = stage.near("n").get("k").await;
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
    assert_eq!(value(&stage.near("n").get_with("k", none).await), None);

    let near = stage.near("short");
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
                age <= Duration::from_secs(1) + stage.lease + SLACK,
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
    let reply = stage.near("n").get_with("k", short).await;
    assert_eq!(value(&reply), None, "the request's max_stale is over");
    assert!(
        stage.near("n").value("k").await.is_some(),
        "the namespace's is not"
    );

    stage.proxy.set(Mode::Pass);
    for namespace in ["n", "short", "fresh"] {
        stage.near(namespace).becomes("k", Some(b"v")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contact_in_between_begins_staleness_anew() {
    let stage = Stage::start(Duration::from_secs(1)).await;
    stage.hold("short", "k", "v").await;
    for _ in 0..3 {
        stage.proxy.set(Mode::Cut);
        shared::detached(&stage.near).await;
        let reply = stage.near("short").get("k").await;
        assert_eq!(
            (value(&reply).unwrap(), is_stale(&reply)),
            ("v".into(), true)
        );
        stage.proxy.set(Mode::Pass);
        shared::attached(&stage.near).await;
        stage.near("short").has_local("k", b"v").await;
    }
}
