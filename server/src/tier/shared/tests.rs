use std::slice;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

use super::{
    testing::{Certificates, RedisServer},
    *,
};
use crate::{
    config::{Config, Overrides, Policy},
    glob::Glob,
    key::{EntryName, NamespaceName},
    tier::{
        Leased, Tier,
        conformance::{self, record},
        local::Selection,
    },
};

mod cluster;
mod fake;
mod faults;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
const OURS: &str = "pannier-test";

pub(super) fn policy() -> Policy {
    let flags = Overrides {
        data_dir: Some("/nonexistent".into()),
        ..Overrides::default()
    };
    Config::load(&flags, &|_| None)
        .expect("defaults are good")
        .defaults
}

pub(super) fn space(redis: &RedisServer) -> SharedSpace {
    let namespace = NamespaceName::new("n").expect("valid");
    SharedSpace::new(&redis.config(), &namespace, &policy())
}

pub(super) fn raw_space(redis: &RedisServer, prefix: &str) -> SharedSpace {
    let namespace = NamespaceName::new("raw").expect("valid");
    let policy = Policy {
        raw: true,
        raw_prefix: prefix.into(),
        ..policy()
    };
    SharedSpace::new(&redis.config(), &namespace, &policy)
}

pub(super) async fn try_connect(redis: &RedisServer, config: &SharedConfig) -> Result<SharedTier> {
    let target = Target::One(redis.address());
    SharedTier::connect(&target, config, None, Clock::system(), OURS).await
}

pub(super) async fn connect(redis: &RedisServer) -> SharedTier {
    let tier = try_connect(redis, &redis.config()).await;
    tier.expect("connects")
}

/// A record of 100 bytes whose stamp is `stamp` as a big-endian number.
pub(super) fn stamped(stamp: u128) -> Record {
    let entry = Entry {
        value: Bytes::from(vec![7; 100]),
        attributes: Attributes::default(),
        negative: false,
    };
    let time = Timestamp::from_millis(1_800_000_000_000);
    let stamp = Stamp::from_bytes(stamp.to_be_bytes());
    Record::encode(&entry, stamp, time, time, Compression::None).expect("encodes")
}

async fn put(tier: &SharedTier, name: &SharedName, record: &Record) {
    let stored = tier.put(name, record, MINUTE, Condition::Always).await;
    assert_eq!(stored.expect("works"), Stored::Written);
}

async fn found(tier: &SharedTier, name: &SharedName) -> Option<Record> {
    tier.get(name)
        .await
        .expect("works")
        .map(|found| found.record)
}

async fn holds(tier: &SharedTier, name: &SharedName, record: &Record) -> bool {
    found(tier, name)
        .await
        .is_some_and(|it| it.as_bytes() == record.as_bytes())
}

/// A tier for the suite. Redis' clock does not follow the mock clock, so all lifetimes in Redis
/// are shortened by what the mock clock has moved since the last call.
struct Adapted {
    tier: SharedTier,
    shared: SharedConfig,
    policy: Policy,
    seen: Mutex<Timestamp>,
}

impl Adapted {
    async fn follow(&self) -> Timestamp {
        let mut seen = self.seen.lock().await;
        let now = self.tier.clock.now();
        let passed = i64::try_from(now.since(*seen).as_millis()).expect("short");
        *seen = now;
        if passed == 0 {
            return now;
        }
        let call = async |call| self.tier.connection.call(call).await.expect("works");
        let Value::Array(keys) = call(Call::named("KEYS").text("*")).await else {
            panic!("KEYS replies with a list");
        };
        for key in keys.into_iter().filter_map(bytes_of) {
            let left = call(Call::named("PTTL").key(&key)).await;
            let left = left.as_i64().expect("a number");
            // A lifetime that is not positive removes the key.
            call(Call::named("PEXPIRE").key(&key).number(left - passed)).await;
        }
        now
    }

