//! From what was written to what the daemon runs on: merge, defaults, checks.

mod otlp;
mod policy;
mod shared;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, thread, time::Duration};

use self::policy::policy;
use super::{
    Config, ConfigError, Env, Listen, LocalConfig, Overrides, Policy, ServerConfig, Size, Span,
    TelemetryConfig,
    raw::{self, File},
};
use crate::key::NamespaceName;

/// Smallest disk budget: below it the write buffers would not fit.
const DISK_BUDGET_MIN: Size = Size(64 << 20);
/// Most namespaces that metrics show by name: no more are counted apart.
const NAMESPACES_SHOWN_MAX: usize = 1000;
/// Smallest memory budget.
const MEMORY_BUDGET_MIN: Size = Size(16 << 20);

/// One setting with where it was written, so that a fault can say so.
struct Setting<T> {
    value: T,
    origin: String,
}

type Result<T> = std::result::Result<T, ConfigError>;

/// Where settings come from, in order of precedence.
struct Sources<'a> {
    flags: &'a Overrides,
    vars: Overrides,
    origin: &'a str,
}

impl Sources<'_> {
    /// The value that counts, with a name for its place.
    fn pick<T>(
        &self,
        flag: (&str, Option<T>),
        var: (&str, Option<T>),
        file: (&str, Option<T>),
    ) -> Option<Setting<T>> {
        let named = |value: Option<T>, origin: String| value.map(|v| Setting { value: v, origin });
        named(flag.1, flag.0.into())
            .or_else(|| named(var.1, var.0.into()))
            .or_else(|| named(file.1, self.at(file.0)))
    }

    /// The name of a key of the file.
    fn at(&self, key: &str) -> String {
        format!("{}: {key}", self.origin)
    }
}

/// Merges and checks everything.
pub(super) fn config(file: File, origin: &str, flags: &Overrides, env: Env<'_>) -> Result<Config> {
    let sources = Sources {
        flags,
        vars: Overrides::from_env(env),
        origin,
    };
    let defaults = policy(file.defaults.clone(), None, origin, "defaults")?;
    let mut namespaces = BTreeMap::new();
    for (name, raw) in file.namespaces {
        let place = format!("namespaces.{name}");
        NamespaceName::new(name.as_str())
            .map_err(|error| ConfigError(format!("{origin}: {place}: {}", error.message())))?;
        namespaces.insert(name, policy(raw, Some(&defaults), origin, &place)?);
    }
    let server = server(file.server, &sources)?;
    let local = local(file.local, &sources, &server.listen, env)?;
    let log = sources.pick(
        ("--log", sources.flags.log.clone()),
        ("PANNIER_LOG", sources.vars.log.clone()),
        ("telemetry.log", file.telemetry.log),
    );
    let telemetry = TelemetryConfig {
        log: log.map_or_else(|| Ok("info".into()), checked_log)?,
        log_format: file.telemetry.log_format.unwrap_or_default(),
        namespaces_max: count(
            &sources.at("telemetry.namespaces_max"),
            file.telemetry.namespaces_max,
            100,
            NAMESPACES_SHOWN_MAX,
        )?,
        otlp: otlp::config(file.telemetry.otlp, &sources, env)?,
    };
    let shared = shared::config(file.shared, &sources)?;
    check_raw_prefixes(&shared.key_prefix, &defaults, &namespaces, origin)?;
    Ok(Config {
        server,
        local,
        shared,
        telemetry,
        defaults,
        namespaces,
    })
}

fn checked_log(log: Setting<String>) -> Result<String> {
    match log.value.parse::<tracing_subscriber::filter::Targets>() {
        Ok(_) => Ok(log.value),
        Err(error) => Err(fault(&log.origin, &format!("{:?}: {error}", log.value))),
    }
}

fn server(raw: raw::Server, sources: &Sources<'_>) -> Result<ServerConfig> {
    let allow_plaintext = sources.flags.allow_plaintext || raw.allow_plaintext.unwrap_or(false);
    let grpc = sources.pick(
        ("--listen", sources.flags.listen.clone()),
        ("PANNIER_LISTEN", sources.vars.listen.clone()),
        ("server.listen", raw.listen),
    );
    let http = sources.pick(
        ("--http-listen", sources.flags.http_listen.clone()),
        ("PANNIER_HTTP_LISTEN", sources.vars.http_listen.clone()),
        ("server.http_listen", raw.http_listen),
    );
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = |key: &str, value: Option<usize>, default: usize, max: usize| {
        count(&sources.at(key), value, default, max)
    };
    Ok(ServerConfig {
        listen: listen(grpc, 7466, allow_plaintext)?,
        http_listen: listen(http, 7467, allow_plaintext)?,
        allow_plaintext,
        workers: count("server.workers", raw.workers, cores, 256)?,
        max_connections: count("server.max_connections", raw.max_connections, 1024, 1 << 20)?,
        max_http_connections: count(
            "server.max_http_connections",
            raw.max_http_connections,
            64,
            1 << 16,
        )?,
        max_in_flight: count("server.max_in_flight", raw.max_in_flight, 4096, 1 << 20)?,
        max_watchers: count("server.max_watchers", raw.max_watchers, 256, 1 << 16)?,
        max_transfers: count("server.max_transfers", raw.max_transfers, 32, 1 << 12)?,
        drain_timeout: raw.drain_timeout.unwrap_or(Span(Duration::from_secs(10))),
        known_namespaces_only: raw.known_namespaces_only.unwrap_or(false),
    })
}

