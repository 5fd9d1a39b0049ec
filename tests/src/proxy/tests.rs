//! The proxy in front of a server of the test's own.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::{Mode, Path, Proxy};
use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
const TRACKING: &[u8] = b"*2\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n";
const DATA: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";

struct Target {
    listener: TcpListener,
    proxy: Proxy,
}

/// Both ends of a connection through the proxy.
struct Pair {
    daemon: TcpStream,
    redis: TcpStream,
}

impl Target {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let proxy = Proxy::start(listener.local_addr().expect("an address"));
        Self { listener, proxy }
    }

    async fn connect(&self) -> Pair {
        let daemon = TcpStream::connect(self.proxy.address())
            .await
            .expect("it listens");
        let (redis, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("in time")
            .expect("a connection");
        Pair { daemon, redis }
    }

    async fn connect_as(&self, first: &[u8]) -> Pair {
        let mut pair = self.connect().await;
        pair.daemon.write_all(first).await.expect("written");
        assert_eq!(read(&mut pair.redis, first.len()).await, first);
        pair
    }
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.expect("in time").expect("so many bytes");
    bytes
}

/// Everything until the end, and whether that was a reset.
async fn read_to_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let error = end.expect("in time").expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    bytes
}

async fn is_refused(address: SocketAddr) -> bool {
    let refused = TcpStream::connect(address).await;
    refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

async fn assert_passes(pair: &mut Pair) {
    pair.daemon.write_all(b"there").await.expect("written");
    assert_eq!(read(&mut pair.redis, 5).await, b"there");
    pair.redis.write_all(b"back").await.expect("written");
    assert_eq!(read(&mut pair.daemon, 4).await, b"back");
}

#[tokio::test]
async fn bytes_pass_and_are_counted() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    assert_passes(&mut pair).await;
    let large: Vec<u8> = (0..=u8::MAX).cycle().take(3 << 20).collect();
    let (mut redis, sent) = (pair.redis, large.clone());
    let writer = async move {
        redis.write_all(&sent).await.expect("written");
        redis
    };
    let (_redis, got) = tokio::join!(writer, read(&mut pair.daemon, large.len()));
    assert!(got == large, "other bytes");
    // Counted when they have been passed on, so perhaps after they were received.
    eventually("all bytes are counted", async || {
        target.proxy.reply_bytes(Path::All) == 4 + (3 << 20)
    })
    .await;
    assert_eq!(target.proxy.connections(), 1);
}

#[tokio::test]
async fn the_end_of_one_side_is_a_reset_of_the_other() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    drop(pair.daemon);
    assert_eq!(read_to_reset(&mut pair.redis).await, b"");
    let mut pair = target.connect().await;
    drop(pair.redis);
    assert_eq!(read_to_reset(&mut pair.daemon).await, b"");
}

#[tokio::test]
async fn a_cut_resets_what_is_there_and_refuses_what_comes_until_it_passes() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    target.proxy.set(Mode::Cut);
    read_to_reset(&mut pair.daemon).await;
    read_to_reset(&mut pair.redis).await;
    assert!(is_refused(target.proxy.address()).await);
    target.proxy.set(Mode::Pass);
    assert_passes(&mut target.connect().await).await;
}

#[tokio::test]
async fn refusing_and_severing_tell_old_from_new() {
    let target = Target::start().await;
    let mut old = target.connect().await;
    target.proxy.set(Mode::Refuse);
    // The reset may be faster than whoever connects.
    match TcpStream::connect(target.proxy.address()).await {
        Ok(mut new) => _ = read_to_reset(&mut new).await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_passes(&mut old).await;
    target.proxy.set(Mode::Pass);
    target.proxy.sever(Path::All);
    read_to_reset(&mut old.daemon).await;
    assert_passes(&mut target.connect().await).await;
}

#[tokio::test]
async fn what_is_swallowed_is_lost_and_so_is_its_connection() {
    let target = Target::start().await;
    let mut idle = target.connect().await;
    let mut pair = target.connect().await;
    target.proxy.set(Mode::Silence);
    pair.daemon.write_all(b"command").await.expect("written");
    let mut byte = [0];
    let silent = timeout(Duration::from_millis(100), pair.redis.read(&mut byte)).await;
    assert!(silent.is_err(), "nothing comes, not even the end");
    target.proxy.set(Mode::Pass);
    assert_eq!(read_to_reset(&mut pair.redis).await, b"");
    read_to_reset(&mut pair.daemon).await;
    assert_passes(&mut idle).await;
}

#[tokio::test]
async fn a_delay_holds_each_way_and_ends_with_the_mode() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    target.proxy.set(Mode::Delay(Duration::from_millis(50)));
    let begun = Instant::now();
    assert_passes(&mut pair).await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    target.proxy.set(Mode::Delay(Duration::from_secs(3600)));
    pair.daemon.write_all(b"late").await.expect("written");
    target.proxy.set(Mode::Pass);
    assert_eq!(read(&mut pair.redis, 4).await, b"late");
}

