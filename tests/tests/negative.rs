//! Negative entries: that where values come from there is none is kept, so that nobody looks again.
//!
//! Proven: such an entry is a hit by every way of reading, on another daemon and after SIGKILL, and
//! is told from an empty value; it lives for `negative_ttl` unless its put says otherwise; a value
//! takes its place, and invalidations by key and tag take it away, everywhere; whoever waits for
//! the holder of a lease is told; what cannot be negative is refused by name and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{io, time::Duration};

use bytes::Bytes;
use pannier_client::{Client, LeaseOptions, PutOptions};
use pannier_proto::v1::{
    Entry, ExistsRequest, LeaseRequest, PutManyItem, PutManyRequest, PutRequest, PutResponse,
    ReadOptions, WriteOptions, invalidate_request::Target, write_options::Condition,
};
use pannier_tests::{Caller, Daemon, Pair, eventually, pannier, request, shared, stderr, stdout};
use serde_json::Value;
use tonic::Code;

const CONFIG: &str = "
[namespaces.short]
negative_ttl = \"5s\"
[namespaces.brief]
ttl = \"20s\"
[namespaces.artifacts]
immutable = true
[namespaces.plain]
raw = true
";

fn negative(caller: &Caller, key: &str) -> PutRequest {
    PutRequest {
        negative: true,
        ..caller.put_request(key, Bytes::new())
    }
}

async fn put(caller: &Caller, key: &str) -> PutResponse {
    let put = caller.try_put(negative(caller, key)).await;
    put.expect("a put is taken")
}

/// The entry has to be negative by each way of reading.
async fn is_negative(caller: &Caller, key: &str) {
    let holds = |entry: Option<Entry>| {
        let entry = entry.expect("is a hit");
        assert!(entry.negative && entry.value.is_empty(), "{entry:?}");
    };
    holds(caller.get(key).await.entry);
    let there = caller.exists(key).await;
    assert!(there.exists && there.negative);
    let request = request::get_many(caller.namespace(), [key]);
    let many = caller.stub().get_many(request).await.unwrap().into_inner();
    holds(many.items.into_iter().next().unwrap().entry);
    let read = caller.read(key).await;
    assert!(read.value.is_empty());
    holds(read.header.entry);
}

/// Lifetime of what was put, in seconds.
fn lifetime(entry: &Entry) -> i64 {
    let end = entry.expire_time.as_ref().unwrap().seconds;
    end - entry.create_time.as_ref().unwrap().seconds
}

