//! P15, tags: invalidating a tag costs the same whatever has it, and takes every entry with it, in
//! both tiers and on every daemon, through outages and restarts.
//!
//! Proven: entries with the tag are gone by every way of reading, others stay, what is put
//! afterwards lives; on another daemon that has a copy, on one that has none, and in a Cluster
//! whose masters each have some; a removed tag is obeyed at once by a daemon that is cut off, after
//! SIGKILL as well, and by all when it is back; a gap hides nothing; a tag that Redis has lost
//! takes its entries with it and brings none back; what is gone is in the way of no condition; a
//! tag lives as long as its entries; an entry of an outage is read back; watchers are told.
//!
//! Interleavings:
//! - the put takes the generations, the tag is invalidated, the entry is written: it is not served;
//! - the tag is invalidated elsewhere, an entry is put here before that is heard of: it is served;
//! - the entry is written with a new generation and read by a daemon that has not heard that the
//!   tag is another one: it is served, and not removed as one whose tag is gone.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use bytes::Bytes;
use pannier_proto::v1::{
    GetManyItem, PutRequest, PutResponse, Tier, TierOutcome, WatchRequest, WriteOptions,
    invalidate_request::Target, watch_response::Event, write_options::Condition,
};
use pannier_tests::{
    Caller, Cluster, Daemon, Mode, Pair, Path,
    caller::{is_stale, tier},
    eventually, request, shared,
};
use tonic::{Code, Status};

const CONFIG: &str = "
[namespaces.artifacts]
immutable = true
[namespaces.plain]
raw = true
";

fn tagged(caller: &Caller, key: &str, value: &str, tags: &[&str]) -> PutRequest {
    PutRequest {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..caller.put_request(key, value.to_owned())
    }
}

async fn put(caller: &Caller, key: &str, value: &str, tags: &[&str]) -> PutResponse {
    let put = caller.try_put(tagged(caller, key, value, tags)).await;
    put.expect("a put is taken")
}

async fn put_if(
    caller: &Caller,
    (key, value): (&str, &str),
    tags: &[&str],
    condition: Condition,
) -> Result<PutResponse, Status> {
    let options = WriteOptions {
        condition: Some(condition),
        ..WriteOptions::default()
    };
    let put = PutRequest {
        options: Some(options),
        ..tagged(caller, key, value, tags)
    };
    caller.try_put(put).await
}

/// Invalidates a tag; tells what became of it in the two tiers.
async fn invalidate(caller: &Caller, tag: &str) -> (TierOutcome, TierOutcome) {
    let reply = caller.invalidate_by(Target::Tag(tag.into())).await;
    assert_eq!(reply.count, 0, "nobody counts");
    (reply.local_outcome(), reply.shared_outcome())
}

async fn values(daemon: &Daemon, namespace: &str, keys: &[&str]) -> Vec<Option<Bytes>> {
    let request = request::get_many(namespace, keys.iter().copied());
    let reply = daemon.stub().get_many(request).await.unwrap().into_inner();
    let value = |item: GetManyItem| item.entry.map(|entry| entry.value);
    reply.items.into_iter().map(value).collect()
}

async fn start() -> Pair {
    Pair::start(CONFIG, CONFIG).await
}

/// The name of a tag in Redis.
fn name_of(namespace: &str, tag: &str) -> String {
    shared::key(&format!("{namespace}!tags"), tag)
}

