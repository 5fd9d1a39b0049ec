//! What becomes of commands when Redis is gone, silent, full or unwilling.

use std::time::Instant;

use tokio::{runtime::Handle, task::JoinSet};

use super::{
    fake::{Answer, FakeServer},
    *,
};
use crate::config::{Address, Credentials, Secret};

/// A loaded machine is slow to wake a task; a command's time-out is twice this.
const AT_ONCE: Duration = Duration::from_millis(250);
/// What a fake server answers.
type Script = fn(&str) -> Answer;
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);

async fn trouble(tier: &SharedTier, name: &SharedName) -> Trouble {
    let stored = tier.put(name, &stamped(1), MINUTE, Condition::Always).await;
    stored.expect_err("does not work").trouble
}

async fn alive_tasks() -> usize {
    // Tasks that were told to end do so when they are next polled.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn after_a_loss_everything_fails_at_once() {
    let mut redis = RedisServer::tcp(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    put(&tier, &name, &stamped(1)).await;
    redis.kill();
    let begun = Instant::now();
    assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    assert_eq!(tier.lost().await.trouble, Trouble::Lost);
    for _ in 0..1000 {
        assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // It does not come back, whatever Redis does.
    redis.restart();
    assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    tier.close().await;
}

#[tokio::test]
async fn those_who_wait_are_told_of_the_loss() {
    let mut redis = RedisServer::tcp(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    redis.freeze();
    let mut waiting = JoinSet::new();
    for index in 0..100 {
        let (tier, name) = (tier.clone(), space.name(&index.to_string()));
        waiting.spawn(async move { trouble(&tier, &name).await });
    }
    tokio::task::yield_now().await;
    let begun = Instant::now();
    redis.kill();
    while let Some(trouble) = waiting.join_next().await {
        assert_eq!(trouble.expect("no panic"), Trouble::Lost);
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn silence_ends_in_a_time_out_and_then_at_once() {
    let redis = RedisServer::tcp(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    redis.freeze();
    let begun = Instant::now();
    assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    let waited = begun.elapsed();
    assert!(
        (COMMAND_TIMEOUT..COMMAND_TIMEOUT + AT_ONCE).contains(&waited),
        "{waited:?}"
    );
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    }
    tier.close().await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    redis.thaw();
}

#[tokio::test]
async fn closing_does_not_wait_for_a_socket_that_is_full() {
    let redis = RedisServer::tcp(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    redis.freeze();
    let mut waiting = JoinSet::new();
    for index in 0..20 {
        let (tier, name) = (tier.clone(), space.name(&index.to_string()));
        let large = record(1, 4 << 20, Clock::system().now().after(MINUTE));
        waiting.spawn(async move {
            let stored = tier.put(&name, &large, MINUTE, Condition::Always).await;
            stored.expect_err("closed").trouble
        });
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    tier.close().await;
    while let Some(trouble) = waiting.join_next().await {
        assert_eq!(trouble.expect("no panic"), Trouble::Lost);
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    redis.thaw();
}

#[tokio::test]
async fn nothing_is_sent_twice() {
    let server = FakeServer::start(|_| Answer::Hang).await;
    let tier = server.connect().await.expect("connects");
    for _ in 0..3 {
        let reply = tier.connection.call(Call::named("INCR").text("n")).await;
        assert_eq!(reply.expect_err("no answer").trouble, Trouble::Lost);
    }
    tier.close().await;
    assert_eq!((server.times("INCR"), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_closed_or_dropped_tier_leaves_no_task() {
    let redis = RedisServer::tcp(&[]);
    let before = alive_tasks().await;
    let tier = connect(&redis).await;
    assert!(alive_tasks().await > before);
    tier.clone().close().await;
    assert_eq!(alive_tasks().await, before);
    let name = space(&redis).name("k");
    assert_eq!(trouble(&tier, &name).await, Trouble::Lost);
    drop(connect(&redis).await);
    assert_eq!(alive_tasks().await, before);
    // An attempt that its caller gives up.
    redis.freeze();
    let config = redis.config();
    tokio::select! {
        biased;
        _ = try_connect(&redis, &config) => panic!("it is frozen"),
        () = async { for _ in 0..20 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(alive_tasks().await, before);
    redis.thaw();
}

#[tokio::test]
async fn connecting_ends_in_time_and_says_why() {
    let mut redis = RedisServer::tcp(&[]);
    let config = redis.config();
    redis.freeze();
    let begun = Instant::now();
    let error = try_connect(&redis, &config)
        .await
        .expect_err("it is frozen");
    assert_eq!(error.trouble, Trouble::Lost);
    assert!(
        begun.elapsed() < config.connect_timeout.0 + AT_ONCE,
        "{:?}",
        begun.elapsed()
    );
    redis.kill();
    let error = try_connect(&redis, &config).await.expect_err("it is gone");
    assert!(error.message().contains("refused"), "{error}");
    let nonsense = FakeServer::start(|_| Answer::Hang).await;
    let cluster = Target::Cluster(vec![redis.address()]);
    let error = SharedTier::connect(&cluster, &config, None, Clock::system(), OURS).await;
    assert_eq!(error.expect_err("it is gone").trouble, Trouble::Lost);
    drop(nonsense);
}

#[tokio::test]
async fn our_limit_refuses_before_anything_is_sent() {
    let redis = RedisServer::tcp(&[]);
    let config = SharedConfig {
        max_in_flight: 2,
        ..redis.config()
    };
    let tier = try_connect(&redis, &config).await.expect("connects");
    let name = space(&redis).name("k");
    redis.freeze();
    let one = async { tier.get(&name).await.expect_err("frozen").trouble };
    let mut all = vec![one];
    let other = async || tier.get(&name).await.expect_err("frozen").trouble;
    let (first, second, third) = tokio::join!(all.remove(0), other(), other());
    assert_eq!(
        (first, second, third),
        (Trouble::Lost, Trouble::Lost, Trouble::Overloaded)
    );
    redis.thaw();
}

#[tokio::test]
async fn a_full_redis_is_out_of_memory_and_stays_connected() {
    let redis = RedisServer::tcp(&["--maxmemory", "100kb", "--maxmemory-policy", "noeviction"]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    assert_eq!(trouble(&tier, &name).await, Trouble::OutOfMemory);
    let condition = Condition::Version(stamped(1).head().stamp);
    let stored = tier.put(&name, &stamped(2), MINUTE, condition).await;
    // The script finds nothing to replace before it comes to its write.
    assert!(
        matches!(stored, Ok(Stored::Refused))
            || stored.is_err_and(|error| { error.trouble == Trouble::OutOfMemory })
    );
    assert!(tier.get(&name).await.expect("reads work").is_none());
    assert_eq!(
        tier.delete(slice::from_ref(&name))
            .await
            .expect("removals work"),
        0
    );
    let highest = Stamp::from_bytes([0xff; 16]);
    assert!(
        !tier
            .remove_older(&name, &highest)
            .await
            .expect("removals work")
    );
}

#[tokio::test]
async fn a_replica_is_read_only() {
    let master = RedisServer::tcp(&[]);
    let Address::Tcp { port, .. } = master.address() else {
        panic!("it has a port");
    };
    let replica = RedisServer::tcp(&["--replicaof", &format!("127.0.0.1 {port}")]);
    let (tier, space) = (connect(&replica).await, space(&replica));
    let name = space.name("k");
    assert_eq!(trouble(&tier, &name).await, Trouble::ReadOnly);
    let highest = Stamp::from_bytes([0xff; 16]);
    let removed = tier.remove_older(&name, &highest).await;
    assert_eq!(removed.expect_err("a replica").trouble, Trouble::ReadOnly);
    let warnings = tier.inspect().await.expect("works").warnings();
    assert!(warnings.join("\n").contains("replica"), "{warnings:?}");
}

#[tokio::test]
async fn whoever_may_not_is_denied() {
    let redis = RedisServer::tcp(&["--requirepass", "right"]);
    let admin = |command: &[&str]| redis.cli_as(&["-a", "right"], command);
    admin(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">pass \"word",
        "~pannier:*",
        "+@all",
        "-set",
    ]);
    admin(&[
        "ACL", "SETUSER", "open", "on", "nopass", "~*", "&*", "+@all",
    ]);
    let as_user = |username: Option<&str>, password: Option<&str>| SharedConfig {
        credentials: Credentials {
            username: username.map(str::to_owned),
            password: password.map(Secret::new),
        },
        ..redis.config()
    };
    for (username, password) in [
        (None, None),
        (None, Some("wrong")),
        (Some("nobody"), Some("x")),
    ] {
        let error = try_connect(&redis, &as_user(username, password)).await;
        let error = error.expect_err("may not");
        assert_eq!(error.trouble, Trouble::Denied, "{error}");
        assert!(!error.to_string().contains("wrong-password"));
    }
    let name = space(&redis).name("k");
    for (username, password) in [(None, Some("right")), (Some("open"), None)] {
        let tier = try_connect(&redis, &as_user(username, password))
            .await
            .expect("may");
        put(&tier, &name, &stamped(1)).await;
    }
    let reader = as_user(Some("reader"), Some("pass \"word"));
    let tier = try_connect(&redis, &reader).await.expect("may connect");
    assert!(tier.get(&name).await.expect("may read").is_some());
    assert_eq!(trouble(&tier, &name).await, Trouble::Denied);
    let other = raw_space(&redis, "other:").name("k");
    assert_eq!(
        tier.get(&other).await.expect_err("may not").trouble,
        Trouble::Denied
    );
    // Less than everything is enough for what is not essential.
    admin(&["ACL", "SETUSER", "reader", "-config", "-client|list"]);
    assert_eq!(tier.inspect().await.expect("works").append_sync, None);
}

#[tokio::test]
async fn a_redis_that_is_loading_is_not_ready() {
    let loading = |_: &str| Answer::Say("-LOADING Redis is loading the dataset in memory\r\n");
    let server = FakeServer::start(loading).await;
    let tier = server.connect().await.expect("connects");
    let redis = RedisServer::unix(&[]);
    let name = space(&redis).name("k");
    assert_eq!(
        tier.get(&name).await.expect_err("loading").trouble,
        Trouble::NotReady
    );
    assert_eq!(trouble(&tier, &name).await, Trouble::NotReady);
}

#[tokio::test]
async fn nonsense_is_an_error_and_nothing_worse() {
    let redis = RedisServer::unix(&[]);
    let name = space(&redis).name("k");
    let cases: [(Script, Trouble); 6] = [
        (|_| Answer::Say("hello\r\n"), Trouble::Lost),
        (|_| Answer::Say("$x\r\n"), Trouble::Lost),
        (|_| Answer::Say("$999999999999999999999\r\n"), Trouble::Lost),
        (|_| Answer::Say("*1\r\n$50\r\nab"), Trouble::Lost),
        (|_| Answer::Say(":7\r\n"), Trouble::Unexpected),
        (|_| Answer::Say("*0\r\n"), Trouble::Unexpected),
    ];
    for (index, (answer, wanted)) in cases.into_iter().enumerate() {
        let server = FakeServer::start(answer).await;
        let tier = server.connect().await.expect("connects");
        let error = tier.get(&name).await.expect_err("nonsense");
        assert_eq!(error.trouble, wanted, "case {index}: {error}");
        tier.close().await;
    }
}
