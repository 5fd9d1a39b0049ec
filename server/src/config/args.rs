//! The command line of `pannierd`.

use std::path::PathBuf;

use super::shared::Secret;

/// The caching sidecar: get, put, exists and invalidate over gRPC, kept on this machine's disk.
///
/// With no arguments it listens on 127.0.0.1:7466 (gRPC) and 127.0.0.1:7467 (HTTP) and keeps its
/// data under ~/.cache/pannier. When it is ready it prints one line on stdout:
/// `pannierd ready grpc=ADDR http=ADDR`.
#[derive(Debug, Default, clap::Parser)]
#[command(name = "pannierd", version, after_help = AFTER_HELP)]
pub struct Args {
    /// What is set by flag.
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print the configuration in effect, secrets masked, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Something other than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Something other than serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Check the configuration and exit: 0 when it is good, 2 when it is not.
    CheckConfig,
}

const AFTER_HELP: &str = "\
Flags win over environment variables, those over the file.

Signals: SIGTERM and SIGINT stop accepting work and finish what is in flight, for at most
server.drain_timeout (10s); a second one ends at once.
Exit codes: 0 stopped as asked; 1 could not start or failed; 2 bad flags or configuration;
3 the data directory belongs to another running daemon; 4 stopped before all requests in flight
were finished.";

/// Settings given by flag; the environment has the same under other names.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Overrides {
    /// Configuration file, TOML [env: PANNIER_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// gRPC address, IP:PORT or unix:/path; port 0 takes a free one [env: PANNIER_LISTEN]
    /// [default: 127.0.0.1:7466]
    #[arg(long, value_name = "ADDR", global = true)]
    pub listen: Option<String>,
    /// HTTP address [env: PANNIER_HTTP_LISTEN] [default: 127.0.0.1:7467]
    #[arg(long, value_name = "ADDR", global = true)]
    pub http_listen: Option<String>,
    /// Redis that all sidecars share, for example redis://host:6379 [env: PANNIER_REDIS_URL, else
    /// REDIS_URL; a password rather by PANNIER_REDIS_PASSWORD or PANNIER_REDIS_PASSWORD_FILE]
    #[arg(long, value_name = "URL", global = true)]
    pub redis_url: Option<String>,
    /// No flag: everybody on the machine can see flags.
    #[arg(skip)]
    pub redis_password: Option<Secret>,
    /// File that holds it.
    #[arg(skip)]
    pub redis_password_file: Option<PathBuf>,
    /// Password for the Sentinels.
    #[arg(skip)]
    pub redis_sentinel_password: Option<Secret>,
    /// Directory of the local tier, one daemon each [env: PANNIER_DATA_DIR]
    /// [default: ~/.cache/pannier/PORT]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Most bytes on disk, for example 512MiB [env: PANNIER_DISK_BUDGET] [default: 4GiB]
    #[arg(long, value_name = "SIZE", global = true)]
    pub disk_budget: Option<String>,
    /// Most bytes of hot set, write buffers and block cache [env: PANNIER_MEMORY_BUDGET]
    /// [default: 128MiB]
    #[arg(long, value_name = "SIZE", global = true)]
    pub memory_budget: Option<String>,
    /// What to log: error, warn, info, debug, trace, or target=level,… [env: PANNIER_LOG]
    /// [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log: Option<String>,
    /// Serve addresses other than loopback without TLS; only on a network you trust
    #[arg(long, global = true)]
    pub allow_plaintext: bool,
}

impl Overrides {
    /// The same settings from environment variables; one that is empty counts as not set.
    pub(super) fn from_env(env: super::Env<'_>) -> Self {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        Self {
            config: get("PANNIER_CONFIG").map(PathBuf::from),
            listen: get("PANNIER_LISTEN"),
            http_listen: get("PANNIER_HTTP_LISTEN"),
            redis_url: get("PANNIER_REDIS_URL").or_else(|| get("REDIS_URL")),
            redis_password: get("PANNIER_REDIS_PASSWORD").map(Secret::new),
            redis_password_file: get("PANNIER_REDIS_PASSWORD_FILE").map(PathBuf::from),
            redis_sentinel_password: get("PANNIER_REDIS_SENTINEL_PASSWORD").map(Secret::new),
            data_dir: get("PANNIER_DATA_DIR").map(PathBuf::from),
            disk_budget: get("PANNIER_DISK_BUDGET"),
            memory_budget: get("PANNIER_MEMORY_BUDGET"),
            log: get("PANNIER_LOG"),
            allow_plaintext: false,
        }
    }
}
