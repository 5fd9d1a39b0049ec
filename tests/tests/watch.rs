//! Watch: the changes of a namespace as they happen, resumable within a window.
//!
//! Proven: own changes, those of another daemon and of other programs are told, each after it has
//! taken effect; whatever could not be heard is told as a loss; a stream goes on where its token
//! says or says that it cannot; who is too slow is dropped with a reason and holds nobody back;
//! limits, deadline and stop.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pannier_proto::v1::{
    FlushRequest, WatchRequest, WatchResponse, WriteMode, cache_service_client::CacheServiceClient,
    invalidate_request::Target, watch_response::Event,
};
use pannier_tests::{Caller, Daemon, Redis, eventually, load::noise, request, shared, stderr};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, transport::Endpoint};

/// Only a broken build takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A change that ends a list of changes.
const END: &str = "the end";

struct Watch {
    stream: Streaming<WatchResponse>,
    token: Bytes,
}

fn watch_request(namespace: &str, token: &[u8]) -> WatchRequest {
    WatchRequest {
        namespace: namespace.into(),
        resume_token: Bytes::copy_from_slice(token),
    }
}

impl Watch {
    /// Opens a stream and takes its first message.
    async fn open(daemon: &Daemon, namespace: &str, token: &[u8]) -> (Self, Event) {
        let request = watch_request(namespace, token);
        let stream = daemon.stub().watch(request).await.unwrap().into_inner();
        let token = Bytes::new();
        let mut watch = Self { stream, token };
        let first = watch.any().await.expect("a first message");
        assert!((1..=64).contains(&watch.token.len()));
        (watch, first)
    }

    /// From now on.
    async fn new(daemon: &Daemon, namespace: &str) -> Self {
        let (watch, first) = Self::open(daemon, namespace, b"").await;
        assert!(matches!(first, Event::Progress(_)), "{first:?}");
        watch
    }

    async fn any(&mut self) -> Result<Event, Status> {
        let message = timeout(PATIENCE, self.stream.message()).await;
        let message = message.expect("something in time")?;
        let message = message.expect("a stream ends with a status");
        self.token = message.resume_token;
        Ok(message.event.expect("every message has an event"))
    }

    /// The next that says something.
    async fn next(&mut self) -> Event {
        loop {
            let event = self.any().await.expect("the stream goes on");
            if !matches!(event, Event::Progress(_)) {
                return event;
            }
        }
    }

    /// The keys that are told until `last`, once each; nothing else may be told.
    async fn keys_until(&mut self, last: &str) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        while !told.contains(last) {
            match self.next().await {
                Event::Keys(list) => {
                    assert!((1..=1000).contains(&list.keys.len()));
                    told.extend(list.keys);
                }
                other => panic!("{other:?}"),
            }
        }
        told.remove(last);
        told
    }

    /// Waits for an event, whatever else is told before.
    async fn until(&mut self, wanted: &Event) {
        while self.next().await != *wanted {}
    }

    async fn until_lost(&mut self) {
        while !matches!(self.next().await, Event::ContinuityLost(_)) {}
    }

    /// Reads on until it ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.any().await {
                return status;
            }
        }
    }
}

fn keys<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.map(str::to_owned).into()
}

fn prefix(text: &str) -> Target {
    Target::Prefix(text.into())
}

fn pattern(text: &str) -> Target {
    Target::Pattern(text.into())
}

/// Puts so many keys of 1000 bytes; 8 MiB of them are more than the window holds.
async fn flood(daemon: &Daemon, namespace: &str, count: usize) {
    let mut stub = daemon.stub();
    for first in (0..count).step_by(1000) {
        let numbers = first..(first + 1000).min(count);
        let items = numbers.map(|number| (format!("{number:0>1000}"), "v"));
        let put = stub.put_many(request::put_many(namespace, items)).await;
        let results = put.unwrap().into_inner().results;
        assert!(results.iter().all(|it| it.fault.is_none()));
    }
}

