//! The API as `proto/pannier/v1` writes it, call by call over the wire, with no shared tier.
//!
//! Proven: what goes in comes out (value, metadata, content type, tags, version, times), whatever
//! the codec; each kind of invalidation removes exactly what it names; batches answer item by item;
//! conditions are decided atomically, also among 64 callers; what this version does not serve says
//! so; the caller's deadline ends a request and a caller that left ends its scan; the other
//! services on the port (admin, health, reflection, HTTP) and the unix socket.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test plays the environment, may fail by panic and knows its numbers"
)]

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::{fs::FileTypeExt, net::UnixListener},
    time::Duration,
};

use bytes::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use pannier_proto::v1::{
    ConfigRequest, FlushRequest, GetRequest, HealthRequest, KeyList, LeaseRequest, PutRequest,
    ReadOptions, ResetRequest, SharedState, StatsRequest, Tier, TierOutcome, WriteMode,
    WriteOptions, cache_service_client::CacheServiceClient, invalidate_request::Target,
    write_options::Condition,
};
use pannier_tests::{
    Daemon, eventually,
    load::{SLICE, SlowScan, fill_for_slow_scan, noise, rest, slow_pattern},
    pannier, request, stderr, wire,
};
use tokio::task::JoinSet;
use tonic::{
    Code,
    body::Body,
    codegen::{http::Uri, tokio_stream},
    transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

type Stub = CacheServiceClient<Channel>;

async fn put(stub: &Stub, key: &str, value: impl Into<Bytes>) -> Bytes {
    let reply = stub.clone().put(request::put("n", key, value)).await;
    reply.expect("the put is taken").into_inner().version
}

/// The value, `None` for a miss.
async fn value_of(stub: &Stub, key: &str) -> Option<Bytes> {
    let reply = stub.clone().get(request::get("n", key)).await;
    reply
        .expect("a get is answered")
        .into_inner()
        .entry
        .map(|entry| entry.value)
}

async fn invalidated(stub: &Stub, target: Target) -> u64 {
    let reply = stub
        .clone()
        .invalidate(request::invalidate("n", target))
        .await;
    let reply = reply.expect("the invalidation is taken").into_inner();
    assert_eq!(reply.local_outcome(), TierOutcome::Applied);
    assert_eq!(reply.shared_outcome(), TierOutcome::Skipped);
    reply.count
}

fn write_options(mode: WriteMode) -> Option<WriteOptions> {
    Some(WriteOptions {
        mode: mode.into(),
        ..WriteOptions::default()
    })
}

#[tokio::test]
async fn what_is_put_is_got_with_all_that_was_said_about_it() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let metadata = HashMap::from([
        ("a".to_owned(), "1".to_owned()),
        ("ä".into(), String::new()),
    ]);
    let sent = PutRequest {
        metadata: metadata.clone(),
        content_type: "text/plain; charset=utf-8".into(),
        tags: vec!["zwei".into(), "eins".into(), "zwei".into()],
        ttl: Some(request::span(60, 0)),
        ..request::put("n", "a/ö key\nwith\0all", "value")
    };
    let stored = stub.put(sent).await.unwrap().into_inner();
    assert_eq!(stored.version.len(), 16);
    assert_eq!(stored.local_outcome(), TierOutcome::Applied);
    assert_eq!(stored.shared_outcome(), TierOutcome::Skipped);

    let got = stub
        .get(request::get("n", "a/ö key\nwith\0all"))
        .await
        .unwrap()
        .into_inner();
    let entry = got.entry.expect("a hit");
    assert_eq!(entry.value, "value");
    assert_eq!(entry.metadata, metadata);
    assert_eq!(entry.content_type, "text/plain; charset=utf-8");
    assert_eq!(
        entry.tags,
        ["zwei", "eins"],
        "in the order given, a repeated one once"
    );
    assert_eq!(entry.version, stored.version);
    assert_eq!(entry.expire_time, stored.expire_time);
    let lifetime = request::epoch_milliseconds(entry.expire_time.as_ref())
        - request::epoch_milliseconds(entry.create_time.as_ref());
    assert_eq!(lifetime, 60_000);
    assert!(got.lease.is_none());
}

