//! The model of all figures, which every way of showing them reads (ADR 0011).
//!
//! ```text
//!   counters, histograms, states ── one snapshot ──┬─ Prometheus text, OpenMetrics (`text`)
//!      of all parts of the daemon    of families   ├─ OTLP
//!                                                  └─ the status as JSON
//! ```
//! A family is named as OpenTelemetry names things (`cache.lookup`) with a unit in UCUM (`s`, `By`,
//! `1`, `{request}`); the Prometheus name follows from both by OpenTelemetry's rules.
//!
//! Counters and histograms are plain atomics, and only grow while the process lives: what is shown
//! "since the last reset" or "of the last minute" is a difference of two snapshots.

mod histogram;
mod text;

use std::borrow::Cow;

pub use self::{
    histogram::{BOUNDS, BUCKETS, Counts, Exemplar, Histogram},
    text::{Format, prometheus_name},
};
use crate::clock::Timestamp;

/// What the figures of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows while the process lives.
    Counter,
    /// A value of the moment.
    Gauge,
    /// A value of the moment that can be added up over daemons.
    UpDownCounter,
    /// How many of what duration, since the process started.
    Histogram,
}

/// Figures of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// The name, as OpenTelemetry writes it.
    pub name: &'static str,
    /// Its name in Prometheus, where that does not follow from the rules.
    pub prometheus: Option<&'static str>,
    /// The unit in UCUM.
    pub unit: &'static str,
    /// What the figures are.
    pub kind: Kind,
    /// What it tells, in a sentence.
    pub help: &'static str,
    /// The figures.
    pub samples: Vec<Sample>,
}

/// Names and values that tell the figures of a family apart.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// One figure.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What tells it from its siblings.
    pub labels: Labels,
    /// The figure.
    pub value: Value,
}

/// A figure.
#[derive(Debug, Clone)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// Any number.
    Float(f64),
    /// A distribution of durations.
    Distribution(Box<Distribution>),
}

/// A distribution of durations.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    /// How many in each bucket, and their sum; the bounds are [`BOUNDS`].
    pub counts: Counts,
    /// One for a bucket at most, with the bucket's index.
    pub exemplars: Vec<(usize, Exemplar)>,
}

/// All figures of a moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Timestamp,
    /// When counting began: with the process.
    pub since: Timestamp,
    /// By name.
    pub families: Vec<Family>,
}

impl Family {
    /// A family without figures yet.
    pub fn new(name: &'static str, unit: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            prometheus: None,
            unit,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    /// The family under a name of its own in Prometheus.
    #[must_use]
    pub fn named_in_prometheus(mut self, name: &'static str) -> Self {
        self.prometheus = Some(name);
        self
    }

    /// The family with one more figure.
    #[must_use]
    pub fn with(mut self, labels: Labels, value: Value) -> Self {
        self.samples.push(Sample { labels, value });
        self
    }

    /// The family with this one figure.
    #[must_use]
    pub fn of(self, value: u64) -> Self {
        self.with(Labels::new(), Value::Integer(value))
    }

    /// The family with this one figure, if there is one.
    #[must_use]
    pub fn of_float(self, value: impl Into<Option<f64>>) -> Self {
        match value.into() {
            Some(value) => self.with(Labels::new(), Value::Float(value)),
            None => self,
        }
    }
}
