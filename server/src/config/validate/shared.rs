//! `[shared]`: merge, defaults, checks.

use std::{fs::File, path::PathBuf, time::Duration};

use super::{Result, Setting, Sources, fault};
use crate::config::{
    Span,
    raw::Shared,
    shared::{self, Credentials, MASK, Secret, SharedConfig, TlsFiles, mask_url},
    url::{self, RedisUrl},
};

const KEY_PREFIX_BYTES_MAX: usize = 128;
const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What the URL comes to, with the place it was written at.
struct Written {
    url: RedisUrl,
    origin: String,
}

/// Merges and checks the section.
pub(super) fn config(raw: Shared, sources: &Sources<'_>) -> Result<SharedConfig> {
    let (url, written) = url_of(raw.url.clone(), sources)?;
    let password = password(&raw, sources)?;
    let sentinel_password = not_masked(sources.pick(
        ("", None),
        (
            "PANNIER_REDIS_SENTINEL_PASSWORD",
            sources.vars.redis_sentinel_password.clone(),
        ),
        ("shared.sentinel_password", raw.sentinel_password.clone()),
    ))?;
    let credentials = credentials(&raw, password.secret.as_ref(), written.as_ref(), sources)?;
    let tls = tls(&raw, written.as_ref(), sources)?;
    let sentinel_credentials = Credentials {
        username: raw.sentinel_username.clone(),
        password: sentinel_password.clone(),
    };
    if raw.sentinel_username.is_some() && sentinel_password.is_none() {
        let place = sources.at("shared.sentinel_username");
        return Err(fault(&place, "needs shared.sentinel_password beside it"));
    }
    let key_prefix = raw.key_prefix.clone().unwrap_or("pannier:".into());
    check_prefix(&key_prefix, 1).map_err(|text| fault(&sources.at("shared.key_prefix"), &text))?;
    let times = times(&raw, sources)?;
    let count = |key: &str, value: Option<usize>, default: usize, max: usize| {
        let key = format!("shared.{key}");
        super::count(&sources.at(&key), value, default, max)
    };
    Ok(SharedConfig {
        url,
        username: raw.username,
        password: password.secret.filter(|_| password.file.is_none()),
        password_file: password.file,
        sentinel_username: raw.sentinel_username,
        sentinel_password,
        ca_file: raw.ca_file,
        cert_file: raw.cert_file,
        key_file: raw.key_file,
        key_prefix,
        connect_timeout: times.connect_timeout,
        command_timeout: times.command_timeout,
        lease: times.lease,
        heartbeat: times.heartbeat,
        reconnect_max: times.reconnect_max,
        max_in_flight: count("max_in_flight", raw.max_in_flight, 4096, 1 << 20)?,
        journal_max: count("journal_max", raw.journal_max, 100_000, 10_000_000)?,
        topology: written.as_ref().map(|it| it.url.topology.clone()),
        credentials,
        sentinel_credentials,
        database: written.as_ref().map_or(0, |it| it.url.database),
        tls,
    })
}

fn url_of(raw: Option<Secret>, sources: &Sources<'_>) -> Result<(Option<Secret>, Option<Written>)> {
    let flag = sources.flags.redis_url.clone().map(Secret::new);
    let var = sources.vars.redis_url.clone().map(Secret::new);
    let setting = sources.pick(
        ("--redis-url", flag),
        ("PANNIER_REDIS_URL or REDIS_URL", var),
        ("shared.url", raw),
    );
    let Some(Setting { value, origin }) = setting else {
        return Ok((None, None));
    };
    let url = url::parse(value.expose())
        .map_err(|text| fault(&origin, &format!("{:?} {text}", mask_url(value.expose()))))?;
    Ok((Some(value), Some(Written { url, origin })))
}

/// A password that was set by its own key or variable.
struct Password {
    secret: Option<Secret>,
    /// Where it was read from, if it was.
    file: Option<PathBuf>,
}

fn password(raw: &Shared, sources: &Sources<'_>) -> Result<Password> {
    let vars = (
        sources.vars.redis_password.clone(),
        sources.vars.redis_password_file.clone(),
    );
    let names = (
        "PANNIER_REDIS_PASSWORD".to_owned(),
        "PANNIER_REDIS_PASSWORD_FILE".to_owned(),
    );
    let (found, names) = match vars {
        (None, None) => {
            let written = (raw.password.clone(), raw.password_file.clone());
            let places = (
                sources.at("shared.password"),
                sources.at("shared.password_file"),
            );
            (written, places)
        }
        vars => (vars, names),
    };
    match found {
        (Some(_), Some(_)) => {
            let text = format!("set this or {}, not both", names.0);
            Err(fault(&names.1, &text))
        }
        (secret, None) => Ok(Password {
            secret: not_masked(secret.map(|value| Setting {
                value,
                origin: names.0,
            }))?,
            file: None,
        }),
        (None, Some(path)) => {
            let secret = shared::read_secret(&path).map_err(|text| fault(&names.1, &text))?;
            Ok(Password {
                secret: Some(secret),
                file: Some(path),
            })
        }
    }
}

