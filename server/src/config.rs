//! Configuration: flags over environment over file over defaults.
//!
//! `raw` is what may be written, every field optional and unknown keys refused; [`Config`] is what
//! the daemon runs on, checked and complete. The environment is a parameter, so a test gives its
//! own. A fault names the file, the key and what was expected.

mod args;
mod otlp;
mod raw;
mod shared;
mod url;
mod validate;
mod words;

use std::{
    borrow::Cow, collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration,
};

use serde::{Serialize, Serializer};

pub use self::{
    args::{Args, Command, Overrides},
    otlp::{Destination, Endpoint, ExportCompression, OtlpConfig, Protocol, Sampler},
    raw::{OnSharedDown, TierName},
    shared::{Address, Credentials, MASK, Secret, SharedConfig, TlsFiles, Topology, mask_url},
    words::{Size, Span},
};
use crate::{key::NamespaceName, record::Compression};

/// Largest value that fits into a unary message, in bytes: 4 MiB less 64 KiB.
pub const UNARY_VALUE_BYTES_MAX: u64 = (4 << 20) - (64 << 10);

/// A fault in the configuration; the text says where and what to do.
#[derive(Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Everything the daemon can be told, in effect.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Addresses, limits of the front door, stopping.
    pub server: ServerConfig,
    /// The local tier.
    pub local: LocalConfig,
    /// The shared tier.
    pub shared: SharedConfig,
    /// Logs, and the export of traces and metrics.
    pub telemetry: TelemetryConfig,
    /// Policy of namespaces that are not listed.
    pub defaults: Policy,
    /// Policy of those that are.
    pub namespaces: BTreeMap<String, Policy>,
}

/// `[server]`
#[derive(Debug, Clone, Serialize)]
pub struct ServerConfig {
    /// Where gRPC is served.
    pub listen: Listen,
    /// Where HTTP is served.
    pub http_listen: Listen,
    /// Serve addresses other than loopback without TLS.
    pub allow_plaintext: bool,
    /// Worker threads, each with a runtime of its own.
    pub workers: usize,
    /// Open connections; more are closed at once.
    pub max_connections: usize,
    /// Open connections for HTTP; more are closed at once.
    pub max_http_connections: usize,
    /// Requests in flight, all connections together; more get RESOURCE_EXHAUSTED.
    pub max_in_flight: usize,
    /// Streams of Watch, all connections together; more get RESOURCE_EXHAUSTED.
    pub max_watchers: usize,
    /// Streams of Read and Write, all connections together; more get RESOURCE_EXHAUSTED.
    pub max_transfers: usize,
    /// How long a stop waits for requests in flight.
    pub drain_timeout: Span,
    /// Refuse namespaces that `[namespaces]` does not list.
    pub known_namespaces_only: bool,
}

/// `[local]`
#[derive(Debug, Clone, Serialize)]
pub struct LocalConfig {
    /// Directory of the local tier; one daemon each.
    pub data_dir: PathBuf,
    /// Most bytes on disk.
    pub disk_budget: Size,
    /// Most bytes of write buffers and block cache.
    pub memory_budget: Size,
}

