//! `[shared]`: the Redis that all sidecars have in common, and how it is spoken to.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use super::words::Span;

/// What stands in the place of a secret wherever configuration is shown.
pub const MASK: &str = "***";

/// `[shared]`, as it was written and as it was understood.
///
/// The fields that are not serialised are what the others come to; code that talks to Redis uses
/// those.
#[derive(Debug, Clone, Serialize)]
pub struct SharedConfig {
    /// The Redis to share; none: the local tier is the whole cache. May hold a password.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "masked")]
    pub url: Option<Secret>,
    /// ACL user, instead of the one in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password, instead of the one in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File the password was read from when the configuration was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// ACL user for the Sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_username: Option<String>,
    /// Password for the Sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password: Option<Secret>,
    /// The only authorities that are trusted, PEM; without it the system's are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Certificate shown to Redis, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Begins every key of a namespace that is not raw.
    pub key_prefix: String,
    /// Longest time for each step of connecting.
    pub connect_timeout: Span,
    /// Longest time for one command, its way there and back included.
    pub command_timeout: Span,
    /// How long after the last sign of life entries count as current (P9).
    pub lease: Span,
    /// How often a sign of life is asked for.
    pub heartbeat: Span,
    /// Longest pause between two attempts to connect.
    pub reconnect_max: Span,
    /// Commands that wait for their answer; more are refused.
    pub max_in_flight: usize,
    /// Removals kept for the time when Redis is back; more of a namespace become one of all of it.
    pub journal_max: usize,
    /// Where Redis is; none without a URL.
    #[serde(skip)]
    pub topology: Option<Topology>,
    /// Who we are for Redis.
    #[serde(skip)]
    pub credentials: Credentials,
    /// Who we are for the Sentinels.
    #[serde(skip)]
    pub sentinel_credentials: Credentials,
    /// Number of the database; 0 in a Cluster.
    #[serde(skip)]
    pub database: u8,
    /// Present when the URL asks for TLS.
    #[serde(skip)]
    pub tls: Option<TlsFiles>,
}

impl SharedConfig {
    /// The channel on which daemons tell each other what was invalidated by wish.
    pub fn channel(&self) -> String {
        format!("{}!invalidate", self.key_prefix)
    }
}

/// User and password. Without a password there is no user either.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; none is Redis' user `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

/// What TLS needs from the disk; each is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key come together or not at all.
    pub cert_file: Option<PathBuf>,
    /// Private key of the certificate.
    pub key_file: Option<PathBuf>,
}

/// How Redis is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Standalone(Address),
    /// Sentinels that know the current master of a service.
    Sentinel {
        /// Where they are, 1 to 64.
        hosts: Vec<Address>,
        /// Name of the service.
        service: String,
    },
    /// Some nodes of a Cluster, 1 to 64; the others are found.
    Cluster(Vec<Address>),
}

/// Where a Redis server or Sentinel listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A name or IP address (IPv6 without brackets) and a port.
    Tcp {
        /// Resolved anew at each connection.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is shown to nobody: `Debug` and `Serialize` say `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

fn masked<S: Serializer>(url: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = url.as_ref().map(|url| mask_url(url.expose()));
    serializer.serialize_str(&shown.unwrap_or_default())
}

/// A URL with everything between `//` and the last `@` of its authority replaced by `***`.
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.into();
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may itself hold one of those characters: then hide up to the last `@` of all.
    match rest[..authority_end].rfind('@').or_else(|| rest.rfind('@')) {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => url.into(),
    }
}

/// The file's text without the line break that ends it; the error says what is wrong with it.
pub(super) fn read_secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{shown} cannot be read as text: {error}"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{shown} is empty; it should hold the password")),
        text if text.contains('\n') => Err(format!("{shown} has more than one line")),
        text => Ok(Secret::new(text)),
    }
}
