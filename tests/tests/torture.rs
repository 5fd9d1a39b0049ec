//! Coherence under every fault at once: P2, P5 to P11, P13, P15.
//!
//! Three daemons, each behind a proxy of its own, and one Redis. Twelve callers put, read and
//! invalidate a handful of keys, so that they meet; a client of Redis deletes and overwrites them
//! too; some of the keys have a tag, which is invalidated as well; callers ask for leases and put
//! under them, in time and too late; the values of one key are streamed, and lie in chunks. Each
//! daemon has a key that its own callers only read: with the pushes to it swallowed it serves old
//! values of that key until its lease is over, which is measured, and has to be seen. Meanwhile
//! faults come at random: connections are cut, silenced, slowed, spoilt, one path or both; trackers
//! and clients are killed; Redis is stopped, flushed, killed and started again with its data or
//! without; daemons are killed and started again, also while they are cut off. Pushes are late
//! while a crowd changes one key and reads it at once, so that only the acknowledgement tells the
//! daemon; and daemons stand still for longer than the lease and go on with questions waiting, so
//! that only the clock does. Everything that was seen is recorded and checked offline by the rules
//! of `pannier_tests::history`, which raise no false alarm.
//!
//! `make torture SECONDS=1800 SEED=7` runs long: in segments of a minute, each with the seed after
//! the last. A failure names the seed of its segment; the choices are the same with it, what the
//! machine makes of them is not.
//!
//! A fault and the pauses between faults have random lengths: here sleeping is not waiting.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    collections::{BTreeMap, HashMap},
    env,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use pannier_proto::v1::{
    GetManyItem, GetManyRequest, GetRequest, GetResponse, InvalidateResponse, LeaseRequest,
    Provenance, PutRequest, PutResponse, ReadOptions, SharedState, Tier, TierOutcome, WriteHeader,
    WriteOptions, WriteResponse, cache_service_client::CacheServiceClient,
    invalidate_request::Target,
};
use pannier_tests::{
    Connection, Daemon, Data, Mode, Path, Proxy, Redis, eventually,
    history::{
        Action, Bounds, Fault, FaultKind, Found, Grant, History, Operation, Reach, Settled, Summary,
    },
    load::noise,
    request, shared, stream,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status, codegen::tokio_stream, transport::Channel};

const DAEMONS: usize = 3;
const CALLERS_EACH: usize = 4;
/// Keys that everybody changes all the time.
const BUSY: usize = 6;
/// And for each daemon one that it only reads, and the others seldom change: only its copy lives
/// long enough to be served old when the pushes fall silent.
/// And one that is changed by one caller at a time, while pushes to its daemon are late.
const CROWDED: usize = BUSY + DAEMONS;
/// Those of the busy ones whose puts all have the tag.
const TAGGED: Range<usize> = 4..BUSY;
const TAG: &str = "t";
/// One whose values are written and read as streams, in chunks.
const STREAMED: usize = CROWDED + 1;
const KEYS: usize = STREAMED + 1;
/// How often the streamed key is chosen: its values are large.
const STREAMED_SHARE: f64 = 0.006;
/// Callers who read one key of one daemon without a pause while it is changed there.
const CROWD: usize = 6;
/// It is read as the last of a batch as well, which takes the daemon long: what it was told of the
/// key lies there meanwhile.
const BATCH: usize = 64;
/// What the local tier takes on the thread of the request, one after the other.
const BATCH_VALUE_BYTES: usize = 15_000;
const SEEDS: [u64; 2] = [1, 2];
const SECONDS: u64 = 24;
const SEGMENT_MAX: Duration = Duration::from_secs(60);
/// A call without an answer for so long has failed.
const CALL_MAX: Duration = Duration::from_secs(20);
const NAMESPACE: &str = "n";
const CONFIG: &str = "
lease = \"1s\"
heartbeat = \"150ms\"
command_timeout = \"300ms\"
connect_timeout = \"500ms\"
reconnect_max = \"300ms\"
[local]
disk_budget = \"64MiB\"
memory_budget = \"16MiB\"
[namespaces.n]
max_stale = \"2s\"
";
const BOUNDS: Bounds = Bounds {
    lease: Duration::from_secs(1),
    max_stale: Duration::from_secs(2),
    slack: Duration::from_millis(100),
    // An offset of clocks is known as far as a beat is fast. Who was started while it was cut off
    // knows nothing of it, and takes its own clock to be half a second off, and any other one.
    stamps: Duration::from_millis(1100),
};

type Stub = CacheServiceClient<Channel>;

/// What all who take part share.
struct Stage {
    begun: Instant,
    begun_at: Duration,
    slots: Vec<RwLock<Slot>>,
    redis: SocketAddr,
    next_value: AtomicU64,
    /// What the streamed puts were, by version: their records do not hold it.
    streamed: Mutex<HashMap<Bytes, u64>>,
    over: AtomicBool,
    history: Mutex<History>,
}

/// A daemon as its callers reach it now.
#[derive(Clone)]
struct Slot {
    stub: Stub,
    process: u32,
}

