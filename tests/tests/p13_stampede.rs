//! P13: with `lease`, one caller across all sidecars is told to compute and gets a token, the
//! others wait up to their limit for its value; a token that expired or was overtaken cannot write.
//!
//! Proven on real daemons and a real Redis: of 1,000 callers on 4 daemons that miss one key
//! together exactly one is told to compute and all others get its value, at the cost of a few
//! questions to Redis; when the holder's daemon is killed, or only its client has gone, exactly one
//! more is told after the lease time; whatever happens to the entry meanwhile, or to a tag that was
//! named, ends the lease, its token writes nothing, and nothing old is served; waits end at the
//! caller's limit, at its deadline, when the daemon stops; who goes away leaves nothing behind, a
//! lease on its way included; to everybody who does not take part a lease is nothing.
//!
//! Interleavings of an outage (A is cut off, B is not):
//!
//! ```text
//! 1  A gives a lease with Redis │ A is cut off │ put at A      refused: what B did meanwhile only
//!                                                               Redis knows
//! 2  A is cut off │ A gives a lease │ put at A                  a put of the outage: served stale
//!                                                               here, older ones in Redis go
//! 3  A is cut off │ A gives a lease │ B puts │ put at A │ back  B's stays: it is newer than the
//!                                                               lease
//! 4  A is cut off │ A gives a lease │ B invalidates │ back      refused, though nothing is there:
//!    │ put at A                                                 it may be older than B's wish
//! 5  A is cut off │ A gives a lease │ back │ cut off again      refused: another outage
//!    │ put at A
//! 6  A is cut off │ A gives a lease │ A invalidates │ put at A  refused
//! 7  B has the lease, A waits │ A is cut off                    A's waiters elect by themselves
//! 8  A has it alone, A waits │ back                             A's waiters elect with all others
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use pannier_client::{Client, ComputeError, LeaseOptions, PutOptions};
use pannier_proto::v1::{
    GetResponse, Lease, LeaseRequest, PutRequest, PutResponse, ReadOptions, TierOutcome, WriteMode,
    WriteOptions, invalidate_request::Target, write_options::Condition,
};
use pannier_tests::{
    Caller, Daemon, EVENTUALLY_MAX, Mode, Pair, Path, Redis,
    caller::{is_stale, outcomes, value},
    eventually,
    metrics::Metrics,
    pannier, request, shared, stderr, stdout,
};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};

