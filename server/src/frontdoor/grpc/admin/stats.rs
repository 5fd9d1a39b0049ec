//! The answer of Stats.

use pannier_proto::v1::{
    self, CallStats, DurationStats, LocalTierStats, NamespaceStats, OperationStats,
    SharedStateChange, SharedTierStats, StatsRequest, StatsResponse, WatchStats, WindowStats,
};

use super::super::encode;
use crate::{
    clock::Timestamp,
    coherence::Standing,
    config::TierName,
    error::Result,
    key::check_namespace,
    metrics::Counts,
    observe::{CODES, Frame, Observer, Window},
    stats::Reading,
};

/// All of it; the namespaces are those that were asked for.
pub(super) async fn stats(observer: &Observer, request: StatsRequest) -> Result<StatsResponse> {
    let wanted = request.namespace.as_str();
    if !wanted.is_empty() {
        check_namespace(wanted)?;
    }
    let (all, minute) = (observer.since_reset(), observer.last_minute());
    let frame = &all.frame;
    Ok(StatsResponse {
        since: Some(encode::timestamp(all.since)),
        uptime: Some(encode::duration(observer.uptime())),
        total: Some(counters(&frame.total())),
        namespaces: namespaces(frame, wanted),
        local: Some(local(observer).await?),
        shared_state: shared_state(observer).into(),
        version: env!("CARGO_PKG_VERSION").into(),
        shared: shared(observer, frame),
        watch: Some(watch(observer)),
        operations: operations(frame),
        calls: calls(frame),
        last_minute: Some(window(&minute, wanted)),
    })
}

fn window(window: &Window, wanted: &str) -> WindowStats {
    let frame = &window.frame;
    WindowStats {
        since: Some(encode::timestamp(window.since)),
        length: Some(encode::duration(window.length)),
        total: Some(counters(&frame.total())),
        namespaces: namespaces(frame, wanted),
        operations: operations(frame),
        calls: calls(frame),
    }
}

fn counters(reading: &Reading) -> v1::Counters {
    v1::Counters {
        hits: reading.hits(),
        misses: reading.misses,
        puts: reading.puts,
        invalidations: reading.invalidations,
        errors: reading.errors,
        refusals: reading.refusals,
        shared_hits: reading.hits_shared,
        stale: reading.stale,
    }
}

fn namespaces(frame: &Frame, wanted: &str) -> Vec<NamespaceStats> {
    let all = frame.namespaces.iter();
    let asked_for = all.filter(|it| wanted.is_empty() || wanted == it.name.as_ref());
    asked_for
        .map(|it| NamespaceStats {
            namespace: it.name.to_string(),
            counters: Some(counters(&it.reading)),
        })
        .collect()
}

/// Each outcome, and before the first of each operation in a tier all of them together.
fn operations(frame: &Frame) -> Vec<OperationStats> {
    let mut all = Vec::new();
    let mut before = None;
    for ((operation, tier, ended), counts) in &frame.operations {
        let row = |outcome: &str, counts: &Counts| OperationStats {
            tier: tier_of(*tier).into(),
            operation: operation.name().into(),
            outcome: outcome.into(),
            duration: Some(durations(counts)),
        };
        if before != Some((*operation, *tier)) {
            before = Some((*operation, *tier));
            all.push(row("", &frame.operation(*operation, *tier, |_| true)));
        }
        all.push(row(ended.name(), counts));
    }
    all
}

fn calls(frame: &Frame) -> Vec<CallStats> {
    let all = frame.calls.iter();
    all.map(|((method, code), counts)| CallStats {
        method: method.name().into(),
        status: CODES[*code].into(),
        duration: Some(durations(counts)),
    })
    .collect()
}

fn durations(counts: &Counts) -> DurationStats {
    let quantile = |share| counts.quantile(share).map(encode::duration);
    DurationStats {
        count: counts.count(),
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
    }
}

fn tier_of(tier: TierName) -> v1::Tier {
    match tier {
        TierName::Local => v1::Tier::Local,
        TierName::Shared => v1::Tier::Shared,
    }
}

fn watch(observer: &Observer) -> WatchStats {
    let stats = observer.engine().watch_stats();
    WatchStats {
        watchers: stats.followers,
        messages: stats.told,
        dropped: stats.dropped,
    }
}

fn shared_state(observer: &Observer) -> v1::SharedState {
    match observer.engine().shared() {
        None => v1::SharedState::Disabled,
        Some(shared) if shared.coherence().is_attached() => v1::SharedState::Attached,
        Some(_) => v1::SharedState::Detached,
    }
}

fn told(standing: Standing) -> (v1::SharedState, Timestamp, String) {
    match standing {
        Standing::Attached { since } => (v1::SharedState::Attached, since, String::new()),
        Standing::Detached { since, reason } => (v1::SharedState::Detached, since, reason),
    }
}

fn shared(observer: &Observer, frame: &Frame) -> Option<SharedTierStats> {
    let engine = observer.engine();
    let shared = engine.shared()?;
    let coherence = shared.coherence();
    let stats = coherence.stats();
    let (_, since, message) = told(coherence.standing());
    let contact = coherence.last_contact();
    let memory = observer.redis_memory();
    let history = coherence.history().into_iter().map(|standing| {
        let (state, time, message) = told(standing);
        SharedStateChange {
            time: Some(encode::timestamp(time)),
            state: state.into(),
            message,
        }
    });
    Some(SharedTierStats {
        state: shared_state(observer).into(),
        since: Some(encode::timestamp(since)),
        message,
        attachments: stats.attachments,
        changes: stats.changes,
        flushes: stats.flushes,
        verified_copies: stats.verified,
        refuted_copies: stats.refuted,
        scans_running: stats.scans_running,
        scanned_keys: stats.scanned_keys,
        deferred_changes: shared.deferred() as u64,
        contact_age: contact.map(|(_, at)| encode::duration(engine.now().since(at))),
        deferred_changes_max: engine.config().shared.journal_max as u64,
        redis_memory_bytes: memory.map_or(0, |it| it.used),
        redis_memory_max_bytes: memory.map_or(0, |it| it.max),
        coherence_delay: Some(durations(&frame.delay)),
        staleness: Some(durations(&frame.staleness)),
        history: history.collect(),
    })
}

async fn local(observer: &Observer) -> Result<LocalTierStats> {
    let engine = observer.engine();
    let stats = engine.local_stats().await?;
    let config = &engine.config().local;
    Ok(LocalTierStats {
        serving: stats.trouble.is_none(),
        message: stats.trouble.unwrap_or_default(),
        disk_bytes: stats.disk_bytes,
        disk_budget_bytes: config.disk_budget.0,
        memory_bytes: stats.memory_bytes,
        memory_budget_bytes: config.memory_budget.0,
        keys_estimate: stats.keys_estimate,
        corrupt_records: stats.corrupt_records,
        expired_records: stats.expired_records,
        refreshed_records: stats.refreshed_records,
        reopens: stats.reopens,
        set_asides: stats.set_asides,
    })
}
