//! P5, a sidecar reads its own writes: what it has acknowledged, its next read sees.
//!
//! Proven, for values written on the request's thread and for those written on a blocking one (and
//! for keys that change between the two): after an acknowledged put, overwrite or invalidation, a
//! read by any connection sees its effect, while others write; a put that its caller abandoned, by
//! going away or by its deadline, is over once a later invalidation is acknowledged: the value does
//! not come back. Later means later on the wire, so these two send their frames themselves: a
//! client that drops a call may still be sending it when it makes the next one. And with Redis:
//! the same while the pushes that tell of the daemon's own changes come long after their
//! acknowledgement, and readers ask Redis for the key all the time.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pannier_proto::v1::{cache_service_client::CacheServiceClient, invalidate_request::Target};
use pannier_tests::{
    Caller, Daemon, Mode, Path, Proxy, Redis,
    load::{Count, noise},
    request, shared,
    wire::{self, Connection},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const SMALL: usize = 100;
const LARGE: usize = 300 << 10;

type Stub = CacheServiceClient<Channel>;

async fn put(stub: &mut Stub, key: &str, value: Bytes) {
    stub.put(request::put("n", key, value))
        .await
        .expect("the put is taken");
}

async fn invalidate(stub: &mut Stub, key: &str) {
    let keys = request::invalidate_keys("n", [key]);
    stub.invalidate(keys)
        .await
        .expect("the invalidation is taken");
}

async fn value_of(stub: &mut Stub, key: &str) -> Option<Bytes> {
    let reply = stub
        .get(request::get("n", key))
        .await
        .expect("a get is answered");
    reply.into_inner().entry.map(|entry| entry.value)
}

/// Puts, overwrites and invalidates one key of its own, each time reading through another
/// connection what must be there.
async fn check_own_key(mut writer: Stub, mut reader: Stub, client: u64, rounds: u64) {
    let mut random = StdRng::seed_from_u64(client);
    let key = format!("own-{client}");
    for round in 0..rounds {
        let size = if random.random_bool(0.3) {
            LARGE
        } else {
            SMALL
        };
        let value = noise(client << 32 | round, size);
        let expected = match random.random_range(0..4) {
            0 => {
                invalidate(&mut writer, &key).await;
                None
            }
            1 => {
                let items = [(key.clone(), value.clone())];
                let reply = writer
                    .put_many(request::put_many("n", items))
                    .await
                    .unwrap();
                assert!(reply.into_inner().results[0].fault.is_none());
                Some(value)
            }
            _ => {
                put(&mut writer, &key, value.clone()).await;
                Some(value)
            }
        };
        let got = value_of(&mut reader, &key).await;
        assert!(
            got == expected,
            "client {client}, round {round}, {size} bytes"
        );
        let exists = reader
            .exists(request::exists("n", &key))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            exists.exists,
            expected.is_some(),
            "client {client}, round {round}"
        );
        let many = reader
            .get_many(request::get_many("n", [&key]))
            .await
            .unwrap()
            .into_inner();
        let many = many.items[0]
            .entry
            .as_ref()
            .map(|entry| entry.value.clone());
        assert!(
            many == expected,
            "client {client}, round {round}, by GetMany"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_what_it_has_written() {
    let daemon = Daemon::start();
    let mut clients = JoinSet::new();
    for client in 0..24 {
        clients.spawn(check_own_key(daemon.stub(), daemon.stub(), client, 40));
    }
    clients.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_an_older_value_than_it_has_seen() {
    let daemon = Daemon::start();
    for size in [SMALL, LARGE] {
        let (mut writer, mut reader) = (daemon.stub(), daemon.stub());
        let value =
            move |count: u64| Bytes::from([&count.to_le_bytes()[..], &vec![7; size][..]].concat());
        put(&mut writer, "k", value(0)).await;
        let mut writing = JoinSet::new();
        writing.spawn(async move {
            for count in 1..=300 {
                put(&mut writer, "k", value(count)).await;
            }
        });
        let mut last = 0;
        while last < 300 {
            let got = value_of(&mut reader, "k")
                .await
                .expect("overwritten, never absent");
            let count = u64::from_le_bytes(got[..8].try_into().unwrap());
            assert!(count >= last, "{count} after {last}");
            assert!(got == value(count), "a torn value");
            last = count;
        }
        writing.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_hammer_a_key_keep_no_old_value_alive() {
    const ROUNDS: u64 = 400;
    let daemon = Daemon::start();
    let done = Count::default();
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (mut stub, done) = (daemon.stub(), done.clone());
        readers.spawn(async move {
            while done.get() < ROUNDS {
                value_of(&mut stub, "k").await;
            }
        });
    }
    let (mut writer, mut reader) = (daemon.stub(), daemon.stub());
    for round in 0..ROUNDS {
        // What the readers have just been given is changed in every way there is.
        let value = noise(round, if round % 10 == 5 { LARGE } else { SMALL });
        put(&mut writer, "k", value.clone()).await;
        let got = value_of(&mut reader, "k").await;
        assert!(got == Some(value), "round {round}: not what was put");
        match round % 4 {
            0 => invalidate(&mut writer, "k").await,
            1 => {
                let target = Target::Prefix("k".into());
                let reply = writer.invalidate(request::invalidate("n", target)).await;
                assert_eq!(reply.unwrap().into_inner().count, 1, "round {round}");
            }
            _ => {
                done.one();
                continue;
            }
        }
        let got = value_of(&mut reader, "k").await;
        assert!(got.is_none(), "round {round}: still there");
        done.one();
    }
    readers.join_all().await;
}

/// Written on a blocking thread, and within what a stream takes without asking.
const ABANDONED: usize = 900 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_caller_left_does_not_come_back_after_an_invalidation() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let mut wire = Connection::open(daemon.grpc()).await;
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..300_u64 {
        let key = format!("k{}", round % 5);
        let message = wire::put_message("n", &key, &noise(round, ABANDONED));
        let call = wire.begin("Put", None).await;
        wire.finish(call, &message).await;
        // The point at which the caller leaves, from not yet read to already stored.
        if !round.is_multiple_of(4) {
            let point = Duration::from_micros(random.random_range(0..3_000));
            tokio::time::sleep(point).await;
        }
        wire.cancel(call).await;
        let call = wire.begin("Invalidate", None).await;
        wire.finish(call, &wire::invalidate_message("n", &key))
            .await;
        wire.answered(call).await;
        stays_away(&mut stub, &key, round).await;
    }
    are_gone_in_the_end(&mut stub).await;
    let puts = request::counters(&daemon.stats().await, "n").puts;
    assert!(
        (5..300).contains(&puts),
        "{puts} of 300 puts were finished: all left alike"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_beyond_its_deadline_does_not_come_back_after_an_invalidation() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let mut wire = Connection::open(daemon.grpc()).await;
    for round in 0..300_u64 {
        let key = format!("k{}", round % 5);
        let message = wire::put_message("n", &key, &noise(round, ABANDONED));
        // The shortest is over before the value is there; the longest is enough for any machine.
        let deadline = Duration::from_millis(1 << (round % 8));
        let call = wire.begin("Put", Some(deadline)).await;
        wire.finish(call, &message).await;
        // Stored or beyond its deadline: the daemon says that it has done with it.
        wire.answered(call).await;
        invalidate(&mut stub, &key).await;
        stays_away(&mut stub, &key, round).await;
    }
    are_gone_in_the_end(&mut stub).await;
    let puts = request::counters(&daemon.stats().await, "n").puts;
    assert!(
        (5..300).contains(&puts),
        "{puts} of 300 puts were in time: all fared alike"
    );
}

async fn stays_away(stub: &mut Stub, key: &str, round: u64) {
    for _ in 0..3 {
        let exists = stub
            .exists(request::exists("n", key))
            .await
            .unwrap()
            .into_inner();
        assert!(!exists.exists, "round {round}: {key} is back");
    }
}

async fn are_gone_in_the_end(stub: &mut Stub) {
    for key in 0..5 {
        let key = format!("k{key}");
        assert!(
            value_of(stub, &key).await.is_none(),
            "{key} is back in the end"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_before_a_scan_began_is_gone_when_it_has_ended() {
    let daemon = Daemon::start();
    let mut noise_makers = JoinSet::new();
    for maker in 0..2 {
        let mut stub = daemon.stub();
        noise_makers.spawn(async move {
            for round in 0..200_u64 {
                let size = if round % 10 == 0 { LARGE } else { SMALL };
                put(
                    &mut stub,
                    &format!("noise-{maker}-{round}"),
                    noise(round, size),
                )
                .await;
            }
        });
    }
    let (mut stub, mut reader) = (daemon.stub(), daemon.stub());
    for round in 0..60_u64 {
        let size = if round % 4 == 0 { LARGE } else { SMALL };
        let keys: Vec<_> = (0..5)
            .map(|index| format!("scanned-{round}-{index}"))
            .collect();
        for key in &keys {
            put(&mut stub, key, noise(round, size)).await;
        }
        let pattern = format!("*scanned-{round}-?");
        let target = Target::Pattern(pattern);
        let reply = stub
            .invalidate(request::invalidate("n", target))
            .await
            .unwrap();
        assert_eq!(reply.into_inner().count, 5, "round {round}");
        for key in &keys {
            assert!(
                value_of(&mut reader, key).await.is_none(),
                "{key} is still there"
            );
        }
    }
    noise_makers.join_all().await;
    let none = value_of(&mut reader, "noise-0-199").await;
    assert!(none.is_some(), "what was not named stays");
}

/// Reads until it is over; no value may be older than what was acknowledged before the read began.
/// The state is twice the number of the value that was put, and one more when it is gone.
async fn read_behind(caller: Caller, acknowledged: Arc<AtomicU64>, over: Arc<AtomicBool>) -> u64 {
    let mut seen = 0;
    while !over.load(Ordering::Relaxed) {
        let least = acknowledged.load(Ordering::SeqCst);
        if let Some(value) = caller.value("k").await {
            let text = std::str::from_utf8(&value).unwrap();
            let number: u64 = text.split(':').next().unwrap().parse().unwrap();
            assert!(
                2 * number >= least,
                "value {number} was read after {least} halves were acknowledged"
            );
            seen += 1;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn own_changes_are_seen_while_pushes_are_late() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let more = "lease = \"3s\"\nheartbeat = \"150ms\"";
    let daemon = shared::start(&proxy.url(), more).await;
    proxy.set_for(Path::Tracking, Mode::Delay(Duration::from_millis(100)));
    let (acknowledged, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let mut readers = JoinSet::new();
    for _ in 0..8 {
        let caller = Caller::new(&daemon, "n");
        readers.spawn(read_behind(caller, acknowledged.clone(), over.clone()));
    }
    let writer = Caller::new(&daemon, "n");
    for number in 1..=1500_u64 {
        // Written on the request's thread and on a blocking one.
        let padding = if number % 3 == 0 { 40_000 } else { 100 };
        let text = format!("{number}:{}", "x".repeat(padding));
        writer.put("k", text).await;
        acknowledged.store(2 * number, Ordering::SeqCst);
        assert!(writer.value("k").await.is_some(), "put {number}");
        if number % 2 == 0 {
            writer.invalidate("k").await;
            acknowledged.store(2 * number + 1, Ordering::SeqCst);
            assert!(writer.value("k").await.is_none(), "removed {number}");
        }
    }
    over.store(true, Ordering::Relaxed);
    let seen: u64 = readers.join_all().await.into_iter().sum();
    assert!(seen > 0, "nobody read anything");
}
