//! URLs of Redis, in the forms its clients have in common.
//!
//! ```text
//! redis://[user:password@]host[:6379][/database]       rediss:// for TLS
//! redis+unix://[user:password@]/path[?db=number]       also unix://, redis+socket://
//! redis-sentinel://[user:password@]host[:26379],…/service[/database]     rediss-sentinel://
//! redis-cluster://[user:password@]host[:6379],…                          rediss-cluster://
//! ```
//! `valkey` stands for `redis` everywhere. User, password and path are percent-decoded. Errors
//! never quote what could be part of a password.

use std::path::PathBuf;

use super::shared::{Address, Credentials, MASK, Secret, Topology};

const HOSTS_MAX: usize = 64;
/// What fits into a socket address, less the closing zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub(super) topology: Topology,
    /// As far as the URL names them.
    pub(super) credentials: Credentials,
    pub(super) database: u8,
    pub(super) tls: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Standalone,
    Unix,
    Sentinel,
    Cluster,
}

/// Takes a URL apart; the error says what was expected.
pub(super) fn parse(url: &str) -> Result<RedisUrl, String> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or("not a URL; write for example redis://host:6379")?;
    let (layout, tls) = scheme_of(scheme)?;
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    if layout != Layout::Unix && tail.contains('@') {
        return Err(
            "in user and password, `/`, `?`, `#` and `%` must be percent-encoded \
                    (%2F, %3F, %23, %25)"
                .into(),
        );
    }
    if tail.contains('#') {
        return Err("takes no `#fragment`; in a password write %23".into());
    }
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let credentials = credentials(user)?;
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let asked = database_of_query(query)?;
    let (topology, in_path) = match layout {
        Layout::Unix => (Topology::Standalone(unix(hosts, path)?), ""),
        Layout::Standalone => {
            let [address] = <[Address; 1]>::try_from(addresses(hosts, 6379)?)
                .map_err(|_| "several hosts need redis-sentinel:// or redis-cluster://")?;
            (Topology::Standalone(address), path.trim_start_matches('/'))
        }
        Layout::Sentinel => {
            let path = path.trim_start_matches('/');
            let (service, database) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err("names no service; write redis-sentinel://host:26379/SERVICE".into());
            }
            let hosts = addresses(hosts, 26379)?;
            let service = decoded(service)?;
            (Topology::Sentinel { hosts, service }, database)
        }
        Layout::Cluster => (
            Topology::Cluster(addresses(hosts, 6379)?),
            path.trim_start_matches('/'),
        ),
    };
    let database = match (in_path, asked) {
        ("", asked) => asked.unwrap_or(0),
        (_, Some(_)) => return Err("names the database twice".into()),
        (text, None) => database(text)?,
    };
    if layout == Layout::Cluster && database != 0 {
        return Err("a Cluster has no database but 0".into());
    }
    Ok(RedisUrl {
        topology,
        credentials,
        database,
        tls,
    })
}

fn scheme_of(scheme: &str) -> Result<(Layout, bool), String> {
    let lower = scheme.to_ascii_lowercase().replace("valkey", "redis");
    Ok(match lower.as_str() {
        "redis" => (Layout::Standalone, false),
        "rediss" => (Layout::Standalone, true),
        "unix" | "redis+unix" | "redis+socket" => (Layout::Unix, false),
        "redis-sentinel" => (Layout::Sentinel, false),
        "rediss-sentinel" => (Layout::Sentinel, true),
        "redis-cluster" => (Layout::Cluster, false),
        "rediss-cluster" => (Layout::Cluster, true),
        _ => {
            return Err(
                "starts with none of redis://, rediss://, valkey://, valkeys://, \
                        redis+unix://, redis-sentinel://, rediss-sentinel://, redis-cluster://, \
                        rediss-cluster://"
                    .into(),
            );
        }
    })
}

fn credentials(user: &str) -> Result<Credentials, String> {
    if user == MASK {
        return Err(format!(
            "holds {MASK}, which --print-config shows instead of user and password; fill them in"
        ));
    }
    // Some programs read a single word as the user, some as the password.
    let (username, password) = match user.split_once(':') {
        None if user.is_empty() => ("", ""),
        None => return Err("write user:password@ or :password@ before the host".into()),
        Some(both) => both,
    };
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Credentials {
        username: filled(decoded(username)?),
        password: filled(decoded(password)?).map(Secret::new),
    })
}

fn addresses(hosts: &str, default_port: u16) -> Result<Vec<Address>, String> {
    let all: Vec<Address> = hosts
        .split(',')
        .map(|host| address(host, default_port))
        .collect::<Result<_, _>>()?;
    if all.len() > HOSTS_MAX {
        return Err(format!("names more than {HOSTS_MAX} hosts"));
    }
    Ok(all)
}

