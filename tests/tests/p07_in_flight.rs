//! P7: an invalidation that arrives while a fill or a write of that key is in flight wins over it:
//! old data never comes back.
//!
//! The proxy before the reading daemon holds the reply of Redis (or the command) for as long as it
//! takes; the path of the invalidations is open. Proven for these interleavings:
//!
//!     fill        GET sent - Redis answers old, held - key changed, push processed - reply arrives
//!     write       SET sent - Redis takes it, reply held - key changed, push processed - reply
//!     late write  SET sent, held - key changed - SET arrives: it is the newest, everywhere
//!     abandoned   as fill, but the caller has gone before the reply arrives
//!     storm       one writer, readers that never stop: a reader never goes back in time
//!
//! where "changed" is DEL and SET by a client of Redis, invalidation and put by the other daemon,
//! FLUSHALL. What the call in flight itself returns is free: it began before the change.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use bytes::Bytes;
use pannier_proto::v1::TierOutcome;
use pannier_tests::{
    Caller, Daemon, Mode, Path, Proxy, Redis,
    caller::{is_stale, value},
    eventually,
    load::{Count, noise},
    shared,
};
use tokio::task::JoinSet;

/// More than the pushes of one change and the answers to two beats.
const BEATS_BYTES: u64 = 300;

struct Stage {
    redis: Redis,
    proxy: Proxy,
    /// Behind the proxy.
    near: Daemon,
    /// Beside it.
    other: Daemon,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Delete,
    Flush,
    Invalidate,
    Put,
}

const CHANGES: [Change; 4] = [
    Change::Delete,
    Change::Flush,
    Change::Invalidate,
    Change::Put,
];

