use std::{future::Future, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{
        Notify,
        mpsc::{Receiver, channel},
    },
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    config::{Credentials, Secret, Span, TlsFiles},
    tier::shared::{
        testing::{Certificates, RedisServer, config_of},
        tls::tls_client,
    },
};

/// Only a broken build waits this long.
const LONG: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_millis(400);
const CHANNEL: &str = "pannier:!invalidate";

fn quick(mut config: SharedConfig) -> SharedConfig {
    config.lease = Span(LEASE);
    config.heartbeat = Span(Duration::from_millis(50));
    config
}

async fn connect(config: &SharedConfig, prefixes: &[&str]) -> Result<Tracking, String> {
    let Some(Topology::Standalone(at)) = &config.topology else {
        panic!("one server");
    };
    let tls = tls_client(config).expect("good files");
    let prefixes: Vec<String> = prefixes.iter().map(|&prefix| prefix.into()).collect();
    Tracking::connect(at, config, tls, &prefixes, CHANNEL, "pannier-test").await
}

/// A tracking connection that runs, and what it said.
struct Running {
    pushes: Receiver<Push>,
    beats: Receiver<Beat>,
    ended: JoinHandle<String>,
}

fn run(tracking: Tracking) -> Running {
    let (push, pushes) = channel(1000);
    let (beat, beats) = channel(1000);
    #[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited")]
    let ended = tokio::spawn(async move {
        let push = |it| push.try_send(it).expect("is received");
        let beat = |it| beat.try_send(it).expect("is received");
        tracking
            .run(&Clock::system(), &Notify::new(), push, beat)
            .await
    });
    Running {
        pushes,
        beats,
        ended,
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.expect("comes soon")
}

impl Running {
    async fn keys(&mut self) -> Vec<String> {
        match soon(self.pushes.recv()).await {
            Some(Push::Keys(keys)) => {
                let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
                keys.iter().map(text).collect()
            }
            other => panic!("keys, not {other:?}"),
        }
    }

    async fn end(self) -> String {
        soon(self.ended).await.expect("does not panic")
    }
}

#[tokio::test]
async fn what_others_do_to_a_key_is_pushed() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &["p:", "raw:"]).await;
    let tracking = tracking.expect("connects");
    assert!(tracking.client_id() > 0 && tracking.hears_messages());
    let mut running = run(tracking);
    server.cli(&["SET", "other", "1"]);
    for command in [
        &["SET", "p:a", "1"][..],
        &["SET", "p:a", "1"],
        &["EXPIRE", "p:a", "100"],
        &["DEL", "p:a"],
    ] {
        server.cli(command);
        assert_eq!(running.keys().await, ["p:a"], "{command:?}");
    }
    server.cli(&["MSET", "raw:x", "1", "q", "2"]);
    assert_eq!(running.keys().await, ["raw:x"]);
    server.cli(&["PUBLISH", CHANNEL, "said"]);
    let said = Push::Message(Bytes::from_static(b"said"));
    assert_eq!(soon(running.pushes.recv()).await, Some(said));
    server.cli(&["FLUSHALL"]);
    assert_eq!(soon(running.pushes.recv()).await, Some(Push::Flush));
    assert!(!running.ended.is_finished());
}

#[tokio::test]
async fn a_key_that_expires_is_pushed() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects");
    let mut running = run(tracking);
    server.cli(&["SET", "p:a", "1", "PX", "30"]);
    assert_eq!(running.keys().await, ["p:a"]);
    assert_eq!(running.keys().await, ["p:a"]);
}

#[tokio::test]
async fn no_prefix_reports_every_key() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &[""])
        .await
        .expect("connects");
    let mut running = run(tracking);
    server.cli(&["SET", "anything", "1"]);
    assert_eq!(running.keys().await, ["anything"]);
}

#[tokio::test]
async fn many_keys_at_once_arrive_together() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects");
    let mut running = run(tracking);
    let script = "for i = 1, 50000 do redis.call('SET', 'p:' .. i, 'v') end";
    server.cli(&["EVAL", script, "0"]);
    let mut count = 0;
    while count < 50_000 {
        count += running.keys().await.len();
    }
    assert_eq!(count, 50_000);
    assert!(!running.ended.is_finished());
}

