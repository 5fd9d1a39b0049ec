//! The state of the tiers and of Watch.

use std::{fmt::Write, time::Duration};

use bytesize::ByteSize;
use pannier_client::proto::{LocalTierStats, SharedTierStats, WatchStats};
use serde::Serialize;

use super::{durations::DurationView, instant, span};
use crate::view;

#[derive(Debug, Default, Serialize)]
pub(super) struct WatchView {
    watchers: u64,
    messages: u64,
    dropped: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct LocalView {
    serving: bool,
    message: String,
    disk_bytes: u64,
    disk_budget_bytes: u64,
    memory_bytes: u64,
    memory_budget_bytes: u64,
    keys_estimate: u64,
    corrupt_records: u64,
    expired_records: u64,
    refreshed_records: u64,
    reopens: u64,
    set_asides: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct SharedView {
    state: &'static str,
    since: Option<String>,
    message: String,
    contact_age_ms: Option<u64>,
    attachments: u64,
    changes: u64,
    flushes: u64,
    verified_copies: u64,
    refuted_copies: u64,
    scans_running: u64,
    scanned_keys: u64,
    deferred_changes: u64,
    deferred_changes_max: u64,
    // Zero where it is not known; of the limit also where there is none.
    redis_memory_bytes: u64,
    redis_memory_max_bytes: u64,
    coherence_delay: DurationView,
    staleness: DurationView,
    // The last changes of the state, the latest last.
    history: Vec<ChangeView>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    time: Option<String>,
    state: &'static str,
    message: String,
}

impl SharedView {
    pub(super) fn new(stats: SharedTierStats) -> Self {
        let history = stats.history.iter().map(|it| ChangeView {
            time: instant(it.time),
            state: view::shared_state(it.state()),
            message: it.message.clone(),
        });
        Self {
            state: view::shared_state(stats.state()),
            since: instant(stats.since),
            history: history.collect(),
            message: stats.message,
            contact_age_ms: span(stats.contact_age).map(view::milliseconds),
            attachments: stats.attachments,
            changes: stats.changes,
            flushes: stats.flushes,
            verified_copies: stats.verified_copies,
            refuted_copies: stats.refuted_copies,
            scans_running: stats.scans_running,
            scanned_keys: stats.scanned_keys,
            deferred_changes: stats.deferred_changes,
            deferred_changes_max: stats.deferred_changes_max,
            redis_memory_bytes: stats.redis_memory_bytes,
            redis_memory_max_bytes: stats.redis_memory_max_bytes,
            coherence_delay: DurationView::new(stats.coherence_delay.unwrap_or_default()),
            staleness: DurationView::new(stats.staleness.unwrap_or_default()),
        }
    }

    pub(super) fn words(&self) -> String {
        let contact = self.contact_age_ms.map(Duration::from_millis);
        let contact = contact.map_or_else(|| "never".to_owned(), |age| view::span(age) + " ago");
        let mut text = format!(
            "shared tier  {} since {}, last contact {contact}\n",
            self.state,
            self.since.as_deref().unwrap_or("?")
        );
        // Writing into a String does not fail.
        if !self.message.is_empty() {
            let _ = writeln!(text, "             {}", self.message);
        }
        let _ = writeln!(
            text,
            "             {} changes heard of, {} copies verified, {} found changed, {} of at most \
             {} changes wait for Redis",
            self.changes,
            self.verified_copies,
            self.refuted_copies,
            self.deferred_changes,
            self.deferred_changes_max
        );
        if self.scans_running > 0 {
            let (running, keys) = (self.scans_running, self.scanned_keys);
            let _ = writeln!(
                text,
                "             {running} scans, {keys} keys looked at so far"
            );
        }
        if self.redis_memory_bytes > 0 {
            let used = size(self.redis_memory_bytes);
            let _ = match self.redis_memory_max_bytes {
                0 => writeln!(text, "             Redis uses {used} without a limit"),
                max => writeln!(text, "             Redis uses {used} of {}", size(max)),
            };
        }
        if self.coherence_delay.count() > 0 {
            let delay = self.coherence_delay.words();
            let _ = writeln!(text, "             changes heard of after {delay}");
        }
        text
    }
}

impl WatchView {
    pub(super) fn new(stats: WatchStats) -> Self {
        Self {
            watchers: stats.watchers,
            messages: stats.messages,
            dropped: stats.dropped,
        }
    }

    pub(super) fn words(&self) -> String {
        format!(
            "watchers     {}, {} messages told, {} dropped for being too slow\n",
            self.watchers, self.messages, self.dropped
        )
    }
}

impl LocalView {
    pub(super) fn new(local: LocalTierStats) -> Self {
        Self {
            serving: local.serving,
            message: local.message,
            disk_bytes: local.disk_bytes,
            disk_budget_bytes: local.disk_budget_bytes,
            memory_bytes: local.memory_bytes,
            memory_budget_bytes: local.memory_budget_bytes,
            keys_estimate: local.keys_estimate,
            corrupt_records: local.corrupt_records,
            expired_records: local.expired_records,
            refreshed_records: local.refreshed_records,
            reopens: local.reopens,
            set_asides: local.set_asides,
        }
    }

    pub(super) fn words(&self) -> String {
        let state = match (self.serving, &*self.message) {
            (true, _) => "serving".to_owned(),
            (false, "") => "not serving".to_owned(),
            (false, message) => format!("not serving: {message}"),
        };
        format!(
            "local tier   {state}\n\
             \x20            about {} keys, disk {} of {}, memory {} of {}\n\
             \x20            corrupt {}, expired {}, refreshed {}, reopens {}, set aside {}\n",
            self.keys_estimate,
            size(self.disk_bytes),
            size(self.disk_budget_bytes),
            size(self.memory_bytes),
            size(self.memory_budget_bytes),
            self.corrupt_records,
            self.expired_records,
            self.refreshed_records,
            self.reopens,
            self.set_asides
        )
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
