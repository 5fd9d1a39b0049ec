//! The status as JSON: what a page needs that shows how the daemon is.
//!
//! Times are in seconds, instants in milliseconds since the Unix epoch, sizes in bytes, shares 0 to
//! 1; what is not known is null. docs/metrics.md has the fields.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Observer, Slow, Window,
    calls::{CODES, Operation},
    snapshot::tier_name,
};
use crate::{
    clock::Timestamp, coherence::Standing, config::TierName, error::Result, metrics::Counts,
    stats::Reading, steps::Ended,
};

impl Observer {
    /// The status of the moment. Looks at every file of the data directory.
    pub async fn status(&self) -> Result<Value> {
        let (since_reset, last_minute) = (self.since_reset(), self.last_minute());
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "at": self.clock.now().as_millis(),
            "uptime": self.uptime().as_secs_f64(),
            "since_reset": window(&since_reset),
            "last_minute": window(&last_minute),
            "local": self.local_status().await?,
            "shared": self.shared_status(&since_reset, &last_minute),
            "front_door": self.front_door_status(),
            "slowest": self.slowest().iter().map(slow).collect::<Vec<_>>(),
            "export": self.export_status(),
            "process": {
                "resident_bytes": super::process::resident_bytes(),
                "cpu": super::process::processor_time().as_secs_f64(),
                "open_files": super::process::open_files(),
                "open_files_max": super::process::open_files_max(),
            },
            "config": self.engine.config().to_toml(),
        }))
    }

    async fn local_status(&self) -> Result<Value> {
        let stats = self.engine.local_stats().await?;
        let config = &self.engine.config().local;
        Ok(json!({
            "serving": stats.trouble.is_none(),
            "message": stats.trouble.unwrap_or_default(),
            "disk_bytes": stats.disk_bytes,
            "disk_budget_bytes": config.disk_budget.0,
            "memory_bytes": stats.memory_bytes,
            "memory_budget_bytes": config.memory_budget.0,
            "keys_estimate": stats.keys_estimate,
            "corrupt_records": stats.corrupt_records,
            "expired_records": stats.expired_records,
            "refreshed_records": stats.refreshed_records,
            "reopens": stats.reopens,
            "set_asides": stats.set_asides,
        }))
    }

    fn shared_status(&self, since_reset: &Window, last_minute: &Window) -> Option<Value> {
        let shared = self.engine.shared()?;
        let coherence = shared.coherence();
        let stats = coherence.stats();
        let (since, message) = told(&coherence.standing());
        let contact = coherence.last_contact();
        let history: Vec<_> = coherence.history().iter().map(change).collect();
        let memory = self.redis_memory();
        Some(json!({
            "attached": coherence.is_attached(),
            "since": since.as_millis(),
            "message": message,
            "contact_age": contact.map(|(_, at)| self.clock.now().since(at).as_secs_f64()),
            "attachments": stats.attachments,
            "pushes": stats.changes,
            "flushes": stats.flushes,
            "verified_copies": stats.verified,
            "refuted_copies": stats.refuted,
            "scans_running": stats.scans_running,
            "scanned_keys": stats.scanned_keys,
            "outbox_depth": shared.deferred(),
            "outbox_limit": self.engine.config().shared.journal_max,
            "redis_memory_bytes": memory.map(|it| it.used),
            // Null without a limit.
            "redis_memory_limit_bytes": memory.map(|it| it.max).filter(|max| *max > 0),
            "history": history,
            "coherence_delay": {
                "since_reset": distribution(&since_reset.frame.delay),
                "last_minute": distribution(&last_minute.frame.delay),
            },
            "staleness": {
                "since_reset": distribution(&since_reset.frame.staleness),
                "last_minute": distribution(&last_minute.frame.staleness),
            },
        }))
    }

    fn front_door_status(&self) -> Value {
        let door = &self.door;
        let config = &self.engine.config().server;
        let watch = self.engine.watch_stats();
        json!({
            "in_flight": door.in_flight.get(),
            "in_flight_limit": config.max_in_flight,
            "overloaded": door.overloaded.get(),
            "connections": door.connections.get(),
            "connections_limit": config.max_connections,
            "connections_refused": door.connections_refused.get(),
            "http_connections": door.http_connections.get(),
            "http_connections_refused": door.http_connections_refused.get(),
            "watchers": watch.followers,
            "watchers_limit": config.max_watchers,
            "watchers_dropped": watch.dropped,
        })
    }

    fn export_status(&self) -> Option<Value> {
        let exported = self.exported()?;
        Some(json!({
            "traces_to": exported.traces_to,
            "metrics_to": exported.metrics_to,
            "spans_sent": exported.spans_sent,
            "spans_dropped": exported.spans_dropped,
            "spans_failed": exported.spans_failed,
            "metrics_sent": exported.metrics_sent,
            "metrics_failed": exported.metrics_failed,
            "trouble": exported.trouble,
        }))
    }
}

