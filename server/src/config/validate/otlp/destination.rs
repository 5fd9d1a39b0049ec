//! Where a signal goes: endpoint, protocol, headers, files of TLS.

use std::{collections::BTreeMap, fs::File, path::PathBuf, time::Duration};

use super::{Places, in_range, millis, pairs, word};
use crate::config::{
    Span,
    otlp::{Destination, Endpoint, Protocol, Signal},
    raw::{Otlp, OtlpSignal},
    shared::{MASK, Secret},
    validate::{Result, Setting, fault},
};

const HEADERS_MAX: usize = 32;
/// What the protocols set themselves.
const OWN_HEADERS: [&str; 6] = [
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
];

/// Where a signal goes; `None` when it is not exported.
pub(super) fn destination(
    raw: &Otlp,
    signal: Signal,
    places: &Places<'_>,
) -> Result<Option<Destination>> {
    let (name, path, own) = match signal {
        Signal::Traces => ("TRACES", "v1/traces", &raw.traces),
        Signal::Metrics => ("METRICS", "v1/metrics", &raw.metrics),
    };
    let Some(asked) = wanted(raw, signal, name, places)? else {
        return Ok(None);
    };
    let both = |suffix: &str| {
        let of_signal = places.var(&format!("OTEL_EXPORTER_OTLP_{name}_{suffix}"));
        of_signal.or_else(|| places.var(&format!("OTEL_EXPORTER_OTLP_{suffix}")))
    };
    let protocol = match both("PROTOCOL") {
        Some(setting) => word(&setting)?,
        None => own.protocol.or(raw.protocol).unwrap_or_default(),
    };
    let Some(endpoint) = endpoint(raw, (name, path, own), protocol, asked, places)? else {
        return Ok(None);
    };
    let timeout = match both("TIMEOUT") {
        Some(setting) => in_range(millis(&setting)?, &setting.origin)?,
        None => {
            let span = own.timeout.or(raw.timeout);
            in_range(
                span.unwrap_or(Span(Duration::from_secs(10))),
                &places.at("timeout"),
            )?
        }
    };
    let compression = match both("COMPRESSION") {
        Some(setting) => word(&setting)?,
        None => own.compression.or(raw.compression).unwrap_or_default(),
    };
    let file = |suffix: &str, own: &Option<PathBuf>, of_both: &Option<PathBuf>| {
        let var = both(suffix).map(|setting| PathBuf::from(setting.value));
        var.or_else(|| own.clone()).or_else(|| of_both.clone())
    };
    let destination = Destination {
        endpoint,
        protocol,
        compression,
        timeout,
        ca_file: file("CERTIFICATE", &own.ca_file, &raw.ca_file),
        cert_file: file("CLIENT_CERTIFICATE", &own.cert_file, &raw.cert_file),
        key_file: file("CLIENT_KEY", &own.key_file, &raw.key_file),
        headers: headers(both("HEADERS"), own, raw, places)?,
    };
    check_files(&destination, places)?;
    Ok(Some(destination))
}

/// Whether a signal may be exported: `None` when not, true when somebody asks for it by its name.
fn wanted(raw: &Otlp, signal: Signal, name: &str, places: &Places<'_>) -> Result<Option<bool>> {
    if let Some(Setting { value, origin }) = places.var("OTEL_SDK_DISABLED") {
        match value.to_ascii_lowercase().as_str() {
            "true" => return Ok(None),
            "false" => {}
            _ => {
                let text = format!("{value:?} is neither true nor false");
                return Err(fault(&origin, &text));
            }
        }
    }
    let asked = exporter(places.var(&format!("OTEL_{name}_EXPORTER")), signal)?;
    let listed = |signals: &Vec<Signal>| signals.contains(&signal);
    let written = raw.signals.as_ref().is_none_or(listed);
    Ok(asked.unwrap_or(written).then_some(asked == Some(true)))
}

/// Whether `OTEL_…_EXPORTER` asks for the signal; `None` when it says nothing.
fn exporter(setting: Option<Setting<String>>, signal: Signal) -> Result<Option<bool>> {
    let Some(Setting { value, origin }) = setting else {
        return Ok(None);
    };
    let mut asked = false;
    for name in value.split(',').map(str::trim) {
        match name {
            "otlp" => asked = true,
            "none" => {}
            // What Prometheus asks for is always there.
            "prometheus" if signal == Signal::Metrics => {}
            _ => {
                let text = format!("{name:?} is not served; write otlp or none");
                return Err(fault(&origin, &text));
            }
        }
    }
    Ok(Some(asked))
}