    fn name(&self, name: &EntryName) -> SharedName {
        let (bytes, key) = (
            name.as_bytes(),
            EntryName::key_of(name.as_bytes()).expect("a name"),
        );
        let namespace = &bytes[..bytes.len() - key.len() - 1];
        let text = |bytes| std::str::from_utf8(bytes).expect("UTF-8");
        let namespace = NamespaceName::new(text(namespace)).expect("valid");
        SharedName::new(&self.shared, &namespace, &self.policy, text(key))
    }
}

impl Tier for Adapted {
    async fn get(&self, name: &EntryName) -> crate::error::Result<Option<Found>> {
        let now = self.follow().await;
        let found = self.tier.get(&self.name(name)).await.expect("works");
        Ok(found.filter(|found| now < found.expires))
    }

    async fn put(
        &self,
        name: &EntryName,
        record: &Record,
        expires: Timestamp,
    ) -> crate::error::Result<()> {
        let lifetime = expires.since(self.follow().await);
        let stored = self
            .tier
            .put(&self.name(name), record, lifetime, Condition::Always)
            .await;
        assert_eq!(stored.expect("works"), Stored::Written);
        Ok(())
    }

    async fn delete(&self, name: &EntryName) -> crate::error::Result<bool> {
        self.follow().await;
        let removed = self.tier.delete(&[self.name(name)]).await;
        Ok(removed.expect("works") > 0)
    }
}

#[tokio::test]
async fn the_shared_tier_conforms() {
    conformance::check_within(Duration::from_secs(10), |clock| async move {
        let redis = RedisServer::unix(&[]);
        let shared = redis.config();
        let target = Target::One(redis.address());
        let tier = SharedTier::connect(&target, &shared, None, clock.clone(), OURS).await;
        let adapted = Adapted {
            tier: tier.expect("connects"),
            shared,
            policy: policy(),
            seen: Mutex::new(clock.now()),
        };
        (adapted, redis)
    })
    .await;
}

#[tokio::test]
async fn any_key_and_any_value_come_back() {
    let redis = RedisServer::tcp(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let end = Clock::system().now().after(MINUTE);
    for (seed, size) in [0, 1, 1 << 20, 4 << 20].into_iter().enumerate() {
        let name = space.name(&format!("size-{size}"));
        let record = record(seed as u64, size, end);
        put(&tier, &name, &record).await;
        assert!(holds(&tier, &name, &record).await, "{size} bytes");
    }
    for key in ["\0", "a b", "a\r\nb", "{tag}*?[", "ü€😀", &"k".repeat(1024)] {
        let (name, record) = (space.name(key), record(9, 10, end));
        put(&tier, &name, &record).await;
        assert!(holds(&tier, &name, &record).await, "{key:?}");
        assert_eq!(tier.delete(&[name]).await.expect("works"), 1);
    }
}

#[tokio::test]
async fn the_lifetime_is_written_with_the_value_and_read_with_it() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let (name, record) = (space.name("k"), stamped(1));
    put(&tier, &name, &record).await;
    let left: u64 = redis
        .cli(&["PTTL", "pannier:n:k"])
        .parse()
        .expect("a number");
    assert!((50_000..=60_000).contains(&left), "{left}");
    let got = tier.get(&name).await.expect("works").expect("is there");
    let there = tier.check(&name).await.expect("works").expect("is there");
    assert_eq!(
        (there.record.stamp, there.record.content),
        (record.head().stamp, Content::Value)
    );
    let now = tier.clock.now();
    for expires in [got.expires, there.expires] {
        assert!(expires <= now.after(MINUTE) && expires > now.after(MINUTE / 2));
    }
    // Longer than the namespace allows: cut. Zero: the shortest there is.
    let long = Duration::from_secs(u64::MAX / 2000);
    tier.put(&name, &record, long, Condition::Always)
        .await
        .expect("works");
    let max = policy().max_ttl.0;
    let left: u128 = redis
        .cli(&["PTTL", "pannier:n:k"])
        .parse()
        .expect("a number");
    assert!(left <= max.as_millis() && left > max.as_millis() / 2);
    tier.put(&name, &record, Duration::ZERO, Condition::Always)
        .await
        .expect("works");
    while found(&tier, &name).await.is_some() {}
    assert_eq!(tier.check(&name).await.expect("works"), None);
}