#[tokio::test]
async fn every_answer_says_where_it_came_from_and_how_long_it_took() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let stored = stub
        .put(request::put("n", "k", "v"))
        .await
        .unwrap()
        .into_inner();
    let provenance = stored.provenance.expect("of the put");
    assert_eq!(provenance.tier(), Tier::Local);
    assert!(provenance.store_duration.is_some() && provenance.age.is_none());

    let hit = stub
        .get(request::get("n", "k"))
        .await
        .unwrap()
        .into_inner()
        .provenance
        .unwrap();
    assert_eq!(hit.tier(), Tier::Local);
    assert_eq!(hit.shared_state(), SharedState::Disabled);
    assert!(!hit.stale);
    assert!(hit.age.is_some() && hit.lookup_duration.is_some() && hit.store_duration.is_none());

    let miss = stub
        .get(request::get("n", "none"))
        .await
        .unwrap()
        .into_inner();
    assert!(miss.entry.is_none(), "a miss is OK with an absent entry");
    let miss = miss.provenance.unwrap();
    assert_eq!(miss.tier(), Tier::None);
    assert!(miss.age.is_none() && miss.lookup_duration.is_some());

    let exists = stub
        .exists(request::exists("n", "k"))
        .await
        .unwrap()
        .into_inner();
    assert!(exists.exists && exists.ttl.is_some());
    assert_eq!(exists.provenance.unwrap().tier(), Tier::Local);
    let exists = stub
        .exists(request::exists("n", "none"))
        .await
        .unwrap()
        .into_inner();
    assert!(!exists.exists && exists.ttl.is_none());
    assert_eq!(exists.provenance.unwrap().tier(), Tier::None);
}

#[tokio::test]
async fn values_of_every_size_come_back_with_every_codec() {
    let daemon = Daemon::builder()
        .config(
            "[namespaces.lz4]\ncompression = \"lz4\"\n[namespaces.zstd]\ncompression = \"zstd\"\n",
        )
        .start();
    let mut stub = daemon.stub();
    // Around the sizes at which the way changes: codec 1 KiB, blob file and thread 16 KiB.
    let sizes = [
        0,
        1,
        1023,
        1024,
        1025,
        16_000,
        16_384,
        16_500,
        70_000,
        1 << 20,
        3 << 20,
    ];
    for namespace in ["n", "lz4", "zstd"] {
        for size in sizes {
            let even = Bytes::from(vec![7; size]);
            for (kind, value) in [("noise", noise(size as u64, size)), ("even", even)] {
                let key = format!("{kind}-{size}");
                stub.put(request::put(namespace, &key, value.clone()))
                    .await
                    .unwrap();
                let got = stub
                    .get(request::get(namespace, &key))
                    .await
                    .unwrap()
                    .into_inner();
                let got = got.entry.expect("a hit").value;
                assert!(
                    got == value,
                    "{namespace} {key}: {} bytes came back",
                    got.len()
                );
            }
        }
    }
}

#[tokio::test]
async fn no_two_writes_share_a_version() {
    let daemon = Daemon::start();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let stub = daemon.stub();
        writers.spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..100 {
                versions.push(put(&stub, &format!("k{}", writer % 2), "the same value").await);
            }
            versions
        });
    }
    let versions: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(versions.iter().collect::<HashSet<_>>().len(), 400);
}

#[tokio::test]
async fn each_invalidation_removes_exactly_what_it_names() {
    let daemon = Daemon::start();
    let stub = daemon.stub();
    let all = ["a", "ab", "abc", "b*", "bx", "käse", "kase", "z"];
    let keys = |keys: &[&str]| {
        Target::Keys(KeyList {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        })
    };
    let table: [(Target, &[&str]); 9] = [
        (keys(&["a", "none", "z"]), &["a", "z"]),
        (keys(&["none"]), &[]),
        (Target::Prefix("ab".into()), &["ab", "abc"]),
        (Target::Prefix("none".into()), &[]),
        (Target::Pattern("a*".into()), &["a", "ab", "abc"]),
        (Target::Pattern("b\\*".into()), &["b*"]),
        (Target::Pattern("k[^a]se".into()), &["käse"]),
        (Target::Pattern("?".into()), &["a", "z"]),
        (Target::All(true), &all),
    ];
    let mut other = stub.clone();
    other
        .put(request::put("n2", "a", "of another namespace"))
        .await
        .unwrap();
    for (target, gone) in table {
        for key in all {
            put(&stub, key, "v").await;
        }
        let what = format!("{target:?}");
        assert_eq!(
            invalidated(&stub, target).await,
            gone.len() as u64,
            "{what}"
        );
        for key in all {
            let there = value_of(&stub, key).await.is_some();
            assert_eq!(there, !gone.contains(&key), "{key} after {what}");
        }
    }
    assert!(
        other
            .get(request::get("n2", "a"))
            .await
            .unwrap()
            .into_inner()
            .entry
            .is_some()
    );
}