/// The collector; `None` when nobody names one and nobody asks for the signal.
fn endpoint(
    raw: &Otlp,
    (name, path, own): (&str, &str, &OtlpSignal),
    protocol: Protocol,
    asked: bool,
    places: &Places<'_>,
) -> Result<Option<Endpoint>> {
    let key = format!("{}.endpoint", name.to_ascii_lowercase());
    let written = |value: &Option<String>, key: &str| {
        let setting = value.clone().map(|value| Setting {
            value,
            origin: places.at(key),
        });
        setting.filter(|setting| !setting.value.is_empty())
    };
    let own_var = places.var(&format!("OTEL_EXPORTER_OTLP_{name}_ENDPOINT"));
    let var = places.var("OTEL_EXPORTER_OTLP_ENDPOINT");
    // The bool: whether it is the whole URL already.
    let found = own_var
        .map(|it| (it, true))
        .or(var.map(|it| (it, false)))
        .or_else(|| written(&own.endpoint, &key).map(|it| (it, true)))
        .or_else(|| written(&raw.endpoint, "endpoint").map(|it| (it, false)));
    let (Setting { value, origin }, whole) = match found {
        Some(found) => found,
        None if asked => {
            let value = match protocol {
                Protocol::Grpc => "http://localhost:4317",
                Protocol::Http => "http://localhost:4318",
            };
            (
                Setting {
                    value: value.into(),
                    origin: String::new(),
                },
                false,
            )
        }
        None => return Ok(None),
    };
    let endpoint = Endpoint::parse(&value).map_err(|text| fault(&origin, &text))?;
    Ok(Some(match (protocol, whole) {
        (Protocol::Http, false) => endpoint.join(path),
        _ => endpoint,
    }))
}

fn headers(
    var: Option<Setting<String>>,
    own: &OtlpSignal,
    raw: &Otlp,
    places: &Places<'_>,
) -> Result<BTreeMap<String, Secret>> {
    let (headers, origin): (BTreeMap<_, _>, _) = match var {
        Some(setting) => {
            let pairs = pairs(&setting)?.into_iter();
            (
                pairs
                    .map(|(name, value)| (name, Secret::new(value)))
                    .collect(),
                setting.origin,
            )
        }
        None => {
            let written = own.headers.clone().or_else(|| raw.headers.clone());
            (written.unwrap_or_default(), places.at("headers"))
        }
    };
    if headers.len() > HEADERS_MAX {
        return Err(fault(
            &origin,
            &format!("{} headers, at most {HEADERS_MAX}", headers.len()),
        ));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let own = lower.starts_with("grpc-") || OWN_HEADERS.contains(&lower.as_str());
        let valid = http::HeaderName::from_bytes(lower.as_bytes()).is_ok();
        if !valid || own || lower.ends_with("-bin") {
            return Err(fault(
                &origin,
                &format!("{name:?} cannot be set as a header"),
            ));
        }
        if value.expose() == MASK {
            let text = format!(
                "{name}: {MASK} is what --print-config shows instead of a value; fill it in"
            );
            return Err(fault(&origin, &text));
        }
        let visible = |byte: u8| (0x20..0x7f).contains(&byte);
        if !value.expose().bytes().all(visible) {
            let text = format!("{name}: the value (not shown) is not plain ASCII");
            return Err(fault(&origin, &text));
        }
        checked.insert(lower, value);
    }
    Ok(checked)
}

fn check_files(destination: &Destination, places: &Places<'_>) -> Result<()> {
    let Destination {
        ca_file,
        cert_file,
        key_file,
        ..
    } = destination;
    for (key, path) in [
        ("ca_file", ca_file),
        ("cert_file", cert_file),
        ("key_file", key_file),
    ] {
        let Some(path) = path else { continue };
        if !destination.endpoint.is_secure() {
            // One for both signals may be set although this one needs none.
            continue;
        }
        File::open(path).map_err(|error| {
            fault(
                &places.at(key),
                &format!("{} cannot be read: {error}", path.display()),
            )
        })?;
    }
    if cert_file.is_some() != key_file.is_some() {
        let text = "a certificate and its key come together: cert_file and key_file, or \
                    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
        return Err(fault(&places.at("cert_file"), text));
    }
    Ok(())
}
