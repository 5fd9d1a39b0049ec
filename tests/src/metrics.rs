//! What `/metrics` says, taken apart.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use crate::{Daemon, wire};

/// One line: a name, labels and a figure.
#[derive(Debug, Clone)]
pub struct Line {
    /// The name, with `_bucket`, `_sum` and `_count` where there is one.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The figure.
    pub value: f64,
}

/// The answer of `/metrics`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// As it was sent.
    pub text: String,
    lines: Vec<Line>,
}

impl Metrics {
    /// Asks a daemon.
    ///
    /// # Panics
    /// When it does not answer, or not with metrics.
    pub async fn of(daemon: &Daemon) -> Self {
        let reply = wire::http(daemon.http(), "GET", "/metrics", "").await;
        let reply = reply.expect("metrics are always answered");
        assert_eq!(reply.status, 200, "{}", reply.body);
        Self::read(reply.body)
    }

    /// Takes a text apart.
    ///
    /// # Panics
    /// When a line is not one of the format.
    pub fn read(text: String) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| read_line(line).unwrap_or_else(|| panic!("not a figure: {line}")))
            .collect();
        Self { text, lines }
    }

    /// All figures of a name with these labels, whatever else they have.
    pub fn lines<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| {
            let has = |(label, value): &(&str, &str)| {
                line.labels.get(*label).is_some_and(|it| it == value)
            };
            line.name == name && labels.iter().all(has)
        })
    }

    /// Their sum; `None` when there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let figures = self.lines(name, labels).map(|line| line.value);
        figures.reduce(|sum, one| sum + one)
    }

    /// The names that are described, without suffixes of histograms.
    pub fn names(&self) -> BTreeSet<&str> {
        let described = self
            .text
            .lines()
            .filter_map(|it| it.strip_prefix("# TYPE "));
        described.filter_map(|it| it.split(' ').next()).collect()
    }

    /// How many figures there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What `promtool check metrics` says.
    ///
    /// # Panics
    /// When it is not installed, or finds a fault.
    pub fn check_with_promtool(&self) {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (tools/deps.sh test)");
        let mut input = promtool.stdin.take().expect("was piped");
        let text = self.text.clone();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let said = promtool.wait_with_output().expect("promtool ends");
        writer.join().expect("does not panic").expect("was read");
        let words = [said.stdout, said.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        assert!(said.status.success() && words.trim().is_empty(), "{words}");
    }
}

fn read_line(line: &str) -> Option<Line> {
    let end = line.rfind(' ')?;
    let (series, value) = (&line[..end], line[end + 1..].parse().ok()?);
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Line {
            name: series.to_owned(),
            labels: BTreeMap::new(),
            value,
        });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        // No label of ours holds a quotation mark.
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        labels.insert(label.to_owned(), value.to_owned());
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Line {
        name: name.to_owned(),
        labels,
        value,
    })
}
