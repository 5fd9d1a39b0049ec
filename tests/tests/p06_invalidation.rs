//! P6: once an invalidation or a put has returned, every attached daemon stops serving the old
//! value, also when the writer was not Pannier at all.
//!
//! Proven, with a copy held at home by the reading daemon each time: a put or an invalidation (by
//! key, prefix, pattern, all) through the other daemon; SET, DEL, UNLINK, RENAME, EXPIRE, PERSIST,
//! FLUSHDB, FLUSHALL and eviction by a client of Redis. The old value is gone, without a mark of
//! staleness, within the lease at the very most; how long it took is printed. A daemon measures it
//! as well, on its own writes: when Redis's word comes 200 ms late, its figure says so.
//!
//! Interleavings: the push may arrive before the writer's acknowledgement or after it, so the
//! reader asks from the acknowledgement on, as fast as it can.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use pannier_proto::v1::{TierOutcome, WriteMode, invalidate_request::Target};
use pannier_tests::{
    Caller, Daemon, Mode, Path, Proxy, Redis,
    caller::{is_stale, value},
    eventually,
    load::noise,
    shared,
};

const LEASE: Duration = Duration::from_secs(1);

struct Two {
    redis: Redis,
    daemons: (Daemon, Daemon),
}

impl Two {
    async fn start() -> Self {
        Self::start_on(Redis::start()).await
    }

    async fn start_on(redis: Redis) -> Self {
        let url = redis.url();
        let daemons = tokio::join!(shared::start(&url, ""), shared::start(&url, ""));
        Self { redis, daemons }
    }

    fn writer(&self) -> Caller {
        Caller::new(&self.daemons.0, "n")
    }

    fn reader(&self) -> Caller {
        Caller::new(&self.daemons.1, "n")
    }

    /// Puts a value by the one and makes the other hold it at home.
    async fn hold(&self, key: &str, value: &[u8]) {
        self.writer().put(key, value.to_vec()).await;
        self.reader().has_local(key, value).await;
    }
}