#[tokio::test]
async fn what_others_left_without_an_end_gets_one() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, raw_space(&redis, ""));
    redis.cli(&["SET", "plain", "hello"]);
    let got = tier
        .get(&space.name("plain"))
        .await
        .expect("works")
        .expect("is there");
    let end = tier.clock.now().after(policy().max_ttl.0);
    assert!(got.expires <= end && end.since(got.expires) < MINUTE);
}

#[tokio::test]
async fn a_lease_is_given_once_and_is_nothing_to_others() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let (name, time) = (space.name("k"), Timestamp::from_millis(1));
    let stamp = |number: u8| Stamp::from_bytes([number; 16]);
    let ask = async |number| {
        let lease = Record::lease(stamp(number), time, time);
        tier.lease(&name, &lease, MINUTE).await.expect("works")
    };
    let put = async |record: &Record, condition| {
        let stored = tier.put(&name, record, MINUTE, condition).await;
        stored.expect("works")
    };
    let before = Clock::system().now();
    assert_eq!(ask(1).await, Leased::Given);
    let Leased::Held(until) = ask(2).await else {
        panic!("somebody has it");
    };
    // Redis counts in whole milliseconds, down.
    let left = until.since(before) + Duration::from_millis(2);
    assert!((MINUTE..MINUTE * 2).contains(&left), "{left:?}");
    assert!(found(&tier, &name).await.is_none());
    assert_eq!(tier.check(&name).await.expect("works"), None);
    assert_eq!(tier.corrupt(), 0, "and not damaged");
    // Conditions.
    let value = stamped(9);
    let version = Condition::Version(stamp(2));
    for condition in [version, Condition::Lease(stamp(2))] {
        assert_eq!(put(&value, condition).await, Stored::Refused);
    }
    assert_eq!(
        put(&value, Condition::Lease(stamp(1))).await,
        Stored::Written
    );
    assert_eq!(
        put(&value, Condition::Lease(stamp(1))).await,
        Stored::Refused
    );
    assert_eq!(ask(3).await, Leased::Taken);
    for condition in [Condition::Absent, Condition::AbsentOrSame] {
        tier.delete(slice::from_ref(&name)).await.expect("works");
        assert_eq!(ask(4).await, Leased::Given);
        assert_eq!(put(&value, condition).await, Stored::Written);
        assert!(holds(&tier, &name, &value).await);
        assert!(!tier.remove_lease(&name, stamp(4)).await.expect("works"));
    }
    // Given back.
    tier.delete(slice::from_ref(&name)).await.expect("works");
    assert_eq!(ask(5).await, Leased::Given);
    assert!(!tier.remove_lease(&name, stamp(6)).await.expect("works"));
    assert!(tier.remove_lease(&name, stamp(5)).await.expect("works"));
    assert_eq!(ask(6).await, Leased::Given);
    // The removal of what is older knows its age.
    assert!(!tier.remove_older(&name, &stamp(5)).await.expect("works"));
    assert!(tier.remove_older(&name, &stamp(7)).await.expect("works"));
    // A version without its value.
    put(&value.without_value(), Condition::Always).await;
    assert_eq!(ask(7).await, Leased::Withheld);
    let mark = async || tier.mark_refresh("pannier:", &stamp(1), MINUTE).await;
    assert!(mark().await.expect("works") && !mark().await.expect("works"));
}