#[tokio::test]
async fn it_drips() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    target.proxy.set(Mode::Drip(2, Duration::from_millis(20)));
    let begun = Instant::now();
    pair.redis.write_all(b"0123456789").await.expect("written");
    assert_eq!(read(&mut pair.daemon, 10).await, b"0123456789");
    assert!(begun.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn replies_become_garbage_or_end_early() {
    let target = Target::start().await;
    let mut pair = target.connect().await;
    target.proxy.set(Mode::Garbage);
    pair.daemon.write_all(b"command").await.expect("written");
    assert_eq!(read(&mut pair.redis, 7).await, b"command");
    pair.redis.write_all(&[7; 64]).await.expect("written");
    assert_ne!(read(&mut pair.daemon, 64).await, [7; 64]);
    target.proxy.set(Mode::Truncate(10));
    pair.redis.write_all(&[7; 64]).await.expect("written");
    assert_eq!(read_to_reset(&mut pair.daemon).await, [7; 10]);
}

#[tokio::test]
async fn replies_and_commands_can_be_held() {
    let target = Target::start().await;
    let mut pair = target.connect_as(DATA).await;
    target.proxy.set_for(Path::Data, Mode::HoldReplies);
    pair.redis.write_all(b"reply").await.expect("written");
    target.proxy.holds(Path::Data).await;
    assert_eq!(target.proxy.held_bytes(Path::Tracking), 0);
    pair.daemon.write_all(b"more").await.expect("written");
    assert_eq!(read(&mut pair.redis, 4).await, b"more");
    target.proxy.set(Mode::Pass);
    assert_eq!(read(&mut pair.daemon, 5).await, b"reply");
    eventually("nothing is held", async || {
        target.proxy.held_bytes(Path::All) == 0
    })
    .await;
    target.proxy.set(Mode::HoldCommands);
    pair.daemon.write_all(b"command").await.expect("written");
    target.proxy.holds(Path::Data).await;
    drop(pair.daemon);
    assert_eq!(
        read_to_reset(&mut pair.redis).await,
        b"",
        "given up, so never delivered"
    );
}

#[tokio::test]
async fn one_path_fails_alone() {
    let target = Target::start().await;
    let mut tracking = target.connect_as(TRACKING).await;
    let mut data = target.connect_as(DATA).await;
    target.proxy.set_for(Path::Tracking, Mode::Cut);
    read_to_reset(&mut tracking.daemon).await;
    assert_passes(&mut data).await;
    // A new one passes until it shows what it is, also in two pieces.
    let mut new = target.connect_as(b"*1\r\n$5\r\nHELLO\r\n").await;
    new.daemon
        .write_all(&TRACKING[..25])
        .await
        .expect("written");
    assert_eq!(read(&mut new.redis, 25).await, TRACKING[..25]);
    new.daemon
        .write_all(&TRACKING[25..])
        .await
        .expect("written");
    read_to_reset(&mut new.redis).await;
    target.proxy.set_for(Path::Tracking, Mode::Pass);
    target.proxy.set_for(Path::Data, Mode::Cut);
    read_to_reset(&mut data.daemon).await;
    assert_passes(&mut target.connect_as(TRACKING).await).await;
    eventually("the bytes are counted", async || {
        target.proxy.reply_bytes(Path::Tracking) >= 4
    })
    .await;
}
