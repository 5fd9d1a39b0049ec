//! P14, limits: past one the answer is a clear, cheap refusal, and the disk budget holds.
//!
//! Proven: each limit of the API at its edge, over the wire, with the field and the limit in the
//! message; a message that is too large harms nobody else on its connection; a reply that would be
//! too large carries what fits; requests in flight, connections and counted namespaces are bounded;
//! while eight times the disk budget is put, no put fails, the directory never takes a tenth more
//! than the budget, what is read regularly stays and what is not goes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test plays the environment, may fail by panic and knows its numbers"
)]

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pannier_proto::v1::{
    GetRequest, PutRequest, ReadOptions, WriteOptions, cache_service_client::CacheServiceClient,
    invalidate_request::Target, write_options::Condition,
};
use pannier_tests::{
    Daemon, eventually,
    load::{SlowScan, fill_for_slow_scan, noise},
    request,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::{Code, Response, Status, transport::Channel};

const MIB: usize = 1 << 20;

type Stub = CacheServiceClient<Channel>;

/// Checks that the answer is a refusal whose message begins with `field` and names `limit`.
#[track_caller]
fn refused<T>(answer: Result<Response<T>, Status>, field: &str, limit: &str) {
    let Err(status) = answer else {
        panic!("{field} beyond {limit} was taken")
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let message = status.message();
    assert!(
        message.starts_with(field),
        "{message:?} does not begin with {field:?}"
    );
    assert!(
        message.contains(limit),
        "{message:?} does not name {limit:?}"
    );
    assert!(message.len() < 300, "a message of {} bytes", message.len());
}

#[tokio::test]
async fn keys_have_1_to_1024_bytes() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let longest = "k".repeat(1024);
    // 1024 bytes in 512 characters.
    let wide = "ö".repeat(512);
    for key in [&longest, &wide, "k", " ", "\0"] {
        stub.put(request::put("n", key, "v")).await.unwrap();
        let got = stub.get(request::get("n", key)).await.unwrap().into_inner();
        assert_eq!(got.entry.expect("a hit").value, "v");
    }
    for key in ["k".repeat(1025), "ö".repeat(513), String::new()] {
        let limit = "1 to 1024 bytes";
        refused(stub.put(request::put("n", &key, "v")).await, "key: ", limit);
        refused(stub.get(request::get("n", &key)).await, "key: ", limit);
        refused(
            stub.exists(request::exists("n", &key)).await,
            "key: ",
            limit,
        );
        let keys = request::invalidate_keys("n", ["k", &key]);
        refused(stub.invalidate(keys).await, "key: ", limit);
        let prefix = request::invalidate("n", Target::Prefix(key.clone()));
        refused(stub.invalidate(prefix).await, "prefix: ", limit);
        let pattern = request::invalidate("n", Target::Pattern(key.clone()));
        refused(stub.invalidate(pattern).await, "pattern: ", limit);
    }
    let got = stub.get(request::get("n", "k")).await.unwrap().into_inner();
    assert!(
        got.entry.is_some(),
        "a refused invalidation removes nothing"
    );
    for target in [Target::Prefix(longest.clone()), Target::Pattern(longest)] {
        stub.invalidate(request::invalidate("n", target))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn namespaces_keep_to_their_rule() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    for name in ["n", "0", "a.b_c-d", &"n".repeat(63)] {
        stub.put(request::put(name, "k", "v")).await.unwrap();
    }
    let limit = "[a-z0-9][a-z0-9._-]{0,62}";
    for name in [
        "",
        "N",
        ".n",
        "-n",
        "_n",
        "a b",
        "a/b",
        "ö",
        "n\0",
        &"n".repeat(64),
    ] {
        refused(
            stub.put(request::put(name, "k", "v")).await,
            "namespace: ",
            limit,
        );
        refused(
            stub.get(request::get(name, "k")).await,
            "namespace: ",
            limit,
        );
        refused(
            stub.exists(request::exists(name, "k")).await,
            "namespace: ",
            limit,
        );
        refused(
            stub.get_many(request::get_many(name, ["k"])).await,
            "namespace: ",
            limit,
        );
        let all = request::invalidate(name, Target::All(true));
        refused(stub.invalidate(all).await, "namespace: ", limit);
    }
}

#[tokio::test]
async fn values_go_up_to_the_namespaces_limit() {
    let config = "[namespaces.small]\nmax_value_size = \"1KiB\"\n\
                  [namespaces.largest]\nmax_value_size = \"4032KiB\"\n";
    let daemon = Daemon::builder().config(config).start();
    let mut stub = daemon.stub();
    for (namespace, limit) in [("n", 3 * MIB), ("small", 1024), ("largest", 4032 << 10)] {
        let value = noise(1, limit);
        stub.put(request::put(namespace, "k", value.clone()))
            .await
            .unwrap();
        let got = stub
            .get(request::get(namespace, "k"))
            .await
            .unwrap()
            .into_inner();
        assert!(got.entry.expect("a hit").value == value, "{namespace}");
        let more = noise(2, limit + 1);
        let answer = stub.put(request::put(namespace, "k", more)).await;
        refused(
            answer,
            &format!("value: {} bytes", limit + 1),
            &limit.to_string(),
        );
        let got = stub
            .get(request::get(namespace, "k"))
            .await
            .unwrap()
            .into_inner();
        assert!(
            got.entry.expect("a hit").value == value,
            "{namespace}: the old one stays"
        );
    }
    let items = [
        ("a".to_owned(), noise(1, 1025)),
        ("b".to_owned(), noise(1, 1024)),
    ];
    let reply = stub
        .put_many(request::put_many("small", items))
        .await
        .unwrap()
        .into_inner();
    let fault = reply.results[0].fault.as_ref().expect("is too large");
    assert_eq!(fault.code, Code::InvalidArgument as u32);
    assert!(
        fault.message.contains("max_value_size is 1024"),
        "{fault:?}"
    );
    assert!(reply.results[1].fault.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_harms_nobody_else_on_its_connection() {
    let daemon = Daemon::start();
    let stub = daemon.stub();
    let mut neighbours = JoinSet::new();
    for neighbour in 0..4 {
        let mut stub = stub.clone();
        neighbours.spawn(async move {
            for round in 0..50_u64 {
                let (key, value) = (format!("{neighbour}"), noise(round, 10_000));
                stub.put(request::put("n", &key, value.clone()))
                    .await
                    .expect("a neighbour");
                let got = stub
                    .get(request::get("n", &key))
                    .await
                    .expect("a neighbour");
                assert!(got.into_inner().entry.expect("a hit").value == value);
            }
        });
    }
    let mut stub = stub.clone();
    for size in [5 * MIB, 32 * MIB] {
        let status = stub
            .put(request::put("n", "k", noise(1, size)))
            .await
            .unwrap_err();
        // gRPC's own codes for this: tonic says OUT_OF_RANGE, others RESOURCE_EXHAUSTED.
        let codes = [
            Code::OutOfRange,
            Code::ResourceExhausted,
            Code::InvalidArgument,
        ];
        assert!(codes.contains(&status.code()), "{size}: {status:?}");
        assert!(
            status
                .message()
                .contains(&((4 * MIB) + (64 << 10)).to_string()),
            "{status:?}"
        );
        let got = stub.get(request::get("n", "k")).await.unwrap().into_inner();
        assert!(got.entry.is_none());
    }
    neighbours.join_all().await;
}

#[tokio::test]
async fn what_is_said_about_a_value_has_limits() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let said =
        |metadata: Vec<(String, String)>, content_type: usize, tags: Vec<String>| PutRequest {
            metadata: metadata.into_iter().collect::<HashMap<_, _>>(),
            content_type: "c".repeat(content_type),
            tags,
            ..request::put("n", "k", "v")
        };
    let pairs = |count: usize| {
        (0..count)
            .map(|i| (format!("{i:03}"), String::new()))
            .collect()
    };
    let pair = |key: usize, value: usize| vec![("k".repeat(key), "v".repeat(value))];
    let tags = |count: usize| {
        (0..count)
            .map(|index| format!("t{index}"))
            .collect::<Vec<_>>()
    };
    let good = [
        said(pairs(64), 255, tags(16)),
        said(pair(128, (16 << 10) - 128), 0, vec!["t".repeat(128)]),
        said(vec![], 0, vec!["same".into(); 100]),
    ];
    for request in good {
        let (sent, words) = (request.metadata.clone(), request.content_type.clone());
        stub.put(request).await.unwrap();
        let entry = stub
            .get(request::get("n", "k"))
            .await
            .unwrap()
            .into_inner()
            .entry
            .unwrap();
        assert!(entry.metadata == sent && entry.content_type == words);
    }
    let bad = [
        (said(pairs(65), 0, vec![]), "metadata: 65 pairs", "64"),
        (
            said(pair(129, 0), 0, vec![]),
            "metadata key: 129 bytes",
            "128",
        ),
        (said(pair(0, 1), 0, vec![]), "metadata key: empty", "1 byte"),
        (
            said(pair(1, 16 << 10), 0, vec![]),
            "metadata: 16385 bytes",
            "16384",
        ),
        (said(vec![], 256, vec![]), "content_type: 256 bytes", "255"),
        (said(vec![], 0, tags(17)), "tags: 17 tags", "16"),
        (
            said(vec![], 0, vec!["t".repeat(129)]),
            "tag: 129 bytes",
            "128",
        ),
        (said(vec![], 0, vec![String::new()]), "tag: empty", "1 byte"),
    ];
    for (request, field, limit) in bad {
        refused(stub.put(request).await, field, limit);
    }
}

#[tokio::test]
async fn spans_of_time_and_options_have_limits() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let living = |ttl| PutRequest {
        ttl: Some(ttl),
        ..request::put("n", "k", "v")
    };
    stub.put(living(request::span(0, 1_000_000)))
        .await
        .expect("1 ms is the least");
    refused(stub.put(living(request::span(0, 0))).await, "ttl: ", "1ms");
    refused(
        stub.put(living(request::span(0, 999_999))).await,
        "ttl: ",
        "1ms",
    );
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (-1, -1),
        (1, 1_000_000_000),
        (i64::MIN, 0),
    ] {
        let ttl = request::span(seconds, nanos);
        refused(stub.put(living(ttl)).await, "ttl: ", "zero or more");
    }
    let stale = ReadOptions {
        max_stale: Some(request::span(-1, 0)),
        ..ReadOptions::default()
    };
    let get = GetRequest {
        options: Some(stale),
        ..request::get("n", "k")
    };
    refused(stub.get(get).await, "options.max_stale: ", "zero or more");
    for length in [0, 15, 17] {
        let version = Condition::IfVersion(Bytes::from(vec![1; length]));
        let put = request::put_if("n", "k", "v", version);
        refused(stub.put(put).await, "options.if_version: ", "16");
    }
    let mode = WriteOptions {
        mode: 17,
        ..WriteOptions::default()
    };
    let put = PutRequest {
        options: Some(mode),
        ..request::put("n", "k", "v")
    };
    refused(stub.put(put).await, "options.mode: ", "17");
}

#[tokio::test]
async fn an_invalidation_has_exactly_one_valid_target() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let mut none = request::invalidate("n", Target::All(true));
    none.target = None;
    refused(stub.invalidate(none).await, "target: ", "must be set");
    let false_all = request::invalidate("n", Target::All(false));
    refused(stub.invalidate(false_all).await, "all: ", "true");
    for pattern in ["[a", "[", "a\\", "[a-"] {
        let pattern = request::invalidate("n", Target::Pattern(pattern.into()));
        refused(stub.invalidate(pattern).await, "pattern: ", "at byte");
    }
}

