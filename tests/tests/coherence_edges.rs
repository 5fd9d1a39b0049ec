//! Edges of coherence (P5 to P11) that a review found: each is an interleaving that went wrong.
//!
//! What was heard of is remembered: an invalidation that a daemon has heard is obeyed by it after a
//! restart and in an outage too (immutable entries, own writes, entries from before a restart).
//! A copy that was verified counts from then. Attaching does not depend on what cannot be done:
//! a missing right to publish, a Redis out of memory, a raw namespace whose journal overflowed.
//! What was put after an invalidation of the same outage is published after it. Connections of the
//! process before are closed. Callers with short deadlines do not keep a dead link alive.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::time::{Duration, Instant};

use pannier_proto::v1::{TierOutcome, invalidate_request::Target};
use pannier_tests::{
    Caller, Mode, Pair, Path, Redis,
    caller::{is_stale, value},
    eventually, request, shared,
};
use tonic::Code;

const CONFIG: &str = "
[namespaces.artifacts]
immutable = true
[namespaces.short]
max_stale = \"2s\"
[namespaces.plain]
raw = true
";

async fn start(more: &str) -> Pair {
    Pair::start(&format!("{more}\n{CONFIG}"), CONFIG).await
}

/// Changes something by the other one and returns when the near one has heard of it, without
/// reading it.
async fn heard(pair: &Pair, change: impl Future<Output = ()>) {
    pair.hold("marker", "m", "1").await;
    change.await;
    pair.other("marker").put("m", "2").await;
    pair.near("marker").becomes("m", Some(b"2")).await;
}