impl Stage {
    fn new(redis: &Redis, daemons: &[Daemon]) -> Arc<Self> {
        let slot = |daemon: &Daemon| {
            RwLock::new(Slot {
                stub: daemon.stub(),
                process: 0,
            })
        };
        Arc::new(Self {
            begun: Instant::now(),
            begun_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap(),
            slots: daemons.iter().map(slot).collect(),
            redis: redis.address(),
            next_value: AtomicU64::new(1),
            streamed: Mutex::default(),
            over: AtomicBool::new(false),
            history: Mutex::default(),
        })
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn next_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// An instant of an answer, rounded up.
    fn instant(&self, at: Option<&prost_types::Timestamp>) -> Duration {
        let at = request::epoch_milliseconds(at);
        let at = Duration::from_millis(u64::try_from(at).unwrap() + 1);
        at.saturating_sub(self.begun_at)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn slot(&self, daemon: usize) -> Slot {
        self.slots[daemon].read().unwrap().clone()
    }

    fn record(&self, operation: Operation) {
        self.history.lock().unwrap().operations.push(operation);
    }

    fn record_fault(&self, daemon: Option<usize>, kind: FaultKind, from: Duration, name: &str) {
        let fault = Fault {
            daemon,
            kind,
            from,
            to: self.now(),
            name: name.to_owned(),
        };
        self.history.lock().unwrap().faults.push(fault);
    }

    /// An operation on Redis itself.
    fn record_in_redis(&self, key: Option<usize>, begin: Duration, reach: Reach) {
        self.record(Operation {
            key,
            daemon: None,
            process: 0,
            begin,
            end: self.now(),
            attached: false,
            action: Action::Remove { reach },
        });
    }
}

fn key_name(key: usize) -> String {
    // None is the beginning of another one.
    format!("k{key:02}")
}

/// A value that says what it is, of any size and in every part: `k3v1234:1234.1234.12`.
fn value_text(key: usize, number: u64, padding: usize) -> String {
    let head = format!("k{key}v{number}:");
    let part = format!("{number}.");
    let bytes = head.len() + padding;
    let mut text = head + &part.repeat(padding.div_ceil(part.len()));
    text.truncate(bytes);
    text
}

/// The number in the value of this key, also when something stands before it.
fn value_number(key: usize, bytes: &[u8]) -> Option<u64> {
    let at = bytes.iter().rposition(|byte| *byte == b'k')?;
    let text = std::str::from_utf8(&bytes[at..]).ok()?;
    let (head, padding) = text.strip_prefix(&format!("k{key}v"))?.split_once(':')?;
    let number = head.parse().ok()?;
    (text == value_text(key, number, padding.len())).then_some(number)
}

fn reach(outcome: TierOutcome) -> Reach {
    match outcome {
        TierOutcome::Applied => Reach::Applied,
        TierOutcome::Deferred => Reach::Deferred,
        _ => Reach::Failed,
    }
}

/// One who calls one daemon.
struct Caller {
    stage: Arc<Stage>,
    daemon: usize,
    random: StdRng,
}

impl Caller {
    async fn run(mut self) {
        while !self.stage.is_over() {
            if self.random.random_bool(STREAMED_SHARE) {
                self.stream().await;
                continue;
            }
            let key = self.random.random_range(0..=CROWDED);
            let only_reads = match key.checked_sub(BUSY) {
                None => false,
                Some(DAEMONS) => true,
                Some(reader) => reader == self.daemon || self.random.random_bool(0.8),
            };
            match self.random.random_range(0..1000) {
                0..500 => self.get(key).await,
                500..550 => self.get_many(key).await,
                _ if only_reads => self.get(key).await,
                550..580 => self.compute(key).await,
                580..850 => self.put(key).await,
                850..900 if TAGGED.contains(&key) => self.invalidate_tag().await,
                850..970 => self.invalidate(Some(key), Self::one(key)).await,
                970..998 => {
                    self.invalidate(Some(key), Target::Prefix(key_name(key)))
                        .await
                }
                _ => self.invalidate(None, Target::All(true)).await,
            }
            let pause = self.random.random_range(0..6000);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    /// Something with the streamed key.
    async fn stream(&mut self) {
        match self.random.random_range(0..10) {
            0..4 => self.read().await,
            4..5 => self.get(STREAMED).await,
            5..9 => self.write().await,
            _ => self.invalidate(Some(STREAMED), Self::one(STREAMED)).await,
        }
    }

    /// Reads the crowded key again and again.
    async fn crowd(mut self, until: Duration) {
        while self.stage.now() < until {
            self.get(CROWDED).await;
        }
    }

    /// Changes the crowded key, reads it at once, and leaves a value there.
    async fn change_and_read(mut self) {
        let removes = self.random.random_bool(0.5);
        match removes {
            true => self.invalidate(Some(CROWDED), Self::one(CROWDED)).await,
            false => self.put(CROWDED).await,
        }
        for _ in 0..4 {
            self.get(CROWDED).await;
        }
        if removes {
            self.put(CROWDED).await;
            self.get(CROWDED).await;
        }
    }

    /// Puts what a batch consists of, but for the crowded key.
    async fn put_batch(self) {
        let value = noise(0, BATCH_VALUE_BYTES);
        let items = batch().map(|name| (name, value.clone()));
        let Slot { mut stub, .. } = self.stage.slot(self.daemon);
        // Whether they are all there matters little.
        let _ = answer(stub.put_many(request::put_many(NAMESPACE, items))).await;
    }

    /// Reads the crowded key from Redis, after many others.
    async fn get_batch(&mut self) {
        let options = ReadOptions {
            require_shared: true,
            ..ReadOptions::default()
        };
        let names = batch().chain([key_name(CROWDED)]);
        let request = GetManyRequest {
            options: Some(options),
            ..request::get_many(NAMESPACE, names)
        };
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let Some(reply) = answer(stub.get_many(request)).await else {
            return;
        };
        let state = reply.provenance.as_ref().map(|it| it.shared_state());
        // Refused while Redis is away, as it was asked for.
        let item = reply.items.last().filter(|item| item.fault.is_none());
        if let Some(item) = item {
            let found = found_in_batch(CROWDED, item);
            self.record(
                Some(CROWDED),
                (begin, process),
                state,
                Action::Get { found },
            );
        }
    }

    fn one(key: usize) -> Target {
        Target::Keys(pannier_proto::v1::KeyList {
            keys: vec![key_name(key)],
        })
    }

    /// Records a call that began at `begin` and ends now.
    fn record(
        &self,
        key: Option<usize>,
        (begin, process): (Duration, u32),
        state: Option<SharedState>,
        action: Action,
    ) {
        self.stage.record(Operation {
            key,
            daemon: Some(self.daemon),
            process,
            begin,
            end: self.stage.now(),
            attached: state == Some(SharedState::Attached),
            action,
        });
    }

    async fn get(&mut self, key: usize) {
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = answer(stub.get(request::get(NAMESPACE, &key_name(key)))).await;
        self.record_get(key, (begin, process), reply);
    }

    fn record_get(&self, key: usize, begun: (Duration, u32), reply: Option<GetResponse>) {
        let state = reply.as_ref().and_then(|it| it.provenance.as_ref());
        let state = state.map(|it| it.shared_state());
        let action = match reply {
            None => Action::Unanswered,
            Some(reply) => Action::Get {
                found: found(key, &reply),
            },
        };
        self.record(Some(key), begun, state, action);
    }

    /// Several at once: each is recorded as a Get that took as long as all.
    async fn get_many(&mut self, first: usize) {
        let keys: Vec<_> = (first..=CROWDED).step_by(2).collect();
        let names = keys.iter().map(|key| key_name(*key));
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = answer(stub.get_many(request::get_many(NAMESPACE, names))).await;
        let state = reply.as_ref().and_then(|it| it.provenance.as_ref());
        let state = state.map(|it| it.shared_state());
        let mut items = reply.map(|reply| reply.items.into_iter());
        for key in keys {
            let item = items.as_mut().and_then(Iterator::next);
            let action = match item.filter(|item| item.fault.is_none()) {
                None => Action::Unanswered,
                Some(item) => Action::Get {
                    found: found_in_batch(key, &item),
                },
            };
            self.record(Some(key), (begin, process), state, action);
        }
    }

    async fn put(&mut self, key: usize) {
        let number = self.stage.next_value();
        let request = self.put_request(key, number);
        let ttl = request.ttl;
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = answer(stub.put(request)).await;
        let reply = reply.as_ref().map(PutReply::of);
        self.record_put((key, number), (begin, process), ttl, reply);
    }

    fn put_request(&mut self, key: usize, number: u64) -> PutRequest {
        // Written on a blocking thread, and on the request's.
        let padding = match self.random.random_range(0..5) {
            0 => self.random.random_range(16_000..60_000),
            _ => self.random.random_range(0..500),
        };
        PutRequest {
            ttl: Some(self.lifetime()),
            tags: tags_of(key),
            ..request::put(NAMESPACE, &key_name(key), value_text(key, number, padding))
        }
    }

    fn lifetime(&mut self) -> prost_types::Duration {
        request::milliseconds(match self.random.random_bool(0.3) {
            true => self.random.random_range(200..1500),
            false => self.random.random_range(60_000..120_000),
        })
    }

    fn record_put(
        &self,
        (key, number): (usize, u64),
        begun: (Duration, u32),
        ttl: Option<prost_types::Duration>,
        reply: Option<PutReply<'_>>,
    ) {
        let ttl = Duration::try_from(ttl.unwrap()).unwrap();
        let action = Action::Put {
            value: number,
            expires: match &reply {
                Some(reply) => self.stage.instant(reply.expires),
                None => self.stage.now() + ttl,
            },
            reach: reply
                .as_ref()
                .map_or(Reach::Unknown, |reply| reach(reply.shared)),
        };
        let state = reply.and_then(|it| it.provenance);
        let state = state.map(|it| it.shared_state());
        self.record(Some(key), begun, state, action);
    }

    fn lease_request(&mut self, key: usize) -> GetRequest {
        let wish = LeaseRequest {
            wait_duration: Some(request::milliseconds(self.random.random_range(0..60))),
            lease_duration: Some(request::milliseconds(self.random.random_range(100..1500))),
            tags: tags_of(key),
            ..LeaseRequest::default()
        };
        GetRequest {
            options: Some(ReadOptions {
                lease: Some(wish),
                ..ReadOptions::default()
            }),
            ..request::get(NAMESPACE, &key_name(key))
        }
    }

    /// Asks for the key and for the lease of it, and puts if it is the one to compute.
    async fn compute(&mut self, key: usize) {
        let request = self.lease_request(key);
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = answer(stub.get(request)).await;
        let lease = reply.as_ref().and_then(|reply| reply.lease.clone());
        let state = reply.as_ref().and_then(|reply| reply.provenance.as_ref());
        let attached = state.is_some_and(|it| it.shared_state() == SharedState::Attached);
        self.record_get(key, (begin, process), reply);
        let Some(lease) = lease else { return };
        let mut grant = Grant {
            key,
            daemon: self.daemon,
            begin,
            end: self.stage.now(),
            attached,
            expires: self.stage.instant(lease.expire_time.as_ref()),
            used: None,
        };
        // Mostly in time.
        let takes = match self.random.random_bool(0.2) {
            true => self.random.random_range(0..2000),
            false => self.random.random_range(0..40),
        };
        tokio::time::sleep(Duration::from_millis(takes)).await;
        let number = self.stage.next_value();
        let request = PutRequest {
            options: Some(WriteOptions {
                lease_token: lease.token,
                ..WriteOptions::default()
            }),
            ..self.put_request(key, number)
        };
        let ttl = request.ttl;
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = timeout(CALL_MAX, stub.put(request)).await;
        match reply {
            // What a refused put wrote was never put.
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {}
            // It may have been written, as it says.
            Ok(Err(status)) if status.message().starts_with("options.lease_token: ") => {
                let action = Action::Put {
                    value: number,
                    expires: self.stage.now() + Duration::try_from(ttl.unwrap()).unwrap(),
                    reach: Reach::Failed,
                };
                self.record(Some(key), (begin, process), None, action);
            }
            reply => {
                grant.used = Some(number);
                let reply = reply.ok().and_then(Result::ok);
                let reply = reply.map(tonic::Response::into_inner);
                let reply = reply.as_ref().map(PutReply::of);
                self.record_put((key, number), (begin, process), ttl, reply);
            }
        }
        self.stage.history.lock().unwrap().grants.push(grant);
    }

    /// Writes the streamed key.
    async fn write(&mut self) {
        let number = self.stage.next_value();
        let padding = self.random.random_range(1_100_000..1_600_000);
        let header = WriteHeader {
            namespace: NAMESPACE.to_owned(),
            key: key_name(STREAMED),
            ttl: Some(self.lifetime()),
            ..WriteHeader::default()
        };
        let ttl = header.ttl;
        let value = value_text(STREAMED, number, padding).into();
        let parts = tokio_stream::iter(stream::parts(header, &value));
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let reply = answer(stub.write(parts)).await;
        if let Some(reply) = &reply {
            let version = reply.version.clone();
            let mut streamed = self.stage.streamed.lock().unwrap();
            streamed.insert(version, number);
        }
        let reply = reply.as_ref().map(PutReply::of_stream);
        self.record_put((STREAMED, number), (begin, process), ttl, reply);
    }

    /// Reads the streamed key, as a stream.
    async fn read(&mut self) {
        let begin = self.stage.now();
        let Slot { stub, process } = self.stage.slot(self.daemon);
        let asked = stream::read_from(stub, stream::read(NAMESPACE, &key_name(STREAMED)));
        let got = match timeout(CALL_MAX, asked).await {
            Ok(Ok(got)) => got,
            // A part of it has gone meanwhile: no answer, and no failure.
            Ok(Err(status)) if status.code() == Code::Aborted => return,
            Ok(Err(_)) | Err(_) => {
                return self.record(Some(STREAMED), (begin, process), None, Action::Unanswered);
            }
        };
        let mut entry = got.header.entry;
        if let Some(entry) = &mut entry {
            entry.value = got.value;
        }
        let reply = GetResponse {
            entry,
            provenance: got.header.provenance,
            lease: None,
        };
        self.record_get(STREAMED, (begin, process), Some(reply));
    }

    async fn invalidate(&mut self, key: Option<usize>, target: Target) {
        let (begun, state, reach) = self.call_invalidate(target).await;
        self.record(key, begun, state, Action::Remove { reach });
    }

    async fn invalidate_tag(&mut self) {
        let (begun, state, reach) = self.call_invalidate(Target::Tag(TAG.to_owned())).await;
        for key in TAGGED {
            self.record(Some(key), begun, state, Action::Untag { reach });
        }
    }

    /// When it began, with which process, and what came of it.
    async fn call_invalidate(
        &self,
        target: Target,
    ) -> ((Duration, u32), Option<SharedState>, Reach) {
        let begin = self.stage.now();
        let Slot { mut stub, process } = self.stage.slot(self.daemon);
        let request = request::invalidate(NAMESPACE, target);
        let reply: Option<InvalidateResponse> = answer(stub.invalidate(request)).await;
        let state = reply.as_ref().and_then(|it| it.provenance.as_ref());
        let state = state.map(|it| it.shared_state());
        let reach = reply.map_or(Reach::Unknown, |reply| reach(reply.shared_outcome()));
        ((begin, process), state, reach)
    }
}

/// What a put or a write was answered.
struct PutReply<'a> {
    expires: Option<&'a prost_types::Timestamp>,
    shared: TierOutcome,
    provenance: Option<&'a Provenance>,
}

impl<'a> PutReply<'a> {
    fn of(reply: &'a PutResponse) -> Self {
        Self {
            expires: reply.expire_time.as_ref(),
            shared: reply.shared_outcome(),
            provenance: reply.provenance.as_ref(),
        }
    }

    fn of_stream(reply: &'a WriteResponse) -> Self {
        Self {
            expires: reply.expire_time.as_ref(),
            shared: reply.shared_outcome(),
            provenance: reply.provenance.as_ref(),
        }
    }
}

fn tags_of(key: usize) -> Vec<String> {
    let tag = TAGGED.contains(&key).then(|| TAG.to_owned());
    tag.into_iter().collect()
}

/// The answer of a call, if there is one.
async fn answer<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Option<T> {
    match timeout(CALL_MAX, call).await {
        Ok(Ok(reply)) => Some(reply.into_inner()),
        Ok(Err(_)) | Err(_) => None,
    }
}

fn found(key: usize, reply: &GetResponse) -> Option<Found> {
    let entry = reply.entry.as_ref()?;
    let provenance = reply.provenance.as_ref()?;
    Some(Found {
        value: value_number(key, &entry.value),
        stale: provenance.stale,
        local: provenance.tier() == Tier::Local,
    })
}

fn found_in_batch(key: usize, item: &GetManyItem) -> Option<Found> {
    item.entry.as_ref().map(|entry| Found {
        value: value_number(key, &entry.value),
        stale: item.stale,
        local: item.tier() == Tier::Local,
    })
}

/// The names of what is read before the crowded key.
fn batch() -> impl Iterator<Item = String> {
    (1..BATCH).map(|index| format!("batch-{index}"))
}

/// A program that knows nothing of Pannier and deletes and overwrites its keys.
fn strange_client(stage: &Stage, mut random: StdRng) {
    let mut connection = None;
    while !stage.is_over() {
        thread::sleep(Duration::from_millis(random.random_range(10..150)));
        if connection.is_none() {
            connection = Connection::open(stage.redis, None).ok();
        }
        let Some(open) = &mut connection else {
            continue;
        };
        let key = match random.random_range(0..=CROWDED) {
            CROWDED => STREAMED,
            key => key,
        };
        let name = shared::key(NAMESPACE, &key_name(key));
        let command = match random.random_bool(0.7) {
            true => vec!["DEL", &name],
            false => vec!["SET", &name, "no record", "PX", "1000"],
        };
        let begin = stage.now();
        let reach = match open.command(&command) {
            Ok(reply) if reply.is_error() => Reach::Failed,
            Ok(_) => Reach::Applied,
            Err(_) => {
                connection = None;
                Reach::Unknown
            }
        };
        stage.record_in_redis(Some(key), begin, reach);
    }
}

/// Injects the faults; owns what they are injected into.
struct Injector {
    stage: Arc<Stage>,
    random: StdRng,
    redis: Redis,
    proxies: Vec<Proxy>,
    daemons: Vec<Daemon>,
    runtime: tokio::runtime::Handle,
}

impl Injector {
    fn run(mut self, length: Duration) -> Self {
        // Once in each run at least: each alone shows one part of what keeps answers right.
        self.pause(300, 600);
        self.silence_pushes();
        self.late_pushes();
        self.freeze();
        while self.stage.now() < length {
            self.pause(100, 1200);
            match self.random.random_range(0..21) {
                0..4 => self.cut_off(),
                4..6 => self.one_path(),
                6 => self.slow(),
                7 => self.nonsense(),
                8 => self.reset(),
                9 => self.stand_still(),
                10 => self.restart_redis(Data::Kept),
                11 => self.restart_redis(Data::Lost),
                12 => self.flush(),
                13 => self.crash(),
                14 => self.crash_while_cut_off(),
                15 => self.silence_pushes(),
                16..18 => self.late_pushes(),
                18..20 => self.freeze(),
                _ => self.cut_off_two(),
            }
        }
        self.stage.over.store(true, Ordering::Relaxed);
        self
    }

    fn pause(&mut self, least: u64, most: u64) {
        let pause = self.random.random_range(least..most);
        thread::sleep(Duration::from_millis(pause));
    }

    /// As long as a fault lasts: mostly short, at times past `max_stale`.
    fn hold(&mut self) {
        match self.random.random_bool(0.12) {
            true => self.pause(3500, 5000),
            false => self.pause(20, 2200),
        }
    }

    fn any_daemon(&mut self) -> usize {
        self.random.random_range(0..DAEMONS)
    }

    fn hard_mode(&mut self) -> Mode {
        match self.random.random_bool(0.5) {
            true => Mode::Cut,
            false => Mode::Silence,
        }
    }

    /// Sets a mode for a while.
    fn fault(&mut self, daemon: usize, path: Path, mode: Mode, kind: FaultKind) {
        self.proxies[daemon].set_for(path, mode);
        let from = self.stage.now();
        self.hold();
        let name = format!("{mode:?} of {path:?}");
        self.stage.record_fault(Some(daemon), kind, from, &name);
        self.proxies[daemon].set(Mode::Pass);
    }

    fn cut_off(&mut self) {
        let (daemon, mode) = (self.any_daemon(), self.hard_mode());
        self.fault(daemon, Path::All, mode, FaultKind::Swallowed);
    }

    fn cut_off_two(&mut self) {
        let (daemon, mode) = (self.any_daemon(), self.hard_mode());
        let other = (daemon + 1) % DAEMONS;
        self.proxies[other].set(mode);
        let from = self.stage.now();
        self.fault(daemon, Path::All, mode, FaultKind::Swallowed);
        let name = format!("{mode:?} of two");
        self.stage
            .record_fault(Some(other), FaultKind::Swallowed, from, &name);
        self.proxies[other].set(Mode::Pass);
    }

    fn one_path(&mut self) {
        let (daemon, mode) = (self.any_daemon(), self.hard_mode());
        let (path, kind) = match self.random.random_bool(0.5) {
            true => (Path::Tracking, FaultKind::TrackingSwallowed),
            false => (Path::Data, FaultKind::DataSwallowed),
        };
        self.fault(daemon, path, mode, kind);
    }

    /// Longer than the lease: what was changed elsewhere is served as fresh until that is over.
    fn silence_pushes(&mut self) {
        let daemon = self.any_daemon();
        self.proxies[daemon].set_for(Path::Tracking, Mode::Silence);
        let from = self.stage.now();
        self.pause(1200, 1800);
        let kind = FaultKind::TrackingSwallowed;
        self.stage
            .record_fault(Some(daemon), kind, from, "pushes swallowed");
        self.proxies[daemon].set(Mode::Pass);
    }

    /// Somebody who calls this daemon.
    fn caller(&mut self, daemon: usize) -> Caller {
        Caller {
            stage: Arc::clone(&self.stage),
            daemon,
            random: StdRng::seed_from_u64(self.random.random()),
        }
    }

    /// Until the push comes, a daemon knows of its own change from the acknowledgement alone.
    fn late_pushes(&mut self) {
        let daemon = self.any_daemon();
        self.runtime
            .block_on(shared::attached(&self.daemons[daemon]));
        let putting = self.caller(daemon).put_batch();
        self.runtime.block_on(putting);
        let span = Duration::from_millis(self.random.random_range(50..200));
        self.proxies[daemon].set_for(Path::Tracking, Mode::Delay(span));
        let from = self.stage.now();
        let until = from + Duration::from_millis(self.random.random_range(1200..2000));
        let mut crowd = JoinSet::new();
        for _ in 0..CROWD {
            crowd.spawn_on(self.caller(daemon).crowd(until), &self.runtime);
        }
        while self.stage.now() < until {
            self.heap(daemon);
        }
        self.runtime.block_on(crowd.join_all());
        self.stage
            .record_fault(Some(daemon), FaultKind::Late, from, "pushes are late");
        self.proxies[daemon].set(Mode::Pass);
    }

    /// The answers to a batch and to a change come all at once: who reads the batch is still taking
    /// what he was told before the change when the one who made it has long been answered.
    fn heap(&mut self, daemon: usize) {
        self.proxies[daemon].set_for(Path::Data, Mode::HoldReplies);
        let mut asked = JoinSet::new();
        let mut reader = self.caller(daemon);
        asked.spawn_on(async move { reader.get_batch().await }, &self.runtime);
        self.pause(2, 10);
        let changing = self.caller(daemon).change_and_read();
        asked.spawn_on(changing, &self.runtime);
        self.pause(2, 10);
        self.proxies[daemon].set_for(Path::Data, Mode::Pass);
        self.runtime.block_on(asked.join_all());
    }

    /// When a daemon goes on that stood still, what it has been asked lies in its sockets: it must
    /// not answer from what it knew before, though nobody has told it anything else yet.
    fn freeze(&mut self) {
        let daemon = self.any_daemon();
        let asked = self.ask_for_all(daemon, 1);
        self.runtime.block_on(asked.join_all());
        let silent = self.random.random_bool(0.5);
        if silent {
            self.proxies[daemon].set_for(Path::Tracking, Mode::Silence);
        }
        let silent_from = self.stage.now();
        self.daemons[daemon].freeze();
        let from = self.stage.now();
        let asked = self.ask_for_all(daemon, 2);
        self.pause(1300, 1900);
        self.stage
            .record_fault(Some(daemon), FaultKind::Frozen, from, "stands still");
        self.daemons[daemon].thaw();
        self.runtime.block_on(asked.join_all());
        if silent {
            let kind = FaultKind::TrackingSwallowed;
            self.stage
                .record_fault(Some(daemon), kind, silent_from, "pushes swallowed");
            self.proxies[daemon].set(Mode::Pass);
        }
    }

    /// Asks a daemon for every key so many times, all at once.
    fn ask_for_all(&mut self, daemon: usize, times: usize) -> JoinSet<()> {
        let mut asked = JoinSet::new();
        for key in (0..KEYS).cycle().take(KEYS * times) {
            let mut caller = self.caller(daemon);
            asked.spawn_on(async move { caller.get(key).await }, &self.runtime);
        }
        asked
    }

    fn slow(&mut self) {
        let daemon = self.any_daemon();
        let span = Duration::from_millis(self.random.random_range(1..400));
        let mode = match self.random.random_range(0..4) {
            0 => Mode::Delay(span),
            1 => Mode::Drip(50, span / 20),
            2 => Mode::HoldReplies,
            _ => Mode::HoldCommands,
        };
        let paths = [Path::All, Path::Data, Path::Tracking];
        let path = paths[self.random.random_range(0..3)];
        self.fault(daemon, path, mode, FaultKind::Other);
    }

    fn nonsense(&mut self) {
        let daemon = self.any_daemon();
        let mode = match self.random.random_range(0..3) {
            0 => Mode::Garbage,
            1 => Mode::Refuse,
            _ => Mode::Truncate(self.random.random_range(1..3000)),
        };
        self.fault(daemon, Path::All, mode, FaultKind::Other);
    }

    fn reset(&mut self) {
        let (daemon, from) = (self.any_daemon(), self.stage.now());
        let name = match self.random.random_range(0..3) {
            0 => {
                self.redis.kill_trackers();
                "trackers killed"
            }
            1 => {
                self.redis.kill_clients();
                "clients killed"
            }
            _ => {
                let paths = [Path::All, Path::Data, Path::Tracking];
                self.proxies[daemon].sever(paths[self.random.random_range(0..3)]);
                "connections reset"
            }
        };
        self.stage.record_fault(None, FaultKind::Other, from, name);
    }

    fn stand_still(&mut self) {
        self.redis.freeze();
        let from = self.stage.now();
        self.hold();
        self.stage
            .record_fault(None, FaultKind::Stopped, from, "Redis stands still");
        self.redis.thaw();
    }

    fn restart_redis(&mut self, data: Data) {
        let begin = self.stage.now();
        self.redis.kill();
        let from = self.stage.now();
        self.hold();
        let name = format!("Redis is down, its data {data:?}");
        self.stage
            .record_fault(None, FaultKind::Swallowed, from, &name);
        self.redis.restart(data);
        if data == Data::Lost {
            self.stage.record_in_redis(None, begin, Reach::Applied);
        }
    }

    fn flush(&mut self) {
        let begin = self.stage.now();
        assert!(self.redis.command(&["FLUSHALL"]).is_ok());
        self.stage.record_in_redis(None, begin, Reach::Applied);
    }

    fn crash(&mut self) {
        let daemon = self.any_daemon();
        self.kill_and_start(daemon);
    }

    fn kill_and_start(&mut self, daemon: usize) {
        let from = self.stage.now();
        self.daemons[daemon].kill();
        self.pause(1, 500);
        self.daemons[daemon] = self.daemons[daemon].restart_in_place();
        // A channel belongs to the runtime of those who call.
        let _entered = self.runtime.enter();
        let mut slot = self.stage.slots[daemon].write().unwrap();
        *slot = Slot {
            stub: self.daemons[daemon].stub(),
            process: slot.process + 1,
        };
        drop(slot);
        self.stage
            .record_fault(Some(daemon), FaultKind::Down, from, "killed");
    }

    fn crash_while_cut_off(&mut self) {
        let (daemon, mode) = (self.any_daemon(), self.hard_mode());
        self.proxies[daemon].set(mode);
        let from = self.stage.now();
        self.pause(50, 1500);
        self.kill_and_start(daemon);
        self.pause(50, 1500);
        let name = format!("{mode:?} over a kill");
        self.stage
            .record_fault(Some(daemon), FaultKind::Swallowed, from, &name);
        self.proxies[daemon].set(Mode::Pass);
    }

    /// Waits until everybody has settled, and records what each of them has.
    async fn settle(&self) {
        for daemon in &self.daemons {
            shared::attached(daemon).await;
        }
        tokio::time::sleep(BOUNDS.lease + BOUNDS.slack).await;
        for key in 0..KEYS {
            eventually("what Redis has stays as it is for a moment", async || {
                let before = self.in_redis(key);
                let mut daemons = Vec::new();
                for daemon in 0..DAEMONS {
                    let random = StdRng::seed_from_u64(0);
                    let stage = Arc::clone(&self.stage);
                    let mut caller = Caller {
                        stage,
                        daemon,
                        random,
                    };
                    caller.get(key).await;
                    let history = self.stage.history.lock().unwrap();
                    let found = match history.operations.last().map(|it| &it.action) {
                        Some(Action::Get { found }) => *found,
                        other => panic!("daemon {daemon} does not answer: {other:?}"),
                    };
                    let value = found.and_then(|found| found.value);
                    daemons.push((value, found.is_some_and(|found| found.stale)));
                }
                let is_same = self.in_redis(key) == before;
                if is_same {
                    let settled = Settled {
                        key,
                        at: self.stage.now(),
                        redis: before,
                        daemons,
                    };
                    self.stage.history.lock().unwrap().settled.push(settled);
                }
                is_same
            })
            .await;
        }
    }

    fn in_redis(&self, key: usize) -> Option<u64> {
        let name = shared::key(NAMESPACE, &key_name(key));
        let reply = self.redis.command(&["GET", &name]);
        let record = reply.bytes()?;
        // A record begins with the version; that of a streamed value does not hold it.
        let version = record.get(..16).unwrap_or_default();
        let streamed = self.stage.streamed.lock().unwrap();
        let streamed = streamed.get(version).copied();
        streamed.or_else(|| value_number(key, record))
    }
}

/// Runs one segment and checks it.
async fn segment(seed: u64, length: Duration) -> Summary {
    let redis = Redis::builder().durable().start();
    let proxies: Vec<_> = (0..DAEMONS)
        .map(|_| Proxy::start(redis.address()))
        .collect();
    let mut daemons = Vec::new();
    for proxy in &proxies {
        daemons.push(shared::start(&proxy.url(), CONFIG).await);
    }
    let stage = Stage::new(&redis, &daemons);
    let mut seeds = StdRng::seed_from_u64(seed);
    let mut next = || StdRng::seed_from_u64(seeds.random());
    let injector = Injector {
        stage: Arc::clone(&stage),
        random: next(),
        redis,
        proxies,
        daemons,
        runtime: tokio::runtime::Handle::current(),
    };
    let injecting = thread::spawn(move || injector.run(length));
    let (strange_stage, strange_random) = (Arc::clone(&stage), next());
    let strange = thread::spawn(move || strange_client(&strange_stage, strange_random));
    let mut callers = JoinSet::new();
    for index in 0..DAEMONS * CALLERS_EACH {
        let caller = Caller {
            stage: Arc::clone(&stage),
            daemon: index % DAEMONS,
            random: next(),
        };
        callers.spawn(caller.run());
    }
    callers.join_all().await;
    let injector = injecting.join().expect("the faults were injected");
    strange.join().expect("the client of Redis has ended");
    injector.settle().await;
    let history = std::mem::take(&mut *stage.history.lock().unwrap());
    judge(seed, &history, &injector)
}

fn judge(seed: u64, history: &History, injector: &Injector) -> Summary {
    let (violations, summary) = history.check(&BOUNDS);
    println!(
        "torture, seed {seed}: {summary}; {} violations",
        violations.len()
    );
    if violations.is_empty() {
        return summary;
    }
    let mut counts = BTreeMap::new();
    for violation in &violations {
        *counts.entry(violation.rule).or_insert(0_u32) += 1;
    }
    let mut shown = BTreeMap::new();
    for violation in &violations {
        let shown = shown.entry(violation.rule).or_insert(0_u32);
        *shown += 1;
        if *shown <= 2 {
            println!("{}", history.report(violation));
        }
    }
    for (index, daemon) in injector.daemons.iter().enumerate() {
        let log = daemon.stderr();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        println!("the end of the log of daemon {index}:\n{tail}\n");
    }
    panic!("seed {seed}: {counts:?}; run it again with: make torture SEED={seed}");
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: not a number")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_makes_a_daemon_serve_what_it_must_not() {
    let (seconds, seed) = (
        number("PANNIER_TORTURE_SECONDS"),
        number("PANNIER_TORTURE_SEED"),
    );
    let is_long = seconds.is_some() || seed.is_some();
    let total = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let mut left = total;
    let mut seeds: Box<dyn Iterator<Item = u64>> = match is_long {
        true => Box::new(seed.unwrap_or(SEEDS[0])..),
        false => Box::new(SEEDS.into_iter()),
    };
    let most = match is_long {
        true => SEGMENT_MAX,
        false => total / 2,
    };
    let mut all = Summary::default();
    while !left.is_zero() {
        let Some(seed) = seeds.next() else {
            break;
        };
        let length = left.min(most);
        let summary = segment(seed, length).await;
        left -= length;
        all.operations += summary.operations;
        all.faults += summary.faults;
        for index in 0..3 {
            all.hits[index] += summary.hits[index];
        }
        for index in 0..4 {
            all.changes[index] += summary.changes[index];
        }
        all.staleness_max = all.staleness_max.max(summary.staleness_max);
        all.late_by_lease += summary.late_by_lease;
        all.grants = [0, 1].map(|index| all.grants[index] + summary.grants[index]);
        all.duration_max = all.duration_max.max(summary.duration_max);
        all.misses += summary.misses;
    }
    println!("torture, {total:?} in all: {all}; 0 violations");
    // Or it has proven nothing.
    assert!(all.hits.iter().all(|hits| *hits > 0), "{all}");
    assert!(
        all.misses > 0 && all.changes[0] > 0 && all.changes[1] > 0,
        "{all}"
    );
    assert!(all.staleness_max > Duration::ZERO, "{all}");
    assert!(all.grants[1] > 0 && all.grants[1] < all.grants[0], "{all}");
}

#[test]
fn values_say_what_they_are() {
    assert_eq!(
        value_number(3, value_text(3, 1234, 10).as_bytes()),
        Some(1234)
    );
    let record = [&b"kkk\xffrecord"[..], value_text(3, 7, 0).as_bytes()].concat();
    assert_eq!(value_number(3, &record), Some(7));
    for other in ["k4v7:", "k3v7", "k3v7:7.8", "k3v:", ""] {
        assert_eq!(value_number(3, other.as_bytes()), None, "{other}");
    }
}
