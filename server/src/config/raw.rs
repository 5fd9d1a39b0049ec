//! What a configuration file may say. Every field is optional; an unknown one is refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    ConfigError, LogFormat, Size, Span,
    otlp::{ExportCompression, Protocol, Sampler, Signal},
    shared::Secret,
};
use crate::record::Compression;

/// A tier, as configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TierName {
    /// RocksDB on this machine.
    Local,
    /// Redis.
    Shared,
}

/// What reads get while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSharedDown {
    /// Local entries, marked stale, for at most `max_stale`.
    #[default]
    Stale,
    /// Misses.
    Miss,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) server: Server,
    pub(super) local: Local,
    pub(super) shared: Shared,
    pub(super) telemetry: Telemetry,
    pub(super) defaults: Policy,
    pub(super) namespaces: BTreeMap<String, Policy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub(super) listen: Option<String>,
    pub(super) http_listen: Option<String>,
    pub(super) allow_plaintext: Option<bool>,
    pub(super) workers: Option<usize>,
    pub(super) max_connections: Option<usize>,
    pub(super) max_http_connections: Option<usize>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) max_watchers: Option<usize>,
    pub(super) max_transfers: Option<usize>,
    pub(super) drain_timeout: Option<Span>,
    pub(super) known_namespaces_only: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Local {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) disk_budget: Option<Size>,
    pub(super) memory_budget: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shared {
    pub(super) url: Option<Secret>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) sentinel_username: Option<String>,
    pub(super) sentinel_password: Option<Secret>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) key_prefix: Option<String>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) command_timeout: Option<Span>,
    pub(super) lease: Option<Span>,
    pub(super) heartbeat: Option<Span>,
    pub(super) reconnect_max: Option<Span>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) journal_max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    pub(super) log: Option<String>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) namespaces_max: Option<usize>,
    pub(super) otlp: Otlp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Otlp {
    pub(super) endpoint: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) compression: Option<ExportCompression>,
    pub(super) timeout: Option<Span>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) headers: Option<BTreeMap<String, Secret>>,
    pub(super) signals: Option<Vec<Signal>>,
    pub(super) service_name: Option<String>,
    pub(super) resource: Option<BTreeMap<String, String>>,
    pub(super) sampler: Option<Sampler>,
    pub(super) sampler_ratio: Option<f64>,
    pub(super) queue_max: Option<usize>,
    pub(super) batch_max: Option<usize>,
    pub(super) batch_delay: Option<Span>,
    pub(super) batch_timeout: Option<Span>,
    pub(super) metrics_interval: Option<Span>,
    pub(super) metrics_timeout: Option<Span>,
    pub(super) traces: OtlpSignal,
    pub(super) metrics: OtlpSignal,
}

/// What one signal has of its own; the rest is that of both.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OtlpSignal {
    pub(super) endpoint: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) compression: Option<ExportCompression>,
    pub(super) timeout: Option<Span>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) headers: Option<BTreeMap<String, Secret>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    pub(super) ttl: Option<Span>,
    pub(super) max_ttl: Option<Span>,
    pub(super) ttl_jitter: Option<f64>,
    pub(super) negative_ttl: Option<Span>,
    pub(super) max_stale: Option<Span>,
    pub(super) max_value_size: Option<Size>,
    pub(super) max_stream_size: Option<Size>,
    pub(super) tiers: Option<Vec<TierName>>,
    pub(super) compression: Option<Compression>,
    pub(super) immutable: Option<bool>,
    pub(super) raw: Option<bool>,
    pub(super) raw_prefix: Option<String>,
    pub(super) on_shared_down: Option<OnSharedDown>,
    pub(super) shared_value_max: Option<Size>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{}: cannot be read: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| {
            let (place, message) = (path.display(), error.message());
            match &error.span().map(|span| secret_line(&text, span.start)) {
                // The error of the TOML reader names line, key and what it expected.
                None | Some(Line::Plain) => ConfigError(format!("{place}: {error}")),
                // A key that does not exist is named without what it is set to.
                Some(Line::Secret(number)) if !message.starts_with("unknown field") => {
                    ConfigError(format!(
                        "{place}: line {number}: not `key = \"text\"` as expected (the line is \
                         not shown, it may hold a password)"
                    ))
                }
                Some(Line::Shared(number) | Line::Secret(number)) => {
                    ConfigError(format!("{place}: line {number}: {message}"))
                }
            }
        })
    }
}

/// How much of a faulty line an error may show.
enum Line {
    /// All of it.
    Plain,
    /// What the reader says, without the line: it is near a secret. Its number.
    Shared(usize),
    /// Nothing: it may hold a secret. Its number.
    Secret(usize),
}

/// What kind of line the byte `at` is in.
fn secret_line(text: &str, at: usize) -> Line {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let number = before.matches('\n').count() + 1;
    let line = text[start..].lines().next().unwrap_or_default().trim();
    let mut headers = text[..start].lines().map(str::trim);
    let section = headers.rfind(|line| line.starts_with('['));
    let section = section.unwrap_or_default();
    let is_shared = |text: &str| text.trim_start_matches('[').starts_with("shared");
    // Headers and endpoints of the export hold credentials too.
    let is_export = |text: &str| text.contains("otlp") || text.contains("headers");
    if ![line, section]
        .into_iter()
        .any(|text| is_shared(text) || is_export(text))
    {
        return Line::Plain;
    }
    let key = line.split('=').next().unwrap_or_default();
    let secret = ["pas", "url", "head", "endpoint"];
    if secret.iter().any(|part| key.contains(part))
        || section.contains("headers")
        || line.contains('{')
    {
        return Line::Secret(number);
    }
    Line::Shared(number)
}
