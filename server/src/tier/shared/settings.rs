//! How fred is set up: everything it would do on its own is off.

use std::{sync::Arc, time::Duration};

use fred::{
    clients::Client,
    types::{
        RespVersion,
        config::{
            ClusterDiscoveryPolicy, Config, ConnectionConfig, PerformanceConfig, Server,
            ServerConfig, TcpConfig, TlsConfig, TlsConnector,
        },
    },
};
use socket2::TcpKeepalive;

use crate::config::{Address, SharedConfig};

/// What to connect to: resolved, so that data and tracking meet on the same servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One server.
    One(Address),
    /// Some nodes of a Cluster; unix sockets among them are left out.
    Cluster(Vec<Address>),
}

/// Commands that what counts as one in flight can be: a read is two.
const COMMANDS_EACH: usize = 2;
/// Commands in fred's queue beyond those in flight: removals of many names, and what callers who
/// have gone have left there.
const QUEUE_BEYOND: usize = 1024;
const KEEPALIVE_TIME: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// What a client is built from.
pub(super) struct Settings {
    server: ServerConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
    username: Option<String>,
    password: Option<String>,
    database: u8,
    connect_timeout: Duration,
    pub(super) command_timeout: Duration,
    pub(super) max_in_flight: usize,
}

impl Settings {
    pub(super) fn new(
        at: &Target,
        config: &SharedConfig,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Self {
        let server = server(at);
        let is_unix = server.is_unix_socket();
        let credentials = &config.credentials;
        let password = credentials.password.as_ref();
        // Without a password fred would not name the user either.
        let unset = credentials.username.as_ref().map(|_| String::new());
        Self {
            tls: tls.filter(|_| !is_unix),
            username: credentials.username.clone(),
            password: password.map(|it| it.expose().to_owned()).or(unset),
            database: config.database,
            connect_timeout: config.connect_timeout.0,
            command_timeout: config.command_timeout.0,
            max_in_flight: config.max_in_flight,
            server,
        }
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.server.is_clustered()
    }

    /// Longest time for connecting as a whole: fred tries the nodes it was given one by one, each
    /// with a step to connect and a step to set up, and then all masters at once.
    pub(super) fn connect_max(&self) -> Duration {
        let attempts = self.server.hosts().len() + 1;
        self.connect_timeout * 2 * u32::try_from(attempts).unwrap_or(u32::MAX)
    }

    /// A client that is not connected yet.
    pub(super) fn client(self) -> Client {
        let connection = ConnectionConfig {
            connection_timeout: self.connect_timeout,
            internal_command_timeout: self.connect_timeout,
            // A command that was perhaps done is not done again.
            max_command_attempts: 1,
            // See `connection`: following is not safe.
            max_redirections: 0,
            max_command_buffer_len: self.max_in_flight * COMMANDS_EACH + QUEUE_BEYOND,
            auto_client_setname: false,
            reconnect_on_auth_error: false,
            // Silence is what our own time-out sees, for each command; a link without commands is
            // watched by the tracking connection beside it.
            unresponsive: Default::default(),
            tcp: tcp(self.command_timeout.max(self.connect_timeout)),
            ..ConnectionConfig::default()
        };
        let connector = |tls| TlsConnector::from(tokio_rustls::TlsConnector::from(tls));
        let config = Config {
            fail_fast: true,
            server: self.server,
            // fred sends HELLO as a line of text, so that a password with a space or a quote in it
            // falls apart. AUTH is sent as it should be, and RESP2 has all that we ask for.
            version: RespVersion::RESP2,
            username: self.username,
            password: self.password,
            database: Some(self.database).filter(|database| *database > 0),
            tls: self.tls.map(connector).map(TlsConfig::from),
            ..Config::default()
        };
        // Time-outs are ours: one for a whole pipeline, and with it the connection ends.
        let performance = PerformanceConfig {
            default_command_timeout: Duration::ZERO,
            ..PerformanceConfig::default()
        };
        Client::new(config, Some(performance), Some(connection), None)
    }
}

fn tcp(silence: Duration) -> TcpConfig {
    TcpConfig {
        nodelay: Some(true),
        // What was not sent when we give up is discarded: it must not arrive later.
        linger: Some(Duration::ZERO),
        ttl: None,
        keepalive: Some(
            TcpKeepalive::new()
                .with_time(KEEPALIVE_TIME)
                .with_interval(KEEPALIVE_INTERVAL),
        ),
        user_timeout: Some(silence),
    }
}

fn server(at: &Target) -> ServerConfig {
    match at {
        Target::One(Address::Tcp { host, port }) => {
            ServerConfig::new_centralized(host.as_str(), *port)
        }
        Target::One(Address::Unix(path)) => ServerConfig::new_unix_socket(path),
        Target::Cluster(nodes) => ServerConfig::Clustered {
            hosts: nodes.iter().filter_map(tcp_server).collect(),
            policy: ClusterDiscoveryPolicy::UseCache,
        },
    }
}

fn tcp_server(address: &Address) -> Option<Server> {
    match address {
        Address::Tcp { host, port } => Some(Server::new(host.as_str(), *port)),
        Address::Unix(_) => None,
    }
}
