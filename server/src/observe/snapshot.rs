//! The snapshot: every figure as a family, whoever shows it.
//!
//! docs/metrics.md says what each means and what to do when it turns bad.

use super::{
    Observer,
    calls::{CODES, Operation, distribution},
    process,
};
use crate::{
    config::TierName,
    error::Result,
    metrics::{Distribution, Family, Kind, Labels, Snapshot, Value},
    namespace::{Met, OTHER},
    stats::{Level, Reading},
};

/// Label of a namespace.
pub const NAMESPACE: &str = "cache.namespace";
/// Label of a tier: `local`, `shared`.
pub const TIER: &str = "cache.tier";
/// Label of how something ended.
pub const OUTCOME: &str = "cache.outcome";

impl Observer {
    /// All figures of the moment. Looks at every file of the data directory.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let mut families = Vec::new();
        self.of_requests(&mut families);
        self.of_namespaces(&mut families);
        self.of_local_tier(&mut families).await?;
        self.of_shared_tier(&mut families);
        self.of_front_doors(&mut families);
        self.of_exports(&mut families);
        self.of_process(&mut families);
        Ok(Snapshot {
            at: self.clock.now(),
            since: self.started.1,
            families,
        })
    }

    fn of_requests(&self, families: &mut Vec<Family>) {
        for (operation, name, help) in [
            (
                Operation::Lookup,
                "cache.lookup",
                "Time to look an entry up in a tier.",
            ),
            (
                Operation::Store,
                "cache.store",
                "Time to put an entry into a tier, copies from Redis into the local tier included.",
            ),
            (
                Operation::Remove,
                "cache.remove",
                "Time to remove entries from a tier, by keys or by a scan.",
            ),
            (
                Operation::Verify,
                "cache.verify",
                "Time to ask Redis whether a local copy is what it has.",
            ),
            (
                Operation::Wait,
                "cache.wait",
                "Time waited for the answer to another request's question about the same key.",
            ),
        ] {
            let mut family = Family::new(name, "s", Kind::Histogram, help);
            for ((of, tier, ended), distribution) in self.calls.operation_distributions() {
                if of == operation {
                    let labels = vec![
                        (TIER, tier_name(tier).into()),
                        (OUTCOME, ended.name().into()),
                    ];
                    family = family.with(labels, Value::Distribution(Box::new(distribution)));
                }
            }
            families.push(family);
        }
        let mut calls = Family::new(
            "rpc.server.call.duration",
            "s",
            Kind::Histogram,
            "Time from a request's arrival to its answer.",
        );
        for ((method, code), distribution) in self.calls.call_distributions() {
            let mut labels = vec![
                ("rpc.system.name", "grpc".into()),
                ("rpc.method", method.full_name().into()),
                ("rpc.response.status_code", CODES[code].into()),
            ];
            if is_fault(code) {
                labels.push(("error.type", CODES[code].into()));
            }
            calls = calls.with(labels, Value::Distribution(Box::new(distribution)));
        }
        families.push(calls);
        families.push(
            Family::new(
                "cache.hit.ratio",
                "1",
                Kind::Gauge,
                "Share of the reads of the last minute that were hits; absent without reads.",
            )
            .of_float(self.last_minute().frame.total().hit_ratio()),
        );
    }

    fn of_namespaces(&self, families: &mut Vec<Family>) {
        let shown = shown(self.engine.counters());
        let mut hits = Family::new(
            "cache.hits",
            "{hit}",
            Kind::Counter,
            "Reads answered with an entry, by the tier it came from.",
        );
        for (namespace, reading) in &shown {
            for (tier, count) in [
                ("local", reading.hits_local),
                ("shared", reading.hits_shared),
            ] {
                let labels = vec![(NAMESPACE, namespace.clone().into()), (TIER, tier.into())];
                hits = hits.with(labels, Value::Integer(count));
            }
        }
        families.push(hits);
        let plain: [(_, _, _, fn(&Reading) -> u64); 6] = [
            (
                "cache.misses",
                "{miss}",
                "Reads answered without an entry.",
                |it| it.misses,
            ),
            (
                "cache.stale",
                "{hit}",
                "Reads answered with an entry marked stale, which are hits as well.",
                |it| it.stale,
            ),
            ("cache.puts", "{put}", "Entries put.", |it| it.puts),
            (
                "cache.invalidations",
                "{entry}",
                "Live entries removed by invalidation.",
                |it| it.invalidations,
            ),
            (
                "cache.errors",
                "{error}",
                "Requests, or items of a batch, that ended in an error, and tiers that could not \
                 be read.",
                |it| it.errors,
            ),
            (
                "cache.refusals",
                "{refusal}",
                "Writes refused by a condition or a write-once namespace.",
                |it| it.refusals,
            ),
        ];
        for (name, unit, help, of) in plain {
            let mut family = Family::new(name, unit, Kind::Counter, help);
            for (namespace, reading) in &shown {
                let labels = vec![(NAMESPACE, namespace.clone().into())];
                family = family.with(labels, Value::Integer(of(reading)));
            }
            families.push(family);
        }
    }

    async fn of_local_tier(&self, families: &mut Vec<Family>) -> Result<()> {
        let stats = self.engine.local_stats().await?;
        let config = &self.engine.config().local;
        let serving = u64::from(stats.trouble.is_none());
        #[rustfmt::skip]
        let plain = [
            ("cache.local.serving", "{state}", Kind::Gauge, serving,
             "1 while the local tier takes reads and writes, 0 otherwise."),
            ("cache.local.disk.usage", "By", Kind::UpDownCounter, stats.disk_bytes,
             "Bytes of the local tier on disk."),
            ("cache.local.disk.limit", "By", Kind::UpDownCounter, config.disk_budget.0,
             "Most bytes of the local tier on disk."),
            ("cache.local.memory.usage", "By", Kind::UpDownCounter, stats.memory_bytes,
             "Bytes of the local tier in memory: hot set, write buffers, block cache, tables."),
            ("cache.local.memory.limit", "By", Kind::UpDownCounter, config.memory_budget.0,
             "Most bytes of the local tier in memory."),
            ("cache.local.keys", "{key}", Kind::UpDownCounter, stats.keys_estimate,
             "Keys in the local tier, as the store estimates them."),
            ("cache.local.records.corrupt", "{record}", Kind::Counter, stats.corrupt_records,
             "Damaged records found, dropped and answered as a miss."),
            ("cache.local.records.expired", "{record}", Kind::Counter, stats.expired_records,
             "Expired records dropped by merging."),
            ("cache.local.records.refreshed", "{record}", Kind::Counter, stats.refreshed_records,
             "Records written again because they were read when they were about to be evicted."),
            ("cache.local.reopens", "{reopen}", Kind::Counter, stats.reopens,
             "Times the store was closed and opened again after a fault."),
            ("cache.local.set_asides", "{store}", Kind::Counter, stats.set_asides,
             "Times a damaged store was set aside and a fresh one begun."),
        ];
        for (name, unit, kind, value, help) in plain {
            families.push(Family::new(name, unit, kind, help).of(value));
        }
        Ok(())
    }

    fn of_shared_tier(&self, families: &mut Vec<Family>) {
        let Some(shared) = self.engine.shared() else {
            return;
        };
        let coherence = shared.coherence();
        let stats = coherence.stats();
        let attached = u64::from(coherence.is_attached());
        let journal_max = self.engine.config().shared.journal_max as u64;
        #[rustfmt::skip]
        let plain = [
            ("cache.shared.attached", "{state}", Kind::Gauge, attached,
             "1 while every change in Redis is heard of, 0 while Redis counts as away."),
            ("cache.shared.attachments", "{attachment}", Kind::Counter, stats.attachments,
             "Times the daemon attached to Redis."),
            ("cache.shared.pushes", "{change}", Kind::Counter, stats.changes,
             "Changes of keys that Redis told of."),
            ("cache.shared.flushes", "{flush}", Kind::Counter, stats.flushes,
             "Times Redis told that everything was flushed."),
            ("cache.shared.copies.verified", "{copy}", Kind::Counter, stats.verified,
             "Local copies found to be what Redis has, by their version alone."),
            ("cache.shared.copies.refuted", "{copy}", Kind::Counter, stats.refuted,
             "Local copies found to be something else than Redis has."),
            ("cache.outbox.depth", "{change}", Kind::UpDownCounter, shared.deferred() as u64,
             "Changes that wait for Redis to come back."),
            ("cache.outbox.limit", "{change}", Kind::UpDownCounter, journal_max,
             "Changes that may wait before whole namespaces are invalidated instead."),
        ];
        for (name, unit, kind, value, help) in plain {
            families.push(Family::new(name, unit, kind, help).of(value));
        }
        let contact = coherence.last_contact();
        let age = contact.map(|(_, at)| self.clock.now().since(at).as_secs_f64());
        let help = "Time since Redis last confirmed that every change has been heard of.";
        families
            .push(Family::new("cache.shared.contact.age", "s", Kind::Gauge, help).of_float(age));
        if let Some(memory) = self.redis_memory() {
            let help = "Bytes of memory that Redis uses, all masters together.";
            let name = "cache.shared.redis.memory.usage";
            families.push(Family::new(name, "By", Kind::UpDownCounter, help).of(memory.used));
            let help = "Most bytes of memory that Redis may use; 0 is no limit.";
            let name = "cache.shared.redis.memory.limit";
            families.push(Family::new(name, "By", Kind::UpDownCounter, help).of(memory.max));
        }
        for (name, histogram, help) in [
            (
                "cache.coherence.delay",
                coherence.delay(),
                "Time from a change in Redis to its being heard of, measured on own writes.",
            ),
            (
                "cache.staleness",
                shared.staleness(),
                "How long ago an answer marked stale was right for sure.",
            ),
        ] {
            families.push(of_distribution(name, help, distribution(histogram)));
        }
    }

    fn of_front_doors(&self, families: &mut Vec<Family>) {
        let door = &self.door;
        let now = |level: &Level| level.get() as u64;
        let by_door = |family: Family, grpc: u64, http: u64| {
            let label = |name: &'static str| vec![("cache.door", name.into())];
            family
                .with(label("grpc"), Value::Integer(grpc))
                .with(label("http"), Value::Integer(http))
        };
        families.push(by_door(
            Family::new(
                "cache.connections",
                "{connection}",
                Kind::UpDownCounter,
                "Connections that are open.",
            ),
            now(&door.connections),
            now(&door.http_connections),
        ));
        families.push(by_door(
            Family::new(
                "cache.connections.refused",
                "{connection}",
                Kind::Counter,
                "Connections closed at once because there were too many.",
            ),
            door.connections_refused.get(),
            door.http_connections_refused.get(),
        ));
        let config = &self.engine.config().server;
        let watch = self.engine.watch_stats();
        #[rustfmt::skip]
        let plain = [
            ("cache.requests.in_flight", "{request}", Kind::UpDownCounter, now(&door.in_flight),
             "Requests that are being answered."),
            ("cache.requests.limit", "{request}", Kind::UpDownCounter, config.max_in_flight as u64,
             "Most requests that are answered at a time."),
            ("cache.requests.overloaded", "{request}", Kind::Counter, door.overloaded.get(),
             "Requests refused because too many were being answered."),
            ("cache.watchers", "{stream}", Kind::UpDownCounter, watch.followers,
             "Streams of Watch that are open and keep up."),
            ("cache.watch.messages", "{message}", Kind::Counter, watch.told,
             "Messages told to watchers."),
            ("cache.watch.dropped", "{stream}", Kind::Counter, watch.dropped,
             "Streams of Watch dropped for being too slow."),
        ];
        for (name, unit, kind, value, help) in plain {
            families.push(Family::new(name, unit, kind, help).of(value));
        }
    }

    fn of_exports(&self, families: &mut Vec<Family>) {
        let Some(exported) = self.exported() else {
            return;
        };
        let mut spans = Family::new(
            "cache.export.spans",
            "{span}",
            Kind::Counter,
            "Spans by what became of them: taken by the collector, dropped because the queue was \
             full, or not taken.",
        );
        for (outcome, count) in [
            ("sent", exported.spans_sent),
            ("dropped", exported.spans_dropped),
            ("failed", exported.spans_failed),
        ] {
            spans = spans.with(vec![(OUTCOME, outcome.into())], Value::Integer(count));
        }
        let mut metrics = Family::new(
            "cache.export.metrics",
            "{export}",
            Kind::Counter,
            "Exports of metrics by what became of them.",
        );
        for (outcome, count) in [
            ("sent", exported.metrics_sent),
            ("failed", exported.metrics_failed),
        ] {
            metrics = metrics.with(vec![(OUTCOME, outcome.into())], Value::Integer(count));
        }
        families.extend([spans, metrics]);
    }

    fn of_process(&self, families: &mut Vec<Family>) {
        let family = |name, prometheus, unit, kind, help| {
            Family::new(name, unit, kind, help).named_in_prometheus(prometheus)
        };
        let started = self.started.1.as_millis() as f64 / 1000.0;
        families.push(
            family(
                "process.start_time",
                "process_start_time_seconds",
                "s",
                Kind::Gauge,
                "When the process started, in seconds since the Unix epoch.",
            )
            .of_float(started),
        );
        families.push(
            family(
                "process.cpu.time",
                "process_cpu_seconds_total",
                "s",
                Kind::Counter,
                "Processor time used.",
            )
            .of_float(process::processor_time().as_secs_f64()),
        );
        for (name, prometheus, unit, value, help) in [
            (
                "process.memory.usage",
                "process_resident_memory_bytes",
                "By",
                process::resident_bytes(),
                "Bytes of memory that are resident.",
            ),
            (
                "process.open_file_descriptor.count",
                "process_open_fds",
                "{file_descriptor}",
                process::open_files(),
                "File descriptors that are open.",
            ),
            (
                "process.open_file_descriptor.limit",
                "process_max_fds",
                "{file_descriptor}",
                process::open_files_max(),
                "Most file descriptors that may be open.",
            ),
        ] {
            if let Some(value) = value {
                families.push(family(name, prometheus, unit, Kind::UpDownCounter, help).of(value));
            }
        }
        let version = vec![("version", env!("CARGO_PKG_VERSION").into())];
        families.push(
            family(
                "pannier.build",
                "pannier_build_info",
                "{build}",
                Kind::Gauge,
                "The version of the daemon; the figure is always 1.",
            )
            .with(version, Value::Integer(1)),
        );
    }
}