/// The other one invalidates and the near one has heard of it.
async fn invalidate_and_hear(pair: &Pair, namespace: &str, key: &str) {
    heard(pair, async {
        let gone = pair.other(namespace).invalidate(key).await;
        assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_entry_that_was_invalidated_does_not_come_back_with_a_restart() {
    let talkative = format!("{CONFIG}\n[telemetry]\nlog = \"pannier_server=debug\"");
    let mut pair = Pair::start(&talkative, CONFIG).await;
    pair.hold("artifacts", "k", "v").await;
    invalidate_and_hear(&pair, "artifacts", "k").await;
    // What was heard is carried out beside the requests; no request can tell when.
    eventually("what was wished away is removed", async || {
        let log = pair.near.stderr();
        log.contains("what another daemon wished away has been removed")
    })
    .await;
    pair.restart_near();
    shared::attached(&pair.near).await;
    assert_eq!(pair.near("artifacts").value("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_an_invalidation_overtook_does_not_come_back_with_a_restart() {
    let mut pair = start("command_timeout = \"25s\"").await;
    pair.other("artifacts").put("k", "v").await;
    pair.proxy.set_for(Path::Data, Mode::HoldReplies);
    let mut filling = tokio::task::JoinSet::new();
    let caller = pair.near("artifacts");
    filling.spawn(async move { caller.value("k").await });
    pair.proxy.holds(Path::Data).await;
    let before = pair.proxy.reply_bytes(Path::Tracking);
    pair.other("artifacts").invalidate("k").await;
    eventually("it has been heard", async || {
        pair.proxy.reply_bytes(Path::Tracking) > before + 1000
    })
    .await;
    pair.proxy.set(Mode::Pass);
    filling.join_all().await;
    pair.restart_near();
    shared::attached(&pair.near).await;
    assert_eq!(pair.near("artifacts").value("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_write_that_others_invalidated_is_not_served_in_an_outage() {
    let pair = start("").await;
    pair.near("n").put("k", "own").await;
    invalidate_and_hear(&pair, "n", "k").await;
    pair.cut_off().await;
    assert_eq!(pair.near("n").value("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_an_outage_that_others_replaced_is_not_served_in_the_next() {
    let pair = start("").await;
    pair.cut_off().await;
    pair.near("n").put("k", "own").await;
    pair.come_back().await;
    heard(&pair, async {
        pair.other("n").put("k", "newer").await;
    })
    .await;
    pair.cut_off().await;
    assert_eq!(pair.near("n").value("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_heard_is_not_forgotten_by_a_restart_in_an_outage() {
    let mut pair = start("").await;
    pair.hold("short", "k", "old").await;
    invalidate_and_hear(&pair, "short", "k").await;
    // From now on nobody may be given what was right longer ago than this.
    let gone = Instant::now() + Duration::from_secs(2);
    eventually("max_stale is over", async || Instant::now() > gone).await;
    pair.cut_off().await;
    pair.restart_near();
    assert_eq!(pair.near("short").value("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_served_in_the_next_outage() {
    let pair = start("").await;
    pair.hold("short", "k", "v").await;
    pair.cut_off().await;
    let over = Instant::now() + Duration::from_secs(3);
    pair.come_back().await;
    pair.near("short").has_local("k", b"v").await;
    eventually("max_stale is over", async || Instant::now() > over).await;
    pair.near("short").has_local("k", b"v").await;
    pair.cut_off().await;
    let reply = pair.near("short").get("k").await;
    assert!(is_stale(&reply), "{:?}", reply.provenance);
    assert_eq!(value(&reply).unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_publish_can_invalidate_all_the_same() {
    let rules = "on >secret ~* resetchannels +@all";
    let redis = Redis::builder().user("pannier", rules).start();
    let url = redis.url_as("pannier", "secret");
    let daemon = shared::start(&url, CONFIG).await;
    let caller = Caller::new(&daemon, "n");
    for _ in 0..3 {
        caller.put("k", "v").await;
        let gone = caller.invalidate("k").await;
        assert_eq!(gone.shared_outcome(), TierOutcome::Applied);
        assert_eq!(caller.value("k").await, None);
    }
    shared::attached(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_redis_has_no_memory_for_does_not_keep_it_away() {
    let pair = start("").await;
    pair.cut_off().await;
    pair.near("artifacts").put("k", "v").await;
    pair.redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    pair.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    pair.come_back().await;
    assert_eq!(pair.near("artifacts").value("k").await.unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_namespace_that_overflows_the_journal_does_not_keep_redis_away() {
    let pair = start("journal_max = 3").await;
    pair.cut_off().await;
    for index in 0..10 {
        let key = format!("k{index}");
        let stub = pair.near("plain").stub();
        let request = request::invalidate_keys("plain", [key]);
        // Accepted, or refused with a clear word: but never accepted and forgotten.
        if let Err(refused) = { stub }.invalidate(request).await {
            assert_eq!(refused.code(), Code::ResourceExhausted);
        }
    }
    pair.near("n").invalidate("k").await;
    pair.come_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_an_invalidated_immutable_entry_is_published() {
    let pair = start("").await;
    pair.hold("artifacts", "k", "first").await;
    pair.cut_off().await;
    pair.near("artifacts").invalidate("k").await;
    pair.near("artifacts").put("k", "second").await;
    // As after a restart of Redis.
    pair.redis.command(&["SCRIPT", "FLUSH"]);
    pair.come_back().await;
    let got = pair.near("artifacts").value("k").await;
    assert_eq!(got.unwrap(), "second", "the put of the outage is lost");
    pair.other("artifacts").becomes("k", Some(b"second")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_process_before_has_left_open_is_closed() {
    let redis = Redis::start();
    let mut daemon = shared::start(&redis.url(), "").await;
    let clients = redis.clients().into_iter();
    let mut names = clients.filter_map(|it| it.get("name").cloned());
    let name = names.find(|name| name.starts_with("pannier-")).unwrap();
    daemon.kill();
    let mut left = redis.connection().unwrap();
    left.command(&["CLIENT", "SETNAME", &name]).unwrap();
    let id = left
        .command(&["CLIENT", "ID"])
        .unwrap()
        .integer()
        .to_string();
    let daemon = daemon.restart();
    shared::attached(&daemon).await;
    let alive = redis.clients().iter().any(|it| it["id"] == id);
    assert!(!alive, "{name} could still write");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidating_elsewhere_costs_no_immutable_entry_in_an_outage() {
    let pair = start("").await;
    pair.hold("artifacts", "k", "v").await;
    pair.cut_off().await;
    let elsewhere = Target::Prefix("anything".into());
    pair.near("n").invalidate_by(elsewhere).await;
    assert_eq!(pair.near("artifacts").value("k").await.unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_short_deadlines_do_not_keep_a_silent_link() {
    let pair = start("").await;
    pair.proxy.set_for(Path::Data, Mode::HoldCommands);
    let caller = pair.near("n");
    eventually("requests are answered again", async || {
        let mut request = tonic::Request::new(request::get("n", "absent"));
        request.set_timeout(Duration::from_millis(100));
        caller.stub().get(request).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_immutable_entry_is_not_replaced_where_it_is_known() {
    let pair = start("").await;
    pair.hold("artifacts", "k", "first").await;
    // As an eviction.
    pair.redis.command(&["DEL", &shared::key("artifacts", "k")]);
    let near = pair.near("artifacts");
    let second = near.try_put(near.put_request("k", "second")).await;
    assert_eq!(second.unwrap_err().code(), Code::AlreadyExists);
    let again = near.try_put(near.put_request("k", "first")).await;
    assert!(again.is_ok(), "{again:?}");
}
