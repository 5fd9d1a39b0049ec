//! The engine against a model: random operations under a mock clock, on a real store that is now
//! and then closed and opened again.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::Overrides,
    entry::{Attributes, Entry},
    error::Kind,
    glob::Glob,
    stats::Reading,
    steps::{Ended, Steps, What},
    tier::{Condition, local::Maintenance},
};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// Only a broken build takes so long to give the lock of a directory back.
const HELD_MAX: Duration = Duration::from_secs(10);
const NAMESPACES: [&str; 3] = ["plain", "packed", "once"];

/// One step; keys are drawn from a few, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Put {
        namespace: usize,
        key: u8,
        value: u8,
        large: bool,
        ttl: Option<u16>,
        when: When,
    },
    Get {
        namespace: usize,
        key: u8,
    },
    GetMany {
        namespace: usize,
        keys: Vec<u8>,
    },
    Invalidate {
        namespace: usize,
        target: ModelTarget,
    },
    Wait {
        millis: u16,
    },
    Flush,
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    Absent,
    SameVersion,
    OtherVersion,
}

#[derive(Debug, Clone)]
enum ModelTarget {
    Keys(Vec<u8>),
    Prefix(u8),
    Pattern(u8),
    All,
}

fn key_name(key: u8) -> String {
    format!("k{}:{}", key % 3, key)
}

fn steps() -> impl Strategy<Value = Step> {
    let namespace = 0..NAMESPACES.len();
    let key = 0..8_u8;
    let when = prop_oneof![
        4 => Just(When::Always),
        1 => Just(When::Absent),
        1 => Just(When::SameVersion),
        1 => Just(When::OtherVersion),
    ];
    let put = (
        namespace.clone(),
        key.clone(),
        any::<u8>(),
        prop::bool::weighted(0.2),
        prop::option::of(1..2000_u16),
        when,
    )
        .prop_map(|(namespace, key, value, large, ttl, when)| Step::Put {
            namespace,
            key,
            value,
            large,
            ttl,
            when,
        });
    let target = prop_oneof![
        4 => prop::collection::vec(key.clone(), 1..3).prop_map(ModelTarget::Keys),
        1 => (0..3_u8).prop_map(ModelTarget::Prefix),
        1 => (0..10_u8).prop_map(ModelTarget::Pattern),
        1 => Just(ModelTarget::All),
    ];
    prop_oneof![
        8 => put,
        8 => (namespace.clone(), key.clone())
            .prop_map(|(namespace, key)| Step::Get { namespace, key }),
        2 => (namespace.clone(), prop::collection::vec(key, 1..6))
            .prop_map(|(namespace, keys)| Step::GetMany { namespace, keys }),
        3 => (namespace, target)
            .prop_map(|(namespace, target)| Step::Invalidate { namespace, target }),
        2 => (1..1500_u16).prop_map(|millis| Step::Wait { millis }),
        1 => prop_oneof![3 => Just(Step::Reopen), 1 => Just(Step::Flush)],
    ]
}

#[derive(Debug, Clone)]
struct Known {
    value: Bytes,
    stamp: crate::stamp::Stamp,
    expires: Timestamp,
}

type Model = BTreeMap<(usize, String), Known>;

struct World {
    engine: Engine,
    local: LocalTier,
    maintenance: Maintenance,
    stop: CancellationToken,
}

