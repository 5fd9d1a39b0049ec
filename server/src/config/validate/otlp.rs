//! `[telemetry.otlp]` and the `OTEL_…` variables: merge, defaults, checks.
//!
//! A variable that is set wins over the file, the one of a signal over the one of both. Errors
//! quote no header and no endpoint.

mod destination;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::value::StrDeserializer};

use self::destination::destination;
use super::{Result, Setting, Sources, count, fault};
use crate::config::{
    Env, Span,
    otlp::{OtlpConfig, Sampler, Signal},
    raw::Otlp,
    url::decoded,
};

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const QUEUE_MAX: usize = 1 << 20;
const RESOURCE_MAX: usize = 64;
/// Where a setting may stand.
struct Places<'a> {
    sources: &'a Sources<'a>,
    env: Env<'a>,
}

impl Places<'_> {
    /// A variable; one that is empty counts as not set.
    fn var(&self, name: &str) -> Option<Setting<String>> {
        let value = (self.env)(name).map(|value| value.trim().to_owned());
        let value = value.filter(|value| !value.is_empty())?;
        Some(Setting {
            value,
            origin: name.to_owned(),
        })
    }

    fn at(&self, key: &str) -> String {
        self.sources.at(&format!("telemetry.otlp.{key}"))
    }

    /// A variable with one of the words that serde knows for the type, or what the file says.
    fn word<T: for<'d> Deserialize<'d>>(
        &self,
        name: &str,
        written: Option<T>,
    ) -> Result<Option<T>> {
        match self.var(name) {
            Some(setting) => word(&setting).map(Some),
            None => Ok(written),
        }
    }

    /// A variable in milliseconds, or what the file says.
    fn time(&self, name: &str, key: &str, written: Option<Span>, default: u64) -> Result<Span> {
        let (span, origin) = match (self.var(name), written) {
            (Some(setting), _) => (millis(&setting)?, setting.origin),
            (None, Some(span)) => (span, self.at(key)),
            (None, None) => return Ok(Span(Duration::from_millis(default))),
        };
        in_range(span, &origin)
    }

    fn count(
        &self,
        name: &str,
        key: &str,
        written: Option<usize>,
        default: usize,
    ) -> Result<usize> {
        match self.var(name) {
            Some(Setting { value, origin }) => {
                let n = value.parse().map_err(|_| {
                    fault(
                        &origin,
                        &format!("{value:?} is not a number, 1 to {QUEUE_MAX}"),
                    )
                })?;
                count(&origin, Some(n), default, QUEUE_MAX)
            }
            None => count(&self.at(key), written, default, QUEUE_MAX),
        }
    }
}

/// Merges and checks the section.
pub(super) fn config(raw: Otlp, sources: &Sources<'_>, env: Env<'_>) -> Result<OtlpConfig> {
    let places = &Places { sources, env };
    let (sampler, sampler_ratio) = sampler(&raw, places)?;
    let (service_name, resource) = resource(&raw, places)?;
    let queue_max = places.count("OTEL_BSP_MAX_QUEUE_SIZE", "queue_max", raw.queue_max, 2048)?;
    let batch_max = places.count(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "batch_max",
        raw.batch_max,
        512.min(queue_max),
    )?;
    if batch_max > queue_max {
        let text =
            format!("a batch of {batch_max} spans is more than the queue holds ({queue_max})");
        let place = places.var("OTEL_BSP_MAX_EXPORT_BATCH_SIZE");
        let place = place.map_or_else(|| places.at("batch_max"), |setting| setting.origin);
        return Err(fault(&place, &text));
    }
    Ok(OtlpConfig {
        service_name,
        sampler,
        sampler_ratio,
        queue_max,
        batch_max,
        batch_delay: places.time(
            "OTEL_BSP_SCHEDULE_DELAY",
            "batch_delay",
            raw.batch_delay,
            5000,
        )?,
        batch_timeout: places.time(
            "OTEL_BSP_EXPORT_TIMEOUT",
            "batch_timeout",
            raw.batch_timeout,
            30_000,
        )?,
        metrics_interval: places.time(
            "OTEL_METRIC_EXPORT_INTERVAL",
            "metrics_interval",
            raw.metrics_interval,
            60_000,
        )?,
        metrics_timeout: places.time(
            "OTEL_METRIC_EXPORT_TIMEOUT",
            "metrics_timeout",
            raw.metrics_timeout,
            30_000,
        )?,
        resource,
        traces: destination(&raw, Signal::Traces, places)?,
        metrics: destination(&raw, Signal::Metrics, places)?,
    })
}

