//! P1 for large values: all who read one value together cost Redis one transfer, and it is kept.
//!
//! The interleavings:
//!
//!     together     all begin before the first has it all: the chunks leave Redis once
//!     slow         the one who began does not read on: the others have theirs all the same, and
//!                  the slow one has its own when it does
//!     gone         the one who began goes away in the middle: the others lose nothing by that
//!     all gone     nobody wants it any more: the transfer ends, and leaves nothing here
//!     unary        Get and GetMany of a value in chunks keep it as Read does
//!     no room      two values are on their way that do not fit together: both are read
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pannier_proto::v1::{
    GetRequest, ReadOptions, ReadResponse, Tier, read_response::Part as Reply,
};
use pannier_tests::{
    Caller, Daemon, Mode, Pair, Path, caller::tier, eventually, load::noise, request, shared,
    stream,
};
use tokio::task::JoinSet;
use tonic::Streaming;

const MIB: usize = 1 << 20;
/// Longer than what may be on its way to a caller that does not read.
const SIZE: usize = 32 * MIB;

/// A stream of Read that is open: its header has come.
struct Open(Streaming<ReadResponse>);

impl Open {
    async fn read(caller: &Caller, key: &str) -> Self {
        let request = stream::read(caller.namespace(), key);
        let mut stream = caller.stub().read(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert!(matches!(first.part, Some(Reply::Header(_))), "{first:?}");
        Self(stream)
    }

    async fn rest(mut self) -> Bytes {
        let mut value = BytesMut::new();
        while let Some(message) = self.0.message().await.unwrap() {
            match message.part.unwrap() {
                Reply::Chunk(chunk) => value.extend_from_slice(&chunk),
                header @ Reply::Header(_) => panic!("another header: {header:?}"),
            }
        }
        value.freeze()
    }
}

/// Bytes that the near daemon has received from Redis.
fn received(pair: &Pair) -> usize {
    usize::try_from(pair.proxy.reply_bytes(Path::Data)).unwrap()
}

/// A network that forwards some 64 KiB each so many milliseconds.
fn slow(millis: u64) -> Mode {
    Mode::Drip(64 << 10, Duration::from_millis(millis))
}

/// Files of large values that a daemon has, whole or not.
fn files(daemon: &Daemon) -> Vec<String> {
    let path = daemon.data_dir().join("entries/large");
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|it| it.file_name().to_string_lossy().into_owned());
    names.filter(|it| !it.ends_with(".spare")).collect()
}

/// What is read here and nowhere else.
async fn is_here(caller: &Caller, key: &str, expected: &Bytes) {
    let mut request = stream::read(caller.namespace(), key);
    request.options = Some(local_only());
    let got = caller.try_read(request).await.unwrap();
    assert_eq!(got.tier(), Tier::Local);
    assert!(got.value == *expected);
}

fn local_only() -> ReadOptions {
    ReadOptions {
        local_only: true,
        ..ReadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_together_costs_one_transfer() {
    let pair = Pair::start("", "").await;
    let value = noise(1, SIZE);
    pair.other("n").write("k", &value).await;
    let before = received(&pair);
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Open::read(&pair.near("n"), "k").await);
    }
    let mut rest: JoinSet<_> = open.into_iter().map(Open::rest).collect();
    while let Some(got) = rest.join_next().await {
        assert!(got.unwrap() == value);
    }
    let received = received(&pair) - before;
    assert!(received < SIZE + SIZE / 8, "{received} bytes from Redis");
    assert_eq!(files(&pair.near).len(), 1);
    is_here(&pair.near("n"), "k", &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_on_keeps_nobody_waiting() {
    let pair = Pair::start("", "").await;
    let value = noise(2, SIZE);
    pair.other("n").write("k", &value).await;
    let before = received(&pair);
    let slow = Open::read(&pair.near("n"), "k").await;
    assert!(pair.near("n").read("k").await.value == value);
    // Another value, and so no copy of this one any more, but for those who read it.
    pair.near("n").write("k", &noise(3, 2 * MIB)).await;
    eventually("the file has gone", async || files(&pair.near).len() == 1).await;
    assert!(slow.rest().await == value);
    let received = received(&pair) - before;
    assert!(received < SIZE + SIZE / 8, "{received} bytes from Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_takes_nothing_from_the_others() {
    let pair = Pair::start("", "").await;
    let value = noise(4, SIZE);
    pair.other("n").write("k", &value).await;
    let before = received(&pair);
    pair.proxy.set_for(Path::Data, slow(1));
    let first = Open::read(&pair.near("n"), "k").await;
    let second = Open::read(&pair.near("n"), "k").await;
    drop(first);
    assert!(second.rest().await == value);
    let received = received(&pair) - before;
    assert!(received < SIZE + SIZE / 8, "{received} bytes from Redis");
    is_here(&pair.near("n"), "k", &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_wants_any_more_ends() {
    let pair = Pair::start("", "").await;
    let value = noise(5, 2 * SIZE);
    pair.other("n").write("k", &value).await;
    let before = received(&pair);
    // All of it would take five seconds.
    pair.proxy.set_for(Path::Data, slow(5));
    let near = pair.near("n");
    let open = [Open::read(&near, "k").await, Open::read(&near, "k").await];
    assert_eq!(files(&pair.near).len(), 1, "it is on its way");
    drop(open);
    eventually("what there was has gone", async || {
        files(&pair.near).is_empty()
    })
    .await;
    let received = received(&pair) - before;
    assert!(received < SIZE, "{received} bytes from Redis");
    // It can be had again, and be kept.
    pair.proxy.set(Mode::Pass);
    eventually("it is kept", async || {
        let got = near.read("k").await;
        assert!(got.value == value);
        got.tier() == Tier::Local
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_in_one_reply_is_kept_too() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    for (key, many) in [("get", false), ("many", true)] {
        let value = noise(6, 3 * MIB);
        pair.other("n").write(key, &value).await;
        let get = async |options: Option<ReadOptions>| match many {
            false => {
                let request = GetRequest {
                    options,
                    ..request::get("n", key)
                };
                let got = near.stub().get(request).await.unwrap().into_inner();
                (tier(&got), got.entry.unwrap().value)
            }
            true => {
                let mut request = request::get_many("n", [key]);
                request.options = options;
                let got = near.stub().get_many(request).await.unwrap().into_inner();
                let item = got.items.into_iter().next().unwrap();
                let tier = item.tier();
                (tier, item.entry.unwrap().value)
            }
        };
        assert!(get(None).await == (Tier::Shared, value.clone()), "{key}");
        assert!(
            get(Some(local_only())).await == (Tier::Local, value),
            "{key}"
        );
    }
    assert_eq!(files(&pair.near).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_read_all_the_same() {
    let pair = Pair::start("", "").await;
    let proxy = &pair.proxy;
    // Room for 23 MiB of large values: for one of these.
    let small = shared::start(&proxy.url(), "[local]\ndisk_budget = \"64MiB\"\n").await;
    let small = Caller::new(&small, "n");
    let values = [noise(7, 16 * MIB), noise(8, 16 * MIB)];
    pair.other("n").write("0", &values[0]).await;
    pair.other("n").write("1", &values[1]).await;
    // Long enough for both to be on their way.
    proxy.set_for(Path::Data, slow(1));
    let open = [Open::read(&small, "0").await, Open::read(&small, "1").await];
    let [first, second] = open.map(Open::rest);
    let got = tokio::join!(first, second);
    assert!(got.0 == values[0] && got.1 == values[1]);
}
