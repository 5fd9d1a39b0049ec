//! `pannier stats`: what the daemon counted, and the state of its tiers.

mod counts;
mod durations;
mod table;
mod tiers;

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, SystemTime},
};

use pannier_client::proto::{StatsResponse, WindowStats};
use serde::Serialize;

use self::{
    counts::Counts,
    durations::Durations,
    tiers::{LocalView, SharedView, WatchView},
};
use crate::{
    exit::{Exit, Failure},
    output,
    session::Session,
    view,
};

const AFTER_HELP: &str = "\
Examples:
  pannier stats
  pannier stats --watch
  pannier stats --watch=10 --json
  pannier -n builds stats --json
  pannier stats --reset

With --reset the counters are printed first and then counted anew, of all namespaces; what happens
in between is lost. With --watch and --json one object a line. Percentiles are estimates: durations
are counted in steps of 1, 2.5 and 5 times a power of ten.";

/// Moves the cursor home and clears what is below (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Print counters, latencies and the state of the tiers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Count anew after printing
    #[arg(long, conflicts_with = "watch")]
    reset: bool,
    /// Print again every so many seconds, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    watch: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    version: String,
    since: Option<String>,
    uptime_ms: Option<u64>,
    shared_state: &'static str,
    #[serde(flatten)]
    counted: Counted,
    last_minute: Option<Minute>,
    local: LocalView,
    // Null when no shared tier is configured.
    shared: Option<SharedView>,
    watch: WatchView,
}

/// What counted in some time.
#[derive(Debug, Serialize)]
struct Counted {
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    durations: Durations,
}

#[derive(Debug, Serialize)]
struct Minute {
    since: Option<String>,
    length_ms: Option<u64>,
    #[serde(flatten)]
    counted: Counted,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let Some(seconds) = args.watch else {
        print(session, false).await?;
        if args.reset {
            let reset = session.client.reset().await;
            reset.map_err(|error| session.failure(error))?;
        }
        return Ok(Exit::Ok);
    };
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
    loop {
        ticks.tick().await;
        print(session, stdout().is_terminal()).await?;
    }
}

async fn print(session: &Session, clear: bool) -> Result<(), Failure> {
    let stats = session.client.stats(session.namespace_named()).await;
    let report = Report::new(stats.map_err(|error| session.failure(error))?);
    if session.json {
        return output::json(&report);
    }
    let before = if clear { CLEAR } else { "" };
    output::bytes(format!("{before}{}", report.words()).as_bytes())
}

fn instant(at: Option<impl TryInto<SystemTime>>) -> Option<String> {
    at.and_then(|at| at.try_into().ok()).map(view::instant)
}

fn span(span: Option<impl TryInto<Duration>>) -> Option<Duration> {
    span.and_then(|span| span.try_into().ok())
}

impl Report {
    fn new(stats: StatsResponse) -> Self {
        let shared_state = view::shared_state(stats.shared_state());
        Self {
            version: stats.version,
            since: instant(stats.since),
            uptime_ms: span(stats.uptime).map(view::milliseconds),
            shared_state,
            counted: Counted {
                counts: Counts::new(stats.total, stats.namespaces),
                durations: Durations::new(stats.operations, stats.calls),
            },
            last_minute: stats.last_minute.map(Minute::new),
            local: LocalView::new(stats.local.unwrap_or_default()),
            shared: stats.shared.map(SharedView::new),
            watch: WatchView::new(stats.watch.unwrap_or_default()),
        }
    }

    fn words(&self) -> String {
        let uptime = self.uptime_ms.map(Duration::from_millis).map(view::span);
        let shared = match &self.shared {
            Some(shared) => shared.words(),
            None => format!("shared tier  {}\n", self.shared_state),
        };
        let minute = match &self.last_minute {
            Some(minute) => minute.words(),
            None => String::new(),
        };
        format!(
            "pannierd {}, up {}\n{}{shared}{}\nsince {}\n{}{minute}",
            self.version,
            uptime.as_deref().unwrap_or("?"),
            self.local.words(),
            self.watch.words(),
            self.since.as_deref().unwrap_or("?"),
            self.counted.words(),
        )
    }
}

impl Counted {
    fn words(&self) -> String {
        let durations = self.durations.table();
        let between = if durations.is_empty() { "" } else { "\n" };
        format!("{}{between}{durations}", self.counts.table())
    }
}

impl Minute {
    fn new(window: WindowStats) -> Self {
        Self {
            since: instant(window.since),
            length_ms: span(window.length).map(view::milliseconds),
            counted: Counted {
                counts: Counts::new(window.total, window.namespaces),
                durations: Durations::new(window.operations, window.calls),
            },
        }
    }

    fn words(&self) -> String {
        let seconds = self.length_ms.unwrap_or_default() / 1000;
        format!("\nlast {seconds} seconds\n{}", self.counted.words())
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
        let table = report.counted.counts.table();
        let expected = "\
            NAMESPACE  HITS  MISSES  HIT RATE  STALE  PUTS  INVALIDATIONS  ERRORS  REFUSALS\n\
            builds     1000     500     66.7%      0     0              0       0         0\n\
            idle          0       0         -      0     0              0       0         0\n\
            total      1000     500     66.7%      0     0              0       0         0\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn an_empty_answer_is_shown_without_a_fault() {
        let report = Report::new(StatsResponse::default());
        assert!(report.words().contains("not serving"));
        assert!(serde_json::to_string(&report).is_ok());
    }
}