/// Codes that say that something is wrong with the daemon, not with the request
/// (the conventions for RPC of OpenTelemetry leave the choice to the server).
fn is_fault(code: usize) -> bool {
    matches!(
        CODES[code],
        "UNKNOWN"
            | "DEADLINE_EXCEEDED"
            | "UNIMPLEMENTED"
            | "INTERNAL"
            | "UNAVAILABLE"
            | "DATA_LOSS"
    )
}

/// The name of a tier in metrics, traces and JSON.
pub fn tier_name(tier: TierName) -> &'static str {
    match tier {
        TierName::Local => "local",
        TierName::Shared => "shared",
    }
}

fn of_distribution(name: &'static str, help: &'static str, distribution: Distribution) -> Family {
    let value = Value::Distribution(Box::new(distribution));
    Family::new(name, "s", Kind::Histogram, help).with(Labels::new(), value)
}

/// The namespaces that are shown by name, and the rest together.
fn shown(all: Vec<Met>) -> Vec<(String, Reading)> {
    let mut shown = Vec::new();
    let mut other: Option<Reading> = None;
    for met in all {
        match met.labelled {
            true => shown.push((met.name.to_string(), met.reading)),
            false => other = Some(other.unwrap_or_default().and(&met.reading)),
        }
    }
    shown.extend(other.map(|reading| (OTHER.to_owned(), reading)));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_beyond_the_limit_are_shown_together() {
        let met = |name: &str, labelled, misses| Met {
            name: name.into(),
            labelled,
            reading: Reading {
                misses,
                ..Reading::default()
            },
        };
        let all = vec![
            met("a", true, 1),
            met("b", false, 2),
            met("c", true, 3),
            met(OTHER, false, 4),
        ];
        let shown = shown(all);
        let shown: Vec<_> = shown.iter().map(|it| (&*it.0, it.1.misses)).collect();
        assert_eq!(shown, [("a", 1), ("c", 3), (OTHER, 6)]);
    }
}
