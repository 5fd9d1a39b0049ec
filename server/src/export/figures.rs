//! Figures as OTLP has them: cumulative, since the process started.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Exemplar as SentExemplar, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};

use super::resource::{SCHEMA_URL, scope, text};
use crate::{
    clock::Timestamp,
    metrics::{BOUNDS, Distribution, Family, Kind, Labels, Snapshot, Value},
};

/// When the figures were taken, and since when they count.
#[derive(Clone, Copy)]
struct Times {
    since: u64,
    at: u64,
}

/// A message with all of them.
pub(super) fn message(resource: &Resource, snapshot: &Snapshot) -> ExportMetricsServiceRequest {
    let times = Times {
        since: nanos(snapshot.since),
        at: nanos(snapshot.at),
    };
    let families = snapshot.families.iter();
    let metrics = families
        .filter(|family| !family.samples.is_empty())
        .map(|family| metric(family, times))
        .collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics,
                schema_url: SCHEMA_URL.into(),
            }],
            schema_url: SCHEMA_URL.into(),
        }],
    }
}

fn metric(family: &Family, times: Times) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: family
                .samples
                .iter()
                .filter_map(|sample| match &sample.value {
                    Value::Distribution(it) => Some(distribution(&sample.labels, it, times)),
                    _ => None,
                })
                .collect(),
            aggregation_temporality: temporality,
        }),
        Kind::Counter | Kind::UpDownCounter => Data::Sum(Sum {
            data_points: numbers(family, times),
            aggregation_temporality: temporality,
            is_monotonic: family.kind == Kind::Counter,
        }),
        Kind::Gauge => Data::Gauge(Gauge {
            data_points: numbers(family, times),
        }),
    };
    Metric {
        name: family.name.into(),
        description: family.help.into(),
        unit: family.unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(family: &Family, times: Times) -> Vec<NumberDataPoint> {
    let samples = family.samples.iter();
    let points = samples.filter_map(|sample| {
        let value = match &sample.value {
            Value::Integer(n) => number_data_point::Value::AsInt(i64::try_from(*n).ok()?),
            Value::Float(n) => number_data_point::Value::AsDouble(*n),
            Value::Distribution(_) => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(&sample.labels),
            // A value of the moment has no beginning.
            start_time_unix_nano: match family.kind {
                Kind::Gauge => 0,
                _ => times.since,
            },
            time_unix_nano: times.at,
            value: Some(value),
            ..NumberDataPoint::default()
        })
    });
    points.collect()
}

fn distribution(labels: &Labels, it: &Distribution, times: Times) -> HistogramDataPoint {
    let exemplars = it.exemplars.iter().map(|(_, exemplar)| SentExemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: nanos(exemplar.at),
        span_id: exemplar.span_id.to_vec(),
        trace_id: exemplar.trace_id.to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.took.as_secs_f64())),
    });
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.since,
        time_unix_nano: times.at,
        count: it.counts.count(),
        sum: Some(it.counts.sum().as_secs_f64()),
        bucket_counts: it.counts.buckets.to_vec(),
        explicit_bounds: BOUNDS.to_vec(),
        exemplars: exemplars.collect(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels
        .map(|(name, value)| text(name, value.as_ref()))
        .collect()
}

fn nanos(at: Timestamp) -> u64 {
    let since = Duration::from_millis(at.as_millis());
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
