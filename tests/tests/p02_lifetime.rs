//! P2, lifetime: no copy outlives its entry.
//!
//! Proven: the lifetime of a put is the request's, else the namespace's, at most the maximum, less
//! the jitter; the reply says when it ends and the entry says the same; a read that begins after
//! that is a miss, one that has ended before it is a hit, for small and large values, by every way
//! of reading; an ended entry counts as absent for conditions; the lifetime goes on while the
//! daemon is dead; what Redis carries out late, when whoever put it has given up on it and is gone,
//! does not live longer for that.
//!
//! These tests wait for real time to pass, a few hundred milliseconds: that is what they are about.
//! The clock of the engine's own tests can be moved, that of a real daemon cannot.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pannier_proto::v1::{
    PutRequest, cache_service_client::CacheServiceClient, write_options::Condition,
};
use pannier_tests::{Caller, Daemon, Redis, caller::value, load::noise, request, shared};
use tonic::{Code, transport::Channel};

const HOUR: i64 = 60 * 60 * 1000;
const CONFIG: &str = "
[defaults]
ttl = \"1h\"
max_ttl = \"2h\"
[namespaces.short]
ttl = \"10s\"
[namespaces.capped]
max_ttl = \"30m\"
[namespaces.jitter]
ttl = \"1000s\"
ttl_jitter = 0.5
";

/// How far wrong the daemons may think the clock of Redis to be, in milliseconds.
const CLOCKS: i64 = 100;

type Stub = CacheServiceClient<Channel>;

/// Milliseconds since the Unix epoch, as this machine sees it; so does the daemon beside us.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// Puts and tells the instant in the reply.
async fn put_for(stub: &mut Stub, key: &str, value: bytes::Bytes, lifetime: i64) -> i64 {
    let ttl = Some(request::milliseconds(lifetime));
    let reply = stub
        .put(PutRequest {
            ttl,
            ..request::put("n", key, value)
        })
        .await;
    request::epoch_milliseconds(reply.unwrap().into_inner().expire_time.as_ref())
}

/// Lifetime of a new entry as the entry tells it; the reply must agree about its end.
async fn lifetime(stub: &mut Stub, namespace: &str, ttl: Option<prost_types::Duration>) -> i64 {
    let put = PutRequest {
        ttl,
        ..request::put(namespace, "k", "v")
    };
    let reply = stub.put(put).await.unwrap().into_inner();
    let entry = stub
        .get(request::get(namespace, "k"))
        .await
        .unwrap()
        .into_inner()
        .entry;
    let entry = entry.expect("a live entry");
    assert_eq!(
        entry.expire_time, reply.expire_time,
        "reply and entry disagree"
    );
    request::epoch_milliseconds(entry.expire_time.as_ref())
        - request::epoch_milliseconds(entry.create_time.as_ref())
}

async fn until(instant: i64) {
    let left = u64::try_from(instant - now()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(left)).await;
}

async fn is_there(stub: &mut Stub, key: &str) -> bool {
    stub.get(request::get("n", key))
        .await
        .unwrap()
        .into_inner()
        .entry
        .is_some()
}

#[tokio::test]
async fn the_lifetime_is_the_requests_or_the_namespaces_and_at_most_the_maximum() {
    let daemon = Daemon::builder().config(CONFIG).start();
    let mut stub = daemon.stub();
    let asked = |millis| Some(request::milliseconds(millis));
    let table = [
        ("n", None, HOUR),
        ("short", None, 10_000),
        ("capped", None, HOUR / 2),
        ("n", asked(12_345), 12_345),
        ("short", asked(HOUR), HOUR),
        ("n", asked(2 * HOUR), 2 * HOUR),
        ("n", asked(2 * HOUR + 1), 2 * HOUR),
        ("capped", asked(HOUR), HOUR / 2),
        ("n", Some(request::span(i64::MAX, 999_999_999)), 2 * HOUR),
    ];
    for (namespace, ttl, expected) in table {
        let what = format!("{namespace} {ttl:?}");
        assert_eq!(
            lifetime(&mut stub, namespace, ttl).await,
            expected,
            "{what}"
        );
    }
}

