//! Figures of the tiers.

use super::super::{Observer, calls::distribution};
use crate::{
    error::Result,
    metrics::{Distribution, Family, Kind, Labels, Value},
};

impl Observer {
    pub(super) async fn of_local_tier(&self, families: &mut Vec<Family>) -> Result<()> {
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

    pub(super) fn of_shared_tier(&self, families: &mut Vec<Family>) {
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
            ("cache.shared.scans.running", "{scan}", Kind::UpDownCounter, stats.scans_running,
             "Invalidations by prefix, pattern or of all that go through the keys of Redis now."),
            ("cache.shared.scans.keys", "{key}", Kind::Counter, stats.scanned_keys,
             "Keys of Redis that such invalidations have looked at."),
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
                "Time from sending an own write to Redis to Redis's word of it.",
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
}

fn of_distribution(name: &'static str, help: &'static str, distribution: Distribution) -> Family {
    let value = Value::Distribution(Box::new(distribution));
    Family::new(name, "s", Kind::Histogram, help).with(Labels::new(), value)
}
