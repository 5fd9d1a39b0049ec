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
//!     batch       many GETs sent - Redis answers all, held - own change, held - all arrive: the
//!                 change is acknowledged long before its reader has come to the old answer
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
    Mode, Pair, Path,
    caller::{is_stale, value},
    eventually,
    load::{Count, noise},
    request, shared,
};
use tokio::task::JoinSet;

/// More than the pushes of one change and the answers to two beats.
const BEATS_BYTES: u64 = 300;

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

async fn start() -> Pair {
    Pair::start("command_timeout = \"25s\"", "").await
}

/// Changes the key and returns what is to be read from then on, when the daemon behind the
/// proxy has been told.
async fn change_it(pair: &Pair, change: Change, key: &str) -> Option<&'static [u8]> {
    let before = pair.proxy.reply_bytes(Path::Tracking);
    let new = match change {
        Change::Delete => {
            let reply = pair.redis.command(&["DEL", &shared::key("n", key)]);
            assert_eq!(reply.integer(), 1, "{key} was there");
            None
        }
        Change::Flush => {
            pair.redis.command(&["FLUSHALL"]);
            None
        }
        Change::Invalidate => {
            let gone = pair.other("n").invalidate(key).await;
            assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
            None
        }
        Change::Put => {
            let put = pair.other("n").put(key, "new").await;
            assert_eq!(put.shared_outcome(), TierOutcome::Applied);
            Some(&b"new"[..])
        }
    };
    // The answers to beats follow the push on the same connection.
    eventually("the push has gone through", async || {
        pair.proxy.reply_bytes(Path::Tracking) > before + BEATS_BYTES
    })
    .await;
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_its_way_is_not_for_who_comes_after_an_own_change() {
    const BATCH: usize = 64;
    // Taken on the thread of the request, one after the other.
    const VALUE_BYTES: usize = 15_000;
    let near = "command_timeout = \"25s\"\nlease = \"30s\"";
    let pair = Pair::start(near, "").await;
    for round in 0..8 {
        let keys: Vec<_> = (0..BATCH).map(|index| format!("{round}-{index}")).collect();
        let last = keys[BATCH - 1].clone();
        // Only the acknowledgement tells of the change.
        pair.proxy.set_for(Path::Tracking, Mode::HoldReplies);
        let items = keys.iter().map(|key| (key.clone(), noise(1, VALUE_BYTES)));
        let put = request::put_many("n", items);
        pair.other("n").stub().put_many(put).await.unwrap();
        // All answers come at once, and their reader is long in taking them.
        pair.redis.forget_calls();
        pair.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut reading = JoinSet::new();
        let mut stub = pair.near("n").stub();
        reading.spawn(async move { stub.get_many(request::get_many("n", keys)).await });
        eventually("the batch was asked for", async || {
            pair.redis.reads() >= BATCH as u64
        })
        .await;
        let mut changing = JoinSet::new();
        let (caller, key) = (pair.near("n"), last.clone());
        let puts = round % 2 == 0;
        changing.spawn(async move {
            match puts {
                true => drop(caller.put(&key, "new").await),
                false => drop(caller.invalidate(&key).await),
            }
        });
        eventually("it was changed", async || {
            let changed = ["set", "del", "unlink"].map(|command| pair.redis.calls(command));
            changed.iter().any(|calls| *calls > 0)
        })
        .await;
        pair.proxy.set_for(Path::Data, Mode::Pass);
        changing.join_all().await;
        let expected = puts.then_some(&b"new"[..]);
        for _ in 0..20 {
            let got = pair.near("n").value(&last).await;
            assert!(
                got.as_deref() == expected,
                "round {round}: the old value after the own change"
            );
        }
        reading.join_all().await.remove(0).unwrap();
        let got = pair.near("n").value(&last).await;
        assert!(
            got.as_deref() == expected,
            "round {round}: the old value came back"
        );
        pair.proxy.set(Mode::Pass);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_in_flight_loses() {
    let pair = start().await;
    for (round, change) in CHANGES.into_iter().cycle().take(8).enumerate() {
        let (key, size) = (format!("k{round}"), [100, 300 << 10][round / 4]);
        let old = noise(1, size);
        pair.other("n").put(&key, old.clone()).await;
        pair.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut filling = JoinSet::new();
        let (caller, name) = (pair.near("n"), key.clone());
        filling.spawn(async move { caller.value(&name).await });
        pair.proxy.holds(Path::Data).await;
        let new = change_it(&pair, change, &key).await;
        pair.proxy.set(Mode::Pass);
        filling.join_all().await;
        for _ in 0..3 {
            let reply = pair.near("n").get(&key).await;
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
    let pair = start().await;
    for (round, change) in CHANGES.into_iter().cycle().take(8).enumerate() {
        let (key, size) = (format!("k{round}"), [100, 300 << 10][round / 4]);
        pair.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut writing = JoinSet::new();
        let (caller, name) = (pair.near("n"), key.clone());
        writing.spawn(async move { caller.put(&name, noise(2, size)).await });
        pair.proxy.holds(Path::Data).await;
        let new = change_it(&pair, change, &key).await;
        pair.proxy.set(Mode::Pass);
        let put = writing.join_all().await.remove(0);
        assert_eq!(put.shared_outcome(), TierOutcome::Applied, "{change:?}");
        let reply = pair.near("n").get(&key).await;
        assert!(!is_stale(&reply), "{change:?}");
        assert!(
            value(&reply).as_deref() == new,
            "{change:?}: the older write is served"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_reaches_redis_later_is_the_newer_one() {
    let pair = start().await;
    for (round, change) in CHANGES.into_iter().enumerate() {
        let key = format!("k{round}");
        pair.other("n").put(&key, "old").await;
        pair.near("n").has_local(&key, b"old").await;
        pair.proxy.set_for(Path::Data, Mode::HoldCommands);
        let mut writing = JoinSet::new();
        let (caller, name) = (pair.near("n"), key.clone());
        writing.spawn(async move { caller.put(&name, "late").await });
        pair.proxy.holds(Path::Data).await;
        change_it(&pair, change, &key).await;
        pair.proxy.set(Mode::Pass);
        let put = writing.join_all().await.remove(0);
        assert_eq!(put.shared_outcome(), TierOutcome::Applied, "{change:?}");
        assert_eq!(
            pair.near("n").value(&key).await.unwrap(),
            "late",
            "{change:?}"
        );
        pair.other("n").becomes(&key, Some(b"late")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_whose_caller_has_gone_loses_too() {
    let pair = start().await;
    for (round, change) in CHANGES.into_iter().enumerate() {
        let key = format!("k{round}");
        pair.other("n").put(&key, "old").await;
        pair.proxy.set_for(Path::Data, Mode::HoldReplies);
        let mut filling = JoinSet::new();
        let (caller, name) = (pair.near("n"), key.clone());
        filling.spawn(async move { caller.value(&name).await });
        pair.proxy.holds(Path::Data).await;
        filling.shutdown().await;
        let new = change_it(&pair, change, &key).await;
        pair.proxy.set(Mode::Pass);
        for _ in 0..3 {
            assert!(
                pair.near("n").value(&key).await.as_deref() == new,
                "{change:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_in_flight_ends_with_the_key_gone() {
    let pair = start().await;
    for mode in [Mode::HoldReplies, Mode::HoldCommands] {
        pair.other("n").put("k", "old").await;
        pair.near("n").has_local("k", b"old").await;
        pair.proxy.set_for(Path::Data, mode);
        let mut running = JoinSet::new();
        let caller = pair.near("n");
        running.spawn(async move { caller.invalidate("k").await });
        pair.proxy.holds(Path::Data).await;
        // A reader that comes in between, and fills with what it may still find.
        let caller = pair.near("n");
        let mut reading = JoinSet::new();
        reading.spawn(async move { caller.value("k").await });
        pair.proxy.set(Mode::Pass);
        running.join_all().await;
        assert_eq!(pair.near("n").value("k").await, None, "{mode:?}");
        reading.join_all().await;
        assert_eq!(pair.near("n").value("k").await, None, "{mode:?}");
    }
}

fn counted(count: u64, size: usize) -> Bytes {
    Bytes::from([&count.to_le_bytes()[..], &vec![7; size][..]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_goes_back_in_time() {
    const WRITES: u64 = 1500;
    let pair = start().await;
    let acknowledged = Count::default();
    let mut writing = JoinSet::new();
    let (writer, done) = (pair.other("n"), acknowledged.clone());
    writing.spawn(async move {
        for count in 1..=WRITES {
            let size = if count % 20 == 0 { 50_000 } else { 50 };
            writer.put("k", counted(count, size)).await;
            done.one();
        }
    });
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (reader, acknowledged) = (pair.near("n"), acknowledged.clone());
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
    pair.near("n")
        .becomes("k", Some(&counted(WRITES, 50_000)))
        .await;
}
