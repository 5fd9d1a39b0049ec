//! P11: the daemon starts, serves and stays ready with Redis absent, refusing, hanging, out of
//! memory, read-only, failing over or answering nonsense; no request fails because Redis did;
//! latency is near that of the local tier once Redis is known to be away; recovery is by itself.
//!
//! Proven for each fault, while eight callers go on putting, reading, and invalidating: no request
//! fails, each takes at most the command time-out and a little, most take a few milliseconds, a
//! caller reads what it wrote unless Redis was in contact since, `/readyz` says 200; and when the
//! fault is over the daemon attaches by itself and writes reach Redis again. What Redis refuses
//! (OOM, READONLY, NOREPLICAS, NOPERM) is not called APPLIED, and the other daemon does not go on
//! with the old value. Passwords are in no log. Attachment itself: TLS with and without a client
//! certificate, a unix socket, a database, users, Sentinel, Cluster.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant, SystemTime};

use pannier_proto::v1::{
    HealthRequest, PutRequest, SharedState, StatsRequest, TierOutcome, WriteOptions,
    admin_service_client::AdminServiceClient, write_options::Condition,
};
use pannier_tests::{
    Caller, Cluster, Daemon, Data, Mode, Path, Proxy, Redis, Sentinels,
    caller::{is_stale, state, value},
    eventually, shared, wire,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::transport::Channel;

/// As the daemons here are told.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_millis(700);
const CALLERS: usize = 8;

/// Whether the daemon was attached to Redis at any time since.
async fn was_attached_since(mut admin: AdminServiceClient<Channel>, since: SystemTime) -> bool {
    let stats = admin.stats(StatsRequest::default()).await.unwrap();
    let shared = stats.into_inner().shared.unwrap();
    // It keeps times in milliseconds.
    let since = since - Duration::from_millis(1);
    let ended = shared.history.into_iter().any(|change| {
        let at = SystemTime::try_from(change.time.unwrap()).unwrap();
        change.state() == SharedState::Detached && at >= since
    });
    ended || shared.state == SharedState::Attached as i32
}

/// Puts, reads, invalidates and reads keys of its own, and returns how long each request took.
///
/// What a daemon has put it serves, and while it is detached the whole time it does so for sure.
/// Otherwise Redis may have lost the entry, or its word of the put came before contact was lost:
/// that word names the key and not who changed it, so the copy counts as replaced.
async fn work(
    (caller, admin): (Caller, AdminServiceClient<Channel>),
    name: usize,
    rounds: usize,
) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut timed = |begun: Instant| times.push(begun.elapsed());
    for round in 0..rounds {
        let key = format!("{name}-{}", round % 3);
        let text = format!("{name}-{round}");
        let put_at = SystemTime::now();
        let begun = Instant::now();
        caller.put(&key, text.clone()).await;
        timed(begun);
        let begun = Instant::now();
        let reply = caller.get(&key).await;
        timed(begun);
        if let Some(got) = value(&reply) {
            assert_eq!(got, text, "not what it has written: {:?}", reply.provenance);
        } else if state(&reply) == SharedState::Detached {
            let excused = was_attached_since(admin.clone(), put_at).await;
            assert!(excused, "its own write is gone: {:?}", reply.provenance);
        }
        if round % 4 == 3 {
            let begun = Instant::now();
            caller.invalidate(&key).await;
            timed(begun);
            assert_eq!(caller.value(&key).await, None, "{key} was invalidated");
        }
    }
    times
}

/// Runs the callers against a daemon whose Redis is at fault.
async fn go_on(daemon: &Daemon, fault: &str) {
    let mut callers = JoinSet::new();
    for name in 0..CALLERS {
        let caller = Caller::new(daemon, "n");
        callers.spawn(work((caller, daemon.admin()), name, 40));
    }
    let mut times: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{fault}: p50 {:?}, p90 {:?}, max {:?}",
        at(50),
        at(90),
        at(100)
    );
    assert!(
        at(100) < COMMAND_TIMEOUT + SLACK,
        "{fault}: a request took {:?}",
        at(100)
    );
    assert!(
        at(50) < Duration::from_millis(50),
        "{fault}: half took {:?}",
        at(50)
    );
    let (status, _) = wire::http_get(daemon.http(), "/readyz").await.unwrap();
    assert_eq!(status, 200, "{fault}: not ready");
}