#[tokio::test]
async fn conditions_are_decided_by_redis() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    let (first, second) = (stamped(1), stamped(2));
    let other = record(5, 10, Clock::system().now().after(MINUTE));
    let put = async |record: &Record, condition| {
        tier.put(&name, record, MINUTE, condition)
            .await
            .expect("works")
    };
    let is_first = Condition::Version(first.head().stamp);
    assert_eq!(
        put(&second, is_first).await,
        Stored::Refused,
        "nothing is there"
    );
    assert_eq!(put(&first, Condition::Absent).await, Stored::Written);
    assert_eq!(put(&second, Condition::Absent).await, Stored::Refused);
    assert_eq!(put(&second, is_first).await, Stored::Written);
    assert_eq!(put(&first, is_first).await, Stored::Refused);
    // The same value under another version is kept as it is.
    let kept = put(&first, Condition::AbsentOrSame).await;
    assert!(matches!(kept, Stored::Kept { head, .. } if head.stamp == second.head().stamp));
    assert_eq!(put(&other, Condition::AbsentOrSame).await, Stored::Refused);
    assert!(holds(&tier, &name, &second).await);
    assert_eq!(tier.delete(slice::from_ref(&name)).await.expect("works"), 1);
    assert_eq!(put(&other, Condition::AbsentOrSame).await, Stored::Written);
    let left: u64 = redis
        .cli(&["PTTL", "pannier:n:k"])
        .parse()
        .expect("a number");
    assert!(left > 50_000, "{left}");
}

#[tokio::test]
async fn only_what_is_older_is_removed() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    // Bytes above 127 come after those below: no locale, no sign.
    let stamps = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x0100,
        0xff << 64,
        0x80 << 120,
        u128::MAX,
    ];
    for there in stamps {
        for than in stamps {
            put(&tier, &name, &stamped(there)).await;
            let than_stamp = Stamp::from_bytes(than.to_be_bytes());
            let removed = tier.remove_older(&name, &than_stamp).await.expect("works");
            assert_eq!(removed, there < than, "{there:x} older than {than:x}");
            assert_eq!(found(&tier, &name).await.is_none(), removed);
        }
    }
    let highest = Stamp::from_bytes([0xff; 16]);
    let lowest = Stamp::from_bytes([0; 16]);
    for command in [
        &["SET", "pannier:n:k", ""],
        &["SET", "pannier:n:k", "no record at all, at all"],
        &["RPUSH", "pannier:n:k", "1"],
    ] {
        tier.delete(slice::from_ref(&name)).await.expect("works");
        redis.cli(command);
        assert!(
            tier.remove_older(&name, &lowest).await.expect("works"),
            "{command:?}"
        );
    }
    assert!(
        !tier.remove_older(&name, &highest).await.expect("works"),
        "nothing is there"
    );
    let raw = raw_space(&redis, "raw:").name("k");
    put(&tier, &raw, &stamped(9)).await;
    assert!(tier.remove_older(&raw, &lowest).await.expect("works"));
}

#[tokio::test]
async fn scripts_survive_being_forgotten() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    let highest = Stamp::from_bytes([0xff; 16]);
    for _ in 0..3 {
        put(&tier, &name, &stamped(1)).await;
        assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
        assert!(tier.remove_older(&name, &highest).await.expect("works"));
    }
    for index in 0..10 {
        put(&tier, &space.name(&index.to_string()), &stamped(1)).await;
    }
    redis.cli(&["SCRIPT", "FLUSH"]);
    let removed = tier
        .remove_selected(&space, &Selection::All, Some(&highest))
        .await;
    assert_eq!(removed.expect("works"), 10);
}

#[tokio::test]
async fn digests_are_those_of_the_scripts() {
    let redis = RedisServer::unix(&[]);
    for script in [&PUT_VERSION, &scripts::REMOVE_SAME, &scripts::REMOVE_OLDER] {
        let (digest, source) = script.parts();
        assert_eq!(redis.cli(&["SCRIPT", "LOAD", source]), digest);
    }
}

