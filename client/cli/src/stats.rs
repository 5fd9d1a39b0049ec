//! `pannier stats`: the counters of the daemon and the state of its tiers.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use bytesize::ByteSize;
use pannier_client::proto::{Counters, LocalTierStats, SharedTierStats, StatsResponse, WatchStats};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output,
    session::Session,
    view,
};

const AFTER_HELP: &str = "\
Examples:
  pannier stats
  pannier -n builds stats --json
  pannier stats --reset

With --reset the counters are printed first and then set to zero, of all namespaces; what happens
in between is lost.";

/// Print counters and the state of the tiers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Set the counters to zero after printing them
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: String,
    since: Option<String>,
    uptime_ms: Option<u64>,
    shared_state: &'static str,
    total: CountersView,
    namespaces: Vec<NamespaceView>,
    local: LocalView,
    // Null when no shared tier is configured.
    shared: Option<SharedView>,
    watch: WatchView,
}

#[derive(Debug, Default, Serialize)]
struct WatchView {
    watchers: u64,
    messages: u64,
    dropped: u64,
}

#[derive(Debug, Serialize)]
struct NamespaceView {
    namespace: String,
    #[serde(flatten)]
    counters: CountersView,
}

#[derive(Debug, Default, Serialize)]
struct CountersView {
    hits: u64,
    misses: u64,
    // Part of the reads that were hits, 0 to 1; null before the first read.
    hit_rate: Option<f64>,
    puts: u64,
    invalidations: u64,
    errors: u64,
    refusals: u64,
}

#[derive(Debug, Default, Serialize)]
struct LocalView {
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
struct SharedView {
    state: &'static str,
    since: Option<String>,
    message: String,
    contact_age_ms: Option<u64>,
    attachments: u64,
    changes: u64,
    flushes: u64,
    verified_copies: u64,
    refuted_copies: u64,
    deferred_changes: u64,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let client = &session.client;
    let stats = client.stats(session.namespace_named()).await;
    let report = Report::new(stats.map_err(|error| session.failure(error))?);
    if session.json {
        output::json(&report)?;
    } else {
        output::bytes(report.words().as_bytes())?;
    }
    if args.reset {
        client
            .reset()
            .await
            .map_err(|error| session.failure(error))?;
    }
    Ok(Exit::Ok)
}

impl Report {
    fn new(stats: StatsResponse) -> Self {
        let shared_state = view::shared_state(stats.shared_state());
        let since = stats
            .since
            .and_then(|since| SystemTime::try_from(since).ok());
        let uptime = stats
            .uptime
            .and_then(|uptime| Duration::try_from(uptime).ok());
        let namespaces = stats.namespaces.into_iter().map(|namespace| NamespaceView {
            namespace: namespace.namespace,
            counters: CountersView::new(namespace.counters.unwrap_or_default()),
        });
        Self {
            version: stats.version,
            since: since.map(view::instant),
            uptime_ms: uptime.map(view::milliseconds),
            shared_state,
            total: CountersView::new(stats.total.unwrap_or_default()),
            namespaces: namespaces.collect(),
            local: LocalView::new(stats.local.unwrap_or_default()),
            shared: stats.shared.map(SharedView::new),
            watch: WatchView::new(stats.watch.unwrap_or_default()),
        }
    }

    fn words(&self) -> String {
        let uptime = self.uptime_ms.map(Duration::from_millis).map(view::span);
        let mut text = format!(
            "pannierd {}, up {}, counting since {}\n",
            self.version,
            uptime.as_deref().unwrap_or("?"),
            self.since.as_deref().unwrap_or("?")
        );
        text.push_str(&self.local.words());
        // Writing into a String does not fail.
        match &self.shared {
            Some(shared) => text.push_str(&shared.words()),
            None => _ = writeln!(text, "shared tier  {}", self.shared_state),
        }
        text.push_str(&self.watch.words());
        text.push('\n');
        text.push_str(&self.table());
        text
    }