/// Waits until it is attached and a write reaches Redis.
async fn recovers(daemon: &Daemon, fault: &str) {
    let caller = Caller::new(daemon, "n");
    eventually(&format!("recovery from: {fault}"), async || {
        let put = caller.put("recovered", "v").await;
        put.shared_outcome() == TierOutcome::Applied
    })
    .await;
    shared::attached(daemon).await;
}

async fn fails_and_recovers(daemon: &Daemon, proxy: &Proxy, mode: Mode) {
    let fault = format!("{mode:?}");
    proxy.set(mode);
    // Opened before, so that it is the connections in use that meet it, too.
    go_on(daemon, &fault).await;
    if mode == Mode::Refuse {
        proxy.sever(Path::All);
        go_on(daemon, "Refuse after a reset").await;
    }
    proxy.set(Mode::Pass);
    recovers(daemon, &fault).await;
    go_on(daemon, &format!("after {fault}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_network_fails_a_request() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let daemon = shared::start(&proxy.url(), "").await;
    for mode in [
        Mode::Cut,
        Mode::Refuse,
        Mode::Silence,
        Mode::Garbage,
        Mode::Truncate(3),
        Mode::Truncate(5000),
        Mode::Drip(3, Duration::from_millis(20)),
        Mode::Delay(Duration::from_secs(5)),
        Mode::HoldReplies,
        Mode::HoldCommands,
    ] {
        fails_and_recovers(&daemon, &proxy, mode).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_may_fail_without_the_other() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let daemon = shared::start(&proxy.url(), "").await;
    for path in [Path::Tracking, Path::Data] {
        for mode in [Mode::Cut, Mode::Silence, Mode::Garbage] {
            let fault = format!("{mode:?} of {path:?}");
            proxy.set_for(path, mode);
            go_on(&daemon, &fault).await;
            proxy.set(Mode::Pass);
            recovers(&daemon, &fault).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_starts_without_redis_and_finds_it_later() {
    let mut redis = Redis::start();
    redis.kill();
    let begun = Instant::now();
    let daemon = shared::builder(&redis.url(), "").start();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it waited for Redis"
    );
    go_on(&daemon, "absent").await;
    let reply = Caller::new(&daemon, "n").get("0-0").await;
    assert_eq!(state(&reply), SharedState::Detached);
    let health = daemon
        .admin()
        .health(HealthRequest::default())
        .await
        .unwrap();
    let shared = health
        .get_ref()
        .parts
        .iter()
        .find(|part| part.name == "shared");
    let shared = shared.expect("the shared tier has a part");
    assert!(!shared.healthy && !shared.message.is_empty(), "{shared:?}");
    assert!(health.get_ref().serving);
    redis.restart(Data::Lost);
    recovers(&daemon, "absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_dies_stands_still_or_comes_back_fails_no_request() {
    let mut redis = Redis::builder().durable().start();
    let daemon = shared::start(&redis.url(), "").await;
    for data in [Data::Kept, Data::Lost] {
        redis.kill();
        go_on(&daemon, "killed").await;
        redis.restart(data);
        recovers(&daemon, "killed").await;
    }
    redis.freeze();
    go_on(&daemon, "stopped").await;
    redis.thaw();
    recovers(&daemon, "stopped").await;
    redis.kill_clients();
    go_on(&daemon, "clients killed").await;
    recovers(&daemon, "clients killed").await;
    redis.command(&["SCRIPT", "FLUSH"]);
    redis.command(&["FLUSHALL"]);
    go_on(&daemon, "flushed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_loading_is_waited_for_by_nobody() {
    let mut redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    let fill = "for index = 1, 10000 do redis.call('SET', 'filling:' .. index, index) end";
    redis.command(&["EVAL", fill, "0"]);
    assert!(redis.command(&["SAVE"]).is_ok());
    // Loads for seconds, and looks at its clients meanwhile.
    redis.set_for_restart("key-load-delay", "300");
    redis.set_for_restart("loading-process-events-interval-bytes", "1024");
    redis.relaunch(Data::Kept);
    eventually("Redis is loading", async || {
        let reply = redis.try_command(&["GET", "k"]);
        reply.is_ok_and(|reply| reply.is_error() && reply.text().starts_with("LOADING"))
    })
    .await;
    go_on(&daemon, "loading").await;
    let begun = Instant::now();
    recovers(&daemon, "loading").await;
    println!("loaded after {:?}", begun.elapsed());
}

/// Two daemons with a value that the second holds at home; the first is refused a newer one.
async fn refused_write(redis: &Redis, fault: &str, refuse: &[&str], allow: &[&str]) {
    let url = redis.url();
    let writer = shared::start(&url, "").await;
    let reader = shared::start(&url, "").await;
    let (first, second) = (Caller::new(&writer, "n"), Caller::new(&reader, "n"));
    first.put("k", "old").await;
    second.has_local("k", b"old").await;
    assert!(redis.command(refuse).is_ok(), "{refuse:?}");
    let put = first.put("k", "new").await;
    assert_eq!(put.local_outcome(), TierOutcome::Applied, "{fault}");
    assert_ne!(put.shared_outcome(), TierOutcome::Applied, "{fault}");
    assert_eq!(
        first.value("k").await.unwrap(),
        "new",
        "{fault}: its own write"
    );
    go_on(&writer, fault).await;
    assert!(redis.command(allow).is_ok(), "{allow:?}");
    recovers(&writer, fault).await;
    eventually("the old value is served by nobody", async || {
        let reply = second.get("k").await;
        value(&reply).is_none_or(|it| it != "old") && !is_stale(&reply)
    })
    .await;
    let put = first.put("k", "newest").await;
    assert_eq!(put.shared_outcome(), TierOutcome::Applied, "{fault}");
    second.becomes("k", Some(b"newest")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_out_of_memory_is_no_failure() {
    let redis = Redis::builder().memory("0", "noeviction").start();
    refused_write(
        &redis,
        "out of memory",
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CONFIG", "SET", "maxmemory", "0"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_became_a_replica_is_no_failure() {
    let redis = Redis::start();
    // Nobody is the master; it answers READONLY.
    refused_write(
        &redis,
        "read-only",
        &["REPLICAOF", "127.0.0.1", "1"],
        &["REPLICAOF", "NO", "ONE"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_enough_replicas_is_no_failure() {
    let redis = Redis::start();
    refused_write(
        &redis,
        "no replicas",
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_no_failure_and_in_no_log() {
    let redis = Redis::builder().password("right-secret").start();
    let url = redis.url().replace("right-secret", "wrong-secret");
    let daemon = shared::builder(&url, "").start();
    go_on(&daemon, "wrong password").await;
    let health = daemon
        .admin()
        .health(HealthRequest::default())
        .await
        .unwrap();
    let said = format!("{:?}\n{}", health.get_ref(), daemon.stderr());
    assert!(!said.contains("wrong-secret"), "{said}");
    let shared = health
        .get_ref()
        .parts
        .iter()
        .find(|part| part.name == "shared");
    assert!(shared.is_some_and(|part| !part.healthy), "{said}");
    assert!(
        redis
            .command(&["CONFIG", "SET", "requirepass", "wrong-secret"])
            .is_ok()
    );
    recovers(&daemon, "wrong password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_may_change_at_any_time() {
    let all = ["on", ">pass", "~*", "&*", "+@all"];
    let redis = Redis::builder().user("pannier", &all.join(" ")).start();
    let daemon = shared::start(&redis.url_as("pannier", "pass"), "").await;
    let set = |rules: &[&str]| {
        let command = [&["ACL", "SETUSER", "pannier"], rules].concat();
        assert!(redis.command(&command).is_ok(), "{rules:?}");
    };
    for rules in [&["-@write"][..], &["-@read"], &["resetkeys", "~other:*"]] {
        set(rules);
        go_on(&daemon, &format!("{rules:?}")).await;
        set(&all);
        recovers(&daemon, &format!("{rules:?}")).await;
    }
    assert_eq!(redis.command(&["ACL", "DELUSER", "pannier"]).integer(), 1);
    go_on(&daemon, "no such user").await;
    set(&all);
    recovers(&daemon, "no such user").await;
    assert!(!daemon.stderr().contains("pass@") && !daemon.stderr().contains(":pass"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_may_be_flushed_at_any_time() {
    let redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    let mut version = caller.put("k", "0").await.version;
    for round in 1..20 {
        redis.command(&["SCRIPT", "FLUSH"]);
        let options = WriteOptions {
            condition: Some(Condition::IfVersion(version)),
            ..WriteOptions::default()
        };
        let put = PutRequest {
            options: Some(options),
            ..caller.put_request("k", round.to_string())
        };
        let put = caller.try_put(put).await.unwrap();
        assert_eq!(put.shared_outcome(), TierOutcome::Applied);
        version = put.version;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_both_ways() {
    let redis = Redis::builder().tls(true).start();
    let files = redis.certificates();
    let (certificate, key) = files.client();
    let (authority, stranger) = (files.authority(), files.stranger());
    let client = format!(
        "cert_file = \"{}\"\nkey_file = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    let trust = |file: &std::path::Path| format!("ca_file = \"{}\"\n", file.display());
    let good = shared::start(&redis.url(), &format!("{}{client}", trust(&authority))).await;
    let put = Caller::new(&good, "n").put("k", "v").await;
    assert_eq!(put.shared_outcome(), TierOutcome::Applied);
    for (fault, more) in [
        ("unknown authority", format!("{}{client}", trust(&stranger))),
        ("system's authorities", client.clone()),
        ("no client certificate", trust(&authority)),
    ] {
        let daemon = shared::builder(&redis.url(), &more).start();
        go_on(&daemon, fault).await;
        let health = daemon
            .admin()
            .health(HealthRequest::default())
            .await
            .unwrap();
        let shared = health
            .get_ref()
            .parts
            .iter()
            .find(|part| part.name == "shared");
        assert!(
            shared.is_some_and(|part| !part.healthy),
            "{fault}: {shared:?}"
        );
        assert_eq!(
            daemon.stats().await.shared_state(),
            SharedState::Detached,
            "{fault}"
        );
    }
    // A certificate for another name.
    let elsewhere = redis.url().replace("localhost", "127.0.0.2");
    let daemon = shared::builder(&elsewhere, &format!("{}{client}", trust(&authority))).start();
    go_on(&daemon, "another name").await;
    assert_eq!(daemon.stats().await.shared_state(), SharedState::Detached);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_a_database_and_a_password_file_serve_too() {
    let redis = Redis::builder().unix_socket().password("secret").start();
    let file = redis.home().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let more = format!("password_file = \"{}\"", file.display());
    let by_socket = shared::start(&format!("{}?db=3", redis.unix_url()), &more).await;
    let by_port = shared::start(&format!("{}/3", redis.url()), "").await;
    Caller::new(&by_socket, "n").put("k", "v").await;
    Caller::new(&by_port, "n").has_local("k", b"v").await;
    let mut connection = redis.connection().unwrap();
    connection.command(&["SELECT", "3"]).unwrap();
    let there = connection
        .command(&["EXISTS", &shared::key("n", "k")])
        .unwrap();
    assert_eq!(there.integer(), 1);
    Caller::new(&by_port, "n").invalidate("k").await;
    Caller::new(&by_socket, "n").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_sentinels_is_followed() {
    let mut sentinels = Sentinels::start().await;
    let url = sentinels.url();
    let (near, other) = (shared::start(&url, "").await, shared::start(&url, "").await);
    let (caller, witness) = (Caller::new(&near, "n"), Caller::new(&other, "n"));
    caller.put("k", "old").await;
    witness.has_local("k", b"old").await;
    let old = sentinels.master().unwrap();
    sentinels.server(old).kill();
    go_on(&near, "master killed").await;
    let gone = caller.invalidate("k").await;
    assert_ne!(gone.shared_outcome(), TierOutcome::Failed);
    assert_eq!(caller.value("k").await, None);
    recovers(&near, "failover").await;
    recovers(&other, "failover").await;
    let new = sentinels.master().expect("the daemons have found it");
    assert_ne!(new, old);
    for (it, who) in [(&caller, "who removed it"), (&witness, "the other one")] {
        let gone = timeout(Duration::from_secs(20), it.becomes("k", None)).await;
        let histories = [near.stats().await, other.stats().await].map(|it| it.shared);
        assert!(gone.is_ok(), "{who}\n{}{histories:#?}", sentinels.story());
    }
    // The old master comes back and is made a replica: nothing of it is believed.
    sentinels.server(old).restart(Data::Lost);
    caller.put("k", "new").await;
    go_on(&near, "the old master is back").await;
    witness.becomes("k", Some(b"new")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_may_move_slots_and_lose_masters() {
    let mut cluster = Cluster::start_with_replicas().await;
    let url = cluster.url();
    let (near, other) = (shared::start(&url, "").await, shared::start(&url, "").await);
    let (caller, witness) = (Caller::new(&near, "n"), Caller::new(&other, "n"));
    let keys: Vec<_> = (0..30).map(|index| format!("k{index}")).collect();
    for key in &keys {
        let put = caller.put(key, "1").await;
        assert_eq!(put.shared_outcome(), TierOutcome::Applied);
        witness.has_local(key, b"1").await;
    }
    // Every master reports its own keys, and a scan asks them all.
    for key in &keys[..10] {
        caller.put(key, "2").await;
        witness.becomes(key, Some(b"2")).await;
    }
    caller
        .invalidate_by(pannier_proto::v1::invalidate_request::Target::Prefix(
            "k2".into(),
        ))
        .await;
    for key in keys.iter().filter(|key| key.starts_with("k2")) {
        witness.becomes(key, None).await;
    }

    let slot = cluster.slot(&shared::key("n", "k1"));
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    let attachments = near.stats().await.shared.unwrap().attachments;
    cluster.begin_migration(slot, to);
    go_on(&near, "slot is being moved").await;
    caller.put("k1", "half moved").await;
    witness.becomes("k1", Some(b"half moved")).await;
    // A slot may take hours to move: nobody is detached for that.
    let stats = near.stats().await;
    assert_eq!(stats.shared_state(), SharedState::Attached);
    assert_eq!(stats.shared.unwrap().attachments, attachments);
    cluster.finish_migration(slot, to);
    go_on(&near, "slot was moved").await;
    recovers(&near, "slot was moved").await;
    recovers(&other, "slot was moved").await;
    caller.put("k1", "moved").await;
    witness.becomes("k1", Some(b"moved")).await;

    cluster.node(to).kill();
    go_on(&near, "master of a cluster killed").await;
    let gone = caller.invalidate("k1").await;
    assert_ne!(gone.shared_outcome(), TierOutcome::Failed);
    assert_eq!(caller.value("k1").await, None);
    recovers(&near, "failover of a cluster").await;
    recovers(&other, "failover of a cluster").await;
    witness.becomes("k1", None).await;
    caller.put("k1", "after").await;
    witness.becomes("k1", Some(b"after")).await;
}