const APPLIED: (TierOutcome, TierOutcome) = (TierOutcome::Applied, TierOutcome::Applied);

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_takes_its_entries_and_no_others() {
    let alone = Daemon::builder().config(CONFIG).start();
    let pair = start().await;
    for (daemon, outcomes) in [
        (&alone, (TierOutcome::Applied, TierOutcome::Skipped)),
        (&pair.near, APPLIED),
    ] {
        let caller = Caller::new(daemon, "n");
        put(&caller, "a", "1", &["red", "blue"]).await;
        put(&caller, "b", "2", &["blue"]).await;
        put(&caller, "c", "3", &["green"]).await;
        caller.put("d", "4").await;
        let entry = caller.get("a").await.entry.unwrap();
        assert_eq!(entry.tags, ["red", "blue"]);
        assert_eq!(invalidate(&caller, "unknown").await, outcomes);
        assert_eq!(invalidate(&caller, "red").await, outcomes);
        assert_eq!(caller.value("a").await, None);
        assert_eq!(caller.value("b").await, Some("2".into()));
        assert_eq!(invalidate(&caller, "blue").await, outcomes);
        assert!(!caller.exists("b").await.exists);
        assert!(caller.exists("c").await.exists && caller.exists("d").await.exists);
        let all = values(daemon, "n", &["a", "b", "c", "d"]).await;
        assert_eq!(all, [None, None, Some("3".into()), Some("4".into())]);
        // The same tag of another namespace is another tag.
        let elsewhere = Caller::new(daemon, "m");
        put(&elsewhere, "a", "m", &["green"]).await;
        invalidate(&caller, "green").await;
        assert_eq!(elsewhere.value("a").await, Some("m".into()));
        put(&caller, "a", "5", &["red", "green"]).await;
        assert_eq!(caller.value("a").await, Some("5".into()));
        caller.invalidate("a").await;
        assert_eq!(caller.value("a").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_daemon_obeys_with_a_copy_or_without() {
    let pair = start().await;
    for namespace in ["n", "artifacts"] {
        let (near, other) = (pair.near(namespace), pair.other(namespace));
        for key in ["both", "redis"] {
            put(&other, key, "old", &["t"]).await;
        }
        near.has_local("both", b"old").await;
        assert_eq!(invalidate(&other, "t").await, APPLIED);
        assert_eq!(other.value("both").await, None);
        near.becomes("both", None).await;
        near.becomes("redis", None).await;
        // What is gone does not stay in the way of memory either.
        eventually("it is removed", async || {
            !pair.is_in_redis(namespace, "redis")
        })
        .await;
        put(&near, "both", "new", &["t"]).await;
        other.becomes("both", Some(b"new")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_invalidation_overtook_is_not_served() {
    let pair = start().await;
    let near = pair.near("n");
    put(&near, "first", "v", &["t"]).await;
    // The answer about the tag is held until another has taken its place.
    pair.proxy.set_for(Path::Data, Mode::HoldReplies);
    let (overtaken, request) = (pair.near("n"), tagged(&near, "k", "old", &["t"]));
    let put = tokio::spawn(async move { overtaken.try_put(request).await });
    pair.proxy.holds(Path::Data).await;
    assert_eq!(invalidate(&pair.other("n"), "t").await, APPLIED);
    pair.proxy.set(Mode::Pass);
    put.await.unwrap().unwrap();
    near.becomes("k", None).await;
    pair.other("n").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_invalidation_that_is_not_heard_of_yet_is_served() {
    let pair = start().await;
    let near = pair.near("n");
    put(&near, "first", "v", &["t"]).await;
    near.has_local("first", b"v").await;
    // Longer than the test takes, shorter than the lease.
    pair.proxy.set_for(Path::Tracking, Mode::HoldReplies);
    invalidate(&pair.other("n"), "t").await;
    put(&near, "k", "v", &["t"]).await;
    assert_eq!(near.value("k").await, Some("v".into()));
    pair.proxy.set(Mode::Pass);
    near.becomes("first", None).await;
    assert_eq!(near.value("k").await, Some("v".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_has_not_heard_of_the_new_tag_spares_its_entries() {
    let pair = start().await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    put(&other, "first", "v", &["t"]).await;
    near.has_local("first", b"v").await;
    // Longer than the test takes, shorter than the lease.
    pair.proxy.set_for(Path::Tracking, Mode::HoldReplies);
    invalidate(&other, "t").await;
    put(&other, "second", "v", &["t"]).await;
    assert_eq!(near.value("second").await, Some("v".into()));
    pair.proxy.set(Mode::Pass);
    near.becomes("first", None).await;
    assert_eq!(near.value("second").await, Some("v".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_of_an_outage_is_obeyed_at_once_and_by_all_later() {
    let mut pair = start().await;
    for (round, crashes) in [false, true, false, true].into_iter().enumerate() {
        let namespace = ["n", "artifacts"][round / 2];
        // A copy of a tag from before the last gap is forgotten with a restart in the next.
        let (gone, other) = (format!("gone{round}"), format!("other{round}"));
        for (key, tag) in [("k", &gone), ("stays", &other)] {
            put(&pair.other(namespace), key, "old", &[tag]).await;
            pair.near(namespace).has_local(key, b"old").await;
        }
        pair.cut_off().await;
        let near = pair.near(namespace);
        assert!(is_stale(&near.get("k").await), "served meanwhile");
        let outcomes = invalidate(&near, &gone).await;
        assert_eq!(outcomes, (TierOutcome::Applied, TierOutcome::Deferred));
        // An entry of the outage is read back: one tag was removed in it, one was never seen.
        put(&near, "own", "v", &[&gone, "new"]).await;
        assert_eq!(near.value("own").await, Some("v".into()));
        if crashes {
            pair.restart_near();
        }
        let near = pair.near(namespace);
        assert_eq!(near.value("k").await, None, "stale or not");
        let stays = near.value("stays").await;
        assert_eq!(stays, Some("old".into()), "{namespace}, {crashes}");
        pair.come_back().await;
        for caller in [near, pair.other(namespace)] {
            caller.becomes("k", None).await;
            caller.becomes("stays", Some(b"old")).await;
        }
        pair.near(namespace).invalidate_by(Target::All(true)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_entries_of_an_outage_are_published_with_their_tags() {
    let pair = start().await;
    let near = pair.near("artifacts");
    pair.cut_off().await;
    put(&near, "k", "v", &["t"]).await;
    pair.come_back().await;
    pair.other("artifacts").becomes("k", Some(b"v")).await;
    invalidate(&near, "t").await;
    pair.other("artifacts").becomes("k", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_hides_nothing() {
    let mut pair = start().await;
    for namespace in ["n", "artifacts"] {
        for key in ["cut", "down"] {
            put(&pair.other(namespace), key, "old", &["t"]).await;
            pair.near(namespace).has_local(key, b"old").await;
        }
        pair.cut_off().await;
        invalidate(&pair.other(namespace), "t").await;
        pair.come_back().await;
        assert_eq!(pair.near(namespace).value("cut").await, None);
        put(&pair.other(namespace), "down", "new", &["t"]).await;
        pair.near(namespace).has_local("down", b"new").await;
        pair.near.kill();
        invalidate(&pair.other(namespace), "t").await;
        pair.near = pair.near.how().start();
        shared::attached(&pair.near).await;
        assert_eq!(pair.near(namespace).value("down").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_redis_lost_brings_nothing_back() {
    let pair = start().await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    put(&other, "old", "v", &["t"]).await;
    near.has_local("old", b"v").await;
    let name = name_of("n", "t");
    assert_eq!(pair.redis.command(&["DEL", &name]).integer(), 1);
    near.becomes("old", None).await;
    put(&other, "new", "v", &["t"]).await;
    near.becomes("new", Some(b"v")).await;
    assert_eq!(near.value("old").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_lives_as_long_as_its_entries() {
    let pair = start().await;
    let near = pair.near("n");
    put(&near, "first", "v", &["t"]).await;
    let name = name_of("n", "t");
    let left = || pair.redis.command(&["PTTL", &name]).integer();
    let entry = pair
        .redis
        .command(&["PTTL", &shared::key("n", "first")])
        .integer();
    assert!(left() > entry);
    // Time goes by.
    pair.redis.command(&["PEXPIRE", &name, "60000"]);
    eventually("the tag is asked again", async || {
        put(&near, "second", "v", &["t"]).await;
        left() > entry
    })
    .await;
    for key in ["first", "second"] {
        assert_eq!(near.value(key).await, Some("v".into()), "{key}");
        pair.other("n").becomes(key, Some(b"v")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_in_the_way_of_no_condition() {
    let alone = Daemon::builder().config(CONFIG).start();
    let pair = start().await;
    for daemon in [&alone, &pair.near] {
        let caller = Caller::new(daemon, "n");
        let old = put(&caller, "k", "old", &["t"]).await;
        let absent = Condition::IfAbsent(true);
        let refused = put_if(&caller, ("k", "new"), &["t"], absent.clone()).await;
        assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
        invalidate(&caller, "t").await;
        let same = Condition::IfVersion(old.version);
        let refused = put_if(&caller, ("k", "new"), &["t"], same).await;
        assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
        let new = put_if(&caller, ("k", "new"), &["t"], absent).await.unwrap();
        let same = Condition::IfVersion(new.version);
        put_if(&caller, ("k", "newer"), &["t"], same).await.unwrap();
        assert_eq!(caller.value("k").await, Some("newer".into()));
        // An immutable one may be followed by another, and by the same again.
        let caller = Caller::new(daemon, "artifacts");
        for value in ["a", "a", "b"] {
            put(&caller, "k", value, &["t"]).await;
            assert_eq!(caller.value("k").await, Some(value.into()));
            invalidate(&caller, "t").await;
            assert_eq!(caller.value("k").await, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_has_tags_and_entries_on_all_masters() {
    let cluster = Cluster::start().await;
    let (first, second) = (
        shared::start(&cluster.url(), "").await,
        shared::start(&cluster.url(), "").await,
    );
    let (near, other) = (Caller::new(&first, "n"), Caller::new(&second, "n"));
    let keys: Vec<_> = (0..60).map(|i| format!("k{i}")).collect();
    for key in &keys {
        put(&other, key, "v", &["t", &format!("only {key}")]).await;
        near.has_local(key, b"v").await;
    }
    invalidate(&other, "only k7").await;
    near.becomes("k7", None).await;
    near.has_local("k8", b"v").await;
    assert_eq!(invalidate(&other, "t").await, APPLIED);
    for key in &keys {
        assert_eq!(other.value(key).await, None);
        near.becomes(key, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_entries_go_at_once() {
    let pair = start().await;
    let names: Vec<_> = (0..2000).map(|i| format!("k{i}")).collect();
    let keys: Vec<_> = names.iter().map(String::as_str).collect();
    for keys in keys.chunks(500) {
        let mut request = request::put_many("n", keys.iter().map(|it| ((*it).to_owned(), "v")));
        for item in &mut request.items {
            item.tags = vec!["t".to_owned()];
        }
        pair.other.stub().put_many(request).await.unwrap();
        let found = values(&pair.near, "n", keys).await;
        assert_eq!(found.iter().flatten().count(), keys.len());
    }
    pair.redis.forget_calls();
    assert_eq!(invalidate(&pair.other("n"), "t").await, APPLIED);
    assert_eq!(pair.redis.calls("scan"), 0);
    assert_eq!(pair.redis.calls("unlink"), 1);
    pair.near("n").becomes("k0", None).await;
    for keys in keys.chunks(500) {
        assert!(
            values(&pair.near, "n", keys)
                .await
                .iter()
                .all(Option::is_none)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_with_tags_costs_redis_nothing() {
    let pair = start().await;
    let near = pair.near("n");
    put(&pair.other("n"), "k", "v", &["t", "u"]).await;
    near.has_local("k", b"v").await;
    pair.redis.forget_calls();
    for _ in 0..20 {
        let reply = near.get("k").await;
        assert_eq!(tier(&reply), Tier::Local);
    }
    assert_eq!(pair.redis.reads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told() {
    let pair = start().await;
    let request = WatchRequest {
        namespace: "n".into(),
        ..WatchRequest::default()
    };
    put(&pair.other("n"), "k", "v", &["t"]).await;
    pair.near("n").has_local("k", b"v").await;
    for (namespace, teller) in [("own", pair.near("n")), ("other's", pair.other("n"))] {
        let mut stream = pair
            .near
            .stub()
            .watch(request.clone())
            .await
            .unwrap()
            .into_inner();
        stream.message().await.unwrap();
        invalidate(&teller, "t").await;
        loop {
            match stream.message().await.unwrap().unwrap().event.unwrap() {
                Event::Tag(tag) => break assert_eq!(tag, "t", "{namespace}"),
                Event::Progress(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pair.near("n").value("k").await, None);
        put(&pair.other("n"), "k", "v", &["t"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_named() {
    let daemon = Daemon::builder().config(CONFIG).start();
    let caller = Caller::new(&daemon, "n");
    let many: Vec<_> = (0..17).map(|i| format!("t{i}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let long = "t".repeat(129);
    for (tags, text) in [
        (&many[..], "tags: 17 tags, the limit is 16"),
        (&[&long[..]], "tag: 129 bytes, the limit is 128"),
        (&[""], "tag: empty, must have at least 1 byte"),
    ] {
        let refused = caller.try_put(tagged(&caller, "k", "v", tags)).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, text)
        );
    }
    put(&caller, "k", "v", &many[..16]).await;
    assert_eq!(caller.value("k").await, Some("v".into()));
    for (namespace, tag, text) in [
        ("n", "", "tag: empty, must have at least 1 byte"),
        ("n", &long, "tag: 129 bytes, the limit is 128"),
        (
            "plain",
            "t",
            "tag: the namespace is raw, its entries have no tags",
        ),
    ] {
        let target = Target::Tag(tag.into());
        let mut stub = daemon.stub();
        let refused = stub.invalidate(request::invalidate(namespace, target));
        let refused = refused.await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, text)
        );
    }
    let request = request::get("n!tags", "t0");
    let refused = daemon.stub().get(request).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::InvalidArgument,
        "tags are no caller's"
    );
}
