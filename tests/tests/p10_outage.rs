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
//! deferring; a kill at random points loses nothing acknowledged; a put that can be kept nowhere,
//! or cannot be noted, is refused and not served. Immutable: the put of the outage is published,
//! the first value of all wins, and a gap costs no verification.
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
    Caller, Mode, Pair, Path,
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
[namespaces.remote]
tiers = [\"shared\"]
[namespaces.plain]
raw = true
";
const DEFERRED: (TierOutcome, TierOutcome) = (TierOutcome::Applied, TierOutcome::Deferred);

/// The near one is the one that is cut off.
async fn start(more: &str) -> Pair {
    Pair::start(&format!("{more}\n{CONFIG}"), CONFIG).await
}

/// What is put within the error of the clocks, a few round trips to Redis, counts as older.
async fn clocks_tell() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_of_an_outage_is_obeyed_at_once_and_applied_later() {
    let mut pair = start("").await;
    for crashes in [false, true] {
        for key in ["key", "prefix-1", "a-pattern", "stays"] {
            pair.hold("n", key, "old").await;
        }
        pair.cut_off().await;
        let gone = pair.near("n").invalidate("key").await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        let gone = pair
            .near("n")
            .invalidate_by(Target::Prefix("prefix-".into()))
            .await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        let gone = pair
            .near("n")
            .invalidate_by(Target::Pattern("a-*n".into()))
            .await;
        assert_eq!((gone.local_outcome(), gone.shared_outcome()), DEFERRED);
        if crashes {
            pair.restart_near();
        }
        for key in ["key", "prefix-1", "a-pattern"] {
            assert_eq!(pair.near("n").value(key).await, None, "{key}, stale or not");
            assert!(pair.is_in_redis("n", key), "{key}: the cut is none");
        }
        pair.come_back().await;
        for key in ["key", "prefix-1", "a-pattern"] {
            assert!(
                !pair.is_in_redis("n", key),
                "{key}: attached before it was applied"
            );
            assert_eq!(pair.near("n").value(key).await, None, "{key}");
            pair.other("n").becomes(key, None).await;
        }
        pair.near("n").becomes("stays", Some(b"old")).await;
        pair.other("n").becomes("stays", Some(b"old")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_namespace_can_be_invalidated_in_an_outage() {
    let pair = start("").await;
    pair.hold("n", "a", "old").await;
    pair.hold("n", "b", "old").await;
    let neighbour = pair.other("neighbour");
    neighbour.put("a", "v").await;
    pair.cut_off().await;
    pair.near("n").invalidate_by(Target::All(true)).await;
    clocks_tell().await;
    pair.other("n").put("b", "newer").await;
    pair.come_back().await;
    assert!(!pair.is_in_redis("n", "a"));
    pair.other("n").becomes("a", None).await;
    pair.other("n").becomes("b", Some(b"newer")).await;
    pair.near("n").becomes("b", Some(b"newer")).await;
    neighbour.becomes("a", Some(b"v")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_later_is_not_harmed() {
    let mut pair = start("").await;
    for crashes in [false, true] {
        for key in ["invalidated", "put", "prefix-1"] {
            pair.hold("n", key, "old").await;
        }
        pair.cut_off().await;
        pair.near("n").invalidate("invalidated").await;
        pair.near("n").put("put", "of the outage").await;
        pair.near("n")
            .invalidate_by(Target::Prefix("prefix".into()))
            .await;
        clocks_tell().await;
        for key in ["invalidated", "put", "prefix-1"] {
            pair.other("n").put(key, "newer").await;
        }
        if crashes {
            pair.restart_near();
        }
        pair.come_back().await;
        for key in ["invalidated", "put", "prefix-1"] {
            assert!(
                pair.is_in_redis("n", key),
                "{key}: the newer value was removed"
            );
            pair.near("n").becomes(key, Some(b"newer")).await;
            pair.other("n").becomes(key, Some(b"newer")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_an_outage_replaces_what_is_older() {
    let mut pair = start("").await;
    for crashes in [false, true] {
        pair.hold("n", "k", "old").await;
        pair.cut_off().await;
        let put = pair.near("n").put("k", "new").await;
        assert_eq!(outcomes(&put), DEFERRED);
        if crashes {
            pair.restart_near();
        }
        let reply = pair.near("n").get("k").await;
        assert_eq!(value(&reply).unwrap(), "new", "its own write");
        pair.come_back().await;
        for caller in [pair.near("n"), pair.other("n")] {
            eventually("the old value is gone", async || {
                let reply = caller.get("k").await;
                let got = value(&reply);
                got.as_deref() != Some(b"old") && !is_stale(&reply)
            })
            .await;
        }
        let record = pair.redis.command(&["GET", &shared::key("n", "k")]);
        assert!(
            record
                .bytes()
                .is_none_or(|record| !record.ends_with(b"old"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_an_outage_does_not_bring_back_what_others_deleted() {
    let pair = start("").await;
    pair.hold("n", "k", "old").await;
    pair.cut_off().await;
    pair.near("n").put("k", "of the outage").await;
    pair.other("n").invalidate("k").await;
    pair.come_back().await;
    assert!(!pair.is_in_redis("n", "k"));
    pair.other("n").becomes("k", None).await;
    pair.near("n").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_demands_the_shared_tier_is_told_that_it_is_away() {
    let pair = start("").await;
    pair.cut_off().await;
    let options = WriteOptions {
        mode: WriteMode::Shared.into(),
        ..WriteOptions::default()
    };
    let put = PutRequest {
        options: Some(options),
        ..pair.near("n").put_request("k", "v")
    };
    let refused = pair.near("n").try_put(put).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let options = pannier_proto::v1::ReadOptions {
        require_shared: true,
        ..Default::default()
    };
    let refused = pair
        .near("n")
        .try_get("k", Some(options))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_no_tier_takes_is_refused_and_removes_what_is_older() {
    let pair = start("").await;
    let (cut, other) = (pair.near("remote"), pair.other("remote"));
    other.put("k", "old").await;
    pair.cut_off().await;
    let refused = cut.try_put(cut.put_request("k", "new")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("no tier took it"), "{refused}");
    assert_eq!(cut.value("k").await, None);
    pair.come_back().await;
    assert!(!pair.is_in_redis("remote", "k"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_cannot_be_noted_is_refused_and_not_served() {
    let pair = start("journal_max = 2").await;
    let cut = pair.near("plain");
    for key in ["a", "b", "c"] {
        cut.put(key, "old").await;
        cut.has_local(key, b"old").await;
    }
    pair.cut_off().await;
    for key in ["a", "b"] {
        assert_eq!(outcomes(&cut.put(key, "new").await), DEFERRED);
    }
    let refused = cut.try_put(cut.put_request("c", "new")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("journal_max"), "{refused}");
    assert_eq!(
        cut.value("c").await,
        None,
        "neither the new nor the old one"
    );
    pair.come_back().await;
    cut.becomes("c", Some(b"old")).await;
    for key in ["a", "b"] {
        cut.becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_forgets_nothing() {
    let mut pair = start("journal_max = 10").await;
    let keys: Vec<_> = (0..50).map(|index| format!("k{index}")).collect();
    for key in &keys {
        pair.hold("n", key, "old").await;
    }
    let neighbour = pair.other("neighbour");
    neighbour.put("a", "v").await;
    pair.cut_off().await;
    for key in &keys[..40] {
        let gone = pair.near("n").invalidate(key).await;
        assert_eq!(gone.shared_outcome(), TierOutcome::Deferred);
    }
    clocks_tell().await;
    pair.other("n").put("k3", "newer").await;
    pair.restart_near();
    pair.come_back().await;
    for key in &keys[..40] {
        let expected = (key == "k3").then_some(&b"newer"[..]);
        pair.other("n").becomes(key, expected).await;
        pair.near("n").becomes(key, expected).await;
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
    let pair = start("command_timeout = \"10s\"").await;
    for round in 0..3 {
        let keys = |writer| (0..200).map(move |index| format!("k-{round}-{writer}-{index}"));
        for writer in 0..WRITERS {
            let items = keys(writer).map(|key| (key, Bytes::from("old")));
            let put = request::put_many("n", items);
            pair.other("n").stub().put_many(put).await.unwrap();
        }
        pair.cut_off().await;
        // It comes back as far as its first command.
        pair.proxy.set_for(Path::Data, Mode::HoldReplies);
        pair.proxy.set_for(Path::Tracking, Mode::Pass);
        pair.proxy.holds(Path::Data).await;
        let (deferred, mut writers) = (Count::default(), JoinSet::new());
        for writer in 0..WRITERS {
            let keys = keys(writer).collect();
            writers.spawn(invalidate_until_it_is_back(
                pair.near("n"),
                keys,
                deferred.clone(),
            ));
        }
        eventually("they are at it", async || deferred.get() >= WRITERS).await;
        // All of them are deferring something at the moment in which it attaches.
        pair.proxy.set(Mode::Pass);
        let done = writers.join_all().await.concat();
        shared::attached(&pair.near).await;
        for key in done {
            assert!(
                !pair.is_in_redis("n", &key),
                "round {round}: {key} was deferred and never applied"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_points_of_an_outage_lose_nothing_acknowledged() {
    let mut random = StdRng::seed_from_u64(10);
    let mut pair = start("").await;
    let keys: Vec<_> = (0..60).map(|index| format!("k{index}")).collect();
    for key in &keys {
        pair.hold("n", key, "old").await;
    }
    pair.cut_off().await;
    let mut acknowledged = BTreeSet::new();
    for _ in 0..5 {
        let (mut stub, keys) = (pair.near.stub(), keys.clone());
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
        pair.restart_near();
        acknowledged.extend(running.join_all().await.remove(0));
        for key in &acknowledged {
            assert_eq!(pair.near("n").value(key).await, None, "{key} is back");
        }
    }
    pair.come_back().await;
    assert!(!acknowledged.is_empty());
    for key in &acknowledged {
        assert!(
            !pair.is_in_redis("n", key),
            "{key} was acknowledged and is in Redis"
        );
        assert_eq!(pair.near("n").value(key).await, None, "{key}");
        pair.other("n").becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_put_of_an_outage_is_published() {
    let mut pair = start("").await;
    pair.cut_off().await;
    let (cut, other) = (pair.near("artifacts"), pair.other("artifacts"));
    cut.put("mine", "v").await;
    cut.put("both", "late").await;
    other.put("both", "first").await;
    pair.restart_near();
    let cut = pair.near("artifacts");
    assert_eq!(cut.value("mine").await.unwrap(), "v");
    pair.come_back().await;
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
    let mut pair = start("").await;
    let other = pair.other("artifacts");
    other.put("k", "v").await;
    pair.near("artifacts").has_local("k", b"v").await;
    for crashes in [false, true] {
        pair.cut_off().await;
        if crashes {
            pair.restart_near();
        }
        let reply = pair.near("artifacts").get("k").await;
        assert_eq!(value(&reply).unwrap(), "v");
        pair.come_back().await;
        pair.redis.forget_calls();
        let reply = pair.near("artifacts").get("k").await;
        assert_eq!((tier(&reply), is_stale(&reply)), (Tier::Local, false));
        assert_eq!(value(&reply).unwrap(), "v");
        assert_eq!(pair.redis.reads() + pair.redis.calls("getrange"), 0);
    }
    other.invalidate("k").await;
    pair.near("artifacts").becomes("k", None).await;
}