/// The secret, unless it is what `--print-config` prints in its place, or empty.
fn not_masked(setting: Option<Setting<Secret>>) -> Result<Option<Secret>> {
    match setting {
        Some(it) if it.value.expose() == MASK => Err(fault(
            &it.origin,
            &format!("{MASK} is what --print-config shows instead of a password; fill it in"),
        )),
        Some(it) if it.value.expose().is_empty() => Err(fault(
            &it.origin,
            "is empty; leave it out when there is no password",
        )),
        setting => Ok(setting.map(|it| it.value)),
    }
}

fn credentials(
    raw: &Shared,
    password: Option<&Secret>,
    written: Option<&Written>,
    sources: &Sources<'_>,
) -> Result<Credentials> {
    let from_url = written.map_or_else(Credentials::default, |it| it.url.credentials.clone());
    let credentials = Credentials {
        username: raw.username.clone().or(from_url.username),
        password: password.cloned().or(from_url.password),
    };
    if credentials.username.is_some() && credentials.password.is_none() {
        let place = match (&raw.username, written) {
            (None, Some(it)) => it.origin.clone(),
            _ => sources.at("shared.username"),
        };
        let text = "a user needs a password: shared.password, shared.password_file, \
                    PANNIER_REDIS_PASSWORD, or in the URL";
        return Err(fault(&place, text));
    }
    Ok(credentials)
}

fn tls(raw: &Shared, written: Option<&Written>, sources: &Sources<'_>) -> Result<Option<TlsFiles>> {
    let files = [
        ("shared.ca_file", &raw.ca_file),
        ("shared.cert_file", &raw.cert_file),
        ("shared.key_file", &raw.key_file),
    ];
    let secure = written.is_some_and(|it| it.url.tls);
    for (key, path) in files {
        let Some(path) = path else { continue };
        if written.is_some() && !secure {
            let text = "is for TLS, which the URL does not ask for; begin it with rediss";
            return Err(fault(&sources.at(key), text));
        }
        File::open(path).map_err(|error| {
            let text = format!("{} cannot be read: {error}", path.display());
            fault(&sources.at(key), &text)
        })?;
    }
    match (&raw.cert_file, &raw.key_file) {
        (Some(_), None) => Err(fault(
            &sources.at("shared.cert_file"),
            "needs shared.key_file beside it",
        )),
        (None, Some(_)) => Err(fault(
            &sources.at("shared.key_file"),
            "needs shared.cert_file beside it",
        )),
        _ => Ok(secure.then(|| TlsFiles {
            ca_file: raw.ca_file.clone(),
            cert_file: raw.cert_file.clone(),
            key_file: raw.key_file.clone(),
        })),
    }
}

struct Times {
    connect_timeout: Span,
    command_timeout: Span,
    lease: Span,
    heartbeat: Span,
    reconnect_max: Span,
}

fn times(raw: &Shared, sources: &Sources<'_>) -> Result<Times> {
    let span = |key: &str, value: Option<Span>, default: u64, least: Duration, most: Duration| {
        let span = value.unwrap_or(Span(Duration::from_millis(default)));
        if (least..=most).contains(&span.0) {
            return Ok(span);
        }
        let place = sources.at(&format!("shared.{key}"));
        let text = format!("{span} is not {} to {}", Span(least), Span(most));
        Err(fault(&place, &text))
    };
    let times = Times {
        connect_timeout: span(
            "connect_timeout",
            raw.connect_timeout,
            1000,
            10 * MILLI,
            MINUTE,
        )?,
        command_timeout: span("command_timeout", raw.command_timeout, 500, MILLI, MINUTE)?,
        lease: span("lease", raw.lease, 1000, 100 * MILLI, MINUTE)?,
        heartbeat: span("heartbeat", raw.heartbeat, 150, 10 * MILLI, MINUTE)?,
        reconnect_max: span("reconnect_max", raw.reconnect_max, 2000, 50 * MILLI, MINUTE)?,
    };
    if times.heartbeat.0 * 3 > times.lease.0 {
        let text = format!(
            "{} is more than a third of shared.lease ({}); one lost sign of life must not end it",
            times.heartbeat, times.lease
        );
        return Err(fault(&sources.at("shared.heartbeat"), &text));
    }
    Ok(times)
}

/// Rules of the beginnings of keys in Redis; the error says what was expected.
pub(super) fn check_prefix(prefix: &str, bytes_min: usize) -> std::result::Result<(), String> {
    if !(bytes_min..=KEY_PREFIX_BYTES_MAX).contains(&prefix.len()) {
        return Err(format!(
            "has {} bytes instead of {bytes_min} to {KEY_PREFIX_BYTES_MAX}",
            prefix.len()
        ));
    }
    if prefix.contains(['{', '}']) {
        return Err("must not contain { or }: in a Cluster all keys would lie on one node".into());
    }
    if prefix.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    Ok(())
}