#[tokio::test]
async fn a_damaged_record_is_a_miss_and_goes() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let name = space.name("k");
    let mut bytes = stamped(1).as_bytes().to_vec();
    bytes[150] ^= 1;
    let value = Bytes::from(bytes);
    for (count, damaged) in [
        (1, value),
        (2, Bytes::from_static(b"short")),
        (3, Bytes::new()),
    ] {
        tier.set(&name, damaged, 60_000, false)
            .await
            .expect("works");
        assert!(found(&tier, &name).await.is_none());
        assert_eq!(
            (tier.corrupt(), redis.cli(&["DBSIZE"]).as_str()),
            (count, "0")
        );
    }
    // Not if it has been replaced meanwhile.
    let good = stamped(1);
    put(&tier, &name, &good).await;
    tier.remove_damaged(&name, &Bytes::from_static(b"something else"))
        .await;
    assert!(holds(&tier, &name, &good).await);
}

#[tokio::test]
async fn what_is_no_string_is_a_miss() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    redis.cli(&["RPUSH", "pannier:n:k", "1"]);
    let name = space.name("k");
    assert!(found(&tier, &name).await.is_none());
    assert_eq!(tier.check(&name).await.expect("works"), None);
    let record = stamped(1);
    let stamp = Condition::Version(record.head().stamp);
    for condition in [Condition::Absent, Condition::AbsentOrSame, stamp] {
        let stored = tier.put(&name, &record, MINUTE, condition).await;
        assert_eq!(stored.expect("works"), Stored::Refused);
    }
    put(&tier, &name, &record).await;
    assert!(holds(&tier, &name, &record).await);
}

#[tokio::test]
async fn raw_values_are_what_redis_programs_see() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, raw_space(&redis, "app:"));
    let name = space.name("k");
    redis.cli(&["SET", "app:k", "hello", "PX", "50000"]);
    let got = tier.get(&name).await.expect("works").expect("is there");
    let entry = got.record.entry().expect("decodes");
    assert_eq!(
        (&*entry.value, entry.attributes.is_empty()),
        (&b"hello"[..], true)
    );
    assert_eq!(got.record.head().stamp, raw_stamp(b"hello"));
    assert_eq!(
        Record::check(got.record.as_bytes()).expect("a record"),
        *got.record.head()
    );
    put(&tier, &name, &stamped(1)).await;
    assert_eq!(redis.cli(&["STRLEN", "app:k"]), "100");
    assert_ne!(redis.cli(&["PTTL", "app:k"]), "-1");
    let condition = Condition::Version(raw_stamp(b"hello"));
    let error = tier.put(&name, &stamped(1), MINUTE, condition).await;
    assert_eq!(error.expect_err("no versions").trouble, Trouble::Unexpected);
    // What looks like a redirection is a value like any other.
    redis.cli(&["SET", "app:k", "MOVED 1 127.0.0.1:1"]);
    assert!(found(&tier, &name).await.is_some());
    redis.cli(&["SET", "app:k", ""]);
    assert_eq!(
        found(&tier, &name).await.expect("empty").head().value_bytes,
        0
    );
}

#[tokio::test]
async fn thousands_of_names_go_at_once() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let names: Vec<_> = (0..1000)
        .map(|index| space.name(&index.to_string()))
        .collect();
    for name in &names {
        put(&tier, name, &stamped(1)).await;
    }
    assert_eq!(redis.cli(&["DBSIZE"]), "1000");
    assert_eq!(tier.delete(&names).await.expect("works"), 1000);
    assert_eq!(tier.delete(&names).await.expect("works"), 0);
    assert_eq!(tier.delete(&[]).await.expect("works"), 0);
}