#[tokio::test]
async fn beats_carry_both_times() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects");
    let before = Clock::system().now();
    let mut running = run(tracking);
    let mut last = before;
    for _ in 0..3 {
        let beat = soon(running.beats.recv()).await.expect("beats");
        assert!(beat.sent_at >= last, "in order");
        last = beat.sent_at;
        assert!(beat.round_trip < LONG);
        // Both read the clock of this machine.
        assert!(beat.server_micros.abs_diff(beat.sent_micros) < 1_000_000);
    }
}

#[tokio::test]
async fn a_killed_client_ends() {
    let server = RedisServer::unix(&[]);
    let tracking = connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects");
    let id = tracking.client_id().to_string();
    let running = run(tracking);
    assert_eq!(server.cli(&["CLIENT", "KILL", "ID", &id]), "1");
    let reason = running.end().await;
    assert!(
        reason.contains("closed") && reason.contains("redis.sock"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_killed_server_ends() {
    let mut server = RedisServer::tcp(&[]);
    let tracking = connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects");
    let running = run(tracking);
    server.kill();
    running.end().await;
    let refused = connect(&quick(server.config()), &["p:"]).await;
    assert!(refused.err().expect("is gone").contains("refused"));
    server.restart();
    connect(&quick(server.config()), &["p:"])
        .await
        .expect("is back");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_ends() {
    let server = RedisServer::tcp(&[]);
    let config = quick(server.config());
    let running = run(connect(&config, &["p:"]).await.expect("connects"));
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let reason = running.end().await;
    assert!(reason.contains("replica, not a master"), "{reason}");
    let refused = connect(&config, &["p:"]).await.err().expect("is refused");
    assert!(refused.contains("replica, not a master"), "{refused}");
}

#[tokio::test]
async fn silence_ends_within_the_lease() {
    let server = RedisServer::tcp(&[]);
    let mut running = run(connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects"));
    soon(running.beats.recv()).await.expect("a first beat");
    let frozen = Instant::now();
    server.freeze();
    let reason = running.end().await;
    let took = frozen.elapsed();
    server.thaw();
    assert!(reason.contains("no answer within 400 ms"), "{reason}");
    // The last answered question may be a heartbeat old; a busy machine adds its own.
    assert!(
        took > LEASE / 2 && took < LEASE + Duration::from_millis(300),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_daemon_that_stood_still_does_not_blame_the_server() {
    let server = RedisServer::unix(&[]);
    let mut running = run(connect(&quick(server.config()), &["p:"])
        .await
        .expect("connects"));
    soon(running.beats.recv()).await.expect("a first beat");
    server.cli(&["SET", "p:a", "1"]);
    // This test's runtime has one thread: nothing runs meanwhile.
    #[expect(clippy::disallowed_methods, reason = "the runtime shall stand still")]
    std::thread::sleep(LEASE * 3);
    assert_eq!(running.keys().await, ["p:a"]);
    while running.beats.try_recv().is_ok() {}
    soon(running.beats.recv()).await.expect("beats again");
    assert!(!running.ended.is_finished());
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_up_connecting() {
    let server = RedisServer::tcp(&[]);
    let mut config = quick(server.config());
    config.connect_timeout = Span(Duration::from_millis(200));
    server.freeze();
    let refused = soon(connect(&config, &["p:"])).await.err();
    server.thaw();
    assert!(
        refused
            .expect("is refused")
            .contains("no answer within 200 ms")
    );
}

#[tokio::test]
async fn passwords_users_and_permissions_are_told_apart() {
    let ann = [
        "--user",
        "ann",
        "on",
        ">pw",
        "~*",
        "&*",
        "+@all",
        "-client|tracking",
    ];
    let bob = ["--user", "bob", "on", ">pw", "~*", "resetchannels", "+@all"];
    let arguments = [&["--requirepass", "main"][..], &ann, &bob].concat();
    let server = RedisServer::unix(&arguments);
    let anonymous = server.config();
    let with = |user: Option<&str>, password: &str| SharedConfig {
        credentials: Credentials {
            username: user.map(Into::into),
            password: Some(Secret::new(password)),
        },
        ..anonymous.clone()
    };
    for (config, part) in [
        (anonymous.clone(), "password is needed (NOAUTH)"),
        (with(None, "wr0ng"), "user name or password is wrong"),
        (
            with(Some("ann"), "pw"),
            "may not run CLIENT TRACKING (NOPERM)",
        ),
    ] {
        let refused = connect(&config, &["p:"]).await.err().expect(part);
        assert!(refused.contains(part), "{refused}");
        assert!(!refused.contains("wr0ng"));
    }
    connect(&with(None, "main"), &["p:"])
        .await
        .expect("connects");
    let deaf = connect(&with(Some("bob"), "pw"), &["p:"])
        .await
        .expect("connects");
    assert!(!deaf.hears_messages());
    let mut running = run(deaf);
    server.cli_as(&["-a", "main"], &["SET", "p:a", "1"]);
    assert_eq!(running.keys().await, ["p:a"]);
}

#[tokio::test]
async fn tls_is_verified() {
    let (Some(made), Some(other)) = (Certificates::make(), Certificates::make()) else {
        return;
    };
    let server = RedisServer::tls(&made, true);
    let trusting = |ca: &Certificates, own: bool| SharedConfig {
        tls: Some(TlsFiles {
            ca_file: Some(ca.ca_file.clone()),
            cert_file: own.then(|| made.cert_file.clone()),
            key_file: own.then(|| made.key_file.clone()),
        }),
        ..quick(server.config())
    };
    let tracking = connect(&trusting(&made, true), &["p:"])
        .await
        .expect("connects");
    let mut running = run(tracking);
    soon(running.beats.recv()).await.expect("beats");
    let refused = connect(&trusting(&other, true), &["p:"]).await.err();
    assert!(
        refused
            .expect("is refused")
            .contains("invalid peer certificate")
    );
    connect(&trusting(&made, false), &["p:"])
        .await
        .err()
        .expect("needs a certificate");
}

/// A server that answers every connection with these bytes and then waits.
async fn answering(bytes: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted")]
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(bytes).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn what_is_no_suitable_redis_is_named() {
    let hello = b"%3\r\n+version\r\n+6.0.16\r\n+id\r\n:1\r\n+mode\r\n+standalone\r\n";
    let sentinel = b"%3\r\n+version\r\n+7.0.0\r\n+id\r\n:1\r\n+mode\r\n+sentinel\r\n";
    let cluster = b"%3\r\n+version\r\n+7.0.0\r\n+id\r\n:1\r\n+mode\r\n+cluster\r\n";
    let table: [(&'static [u8], &str); 9] = [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "does not speak as Redis does",
        ),
        (b"\0\xff\x16\x03\x01\r\n", "does not speak as Redis does"),
        (b"$99999999999\r\n", "a frame is too large"),
        (
            b"-ERR unknown command `HELLO`, `3`, `s3cret`\r\n",
            "Redis 6.2 or later with RESP3",
        ),
        (b"-NOPROTO unsupported\r\n", "Redis 6.2 or later with RESP3"),
        (b"+OK\r\n", "the answer to HELLO is not as expected"),
        (hello, "Redis 6.2 or later is needed, this is 6.0"),
        (sentinel, "redis-sentinel://"),
        (cluster, "redis-cluster://"),
    ];
    for (bytes, part) in table {
        let (address, serving) = answering(bytes).await;
        let config = config_of(&format!("redis://{address}"));
        let refused = soon(connect(&config, &["p:"])).await.err().expect(part);
        assert!(refused.contains(part), "{refused}");
        assert!(!refused.contains("s3cret"));
        serving.abort();
    }
}

#[test]
fn pushes_that_make_no_sense_end_the_connection() {
    let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
    assert!(read_push(vec![text("invalidate")]).is_err());
    assert!(read_push(vec![text("invalidate"), Value::Integer(1)]).is_err());
    let list = Value::List(vec![Value::Null]);
    assert!(read_push(vec![text("invalidate"), list]).is_err());
    assert!(read_push(vec![text("message"), text("channel")]).is_err());
    assert!(read_push(vec![text("unsubscribe")]).is_err());
    assert_eq!(read_push(vec![text("new-in-some-version")]), Ok(None));
    assert_eq!(read_push(vec![]), Ok(None));
}