#[tokio::test]
async fn an_invalidation_of_more_keys_than_one_slice_leaves_none() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    for slice in 0..3 {
        let items = (0..SLICE).map(|index| (format!("{slice}-{index:04}"), Bytes::new()));
        stub.put_many(request::put_many("n", items)).await.unwrap();
    }
    put(&stub, "4", "stays").await;
    assert_eq!(
        invalidated(&stub, Target::Pattern("?-*".into())).await,
        3 * SLICE as u64
    );
    assert_eq!(invalidated(&stub, Target::All(true)).await, 1);
}

#[tokio::test]
async fn a_batch_answers_each_item_in_its_place() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let long = "k".repeat(1025);
    let items = ["a", "", "b", &long, "a"].map(|key| (key.to_owned(), Bytes::from(key.to_owned())));
    let reply = stub
        .put_many(request::put_many("n", items))
        .await
        .unwrap()
        .into_inner();
    let codes: Vec<_> = reply
        .results
        .iter()
        .map(|it| it.fault.as_ref().map(|f| f.code))
        .collect();
    let invalid = Some(Code::InvalidArgument as u32);
    assert_eq!(codes, [None, invalid, None, invalid, None]);
    for result in &reply.results {
        let good = result.fault.is_none();
        assert_eq!(result.version.len(), if good { 16 } else { 0 });
        assert_eq!(result.expire_time.is_some(), good);
    }
    assert_ne!(reply.results[0].version, reply.results[4].version);

    let keys = ["b", "none", &long, "a", "b"];
    let reply = stub
        .get_many(request::get_many("n", keys))
        .await
        .unwrap()
        .into_inner();
    let values: Vec<_> = reply
        .items
        .iter()
        .map(|item| item.entry.as_ref().map(|it| it.value.clone()))
        .collect();
    let b = Some(Bytes::from("b"));
    assert_eq!(values, [b.clone(), None, None, Some("a".into()), b]);
    let codes: Vec<_> = reply
        .items
        .iter()
        .map(|it| it.fault.as_ref().map(|f| f.code))
        .collect();
    assert_eq!(codes, [None, None, invalid, None, None]);
    let tiers: Vec<_> = reply.items.iter().map(|item| item.tier()).collect();
    assert_eq!(
        tiers,
        [
            Tier::Local,
            Tier::None,
            Tier::None,
            Tier::Local,
            Tier::Local
        ]
    );
    let last = &reply.items[3].entry.as_ref().unwrap().version;
    let current = stub
        .get(request::get("n", "a"))
        .await
        .unwrap()
        .into_inner()
        .entry
        .unwrap();
    assert_eq!(
        *last, current.version,
        "the second put of a batch's key is the one that stays"
    );
}

#[tokio::test]
async fn a_large_batch_comes_back_whole() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let items = (0..1000).map(|index| (format!("k{index}"), noise(index, 3000)));
    let reply = stub
        .put_many(request::put_many("n", items))
        .await
        .unwrap()
        .into_inner();
    assert!(reply.results.iter().all(|result| result.fault.is_none()));
    // From memory, then from the disk.
    let daemon = daemon.restart();
    for _ in 0..2 {
        let keys = (0..1000).map(|index| format!("k{index}"));
        let reply = daemon
            .stub()
            .get_many(request::get_many("n", keys))
            .await
            .unwrap();
        for (index, item) in reply.into_inner().items.into_iter().enumerate() {
            let value = item.entry.map(|entry| entry.value);
            assert!(value == Some(noise(index as u64, 3000)), "item {index}");
        }
    }
}

#[tokio::test]
async fn if_absent_writes_only_where_nothing_is() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    for size in [10, 300_000] {
        let key = format!("k{size}");
        let if_absent = |value| request::put_if("n", &key, value, Condition::IfAbsent(true));
        let (first, second) = (noise(1, size), noise(2, size));
        stub.put(if_absent(first.clone())).await.unwrap();
        let status = stub.put(if_absent(second.clone())).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(
            status.message().starts_with("options.if_absent: "),
            "{status:?}"
        );
        assert!(value_of(&stub, &key).await == Some(first));
        let no_condition = Condition::IfAbsent(false);
        stub.put(request::put_if("n", &key, second, no_condition))
            .await
            .unwrap();
        invalidated(&stub, Target::Prefix(key.clone())).await;
        stub.put(if_absent(noise(3, size))).await.unwrap();
    }
}

