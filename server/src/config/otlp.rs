//! `[telemetry.otlp]`: whether, where and how traces and metrics are exported.
//!
//! Names and meanings are those of OpenTelemetry's environment variables, which win over the file:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    shared::{Secret, TlsFiles},
    words::Span,
};

/// `[telemetry.otlp]`, checked.
#[derive(Debug, Clone, Serialize)]
pub struct OtlpConfig {
    /// Name of the service in what is exported.
    pub service_name: String,
    /// Which requests are traced.
    pub sampler: Sampler,
    /// Share of the traces that begin here and are kept, 0 to 1; for the samplers with a ratio.
    pub sampler_ratio: f64,
    /// Spans that wait to be sent; more are dropped and counted.
    pub queue_max: usize,
    /// Spans in one message.
    pub batch_max: usize,
    /// Longest time that a span waits for others.
    pub batch_delay: Span,
    /// Longest time for one batch of spans, repetitions included.
    pub batch_timeout: Span,
    /// How often metrics are sent.
    pub metrics_interval: Span,
    /// Longest time for sending them once, repetitions included.
    pub metrics_timeout: Span,
    /// Attributes of the resource, besides the service's name.
    pub resource: BTreeMap<String, String>,
    /// Where traces go; none: no request is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<Destination>,
    /// Where metrics go; none: they are not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Destination>,
}

/// Where one signal goes, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Destination {
    /// The collector; with HTTP the whole URL, path included.
    pub endpoint: Endpoint,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// How messages are compressed.
    pub compression: ExportCompression,
    /// Longest time for one attempt, connecting included.
    pub timeout: Span,
    /// The only authorities that are trusted, PEM; without it the system's are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Certificate shown to the collector, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Sent with every message; often a credential.
    pub headers: BTreeMap<String, Secret>,
}

impl Destination {
    /// The files of TLS, if the endpoint asks for it.
    pub fn tls(&self) -> Option<TlsFiles> {
        self.endpoint.is_secure().then(|| TlsFiles {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
        })
    }
}

/// A URL with `http` or `https`, a host, and neither user nor query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(http::Uri);

impl Endpoint {
    /// Reads one; the error says what was expected and quotes nothing: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "is not a URL like http://localhost:4318 or https://host:4317";
        let uri: http::Uri = text.parse().map_err(|_| expected.to_owned())?;
        let authority = uri.authority().ok_or(expected)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host() == Some("") {
            return Err(expected.into());
        }
        if authority.as_str().contains('@') {
            return Err("must not hold user or password; send them as a header".into());
        }
        if uri.query().is_some() {
            return Err("must not have a query".into());
        }
        Ok(Self(uri))
    }

    /// The same with a path appended, as HTTP has one for each signal.
    pub(super) fn join(&self, path: &str) -> Self {
        let base = self.0.to_string();
        let joined = format!("{}/{path}", base.trim_end_matches('/'));
        Self(joined.parse().expect("a URL with a longer path is one"))
    }

    /// The URL.
    pub fn uri(&self) -> &http::Uri {
        &self.0
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signal {
    /// Spans.
    Traces,
    /// Figures.
    Metrics,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum Protocol {
    /// gRPC, usually port 4317.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP/1.1, usually port 4318.
    #[default]
    #[serde(rename = "http/protobuf")]
    Http,
}

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportCompression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// Which requests are traced, by the names of OpenTelemetry. Those that begin with `parentbased_`
/// follow a caller who says; the rest of the name is for requests without a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum Sampler {
    /// All.
    #[serde(rename = "always_on")]
    AlwaysOn,
    /// None.
    #[serde(rename = "always_off")]
    AlwaysOff,
    /// A share, chosen by trace id.
    #[serde(rename = "traceidratio")]
    Ratio,
    /// The caller decides; without one, all.
    #[default]
    #[serde(rename = "parentbased_always_on")]
    ParentAlwaysOn,
    /// The caller decides; without one, none.
    #[serde(rename = "parentbased_always_off")]
    ParentAlwaysOff,
    /// The caller decides; without one, a share.
    #[serde(rename = "parentbased_traceidratio")]
    ParentRatio,
}