fn count(place: &str, value: Option<usize>, default: usize, max: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(n) if (1..=max).contains(&n) => Ok(n),
        Some(n) => Err(fault(place, &format!("{n} is not 1 to {max}"))),
    }
}

fn listen(
    setting: Option<Setting<String>>,
    default_port: u16,
    allow_plaintext: bool,
) -> Result<Listen> {
    let Some(Setting { value, origin }) = setting else {
        return Ok(Listen::Tcp(SocketAddr::from((
            [127, 0, 0, 1],
            default_port,
        ))));
    };
    if let Some(path) = value.strip_prefix("unix:") {
        if !path.starts_with('/') || path.len() > 100 {
            let text = format!("{value:?}: unix: takes an absolute path of at most 100 bytes");
            return Err(fault(&origin, &text));
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    let text = value.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr = text.parse().map_err(|_| {
        fault(
            &origin,
            &format!("{value:?} is neither IP:PORT nor unix:/path"),
        )
    })?;
    let listen = Listen::Tcp(address);
    if !listen.is_local() && !allow_plaintext {
        let text = format!(
            "{value} can be reached from other machines and there is no TLS; listen on loopback or \
             a unix socket, or set server.allow_plaintext = true (--allow-plaintext) on a network \
             you trust"
        );
        return Err(fault(&origin, &text));
    }
    Ok(listen)
}

fn local(
    raw: raw::Local,
    sources: &Sources<'_>,
    listen: &Listen,
    env: Env<'_>,
) -> Result<LocalConfig> {
    let data_dir = sources.pick(
        ("--data-dir", sources.flags.data_dir.clone()),
        ("PANNIER_DATA_DIR", sources.vars.data_dir.clone()),
        ("local.data_dir", raw.data_dir),
    );
    let disk = sources.pick(
        ("--disk-budget", sources.flags.disk_budget.clone()),
        ("PANNIER_DISK_BUDGET", sources.vars.disk_budget.clone()),
        (
            "local.disk_budget",
            raw.disk_budget.map(|size| size.to_string()),
        ),
    );
    let memory = sources.pick(
        ("--memory-budget", sources.flags.memory_budget.clone()),
        ("PANNIER_MEMORY_BUDGET", sources.vars.memory_budget.clone()),
        (
            "local.memory_budget",
            raw.memory_budget.map(|size| size.to_string()),
        ),
    );
    Ok(LocalConfig {
        data_dir: match data_dir {
            Some(setting) => setting.value,
            None => default_data_dir(listen, env)?,
        },
        disk_budget: budget(disk, Size(4 << 30), DISK_BUDGET_MIN)?,
        memory_budget: budget(memory, Size(128 << 20), MEMORY_BUDGET_MIN)?,
    })
}

fn default_data_dir(listen: &Listen, env: Env<'_>) -> Result<PathBuf> {
    let set = |name: &str| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let text = "neither XDG_CACHE_HOME nor HOME is set; name a directory with --data-dir";
    let cache = cache.ok_or_else(|| fault("local.data_dir", text))?;
    Ok(cache.join("pannier").join(listen.label()))
}

fn budget(setting: Option<Setting<String>>, default: Size, min: Size) -> Result<Size> {
    let Some(Setting { value, origin }) = setting else {
        return Ok(default);
    };
    let size = Size::parse(&value).map_err(|text| fault(&origin, &text))?;
    if size < min {
        return Err(fault(
            &origin,
            &format!("{size} is too small, the least is {min}"),
        ));
    }
    Ok(size)
}

/// Plain keys of other programs must not look like ours.
fn check_raw_prefixes(
    key_prefix: &str,
    defaults: &Policy,
    namespaces: &BTreeMap<String, Policy>,
    origin: &str,
) -> Result<()> {
    let named = namespaces
        .iter()
        .map(|(name, policy)| (format!("namespaces.{name}"), policy));
    for (place, policy) in named.chain([("defaults".to_owned(), defaults)]) {
        if policy.raw && policy.raw_prefix.starts_with(key_prefix) {
            let text = format!(
                "{:?} begins with shared.key_prefix ({key_prefix:?}), which is for Pannier's own \
                 keys",
                policy.raw_prefix
            );
            return Err(fault(&format!("{origin}: {place}.raw_prefix"), &text));
        }
    }
    Ok(())
}

fn fault(place: &str, text: &str) -> ConfigError {
    ConfigError(format!("{place}: {text}"))
}