#[tokio::test]
async fn if_version_writes_only_over_that_version() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let over = |key, version: &Bytes| {
        request::put_if("n", key, "new", Condition::IfVersion(version.clone()))
    };
    let first = put(&stub, "k", "old").await;
    let second = stub
        .put(over("k", &first))
        .await
        .unwrap()
        .into_inner()
        .version;
    let refused = [over("k", &first), over("none", &second)];
    for request in refused {
        let status = stub.put(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status.message().starts_with("options.if_version: "),
            "{status:?}"
        );
    }
    invalidated(&stub, Target::All(true)).await;
    assert_eq!(
        stub.put(over("k", &second)).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let status = stub
        .put(over("k", &Bytes::from_static(b"short")))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("options.if_version"),
        "{status:?}"
    );
    assert!(value_of(&stub, "k").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_concurrent_puts_if_absent_exactly_one_wins() {
    let daemon = Daemon::start();
    let stubs: Vec<_> = (0..8).map(|_| daemon.stub()).collect();
    for (round, size) in [10, 10, 10, 300_000].into_iter().enumerate() {
        let key = format!("k{round}");
        let mut callers = JoinSet::new();
        for caller in 0..64_u64 {
            let value = noise(caller, size);
            let request = request::put_if("n", &key, value.clone(), Condition::IfAbsent(true));
            let mut stub = stubs[caller as usize % stubs.len()].clone();
            callers.spawn(async move { (value, stub.put(request).await) });
        }
        let (won, lost): (Vec<_>, Vec<_>) = callers
            .join_all()
            .await
            .into_iter()
            .partition(|(_, result)| result.is_ok());
        assert_eq!(won.len(), 1, "round {round}");
        for (_, result) in lost {
            assert_eq!(result.unwrap_err().code(), Code::AlreadyExists);
        }
        assert!(
            value_of(&stubs[0], &key).await.as_ref() == Some(&won[0].0),
            "round {round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_under_if_version_loses_no_increment() {
    const TASKS: u64 = 16;
    let daemon = Daemon::start();
    let stubs: Vec<_> = (0..4).map(|_| daemon.stub()).collect();
    // Written on the request's thread, and on a blocking one.
    for (size, increments) in [(8, 25), (50_000, 10)] {
        let number = move |count: u64| {
            let mut bytes = vec![0; size];
            bytes[..8].copy_from_slice(&count.to_le_bytes());
            Bytes::from(bytes)
        };
        let count_of = |bytes: &Bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        put(&stubs[0], "counter", number(0)).await;
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let mut stub = stubs[task as usize % stubs.len()].clone();
            tasks.spawn(async move {
                let mut done = 0;
                while done < increments {
                    let got = stub.get(request::get("n", "counter")).await.unwrap();
                    let entry = got.into_inner().entry.expect("the counter is there");
                    let next = number(count_of(&entry.value) + 1);
                    let condition = Condition::IfVersion(entry.version);
                    let request = request::put_if("n", "counter", next, condition);
                    match stub.put(request).await {
                        Ok(_) => done += 1,
                        Err(status) => assert_eq!(status.code(), Code::FailedPrecondition),
                    }
                }
            });
        }
        tasks.join_all().await;
        let total = count_of(&value_of(&stubs[0], "counter").await.unwrap());
        assert_eq!(total, TASKS * increments, "of {size} bytes");
    }
}

#[tokio::test]
async fn an_immutable_namespace_takes_one_value_for_a_key() {
    let daemon = Daemon::builder()
        .config("[namespaces.n]\nimmutable = true\n")
        .start();
    let mut stub = daemon.stub();
    let sent = || PutRequest {
        metadata: HashMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
        ..request::put("n", "k", "value")
    };
    let first = stub.put(sent()).await.unwrap().into_inner();
    let again = stub.put(sent()).await.unwrap().into_inner();
    assert_eq!(
        again.version, first.version,
        "the same value keeps its version"
    );
    assert_eq!(again.expire_time, first.expire_time);
    let other_words = PutRequest {
        content_type: "x".into(),
        ..sent()
    };
    for different in [request::put("n", "k", "other"), other_words] {
        let status = stub.put(different).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(status.message().contains("immutable"), "{status:?}");
    }
    let condition = Condition::IfVersion(first.version.clone());
    let status = stub
        .put(request::put_if("n", "k", "other", condition))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let large = noise(1, 300_000);
    let first = stub
        .put(request::put("n", "large", large.clone()))
        .await
        .unwrap()
        .into_inner();
    let again = stub
        .put(request::put("n", "large", large))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.version, first.version);
    let refusals = request::counters(&daemon.stats().await, "n").refusals;
    assert_eq!(refusals, 2, "a broken rule is an error, not a refusal");
    assert_eq!(invalidated(&stub, Target::Prefix("k".into())).await, 1);
    stub.put(request::put("n", "k", "other"))
        .await
        .expect("after an invalidation it is free");
}

#[tokio::test]
async fn unknown_namespaces_are_refused_only_if_wished() {
    let daemon = Daemon::builder()
        .config("[server]\nknown_namespaces_only = true\n[namespaces.known]\n")
        .start();
    let mut stub = daemon.stub();
    stub.put(request::put("known", "k", "v")).await.unwrap();
    let target = || Target::All(true);
    let statuses = [
        stub.put(request::put("unknown", "k", "v")).await.err(),
        stub.get(request::get("unknown", "k")).await.err(),
        stub.exists(request::exists("unknown", "k")).await.err(),
        stub.get_many(request::get_many("unknown", ["k"]))
            .await
            .err(),
        stub.invalidate(request::invalidate("unknown", target()))
            .await
            .err(),
    ];
    for status in statuses {
        let status = status.expect("unknown is refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("namespace: \"unknown\""),
            "{status:?}"
        );
        assert!(
            status.message().contains("known_namespaces_only"),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn what_needs_the_shared_tier_is_refused_without_one() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let shared = ReadOptions {
        require_shared: true,
        ..ReadOptions::default()
    };
    let get = GetRequest {
        options: Some(shared),
        ..request::get("n", "k")
    };
    let status = stub.get(get).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().starts_with("options.require_shared: "),
        "{status:?}"
    );
    let write = PutRequest {
        options: write_options(WriteMode::Shared),
        ..request::put("n", "k", "v")
    };
    let status = stub.put(write).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("options.mode: "), "{status:?}");
    assert!(
        value_of(&stub, "k").await.is_none(),
        "a refused put writes nothing"
    );

    for mode in [WriteMode::Unspecified, WriteMode::Through, WriteMode::Local] {
        let write = PutRequest {
            options: write_options(mode),
            ..request::put("n", "k", "v")
        };
        let stored = stub.put(write).await.unwrap().into_inner();
        assert_eq!(stored.local_outcome(), TierOutcome::Applied);
    }
    let local = ReadOptions {
        local_only: true,
        ..ReadOptions::default()
    };
    let get = GetRequest {
        options: Some(local),
        ..request::get("n", "k")
    };
    assert!(stub.get(get).await.unwrap().into_inner().entry.is_some());
    let both = ReadOptions {
        local_only: true,
        require_shared: true,
        ..ReadOptions::default()
    };
    let get = GetRequest {
        options: Some(both),
        ..request::get("n", "k")
    };
    assert_eq!(
        stub.get(get).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_namespace_of_the_shared_tier_alone_misses_without_redis() {
    let daemon = Daemon::builder()
        .config("[namespaces.n]\ntiers = [\"shared\"]\n")
        .start();
    let mut stub = daemon.stub();
    let stored = stub
        .put(request::put("n", "k", "v"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stored.local_outcome(), TierOutcome::Skipped);
    assert_eq!(stored.shared_outcome(), TierOutcome::Skipped);
    assert!(value_of(&stub, "k").await.is_none());
    assert!(
        !stub
            .exists(request::exists("n", "k"))
            .await
            .unwrap()
            .into_inner()
            .exists
    );
}

#[tokio::test]
async fn exists_elects_nobody() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    put(&stub, "k", "v").await;
    let lease = ReadOptions {
        lease: Some(LeaseRequest::default()),
        ..ReadOptions::default()
    };
    let exists = pannier_proto::v1::ExistsRequest {
        options: Some(lease),
        ..request::exists("n", "k")
    };
    assert_eq!(
        stub.exists(exists).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(value_of(&stub, "k").await.unwrap(), "v");
}

/// The answer to a batch that is refused as a whole, and where its message begins.
#[track_caller]
fn refused_whole<T>(answer: Result<T, tonic::Status>, code: Code, field: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{field} is taken"));
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().starts_with(field), "{status:?}");
}

#[tokio::test]
async fn what_concerns_a_whole_batch_fails_the_whole_batch() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let batch = |namespace: &str, options: WriteOptions| {
        let items = [
            ("k".to_owned(), Bytes::from("v")),
            (String::new(), "v".into()),
        ];
        let mut request = request::put_many(namespace, items);
        request.options = Some(options);
        request
    };
    let invalid = Code::InvalidArgument;
    let plain = WriteOptions::default();
    let version = |length| WriteOptions {
        condition: Some(Condition::IfVersion(Bytes::from(vec![0; length]))),
        ..WriteOptions::default()
    };
    let mode = |mode| WriteOptions {
        mode,
        ..WriteOptions::default()
    };
    let token = WriteOptions {
        lease_token: "t".into(),
        ..WriteOptions::default()
    };
    let table = [
        ("Bad!", plain, invalid, "namespace: "),
        ("n", version(16), invalid, "options.if_version: "),
        ("n", version(3), invalid, "options.if_version: "),
        ("n", mode(17), invalid, "options.mode: 17"),
        (
            "n",
            mode(WriteMode::Shared.into()),
            Code::FailedPrecondition,
            "options.mode: ",
        ),
        (
            "n",
            token,
            invalid,
            "options.lease_token: cannot be used with PutMany",
        ),
    ];
    for (namespace, options, code, field) in table {
        refused_whole(stub.put_many(batch(namespace, options)).await, code, field);
    }
    let reading = |options: ReadOptions, namespace: &str| {
        let mut request = request::get_many(namespace, ["k", ""]);
        request.options = Some(options);
        let mut stub = stub.clone();
        async move { stub.get_many(request).await }
    };
    let lease = ReadOptions {
        lease: Some(LeaseRequest::default()),
        ..ReadOptions::default()
    };
    let field = "options.lease: cannot be used with GetMany";
    refused_whole(reading(lease, "n").await, invalid, field);
    let bad = reading(ReadOptions::default(), "Bad!").await;
    refused_whole(bad, invalid, "namespace: ");
    assert!(value_of(&stub, "k").await.is_none(), "nothing was written");
    let n = request::counters(&daemon.stats().await, "n");
    assert_eq!((n.errors, n.refusals), (5, 1), "each batch counts once");
}

#[tokio::test]
async fn if_absent_is_decided_for_each_item_of_a_batch() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let mut faults = async |keys: [&str; 2]| {
        let items = keys.map(|key| (key.to_owned(), Bytes::from("v")));
        let mut request = request::put_many("n", items);
        request.options = Some(WriteOptions {
            condition: Some(Condition::IfAbsent(true)),
            ..WriteOptions::default()
        });
        let results = stub.put_many(request).await.unwrap().into_inner().results;
        let codes = results.into_iter().map(|it| it.fault.map(|it| it.code));
        codes.collect::<Vec<_>>()
    };
    assert_eq!(faults(["a", "b"]).await, [None, None]);
    let exists = Some(Code::AlreadyExists as u32);
    assert_eq!(faults(["b", "c"]).await, [exists, None]);
}

