//! Flags that several commands share: how to read, and what to write beside the value.

use std::time::Duration;

use clap::ValueEnum;
use pannier_client::{PutOptions, ReadOptions, Version, WriteMode};

use crate::hex;

/// How to read.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadFlags {
    /// Accept entries at most this stale while Redis is out of reach; 0s: fresh ones only
    /// [default: as the namespace says]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_stale: Option<Duration>,
    /// Look in the local tier only
    #[arg(long)]
    local_only: bool,
    /// Bypass the local tier; an error when Redis cannot be reached
    #[arg(long, conflicts_with = "local_only")]
    require_shared: bool,
}

impl ReadFlags {
    pub(crate) fn options(&self) -> ReadOptions {
        ReadOptions {
            max_stale: self.max_stale,
            local_only: self.local_only,
            require_shared: self.require_shared,
            lease: None,
        }
    }
}

/// What to write beside the value, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct WriteFlags {
    /// Lifetime, as in 10m or 1h 30m [default: the namespace's]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Media type of the value
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A pair of your own words about the value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    meta: Vec<(String, String)>,
    /// A tag by which the entry can be invalidated; may be repeated
    #[arg(long)]
    tag: Vec<String>,
    /// Write only if the key has no entry
    #[arg(long)]
    if_absent: bool,
    /// Write only if the entry has this version
    #[arg(long, value_name = "HEX", conflicts_with = "if_absent")]
    if_version: Option<Version>,
    /// Write only if the lease with this token, from `pannier get --lease`, has not ended
    #[arg(long, value_name = "HEX", value_parser = parse_token,
          conflicts_with_all = ["if_absent", "if_version"])]
    lease_token: Option<Token>,
    /// Which tiers must have it before the answer
    #[arg(long, value_enum, default_value_t = Mode::Through)]
    mode: Mode,
}

/// The token of a lease. Not a bare list of bytes, which clap would take for many values.
#[derive(Debug, Clone)]
struct Token(Vec<u8>);

fn parse_token(text: &str) -> Result<Token, String> {
    hex::decode(text).map(Token)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Local and, when it can be reached, shared
    Through,
    /// The local tier only
    Local,
    /// The shared tier must have it
    Shared,
}

impl WriteFlags {
    pub(crate) fn into_options(self) -> PutOptions {
        let mut options = PutOptions::new().tags(self.tag).mode(match self.mode {
            Mode::Through => WriteMode::Through,
            Mode::Local => WriteMode::Local,
            Mode::Shared => WriteMode::Shared,
        });
        if let Some(ttl) = self.ttl {
            options = options.ttl(ttl);
        }
        if let Some(content_type) = self.content_type {
            options = options.content_type(content_type);
        }
        for (key, value) in self.meta {
            options = options.metadata(key, value);
        }
        if self.if_absent {
            options = options.if_absent();
        }
        if let Some(version) = self.if_version {
            options = options.if_version(version);
        }
        if let Some(Token(token)) = self.lease_token {
            options = options.lease_token(token);
        }
        options
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_pair;

    #[test]
    fn a_pair_is_cut_at_the_first_equals_sign() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_pair("a").is_err());
        assert!(parse_pair("=b").is_err());
    }
}
