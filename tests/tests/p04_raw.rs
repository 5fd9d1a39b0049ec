//! P4, interop: a namespace in `raw` mode keeps plain strings under plain keys, for programs that
//! use the same Redis directly.
//!
//! Proven: what a put leaves in Redis is the value and nothing else, under the key and the prefix
//! of the namespace, with its lifetime; what others SET is found, with the lifetime they gave, or
//! the namespace's longest when they gave none; what they change, expire or delete is no longer
//! served by any daemon; keys of another type are misses and stay unharmed; after a gap nothing old
//! is served as fresh although plain strings have no stamps; an invalidation of an outage is
//! applied.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use pannier_proto::v1::{Tier, TierOutcome, invalidate_request::Target};
use pannier_tests::{
    Caller, Daemon, Mode, Proxy, Redis, Reply,
    caller::{is_stale, outcomes, tier, value},
    load::noise,
    request, shared,
};

const CONFIG: &str = "
[namespaces.plain]
raw = true
max_ttl = \"10m\"
ttl = \"5m\"
raw_prefix = \"app:\"
";

async fn two(redis: &Redis) -> (Daemon, Daemon) {
    let url = redis.url();
    tokio::join!(shared::start(&url, CONFIG), shared::start(&url, CONFIG))
}

fn lifetime(reply: &pannier_proto::v1::GetResponse) -> i64 {
    let entry = reply.entry.as_ref().expect("a hit");
    let end = request::epoch_milliseconds(entry.expire_time.as_ref());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    end - i64::try_from(now.unwrap().as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_a_plain_string() {
    let redis = Redis::start();
    let (writer, reader) = two(&redis).await;
    let (writer, reader) = (Caller::new(&writer, "plain"), Caller::new(&reader, "plain"));
    for bytes in [noise(1, 0), noise(1, 7), noise(1, 300 << 10)] {
        let put = writer.put_for("user:1", bytes.clone(), 60_000).await;
        assert_eq!(outcomes(&put), (TierOutcome::Applied, TierOutcome::Applied));
        let plain = redis.command(&["GET", "app:user:1"]);
        assert!(plain.bytes() == Some(&bytes[..]), "{} bytes", bytes.len());
        let left = redis.command(&["PTTL", "app:user:1"]).integer();
        assert!((55_000..=60_000).contains(&left), "{left} ms");
        reader.becomes("user:1", Some(&bytes)).await;
        reader.has_local("user:1", &bytes).await;
        writer.becomes("user:1", Some(&bytes)).await;
    }
    assert_eq!(redis.command(&["KEYS", "*"]).array().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_found_with_its_lifetime() {
    let redis = Redis::start();
    let (daemon, _) = two(&redis).await;
    let caller = Caller::new(&daemon, "plain");
    redis.command(&["SET", "app:k", "theirs", "PX", "30000"]);
    let reply = caller.get("k").await;
    assert_eq!(
        (value(&reply).unwrap(), tier(&reply)),
        ("theirs".into(), Tier::Shared)
    );
    assert!(
        (25_000..=30_050).contains(&lifetime(&reply)),
        "{}",
        lifetime(&reply)
    );
    caller.has_local("k", b"theirs").await;
    redis.command(&["SET", "app:eternal", "theirs"]);
    let reply = caller.get("eternal").await;
    assert_eq!(value(&reply).unwrap(), "theirs");
    assert!(
        (500_000..=600_050).contains(&lifetime(&reply)),
        "{}",
        lifetime(&reply)
    );
    assert_eq!(
        redis.command(&["PTTL", "app:eternal"]).integer(),
        -1,
        "theirs to decide"
    );
    redis.command(&["SET", "app:k", ""]);
    caller.becomes("k", Some(b"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_is_no_longer_served() {
    let redis = Redis::start();
    let (first, second) = two(&redis).await;
    let (first, second) = (Caller::new(&first, "plain"), Caller::new(&second, "plain"));
    let commands: [(&[&str], Option<&[u8]>); 5] = [
        (&["SET", "app:k", "theirs"], Some(b"theirs")),
        (&["APPEND", "app:k", "+"], Some(b"ours+")),
        (&["DEL", "app:k"], None),
        (&["PEXPIRE", "app:k", "1"], None),
        (&["FLUSHALL"], None),
    ];
    for (command, expected) in commands {
        first.put("k", "ours").await;
        first.has_local("k", b"ours").await;
        second.has_local("k", b"ours").await;
        redis.command(command);
        for caller in [&first, &second] {
            caller.becomes("k", expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_a_miss_and_stays() {
    let redis = Redis::start();
    let (daemon, _) = two(&redis).await;
    let caller = Caller::new(&daemon, "plain");
    redis.command(&["RPUSH", "app:list", "a", "b"]);
    assert_eq!(caller.value("list").await, None);
    assert_eq!(redis.command(&["LLEN", "app:list"]).integer(), 2);
    caller.put("k", "v").await;
    assert_eq!(
        caller.value("k").await.unwrap(),
        "v",
        "the daemon is not confused"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_removes_plain_keys_and_no_others() {
    let redis = Redis::start();
    let (first, second) = two(&redis).await;
    let (first, second) = (Caller::new(&first, "plain"), Caller::new(&second, "plain"));
    redis.command(&["SET", "other:1", "not ours"]);
    for target in [
        Target::Prefix("k".into()),
        Target::Pattern("k?".into()),
        Target::All(true),
    ] {
        redis.command(&["MSET", "app:k1", "v", "app:k2", "v"]);
        second.becomes("k1", Some(b"v")).await;
        first.invalidate_by(target).await;
        second.becomes("k1", None).await;
        assert_eq!(redis.command(&["KEYS", "app:*"]), Reply::Array(Vec::new()));
    }
    assert_eq!(redis.command(&["GET", "other:1"]).text(), "not ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_survived_without_stamps() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let daemon = shared::start(&proxy.url(), CONFIG).await;
    let caller = Caller::new(&daemon, "plain");
    for key in ["changed", "deleted", "same", "invalidated"] {
        redis.command(&["SET", &format!("app:{key}"), "old"]);
        caller.has_local(key, b"old").await;
    }
    proxy.set(Mode::Cut);
    shared::detached(&daemon).await;
    redis.command(&["SET", "app:changed", "new"]);
    redis.command(&["DEL", "app:deleted"]);
    let reply = caller.get("changed").await;
    assert_eq!(
        (value(&reply).unwrap(), is_stale(&reply)),
        ("old".into(), true)
    );
    let gone = caller.invalidate("invalidated").await;
    assert_eq!(gone.shared_outcome(), TierOutcome::Deferred);
    assert_eq!(caller.value("invalidated").await, None);
    proxy.set(Mode::Pass);
    shared::attached(&daemon).await;
    let first = caller.get("changed").await;
    assert_eq!(
        (value(&first).unwrap(), is_stale(&first)),
        ("new".into(), false)
    );
    assert_eq!(caller.value("deleted").await, None);
    assert_eq!(caller.value("same").await.unwrap(), "old");
    assert_eq!(caller.value("invalidated").await, None);
    assert_eq!(redis.command(&["EXISTS", "app:invalidated"]).integer(), 0);
}