#[tokio::test]
async fn batches_have_1_to_1000_items() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let keys = |count: usize| (0..count).map(|index| format!("k{index}"));
    let items = |count: usize| keys(count).map(|key| (key, Bytes::from("v")));
    for count in [1, 1000] {
        let put = stub
            .put_many(request::put_many("n", items(count)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(put.results.len(), count);
        let got = stub
            .get_many(request::get_many("n", keys(count)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            got.items.iter().filter(|item| item.entry.is_some()).count(),
            count
        );
        let gone = stub
            .invalidate(request::invalidate_keys("n", keys(count)))
            .await
            .unwrap();
        assert_eq!(gone.into_inner().count, count as u64);
    }
    for count in [0, 1001] {
        let limit = "1 to 1000";
        refused(
            stub.put_many(request::put_many("n", items(count))).await,
            "items: ",
            limit,
        );
        refused(
            stub.get_many(request::get_many("n", keys(count))).await,
            "keys: ",
            limit,
        );
        let gone = stub
            .invalidate(request::invalidate_keys("n", keys(count)))
            .await;
        refused(gone, "keys: ", limit);
    }
    let got = stub
        .get(request::get("n", "k0"))
        .await
        .unwrap()
        .into_inner();
    assert!(got.entry.is_none(), "a refused batch writes nothing");
}

#[tokio::test]
async fn a_reply_that_would_be_too_large_carries_what_fits() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    let value = noise(1, 3 * MIB / 2);
    for key in ["a", "b", "c"] {
        stub.put(request::put("n", key, value.clone()))
            .await
            .unwrap();
    }
    stub.put(request::put("n", "small", "v")).await.unwrap();
    let keys = ["a", "b", "none", "c", "small", "a", "b"];
    let reply = stub
        .get_many(request::get_many("n", keys))
        .await
        .unwrap()
        .into_inner();
    let mut full = Vec::new();
    for (key, item) in keys.iter().zip(&reply.items) {
        match (&item.fault, &item.entry) {
            (Some(fault), None) => {
                assert_eq!(fault.code, Code::ResourceExhausted as u32, "{key}");
                assert!(fault.message.contains("4194304"), "{fault:?}");
                full.push(*key);
            }
            (None, Some(entry)) if *key == "small" => assert_eq!(entry.value, "v"),
            (None, Some(entry)) => assert!(entry.value == value, "{key}"),
            (None, None) => assert_eq!(*key, "none"),
            (Some(_), Some(_)) => panic!("{key} has a fault and an entry"),
        }
    }
    assert_eq!(
        full,
        ["c", "a", "b"],
        "two of 1.5 MiB fit, and so does a small one after them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_those_in_flight_are_refused_and_may_be_tried_again() {
    let daemon = Daemon::builder()
        .config("[server]\nmax_in_flight = 1\n")
        .start();
    let stub = daemon.stub();
    fill_for_slow_scan(&stub, "slow", 10).await;
    let scan = SlowScan::begin(&stub, "slow").await;
    // The same limit holds over all connections.
    for mut stub in [stub.clone(), daemon.stub()] {
        let statuses = [
            stub.get(request::get("n", "k")).await.err(),
            stub.put(request::put("n", "k", "v")).await.err(),
            stub.exists(request::exists("n", "k")).await.err(),
            stub.get_many(request::get_many("n", ["k"])).await.err(),
            stub.put_many(request::put_many("n", [("k".to_owned(), "v")]))
                .await
                .err(),
            stub.invalidate(request::invalidate("n", Target::All(true)))
                .await
                .err(),
        ];
        for status in statuses {
            let status = status.expect("the one place is taken");
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(status.message().contains("max_in_flight: 1"), "{status:?}");
        }
    }
    daemon.stats().await;
    scan.answer()
        .await
        .expect("the first one was not disturbed");
    stub.clone()
        .put(request::put("n", "k", "v"))
        .await
        .expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let daemon = Daemon::builder()
        .config("[server]\nmax_connections = 1\n")
        .start();
    let mut first = daemon.stub();
    first.put(request::put("n", "k", "v")).await.unwrap();
    let begun = std::time::Instant::now();
    let status = daemon.stub().get(request::get("n", "k")).await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "a second one waits: {status:?}"
    );
    first
        .get(request::get("n", "k"))
        .await
        .expect("the first one stays");
    drop(first);
    eventually("a closed connection makes room", async || {
        daemon.stub().get(request::get("n", "k")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn namespaces_beyond_1000_are_counted_together() {
    let daemon = Daemon::start();
    let mut stub = daemon.stub();
    for index in 0..1005 {
        stub.put(request::put(&format!("n{index}"), "k", "v"))
            .await
            .unwrap();
    }
    let stats = daemon.stats().await;
    assert_eq!(stats.namespaces.len(), 1001);
    assert_eq!(request::counters(&stats, "other").puts, 5);
    assert_eq!(stats.total.unwrap().puts, 1005);
    let got = stub
        .get(request::get("n1004", "k"))
        .await
        .unwrap()
        .into_inner();
    assert!(got.entry.is_some(), "they are served like the others");
}

/// Bytes that the file system has allocated below a directory.
fn allocated(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => allocated(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        // Gone since it was listed.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Samples the allocated bytes all the time; the most is what it ends with.
fn watch_disk(path: &Path) -> (Arc<AtomicBool>, std::thread::JoinHandle<(u64, u32)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (path.to_owned(), Arc::clone(&stop));
    let watching = std::thread::spawn(move || {
        let (mut most, mut samples) = (0, 0);
        while !stopped.load(Ordering::Relaxed) {
            most = most.max(allocated(&path));
            samples += 1;
            // A pause between samples, so that looking does not slow down what is looked at.
            std::thread::sleep(Duration::from_millis(5));
        }
        (most, samples)
    });
    (stop, watching)
}

const BUDGET: u64 = 64 << 20;
const FLOOD: u64 = 512 << 20;
const HOT: u64 = 16;

fn hot(index: u64) -> (String, Bytes) {
    // 1 KiB to 256 KiB: in tables and in blob files.
    (
        format!("hot-{index}"),
        noise(1000 + index, 1 << (10 + index % 9)),
    )
}

/// Puts values of 1 KiB to 1 MiB until all floods together have put [`FLOOD`] bytes, and reads the
/// hot keys once for each MiB of its own; returns how often one was missing.
async fn flood(mut stub: Stub, flood: u64, put: Arc<AtomicU64>) -> u32 {
    let mut random = StdRng::seed_from_u64(flood);
    let pool = noise(flood, 4 * MIB);
    let (mut since_read, mut missing) = (0, 0);
    for count in 0_u64.. {
        if put.load(Ordering::Relaxed) >= FLOOD {
            break;
        }
        // As many of each order of magnitude; every value differs by where it is cut out.
        let size = (1024.0 * 2_f64.powf(random.random_range(0.0..10.0))) as usize;
        let from = random.random_range(0..pool.len() - size);
        let value = pool.slice(from..from + size);
        let request = request::put("n", &format!("flood-{flood}-{count}"), value);
        stub.put(request).await.expect("no put fails");
        put.fetch_add(size as u64, Ordering::Relaxed);
        since_read += size;
        if since_read > MIB {
            since_read = 0;
            missing += missing_hot_keys(&mut stub).await;
        }
    }
    missing
}

async fn missing_hot_keys(stub: &mut Stub) -> u32 {
    let mut missing = 0;
    for index in 0..HOT {
        let (key, value) = hot(index);
        match stub
            .get(request::get("n", &key))
            .await
            .expect("a get is answered")
            .into_inner()
            .entry
        {
            Some(entry) => assert!(entry.value == value, "{key} has another value"),
            None => {
                // As a service does that has to compute it again.
                missing += 1;
                stub.put(request::put("n", &key, value))
                    .await
                    .expect("no put fails");
            }
        }
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_budget_holds_while_eight_times_as_much_is_put() {
    let daemon = Daemon::builder()
        .arguments(["--disk-budget", "64MiB", "--memory-budget", "32MiB"])
        .start();
    let mut stub = daemon.stub();
    let cold = |index: u64| format!("cold-{index}");
    for index in 0..50 {
        stub.put(request::put("n", &cold(index), noise(index, 20_000)))
            .await
            .unwrap();
    }
    for index in 0..HOT {
        let (key, value) = hot(index);
        stub.put(request::put("n", &key, value)).await.unwrap();
    }
    let (stop, watching) = watch_disk(daemon.data_dir());
    let put = Arc::new(AtomicU64::new(0));
    let mut floods = JoinSet::new();
    for index in 0..4 {
        floods.spawn(flood(daemon.stub(), index, Arc::clone(&put)));
    }
    let missing: u32 = floods.join_all().await.into_iter().sum();
    stop.store(true, Ordering::Relaxed);
    let (most, samples) = watching.join().unwrap();
    assert!(
        samples > 100,
        "{samples} samples are too few to say anything"
    );
    let share = most as f64 / BUDGET as f64;
    assert!(
        share <= 1.10,
        "{most} bytes at most, {share:.3} of the budget"
    );
    assert!(
        share > 0.5,
        "{most} bytes at most: the budget is not made use of"
    );
    assert_eq!(missing, 0, "hot keys were missing");
    let missing = missing_hot_keys(&mut stub).await;
    assert_eq!(missing, 0, "hot keys are missing in the end");
    for index in 0..50 {
        let got = stub
            .get(request::get("n", &cold(index)))
            .await
            .unwrap()
            .into_inner();
        assert!(got.entry.is_none(), "{} is still there", cold(index));
    }
    let stats = daemon.stats().await.local.unwrap();
    assert!(
        stats.refreshed_records > 0 && stats.corrupt_records == 0,
        "{stats:?}"
    );
    let counted = stats.disk_bytes.abs_diff(allocated(daemon.data_dir()));
    assert!(
        counted < 8 << 20,
        "it counts {} bytes, {counted} off",
        stats.disk_bytes
    );
    assert!(
        stats.memory_bytes <= stats.memory_budget_bytes * 11 / 10,
        "{stats:?}"
    );
}