#[tokio::test]
async fn selections_take_what_they_name_and_nothing_else() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let fill = async || {
        redis.cli(&["FLUSHALL"]);
        for index in 0..2500 {
            put(&tier, &space.name(&format!("a*{index}")), &stamped(index)).await;
        }
        for key in ["b", "aü", "ab1"] {
            put(&tier, &space.name(key), &stamped(1)).await;
        }
        redis.cli(&["SET", "pannier:nn:x", "another namespace"]);
        redis.cli(&["SET", "foreign", "a foreign key"]);
    };
    let remove = async |selection, older: Option<&Stamp>| {
        fill().await;
        let removed = tier
            .remove_selected(&space, &selection, older)
            .await
            .expect("works");
        let left: u64 = redis.cli(&["DBSIZE"]).parse().expect("a number");
        assert_eq!(left, 2505 - removed);
        removed
    };
    let glob = |pattern| Selection::Pattern(Glob::new(pattern).expect("valid"));
    assert_eq!(remove(Selection::All, None).await, 2503);
    assert_eq!(remove(Selection::Prefix("a*".into()), None).await, 2500);
    assert_eq!(remove(glob("a*"), None).await, 2502);
    assert_eq!(remove(glob("a?"), None).await, 1);
    assert_eq!(remove(glob(r"a\**"), None).await, 2500);
    assert_eq!(remove(glob("nothing"), None).await, 0);
    let than = Stamp::from_bytes(1000_u128.to_be_bytes());
    assert_eq!(remove(Selection::All, Some(&than)).await, 1003);
}

#[tokio::test]
async fn a_selection_in_a_raw_namespace_spares_what_is_no_string() {
    let redis = RedisServer::unix(&[]);
    let tier = connect(&redis).await;
    redis.cli(&["SET", "app:one", "1"]);
    redis.cli(&["RPUSH", "app:two", "2"]);
    redis.cli(&["SET", "other", "3"]);
    let all = Selection::All;
    let error = tier
        .remove_selected(&raw_space(&redis, ""), &all, None)
        .await;
    assert!(
        error
            .expect_err("the whole database")
            .message()
            .contains("raw_prefix")
    );
    let space = raw_space(&redis, "app:");
    let than = Stamp::from_bytes([0; 16]);
    assert_eq!(
        tier.remove_selected(&space, &all, Some(&than))
            .await
            .expect("works"),
        1
    );
    assert_eq!(redis.cli(&["DBSIZE"]), "2");
    let prefix = Selection::Prefix("oth".into());
    let unprefixed = raw_space(&redis, "");
    assert_eq!(
        tier.remove_selected(&unprefixed, &prefix, None)
            .await
            .expect("works"),
        1
    );
}

#[tokio::test]
async fn a_selection_is_complete_while_keys_come_and_go() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    for index in 0..3000 {
        put(&tier, &space.name(&format!("old-{index}")), &stamped(1)).await;
    }
    let churn = async {
        for index in 0.. {
            put(&tier, &space.name(&format!("new-{index}")), &stamped(1)).await;
            tier.delete(&[space.name(&format!("new-{}", index / 2))])
                .await
                .expect("works");
        }
    };
    let removed = tokio::select! {
        removed = tier.remove_selected(&space, &Selection::All, None) => removed,
        () = churn => unreachable!("it never ends"),
    };
    assert!(removed.expect("works") >= 3000);
    let keys = redis.cli(&["KEYS", "*old-*"]);
    assert_eq!(keys, "");
}

#[tokio::test]
async fn messages_reach_their_channel() {
    let redis = RedisServer::tcp(&[]);
    let tier = connect(&redis).await;
    let address = redis.address().to_string();
    let mut listener = TcpStream::connect(address).await.expect("connects");
    let subscribe = b"SUBSCRIBE pannier:!invalidate\r\n";
    listener.write_all(subscribe).await.expect("writes");
    let mut told = vec![0; 1000];
    let _confirmed = listener.read(&mut told).await.expect("reads");
    let message = Bytes::from_static(b"\0a message");
    tier.publish("pannier:!invalidate", message)
        .await
        .expect("works");
    let length = listener.read(&mut told).await.expect("reads");
    assert!(told[..length].ends_with(b"$10\r\n\0a message\r\n"));
}