#[tokio::test]
async fn a_fault_that_is_found_while_decoding_is_counted() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let mut target = request::invalidate("n", Target::All(true));
    target.target = None;
    stub.invalidate(target).await.unwrap_err();
    let long = PutRequest {
        ttl: Some(request::span(-1, 0)),
        ..request::put("n", "k", "v")
    };
    stub.put(long).await.unwrap_err();
    let mut items = request::put_many("n", [("k".to_owned(), "v")]);
    items.items[0].ttl = Some(request::span(-1, 0));
    let reply = stub.put_many(items).await.unwrap().into_inner();
    assert!(reply.results[0].fault.is_some());
    assert_eq!(request::counters(&daemon.stats().await, "n").errors, 3);
}

/// A transport that leaves the deadline to the daemon: tonic's channel would keep it as well, and
/// often be first.
fn patient(daemon: &Daemon) -> (Client<HttpConnector, Body>, Uri) {
    let transport = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let origin = format!("http://{}", daemon.grpc()).parse().unwrap();
    (transport, origin)
}

#[tokio::test]
async fn a_deadline_that_passes_is_deadline_exceeded() {
    let daemon = Daemon::start();
    let stub = daemon.stub();
    fill_for_slow_scan(&stub, "slow", 10).await;
    let (transport, origin) = patient(&daemon);
    let mut patient = CacheServiceClient::with_origin(transport, origin);
    let pattern = Target::Pattern(slow_pattern());
    let mut request = tonic::Request::new(request::invalidate("slow", pattern));
    request.set_timeout(Duration::from_millis(50));
    let status = patient.invalidate(request).await;
    let status = status.expect_err("takes longer than 50 ms");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "the caller's deadline of 50ms has passed");
    put(&stub, "k", "the connection goes on").await;
}

