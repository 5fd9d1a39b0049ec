use std::{fs, future::Future, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    config::Span,
    tier::shared::testing::{RedisServer, config_of, free_port},
};

const LONG: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.expect("comes soon")
}

fn port_of(server: &RedisServer) -> u16 {
    match server.address() {
        Address::Tcp { port, .. } => port,
        Address::Unix(_) => panic!("a TCP server"),
    }
}

#[tokio::test]
async fn one_server_is_what_it_is_and_stays_so() {
    let config = config_of("redis://h:1");
    let resolved = resolve(&config, None).await.expect("nobody is asked");
    assert_eq!(
        resolved.masters,
        [Address::Tcp {
            host: "h".into(),
            port: 1
        }]
    );
    assert_eq!(resolved.target, Target::One(resolved.masters[0].clone()));
    let waited = timeout(Duration::from_millis(20), watch(&config, None, &resolved)).await;
    assert!(waited.is_err(), "never returns");
}

/// A process of `redis-server` as Sentinel of `master` under the name `main`.
fn sentinel(master: u16) -> RedisServer {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("sentinel.conf");
    fs::write(
        &file,
        format!("sentinel monitor main 127.0.0.1 {master} 1\n"),
    )
    .expect("writes");
    RedisServer::sentinel(dir, &file)
}

#[tokio::test]
async fn sentinels_name_the_master_and_its_successor() {
    let (old, new) = (RedisServer::tcp(&[]), RedisServer::tcp(&[]));
    let (a, b) = (sentinel(port_of(&old)), sentinel(port_of(&old)));
    let hosts = format!(
        "127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
        free_port(),
        port_of(&a),
        port_of(&b)
    );
    let config = config_of(&format!("redis-sentinel://{hosts}/main"));
    let resolved = soon(resolve(&config, None))
        .await
        .expect("two of three answer");
    assert_eq!(resolved.masters, [old.address()]);
    let unknown = config_of(&format!("redis-sentinel://{hosts}/other"));
    let fault = soon(resolve(&unknown, None))
        .await
        .expect_err("nobody knows it");
    assert!(fault.contains("does not know the service"), "{fault}");

    let watching = watch(&config, None, &resolved);
    tokio::pin!(watching);
    let early = timeout(Duration::from_millis(700), &mut watching).await;
    assert!(early.is_err(), "nothing has changed");
    let port = port_of(&new).to_string();
    for sentinel in [&a, &b] {
        sentinel.cli(&["SENTINEL", "REMOVE", "main"]);
        sentinel.cli(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "1"]);
    }
    let reason = soon(watching).await;
    assert!(
        reason.contains("another master") && reason.contains(&port),
        "{reason}"
    );
}

#[tokio::test]
async fn without_an_answer_there_is_an_error() {
    let config = config_of(&format!("redis-sentinel://127.0.0.1:{}/main", free_port()));
    let fault = soon(resolve(&config, None))
        .await
        .expect_err("nobody answers");
    assert!(
        fault.contains("no Sentinel names a master of main"),
        "{fault}"
    );
    let config = config_of(&format!("redis-cluster://127.0.0.1:{}", free_port()));
    let fault = soon(resolve(&config, None))
        .await
        .expect_err("nobody answers");
    assert!(
        fault.contains("no node of the Cluster tells its layout"),
        "{fault}"
    );
    let server = RedisServer::tcp(&[]);
    let config = config_of(&format!("redis-cluster://127.0.0.1:{}", port_of(&server)));
    let fault = soon(resolve(&config, None))
        .await
        .expect_err("is no Cluster");
    assert!(fault.contains("CLUSTER SLOTS was refused (ERR)"), "{fault}");
}

#[tokio::test]
async fn a_cluster_is_its_masters_and_their_slots() {
    let arguments = [
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
    ];
    let mut server = RedisServer::tcp(&arguments);
    let mut config = config_of(&format!("redis-cluster://127.0.0.1:{}", port_of(&server)));
    config.lease = Span(Duration::from_millis(400));
    let fault = soon(resolve(&config, None))
        .await
        .expect_err("no slots yet");
    assert!(fault.contains("no slot has a master"), "{fault}");
    server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16382"]);
    let resolved = soon(resolve(&config, None)).await.expect("has slots");
    assert_eq!(resolved.masters, [server.address()]);
    assert_eq!(resolved.target, Target::Cluster(resolved.masters.clone()));
    assert_eq!(resolved.slots, 16383);

    let watching = watch(&config, None, &resolved);
    tokio::pin!(watching);
    let early = timeout(Duration::from_millis(600), &mut watching).await;
    assert!(early.is_err(), "nothing has changed");
    server.cli(&["CLUSTER", "ADDSLOTS", "16383"]);
    let reason = soon(watching).await;
    assert!(reason.contains("16384 slots"), "{reason}");

    let resolved = soon(resolve(&config, None)).await.expect("has slots");
    let watching = watch(&config, None, &resolved);
    tokio::pin!(watching);
    let early = timeout(Duration::from_millis(300), &mut watching).await;
    assert!(early.is_err(), "nothing has changed");
    server.kill();
    let reason = soon(watching).await;
    assert!(
        reason.contains("not told its layout for a lease"),
        "{reason}"
    );
}
