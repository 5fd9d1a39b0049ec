//! SIGKILL, ten times, at random points under a write load, on one directory.
//!
//! Proven: after each kill every key holds exactly the last value acknowledged for it or the one
//! that was being written when the kill came, byte for byte; an acknowledged invalidation holds;
//! nothing that was never written appears. No entry may be missing either: the load is far below
//! the disk budget, so nothing is evicted.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use pannier_proto::v1::cache_service_client::CacheServiceClient;
use pannier_tests::{
    Daemon,
    load::{Count, noise},
    request,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const KILLS: u64 = 10;
const WRITERS: u64 = 6;
const KEYS_EACH: u64 = 12;

type Stub = CacheServiceClient<Channel>;
/// What each key may hold: the last acknowledged state, and the one being written. `None`: absent.
type Model = BTreeMap<String, Vec<Option<Bytes>>>;

/// Writes to keys of its own until the daemon is gone.
async fn write(
    mut stub: Stub,
    seed: u64,
    keys: Vec<String>,
    mut model: Model,
    done: Count,
) -> Model {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let key = &keys[random.random_range(0..keys.len())];
        let size = match random.random_range(0..10) {
            0 => random.random_range(16_000..200_000),
            _ => random.random_range(0..2_000),
        };
        let invalidates = random.random_bool(0.25);
        let next = (!invalidates).then(|| noise(random.random(), size));
        model.entry(key.clone()).or_default().push(next.clone());
        let acknowledged = match next.clone() {
            Some(value) => stub.put(request::put("n", key, value)).await.is_ok(),
            None => stub
                .invalidate(request::invalidate_keys("n", [key]))
                .await
                .is_ok(),
        };
        if !acknowledged {
            return model;
        }
        model.insert(key.clone(), vec![next]);
        done.one();
    }
}

/// Reads every key, by both ways, and takes what it holds as acknowledged from now on.
async fn check(stub: &mut Stub, model: &mut Model, kill: u64) {
    let keys: Vec<_> = model.keys().cloned().collect();
    for chunk in keys.chunks(20) {
        let many = stub
            .get_many(request::get_many("n", chunk))
            .await
            .unwrap()
            .into_inner();
        for (key, item) in chunk.iter().zip(many.items) {
            assert!(item.fault.is_none(), "{key} after kill {kill}: {item:?}");
            let one = stub.get(request::get("n", key)).await.unwrap().into_inner();
            let (one, many) = (one.entry.map(|it| it.value), item.entry.map(|it| it.value));
            assert!(
                one == many,
                "{key} after kill {kill}: Get and GetMany disagree"
            );
            let allowed = &model[key];
            assert!(
                allowed.contains(&one),
                "{key} after kill {kill}: {} instead of one of {:?}",
                shape(&one),
                allowed.iter().map(shape).collect::<Vec<_>>()
            );
            model.insert(key.clone(), vec![one]);
        }
    }
}

fn shape(state: &Option<Bytes>) -> String {
    state
        .as_ref()
        .map_or_else(|| "nothing".into(), |it| format!("{} bytes", it.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_ten_kills() {
    let mut random = StdRng::seed_from_u64(24);
    let mut daemon = Daemon::start();
    let mut model = Model::new();
    let mut total = 0;
    for kill in 1..=KILLS {
        let mut writers = JoinSet::new();
        let done = Count::default();
        for writer in 0..WRITERS {
            let keys: Vec<_> = (0..KEYS_EACH)
                .map(|key| format!("{writer}-{key}"))
                .collect();
            let own = keys
                .iter()
                .filter_map(|key| model.remove_entry(key))
                .collect();
            writers.spawn(write(
                daemon.stub(),
                kill * 100 + writer,
                keys,
                own,
                done.clone(),
            ));
        }
        // Not a wait for something but the random point itself.
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        daemon.kill();
        for own in writers.join_all().await {
            model.extend(own);
        }
        total += done.get();
        daemon = daemon.restart();
        check(&mut daemon.stub(), &mut model, kill).await;
    }
    let stats = daemon.stats().await.local.expect("a local tier");
    assert_eq!((stats.corrupt_records, stats.set_asides), (0, 0));
    assert!(
        total > 500,
        "only {total} writes were acknowledged: no load"
    );
    let present = model.values().filter(|states| states[0].is_some()).count();
    assert!(
        present > 20 && present < model.len(),
        "{present} of {} keys are there",
        model.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_just_acknowledged_survives_a_kill() {
    let mut daemon = Daemon::start();
    for round in 0..5_u64 {
        let mut stub = daemon.stub();
        let (small, large) = (noise(round, 50), noise(round, 2 << 20));
        stub.put(request::put("n", "gone", "v")).await.unwrap();
        stub.put(request::put("n", "large", large.clone()))
            .await
            .unwrap();
        stub.put(request::put("n", "small", small.clone()))
            .await
            .unwrap();
        stub.invalidate(request::invalidate_keys("n", ["gone"]))
            .await
            .unwrap();
        daemon = daemon.restart();
        let mut stub = daemon.stub();
        for (key, expected) in [
            ("large", Some(large)),
            ("small", Some(small)),
            ("gone", None),
        ] {
            let got = stub.get(request::get("n", key)).await.unwrap().into_inner();
            assert!(
                got.entry.map(|it| it.value) == expected,
                "{key} in round {round}"
            );
        }
    }
}