fn window(window: &Window) -> Value {
    let frame = &window.frame;
    let namespaces = frame.namespaces.iter().map(|met| {
        let mut counts = reading(&met.reading, window.length);
        counts["namespace"] = json!(&*met.name);
        counts
    });
    let tiers = [TierName::Local, TierName::Shared].map(|tier| {
        let looked_up = frame.operation(Operation::Lookup, tier, |_| true).count();
        let found = |ended| matches!(ended, Ended::Hit | Ended::Stale);
        let hits = frame.operation(Operation::Lookup, tier, found).count();
        json!({
            "tier": tier_name(tier),
            "lookups": looked_up,
            "hit_ratio": (looked_up > 0).then(|| hits as f64 / looked_up as f64),
        })
    });
    let operations = frame
        .operations
        .iter()
        .map(|((operation, tier, ended), counts)| {
            let mut shown = distribution(counts);
            shown["operation"] = json!(operation.name());
            shown["tier"] = json!(tier_name(*tier));
            shown["outcome"] = json!(ended.name());
            shown
        });
    let calls = frame.calls.iter().map(|((method, code), counts)| {
        let mut shown = distribution(counts);
        shown["method"] = json!(method.name());
        shown["status"] = json!(CODES[*code]);
        shown["per_second"] = json!(per_second(counts.count(), window.length));
        shown
    });
    let all = frame.calls.iter();
    let requests: u64 = all.map(|(_, counts)| counts.count()).sum();
    json!({
        "since": window.since.as_millis(),
        "length": window.length.as_secs_f64(),
        "requests": requests,
        "requests_per_second": per_second(requests, window.length),
        "total": reading(&frame.total(), window.length),
        "namespaces": namespaces.collect::<Vec<_>>(),
        "tiers": tiers,
        "operations": operations.collect::<Vec<_>>(),
        "calls": calls.collect::<Vec<_>>(),
    })
}

fn reading(reading: &Reading, length: Duration) -> Value {
    json!({
        "hits": reading.hits(),
        "hits_local": reading.hits_local,
        "hits_shared": reading.hits_shared,
        "misses": reading.misses,
        "hit_ratio": reading.hit_ratio(),
        "stale": reading.stale,
        "puts": reading.puts,
        "invalidations": reading.invalidations,
        "errors": reading.errors,
        "refusals": reading.refusals,
        "reads_per_second": per_second(reading.hits() + reading.misses, length),
        "puts_per_second": per_second(reading.puts, length),
    })
}

fn per_second(count: u64, length: Duration) -> f64 {
    count as f64 / length.as_secs_f64()
}

fn distribution(counts: &Counts) -> Value {
    let quantile = |share| counts.quantile(share).map(|it| it.as_secs_f64());
    json!({
        "count": counts.count(),
        "sum": counts.sum().as_secs_f64(),
        "p50": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
    })
}

fn told(standing: &Standing) -> (Timestamp, String) {
    match standing {
        Standing::Attached { since } => (*since, String::new()),
        Standing::Detached { since, reason } => (*since, reason.clone()),
    }
}

fn change(standing: &Standing) -> Value {
    let (at, reason) = told(standing);
    json!({
        "at": at.as_millis(),
        "attached": matches!(standing, Standing::Attached { .. }),
        "reason": reason,
    })
}

fn slow(slow: &Slow) -> Value {
    let steps = slow.steps.iter().map(|step| {
        json!({
            "what": step.what.name(),
            "tier": tier_name(step.tier),
            "outcome": step.ended.name(),
            "after": step.after.as_secs_f64(),
            "took": step.took.as_secs_f64(),
            "items": step.items,
        })
    });
    json!({
        "at": slow.at.as_millis(),
        "method": slow.method.name(),
        "namespace": slow.namespace,
        "key_hash": slow.key.map(|hash| format!("{hash:016x}")),
        "took": slow.took.as_secs_f64(),
        "status": CODES[slow.code],
        "steps": steps.collect::<Vec<_>>(),
    })
}