/// The deadline counts from the request's head, and holds while its body has not come: tonic would
/// say CANCELLED.
#[tokio::test]
async fn a_request_that_does_not_come_whole_is_deadline_exceeded() {
    let daemon = Daemon::start();
    for call in [
        "CacheService/Get",
        "CacheService/Write",
        "AdminService/Stats",
    ] {
        let (transport, origin) = patient(&daemon);
        let mut patient = tonic::client::Grpc::with_origin(transport, origin);
        patient.ready().await.unwrap();
        let mut request = tonic::Request::new(tokio_stream::pending::<GetRequest>());
        request.set_timeout(Duration::from_millis(50));
        let path = format!("/pannier.v1.{call}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<_, GetRequest>::default();
        let status = patient.client_streaming(request, path, codec).await;
        let status = status.expect_err("never comes");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{call}: {status}");
        assert_eq!(status.message(), "the caller's deadline of 50ms has passed");
    }
    put(&daemon.stub(), "k", "the daemon goes on").await;
}

#[tokio::test]
async fn a_scan_whose_caller_has_gone_stops() {
    let daemon = Daemon::builder()
        .config("[server]\nmax_in_flight = 1\n")
        .start();
    let stub = daemon.stub();
    fill_for_slow_scan(&stub, "one", 1).await;
    fill_for_slow_scan(&stub, "many", 20).await;
    rest(&daemon).await;
    let before = daemon.processor_time();
    SlowScan::begin(&stub, "one").await.answer().await.unwrap();
    let one_slice = daemon.processor_time() - before;

    let before = daemon.processor_time();
    SlowScan::begin(&stub, "many").await.cancel();
    rest(&daemon).await;
    let used = daemon.processor_time() - before;
    assert!(
        used < one_slice * 6,
        "{used:?} of about {:?}",
        one_slice * 20
    );
    eventually("the place in flight is free again", async || {
        stub.clone().get(request::get("n", "k")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn counters_count_and_are_reset() {
    let daemon = Daemon::start();
    let (mut stub, mut admin) = (daemon.stub(), daemon.admin());
    for key in ["a", "b", "c"] {
        put(&stub, key, "v").await;
    }
    assert!(value_of(&stub, "a").await.is_some());
    assert!(value_of(&stub, "b").await.is_some());
    assert!(value_of(&stub, "none").await.is_none());
    stub.exists(request::exists("n", "a")).await.unwrap();
    stub.get_many(request::get_many("n", ["a", "none"]))
        .await
        .unwrap();
    stub.put(request::put_if("n", "a", "v", Condition::IfAbsent(true)))
        .await
        .unwrap_err();
    stub.get(request::get("n", "")).await.unwrap_err();
    invalidated(&stub, Target::Prefix("a".into())).await;
    stub.put(request::put("other", "k", "v")).await.unwrap();

    let stats = daemon.stats().await;
    let n = request::counters(&stats, "n");
    let counted = (
        n.hits,
        n.misses,
        n.puts,
        n.invalidations,
        n.errors,
        n.refusals,
    );
    assert_eq!(counted, (3, 2, 3, 1, 1, 1));
    assert_eq!(stats.total.unwrap().puts, 4);
    assert_eq!(stats.shared_state(), SharedState::Disabled);
    assert!(!stats.version.is_empty());
    let local = stats.local.unwrap();
    assert!(local.serving && local.message.is_empty());
    assert!(local.disk_bytes > 0 && local.memory_bytes > 0);
    assert_eq!(local.disk_budget_bytes, 4 << 30);
    assert_eq!(local.memory_budget_bytes, 128 << 20);

    let one = StatsRequest {
        namespace: "other".into(),
    };
    let one = admin.stats(one).await.unwrap().into_inner();
    assert_eq!(one.namespaces.len(), 1);
    assert_eq!(one.namespaces[0].namespace, "other");
    let bad = StatsRequest {
        namespace: "Bad!".into(),
    };
    assert_eq!(
        admin.stats(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let since = request::epoch_milliseconds(stats.since.as_ref());
    admin.reset(ResetRequest {}).await.unwrap();
    let stats = daemon.stats().await;
    assert_eq!(stats.total.unwrap(), pannier_proto::v1::Counters::default());
    assert!(request::epoch_milliseconds(stats.since.as_ref()) > since);
    assert!(
        value_of(&stub, "b").await.is_some(),
        "a reset of counters drops no entry"
    );
}

#[tokio::test]
async fn the_effective_configuration_is_told_without_secrets() {
    let daemon = Daemon::builder()
        .arguments(["--redis-url", "redis://user:hunter2@redis.invalid:6379/0"])
        .config("[namespaces.n]\nttl = \"90s\"\n")
        .start();
    let reply = daemon
        .admin()
        .config(ConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        reply.toml.contains("redis://***@redis.invalid:6379/0"),
        "{}",
        reply.toml
    );
    assert!(
        reply.toml.contains("max_in_flight = 4096") && reply.toml.contains("max_watchers = 256"),
        "{}",
        reply.toml
    );
    assert!(reply.toml.contains("ttl = \"1m 30s\""), "{}", reply.toml);
    for text in [reply.toml, daemon.stderr()] {
        assert!(
            !text.contains("hunter2") && !text.contains("user"),
            "{text}"
        );
    }
    put(
        &daemon.stub(),
        "k",
        "a Redis that cannot be reached stops nothing",
    )
    .await;
}

#[tokio::test]
async fn a_flush_drops_every_entry() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    put(&stub, "k", "v").await;
    put(&stub, "large", noise(1, 300_000)).await;
    stub.put(request::put("other", "k", "v")).await.unwrap();
    let reply = daemon
        .admin()
        .flush(FlushRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.local_outcome(), TierOutcome::Applied);
    assert!(value_of(&stub, "k").await.is_none());
    assert!(value_of(&stub, "large").await.is_none());
    assert!(
        stub.get(request::get("other", "k"))
            .await
            .unwrap()
            .into_inner()
            .entry
            .is_none()
    );
    put(&stub, "k", "new").await;
    let daemon = daemon.restart();
    assert_eq!(value_of(&daemon.stub(), "k").await.unwrap(), "new");
    assert!(value_of(&daemon.stub(), "large").await.is_none());
}

#[tokio::test]
async fn health_is_told_for_each_part() {
    let daemon = Daemon::start();
    let health = daemon
        .admin()
        .health(HealthRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(health.serving);
    let local = health
        .parts
        .iter()
        .find(|part| part.name == "local")
        .expect("a local tier");
    assert!(local.healthy && local.message.is_empty(), "{local:?}");

    let mut client = HealthClient::new(daemon.channel());
    let mut status = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        client
            .check(request)
            .await
            .map(|reply| reply.into_inner().status().as_str_name())
    };
    assert_eq!(status("").await.unwrap(), "SERVING");
    assert_eq!(status("pannier.v1.CacheService").await.unwrap(), "SERVING");
    assert_eq!(
        status("shared").await.unwrap(),
        "UNKNOWN",
        "none is configured"
    );
    assert_eq!(status("nobody").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let daemon = Daemon::start();
    let mut client = ServerReflectionClient::new(daemon.channel());
    let ask = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest {
        message_request: Some(ask),
        host: String::new(),
    };
    let reply = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let reply = reply
        .into_inner()
        .message()
        .await
        .unwrap()
        .expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("another answer: {reply:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "pannier.v1.CacheService",
        "pannier.v1.AdminService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|it| it == name),
            "{name} is not in {names:?}"
        );
    }
}

#[tokio::test]
async fn http_answers_liveness_and_readiness() {
    let daemon = Daemon::start();
    let at = daemon.http();
    assert_eq!(
        wire::http_get(at, "/healthz").await.unwrap(),
        (200, "ok\n".into())
    );
    assert_eq!(
        wire::http_get(at, "/readyz").await.unwrap(),
        (200, "ready\n".into())
    );
    assert_eq!(wire::http_get(at, "/none").await.unwrap().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_and_removed_at_the_stop() {
    let how = Daemon::builder();
    let path = how.home().join("pannier.sock");
    let address = format!("unix:{}", path.display());
    let mut daemon = how.listen(&address).start();
    assert_eq!(daemon.grpc(), address);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let large = noise(1, 1 << 20);
    put(&daemon.stub(), "k", large.clone()).await;
    assert!(value_of(&daemon.stub(), "k").await == Some(large.clone()));
    let hit = daemon.client().get("n", "k").await.unwrap().expect("a hit");
    assert!(hit.value == large, "the Rust client speaks to sockets too");
    let get = pannier(&address, &["-n", "n", "get", "k"]);
    assert_eq!(get.status.code(), Some(0), "{}", stderr(&get));
    assert!(get.stdout == large, "and the command line");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!path.exists(), "the socket outlived the daemon");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let how = Daemon::builder();
    let path = how.home().join("pannier.sock");
    let how = how.listen(format!("unix:{}", path.display()));
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a socket without an owner");
    let daemon = how.start();
    put(&daemon.stub(), "k", "v").await;
    // SIGKILL leaves the socket behind.
    let daemon = daemon.restart();
    assert_eq!(value_of(&daemon.stub(), "k").await.unwrap(), "v");

    let second = Daemon::builder().listen(daemon.grpc()).run();
    assert_eq!(second.code(), Some(1), "{}", second.stderr);
    assert!(second.stderr.contains("in use"), "{}", second.stderr);
    assert_eq!(value_of(&daemon.stub(), "k").await.unwrap(), "v");

    let file = how.home().join("file");
    fs::write(&file, "precious").unwrap();
    let third = Daemon::builder()
        .listen(format!("unix:{}", file.display()))
        .run();
    assert_eq!(third.code(), Some(1), "{}", third.stderr);
    assert!(third.stderr.contains("no socket"), "{}", third.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn an_idle_daemon_is_small() {
    let daemon = Daemon::start();
    put(&daemon.stub(), "k", "v").await;
    let resident = daemon.resident_bytes();
    assert!(resident < 40 << 20, "{} KiB", resident >> 10);
}