impl Stage {
    async fn start() -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.address());
        let near = shared::start(&proxy.url(), "command_timeout = \"25s\"").await;
        let other = shared::start(&redis.url(), "").await;
        Self {
            redis,
            proxy,
            near,
            other,
        }
    }

    fn near(&self) -> Caller {
        Caller::new(&self.near, "n")
    }

    fn other(&self) -> Caller {
        Caller::new(&self.other, "n")
    }

    /// Changes the key and returns what is to be read from then on, when the daemon behind the
    /// proxy has been told.
    async fn change(&self, change: Change, key: &str) -> Option<&'static [u8]> {
        let before = self.proxy.reply_bytes(Path::Tracking);
        let new = match change {
            Change::Delete => {
                let reply = self.redis.command(&["DEL", &shared::key("n", key)]);
                assert_eq!(reply.integer(), 1, "{key} was there");
                None
            }
            Change::Flush => {
                self.redis.command(&["FLUSHALL"]);
                None
            }
            Change::Invalidate => {
                let gone = self.other().invalidate(key).await;
                assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
                None
            }
            Change::Put => {
                let put = self.other().put(key, "new").await;
                assert_eq!(put.shared_outcome(), TierOutcome::Applied);
                Some(&b"new"[..])
            }
        };
        // The answers to beats follow the push on the same connection.
        eventually("the push has gone through", async || {
            self.proxy.reply_bytes(Path::Tracking) > before + BEATS_BYTES
        })
        .await;
        new
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_in_flight_loses() {
    let stage = Stage::start().await;
    for (round, change) in CHANGES.into_iter().cycle().take(8).enumerate() {
        let (key, size) = (format!("k{round}"), [100, 300 << 10][round / 4]);
        let old = noise(1, size);
        stage.other().put(&key, old.clone()).await;
        stage.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut filling = JoinSet::new();
        let (caller, name) = (stage.near(), key.clone());
        filling.spawn(async move { caller.value(&name).await });
        stage.proxy.holds(Path::Data).await;
        let new = stage.change(change, &key).await;
        stage.proxy.set(Mode::Pass);
        filling.join_all().await;
        for _ in 0..3 {
            let reply = stage.near().get(&key).await;
            assert!(!is_stale(&reply), "{change:?}");
            assert!(
                value(&reply).as_deref() == new,
                "{change:?}: old data came back"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_flight_loses_to_what_came_after_it() {
    let stage = Stage::start().await;
    for (round, change) in CHANGES.into_iter().cycle().take(8).enumerate() {
        let (key, size) = (format!("k{round}"), [100, 300 << 10][round / 4]);
        stage.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut writing = JoinSet::new();
        let (caller, name) = (stage.near(), key.clone());
        writing.spawn(async move { caller.put(&name, noise(2, size)).await });
        stage.proxy.holds(Path::Data).await;
        let new = stage.change(change, &key).await;
        stage.proxy.set(Mode::Pass);
        let put = writing.join_all().await.remove(0);
        assert_eq!(put.shared_outcome(), TierOutcome::Applied, "{change:?}");
        let reply = stage.near().get(&key).await;
        assert!(!is_stale(&reply), "{change:?}");
        assert!(
            value(&reply).as_deref() == new,
            "{change:?}: the older write is served"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_reaches_redis_later_is_the_newer_one() {
    let stage = Stage::start().await;
    for (round, change) in CHANGES.into_iter().enumerate() {
        let key = format!("k{round}");
        stage.other().put(&key, "old").await;
        stage.near().has_local(&key, b"old").await;
        stage.proxy.set_for(Path::Data, Mode::HoldCommands);
        let mut writing = JoinSet::new();
        let (caller, name) = (stage.near(), key.clone());
        writing.spawn(async move { caller.put(&name, "late").await });
        stage.proxy.holds(Path::Data).await;
        stage.change(change, &key).await;
        stage.proxy.set(Mode::Pass);
        let put = writing.join_all().await.remove(0);
        assert_eq!(put.shared_outcome(), TierOutcome::Applied, "{change:?}");
        assert_eq!(
            stage.near().value(&key).await.unwrap(),
            "late",
            "{change:?}"
        );
        stage.other().becomes(&key, Some(b"late")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_whose_caller_has_gone_loses_too() {
    let stage = Stage::start().await;
    for (round, change) in CHANGES.into_iter().enumerate() {
        let key = format!("k{round}");
        stage.other().put(&key, "old").await;
        stage.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut filling = JoinSet::new();
        let (caller, name) = (stage.near(), key.clone());
        filling.spawn(async move { caller.value(&name).await });
        stage.proxy.holds(Path::Data).await;
        filling.shutdown().await;
        let new = stage.change(change, &key).await;
        stage.proxy.set(Mode::Pass);
        for _ in 0..3 {
            assert!(
                stage.near().value(&key).await.as_deref() == new,
                "{change:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_in_flight_ends_with_the_key_gone() {
    let stage = Stage::start().await;
    for mode in [Mode::HoldReplies, Mode::HoldCommands] {
        stage.other().put("k", "old").await;
        stage.near().has_local("k", b"old").await;
        stage.proxy.set_for(Path::Data, mode);
        let mut running = JoinSet::new();
        let caller = stage.near();
        running.spawn(async move { caller.invalidate("k").await });
        stage.proxy.holds(Path::Data).await;
        // A reader that comes in between, and fills with what it may still find.
        let caller = stage.near();
        let mut reading = JoinSet::new();
        reading.spawn(async move { caller.value("k").await });
        stage.proxy.set(Mode::Pass);
        running.join_all().await;
        assert_eq!(stage.near().value("k").await, None, "{mode:?}");
        reading.join_all().await;
        assert_eq!(stage.near().value("k").await, None, "{mode:?}");
    }
}

fn counted(count: u64, size: usize) -> Bytes {
    Bytes::from([&count.to_le_bytes()[..], &vec![7; size][..]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_goes_back_in_time() {
    const WRITES: u64 = 1500;
    let stage = Stage::start().await;
    let acknowledged = Count::default();
    let mut writing = JoinSet::new();
    let (writer, done) = (stage.other(), acknowledged.clone());
    writing.spawn(async move {
        for count in 1..=WRITES {
            let size = if count % 20 == 0 { 50_000 } else { 50 };
            writer.put("k", counted(count, size)).await;
            done.one();
        }
    });
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (reader, acknowledged) = (stage.near(), acknowledged.clone());
        readers.spawn(async move {
            let mut last = 0;
            while acknowledged.get() < WRITES {
                let was_there = acknowledged.get() > 0;
                let reply = reader.get("k").await;
                assert!(!is_stale(&reply));
                let Some(got) = value(&reply) else {
                    assert!(!was_there, "absent after it was put");
                    continue;
                };
                let count = u64::from_le_bytes(got[..8].try_into().unwrap());
                assert!(count >= last, "{count} after {last}");
                last = count;
            }
        });
    }
    writing.join_all().await;
    readers.join_all().await;
    stage
        .near()
        .becomes("k", Some(&counted(WRITES, 50_000)))
        .await;
}
