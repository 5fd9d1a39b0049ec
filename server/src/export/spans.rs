//! Spans as OTLP has them: one for the request, and a child for each of its steps.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::TraceState;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Sent, Status, span::SpanKind, status::StatusCode,
    },
};

use super::resource::{SCHEMA_URL, attribute, scope, text};
use crate::{
    config::TierName,
    steps::{Ended, Step, What},
    trace::{Fact, Kind, Span},
};

/// The flag of a trace that is sampled.
const SAMPLED: u32 = 1;
/// The flags that say whether a parent is in another process: known, and so.
const PARENT_IS_LOCAL: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x300;
/// What stands beside the steps of a tier in a trace.
const NAMESPACE: &str = "cache.namespace";

/// A message with all of them.
pub(super) fn message(resource: &Resource, batch: &[Box<Span>]) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(batch.iter().map(|span| span.count()).sum());
    for span in batch {
        add(&mut spans, span);
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans,
                schema_url: SCHEMA_URL.into(),
            }],
            schema_url: SCHEMA_URL.into(),
        }],
    }
}

fn add(spans: &mut Vec<Sent>, span: &Span) {
    let begun = nanos(span, span.begun);
    // What is not a tracestate must not break the trace.
    let state = match span.state.parse::<TraceState>() {
        Ok(state) => state.header(),
        Err(_) => String::new(),
    };
    let parent_is = match span.parent {
        Some(_) => PARENT_IS_REMOTE,
        None => 0,
    };
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Internal => SpanKind::Internal,
    };
    spans.push(Sent {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: state.clone(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: SAMPLED | parent_is,
        name: span.name.into(),
        kind: kind.into(),
        start_time_unix_nano: begun,
        end_time_unix_nano: nanos(span, span.begun + span.took),
        attributes: attributes(span),
        status: Some(Status {
            code: match span.failure {
                Some(_) => StatusCode::Error,
                None => StatusCode::Unset,
            }
            .into(),
            message: String::new(),
        }),
        ..Sent::default()
    });
    let namespace = span.facts.iter().find(|(name, _)| *name == NAMESPACE);
    for step in &span.steps {
        let child = child(span, step, state.clone(), namespace.map(|(_, fact)| fact));
        spans.push(child);
    }
}

fn child(span: &Span, step: &Step, state: String, namespace: Option<&Fact>) -> Sent {
    let mut attributes = vec![
        text("cache.tier", tier(step.tier)),
        text("cache.outcome", step.ended.name()),
    ];
    attributes.extend(namespace.map(|fact| fact_of(NAMESPACE, fact)));
    if step.items != 1 {
        attributes.push(attribute("cache.items", Value::IntValue(step.items.into())));
    }
    let failed = matches!(step.ended, Ended::Error | Ended::Failed);
    if failed {
        attributes.push(text("error.type", step.ended.name()));
    }
    Sent {
        trace_id: span.trace_id.to_vec(),
        span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
        trace_state: state,
        parent_span_id: span.span_id.to_vec(),
        flags: SAMPLED | PARENT_IS_LOCAL,
        name: name(step.what).into(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(span, step.begun),
        end_time_unix_nano: nanos(span, step.begun + step.took),
        attributes,
        status: Some(Status {
            code: match failed {
                true => StatusCode::Error,
                false => StatusCode::Unset,
            }
            .into(),
            message: String::new(),
        }),
        ..Sent::default()
    }
}

/// The name of the span of a step.
fn name(what: What) -> &'static str {
    match what {
        What::Lookup => "tier.lookup",
        What::Verify => "cache.verify",
        What::Wait => "cache.wait",
        What::Lease => "lease.wait",
        What::Store => "tier.store",
        What::Fill => "tier.fill",
        What::Remove => "tier.remove",
    }
}

fn tier(tier: TierName) -> &'static str {
    match tier {
        TierName::Local => "local",
        TierName::Shared => "shared",
    }
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let facts = span.facts.iter();
    let mut attributes: Vec<_> = facts.map(|(name, fact)| fact_of(name, fact)).collect();
    attributes.extend(span.failure.map(|kind| text("error.type", kind)));
    attributes
}

fn fact_of(name: &str, fact: &Fact) -> KeyValue {
    let value = match fact {
        Fact::Word(word) => Value::StringValue((*word).to_owned()),
        Fact::Text(text) => Value::StringValue(text.clone()),
        Fact::Flag(flag) => Value::BoolValue(*flag),
        Fact::Number(number) => Value::IntValue(i64::try_from(*number).unwrap_or(i64::MAX)),
    };
    attribute(name, value)
}

/// The wall clock at a moment of the span, in nanoseconds since 1970.
fn nanos(span: &Span, at: Instant) -> u64 {
    let since: std::time::Duration = match at.checked_duration_since(span.begun) {
        Some(after) => unix(span.began_at) + after,
        None => unix(span.began_at).saturating_sub(span.begun - at),
    };
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn unix(at: SystemTime) -> std::time::Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}