fn sampler(raw: &Otlp, places: &Places<'_>) -> Result<(Sampler, f64)> {
    let (ratio, origin) = match (places.var("OTEL_TRACES_SAMPLER_ARG"), raw.sampler_ratio) {
        (Some(Setting { value, origin }), _) => {
            let ratio = value
                .parse()
                .map_err(|_| fault(&origin, &format!("{value:?} is not a number, 0 to 1")))?;
            (Some(ratio), origin)
        }
        (None, written) => (written, places.at("sampler_ratio")),
    };
    if let Some(ratio) = ratio.filter(|ratio| !(0.0..=1.0).contains(ratio)) {
        return Err(fault(&origin, &format!("{ratio} is not 0 to 1")));
    }
    let default = match ratio {
        Some(_) => Sampler::ParentRatio,
        None => Sampler::default(),
    };
    let sampler = places.word("OTEL_TRACES_SAMPLER", raw.sampler)?;
    Ok((sampler.unwrap_or(default), ratio.unwrap_or(1.0)))
}

/// The service's name, and the other attributes of the resource.
fn resource(raw: &Otlp, places: &Places<'_>) -> Result<(String, BTreeMap<String, String>)> {
    let mut resource = raw.resource.clone().unwrap_or_default();
    let mut origin = places.at("resource");
    if let Some(setting) = places.var("OTEL_RESOURCE_ATTRIBUTES") {
        resource.extend(pairs(&setting)?);
        origin = setting.origin;
    }
    if resource.len() > RESOURCE_MAX {
        let text = format!("{} attributes, at most {RESOURCE_MAX}", resource.len());
        return Err(fault(&origin, &text));
    }
    let named = resource.remove("service.name");
    let name = places.var("OTEL_SERVICE_NAME").map(|setting| setting.value);
    // The file's own key comes after the attributes of the environment.
    let name = name.or(named).or_else(|| raw.service_name.clone());
    Ok((name.unwrap_or_else(|| "pannierd".into()), resource))
}

/// `name=value,name=value`, values percent-encoded.
fn pairs(setting: &Setting<String>) -> Result<Vec<(String, String)>> {
    let parts = setting.value.split(',').map(str::trim).enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(|(index, part)| {
            let wrong = |text: &str| fault(&setting.origin, &format!("entry {} {text}", index + 1));
            let expected = "(not shown) is not name=value; entries are separated by commas";
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(expected))?;
            let name = decoded(name.trim()).map_err(|text| wrong(&text))?;
            if name.is_empty() {
                return Err(wrong(expected));
            }
            let value = decoded(value.trim()).map_err(|text| wrong(&text))?;
            Ok((name, value))
        })
        .collect()
}

fn millis(setting: &Setting<String>) -> Result<Span> {
    let millis = setting.value.parse().map_err(|_| {
        let text = format!("{:?} is not a number of milliseconds", setting.value);
        fault(&setting.origin, &text)
    })?;
    Ok(Span(Duration::from_millis(millis)))
}

fn in_range(span: Span, origin: &str) -> Result<Span> {
    match (MILLI..=HOUR).contains(&span.0) {
        true => Ok(span),
        false => {
            let text = format!("{span} is not {} to {}", Span(MILLI), Span(HOUR));
            Err(fault(origin, &text))
        }
    }
}

fn word<T: for<'d> Deserialize<'d>>(setting: &Setting<String>) -> Result<T> {
    let words = StrDeserializer::<serde::de::value::Error>::new(&setting.value);
    T::deserialize(words).map_err(|error| fault(&setting.origin, &error.to_string()))
}