/// Reads until the old value is no longer served fresh; how long that took.
async fn until_gone(caller: &Caller, key: &str, old: &[u8]) -> (Duration, Option<Bytes>) {
    let begun = Instant::now();
    loop {
        let reply = caller.get(key).await;
        assert!(!is_stale(&reply), "nothing is wrong with Redis");
        let got = value(&reply);
        if got.as_deref() != Some(old) {
            return (begun.elapsed(), got);
        }
        assert!(
            begun.elapsed() < LEASE,
            "{key}: the old value is still served"
        );
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_of_one_daemon_reaches_the_other() {
    let two = Two::start().await;
    let (writer, reader) = (two.writer(), two.reader());
    let mut times = Vec::new();
    for round in 0..200 {
        let old = noise(round, if round % 10 == 0 { 100_000 } else { 100 });
        two.hold("k", &old).await;
        let gone = writer.invalidate("k").await;
        assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
        let (time, got) = until_gone(&reader, "k", &old).await;
        assert_eq!(got, None, "round {round}");
        times.push(time);
    }
    report("invalidated elsewhere", times);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_one_daemon_reaches_the_other() {
    let two = Two::start().await;
    let (writer, reader) = (two.writer(), two.reader());
    let mut times = Vec::new();
    let mut old = noise(0, 100);
    two.hold("k", &old).await;
    for round in 1..200 {
        let new = noise(round, if round % 10 == 0 { 100_000 } else { 100 });
        let put = writer.put("k", new.clone()).await;
        assert_eq!(put.shared_outcome(), TierOutcome::Applied);
        let (time, got) = until_gone(&reader, "k", &old).await;
        assert!(
            got == Some(new.clone()),
            "round {round}: neither old nor new"
        );
        times.push(time);
        reader.has_local("k", &new).await;
        old = new;
    }
    report("put elsewhere", times);
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_of_one_daemon_reach_the_other() {
    let two = Two::start().await;
    let (writer, reader) = (two.writer(), two.reader());
    for target in [
        Target::Prefix("a".into()),
        Target::Pattern("a?".into()),
        Target::All(true),
    ] {
        two.hold("ab", b"old").await;
        two.hold("b", b"other").await;
        let all = target == Target::All(true);
        writer.invalidate_by(target).await;
        assert_eq!(until_gone(&reader, "ab", b"old").await.1, None);
        let other = (!all).then_some(&b"other"[..]);
        reader.becomes("b", other).await;
        writer.becomes("b", other).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_keeps_to_itself_is_invalidated_by_others_too() {
    let two = Two::start().await;
    let (writer, reader) = (two.writer(), two.reader());
    for target in [
        Target::Keys(pannier_proto::v1::KeyList {
            keys: vec!["own".into()],
        }),
        Target::Prefix("o".into()),
        Target::Pattern("*n".into()),
        Target::All(true),
    ] {
        reader.put_mode("own", "v", WriteMode::Local).await;
        assert_eq!(reader.value("own").await.unwrap(), "v");
        writer.invalidate_by(target).await;
        reader.becomes("own", None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_know_nothing_of_pannier_are_heard() {
    let two = Two::start().await;
    let key = shared::key("n", "k");
    let commands: [&[&str]; 8] = [
        &["DEL", &key],
        &["UNLINK", &key],
        &["SET", &key, "no record at all"],
        &["SET", &key, ""],
        &["RENAME", &key, "elsewhere"],
        &["PEXPIRE", &key, "1"],
        &["FLUSHDB"],
        &["FLUSHALL"],
    ];
    let mut times = Vec::new();
    for round in 0..5 {
        for command in commands {
            let old = noise(round, 100);
            two.hold("k", &old).await;
            let reply = two.redis.command(command);
            assert!(!reply.is_error(), "{command:?}: {reply:?}");
            let (time, got) = until_gone(&two.reader(), "k", &old).await;
            assert_eq!(got, None, "{command:?}");
            until_gone(&two.writer(), "k", &old).await;
            times.push(time);
        }
    }
    report("changed by a client of Redis", times);
    // What was no record is not only a miss: it is taken away.
    two.redis.command(&["SET", &key, "no record at all"]);
    two.reader().becomes("k", None).await;
    eventually("what is no record is removed", async || {
        two.redis.command(&["EXISTS", &key]).integer() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_life_in_redis_is_a_shorter_life_everywhere() {
    let two = Two::start().await;
    let key = shared::key("n", "k");
    two.hold("k", b"v").await;
    assert_eq!(two.redis.command(&["PEXPIRE", &key, "700"]).integer(), 1);
    let begun = Instant::now();
    for caller in [two.reader(), two.writer()] {
        caller.becomes("k", None).await;
    }
    let (least, most) = (Duration::from_millis(650), Duration::from_millis(1900));
    assert!(
        (least..most).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_evicts_is_no_longer_served() {
    let redis = Redis::builder().memory("8mb", "allkeys-lru").start();
    let two = Two::start_on(redis).await;
    let names: Vec<_> = (0..20).map(|index| format!("k{index}")).collect();
    for name in &names {
        two.hold(name, b"v").await;
    }
    let filling = "x".repeat(100_000);
    for index in 0..200 {
        let reply = two
            .redis
            .command(&["SET", &format!("filling{index}"), &filling]);
        assert!(reply.is_ok(), "{reply:?}");
    }
    let evicted: Vec<_> = names
        .iter()
        .filter(|name| {
            let reply = two.redis.command(&["EXISTS", &shared::key("n", name)]);
            reply.integer() == 0
        })
        .collect();
    assert!(!evicted.is_empty(), "Redis evicted nothing");
    for name in evicted {
        assert_eq!(
            until_gone(&two.reader(), name, b"v").await.1,
            None,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_the_word_of_a_change_takes_is_measured() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let daemon = shared::start(&proxy.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    let measured = async || {
        let stats = daemon.stats().await.shared.unwrap();
        stats.coherence_delay.unwrap()
    };
    // Nothing was there: Redis tells of nothing, and nothing is measured.
    caller.invalidate("k").await;
    caller.put("k", "1").await;
    eventually("the word of the put is measured", async || {
        measured().await.count == 1
    })
    .await;
    let late = Duration::from_millis(200);
    proxy.set_for(Path::Tracking, Mode::Delay(late));
    caller.invalidate("k").await;
    eventually("the word of the invalidation is measured", async || {
        measured().await.count == 2
    })
    .await;
    let slowest = Duration::try_from(measured().await.p99.unwrap()).unwrap();
    // An estimate within the bucket from 100 to 250 ms.
    assert!(slowest >= late / 2, "{slowest:?}");
}
