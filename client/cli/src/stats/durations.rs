//! Durations: of what is done in the tiers, and of whole requests.

use std::time::Duration;

use pannier_client::proto::{CallStats, DurationStats, OperationStats, Tier};
use serde::Serialize;

use super::{span, table::table};

/// How long everything took.
#[derive(Debug, Serialize)]
pub(super) struct Durations {
    operations: Vec<OperationView>,
    calls: Vec<CallView>,
}

#[derive(Debug, Serialize)]
pub(super) struct OperationView {
    tier: &'static str,
    operation: String,
    // Empty: all outcomes together.
    outcome: String,
    #[serde(flatten)]
    duration: DurationView,
}

#[derive(Debug, Serialize)]
pub(super) struct CallView {
    method: String,
    status: String,
    #[serde(flatten)]
    duration: DurationView,
}

/// Percentiles in microseconds, null when there was nothing.
#[derive(Debug, Default, Serialize)]
pub(super) struct DurationView {
    count: u64,
    p50_us: Option<f64>,
    p90_us: Option<f64>,
    p99_us: Option<f64>,
}

impl Durations {
    pub(super) fn new(operations: Vec<OperationStats>, calls: Vec<CallStats>) -> Self {
        let operations = operations.into_iter().map(|it| OperationView {
            tier: match it.tier() {
                Tier::Local => "local",
                Tier::Shared => "shared",
                Tier::None | Tier::Unspecified => "unknown",
            },
            operation: it.operation,
            outcome: it.outcome,
            duration: DurationView::new(it.duration.unwrap_or_default()),
        });
        let calls = calls.into_iter().map(|it| CallView {
            method: it.method,
            status: it.status,
            duration: DurationView::new(it.duration.unwrap_or_default()),
        });
        Self {
            operations: operations.collect(),
            calls: calls.collect(),
        }
    }

    /// Requests, and what was done in the tiers whatever its outcome; empty when nothing was.
    pub(super) fn table(&self) -> String {
        let calls = self.calls.iter().map(|it| {
            let name = match it.status.as_str() {
                "OK" => it.method.clone(),
                status => format!("{} {status}", it.method),
            };
            (name, &it.duration)
        });
        let whole = self.operations.iter().filter(|it| it.outcome.is_empty());
        let operations = whole.map(|it| (format!("{} {}", it.tier, it.operation), &it.duration));
        let all = calls.chain(operations).filter(|it| it.1.count > 0);
        let mut rows: Vec<_> = all
            .map(|(name, duration)| {
                let percentiles = [duration.p50_us, duration.p90_us, duration.p99_us];
                let count = duration.count.to_string();
                [name, count]
                    .into_iter()
                    .chain(percentiles.map(short))
                    .collect::<Vec<_>>()
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        rows.insert(
            0,
            ["TIME", "COUNT", "P50", "P90", "P99"]
                .map(str::to_owned)
                .to_vec(),
        );
        table(&rows)
    }
}

impl DurationView {
    pub(super) fn new(stats: DurationStats) -> Self {
        let micros = |it| span(it).map(|it: Duration| it.as_nanos() as f64 / 1000.0);
        Self {
            count: stats.count,
            p50_us: micros(stats.p50),
            p90_us: micros(stats.p90),
            p99_us: micros(stats.p99),
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// p50 and p99 in words.
    pub(super) fn words(&self) -> String {
        format!("p50 {}, p99 {}", short(self.p50_us), short(self.p99_us))
    }
}

/// Three digits and a unit.
fn short(micros: Option<f64>) -> String {
    let Some(micros) = micros else {
        return "-".to_owned();
    };
    let (value, unit) = match micros {
        _ if micros >= 999_500.0 => (micros / 1e6, "s"),
        _ if micros >= 999.5 => (micros / 1e3, "ms"),
        _ => (micros, "us"),
    };
    let digits = match value {
        _ if value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let table = [
            (0.4, "0.40us"),
            (9.994, "9.99us"),
            (12.345, "12.3us"),
            (999.4, "999us"),
            (1000.0, "1.00ms"),
            (250_000.0, "250ms"),
            (1_500_000.0, "1.50s"),
        ];
        for (micros, expected) in table {
            assert_eq!(short(Some(micros)), expected);
        }
        assert_eq!(short(None), "-");
    }

    #[test]
    fn what_never_happened_is_left_out_of_the_table() {
        let duration = |count, nanos| {
            Some(DurationStats {
                count,
                p50: Duration::from_nanos(nanos).try_into().ok(),
                ..DurationStats::default()
            })
        };
        let operation = |outcome: &str, count| OperationStats {
            tier: Tier::Local.into(),
            operation: "lookup".to_owned(),
            outcome: outcome.to_owned(),
            duration: duration(count, 2500),
        };
        let call = |status: &str, count| CallStats {
            method: "Get".to_owned(),
            status: status.to_owned(),
            duration: duration(count, 40_000),
        };
        let durations = Durations::new(
            vec![operation("", 7), operation("hit", 7)],
            vec![call("OK", 7), call("UNAVAILABLE", 1), call("INTERNAL", 0)],
        );
        let expected = "\
            TIME             COUNT     P50  P90  P99\n\
            Get                  7  40.0us    -    -\n\
            Get UNAVAILABLE      1  40.0us    -    -\n\
            local lookup         7  2.50us    -    -\n";
        assert_eq!(durations.table(), expected);
    }
}