fn address(text: &str, default_port: u16) -> Result<Address, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => match port.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return Err(format!("{text:?} is not [IPv6]:port")),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let bracketed = text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
    if host.is_empty() {
        return Err("names no host".into());
    }
    if !bracketed && !host.chars().all(allowed) {
        return Err(format!(
            "{host:?} is neither a host name nor an IP address (IPv6 in brackets)"
        ));
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("port {port:?} is not 1 to 65535")),
        },
    };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn unix(hosts: &str, path: &str) -> Result<Address, String> {
    let path = decoded(path)?;
    if !hosts.is_empty() || !path.starts_with('/') {
        return Err("a unix socket is an absolute path: redis+unix:///run/redis.sock".into());
    }
    if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
        return Err(format!(
            "the path of a unix socket has at most {UNIX_PATH_BYTES_MAX} bytes"
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn database_of_query(query: &str) -> Result<Option<u8>, String> {
    if query.is_empty() {
        return Ok(None);
    }
    match query.split_once('=') {
        Some(("db", text)) => database(text).map(Some),
        _ => Err("knows no parameter but ?db=NUMBER".into()),
    }
}

fn database(text: &str) -> Result<u8, String> {
    text.parse()
        .map_err(|_| format!("database {text:?} is not a number from 0 to 255"))
}

pub(super) fn decoded(text: &str) -> Result<String, String> {
    let fault = || "has a `%` that is not followed by two hexadecimal digits (%25 is `%` itself)";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, left) = match (first, after) {
            (b'%', [high, low, left @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let digits = digit(*high).zip(digit(*low)).ok_or_else(fault)?;
                let byte = u8::try_from(digits.0 * 16 + digits.1).map_err(|_| fault())?;
                (byte, left)
            }
            (b'%', _) => return Err(fault().into()),
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8(bytes).map_err(|_| "does not decode to UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    fn good(url: &str) -> RedisUrl {
        parse(url).unwrap_or_else(|fault| panic!("{url}: {fault}"))
    }

    #[test]
    fn one_server_is_host_port_and_database() {
        let url = good("redis://cache.example");
        assert_eq!(
            url.topology,
            Topology::Standalone(tcp("cache.example", 6379))
        );
        assert_eq!((url.database, url.tls), (0, false));
        let url = good("rediss://[::1]:7000/12");
        assert_eq!(url.topology, Topology::Standalone(tcp("::1", 7000)));
        assert_eq!((url.database, url.tls), (12, true));
        assert_eq!(good("valkeys://h/").database, 0);
        assert!(good("valkeys://h?db=3").tls);
        assert_eq!(good("VALKEY://h?db=3").database, 3);
        assert_eq!(tcp("::1", 7000).to_string(), "[::1]:7000");
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let url = good("redis://ann%40x:p%3Aw@%25@h:1");
        assert_eq!(url.credentials.username.as_deref(), Some("ann@x"));
        let password = url.credentials.password.expect("is there");
        assert_eq!(password.expose(), "p:w@%");
        let url = good("redis://:only@h");
        assert_eq!(url.credentials.username, None);
        assert!(url.credentials.password.is_some());
        assert_eq!(good("redis://:@h").credentials, Credentials::default());
    }

    #[test]
    fn a_unix_socket_is_a_path() {
        for url in [
            "redis+unix:///run/a%20b.sock?db=2",
            "unix:///run/a%20b.sock?db=2",
            "valkey+socket:///run/a%20b.sock?db=2",
        ] {
            let url = good(url);
            let path = Address::Unix("/run/a b.sock".into());
            assert_eq!(url.topology, Topology::Standalone(path));
            assert_eq!(url.database, 2);
        }
        let url = good("redis+unix://:pw@/run/r.sock");
        assert!(url.credentials.password.is_some());
    }

    #[test]
    fn sentinels_and_clusters_have_several_hosts() {
        let url = good("redis-sentinel://u:p@a,b:1,[::2]/main/4");
        let hosts = vec![tcp("a", 26379), tcp("b", 1), tcp("::2", 26379)];
        let service = "main".into();
        assert_eq!(url.topology, Topology::Sentinel { hosts, service });
        assert_eq!(url.database, 4);
        let url = good("rediss-cluster://a,b:1");
        assert!(url.tls);
        assert_eq!(
            url.topology,
            Topology::Cluster(vec![tcp("a", 6379), tcp("b", 1)])
        );
    }

    #[test]
    fn faults_say_what_was_expected_and_quote_no_password() {
        let table = [
            ("h:6379", "redis://host:6379"),
            ("http://h", "starts with none of"),
            ("redis://", "names no host"),
            ("redis://h:0", "1 to 65535"),
            ("redis://h:70000", "1 to 65535"),
            ("redis://h h", "neither a host name"),
            ("redis://a,b", "redis-sentinel://"),
            ("redis://h/x", "0 to 255"),
            ("redis://h/256", "0 to 255"),
            ("redis://h/1?db=1", "twice"),
            ("redis://h?ssl=1", "?db=NUMBER"),
            ("redis://h/0#x", "fragment"),
            ("redis://***@h", "--print-config"),
            ("redis://secret@h", ":password@"),
            ("redis://:sec/ret@h", "percent-encoded"),
            ("redis://:sec?ret#@h/0", "percent-encoded"),
            ("redis://:secret%zz@h", "hexadecimal"),
            ("redis://:secret%f@h", "hexadecimal"),
            ("redis://:secret%ff@h", "UTF-8"),
            ("redis+unix://:sec/ret@/run/x", "absolute path"),
            ("redis+unix://relative", "absolute path"),
            ("redis-sentinel://h", "SERVICE"),
            ("redis-cluster://h/1", "no database but 0"),
            ("redis://[::1", "neither"),
            ("redis://[::1]x", "[IPv6]:port"),
        ];
        for (url, part) in table {
            let fault = parse(url).expect_err(url);
            assert!(fault.contains(part), "{url}: {part:?} is not in {fault}");
            assert!(!fault.contains("sec"), "{url}: {fault}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z+:/@%?#,0-9\\[\\]é-]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&format!("redis://{text}"));
            let _ = parse(&format!("redis-sentinel://{text}"));
            let _ = parse(&format!("unix://{text}"));
        }
    }
}
