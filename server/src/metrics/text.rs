//! Figures as text: Prometheus's format 0.0.4 and OpenMetrics 1.0.
//!
//! Formats: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>. Names follow from OpenTelemetry's by
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>: what is
//! neither letter nor digit becomes `_`, the unit stands last, counters end in `_total`.

use std::fmt::Write;

use super::{BOUNDS, Distribution, Family, Kind, Labels, Snapshot, Value};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0, which has exemplars.
    OpenMetrics,
}

impl Format {
    /// The one that a request's `Accept` asks for: OpenMetrics 1.0 if it is named and not less
    /// wanted than plain text.
    pub fn accepted(accept: &str) -> Self {
        let (mut open_metrics, mut plain) = (0.0, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value),
                    _ => {}
                }
            }
            match media {
                // 0.0.1 is what Prometheus calls a draft that differs in nothing we write.
                "application/openmetrics-text"
                    if matches!(version, None | Some("1.0.0" | "0.0.1")) =>
                {
                    open_metrics = f64::max(open_metrics, quality);
                }
                "text/plain" => plain = plain.max(quality),
                _ => {}
            }
        }
        match open_metrics > 0.0 && open_metrics >= plain {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The figures in it.
    pub fn write(self, snapshot: &Snapshot) -> String {
        let mut text = String::with_capacity(64 << 10);
        for family in snapshot.families.iter().filter(|it| !it.samples.is_empty()) {
            // Writing into a String does not fail.
            let _ = self.family(&mut text, family);
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn family(self, text: &mut String, family: &Family) -> std::fmt::Result {
        let name = prometheus_name(family);
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::UpDownCounter => "gauge",
            Kind::Histogram => "histogram",
        };
        // OpenMetrics names a counter without the suffix of its figures.
        let described = match (self, family.kind) {
            (Self::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(&name),
            _ => &name,
        };
        writeln!(text, "# HELP {described} {}", escaped(family.help))?;
        writeln!(text, "# TYPE {described} {kind}")?;
        if self == Self::OpenMetrics
            && let Some(unit) = unit_suffix(family).filter(|unit| described.ends_with(unit))
        {
            writeln!(text, "# UNIT {described} {unit}")?;
        }
        for sample in &family.samples {
            match &sample.value {
                Value::Integer(value) => {
                    text.push_str(&name);
                    labels(text, &sample.labels, None)?;
                    writeln!(text, " {value}")?;
                }
                Value::Float(value) => {
                    text.push_str(&name);
                    labels(text, &sample.labels, None)?;
                    writeln!(text, " {value}")?;
                }
                Value::Distribution(distribution) => {
                    self.distribution(text, &name, &sample.labels, distribution)?;
                }
            }
        }
        Ok(())
    }

    fn distribution(
        self,
        text: &mut String,
        name: &str,
        own: &Labels,
        distribution: &Distribution,
    ) -> std::fmt::Result {
        let mut sum = 0;
        for (index, count) in distribution.counts.buckets.iter().enumerate() {
            sum += count;
            let bound = BOUNDS.get(index).map_or("+Inf".to_owned(), number);
            write!(text, "{name}_bucket")?;
            labels(text, own, Some(&bound))?;
            write!(text, " {sum}")?;
            let mut exemplars = distribution.exemplars.iter();
            if self == Self::OpenMetrics
                && let Some((_, exemplar)) = exemplars.find(|(bucket, _)| *bucket == index)
            {
                text.push_str(" # {trace_id=\"");
                hexadecimal(text, &exemplar.trace_id)?;
                text.push_str("\",span_id=\"");
                hexadecimal(text, &exemplar.span_id)?;
                let at = exemplar.at.as_millis();
                let took = exemplar.took.as_secs_f64();
                write!(text, "\"}} {took} {}.{:03}", at / 1000, at % 1000)?;
            }
            text.push('\n');
        }
        write!(text, "{name}_sum")?;
        labels(text, own, None)?;
        writeln!(text, " {}", distribution.counts.sum().as_secs_f64())?;
        write!(text, "{name}_count")?;
        labels(text, own, None)?;
        writeln!(text, " {sum}")
    }
}

/// OpenMetrics wants bounds that are floats to look like floats.
fn number(bound: &f64) -> String {
    match bound.fract() == 0.0 {
        true => format!("{bound:.1}"),
        false => bound.to_string(),
    }
}

fn labels(text: &mut String, labels: &Labels, bound: Option<&str>) -> std::fmt::Result {
    let mut between = '{';
    for (name, value) in labels {
        write!(
            text,
            "{between}{}=\"{}\"",
            underscored(name),
            escaped_value(value)
        )?;
        between = ',';
    }
    if let Some(bound) = bound {
        write!(text, "{between}le=\"{bound}\"")?;
        between = ',';
    }
    if between == ',' {
        text.push('}');
    }
    Ok(())
}

/// The family's name in Prometheus.
pub fn prometheus_name(family: &Family) -> String {
    if let Some(name) = family.prometheus {
        return name.to_owned();
    }
    let mut name = underscored(family.name);
    if let Some(unit) = unit_suffix(family)
        && !name.ends_with(unit)
    {
        name.push('_');
        name.push_str(unit);
    }
    if family.kind == Kind::Counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

/// How the unit is written in names; `None` for those that are not.
fn unit_suffix(family: &Family) -> Option<&'static str> {
    match family.unit {
        "s" => Some("seconds"),
        "By" => Some("bytes"),
        "1" if family.kind == Kind::Gauge => Some("ratio"),
        _ => None,
    }
}

fn underscored(name: &str) -> String {
    let legal = |letter: char| letter.is_ascii_alphanumeric();
    name.chars()
        .map(|letter| if legal(letter) { letter } else { '_' })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn escaped_value(text: &str) -> String {
    escaped(text).replace('"', "\\\"")
}

fn hexadecimal(text: &mut String, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Exemplar, Histogram},
        *,
    };
    use crate::clock::Timestamp;

    fn snapshot(families: Vec<Family>) -> Snapshot {
        Snapshot {
            at: Timestamp::from_millis(2000),
            since: Timestamp::from_millis(1000),
            families,
        }
    }

    fn family(name: &'static str, unit: &'static str, kind: Kind) -> Family {
        Family::new(name, unit, kind, "Help")
    }

    #[test]
    fn names_follow_the_rules_of_opentelemetry() {
        let table = [
            ("cache.lookup", "s", Kind::Histogram, "cache_lookup_seconds"),
            ("cache.hits", "{hit}", Kind::Counter, "cache_hits_total"),
            ("cache.hit.ratio", "1", Kind::Gauge, "cache_hit_ratio"),
            ("cache.share", "1", Kind::Gauge, "cache_share_ratio"),
            (
                "cache.disk.usage",
                "By",
                Kind::UpDownCounter,
                "cache_disk_usage_bytes",
            ),
            (
                "cache.spent",
                "s",
                Kind::Counter,
                "cache_spent_seconds_total",
            ),
        ];
        for (name, unit, kind, expected) in table {
            assert_eq!(prometheus_name(&family(name, unit, kind)), expected);
        }
    }

    #[test]
    fn labels_are_escaped_and_families_without_figures_left_out() {
        let labels = vec![
            ("cache.namespace", "a\"b\\c\nd".into()),
            ("cache.tier", "local".into()),
        ];
        let families = vec![
            family("cache.hits", "{hit}", Kind::Counter).with(labels, Value::Integer(3)),
            family("cache.none", "1", Kind::Gauge),
            family("cache.up", "{state}", Kind::Gauge).of_float(0.5),
        ];
        let expected = "\
            # HELP cache_hits_total Help\n\
            # TYPE cache_hits_total counter\n\
            cache_hits_total{cache_namespace=\"a\\\"b\\\\c\\nd\",cache_tier=\"local\"} 3\n\
            # HELP cache_up Help\n\
            # TYPE cache_up gauge\n\
            cache_up 0.5\n";
        assert_eq!(
            Format::Prometheus.write(&snapshot(families.clone())),
            expected
        );
        let open = Format::OpenMetrics.write(&snapshot(families));
        assert!(
            open.starts_with("# HELP cache_hits Help\n# TYPE cache_hits counter\n"),
            "{open}"
        );
        assert!(open.ends_with("cache_up 0.5\n# EOF\n"), "{open}");
    }

    #[test]
    fn buckets_are_summed_up_and_exemplars_are_for_openmetrics() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(2));
        histogram.observe(Duration::from_millis(2));
        histogram.exemplify(Exemplar {
            trace_id: [0xab; 16],
            span_id: [1; 8],
            took: Duration::from_millis(2),
            at: Timestamp::from_millis(1_234_567),
        });
        let value = Value::Distribution(Box::new(Distribution {
            counts: histogram.counts(),
            exemplars: histogram.exemplars(),
        }));
        let labels = vec![("cache.tier", "local".into())];
        let family = family("cache.lookup", "s", Kind::Histogram).with(labels, value);
        let all = snapshot(vec![family]);
        let text = Format::Prometheus.write(&all);
        for line in [
            "cache_lookup_seconds_bucket{cache_tier=\"local\",le=\"0.000001\"} 0",
            "cache_lookup_seconds_bucket{cache_tier=\"local\",le=\"0.0000025\"} 1",
            "cache_lookup_seconds_bucket{cache_tier=\"local\",le=\"0.0025\"} 2",
            "cache_lookup_seconds_bucket{cache_tier=\"local\",le=\"1.0\"} 2",
            "cache_lookup_seconds_bucket{cache_tier=\"local\",le=\"+Inf\"} 2",
            "cache_lookup_seconds_sum{cache_tier=\"local\"} 0.002002",
            "cache_lookup_seconds_count{cache_tier=\"local\"} 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        let open = Format::OpenMetrics.write(&all);
        let trace = "ab".repeat(16);
        let line = format!(
            "cache_lookup_seconds_bucket{{cache_tier=\"local\",le=\"0.0025\"}} 2 # \
             {{trace_id=\"{trace}\",span_id=\"0101010101010101\"}} 0.002 1234.567"
        );
        assert!(open.lines().any(|it| it == line), "{line}\n{open}");
        assert!(
            open.contains("# UNIT cache_lookup_seconds seconds\n"),
            "{open}"
        );
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
            */*;q=0.1";
        let table = [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text; version=2.0.0",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            (
                "text/plain, application/openmetrics-text;q=0.1",
                Format::Prometheus,
            ),
        ];
        for (accept, expected) in table {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }
}