async fn gone(caller: &Caller, key: &str) {
    caller.becomes(key, None).await;
    let there = caller.exists(key).await;
    assert!(!there.exists && !there.negative);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_hit_everywhere_and_no_empty_value() {
    let mut pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    put(&near, "k").await;
    near.put("empty", Bytes::new()).await;
    for caller in [&near, &other] {
        is_negative(caller, "k").await;
        let empty = caller.get("empty").await.entry.unwrap();
        assert!(!empty.negative && !caller.exists("empty").await.negative);
    }
    // Without a copy, and without fetching one: Redis is asked for a few bytes.
    put(&near, "there").await;
    let request = ExistsRequest {
        options: Some(ReadOptions {
            require_shared: true,
            ..ReadOptions::default()
        }),
        ..request::exists("n", "there")
    };
    let there = other.stub().exists(request).await.unwrap().into_inner();
    assert!(there.exists && there.negative);
    pair.near = pair.near.restart_in_place();
    shared::attached(&pair.near).await;
    is_negative(&pair.near("n"), "k").await;
    // In a batch.
    let item = PutManyItem {
        key: "item".into(),
        negative: true,
        ..PutManyItem::default()
    };
    let request = PutManyRequest {
        namespace: "n".into(),
        items: vec![item],
        options: None,
    };
    let put = other.stub().put_many(request).await.unwrap().into_inner();
    assert_eq!(put.results[0].fault, None);
    is_negative(&pair.near("n"), "item").await;
}

#[tokio::test]
async fn it_lives_shortly_unless_its_put_says_otherwise() {
    let daemon = Daemon::builder().config(CONFIG).start();
    for (namespace, expected) in [("default", 60), ("short", 5), ("brief", 20)] {
        let caller = Caller::new(&daemon, namespace);
        put(&caller, "k").await;
        let entry = caller.get("k").await.entry.unwrap();
        assert_eq!(lifetime(&entry), expected, "{namespace}");
        let wish = PutRequest {
            ttl: Some(request::milliseconds(15_000)),
            ..negative(&caller, "k")
        };
        caller.try_put(wish).await.expect("a put is taken");
        let entry = caller.get("k").await.entry.unwrap();
        assert_eq!(lifetime(&entry), 15, "{namespace}");
    }
    // A value is not shortened by it.
    let caller = Caller::new(&daemon, "short");
    caller.put("k", "v").await;
    let entry = caller.get("k").await.entry.unwrap();
    assert!(!entry.negative && lifetime(&entry) > 5);
    let own = PutRequest {
        ttl: Some(request::milliseconds(300)),
        ..negative(&caller, "k")
    };
    caller.try_put(own).await.expect("a put is taken");
    gone(&caller, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_replace_it_and_invalidations_remove_it() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    for (from, to) in [(&near, &other), (&other, &near)] {
        put(from, "k").await;
        eventually("it is heard of", async || {
            to.get("k").await.entry.is_some_and(|entry| entry.negative)
        })
        .await;
        to.put("k", "value").await;
        from.becomes("k", Some(b"value")).await;
        assert!(!from.get("k").await.entry.unwrap().negative);
    }
    put(&near, "k").await;
    is_negative(&near, "k").await;
    other.invalidate("k").await;
    gone(&near, "k").await;
    let tagged = PutRequest {
        tags: vec!["users".into()],
        ..negative(&near, "k")
    };
    near.try_put(tagged).await.expect("a put is taken");
    is_negative(&other, "k").await;
    near.invalidate_by(Target::Tag("users".into())).await;
    gone(&near, "k").await;
    gone(&other, "k").await;
    // A condition takes it for an entry.
    put(&near, "k").await;
    let absent = PutRequest {
        options: Some(WriteOptions {
            condition: Some(Condition::IfAbsent(true)),
            ..WriteOptions::default()
        }),
        ..other.put_request("k", "v")
    };
    let refused = other.try_put(absent).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    is_negative(&near, "k").await;
}

#[tokio::test]
async fn what_cannot_be_negative_is_refused_and_changes_nothing() {
    let daemon = Daemon::builder().config(CONFIG).start();
    for (namespace, value, field) in [
        ("default", "value", "value: 5 bytes"),
        ("artifacts", "", "negative: "),
        ("plain", "", "negative: "),
    ] {
        let caller = Caller::new(&daemon, namespace);
        caller.put("k", "before").await;
        let bad = PutRequest {
            value: value.into(),
            ..negative(&caller, "k")
        };
        let refused = caller.try_put(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{namespace}");
        assert!(refused.message().starts_with(field), "{refused}");
        assert_eq!(caller.value("k").await.unwrap(), "before", "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lease_is_told_that_there_is_nothing() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let lease = |wait| ReadOptions {
        lease: Some(LeaseRequest {
            wait_duration: Some(request::milliseconds(wait)),
            ..LeaseRequest::default()
        }),
        ..ReadOptions::default()
    };
    let held = near.get_with("k", lease(0)).await.lease.unwrap();
    let waiter = tokio::spawn({
        let other = other.clone();
        async move { other.get_with("k", lease(20_000)).await }
    });
    let put = PutRequest {
        options: Some(WriteOptions {
            lease_token: held.token,
            ..WriteOptions::default()
        }),
        ..negative(&near, "k")
    };
    near.try_put(put).await.expect("the lease lasts");
    let told = waiter.await.unwrap();
    assert!(told.lease.is_none() && told.entry.unwrap().negative);
}

#[tokio::test]
async fn the_client_computes_what_may_not_exist() {
    let daemon = Daemon::builder().config(CONFIG).start();
    let client: Client = daemon.client();
    let ttl = || PutOptions::new().ttl(Duration::from_secs(3600));
    let optional = async |key: &'static str, found: Result<Option<Bytes>, io::Error>| {
        let compute = async || found;
        let got = client.get_or_compute_optional("short", key, LeaseOptions::new(), ttl(), compute);
        got.await.expect("computed or known")
    };
    assert_eq!(optional("k", Ok(None)).await, None);
    let hit = client.get("short", "k").await.unwrap().unwrap();
    assert!(hit.negative && hit.remaining() <= Duration::from_secs(5));
    // It is known now: nobody computes.
    assert_eq!(optional("k", Err(io::Error::other("computed"))).await, None);
    // Who needs a value looks for it.
    let compute = async || Ok::<_, io::Error>(Bytes::from_static(b"made"));
    let made = client.get_or_compute("short", "k", LeaseOptions::new(), ttl(), compute);
    assert_eq!(made.await.unwrap(), "made");
    let known = optional("k", Err(io::Error::other("computed"))).await;
    assert_eq!(known.unwrap(), "made");
    assert_eq!(optional("other", Ok(Some("v".into()))).await.unwrap(), "v");
    assert!(
        !client
            .get("short", "other")
            .await
            .unwrap()
            .unwrap()
            .negative
    );
}

#[tokio::test]
async fn a_failed_early_refresh_leaves_a_negative_entry() {
    let daemon = Daemon::builder().config(CONFIG).start();
    let client: Client = daemon.client();
    // So long a computation and so short a lifetime: nearly every first reader is told to compute.
    let lease = LeaseOptions::new().early_refresh(Duration::from_secs(600));
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let put = client.put("default", key, "", PutOptions::new().negative());
        put.await.expect("stored");
        let compute = async || Err(io::Error::other("no"));
        let options = PutOptions::new();
        let made = client.get_or_compute("default", key, lease.clone(), options, compute);
        assert!(made.await.is_err(), "nobody could compute it");
        let hit = client.get("default", key).await.unwrap();
        assert!(hit.expect("it is still known").negative, "{key}");
    }
}

#[test]
fn the_command_line_says_so() {
    let daemon = Daemon::start();
    let run = |arguments: &[&str]| pannier(daemon.grpc(), arguments);
    assert!(run(&["put", "user:17", "--negative"]).status.success());
    for command in ["get", "exists", "read"] {
        let told = run(&[command, "user:17"]);
        assert!(told.status.success(), "{command}");
        assert!(stderr(&told).contains("negative: "), "{command}");
    }
    assert_eq!(stdout(&run(&["get", "user:17"])), "");
    for command in ["get", "exists"] {
        let json = stdout(&run(&["--json", command, "user:17"]));
        let json: Value = serde_json::from_str(&json).expect("is JSON");
        assert_eq!(json["negative"], true, "{command}");
    }
    let both = run(&["put", "k", "--negative", "--value", "v"]);
    assert_eq!(both.status.code(), Some(2));
    run(&["put", "user:17", "--value", "v"]);
    let told = run(&["get", "user:17"]);
    assert_eq!((stdout(&told), stderr(&told)), ("v".into(), String::new()));
}
