//! P1, order of the tiers: local, then shared; a shared hit fills the local tier; a write goes to
//! both; concurrent reads of one missing key make one shared read.
//!
//! Proven, on two daemons and one Redis: a put is in Redis, with its lifetime, when it returns; the
//! other daemon finds it there once and then at home, without a command to Redis; the remaining
//! lifetime travels with the copy (P2); fifty callers that miss together cost one GET, which is
//! held until all of them wait; the options and policies that leave a tier out leave it out;
//! conditions are decided where everybody sees them; batches and scans reach both tiers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::Duration;

use pannier_proto::v1::{
    PutRequest, ReadOptions, Tier, TierOutcome, WriteMode, WriteOptions,
    invalidate_request::Target, write_options::Condition,
};
use pannier_tests::{
    Caller, Daemon, Mode, Path, Proxy, Redis, Reply,
    caller::{is_stale, outcomes, tier, value},
    eventually,
    load::{noise, rest},
    request, shared,
};
use tokio::task::JoinSet;
use tonic::Code;

const CONFIG: &str = "
[namespaces.local]
tiers = [\"local\"]
[namespaces.remote]
tiers = [\"shared\"]
[namespaces.small]
shared_value_max = \"1KiB\"
";

async fn two(redis: &Redis) -> (Daemon, Daemon) {
    let url = redis.url();
    tokio::join!(shared::start(&url, CONFIG), shared::start(&url, CONFIG))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_in_both_tiers_when_it_returns() {
    let redis = Redis::start();
    let (daemon, _) = two(&redis).await;
    let caller = Caller::new(&daemon, "n");
    for size in [0, 100, 300 << 10, 3 << 20] {
        let put = caller.put_for("k", noise(1, size), 60_000).await;
        let applied = (TierOutcome::Applied, TierOutcome::Applied);
        assert_eq!(outcomes(&put), applied, "{size} bytes");
        assert_eq!(put.provenance.as_ref().unwrap().tier(), Tier::Shared);
        let key = shared::key("n", "k");
        let record = redis.command(&["GET", &key]);
        let record = record.bytes().expect("in Redis already");
        assert!(
            record.ends_with(&noise(1, size)),
            "{size} bytes: another value"
        );
        assert_eq!(record[..16], put.version[..], "its stamp comes first");
        let lifetime = redis.command(&["PTTL", &key]).integer();
        assert!((55_000..=60_000).contains(&lifetime), "{lifetime} ms");
    }
    let reply = caller.get("k").await;
    assert_eq!((tier(&reply), is_stale(&reply)), (Tier::Local, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_hit_fills_the_local_tier() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let (writer, reader) = (Caller::new(&writer, "n"), Caller::new(&reader, "n"));
    for size in [100, 300 << 10] {
        let key = format!("k{size}");
        writer.put(&key, noise(2, size)).await;
        let first = reader.get(&key).await;
        assert!(value(&first) == Some(noise(2, size)));
        assert_eq!((tier(&first), is_stale(&first)), (Tier::Shared, false));
        reader.has_local(&key, &noise(2, size)).await;
        redis.forget_calls();
        for _ in 0..100 {
            let reply = reader.get(&key).await;
            assert_eq!((tier(&reply), is_stale(&reply)), (Tier::Local, false));
        }
        let asked = ["get", "getrange", "pttl", "evalsha"].map(|it| redis.calls(it));
        assert_eq!(asked, [0; 4], "Redis was asked for what is at home");
    }
    let reply = reader.get("nothing").await;
    assert_eq!((value(&reply), tier(&reply)), (None, Tier::None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remaining_lifetime_travels_with_the_copy() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let (writer, reader) = (Caller::new(&writer, "n"), Caller::new(&reader, "n"));
    let put = writer.put_for("k", "v", 1500).await;
    let end = request::epoch_milliseconds(put.expire_time.as_ref());
    let reply = reader.get("k").await;
    let copy = reply.entry.expect("there for another second");
    let copy = request::epoch_milliseconds(copy.expire_time.as_ref());
    assert!(
        (end - 50..=end + 50).contains(&copy),
        "{copy} instead of {end}"
    );
    reader.becomes("k", None).await;
    let left = redis.command(&["PTTL", &shared::key("n", "k")]).integer();
    assert!(left < 50, "gone {left} ms too early");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_miss_together_ask_redis_once() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let writer = shared::start(&redis.url(), "").await;
    let reader = shared::start(&proxy.url(), "command_timeout = \"20s\"").await;
    for (round, size) in [100, 300 << 10].into_iter().enumerate() {
        let key = format!("k{round}");
        Caller::new(&writer, "n").put(&key, noise(3, size)).await;
        redis.forget_calls();
        proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut readers = JoinSet::new();
        for _ in 0..50 {
            let (caller, key) = (Caller::new(&reader, "n"), key.clone());
            readers.spawn(async move { caller.value(&key).await });
        }
        proxy.holds(Path::Data).await;
        // All fifty have come as far as they can.
        rest(&reader).await;
        proxy.set(Mode::Pass);
        for got in readers.join_all().await {
            assert!(got == Some(noise(3, size)));
        }
        assert_eq!(redis.reads(), 1, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_choose_the_tiers() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let (writer, reader) = (Caller::new(&writer, "n"), Caller::new(&reader, "n"));
    let (local_only, require_shared) = (
        ReadOptions {
            local_only: true,
            ..ReadOptions::default()
        },
        ReadOptions {
            require_shared: true,
            ..ReadOptions::default()
        },
    );
    writer.put("k", "v").await;
    let reply = reader.get_with("k", local_only.clone()).await;
    assert_eq!((value(&reply), tier(&reply)), (None, Tier::None));
    let reply = writer.get_with("k", require_shared.clone()).await;
    assert_eq!(
        (value(&reply).unwrap(), tier(&reply)),
        ("v".into(), Tier::Shared)
    );
    reader.has_local("k", b"v").await;
    let reply = reader.get_with("k", local_only).await;
    assert_eq!(
        (value(&reply).unwrap(), tier(&reply)),
        ("v".into(), Tier::Local)
    );

    let put = writer.put_mode("own", "v", WriteMode::Local).await;
    assert_eq!(outcomes(&put), (TierOutcome::Applied, TierOutcome::Skipped));
    assert_eq!(
        redis
            .command(&["EXISTS", &shared::key("n", "own")])
            .integer(),
        0
    );
    assert_eq!(reader.value("own").await, None);
    assert_eq!(writer.value("own").await.unwrap(), "v");
    let put = writer.put_mode("both", "v", WriteMode::Shared).await;
    assert_eq!(put.shared_outcome(), TierOutcome::Applied);
    let reply = writer.get_with("own", require_shared).await;
    assert_eq!(value(&reply), None, "the local tier was not bypassed");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_choose_the_tiers() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let local = Caller::new(&writer, "local");
    let put = local.put("k", "v").await;
    assert_eq!(outcomes(&put), (TierOutcome::Applied, TierOutcome::Skipped));
    assert_eq!(local.value("k").await.unwrap(), "v");
    let gone = local.invalidate("k").await;
    assert_eq!(gone.shared_outcome(), TierOutcome::Skipped);

    let remote = Caller::new(&writer, "remote");
    let put = remote.put("k", "v").await;
    assert_eq!(outcomes(&put), (TierOutcome::Skipped, TierOutcome::Applied));
    for _ in 0..3 {
        assert_eq!(tier(&remote.get("k").await), Tier::Shared);
    }

    // A value above the limit stays out of Redis, and what it replaces there goes.
    let (small, other) = (Caller::new(&writer, "small"), Caller::new(&reader, "small"));
    small.put("k", "little").await;
    other.has_local("k", b"little").await;
    let put = small.put("k", noise(4, 2000)).await;
    assert_eq!(put.local_outcome(), TierOutcome::Applied);
    assert_ne!(put.shared_outcome(), TierOutcome::Failed);
    // What Redis has is its version, so that the copy can be verified.
    let there = redis.command(&["STRLEN", &shared::key("small", "k")]);
    assert_eq!(there.integer(), 64);
    assert!(small.exists("k").await.exists);
    assert!(small.value("k").await == Some(noise(4, 2000)));
    other.becomes("k", None).await;
    assert!(!other.exists("k").await.exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_across_daemons() {
    let redis = Redis::start();
    let (first, second) = two(&redis).await;
    let (first, second) = (Caller::new(&first, "n"), Caller::new(&second, "n"));
    let put_if = |caller: &Caller, value: &'static str, condition| {
        let options = WriteOptions {
            condition: Some(condition),
            ..WriteOptions::default()
        };
        let request = PutRequest {
            options: Some(options),
            ..caller.put_request("k", value)
        };
        let caller = caller.clone();
        async move { caller.try_put(request).await }
    };
    let absent = Condition::IfAbsent(true);
    let put = put_if(&first, "1", absent.clone()).await.unwrap();
    let refused = put_if(&second, "2", absent).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let version = Condition::IfVersion(put.version);
    put_if(&second, "3", version.clone()).await.unwrap();
    let refused = put_if(&first, "4", version.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    // The scripts may be gone from Redis at any time.
    assert!(redis.command(&["SCRIPT", "FLUSH"]).is_ok());
    let refused = put_if(&second, "5", version).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    first.becomes("k", Some(b"3")).await;
    second.becomes("k", Some(b"3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_scans_reach_both_tiers() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let (writer, reader) = (Caller::new(&writer, "n"), Caller::new(&reader, "n"));
    let items = (0..100).map(|index| (format!("k{index}"), noise(index, 100)));
    let reply = writer
        .stub()
        .put_many(request::put_many("n", items))
        .await
        .unwrap();
    let applied = |it: &pannier_proto::v1::PutManyResult| {
        it.fault.is_none() && it.shared_outcome() == TierOutcome::Applied
    };
    assert!(reply.get_ref().results.iter().all(applied));
    // Some are at home already when the batch is read.
    for index in (0..100).step_by(3) {
        let key = format!("k{index}");
        reader.has_local(&key, &noise(index, 100)).await;
    }
    let keys = (0..101).map(|index| format!("k{index}"));
    let reply = reader
        .stub()
        .get_many(request::get_many("n", keys))
        .await
        .unwrap();
    for (index, item) in (0..).zip(&reply.get_ref().items) {
        let value = item.entry.as_ref().map(|entry| entry.value.clone());
        assert!(
            value == (index < 100).then(|| noise(index, 100)),
            "k{index}"
        );
    }
    assert!(reader.exists("k7").await.exists);
    // What only Redis has is found by a scan of either daemon.
    let gone = reader.invalidate_by(Target::Prefix("k1".into())).await;
    assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
    let left = redis.command(&["KEYS", "pannier:n:*"]).array().len();
    assert_eq!(left, 89, "k1 and k10 to k19 are gone");
    let gone = writer.invalidate_by(Target::Pattern("k?".into())).await;
    assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
    let left = redis.command(&["KEYS", "pannier:n:*"]).array().len();
    assert_eq!(left, 80, "k2 to k9 and k0 are gone too");
    writer.invalidate_by(Target::All(true)).await;
    assert_eq!(redis.command(&["KEYS", "*"]), Reply::Array(Vec::new()));
    for key in ["k1", "k2", "k20"] {
        reader.becomes(key, None).await;
        writer.becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_not_felt_by_those_who_read_at_home() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let daemon = shared::start(&proxy.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.has_local("k", b"v").await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = std::time::Instant::now();
        let reply = caller.get("k").await;
        times.push(begun.elapsed());
        assert_eq!((tier(&reply), is_stale(&reply)), (Tier::Local, false));
    }
    times.sort_unstable();
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
    eventually("a put takes its time and is taken", async || {
        caller.put("k", "w").await.shared_outcome() == TierOutcome::Applied
    })
    .await;
}
