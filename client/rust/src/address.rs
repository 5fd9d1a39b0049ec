//! Where a daemon listens: a TCP port or a unix socket.

use std::{fmt, str::FromStr};

use http::uri::Authority;

use crate::{Error, Kind};

/// The address used when neither the caller nor `PANNIER_ADDR` names one.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7466";

/// Where a daemon listens.
///
/// Parsed from `host:port`, `http://host:port` or `unix:/path/to/socket` (`unix:///path` too).
/// Displayed without the scheme of HTTP, as the daemon prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP port, as `host:port`.
    Tcp(Authority),
    /// The path of a unix socket.
    Unix(String),
}

impl Address {
    /// The address in `PANNIER_ADDR`, or [`DEFAULT_ADDRESS`] when that is unset or empty.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the variable does not parse.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment; Builder::address is the parameter"
    )]
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var("PANNIER_ADDR") {
            Ok(text) if !text.is_empty() => text.parse(),
            _ => DEFAULT_ADDRESS.parse(),
        }
    }

    /// The form tonic's endpoint takes.
    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Tcp(authority) => format!("http://{authority}"),
            Self::Unix(path) => format!("unix:{path}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(formatter, "{authority}"),
            Self::Unix(path) => write!(formatter, "unix:{path}"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(invalid(
                    text,
                    "a unix socket needs a path: unix:/path/to/socket",
                ));
            }
            return Ok(Self::Unix(path.to_owned()));
        }
        if text.starts_with("https://") {
            return Err(invalid(text, "TLS is not supported by this client yet"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest
            .parse()
            .map_err(|_| invalid(text, "expected host:port, http://host:port or unix:/path"))?;
        // `Authority` accepts `user@host`, `:port` and a port it cannot represent.
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        if !plain || authority.port_u16().is_none_or(|port| port == 0) {
            return Err(invalid(text, "expected a host and a port from 1 to 65535"));
        }
        Ok(Self::Tcp(authority))
    }
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::local(Kind::InvalidArgument, format!("address {text:?}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::{Address, DEFAULT_ADDRESS};
    use crate::Kind;

    #[test]
    fn the_documented_forms_parse() {
        for (text, shown, endpoint) in [
            (DEFAULT_ADDRESS, "127.0.0.1:7466", "http://127.0.0.1:7466"),
            ("http://cache:80/", "cache:80", "http://cache:80"),
            ("[::1]:7466", "[::1]:7466", "http://[::1]:7466"),
            ("unix:/run/p.sock", "unix:/run/p.sock", "unix:/run/p.sock"),
            ("unix:///run/p.sock", "unix:/run/p.sock", "unix:/run/p.sock"),
        ] {
            let address: Address = text.parse().expect("a documented form");
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.endpoint(), endpoint);
        }
    }

    #[test]
    fn what_cannot_be_reached_is_an_invalid_argument() {
        for text in [
            "",
            "localhost",
            ":7466",
            "7466",
            "host:0",
            "host:99999",
            "user@host:1",
            "unix:",
            "unix://",
            "https://host:1",
            "http://",
            "host:1/path",
            "redis://host:1",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert_eq!(error.kind(), Kind::InvalidArgument, "{text}");
        }
    }
}
