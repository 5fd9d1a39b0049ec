//! The snapshot: every figure as a family, whoever shows it.
//!
//! docs/metrics.md says what each means and what to do when it turns bad.

mod leases;
mod tiers;

use super::{
    Observer,
    calls::{CODES, Operation},
    process,
};
use crate::{
    config::TierName,
    error::Result,
    metrics::{Family, Kind, Snapshot, Value},
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
        self.of_leases(&mut families);
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
            families.push(self.of_operation(operation, name, help));
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

    fn of_operation(&self, operation: Operation, name: &'static str, help: &'static str) -> Family {
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
        family
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
        type Of = fn(&Reading) -> u64;
        let plain: [(_, _, _, Of); 6] = [
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
