//! What a configuration file may say. Every field is optional; an unknown one is refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{ConfigError, LogFormat, Size, Span};
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
    pub(super) max_in_flight: Option<usize>,
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
    pub(super) url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    pub(super) log: Option<String>,
    pub(super) log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    pub(super) ttl: Option<Span>,
    pub(super) max_ttl: Option<Span>,
    pub(super) ttl_jitter: Option<f64>,
    pub(super) max_stale: Option<Span>,
    pub(super) max_value_size: Option<Size>,
    pub(super) tiers: Option<Vec<TierName>>,
    pub(super) compression: Option<Compression>,
    pub(super) immutable: Option<bool>,
    pub(super) raw: Option<bool>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{}: cannot be read: {error}", path.display())))?;
        // The error of the TOML reader names line, key and what it expected.
        toml::from_str(&text).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
    }
}