/// `[telemetry]`
#[derive(Debug, Clone, Serialize)]
pub struct TelemetryConfig {
    /// What is logged: a level, or directives `target=level,…`.
    pub log: String,
    /// How it looks.
    pub log_format: LogFormat,
    /// Namespaces that metrics show by name; the others are shown together.
    pub namespaces_max: usize,
    /// Export of traces and metrics.
    pub otlp: OtlpConfig,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[defaults]` and `[namespaces.NAME]`: how a namespace is treated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Lifetime of a put that names none.
    pub ttl: Span,
    /// Longest lifetime; longer ones are shortened to it.
    pub max_ttl: Span,
    /// Each lifetime is shortened by a random share of up to this, 0 to 0.5, so that entries put
    /// together do not end together.
    pub ttl_jitter: f64,
    /// Lifetime of a negative entry whose put names none.
    pub negative_ttl: Span,
    /// How long after losing the shared tier local entries may still be served, marked stale.
    pub max_stale: Span,
    /// Largest value of a unary write.
    pub max_value_size: Size,
    /// Largest value of a stream.
    pub max_stream_size: Size,
    /// Tiers in use.
    pub tiers: Vec<TierName>,
    /// How values are kept.
    pub compression: Compression,
    /// Write-once: a second, different value for a key is refused.
    pub immutable: bool,
    /// Plain strings under plain keys in Redis, for programs that use it directly.
    pub raw: bool,
    /// Begins the plain keys of a raw namespace; empty for others.
    pub raw_prefix: String,
    /// What reads get while Redis is away.
    pub on_shared_down: OnSharedDown,
    /// Values above it stay out of Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_value_max: Option<Size>,
}

impl Policy {
    /// How long after the last contact local entries may be served.
    pub fn stale_max(&self) -> Duration {
        match self.on_shared_down {
            OnSharedDown::Stale => self.max_stale.0,
            OnSharedDown::Miss => Duration::ZERO,
        }
    }

    /// Policy of the namespace that holds the tags of this one. They live twice as long as an
    /// entry can, so that one put later finds its tags with enough left nearly always.
    #[must_use]
    pub fn of_tags(&self) -> Self {
        let lifetime = Span(self.max_ttl.0.saturating_mul(2));
        Self {
            ttl: lifetime,
            max_ttl: lifetime,
            ttl_jitter: 0.0,
            compression: Compression::None,
            immutable: false,
            shared_value_max: None,
            ..self.clone()
        }
    }

    /// Lifetime of a put that asked for `wish`, without jitter.
    pub fn lifetime(&self, wish: Option<Duration>) -> Duration {
        wish.unwrap_or(self.ttl.0).min(self.max_ttl.0)
    }
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// What the default data directory is named after.
    fn label(&self) -> String {
        match self {
            Self::Tcp(address) => address.port().to_string(),
            Self::Unix(path) => path
                .file_stem()
                .map_or_else(|| "unix".into(), |stem| stem.to_string_lossy().into_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The environment variable of this name, if it is set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads the file, the environment and the flags. The file is the one that `--config` or
    /// `PANNIER_CONFIG` names; without one the defaults stand.
    pub fn load(flags: &Overrides, env: Env<'_>) -> Result<Self, ConfigError> {
        let path = flags
            .config
            .clone()
            .or_else(|| Overrides::from_env(env).config);
        let file = match &path {
            Some(path) => raw::File::read(path)?,
            None => raw::File::default(),
        };
        let origin = path.map_or_else(|| "defaults".into(), |path| path.display().to_string());
        validate::config(file, &origin, flags, env)
    }

    /// The configuration as a TOML document, secrets masked.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field of Config has a TOML form")
    }

    /// Policy of a namespace; `None` when it is not known and only known ones are served.
    pub fn policy(&self, namespace: &NamespaceName) -> Option<Cow<'_, Policy>> {
        let tagged = namespace.tagged();
        let policy = match self.namespaces.get(tagged.unwrap_or(namespace.as_str())) {
            None if self.server.known_namespaces_only => return None,
            found => found.unwrap_or(&self.defaults),
        };
        Some(match tagged {
            None => Cow::Borrowed(policy),
            Some(_) => Cow::Owned(policy.of_tags()),
        })
    }

    /// Beginnings of the keys in Redis that concern this daemon, none of which begins with another.
    pub fn tracked_prefixes(&self) -> Vec<String> {
        let policies = self.namespaces.values().chain([&self.defaults]);
        let raw = policies.filter(|policy| policy.raw);
        let mut all: Vec<_> = raw.map(|policy| policy.raw_prefix.clone()).collect();
        all.push(self.shared.key_prefix.clone());
        // Sorted, a prefix stands right before what begins with it.
        all.sort();
        all.dedup_by(|longer, shorter| longer.starts_with(shorter.as_str()));
        all
    }

    /// The longest lifetime any entry can have.
    pub fn longest_lifetime(&self) -> Duration {
        let all = self.namespaces.values().chain([&self.defaults]);
        all.map(|policy| policy.max_ttl.0).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
