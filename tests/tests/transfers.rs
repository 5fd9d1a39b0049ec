//! Who serves large values: connections that say they are for transfers are served by the threads
//! of large values, and a Write on any other connection runs there as well, so that small requests
//! do not wait for it.
//!
//! What a connection is for is told by its first bytes, which may come late, one by one or never:
//! nobody else waits for them, and whoever is served afterwards gets all of them.
//!
//! A value is written over the file of one that was replaced, but not while that is being read:
//!
//!     reader: Read one, its first chunk                                the rest of one
//!     writer:                            Write two, Write three (goes over the file of …?)
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{os::unix::fs::DirEntryExt, time::Duration};

use bytes::Bytes;
use pannier_client::{Client, PutOptions, ReadOptions};
use pannier_tests::{Caller, Daemon, eventually, load::noise};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MIB: usize = 1 << 20;
const VALUE_BYTES: usize = 64 * MIB;
/// What a client of HTTP/2 says first, and an empty SETTINGS frame.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The same, with the window of transfers: 4 MiB + 7466 (identifier 4).
const TRANSFERS: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\x40\x1d\x2a";

/// Processor time of the workers, and of the threads of large values.
fn times(daemon: &Daemon) -> (Duration, Duration) {
    (
        daemon.thread_time("pannier-worker"),
        daemon.thread_time("pannier-large"),
    )
}

/// The time since `before`.
fn since(daemon: &Daemon, before: (Duration, Duration)) -> (Duration, Duration) {
    let now = times(daemon);
    (now.0 - before.0, now.1 - before.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_transfers_leaves_the_workers_alone() {
    let daemon = Daemon::builder().start();
    let client = Client::connect(daemon.grpc()).unwrap();
    let value = noise(1, VALUE_BYTES);
    let before = times(&daemon);
    let mut writer = client.write("n", "k", PutOptions::new(), None).unwrap();
    writer.chunk(value.clone()).await.unwrap();
    writer.finish().await.unwrap();
    let options = ReadOptions::default();
    let reader = client.read("n", "k", &options, 0, None).await.unwrap();
    let (mut reader, mut read) = (reader.unwrap(), Vec::new());
    while let Some(chunk) = reader.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == value);
    let (workers, large) = since(&daemon, before);
    assert!(workers * 20 < large, "workers {workers:?}, large {large:?}");
    // The small calls of the same client have a connection of their own.
    let before = times(&daemon);
    for _ in 0..200 {
        assert!(client.get("n", "other").await.unwrap().is_none());
    }
    let (workers, large) = since(&daemon, before);
    assert!(large * 5 < workers, "workers {workers:?}, large {large:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_any_connection_runs_beside_the_workers() {
    let daemon = Daemon::builder().start();
    let caller = Caller::new(&daemon, "n");
    let value = noise(2, VALUE_BYTES);
    caller.put("small", Bytes::from_static(b"value")).await;
    let before = times(&daemon);
    caller.write("k", &value).await;
    let (workers, large) = since(&daemon, before);
    // The workers receive it, and that is all.
    assert!(workers < large * 2, "workers {workers:?}, large {large:?}");
    assert!(large > Duration::from_millis(5), "large {large:?}");
    assert!(caller.read("k").await.value == value);
}

/// Writes `value` under the key `k`.
async fn write(client: &Client, value: &Bytes) {
    let mut writer = client.write("n", "k", PutOptions::new(), None).unwrap();
    writer.chunk(value.clone()).await.unwrap();
    writer.finish().await.unwrap();
}

/// Numbers of the files of large values, with whether they are spare.
fn files(daemon: &Daemon) -> Vec<(u64, bool)> {
    let path = daemon.data_dir().join("entries/large");
    let entries = std::fs::read_dir(path).unwrap().flatten();
    let files = entries.map(|it| (it.ino(), it.path().extension().is_some()));
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_goes_over_the_file_of_one_that_nobody_reads() {
    let daemon = Daemon::builder().start();
    let client = Client::connect(daemon.grpc()).unwrap();
    let [one, two, three] = [3, 4, 5].map(|seed| noise(seed, VALUE_BYTES));
    write(&client, &one).await;
    let options = ReadOptions::default();
    let reader = client.read("n", "k", &options, 0, None).await.unwrap();
    let mut reader = reader.unwrap();
    let mut read = reader.chunk().await.unwrap().unwrap().to_vec();
    write(&client, &two).await;
    let swept = async || matches!(files(&daemon)[..], [(_, false)]);
    eventually("the first one is removed, since it is being read", swept).await;
    let of_two = files(&daemon)[0].0;
    write(&client, &three).await;
    while let Some(chunk) = reader.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == one, "what was begun is read to its end");
    let is_spare = async || files(&daemon).contains(&(of_two, true));
    eventually("the second one is spare, since nobody reads it", is_spare).await;
    write(&client, &one).await;
    assert!(files(&daemon).contains(&(of_two, false)));
    assert!(Caller::new(&daemon, "n").read("k").await.value == one);
}

/// Whether the server answers with its SETTINGS.
async fn is_served(stream: &mut TcpStream) -> bool {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.is_ok() && head[3] == 4
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_may_come_late_and_one_by_one() {
    let daemon = Daemon::builder().start();
    let connect = async || {
        let stream = TcpStream::connect(daemon.grpc()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut silent = connect().await;
    for opening in [OPENING, TRANSFERS] {
        let mut slow = connect().await;
        for byte in opening {
            slow.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(is_served(&mut slow).await);
        let mut gone = connect().await;
        gone.write_all(&opening[..opening.len() - 1]).await.unwrap();
    }
    // Others do not wait for it, and the daemon waits for it as long as for any other.
    let caller = Caller::new(&daemon, "n");
    caller.put("k", Bytes::from_static(b"value")).await;
    silent.write_all(OPENING).await.unwrap();
    assert!(is_served(&mut silent).await);
    // Who speaks no HTTP/2 is let go.
    let mut other = connect().await;
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = other.read_to_end(&mut answer).await;
    assert!(caller.value("k").await.is_some());
}