const DEFERRED: (TierOutcome, TierOutcome) = (TierOutcome::Applied, TierOutcome::Deferred);
const CONFIG: &str = "
[namespaces.artifacts]
immutable = true
[namespaces.remote]
tiers = [\"shared\"]
[namespaces.alone]
tiers = [\"local\"]
[namespaces.plain]
raw = true
[namespaces.large]
shared_value_max = \"1KiB\"
";
/// Longer than any test waits.
const LONG: i64 = 50_000;

/// Takes part: waits so many milliseconds, and takes so many to compute.
fn lease(wait: i64, duration: i64) -> ReadOptions {
    ReadOptions {
        lease: Some(LeaseRequest {
            wait_duration: Some(request::milliseconds(wait)),
            lease_duration: Some(request::milliseconds(duration)),
            early_refresh: None,
            tags: Vec::new(),
        }),
        ..ReadOptions::default()
    }
}

/// Is told to compute, or fails.
async fn holder(caller: &Caller, key: &str, duration: i64) -> Lease {
    let reply = caller.get_with(key, lease(0, duration)).await;
    assert!(value(&reply).is_none());
    reply.lease.expect("nobody else has it")
}

/// A put with a token.
fn put_request(caller: &Caller, key: &str, value: &'static str, held: &Lease) -> PutRequest {
    PutRequest {
        options: Some(WriteOptions {
            lease_token: held.token.clone(),
            ..WriteOptions::default()
        }),
        ..caller.put_request(key, value)
    }
}

async fn put(
    caller: &Caller,
    key: &str,
    value: &'static str,
    held: &Lease,
) -> Result<PutResponse, Status> {
    caller.try_put(put_request(caller, key, value, held)).await
}

/// The token does not write.
async fn refused(caller: &Caller, key: &str, held: &Lease) {
    let status = put(caller, key, "late", held).await.expect_err("has ended");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(
        status.message().starts_with("options.lease_token: "),
        "{status:?}"
    );
}

/// Callers that wait for a key, each in a task.
struct Waiting(JoinSet<(Instant, GetResponse)>);

impl Waiting {
    fn start(
        callers: impl IntoIterator<Item = Caller>,
        key: &'static str,
        options: ReadOptions,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for caller in callers {
            let options = options.clone();
            tasks.spawn(async move {
                let reply = caller.get_with(key, options).await;
                (Instant::now(), reply)
            });
        }
        Self(tasks)
    }

    /// The next that is answered, and when.
    async fn next(&mut self) -> (Instant, GetResponse) {
        let next = tokio::time::timeout(EVENTUALLY_MAX, self.0.join_next()).await;
        let next = next.expect("nobody is answered").expect("there is one");
        next.expect("does not panic")
    }

    /// All that are left get this value, and no lease.
    async fn all_get(mut self, expected: &str) {
        while !self.0.is_empty() {
            let (_, reply) = self.next().await;
            assert_eq!(value(&reply).as_deref(), Some(expected.as_bytes()));
            assert!(reply.lease.is_none());
        }
    }
}

async fn figure(daemon: &Daemon, name: &str) -> f64 {
    let figure = Metrics::of(daemon).await.get(name, &[]);
    figure.expect("is always there")
}

/// Waits until so many callers of these daemons together take part, which are then all waiting or
/// about to.
async fn are_waiting(daemons: &[&Daemon], count: u32) {
    eventually(&format!("{count} wait"), async || {
        let mut sum = 0.0;
        for daemon in daemons {
            sum += figure(daemon, "cache_leases_waiting").await;
        }
        sum == f64::from(count)
    })
    .await;
}

async fn fleet(redis: &Redis, count: usize) -> Vec<Daemon> {
    let mut daemons = Vec::new();
    for _ in 0..count {
        daemons.push(shared::start(&redis.url(), CONFIG).await);
    }
    daemons
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_callers_on_four_daemons_one_computes() {
    let redis = Redis::start();
    let daemons = fleet(&redis, 4).await;
    redis.forget_calls();
    let clients: Vec<_> = daemons.iter().map(|it| Caller::new(it, "n")).collect();
    let callers = (0..1000).map(|index| clients[index % clients.len()].clone());
    let mut waiting = Waiting::start(callers, "k", lease(LONG, LONG));
    let (_, first) = waiting.next().await;
    let held = first.lease.expect("one is told to compute");
    assert!(first.entry.is_none());
    let all: Vec<_> = daemons.iter().collect();
    are_waiting(&all, 999).await;
    // Who comes later waits as well.
    let late = Waiting::start([clients[3].clone()], "k", lease(LONG, LONG));
    are_waiting(&all, 1000).await;
    put(&clients[0], "k", "value", &held)
        .await
        .expect("in time");
    waiting.all_get("value").await;
    late.all_get("value").await;
    are_waiting(&all, 0).await;
    let mut granted = 0.0;
    for daemon in &daemons {
        granted += figure(daemon, "cache_leases_granted_total").await;
        assert_eq!(figure(daemon, "cache_leases_timed_out_total").await, 0.0);
    }
    assert_eq!(granted, 1.0);
    let (sets, reads) = (redis.calls("set"), redis.calls("mget"));
    println!("1001 callers: {sets} questions for the lease, {reads} for the value");
    // Those who come together ask once: how often that is depends on how they come.
    assert!(sets < 100 && reads < 200, "{sets} sets, {reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_holder_is_gone_one_more_is_told_after_its_time() {
    let redis = Redis::start();
    let mut daemons = fleet(&redis, 3).await;
    for (key, killed) in [("client-gone", false), ("daemon-killed", true)] {
        let clients: Vec<_> = daemons.iter().map(|it| Caller::new(it, "n")).collect();
        let begun = Instant::now();
        let held = holder(&clients[0], key, 1500).await;
        let callers = (0..40).map(|index| clients[1 + index % 2].clone());
        let mut waiting = Waiting::start(callers, key, lease(LONG, LONG));
        are_waiting(&[&daemons[1], &daemons[2]], 40).await;
        if killed {
            daemons[0].kill();
        }
        let (at, next) = waiting.next().await;
        let next = next.lease.expect("told to compute");
        let after = at - begun;
        assert!(after >= Duration::from_millis(1490), "told after {after:?}");
        assert!(after < Duration::from_millis(4000), "told after {after:?}");
        are_waiting(&[&daemons[1], &daemons[2]], 39).await;
        if !killed {
            refused(&clients[0], key, &held).await;
        }
        put(&clients[1], key, "value", &next)
            .await
            .expect("in time");
        waiting.all_get("value").await;
    }
}

/// What can happen to an entry while it is computed, and what is there afterwards.
async fn overtake(how: u32, other: &Caller, redis: &Redis, key: &str) -> Option<&'static str> {
    match how {
        0 => assert_eq!(
            other.invalidate(key).await.shared_outcome(),
            TierOutcome::Applied
        ),
        1 => {
            other.put(key, "other").await;
            return Some("other");
        }
        2 => {
            let absent = WriteOptions {
                condition: Some(Condition::IfAbsent(true)),
                ..WriteOptions::default()
            };
            let request = PutRequest {
                options: Some(absent),
                ..other.put_request(key, "first")
            };
            other.try_put(request).await.expect("there is no entry");
            return Some("first");
        }
        3 => {
            other.invalidate_by(Target::Prefix(key.to_owned())).await;
        }
        4 => assert_eq!(redis.command(&["DEL", &shared::key("n", key)]).integer(), 1),
        5 => {
            redis.command(&["FLUSHALL"]);
        }
        6 => {
            // And expired again.
            other.put_for(key, "short", 1).await;
            other.becomes(key, None).await;
        }
        _ => {
            let next = Waiting::start([other.clone()], "overtaken-7", lease(LONG, LONG))
                .next()
                .await;
            assert!(next.1.lease.is_some(), "its time is over");
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_overtaken_writes_nothing() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    for how in 0..8 {
        let key = format!("overtaken-{how}");
        let held = holder(&near, &key, if how == 7 { 300 } else { LONG }).await;
        let there = overtake(how, &other, &pair.redis, &key).await;
        refused(&near, &key, &held).await;
        // Nor at the other one, nor a second time.
        refused(&other, &key, &held).await;
        for caller in [&near, &other] {
            caller.becomes(&key, there.map(str::as_bytes)).await;
        }
        if how < 7 {
            let refused = figure(&pair.near, "cache_leases_refused_total").await;
            assert_eq!(refused, f64::from(how + 1));
        }
    }
    // The invalidation of the own daemon, and what it had written itself.
    let held = holder(&near, "own", LONG).await;
    near.invalidate("own").await;
    refused(&near, "own", &held).await;
    let held = holder(&near, "own", LONG).await;
    put(&near, "own", "value", &held).await.expect("in time");
    refused(&near, "own", &held).await;
    near.becomes("own", Some(b"value")).await;
    // A token of another key.
    let held = holder(&near, "one", LONG).await;
    holder(&near, "another", LONG).await;
    refused(&near, "another", &held).await;
    assert!(near.value("another").await.is_none());
    put(&near, "one", "value", &held).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_by_a_tag_overtakes_a_lease_that_names_it() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let alone = Daemon::start();
    let here = Caller::new(&alone, "n");
    let ask = async |caller: &Caller, key: &str, tags: &[&str]| {
        let mut options = lease(0, LONG);
        options.lease.as_mut().unwrap().tags = tags.iter().map(|&it| it.to_owned()).collect();
        let reply = caller.get_with(key, options).await;
        reply.lease.expect("nobody else has it")
    };
    let put = async |caller: &Caller, key: &str, held: &Lease, tags: &[&str]| {
        let mut request = put_request(caller, key, "value", held);
        request.tags = tags.iter().map(|&it| it.to_owned()).collect();
        caller.try_put(request).await
    };
    let tag = |name: &str| Target::Tag(name.to_owned());
    for (caller, other) in [(pair.near("n"), pair.other("n")), (here.clone(), here)] {
        for round in ["new", "known"] {
            let key = format!("tagged-{round}");
            let held = ask(&caller, &key, &["b", "a"]).await;
            put(&caller, &key, &held, &["a", "b"])
                .await
                .expect("in time");
            assert!(other.value(&key).await.is_some());
            let key = format!("overtaken-{round}");
            let held = ask(&caller, &key, &["a", "b"]).await;
            other.invalidate_by(tag("b")).await;
            let status = put(&caller, &key, &held, &["a", "b"]).await;
            let status = status.expect_err("computed before");
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert!(caller.value(&key).await.is_none());
            // Not with the tags it was asked for with.
            caller.invalidate(&key).await;
            let held = ask(&caller, &key, &["a", "b"]).await;
            assert!(put(&caller, &key, &held, &["a"]).await.is_err());
            // Another tag does not matter, nor does any to who named none.
            other.invalidate_by(tag("c")).await;
            put(&caller, &key, &held, &["a", "b"])
                .await
                .expect("in time");
            let key = format!("unnamed-{round}");
            let held = ask(&caller, &key, &[]).await;
            other.invalidate_by(tag("a")).await;
            put(&caller, &key, &held, &["a"]).await.expect("in time");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_given_back_is_given_to_the_next_at_once() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    for giver in [pair.near("n"), pair.other("n")] {
        let held = holder(&giver, "k", LONG).await;
        let callers = [
            pair.near("n"),
            pair.other("n"),
            pair.near("n"),
            pair.other("n"),
        ];
        let mut waiting = Waiting::start(callers, "k", lease(LONG, LONG));
        are_waiting(&[&pair.near, &pair.other], 4).await;
        let begun = Instant::now();
        giver.invalidate("k").await;
        let (_, next) = waiting.next().await;
        let next = next.lease.expect("the next is told");
        assert!(begun.elapsed() < Duration::from_secs(10));
        are_waiting(&[&pair.near, &pair.other], 3).await;
        refused(&giver, "k", &held).await;
        put(&pair.other("n"), "k", "value", &next)
            .await
            .expect("in time");
        waiting.all_get("value").await;
        giver.invalidate("k").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_bounded_and_who_goes_away_leaves_nothing() {
    // Redis may take its time below.
    let patient = format!("command_timeout = \"20s\"\n{CONFIG}");
    let mut pair = Pair::start(&patient, CONFIG).await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let held = holder(&other, "k", LONG).await;
    let begun = Instant::now();
    let reply = near.get_with("k", lease(0, LONG)).await;
    assert!(reply.entry.is_none() && reply.lease.is_none());
    assert_eq!(figure(&pair.near, "cache_leases_waited_total").await, 0.0);
    let reply = near.get_with("k", lease(400, LONG)).await;
    assert!(reply.entry.is_none() && reply.lease.is_none());
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(400), "{waited:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(
        figure(&pair.near, "cache_leases_timed_out_total").await,
        1.0
    );
    // The caller's own deadline.
    let mut request = Request::new(request::get("n", "k"));
    request.get_mut().options = Some(lease(LONG, LONG));
    request.set_timeout(Duration::from_millis(200));
    let status = near.stub().get(request).await.expect_err("too long");
    assert!(matches!(
        status.code(),
        Code::DeadlineExceeded | Code::Cancelled
    ));
    // Callers that go away.
    let waiting = Waiting::start((0..50).map(|_| near.clone()), "k", lease(LONG, LONG));
    are_waiting(&[&pair.near], 50).await;
    drop(waiting);
    are_waiting(&[&pair.near], 0).await;
    // One that goes away while Redis gives it the lease: it is given back.
    pair.proxy
        .set_for(Path::Data, Mode::Delay(Duration::from_millis(700)));
    let leaving = Waiting::start([near.clone()], "left", lease(LONG, LONG));
    let given = async || pair.is_in_redis("n", "left");
    eventually("the lease is in Redis", given).await;
    drop(leaving);
    are_waiting(&[&pair.near], 0).await;
    pair.proxy.set(Mode::Pass);
    eventually("it is given back", async || !pair.is_in_redis("n", "left")).await;
    // A daemon that stops.
    let mut waiting = Waiting::start([near.clone()], "k", lease(LONG, LONG));
    are_waiting(&[&pair.near], 1).await;
    pair.near.ask_to_stop();
    let (_, reply) = waiting.next().await;
    assert!(reply.entry.is_none() && reply.lease.is_none());
    assert!(pair.near.wait().status.success());
    put(&other, "k", "value", &held).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wait_sleeps_through_what_it_waits_for() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    for round in 0..150_u32 {
        let key: &'static str = format!("round-{round}").leak();
        let held = holder(&other, key, LONG).await;
        let callers = [near.clone(), other.clone(), near.clone()];
        let waiting = Waiting::start(callers, key, lease(LONG, LONG));
        // Before, during or after the look of those who come.
        for _ in 0..(round % 30) * 20 {
            tokio::task::yield_now().await;
        }
        put(&other, key, "value", &held).await.expect("in time");
        waiting.all_get("value").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_others_a_lease_is_nothing() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let alone = Daemon::start();
    let here = Caller::new(&alone, "n");
    for (giver, readers) in [
        (pair.near("n"), vec![pair.near("n"), pair.other("n")]),
        (here.clone(), vec![here.clone()]),
        (pair.near("alone"), vec![pair.near("alone")]),
    ] {
        let held = holder(&giver, "k", LONG).await;
        for reader in &readers {
            let reply = reader.get("k").await;
            assert!(reply.entry.is_none() && reply.lease.is_none());
            assert!(!reader.exists("k").await.exists);
            let version = WriteOptions {
                condition: Some(Condition::IfVersion(held.token.slice(1..17))),
                ..WriteOptions::default()
            };
            let request = PutRequest {
                options: Some(version),
                ..reader.put_request("other", "v")
            };
            let status = reader.try_put(request).await.expect_err("no entry");
            assert_eq!(status.code(), Code::FailedPrecondition);
        }
        // It is still there, unharmed.
        let reply = readers[0].get_with("k", lease(0, LONG)).await;
        assert!(reply.lease.is_none(), "somebody has it");
        put(&giver, "k", "value", &held).await.expect("in time");
        for reader in &readers {
            assert_eq!(reader.value("k").await.as_deref(), Some(&b"value"[..]));
        }
    }
    // What is invalidated counts without them.
    for caller in [&here, &pair.near("alone")] {
        holder(caller, "count-1", LONG).await;
        caller.put("count-2", "v").await;
        let gone = caller.invalidate_by(Target::Prefix("count-".into())).await;
        assert_eq!(gone.count, 1);
        holder(caller, "count-1", LONG).await;
        assert_eq!(caller.invalidate("count-1").await.count, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_by_itself_elects_among_its_own_callers() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let alone = Daemon::start();
    for (daemon, caller) in [
        (&alone, Caller::new(&alone, "n")),
        (&pair.near, pair.near("alone")),
    ] {
        let callers = (0..100).map(|_| caller.clone());
        let mut waiting = Waiting::start(callers, "k", lease(LONG, 500));
        let (_, first) = waiting.next().await;
        let first = first.lease.expect("one is told");
        // It does not come in time: one more.
        let (_, next) = waiting.next().await;
        let next = next.lease.expect("one more is told");
        are_waiting(&[daemon], 98).await;
        refused(&caller, "k", &first).await;
        put(&caller, "k", "value", &next).await.expect("in time");
        waiting.all_get("value").await;
        refused(&caller, "k", &next).await;
        caller.invalidate("k").await;
        for target in [
            Target::Prefix("k".into()),
            Target::All(true),
            Target::Keys(pannier_proto::v1::KeyList {
                keys: vec!["k".into()],
            }),
        ] {
            let held = holder(&caller, "k", LONG).await;
            caller.invalidate_by(target).await;
            refused(&caller, "k", &held).await;
            assert!(caller.value("k").await.is_none());
        }
        let held = holder(&caller, "k", LONG).await;
        caller.put("k", "other").await;
        refused(&caller, "k", &held).await;
        assert_eq!(caller.value("k").await.as_deref(), Some(&b"other"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_each_daemon_elects_by_itself() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    pair.put_by_other("n", "older", b"older").await;
    // 7: who waits for somebody out of reach.
    holder(&other, "k", LONG).await;
    let callers = (0..20).map(|_| near.clone());
    let mut waiting = Waiting::start(callers, "k", lease(LONG, LONG));
    are_waiting(&[&pair.near], 20).await;
    pair.cut_off().await;
    let (_, first) = waiting.next().await;
    let held = first.lease.expect("one of this daemon is told");
    are_waiting(&[&pair.near], 19).await;
    // 2
    let done = put(&near, "k", "value", &held).await.expect("in time");
    assert_eq!(outcomes(&done), DEFERRED);
    waiting.all_get("value").await;
    assert!(is_stale(&near.get("k").await));
    let held = holder(&near, "older", LONG).await;
    put(&near, "older", "newer", &held).await.expect("in time");
    // 3
    let held = holder(&near, "newer", LONG).await;
    let by = Instant::now() + Duration::from_millis(300);
    let later = async || Instant::now() > by;
    eventually("it is later, however much clocks may differ", later).await;
    other.put("newer", "other").await;
    put(&near, "newer", "near", &held).await.expect("in time");
    assert_eq!(near.value("newer").await.as_deref(), Some(&b"near"[..]));
    // 6
    let invalidated = holder(&near, "invalidated", LONG).await;
    near.invalidate("invalidated").await;
    refused(&near, "invalidated", &invalidated).await;
    // 8
    holder(&near, "later", LONG).await;
    let mut waiting = Waiting::start([near.clone(), near.clone()], "later", lease(LONG, LONG));
    are_waiting(&[&pair.near], 2).await;
    // Where nothing can be kept, nobody is told to compute.
    let remote = pair.near("remote").get_with("k", lease(LONG, LONG)).await;
    assert!(remote.entry.is_none() && remote.lease.is_none());
    pair.come_back().await;
    let (_, first) = waiting.next().await;
    let held = first.lease.expect("one is told, by Redis");
    let reply = other.get_with("later", lease(0, LONG)).await;
    assert!(reply.lease.is_none(), "Redis has given it to another");
    put(&near, "later", "value", &held).await.expect("in time");
    waiting.all_get("value").await;
    // 3: what others put is newer than the lease; 2: what was there is older.
    for caller in [&near, &other] {
        caller.becomes("newer", Some(b"other")).await;
        caller.becomes("older", None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_the_contact_in_which_it_was_given() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    for namespace in ["n", "artifacts"] {
        let (near, other) = (pair.near(namespace), pair.other(namespace));
        // 1
        let attached = holder(&near, "1", LONG).await;
        pair.cut_off().await;
        refused(&near, "1", &attached).await;
        assert!(near.value("1").await.is_none());
        // 4, 5
        let (four, five) = (
            holder(&near, "4", LONG).await,
            holder(&near, "5", LONG).await,
        );
        other.put("4", "old").await;
        other.invalidate("4").await;
        pair.come_back().await;
        refused(&near, "4", &four).await;
        for caller in [&near, &other] {
            caller.becomes("4", None).await;
        }
        pair.cut_off().await;
        refused(&near, "5", &five).await;
        // Nor does it keep the next one waiting.
        let next = holder(&near, "5", LONG).await;
        let done = put(&near, "5", "value", &next).await.expect("in time");
        assert_eq!(outcomes(&done), DEFERRED);
        pair.come_back().await;
        let expected = (namespace == "artifacts").then_some(&b"value"[..]);
        other.becomes("5", expected).await;
        for caller in [&near, &other] {
            caller.becomes("1", None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_the_rules_of_their_namespace() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    // Immutable: written once, with or without a lease.
    let (near, other) = (pair.near("artifacts"), pair.other("artifacts"));
    let held = holder(&near, "k", LONG).await;
    other.put("k", "first").await;
    refused(&near, "k", &held).await;
    let held = holder(&near, "k2", LONG).await;
    put(&near, "k2", "value", &held).await.expect("in time");
    other.becomes("k2", Some(b"value")).await;
    // Without a local tier.
    let (near, other) = (pair.near("remote"), pair.other("remote"));
    let held = holder(&near, "k", LONG).await;
    let waiting = Waiting::start([near.clone(), other.clone()], "k", lease(LONG, LONG));
    put(&near, "k", "value", &held).await.expect("in time");
    waiting.all_get("value").await;
    // Too large for Redis: who asks the same daemon gets it, others are not kept waiting.
    let (near, other) = (pair.near("large"), pair.other("large"));
    let held = holder(&near, "k", LONG).await;
    let waiting = Waiting::start([near.clone()], "k", lease(LONG, LONG));
    let mut elsewhere = Waiting::start([other.clone()], "k", lease(LONG, LONG));
    are_waiting(&[&pair.near, &pair.other], 2).await;
    let value = "large ".repeat(1000).leak();
    put(&near, "k", value, &held).await.expect("in time");
    waiting.all_get(value).await;
    let (_, reply) = elsewhere.next().await;
    assert!(reply.entry.is_none() && reply.lease.is_none());
    refused(&near, "k", &held).await;
    // Raw: a lease would be read as a value.
    let status = pair.near("plain").try_get("k", Some(lease(0, LONG))).await;
    invalid(status, "options.lease: ");
    assert!(!pair.is_in_redis("plain", "k"));
}

#[track_caller]
fn invalid<T>(answer: Result<T, Status>, field: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{field} is taken"));
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().starts_with(field), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_limit_is_refused_by_name() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    for (wait, duration, field) in [
        (
            60_001,
            1000,
            "options.lease.wait_duration: 60.001s, the limit is 60s",
        ),
        (-1, 1000, "options.lease.wait_duration: "),
        (
            0,
            99,
            "options.lease.lease_duration: 99ms, must be 100ms to 600s",
        ),
        (
            0,
            600_001,
            "options.lease.lease_duration: 600.001s, must be",
        ),
    ] {
        invalid(
            caller.try_get("k", Some(lease(wait, duration))).await,
            field,
        );
    }
    let local = ReadOptions {
        local_only: true,
        ..lease(0, 1000)
    };
    invalid(caller.try_get("k", Some(local)).await, "options.lease: ");
    // Absent is by default.
    let default = ReadOptions {
        lease: Some(LeaseRequest::default()),
        ..ReadOptions::default()
    };
    let held = caller.get_with("k", default).await.lease.expect("alone");
    assert!(held.token.len() <= 64);
    let good = put_request(&caller, "k", "value", &held);
    let with = |change: fn(&mut WriteOptions)| {
        let mut request = good.clone();
        change(request.options.as_mut().unwrap());
        request
    };
    for request in [
        with(|options| options.lease_token = Bytes::from_static(b"abc")),
        with(|options| options.condition = Some(Condition::IfAbsent(true))),
        with(|options| options.condition = Some(Condition::IfVersion(vec![0; 16].into()))),
        with(|options| options.mode = WriteMode::Local.into()),
    ] {
        invalid(caller.try_put(request).await, "options.lease_token: ");
    }
    caller.try_put(good).await.expect("unharmed by all that");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_is_told_to_compute_an_entry_anew_before_it_ends() {
    let pair = Pair::start(CONFIG, CONFIG).await;
    let alone = Daemon::start();
    let refresh = |takes| {
        let mut options = lease(0, LONG);
        options.lease.as_mut().unwrap().early_refresh = Some(request::milliseconds(takes));
        options
    };
    let here = Caller::new(&alone, "n");
    for callers in [vec![pair.near("n"), pair.other("n")], vec![here]] {
        let first = &callers[0];
        first.put_for("k", "old", 100_000).await;
        for caller in &callers {
            caller.becomes("k", Some(b"old")).await;
            // It takes no time, so there is no hurry.
            let reply = caller.get_with("k", refresh(0)).await;
            assert!(reply.entry.is_some() && reply.lease.is_none());
        }
        // It takes longer than the entry has left: most draws say so.
        let mut told = Vec::new();
        for caller in callers.iter().cycle().take(40) {
            let reply = caller.get_with("k", refresh(600_000)).await;
            assert_eq!(
                value(&reply).as_deref(),
                Some(&b"old"[..]),
                "it is still good"
            );
            told.extend(reply.lease);
        }
        assert_eq!(told.len(), 1, "one is told, whichever daemon it asks");
        put(first, "k", "new", &told[0]).await.expect("in time");
        for caller in &callers {
            caller.becomes("k", Some(b"new")).await;
        }
        refused(first, "k", &told[0]).await;
        // Overtaken by an invalidation, by another value.
        for how in ["invalidated", "put"] {
            first.put_for("k", "old", 100_000).await;
            let mut held = None;
            while held.is_none() {
                let reply = first.get_with("k", refresh(600_000)).await;
                assert!(reply.entry.is_some());
                held = reply.lease;
            }
            let last = callers.last().unwrap();
            match how {
                "put" => drop(last.put("k", "other").await),
                _ => drop(last.invalidate("k").await),
            }
            refused(first, "k", &held.unwrap()).await;
            let there = (how == "put").then_some(&b"other"[..]);
            for caller in &callers {
                caller.becomes("k", there).await;
            }
        }
    }
    let mut short = refresh(600_000);
    short.lease.as_mut().unwrap().lease_duration = Some(request::milliseconds(100));
    let near = pair.near("n");
    near.put_for("late", "old", 100_000).await;
    let mut held = None;
    eventually("one is told", async || {
        held = near.get_with("late", short.clone()).await.lease;
        held.is_some()
    })
    .await;
    // The next is told when its time is over.
    let again = async || near.get_with("late", short.clone()).await.lease.is_some();
    eventually("one more is told", again).await;
    refused(&near, "late", &held.unwrap()).await;
    let long = near.try_get("k", Some(refresh(600_001))).await;
    invalid(long, "options.lease.early_refresh: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_computes_once_for_all() {
    let redis = Redis::start();
    let daemons = fleet(&redis, 2).await;
    let computed = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for index in 0..60 {
        let client = daemons[index % 2].client();
        let computed = Arc::clone(&computed);
        tasks.spawn(async move {
            let lease = LeaseOptions::new().wait(Duration::from_secs(25));
            let compute = async || {
                computed.fetch_add(1, Ordering::SeqCst);
                // So that most come meanwhile.
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, io::Error>("value".into())
            };
            let options = PutOptions::new();
            let got = client.get_or_compute("n", "k", lease, options, compute);
            got.await
        });
    }
    for value in tasks.join_all().await {
        assert_eq!(value.expect("computed or got"), "value");
    }
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    // Who cannot compute gives the lease back.
    let (client, lease) = (daemons[0].client(), LeaseOptions::new());
    let fail = async || Err(io::Error::other("no"));
    let failed = client.get_or_compute("n", "failed", lease.clone(), PutOptions::new(), fail);
    assert!(matches!(failed.await, Err(ComputeError::Compute(_))));
    holder(&Caller::new(&daemons[1], "n"), "failed", 1000).await;
    // Without a daemon everybody computes.
    let nobody = Client::connect("127.0.0.1:1").expect("an address");
    let own = async || Ok::<_, io::Error>("own".into());
    let value = nobody.get_or_compute("n", "k", lease, PutOptions::new(), own);
    assert_eq!(value.await.expect("fail-open"), "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_part() {
    let daemon = Daemon::start();
    let get = ["-n", "n", "get", "k", "--lease", "20s"];
    let run = |arguments: &[&str]| pannier(daemon.grpc(), arguments);
    let miss = run(&get);
    assert_eq!(miss.status.code(), Some(1));
    let told = stderr(&miss);
    let token = told.split("--lease-token ").nth(1).expect("is told");
    let token = token.split_whitespace().next().expect("hex");
    // Somebody is at it.
    let held = run(&[&get[..], &["--wait", "100ms"]].concat());
    assert_eq!(held.status.code(), Some(1));
    assert!(!stderr(&held).contains("--lease-token"));
    let put = [
        "-n",
        "n",
        "put",
        "k",
        "--value",
        "v",
        "--lease-token",
        token,
    ];
    assert!(run(&put).status.success());
    assert_eq!(stdout(&run(&get)), "v");
    let late = run(&put);
    assert_eq!(late.status.code(), Some(4), "{}", stderr(&late));
}