#[tokio::test]
async fn jitter_shortens_by_up_to_its_share_and_not_always_alike() {
    let daemon = Daemon::builder().config(CONFIG).start();
    let mut stub = daemon.stub();
    let mut lifetimes = Vec::new();
    for _ in 0..100 {
        lifetimes.push(lifetime(&mut stub, "jitter", None).await);
    }
    let (least, most) = (
        *lifetimes.iter().min().unwrap(),
        *lifetimes.iter().max().unwrap(),
    );
    assert!(least >= 500_000 && most <= 1_000_000, "{least} to {most}");
    // That 100 draws leave out a third of the range has a chance of 1 in 10^17.
    assert!(least < 666_000 && most > 833_000, "{least} to {most}");
    let asked = Some(request::milliseconds(100_000));
    let asked = lifetime(&mut stub, "jitter", asked).await;
    assert!(
        (50_000..=100_000).contains(&asked),
        "it holds for a request's lifetime too: {asked}"
    );
}

#[tokio::test]
async fn an_entry_is_there_until_its_end_and_never_after() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let values = [("small", noise(1, 100)), ("large", noise(2, 300_000))];
    for (key, value) in values {
        let end = put_for(&mut stub, key, value, 250).await;
        let (mut hits, mut misses) = (0, 0);
        while now() < end + 50 {
            let begun = now();
            let got = stub.get(request::get("n", key)).await.unwrap().into_inner();
            let many = stub
                .get_many(request::get_many("n", [key]))
                .await
                .unwrap()
                .into_inner();
            let exists = stub
                .exists(request::exists("n", key))
                .await
                .unwrap()
                .into_inner();
            let ended = now();
            let there = [
                got.entry.is_some(),
                many.items[0].entry.is_some(),
                exists.exists,
            ];
            // A millisecond each way: the two clocks are read apart and count whole ones.
            if begun > end + 1 {
                assert_eq!(there, [false; 3], "{key} {} ms after its end", begun - end);
                misses += 1;
            } else if ended < end - 1 {
                assert_eq!(there, [true; 3], "{key} {} ms before its end", end - ended);
                hits += 1;
            }
        }
        assert!(
            hits > 0 && misses > 0,
            "{key}: {hits} hits, {misses} misses"
        );
    }
}

#[tokio::test]
async fn a_shorter_second_life_brings_no_earlier_one_back() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    put_for(&mut stub, "k", "long-lived".into(), HOUR).await;
    let end = put_for(&mut stub, "k", "short-lived".into(), 100).await;
    until(end + 2).await;
    assert!(!is_there(&mut stub, "k").await);
    let daemon = daemon.restart();
    assert!(
        !is_there(&mut daemon.stub(), "k").await,
        "nor does a restart"
    );
}

#[tokio::test]
async fn an_ended_entry_is_absent_for_conditions_too() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let ttl = Some(request::milliseconds(100));
    let first = PutRequest {
        ttl,
        ..request::put("n", "k", "old")
    };
    let first = stub.put(first).await.unwrap().into_inner();
    until(request::epoch_milliseconds(first.expire_time.as_ref()) + 2).await;
    let version = Condition::IfVersion(first.version);
    let status = stub
        .put(request::put_if("n", "k", "new", version))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    stub.put(request::put_if("n", "k", "new", Condition::IfAbsent(true)))
        .await
        .unwrap();
    let keys = request::invalidate_keys("n", ["k"]);
    assert_eq!(stub.invalidate(keys).await.unwrap().into_inner().count, 1);
}

