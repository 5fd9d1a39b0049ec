//! One request of the cache, from its arrival to its answer.

use std::time::Instant;

use tonic::{Code, Request, Response, Status};

use super::{deadline::Deadline, status::status, traced};
use crate::{
    engine::{Provenance, Source},
    error::Result,
    observe::{Finished, Method, NAMESPACE, Observer, TIER},
    steps::Steps,
    trace::{Fact, Span},
};

/// A request; noted when dropped, with what it did so far: also when its caller has gone away.
pub(super) struct Call<'a> {
    observer: &'a Observer,
    span: Option<Box<Span>>,
    method: Method,
    begun: Instant,
    /// As the caller wrote it.
    pub(super) namespace: String,
    /// A hash of the key, where there is one.
    pub(super) key: Option<u64>,
    pub(super) steps: Steps,
    /// Once it is known.
    pub(super) provenance: Option<Provenance>,
    deadline: Option<Deadline>,
    /// How it was answered, once it was.
    code: Option<Code>,
}

impl<'a> Call<'a> {
    pub(super) fn begin<T>(observer: &'a Observer, method: Method, request: &Request<T>) -> Self {
        let metadata = request.metadata();
        Self {
            observer,
            span: traced::begin(observer.tracer(), method.full_name(), metadata),
            method,
            begun: Instant::now(),
            namespace: String::new(),
            key: None,
            steps: Steps::default(),
            provenance: None,
            deadline: Deadline::of(request.extensions()),
            code: None,
        }
    }

    /// The answer to the caller; notes how it went.
    pub(super) fn answer<T>(mut self, result: Result<T>) -> Result<Response<T>, Status> {
        let answer = result.map(Response::new).map_err(status);
        self.code = Some(traced::code(&answer));
        answer
    }

    /// One that was dropped unanswered was too late, or its caller went away before.
    fn code(&self) -> Code {
        let late = self.deadline.is_some_and(Deadline::has_passed);
        let unanswered = if late {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        };
        self.code.unwrap_or(unanswered)
    }

    /// Ends the span with all that is known.
    fn end(&mut self, mut span: Box<Span>, code: Code) {
        traced::tell(&mut span, code);
        let namespace = std::mem::take(&mut self.namespace);
        span.facts.push((NAMESPACE, Fact::Text(namespace)));
        if let Some(key) = self.key {
            let hash = Fact::Text(format!("{key:016x}"));
            span.facts.push(("cache.key.hash", hash));
        }
        if let Some(provenance) = &self.provenance {
            let tier = match provenance.source {
                Source::None => "none",
                Source::Local => "local",
                Source::Shared => "shared",
            };
            span.facts.push((TIER, Fact::Word(tier)));
            let reads = matches!(self.method, Method::Get | Method::Exists | Method::Read);
            if reads {
                let hit = provenance.source != Source::None;
                span.facts.push(("cache.hit", Fact::Flag(hit)));
            }
            if reads || self.method == Method::GetMany {
                let stale = Fact::Flag(provenance.stale);
                span.facts.push(("cache.stale", stale));
            }
        }
        span.steps.extend(self.steps.list());
        self.observer.tracer().end(span);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let code = self.code();
        self.observer.note(&Finished {
            method: self.method,
            namespace: &self.namespace,
            key: self.key,
            begun: self.begun,
            took: self.begun.elapsed(),
            steps: &self.steps,
            provenance: self.provenance.as_ref(),
            code: usize::try_from(code as i32).unwrap_or(2),
            trace: self.span.as_ref().map(|span| (span.trace_id, span.span_id)),
        });
        if let Some(span) = self.span.take() {
            self.end(span, code);
        }
    }
}
