//! P17: the dashboard and the alerts in deploy/ fit the metrics that a daemon has.
//!
//! Proven: every metric and every label that they name is there at a real daemon with a real Redis
//! and a real receiver of OTLP; Prometheus can read every expression; each alert has a unit test
//! that sees it fire and one that sees it quiet, and a line in docs/monitoring.md.
//! Not proven here: that Grafana draws the dashboard, for there is none.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pannier_tests::{Caller, Collector, Redis, eventually, metrics::Metrics, shared};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// What Prometheus itself knows of whatever it scrapes.
const OF_PROMETHEUS: [&str; 3] = ["up", "job", "instance"];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn promtool(arguments: &[&str], directory: &Path) -> String {
    let mut command = Command::new("promtool");
    let said = command.args(arguments).current_dir(directory).output();
    let said = said.expect("promtool is installed (tools/deps.sh test)");
    let words = [said.stdout, said.stderr].concat();
    let words = String::from_utf8_lossy(&words).into_owned();
    assert!(said.status.success(), "{arguments:?}: {words}");
    words
}

/// All queries of the dashboard, with values in the place of its variables.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/pannier.json")).unwrap();
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|it| collect(it, found)),
        Value::Object(fields) => {
            if let Some(query) = fields.get("expr").and_then(Value::as_str) {
                let query = query.replace("$__rate_interval", "5m");
                found.push(query.replace("=~\"$", "=~\"all-of-"));
            }
            fields.values().for_each(|it| collect(it, found));
        }
        _ => {}
    }
}

/// The expressions of the rules: `expr: …`, or the lines that are indented below `expr: >-`.
fn rules() -> Vec<String> {
    let text = text("deploy/prometheus/pannier.rules.yaml");
    let mut lines = text.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some((indent, rest)) = line.split_once("expr: ") else {
            continue;
        };
        if rest != ">-" {
            found.push(rest.to_owned());
            continue;
        }
        let mut expression = String::new();
        let deeper = |it: &&str| it.len() - it.trim_start().len() > indent.len();
        while let Some(line) = lines.next_if(deeper) {
            expression.push_str(line);
        }
        found.push(expression);
    }
    assert_eq!(found.len(), text.matches("expr:").count());
    found
}

