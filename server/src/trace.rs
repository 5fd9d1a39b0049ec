//! Traces: whether a request is traced, and what is remembered of it until it is exported.
//!
//! ```text
//!   traceparent, or dice ── Tracer::begin ──┬─ not sampled: nothing, and nothing more to pay
//!                                           └─ Span ── end ── Queue ─▶ export
//! ```
//! The decision falls once, at the front door, before anything is made. A traced request is one
//! [`Span`] in memory with the list of its steps; the exporter makes children of the steps. What
//! finds no room in the queue is dropped and counted: a request never waits for its trace.
//!
//! A span never holds a key: [`crate::key::key_hash`] stands for it.

mod parent;
mod queue;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use self::queue::Waiting;
use self::{
    parent::{Parent, parent},
    queue::Queue,
};
use crate::{
    config::{OtlpConfig, Sampler},
    steps::Step,
};

/// Name of the header with the caller's trace and span.
pub const TRACEPARENT: &str = "traceparent";
/// Name of the header with what other tracing systems want passed on.
pub const TRACESTATE: &str = "tracestate";
/// Name of the span of what is carried out when Redis is back.
pub const REPLAY: &str = "cache.replay";

/// Makes spans of requests that are to be traced. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    /// A trace id whose last 63 bits are below it is sampled.
    bound: u64,
    queue: Arc<Queue>,
}

/// Who a span is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's request.
    Server,
    /// The daemon's own work.
    Internal,
}

/// Something that is told about a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A word that the program knows.
    Word(&'static str),
    /// A text.
    Text(String),
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(u64),
}

/// A traced request, or work of the daemon's own.
#[derive(Debug)]
pub struct Span {
    /// Its name.
    pub name: &'static str,
    /// Who it is for.
    pub kind: Kind,
    /// The trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// The caller's `tracestate`, not looked at.
    pub state: String,
    /// When it began.
    pub began_at: SystemTime,
    /// The same for measuring.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// What is known about it.
    pub facts: Vec<(&'static str, Fact)>,
    /// The kind of its failure, if it failed.
    pub failure: Option<&'static str>,
    /// What was done in the tiers.
    pub steps: Vec<Step>,
}

impl Tracer {
    /// One that traces nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer and the end of the queue that the exporter empties; nothing is traced when traces
    /// go nowhere.
    pub fn new(config: &OtlpConfig) -> (Self, Option<Waiting>) {
        if config.traces.is_none() || config.sampler == Sampler::AlwaysOff {
            return (Self::off(), None);
        }
        let (queue, waiting) = queue::queue(config.queue_max, config.batch_max);
        let inner = Inner {
            sampler: config.sampler,
            bound: bound(config.sampler_ratio),
            queue,
        };
        (Self(Some(Arc::new(inner))), Some(waiting))
    }

    /// Begins the span of a request, if it is to be traced. `header` gives the caller's headers.
    pub fn begin<'h>(
        &self,
        name: &'static str,
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> Option<Box<Span>> {
        let inner = self.0.as_ref()?;
        let caller = header(TRACEPARENT).and_then(parent);
        let mut span = inner.begin(name, Kind::Server, caller)?;
        if caller.is_some() {
            span.state = header(TRACESTATE).unwrap_or_default().to_owned();
        }
        Some(span)
    }

    /// Begins a trace of the daemon's own work, if it is to be traced.
    pub fn work(&self, name: &'static str) -> Work {
        let inner = self.0.as_ref();
        Work {
            span: inner.and_then(|inner| inner.begin(name, Kind::Internal, None)),
            tracer: self.clone(),
        }
    }

    /// Ends a span and queues it for export.
    pub fn end(&self, mut span: Box<Span>) {
        if let Some(inner) = &self.0 {
            span.took = span.begun.elapsed();
            inner.queue.push(span);
        }
    }

    /// Spans that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.queue.dropped())
    }
}

/// Work of the daemon's own; its span ends when this is dropped.
#[derive(Debug)]
pub struct Work {
    tracer: Tracer,
    span: Option<Box<Span>>,
}

impl Work {
    /// It is done, and this is known about it. Dropped without, it has failed.
    pub fn succeed(mut self, fact: (&'static str, Fact)) {
        if let Some(mut span) = self.span.take() {
            span.facts.push(fact);
            self.tracer.end(span);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.failure = Some("unfinished");
            self.tracer.end(span);
        }
    }
}

impl Inner {
    fn begin(&self, name: &'static str, kind: Kind, caller: Option<Parent>) -> Option<Box<Span>> {
        // Kept out of the way of requests that are not traced: two comparisons.
        let low = caller.map_or_else(|| fastrand::u64(..), |caller| caller.low());
        if !self.samples(caller.as_ref(), low) {
            return None;
        }
        let trace_id = match caller {
            Some(caller) => caller.trace_id,
            None => new_trace_id(low),
        };
        Some(Box::new(Span {
            name,
            kind,
            trace_id,
            span_id: fastrand::u64(1..).to_be_bytes(),
            parent: caller.map(|caller| caller.span_id),
            state: String::new(),
            began_at: now(),
            begun: Instant::now(),
            took: Duration::ZERO,
            facts: Vec::with_capacity(12),
            failure: None,
            steps: Vec::new(),
        }))
    }

    fn samples(&self, caller: Option<&Parent>, low: u64) -> bool {
        let share = (low >> 1) < self.bound;
        match (self.sampler, caller) {
            (Sampler::AlwaysOn, _) => true,
            (Sampler::AlwaysOff, _) => false,
            (Sampler::Ratio, _) | (Sampler::ParentRatio, None) => share,
            (Sampler::ParentAlwaysOn, None) => true,
            (Sampler::ParentAlwaysOff, None) => false,
            (_, Some(caller)) => caller.sampled,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "spans carry the wall clock; nothing is decided by it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// As OpenTelemetry's `TraceIdRatioBased` decides, so that all services keep the same traces.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "0 to 2^63, and one more or less does not matter"
)]
fn bound(ratio: f64) -> u64 {
    (ratio * (1_u64 << 63) as f64) as u64
}

fn new_trace_id(low: u64) -> [u8; 16] {
    let mut id = [0; 16];
    let (high_half, low_half) = id.split_at_mut(8);
    // Not zero, which stands for no id.
    high_half.copy_from_slice(&fastrand::u64(1..).to_be_bytes());
    low_half.copy_from_slice(&low.to_be_bytes());
    id
}

#[cfg(test)]
mod tests;
