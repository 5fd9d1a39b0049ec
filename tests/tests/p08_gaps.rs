//! P8: a daemon that lost contact, or was down, never serves an entry as fresh that changed
//! meanwhile; and it does not flush: what has not changed is verified by its stamp, not moved.
//!
//! Proven for these gaps: the daemon is killed and started again (attached from the start, and with
//! Redis away at first), its tracking connection is killed in Redis, its tracking path is cut, all
//! its connections are reset, Redis is killed and started again with its data and without; changed
//! meanwhile by a put, an invalidation, DEL, FLUSHALL. From the change on every answer is the new
//! state or marked stale, without an exception while contact is being made; where the daemon has
//! to notice the gap by itself it has the lease for that (P9). Verifying an entry of
//! 1 MiB moves less than 1 KiB.
//!
//! Interleaving: the gap begins, the change is acknowledged, contact returns; reads never stop.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_proto::v1::{SharedState, Tier};
use pannier_tests::{
    Data, Mode, Pair, Path, Redis,
    caller::{is_stale, state, tier, value},
    eventually,
    load::{Count, noise},
    shared,
};
use tokio::task::JoinSet;

/// A connection that was reset is noticed at once, but not before it is.
const LEASE: Duration = Duration::from_secs(1);
const MEBIBYTE: usize = 1 << 20;

async fn start() -> Pair {
    Pair::start_on(Redis::builder().durable().start(), "", "").await
}

/// Makes each of the four changes on a key of its own that holds `old`.
async fn change_all(pair: &Pair) {
    pair.put_by_other("n", "put", b"new").await;
    pair.other("n").invalidate("invalidated").await;
    pair.redis.command(&["DEL", &shared::key("n", "deleted")]);
    pair.redis
        .command(&["SET", &shared::key("n", "spoilt"), "nonsense"]);
}

async fn hold_all(pair: &Pair) {
    for key in CHANGED {
        pair.hold("n", key, b"old").await;
    }
    pair.hold("n", "same", b"old").await;
}

/// Reads everything until the daemon is attached and has the new state, and checks each answer
/// after the time within which it may not have noticed.
async fn check_all(pair: &Pair, grace: Duration) {
    let near = pair.near("n");
    let begun = Instant::now();
    eventually(
        "the daemon is attached and knows the new state",
        async || {
            let mut settled = true;
            for key in CHANGED {
                let reply = near.get(key).await;
                let got = value(&reply);
                assert!(
                    begun.elapsed() < grace || is_stale(&reply) || got.as_deref() != Some(b"old"),
                    "{key}: the old value is served as fresh, {:?}",
                    reply.provenance
                );
                let expected = (key == "put").then_some(&b"new"[..]);
                settled &= got.as_deref() == expected && state(&reply) == SharedState::Attached;
            }
            settled
        },
    )
    .await;
    let same = near.get("same").await;
    assert_eq!(
        (value(&same).unwrap(), is_stale(&same)),
        ("old".into(), false)
    );
}