impl World {
    async fn open(dir: &Path, clock: &Clock, writer: u64) -> Self {
        let file = dir.join("pannier.toml");
        let text = "[local]\ndisk_budget = \"64MiB\"\nmemory_budget = \"16MiB\"\n\
                    [defaults]\nttl = \"1s\"\nmax_ttl = \"1500ms\"\n\
                    [namespaces.packed]\ncompression = \"lz4\"\n\
                    [namespaces.once]\nimmutable = true\n";
        std::fs::write(&file, text).expect("writes");
        let data_dir = Some(dir.join("data"));
        let flags = Overrides {
            config: Some(file),
            data_dir,
            ..Overrides::default()
        };
        let config = Arc::new(Config::load(&flags, &|_| None).expect("good"));
        let stop = CancellationToken::new();
        let longest = config.longest_lifetime();
        let begun = Instant::now();
        let (local, maintenance) = loop {
            let (clock, stop) = (clock.clone(), stop.clone());
            match LocalTier::open(&config.local, longest, "test", clock, stop).await {
                // Tests beside this one start processes; each has the lock until it has become
                // another program.
                Err(error) if error.kind() == Kind::Held && begun.elapsed() < HELD_MAX => {
                    tokio::task::yield_now().await;
                }
                opened => break opened.expect("opens"),
            }
        };
        let stamper = Arc::new(Stamper::new(clock.clone(), writer));
        let engine = Engine::new(config, clock.clone(), stamper, local.clone(), None);
        Self {
            engine,
            local,
            maintenance,
            stop,
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.maintenance.await.expect("did not panic");
        self.local.close().await.expect("closes");
    }
}

fn live(model: &Model, namespace: usize, key: &str, now: Timestamp) -> Option<Known> {
    model
        .get(&(namespace, key.to_owned()))
        .filter(|known| now < known.expires)
        .cloned()
}

async fn put(engine: &Engine, model: &mut Model, step: &Step) {
    let Step::Put {
        namespace,
        key,
        value,
        large,
        ttl,
        when,
    } = step
    else {
        return;
    };
    let (namespace, key) = (*namespace, key_name(*key));
    let bytes = Bytes::from(vec![
        *value;
        if *large { 20_000 } else { usize::from(*value) }
    ]);
    let now = engine.now();
    let known = live(model, namespace, &key, now);
    let immutable = NAMESPACES[namespace] == "once";
    let other = crate::stamp::Stamp::from_bytes([7; 16]);
    let condition = match when {
        When::Always => Condition::Always,
        When::Absent => Condition::Absent,
        When::SameVersion => Condition::Version(known.as_ref().map_or(other, |it| it.stamp)),
        When::OtherVersion => Condition::Version(other),
    };
    let options = PutOptions {
        ttl: ttl.map(|ttl| Duration::from_millis(ttl.into())),
        mode: WriteMode::Through,
        condition,
        lease: None,
    };
    let entry = Entry {
        value: bytes.clone(),
        attributes: Attributes::default(),
        negative: false,
    };
    let (name, steps) = (NAMESPACES[namespace], Steps::default());
    let put = engine.put(name, key.clone(), entry, options, &steps);
    let result = put.await;
    let expected = match (condition, &known) {
        (Condition::Version(_), _) if immutable => Err(Kind::Invalid),
        (Condition::Always, Some(known)) if immutable && known.value != bytes => Err(Kind::Exists),
        (Condition::Always, Some(known)) if immutable => Ok(Some(known.stamp)),
        (Condition::Absent, Some(_)) => Err(Kind::Exists),
        (Condition::Version(wanted), _) if known.as_ref().map(|it| it.stamp) != Some(wanted) => {
            Err(Kind::Precondition)
        }
        _ => Ok(None),
    };
    match (result, expected) {
        (Ok(written), Ok(Some(kept))) => assert_eq!(written.stamp, kept),
        (Ok(written), Ok(None)) => {
            let lifetime = ttl.map_or(1000, |ttl| u64::from(ttl).min(1500));
            assert_eq!(written.expires, now.after(Duration::from_millis(lifetime)));
            let known = Known {
                value: bytes,
                stamp: written.stamp,
                expires: written.expires,
            };
            model.insert((namespace, key), known);
        }
        (Err(error), Err(kind)) => assert_eq!(error.kind(), kind),
        (result, expected) => panic!("{result:?} instead of {expected:?}"),
    }
}

async fn get(engine: &Engine, model: &Model, namespace: usize, key: u8) {
    let key = key_name(key);
    let known = live(model, namespace, &key, engine.now());
    let name = NAMESPACES[namespace];
    let options = ReadOptions::default();
    let answer = engine
        .get(name, key.clone(), options, &Steps::default())
        .await
        .expect("works");
    let seen = answer
        .hit
        .as_ref()
        .map(|hit| (&hit.entry.value, hit.stamp, hit.expires));
    let wanted = known
        .as_ref()
        .map(|known| (&known.value, known.stamp, known.expires));
    assert_eq!(seen, wanted, "{name}/{key}");
    let existence = engine
        .exists(name, key, options, &Steps::default())
        .await
        .expect("works");
    let remaining = known.map(|known| known.expires.since(engine.now()));
    assert_eq!(existence.remaining, remaining);
}

async fn get_many(engine: &Engine, model: &Model, namespace: usize, keys: &[u8]) {
    let names = keys.iter().map(|key| key_name(*key)).collect();
    let options = ReadOptions::default();
    let answers = engine
        .get_many(NAMESPACES[namespace], names, options, &Steps::default())
        .await
        .expect("works");
    assert_eq!(answers.len(), keys.len());
    for (key, answer) in keys.iter().zip(answers) {
        let known = live(model, namespace, &key_name(*key), engine.now());
        let value = answer.expect("valid key").hit.map(|hit| hit.entry.value);
        assert_eq!(value, known.map(|known| known.value));
    }
}

async fn invalidate(engine: &Engine, model: &mut Model, namespace: usize, target: &ModelTarget) {
    let glob = |key: &u8| format!("k?:{key}*");
    let selected = |key: &str| match target {
        ModelTarget::Keys(keys) => keys.iter().any(|it| key_name(*it) == key),
        ModelTarget::Prefix(prefix) => key.starts_with(&format!("k{prefix}")),
        ModelTarget::Pattern(it) => Glob::new(&glob(it)).expect("valid").matches(key),
        ModelTarget::All => true,
    };
    let now = engine.now();
    let gone: Vec<_> = model
        .keys()
        .filter(|(at, key)| *at == namespace && selected(key))
        .cloned()
        .collect();
    let removed = gone.iter().filter_map(|key| model.remove(key));
    let expected = removed.filter(|known| now < known.expires).count() as u64;
    let target = match target {
        ModelTarget::Keys(keys) => Target::Keys(keys.iter().map(|key| key_name(*key)).collect()),
        ModelTarget::Prefix(prefix) => Target::Prefix(format!("k{prefix}")),
        ModelTarget::Pattern(key) => Target::Pattern(glob(key)),
        ModelTarget::All => Target::All,
    };
    let done = engine
        .invalidate(NAMESPACES[namespace], target, &Steps::default())
        .await
        .expect("works");
    assert_eq!(done.count, expected);
}

async fn play(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let mut writer = 1;
    let mut world = World::open(dir.path(), &clock, writer).await;
    let mut model = Model::new();
    for step in &steps {
        match step {
            Step::Put { .. } => put(&world.engine, &mut model, step).await,
            Step::Get { namespace, key } => get(&world.engine, &model, *namespace, *key).await,
            Step::GetMany { namespace, keys } => {
                get_many(&world.engine, &model, *namespace, keys).await;
            }
            Step::Invalidate { namespace, target } => {
                invalidate(&world.engine, &mut model, *namespace, target).await;
            }
            Step::Wait { millis } => clock.advance(Duration::from_millis((*millis).into())),
            Step::Flush => {
                world.engine.flush().await.expect("works");
                model.clear();
            }
            Step::Reopen => {
                world.close().await;
                writer += 1;
                world = World::open(dir.path(), &clock, writer).await;
            }
        }
    }
    world.close().await;
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 48,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn the_engine_does_what_the_model_does(steps in prop::collection::vec(steps(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(play(steps));
    }
}

#[tokio::test]
async fn outcomes_are_counted_by_namespace() {
    let dir = tempfile::tempdir().expect("tempdir");
    let world = World::open(dir.path(), &Clock::mock(START), 1).await;
    let engine = &world.engine;
    let entry = || Entry {
        value: "v".into(),
        attributes: Attributes::default(),
        negative: false,
    };
    let always = PutOptions {
        ttl: None,
        mode: WriteMode::Through,
        condition: Condition::Always,
        lease: None,
    };
    let absent = PutOptions {
        condition: Condition::Absent,
        ..always
    };
    let steps = Steps::default();
    let put = async |key: &str, options| {
        let put = engine.put("a", key.into(), entry(), options, &steps);
        put.await.map(drop)
    };
    put("k", always).await.expect("puts");
    assert!(put("k", absent).await.is_err());
    assert!(put("", always).await.is_err());
    for key in ["k", "none"] {
        let read = engine.get("a", key.into(), ReadOptions::default(), &steps);
        read.await.expect("works");
    }
    let removed = engine.invalidate("a", Target::All, &steps).await;
    removed.expect("works");
    let [met] = &engine.counters()[..] else {
        panic!("one namespace was met");
    };
    let expected = Reading {
        hits_local: 1,
        misses: 1,
        puts: 1,
        invalidations: 1,
        errors: 1,
        refusals: 1,
        ..Reading::default()
    };
    assert_eq!((met.name.as_ref(), met.reading), ("a", expected));
    let noted: Vec<_> = steps.list().map(|it| (it.what, it.ended)).collect();
    let expected = [
        (What::Store, Ended::Applied),
        (What::Store, Ended::Skipped),
        (What::Lookup, Ended::Hit),
        (What::Lookup, Ended::Miss),
        (What::Remove, Ended::Applied),
    ];
    assert_eq!(noted, expected);
    world.close().await;
}