    fn table(&self) -> String {
        const HEAD: [&str; 8] = [
            "NAMESPACE",
            "HITS",
            "MISSES",
            "HIT RATE",
            "PUTS",
            "INVALIDATIONS",
            "ERRORS",
            "REFUSALS",
        ];
        let mut rows = vec![HEAD.map(str::to_owned)];
        for namespace in &self.namespaces {
            rows.push(
                namespace
                    .counters
                    .row(&output::printable(&namespace.namespace)),
            );
        }
        rows.push(self.total.row("total"));
        let widths: [usize; 8] = std::array::from_fn(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        });
        let mut text = String::new();
        for row in &rows {
            let _ = write!(text, "{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        text
    }
}

impl CountersView {
    fn new(counters: Counters) -> Self {
        let reads = counters.hits.saturating_add(counters.misses);
        Self {
            hits: counters.hits,
            misses: counters.misses,
            hit_rate: (reads > 0).then(|| counters.hits as f64 / reads as f64),
            puts: counters.puts,
            invalidations: counters.invalidations,
            errors: counters.errors,
            refusals: counters.refusals,
        }
    }

    fn row(&self, name: &str) -> [String; 8] {
        let rate = self
            .hit_rate
            .map_or("-".to_owned(), |rate| format!("{:.1}%", rate * 100.0));
        [
            name.to_owned(),
            self.hits.to_string(),
            self.misses.to_string(),
            rate,
            self.puts.to_string(),
            self.invalidations.to_string(),
            self.errors.to_string(),
            self.refusals.to_string(),
        ]
    }
}

impl SharedView {
    fn new(stats: SharedTierStats) -> Self {
        let since = stats.since.and_then(|it| SystemTime::try_from(it).ok());
        let contact_age = stats.contact_age.and_then(|it| Duration::try_from(it).ok());
        Self {
            state: view::shared_state(stats.state()),
            since: since.map(view::instant),
            message: stats.message,
            contact_age_ms: contact_age.map(view::milliseconds),
            attachments: stats.attachments,
            changes: stats.changes,
            flushes: stats.flushes,
            verified_copies: stats.verified_copies,
            refuted_copies: stats.refuted_copies,
            deferred_changes: stats.deferred_changes,
        }
    }

    fn words(&self) -> String {
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
            "             {} changes heard of, {} copies verified, {} found changed, {} changes \
             wait for Redis",
            self.changes, self.verified_copies, self.refuted_copies, self.deferred_changes
        );
        text
    }
}

impl WatchView {
    fn new(stats: WatchStats) -> Self {
        Self {
            watchers: stats.watchers,
            messages: stats.messages,
            dropped: stats.dropped,
        }
    }

    fn words(&self) -> String {
        format!(
            "watchers     {}, {} messages told, {} dropped for being too slow\n",
            self.watchers, self.messages, self.dropped
        )
    }
}

impl LocalView {
    fn new(local: LocalTierStats) -> Self {
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

    fn words(&self) -> String {
        let state = match (self.serving, &*self.message) {
            (true, _) => "serving".to_owned(),
            (false, "") => "not serving".to_owned(),
            (false, message) => format!("not serving: {message}"),
        };
        let size = |bytes: u64| ByteSize::b(bytes).display().iec().to_string();
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

#[cfg(test)]
mod tests {
    use pannier_client::proto::{Counters, NamespaceStats, StatsResponse};

    use super::Report;

    #[test]
    fn the_table_lines_up() {
        let counters = |hits, misses| {
            Some(Counters {
                hits,
                misses,
                ..Counters::default()
            })
        };
        let report = Report::new(StatsResponse {
            total: counters(1000, 500),
            namespaces: vec![
                NamespaceStats {
                    namespace: "builds".to_owned(),
                    counters: counters(1000, 500),
                },
                NamespaceStats {
                    namespace: "idle".to_owned(),
                    counters: counters(0, 0),
                },
            ],
            ..StatsResponse::default()
        });
        let table = report.table();
        let expected = "\
            NAMESPACE  HITS  MISSES  HIT RATE  PUTS  INVALIDATIONS  ERRORS  REFUSALS\n\
            builds     1000     500     66.7%     0              0       0         0\n\
            idle          0       0         -     0              0       0         0\n\
            total      1000     500     66.7%     0              0       0         0\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn an_empty_answer_is_shown_without_a_fault() {
        let report = Report::new(StatsResponse::default());
        assert!(report.words().contains("not serving"));
        assert!(serde_json::to_string(&report).is_ok());
    }
}