const CHANGED: [&str; 4] = ["put", "invalidated", "deleted", "spoilt"];

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_a_gap() {
    let mut pair = start().await;
    hold_all(&pair).await;
    pair.near.kill();
    change_all(&pair).await;
    pair.near = pair.near.how().start();
    check_all(&pair, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_redis_is_a_gap_that_lasts() {
    let mut pair = start().await;
    hold_all(&pair).await;
    pair.near.kill();
    change_all(&pair).await;
    pair.proxy.set(Mode::Cut);
    pair.near = pair.near.how().start();
    for key in CHANGED {
        let reply = pair.near("n").get(key).await;
        assert!(
            value(&reply).is_none() || is_stale(&reply),
            "{key} is served as fresh"
        );
    }
    pair.proxy.set(Mode::Pass);
    check_all(&pair, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tracking_connection_is_a_gap() {
    let pair = start().await;
    for _ in 0..5 {
        hold_all(&pair).await;
        assert!(pair.redis.kill_trackers() >= 2);
        change_all(&pair).await;
        check_all(&pair, LEASE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_one_path_or_both_is_a_gap() {
    let pair = start().await;
    for path in [Path::Tracking, Path::Data, Path::All] {
        hold_all(&pair).await;
        pair.proxy.set_for(path, Mode::Cut);
        shared::detached(&pair.near).await;
        change_all(&pair).await;
        pair.proxy.set(Mode::Pass);
        check_all(&pair, Duration::ZERO).await;
    }
    hold_all(&pair).await;
    pair.proxy.sever(Path::All);
    change_all(&pair).await;
    check_all(&pair, LEASE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_redis_is_a_gap() {
    let mut pair = start().await;
    hold_all(&pair).await;
    pair.cut_off().await;
    change_all(&pair).await;
    pair.redis.restart(Data::Kept);
    pair.proxy.set(Mode::Pass);
    check_all(&pair, Duration::ZERO).await;

    hold_all(&pair).await;
    pair.redis.restart(Data::Lost);
    for key in CHANGED.into_iter().chain(["same"]) {
        pair.near("n").becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_during_a_gap_is_seen() {
    let pair = start().await;
    hold_all(&pair).await;
    pair.cut_off().await;
    pair.redis.command(&["FLUSHALL"]);
    pair.come_back().await;
    for key in CHANGED {
        let reply = pair.near("n").get(key).await;
        assert!(
            value(&reply).is_none() || is_stale(&reply),
            "{key} is served as fresh"
        );
        pair.near("n").becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_verified_without_moving_it() {
    let mut pair = start().await;
    pair.hold("n", "large", &noise(8, MEBIBYTE)).await;
    pair.hold("n", "small", b"v").await;
    for round in ["reconnected", "restarted"] {
        match round {
            "restarted" => pair.restart_near(),
            _ => pair.proxy.sever(Path::All),
        }
        shared::attached(&pair.near).await;
        for (key, expected) in [("large", noise(8, MEBIBYTE)), ("small", "v".into())] {
            let (moved, sent) = (pair.proxy.reply_bytes(Path::Data), pair.redis.reads());
            let reply = pair.near("n").get(key).await;
            assert!(value(&reply) == Some(expected.clone()), "{round}: {key}");
            assert_eq!(
                (tier(&reply), is_stale(&reply)),
                (Tier::Local, false),
                "{round}: {key}"
            );
            let moved = pair.proxy.reply_bytes(Path::Data) - moved;
            assert!(
                moved < 1024,
                "{round}: {moved} bytes were moved to verify {key}"
            );
            assert_eq!(pair.redis.reads(), sent, "{round}: {key} was read again");
            // Verified once, it is as good as before.
            pair.near("n").has_local(key, &expected).await;
            pair.redis.forget_calls();
            pair.near("n").get(key).await;
            assert_eq!(
                pair.redis.calls("getrange"),
                0,
                "{round}: {key} is verified twice"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_storm_of_gaps_takes_a_reader_back_in_time() {
    const WRITES: u64 = 1000;
    let pair = start().await;
    let acknowledged = Count::default();
    let mut writing = JoinSet::new();
    let (writer, done) = (pair.other("n"), acknowledged.clone());
    writing.spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(3));
        for count in 1..=WRITES {
            pace.tick().await;
            writer.put("k", count.to_string()).await;
            done.one();
        }
    });
    let reader = pair.near("n");
    let (mut last, mut gaps, mut reads) = (0, 0, 0_u64);
    while acknowledged.get() < WRITES {
        let reply = reader.get("k").await;
        reads += 1;
        if reads.is_multiple_of(100) {
            pair.proxy
                .sever([Path::Tracking, Path::Data, Path::All][gaps % 3]);
            gaps += 1;
        }
        let Some(got) = value(&reply).filter(|_| !is_stale(&reply)) else {
            continue;
        };
        let count: u64 = String::from_utf8_lossy(&got).parse().unwrap();
        assert!(count >= last, "{count} after {last}, {gaps} gaps");
        last = count;
    }
    writing.join_all().await;
    assert!(gaps > 3, "{gaps} gaps in {reads} reads");
    reader
        .becomes("k", Some(WRITES.to_string().as_bytes()))
        .await;
}