#[tokio::test]
async fn an_invalidation_counts_only_what_was_alive() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    put_for(&mut stub, "a1", "v".into(), HOUR).await;
    put_for(&mut stub, "a2", "v".into(), 50).await;
    let end = put_for(&mut stub, "b", "v".into(), 50).await;
    until(end + 2).await;
    let keys = request::invalidate_keys("n", ["b"]);
    assert_eq!(stub.invalidate(keys).await.unwrap().into_inner().count, 0);
    let prefix = pannier_proto::v1::invalidate_request::Target::Prefix("a".into());
    let reply = stub
        .invalidate(request::invalidate("n", prefix))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.count, 1);
}

#[tokio::test]
async fn the_remaining_lifetime_goes_on_while_the_daemon_is_dead() {
    let mut daemon = Daemon::start();
    let mut stub = daemon.stub();
    let large = noise(1, 300_000);
    let ends = [
        (
            "stays",
            put_for(&mut stub, "stays", "v".into(), 60_000).await,
        ),
        (
            "large",
            put_for(&mut stub, "large", large.clone(), 60_000).await,
        ),
        ("ends", put_for(&mut stub, "ends", "v".into(), 300).await),
        (
            "ends large",
            put_for(&mut stub, "ends large", large, 300).await,
        ),
    ];
    assert!(is_there(&mut stub, "ends").await);
    daemon.kill();
    until(ends[3].1 + 2).await;
    let daemon = daemon.restart();
    let mut stub = daemon.stub();
    assert!(!is_there(&mut stub, "ends").await);
    assert!(!is_there(&mut stub, "ends large").await);
    for (key, end) in &ends[..2] {
        let entry = stub
            .get(request::get("n", key))
            .await
            .unwrap()
            .into_inner()
            .entry
            .unwrap();
        assert_eq!(
            request::epoch_milliseconds(entry.expire_time.as_ref()),
            *end
        );
        let (before, exists) = (now(), stub.exists(request::exists("n", key)).await.unwrap());
        let left = exists.into_inner().ttl.expect("a remaining lifetime");
        let left = left.seconds * 1000 + i64::from(left.nanos) / 1_000_000;
        let (most, least) = (end - before + 1, end - now() - 1);
        assert!(
            (least..=most).contains(&left),
            "{key}: {left} is not {least} to {most}"
        );
    }
}

/// Redis stands still, the put is sent to it, its daemon gives up and dies, Redis goes on and
/// carries the put out, counting its lifetime from then. Nobody is left who would remove it.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_carries_out_late_ends_in_time() {
    let redis = Redis::start();
    let mut gone = shared::start(&redis.url(), "command_timeout = \"300ms\"").await;
    let reader = shared::start(&redis.url(), "").await;
    let reads = Caller::new(&reader, "n");
    redis.freeze();
    let put = Caller::new(&gone, "n").put_for("k", "v", 6000).await;
    let end = request::epoch_milliseconds(put.expire_time.as_ref());
    gone.kill();
    until(end - 3500).await;
    redis.thaw();
    shared::attached(&reader).await;
    let (reply, checked) = (reads.get("k").await, reads.exists("k").await);
    assert_eq!(
        value(&reply).as_deref(),
        Some(&b"v"[..]),
        "carried out late"
    );
    let told = request::epoch_milliseconds(reply.entry.unwrap().expire_time.as_ref());
    assert!(told <= end + CLOCKS, "told to end {} ms late", told - end);
    assert!(checked.exists, "is there");
    until(end + CLOCKS).await;
    let left = redis.command(&["PTTL", &shared::key("n", "k")]).integer();
    assert!(
        left > 500,
        "Redis counts from when it carried it out: {left}"
    );
    // With a copy at home and without.
    let other = shared::start(&redis.url(), "").await;
    for daemon in [&reader, &other] {
        let reads = Caller::new(daemon, "n");
        assert_eq!(value(&reads.get("k").await), None);
        assert!(!reads.exists("k").await.exists);
    }
}