/// Names of alerts, in the order of the file.
fn alerts() -> Vec<String> {
    let text = text("deploy/prometheus/pannier.rules.yaml");
    let names = text
        .lines()
        .filter_map(|it| it.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

/// The metrics that an expression names, each with the labels that it selects by.
fn named(expression: &str) -> BTreeMap<String, BTreeSet<String>> {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == ':';
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let end = rest[start..]
            .find(|it| !is_name(it))
            .map_or(rest.len(), |it| start + it);
        let word = &rest[start..end];
        rest = &rest[end..];
        let ours = ["cache_", "rpc_", "process_", "pannier_", "up"];
        let is_metric = word == "up" || ours.iter().any(|it| it.len() > 2 && word.starts_with(it));
        if matches!(word, "by" | "on" | "without") {
            // Labels in brackets.
            rest = rest.split_once(')').map_or("", |(_, rest)| rest);
        } else if is_metric {
            let labels = found.entry(word.to_owned()).or_default();
            if let Some(inside) = rest.strip_prefix('{') {
                let (selectors, after) = inside.split_once('}').unwrap();
                let of = |it: &str| it.split(['=', '!']).next().unwrap().trim().to_owned();
                labels.extend(selectors.split(", ").map(of));
                rest = after;
            }
        }
    }
    found
}

#[test]
fn metrics_and_labels_are_found_in_expressions() {
    let found = named(
        "sum by (job, cache_tier) (rate(cache_a_total{job=~\"x\", cache_b!=\"cache_c\"}[5m])) \
         / on (cache_d) cache_e > 0.5 * avg_over_time(instance:cache_f:rate10m[6h])",
    );
    let labels = |name: &str| found[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["cache_a_total", "cache_e"]
    );
    assert_eq!(labels("cache_a_total"), ["cache_b", "job"]);
    assert!(labels("cache_e").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dashboard_and_alerts_name_is_what_a_daemon_has() {
    let redis = Redis::builder().memory("64mb", "allkeys-lru").start();
    let collector = Collector::start();
    let daemon = shared::builder(&redis.url(), "")
        .environment(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.http()),
        )
        .start();
    shared::attached(&daemon).await;
    let other = shared::start(&redis.url(), "").await;
    let (here, there) = (Caller::new(&daemon, "n"), Caller::new(&other, "n"));
    here.put("k", "v").await;
    here.invalidate("k").await;
    // Some are there only once there is something to tell: Redis's memory is asked for now and
    // then, and to wait for another's question takes two who ask.
    let rare = [
        "cache_shared_redis_memory_usage_bytes",
        "cache_hit_ratio",
        "cache_verify_seconds_count",
        "cache_wait_seconds_count",
    ];
    eventually("every metric is there", async || {
        there.put("wait", "v").await;
        let mut readers = JoinSet::new();
        for _ in 0..16 {
            let here = here.clone();
            readers.spawn(async move { here.get("wait").await });
        }
        readers.join_all().await;
        let metrics = Metrics::of(&daemon).await;
        rare.iter().all(|it| metrics.get(it, &[]).is_some())
    })
    .await;
    let metrics = Metrics::of(&daemon).await;
    let known = metrics.names();
    let mut seen = BTreeSet::new();
    for expression in [queries(), rules()].concat() {
        for (name, labels) in named(&expression) {
            if OF_PROMETHEUS.contains(&name.as_str()) {
                continue;
            }
            let suffixes = ["_bucket", "_sum", "_count"].iter();
            let family = suffixes.filter_map(|it| name.strip_suffix(it)).next();
            let is = known.contains(name.as_str()) || family.is_some_and(|it| known.contains(it));
            assert!(is, "{name} is no metric of the daemon: {expression}");
            let lines: Vec<_> = metrics.lines(&name, &[]).collect();
            for label in labels
                .iter()
                .filter(|it| !OF_PROMETHEUS.contains(&it.as_str()))
            {
                let has = lines.iter().any(|line| line.labels.contains_key(label));
                assert!(has, "{name} has no label {label}: {expression}");
            }
            seen.insert(
                family
                    .filter(|it| known.contains(it))
                    .unwrap_or(&name)
                    .to_owned(),
            );
        }
    }
    // And almost the other way round: what is not looked at is not forgotten but left out.
    let unseen: Vec<_> = known.into_iter().filter(|it| !seen.contains(*it)).collect();
    let left_out = [
        "cache_hit_ratio",
        "cache_watch_messages_total",
        "pannier_build_info",
        "process_start_time_seconds",
    ];
    assert_eq!(unseen, left_out);
}

#[test]
fn prometheus_reads_the_dashboards_expressions() {
    let home = TempDir::with_prefix("pannier-test-").unwrap();
    let rules = queries().into_iter().enumerate().map(|(index, query)| {
        let query = serde_json::to_string(&query).unwrap();
        format!("  - record: q{index}\n    expr: {query}\n")
    });
    let text = format!(
        "groups:\n- name: q\n  rules:\n{}",
        rules.collect::<String>()
    );
    fs::write(home.path().join("queries.yaml"), text).unwrap();
    promtool(&["check", "rules", "queries.yaml"], home.path());
}

#[test]
fn the_rules_are_right_and_each_alert_is_tested_and_explained() {
    let directory = root().join("deploy/prometheus");
    let rules = [
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        "pannier.rules.yaml",
    ];
    promtool(&rules, &directory);
    let said = promtool(&["test", "rules", "pannier.test.yaml"], &directory);
    assert!(said.contains("SUCCESS"), "{said}");
    let (tests, docs) = (
        text("deploy/prometheus/pannier.test.yaml"),
        text("docs/monitoring.md"),
    );
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let cases = tests
            .split("alertname: ")
            .filter(|it| it.starts_with(&format!("{alert}\n")));
        let quiet: Vec<_> = cases.map(|it| it.contains("exp_alerts: []")).collect();
        assert_eq!(quiet, [true, false], "{alert}: quiet, then firing");
        assert!(
            docs.contains(&format!("| `{alert}` |")),
            "{alert} is not in docs/monitoring.md"
        );
    }
}