const FLOOD: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn own_changes_are_told_without_redis() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let other = Caller::new(&daemon, "other");
    caller.put("before", "v").await;
    let mut watch = Watch::new(&daemon, "n").await;
    caller.put("a", "v").await;
    caller.put("large", noise(1, 1_000_000)).await;
    other.put("x", "v").await;
    let items = ["b", "c"].map(|key| (key.to_owned(), "v"));
    let batch = request::put_many("n", items);
    caller.stub().put_many(batch).await.unwrap();
    assert!(caller.value("a").await.is_some());
    assert!(caller.value("none").await.is_none());
    // Also what this daemon does not have: its watchers may.
    caller.invalidate("before").await;
    caller.invalidate("never put").await;
    caller.put(END, "v").await;
    let told = watch.keys_until(END).await;
    assert_eq!(told, keys(["a", "large", "b", "c", "before", "never put"]));

    caller.invalidate_by(prefix("p:")).await;
    caller.invalidate_by(pattern("*[ab]")).await;
    other.invalidate_by(Target::All(true)).await;
    caller.invalidate_by(Target::All(true)).await;
    assert_eq!(watch.next().await, Event::Prefix("p:".into()));
    assert_eq!(watch.next().await, Event::Pattern("*[ab]".into()));
    assert_eq!(watch.next().await, Event::All(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_refused_is_not_told() {
    let config = "[namespaces.once]\nimmutable = true\n";
    let daemon = Daemon::builder().config(config).start();
    let caller = Caller::new(&daemon, "once");
    caller.put("k", "v").await;
    let mut watch = Watch::new(&daemon, "once").await;
    caller.put("k", "v").await;
    let refused = caller.try_put(caller.put_request("k", "other")).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    caller.put(END, "v").await;
    assert_eq!(watch.keys_until(END).await, keys([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_another_daemon_are_told() {
    let redis = Redis::start();
    let near = shared::start(&redis.url(), "").await;
    let far = shared::start(&redis.url(), "").await;
    let (own, caller) = (Caller::new(&near, "n"), Caller::new(&far, "n"));
    own.put("local", "v").await;
    let mut watch = Watch::new(&near, "n").await;
    caller.put("a", "v").await;
    caller.put("large", noise(1, 300_000)).await;
    Caller::new(&far, "other").put("x", "v").await;
    // Redis has no such key, so it pushes nothing: the daemons tell each other.
    caller.invalidate("nobody has it").await;
    caller.invalidate("local").await;
    // Filling the local tier is no change.
    assert!(own.value("a").await.is_some());
    own.put("own", "v").await;
    caller.put(END, "v").await;
    let expected = keys(["a", "large", "nobody has it", "local", "own"]);
    assert_eq!(watch.keys_until(END).await, expected);

    for target in [prefix("p:"), pattern("?"), Target::All(true)] {
        for caller in [&caller, &own] {
            caller.invalidate_by(target.clone()).await;
            let event = match &target {
                Target::Prefix(prefix) => Event::Prefix(prefix.clone()),
                Target::Pattern(pattern) => Event::Pattern(pattern.clone()),
                _ => Event::All(true),
            };
            watch.until(&event).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_other_programs_are_told() {
    let redis = Redis::start();
    let config = "[namespaces.raw]\nraw = true\nraw_prefix = \"app:\"\n\
                  [namespaces.narrow]\nraw = true\nraw_prefix = \"app:x:\"\n\
                  [namespaces.remote]\ntiers = [\"shared\"]\n";
    let daemon = shared::start(&redis.url(), config).await;
    let caller = Caller::new(&daemon, "n");
    for key in ["deleted", "set", "expired", "short"] {
        caller.put(key, "v").await;
    }
    let mut watch = Watch::new(&daemon, "n").await;
    for (command, key) in [("DEL", "deleted"), ("UNLINK", END)] {
        redis.command(&[command, &shared::key("n", key)]);
    }
    redis.command(&["SET", &shared::key("n", "set"), "no record"]);
    redis.command(&["PEXPIRE", &shared::key("n", "expired"), "1"]);
    redis.command(&["SET", "pannier:other:x", "v"]);
    redis.command(&["SET", &shared::key("n", END), "v"]);
    let mut told = watch.keys_until(END).await;
    // The push of what was put last may come after the acknowledgement.
    told.remove("short");
    assert_eq!(told, keys(["deleted", "set", "expired"]));
    // Redis tells of the end of a lifetime when it notices.
    redis.command(&["PEXPIRE", &shared::key("n", "short"), "300"]);
    watch.keys_until("short").await;
    eventually("it has expired", async || {
        redis
            .command(&["EXISTS", &shared::key("n", "short")])
            .integer()
            == 0
    })
    .await;
    watch.keys_until("short").await;

    let mut raw = Watch::new(&daemon, "raw").await;
    let mut narrow = Watch::new(&daemon, "narrow").await;
    let mut remote = Watch::new(&daemon, "remote").await;
    redis.command(&["SET", "app:x:k", "v"]);
    assert_eq!(raw.keys_until("x:k").await, keys([]));
    assert_eq!(narrow.keys_until("k").await, keys([]));
    let caller = Caller::new(&daemon, "remote");
    caller.put("k", "v").await;
    assert_eq!(remote.keys_until("k").await, keys([]));
    caller.invalidate("none").await;
    assert!(remote.keys_until("none").await.is_subset(&keys(["k"])));
    caller.invalidate_by(prefix("p")).await;
    remote.until(&Event::Prefix("p".into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gap_is_told() {
    let redis = Redis::start();
    let config = "[namespaces.alone]\ntiers = [\"local\"]\n";
    let daemon = shared::start(&redis.url(), config).await;
    let mut watch = Watch::new(&daemon, "n").await;
    let mut alone = Watch::new(&daemon, "alone").await;
    assert_eq!(redis.kill_trackers(), 1);
    // Once at the end of the contact, once at its return.
    watch.until_lost().await;
    watch.until_lost().await;
    shared::attached(&daemon).await;
    redis.command(&["FLUSHALL"]);
    watch.until_lost().await;
    let caller = Caller::new(&daemon, "alone");
    caller.put(END, "v").await;
    let told = alone.keys_until(END).await;
    assert_eq!(told, keys([]), "Redis is of no concern to it");
    daemon.admin().flush(FlushRequest {}).await.unwrap();
    watch.until_lost().await;
    alone.until_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_contact_a_stream_begins_with_a_loss_and_tells_its_return() {
    let mut redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    redis.kill();
    shared::detached(&daemon).await;
    let (mut watch, first) = Watch::open(&daemon, "n", b"").await;
    assert!(matches!(first, Event::ContinuityLost(_)), "{first:?}");
    let caller = Caller::new(&daemon, "n");
    caller.put("a", "v").await;
    caller.invalidate("b").await;
    caller.put_mode("c", "v", WriteMode::Local).await;
    caller.invalidate_by(prefix("p")).await;
    assert_eq!(watch.keys_until("c").await, keys(["a", "b"]));
    watch.until(&Event::Prefix("p".into())).await;
    redis.restart(pannier_tests::Data::Lost);
    watch.until_lost().await;
    let (_, first) = Watch::open(&daemon, "n", b"").await;
    assert!(matches!(first, Event::Progress(_)), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_resumed_with_exactly_what_was_missed() {
    let redis = Redis::start();
    let with_redis = shared::start(&redis.url(), "").await;
    for daemon in [Daemon::start(), with_redis] {
        let caller = Caller::new(&daemon, "n");
        let mut watch = Watch::new(&daemon, "n").await;
        caller.put("seen", "v").await;
        watch.keys_until("seen").await;
        let token = watch.token.clone();
        // The last one goes: changes are kept all the same.
        drop(watch);
        eventually("it has gone", async || {
            daemon.stats().await.watch.unwrap().watchers == 0
        })
        .await;
        caller.put("missed", "v").await;
        Caller::new(&daemon, "other").put("x", "v").await;
        caller.invalidate("gone").await;
        for _ in 0..2 {
            let (mut watch, first) = Watch::open(&daemon, "n", &token).await;
            assert!(matches!(first, Event::Progress(_)), "{first:?}");
            assert_eq!(watch.token, token);
            caller.put(END, "v").await;
            let mut told = watch.keys_until(END).await;
            // Redis may push the last change that was seen once more.
            told.remove("seen");
            assert_eq!(told, keys(["missed", "gone"]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resumed_begins_with_a_loss() {
    let mut daemon = Daemon::start();
    let early = Watch::new(&daemon, "n").await.token;
    daemon = daemon.restart();
    let watch = Watch::new(&daemon, "n").await;
    flood(&daemon, "n", FLOOD).await;
    for token in [&early[..], b"?", &[7; 64], &watch.token] {
        let (mut resumed, first) = Watch::open(&daemon, "n", token).await;
        assert!(matches!(first, Event::ContinuityLost(_)), "{first:?}");
        Caller::new(&daemon, "n").put(END, "v").await;
        assert_eq!(resumed.keys_until(END).await, keys([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_quiet_namespace_stays_young() {
    let daemon = Daemon::start();
    let mut quiet = Watch::new(&daemon, "quiet").await;
    let first = quiet.token.clone();
    flood(&daemon, "busy", FLOOD).await;
    let event = quiet.any().await.unwrap();
    assert!(matches!(event, Event::Progress(_)), "{event:?}");
    assert_ne!(quiet.token, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_is_dropped_with_a_reason_and_holds_nobody_back() {
    let daemon = Daemon::start();
    // As little room on the way as the protocol allows.
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.grpc())).unwrap();
    let channel = endpoint
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect_lazy();
    let mut stub = CacheServiceClient::new(channel);
    let stream = stub.watch(watch_request("n", b"")).await.unwrap();
    let mut slow = Watch {
        stream: stream.into_inner(),
        token: Bytes::new(),
    };
    let mut quick = Watch::new(&daemon, "n").await;
    let reader = tokio::spawn(async move { quick.keys_until(END).await });
    flood(&daemon, "n", FLOOD).await;
    Caller::new(&daemon, "n").put(END, "v").await;
    let told = reader.await.expect("the quick one is told all");
    assert_eq!(told.len(), FLOOD);

    let status = slow.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("too slow"), "{status:?}");
    let stats = daemon.stats().await.watch.unwrap();
    assert_eq!(stats.dropped, 1);
    assert!(stats.messages > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_limited_and_are_no_requests_in_flight() {
    let config = "[server]\nmax_watchers = 2\nmax_in_flight = 1\n";
    let daemon = Daemon::builder().config(config).start();
    let first = Watch::new(&daemon, "n").await;
    let mut second = Watch::new(&daemon, "n").await;
    let refused = daemon.stub().watch(watch_request("n", b"")).await;
    let status = refused.expect_err("two watch already");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("max_watchers: 2"), "{status:?}");
    Caller::new(&daemon, "n").put("k", "v").await;
    assert_eq!(second.keys_until("k").await, keys([]));
    assert_eq!(daemon.stats().await.watch.unwrap().watchers, 2);
    drop(first);
    eventually("there is room again", async || {
        daemon.stub().watch(watch_request("n", b"")).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused() {
    let daemon = Daemon::start();
    for (request, field) in [
        (watch_request("Bad!", b""), "namespace"),
        (watch_request("", b""), "namespace"),
        (watch_request("n", &[0; 65]), "resume_token"),
    ] {
        let status = daemon.stub().watch(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_caller_ends_the_stream() {
    let daemon = Daemon::start();
    let mut request = Request::new(watch_request("n", b""));
    request.set_timeout(Duration::from_millis(300));
    let begun = Instant::now();
    let stream = daemon.stub().watch(request).await.unwrap().into_inner();
    let mut watch = Watch {
        stream,
        token: Bytes::new(),
    };
    assert_eq!(watch.end().await.code(), Code::DeadlineExceeded);
    assert!(begun.elapsed() >= Duration::from_millis(250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_streams_and_does_not_wait_for_them() {
    let redis = Redis::start();
    let with_redis = shared::start(&redis.url(), "").await;
    for mut daemon in [Daemon::start(), with_redis] {
        let mut watches = Vec::new();
        for _ in 0..5 {
            watches.push(Watch::new(&daemon, "n").await);
        }
        let begun = Instant::now();
        daemon.ask_to_stop();
        for watch in &mut watches {
            let status = watch.end().await;
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(status.message(), "the daemon is stopping");
        }
        let ended = daemon.wait();
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// What the whole is for: who drops and reads again at each event ends with what was put last.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_again_at_each_event_has_what_was_put_last() {
    let redis = Redis::start();
    let near = shared::start(&redis.url(), "").await;
    let far = shared::start(&redis.url(), "").await;
    let mut watch = Watch::new(&near, "n").await;
    let copies = Caller::new(&near, "n");
    let keeper = tokio::spawn(async move {
        let mut copy = None;
        loop {
            let Event::Keys(list) = watch.next().await else {
                panic!("no gap was made");
            };
            if list.keys.iter().any(|key| key == "k") {
                copy = copies.value("k").await;
            }
            if list.keys.iter().any(|key| key == END) {
                return copy;
            }
        }
    });
    let writers = [Caller::new(&near, "n"), Caller::new(&far, "n")];
    let mut last = noise(0, 10);
    for round in 0..300 {
        // Small ones are written at once, large ones on another thread.
        last = noise(round, if round % 3 == 0 { 100_000 } else { 100 });
        writers[usize::try_from(round % 2).unwrap()]
            .put("k", last.clone())
            .await;
    }
    writers[1].put(END, "v").await;
    let copy = keeper.await.expect("no panic").expect("it is there");
    assert!(copy == last, "an old value was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_why_a_stream_ended() {
    let mut daemon = Daemon::start();
    let at = daemon.grpc().to_owned();
    let watching = tokio::task::spawn_blocking(move || pannier_tests::pannier(&at, &["watch"]));
    eventually("it watches", async || {
        daemon.stats().await.watch.unwrap().watchers == 1
    })
    .await;
    let caller = Caller::new(&daemon, "default");
    caller.put("k", "v").await;
    caller.invalidate_by(prefix("p:")).await;
    eventually("all is told", async || {
        daemon.stats().await.watch.unwrap().messages == 3
    })
    .await;
    daemon.terminate();
    let output = watching.await.unwrap();
    assert_eq!(pannier_tests::stdout(&output), "key k\nprefix p:\n");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("stopping"), "{}", stderr(&output));
}