#[tokio::test]
async fn a_server_is_inspected() {
    let redis = RedisServer::unix(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    let facts = connect(&redis).await.inspect().await.expect("works");
    assert_eq!(
        (facts.role.as_str(), facts.maxmemory),
        ("master", Some(100 << 20))
    );
    assert_eq!(facts.snapshots.as_deref(), Some(""));
    assert_eq!(facts.append_sync.as_deref(), Some("everysec"));
    assert!(
        facts.warnings().join("\n").contains("noeviction"),
        "{:?}",
        facts.warnings()
    );
    assert!(
        facts.notes().join("\n").contains("nothing to disk"),
        "{:?}",
        facts.notes()
    );
}

#[tokio::test]
async fn predecessors_are_killed_and_nobody_else() {
    let redis = RedisServer::unix(&[]);
    let target = Target::One(redis.address());
    let config = redis.config();
    let named = async |name| {
        let tier = SharedTier::connect(&target, &config, None, Clock::system(), name).await;
        tier.expect("connects")
    };
    let (old, other) = (named("a-1").await, named("b-1").await);
    let (tier, twin) = (named("a-2").await, named("a-2").await);
    assert_eq!(tier.kill_predecessors("a-", "a-2").await.expect("works"), 1);
    assert_eq!(old.lost().await.trouble, Trouble::Lost);
    let id = Call::named("CLIENT").text("ID");
    let id = twin.connection.call(id).await.expect("works");
    let id = id.as_i64().expect("a number");
    assert_eq!(tier.meet("a-2", &[id]).await, Ok(()));
    assert!(tier.meet("a-1", &[id]).await.is_err());
    assert!(tier.meet("a-2", &[id + 1000]).await.is_err());
    let name = space(&redis).name("k");
    for alive in [other, twin, tier] {
        assert!(alive.check(&name).await.expect("works").is_none());
    }
}

#[tokio::test]
async fn a_version_without_its_value_is_a_miss_that_can_be_checked() {
    let redis = RedisServer::unix(&[]);
    let (tier, space) = (connect(&redis).await, space(&redis));
    let (name, record) = (space.name("k"), stamped(1));
    put(&tier, &name, &record.without_value()).await;
    assert!(tier.get(&name).await.expect("works").is_none());
    let there = tier.check(&name).await.expect("works").expect("is there");
    assert_eq!(
        (there.record.stamp, there.record.content),
        (record.head().stamp, Content::Elsewhere)
    );
    assert_eq!(tier.corrupt(), 0);
}

/// A client that trusts the authority in this file and no other.
fn trusting(ca_file: &std::path::Path) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca_file).expect("is PEM");
    roots.add(authority).expect("is a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("are known");
    let config = builder.with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

#[tokio::test]
async fn tls_is_verified() {
    let (Some(made), Some(other)) = (Certificates::make(), Certificates::make()) else {
        return;
    };
    let redis = RedisServer::tls(&made, false);
    let (config, target) = (redis.config(), Target::One(redis.address()));
    let connect = async |ca_file: &std::path::Path| {
        let tls = Some(trusting(ca_file));
        SharedTier::connect(&target, &config, tls, Clock::system(), OURS).await
    };
    let tier = connect(&made.ca_file).await.expect("connects");
    let (name, record) = (
        space(&redis).name("k"),
        record(1, 1 << 20, tier.clock.now()),
    );
    put(&tier, &name, &record).await;
    assert!(holds(&tier, &name, &record).await);
    let error = connect(&other.ca_file)
        .await
        .expect_err("another authority");
    assert!(error.message().contains("InvalidCertificate"), "{error}");
    let plain = SharedTier::connect(&target, &config, None, Clock::system(), OURS).await;
    assert_eq!(plain.expect_err("no TLS").trouble, Trouble::Lost);
}
