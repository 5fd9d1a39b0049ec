//! P10: an invalidation accepted while Redis is away is kept durably, survives a crash and is
//! applied when Redis returns, before any local entry is trusted again; nothing newer that others
//! wrote is harmed, nothing that others deleted comes back. P10a: immutable namespaces.
//!
//! One daemon is cut off, the other is not. Proven: the cut-off one acknowledges an invalidation as
//! DEFERRED and obeys it at once, by key, prefix, pattern, all; it obeys it still after SIGKILL;
//! at the first moment it says ATTACHED, Redis has none of the old entries; what the other put
//! after the invalidation stays; a put of the outage is read back by its own daemon, removes what
//! is older in Redis, does not overwrite what is newer, and does not bring back what was deleted; a
//! journal past its limit loses no invalidation, nor does a daemon that comes back while it is
//! deferring; a kill at random points loses nothing acknowledged. Immutable: the put of the outage
//! is published, the first value of all wins, and a gap costs no verification.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use pannier_proto::v1::{
    PutRequest, Tier, TierOutcome, WriteMode, WriteOptions, invalidate_request::Target,
};
use pannier_tests::{
    Caller, Daemon, Mode, Path, Proxy, Redis,
    caller::{is_stale, outcomes, tier, value},
    eventually,
    load::Count,
    request, shared,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::Code;

const CONFIG: &str = "
[namespaces.artifacts]
immutable = true
";
const DEFERRED: (TierOutcome, TierOutcome) = (TierOutcome::Applied, TierOutcome::Deferred);

struct Stage {
    redis: Redis,
    proxy: Proxy,
    /// Behind the proxy: the one that is cut off.
    cut: Daemon,
    other: Daemon,
}

impl Stage {
    async fn start(more: &str) -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.address());
        let cut = shared::start(&proxy.url(), &format!("{more}\n{CONFIG}")).await;
        let other = shared::start(&redis.url(), CONFIG).await;
        Self {
            redis,
            proxy,
            cut,
            other,
        }
    }

    fn cut(&self) -> Caller {
        Caller::new(&self.cut, "n")
    }

    fn other(&self) -> Caller {
        Caller::new(&self.other, "n")
    }

    async fn hold(&self, key: &str, value: &str) {
        self.other().put(key, value.to_owned()).await;
        self.cut().has_local(key, value.as_bytes()).await;
    }

    async fn cut_off(&self) {
        self.proxy.set(Mode::Cut);
        shared::detached(&self.cut).await;
    }

    async fn come_back(&self) {
        self.proxy.set(Mode::Pass);
        shared::attached(&self.cut).await;
    }

    fn is_in_redis(&self, namespace: &str, key: &str) -> bool {
        let reply = self
            .redis
            .command(&["EXISTS", &shared::key(namespace, key)]);
        reply.integer() == 1
    }

    /// Kills the one that is cut off and starts it on the same data.
    fn crash(&mut self) {
        self.cut = self.cut.restart_in_place();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_of_an_outage_is_obeyed_at_once_and_applied_later() {
    let mut stage = Stage::start("").await;
    for crashes in [false, true] {
        for key in ["key", "prefix-1", "a-pattern", "stays"] {
            stage.hold(key, "old").await;
        }
        stage.cut_off().await;
        let gone = stage.cut().invalidate("key").await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        let gone = stage
            .cut()
            .invalidate_by(Target::Prefix("prefix-".into()))
            .await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        let gone = stage
            .cut()
            .invalidate_by(Target::Pattern("a-*n".into()))
            .await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        if crashes {
            stage.crash();
        }
        for key in ["key", "prefix-1", "a-pattern"] {
            assert_eq!(stage.cut().value(key).await, None, "{key}, stale or not");
            assert!(stage.is_in_redis("n", key), "{key}: the cut is none");
        }
        stage.come_back().await;
        for key in ["key", "prefix-1", "a-pattern"] {
            assert!(
                !stage.is_in_redis("n", key),
                "{key}: attached before it was applied"
            );
            assert_eq!(stage.cut().value(key).await, None, "{key}");
            stage.other().becomes(key, None).await;
        }
        stage.cut().becomes("stays", Some(b"old")).await;
        stage.other().becomes("stays", Some(b"old")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_namespace_can_be_invalidated_in_an_outage() {
    let stage = Stage::start("").await;
    stage.hold("a", "old").await;
    stage.hold("b", "old").await;
    let neighbour = Caller::new(&stage.other, "neighbour");
    neighbour.put("a", "v").await;
    stage.cut_off().await;
    stage.cut().invalidate_by(Target::All(true)).await;
    stage.other().put("b", "newer").await;
    stage.come_back().await;
    assert!(!stage.is_in_redis("n", "a"));
    stage.other().becomes("a", None).await;
    stage.other().becomes("b", Some(b"newer")).await;
    stage.cut().becomes("b", Some(b"newer")).await;
    neighbour.becomes("a", Some(b"v")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_later_is_not_harmed() {
    let mut stage = Stage::start("").await;
    for crashes in [false, true] {
        for key in ["invalidated", "put", "prefix-1"] {
            stage.hold(key, "old").await;
        }
        stage.cut_off().await;
        stage.cut().invalidate("invalidated").await;
        stage.cut().put("put", "of the outage").await;
        stage
            .cut()
            .invalidate_by(Target::Prefix("prefix".into()))
            .await;
        for key in ["invalidated", "put", "prefix-1"] {
            stage.other().put(key, "newer").await;
        }
        if crashes {
            stage.crash();
        }
        stage.come_back().await;
        for key in ["invalidated", "put", "prefix-1"] {
            assert!(
                stage.is_in_redis("n", key),
                "{key}: the newer value was removed"
            );
            stage.cut().becomes(key, Some(b"newer")).await;
            stage.other().becomes(key, Some(b"newer")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_an_outage_replaces_what_is_older() {
    let mut stage = Stage::start("").await;
    for crashes in [false, true] {
        stage.hold("k", "old").await;
        stage.cut_off().await;
        let put = stage.cut().put("k", "new").await;
        assert_eq!(outcomes(&put), DEFERRED);
        if crashes {
            stage.crash();
        }
        let reply = stage.cut().get("k").await;
        assert_eq!(value(&reply).unwrap(), "new", "its own write");
        stage.come_back().await;
        for caller in [stage.cut(), stage.other()] {
            eventually("the old value is gone", async || {
                let reply = caller.get("k").await;
                let got = value(&reply);
                got.as_deref() != Some(b"old") && !is_stale(&reply)
            })
            .await;
        }
        let record = stage.redis.command(&["GET", &shared::key("n", "k")]);
        assert!(
            record
                .bytes()
                .is_none_or(|record| !record.ends_with(b"old"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_an_outage_does_not_bring_back_what_others_deleted() {
    let stage = Stage::start("").await;
    stage.hold("k", "old").await;
    stage.cut_off().await;
    stage.cut().put("k", "of the outage").await;
    stage.other().invalidate("k").await;
    stage.come_back().await;
    assert!(!stage.is_in_redis("n", "k"));
    stage.other().becomes("k", None).await;
    stage.cut().becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_demands_the_shared_tier_is_told_that_it_is_away() {
    let stage = Stage::start("").await;
    stage.cut_off().await;
    let options = WriteOptions {
        mode: WriteMode::Shared.into(),
        ..WriteOptions::default()
    };
    let put = PutRequest {
        options: Some(options),
        ..stage.cut().put_request("k", "v")
    };
    let refused = stage.cut().try_put(put).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let options = pannier_proto::v1::ReadOptions {
        require_shared: true,
        ..Default::default()
    };
    let refused = stage.cut().try_get("k", Some(options)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_forgets_nothing() {
    let mut stage = Stage::start("journal_max = 10").await;
    let keys: Vec<_> = (0..50).map(|index| format!("k{index}")).collect();
    for key in &keys {
        stage.hold(key, "old").await;
    }
    let neighbour = Caller::new(&stage.other, "neighbour");
    neighbour.put("a", "v").await;
    stage.cut_off().await;
    for key in &keys[..40] {
        let gone = stage.cut().invalidate(key).await;
        assert_eq!(gone.shared_outcome(), TierOutcome::Deferred);
    }
    stage.other().put("k3", "newer").await;
    stage.crash();
    stage.come_back().await;
    for key in &keys[..40] {
        let expected = (key == "k3").then_some(&b"newer"[..]);
        stage.other().becomes(key, expected).await;
        stage.cut().becomes(key, expected).await;
    }
    neighbour.becomes("a", Some(b"v")).await;
}

/// Invalidates its keys until one reaches Redis at once; returns those that were deferred.
async fn invalidate_until_it_is_back(
    caller: Caller,
    keys: Vec<String>,
    deferred: Count,
) -> Vec<String> {
    let mut done = Vec::new();
    for key in keys {
        let gone = caller.invalidate(&key).await;
        if gone.shared_outcome() != TierOutcome::Deferred {
            return done;
        }
        deferred.one();
        done.push(key);
    }
    panic!("the daemon has not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deferred_while_the_daemon_comes_back_is_applied() {
    const WRITERS: u64 = 16;
    let stage = Stage::start("command_timeout = \"10s\"").await;
    for round in 0..3 {
        let keys = |writer| (0..200).map(move |index| format!("k-{round}-{writer}-{index}"));
        for writer in 0..WRITERS {
            let items = keys(writer).map(|key| (key, Bytes::from("old")));
            let put = request::put_many("n", items);
            stage.other().stub().put_many(put).await.unwrap();
        }
        stage.cut_off().await;
        // It comes back as far as its first command.
        stage.proxy.set_for(Path::Data, Mode::HoldReplies);
        stage.proxy.set_for(Path::Tracking, Mode::Pass);
        stage.proxy.holds(Path::Data).await;
        let (deferred, mut writers) = (Count::default(), JoinSet::new());
        for writer in 0..WRITERS {
            let keys = keys(writer).collect();
            writers.spawn(invalidate_until_it_is_back(
                stage.cut(),
                keys,
                deferred.clone(),
            ));
        }
        eventually("they are at it", async || deferred.get() >= WRITERS).await;
        // All of them are deferring something at the moment in which it attaches.
        stage.proxy.set(Mode::Pass);
        let done = writers.join_all().await.concat();
        shared::attached(&stage.cut).await;
        for key in done {
            assert!(
                !stage.is_in_redis("n", &key),
                "round {round}: {key} was deferred and never applied"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_points_of_an_outage_lose_nothing_acknowledged() {
    let mut random = StdRng::seed_from_u64(10);
    let mut stage = Stage::start("").await;
    let keys: Vec<_> = (0..60).map(|index| format!("k{index}")).collect();
    for key in &keys {
        stage.hold(key, "old").await;
    }
    stage.cut_off().await;
    let mut acknowledged = BTreeSet::new();
    for _ in 0..5 {
        let (mut stub, keys) = (stage.cut.stub(), keys.clone());
        let first = random.random_range(0..keys.len());
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut done = Vec::new();
            for key in keys.iter().cycle().skip(first).take(30) {
                let request = request::invalidate_keys("n", [key]);
                if stub.invalidate(request).await.is_err() {
                    return done;
                }
                done.push(key.clone());
            }
            done
        });
        // Not a wait for something but the random point itself.
        tokio::time::sleep(Duration::from_millis(random.random_range(1..60))).await;
        stage.crash();
        acknowledged.extend(running.join_all().await.remove(0));
        for key in &acknowledged {
            assert_eq!(stage.cut().value(key).await, None, "{key} is back");
        }
    }
    stage.come_back().await;
    assert!(!acknowledged.is_empty());
    for key in &acknowledged {
        assert!(
            !stage.is_in_redis("n", key),
            "{key} was acknowledged and is in Redis"
        );
        assert_eq!(stage.cut().value(key).await, None, "{key}");
        stage.other().becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_put_of_an_outage_is_published() {
    let mut stage = Stage::start("").await;
    stage.cut_off().await;
    let (cut, other) = (
        Caller::new(&stage.cut, "artifacts"),
        Caller::new(&stage.other, "artifacts"),
    );
    cut.put("mine", "v").await;
    cut.put("both", "late").await;
    other.put("both", "first").await;
    stage.crash();
    let cut = Caller::new(&stage.cut, "artifacts");
    assert_eq!(cut.value("mine").await.unwrap(), "v");
    stage.come_back().await;
    assert_eq!(other.value("mine").await.unwrap(), "v");
    assert_eq!(
        other.value("both").await.unwrap(),
        "first",
        "the first value wins"
    );
    let other_value = other
        .try_put(other.put_request("mine", "w"))
        .await
        .unwrap_err();
    assert_eq!(other_value.code(), Code::AlreadyExists);
    let other_value = cut.try_put(cut.put_request("mine", "w")).await.unwrap_err();
    assert_eq!(other_value.code(), Code::AlreadyExists);
    let same = cut.try_put(cut.put_request("mine", "v")).await;
    assert!(
        same.is_ok(),
        "the same value again is none of a change: {same:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_entry_needs_no_verification() {
    let mut stage = Stage::start("").await;
    let other = Caller::new(&stage.other, "artifacts");
    other.put("k", "v").await;
    Caller::new(&stage.cut, "artifacts")
        .has_local("k", b"v")
        .await;
    for crashes in [false, true] {
        stage.cut_off().await;
        if crashes {
            stage.crash();
        }
        let reply = Caller::new(&stage.cut, "artifacts").get("k").await;
        assert_eq!(value(&reply).unwrap(), "v");
        stage.come_back().await;
        stage.redis.forget_calls();
        let reply = Caller::new(&stage.cut, "artifacts").get("k").await;
        assert_eq!((tier(&reply), is_stale(&reply)), (Tier::Local, false));
        assert_eq!(value(&reply).unwrap(), "v");
        assert_eq!(stage.redis.calls("get") + stage.redis.calls("getrange"), 0);
    }
    other.invalidate("k").await;
    Caller::new(&stage.cut, "artifacts")
        .becomes("k", None)
        .await;
}
