//! A real `redis-server`, in a directory that vanishes, on a port that nobody else has.
//!
//! - [`Redis`] is one of them, [`Sentinels`] a master with replicas and those that watch it,
//!   [`Cluster`] several masters.
//! - A test talks to it with [`Redis::command`], which uses a connection of its own that is never
//!   encrypted, also when the daemon's is.
//!
//! Killed when dropped, like the daemon.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    ports,
    process::{Ended, Watched},
};

mod certificates;
mod cluster;
mod resp;
mod sentinels;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use resp::{Connection, Reply};
pub use sentinels::Sentinels;

/// Only a broken installation takes this long to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Times another port is tried when somebody took the one that was free.
const ATTEMPTS: usize = 5;

/// How a Redis is to be started. By default: loopback, nothing on disk, no password.
#[derive(Debug, Clone)]
pub struct RedisBuilder {
    home: Arc<TempDir>,
    settings: Vec<(String, String)>,
    password: Option<String>,
    certificates: Option<Certificates>,
    unix_socket: bool,
    sentinel: bool,
}

impl Default for RedisBuilder {
    fn default() -> Self {
        let home = TempDir::with_prefix("pannier-redis-").expect("a temporary directory");
        Self {
            home: Arc::new(home),
            settings: Vec::new(),
            password: None,
            certificates: None,
            unix_socket: false,
            sentinel: false,
        }
    }
}

impl RedisBuilder {
    /// Sets a directive of its configuration, as it stands in `redis.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Lets the default user in by this password only.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.setting("requirepass", password)
            .setting("masterauth", password)
    }

    /// Adds a user with rules of an ACL, as `"on >secret ~pannier:* &* +@all"`.
    #[must_use]
    pub fn user(self, name: &str, rules: &str) -> Self {
        self.setting("user", format!("{name} {rules}"))
    }

    /// Limits its memory, and says what it does at the limit.
    #[must_use]
    pub fn memory(self, bytes: &str, policy: &str) -> Self {
        self.setting("maxmemory", bytes)
            .setting("maxmemory-policy", policy)
    }

    /// Keeps every command on disk before it is acknowledged.
    #[must_use]
    pub fn durable(self) -> Self {
        self.setting("appendonly", "yes")
            .setting("appendfsync", "always")
    }

    /// Serves TLS on a port of its own, beside the plain one; `verify_clients` asks for a
    /// certificate.
    #[must_use]
    pub fn tls(mut self, verify_clients: bool) -> Self {
        let certificates = Certificates::make(&self.home.path().join("tls"));
        let (certificate, key) = certificates.server();
        let authority = certificates.authority();
        self.certificates = Some(certificates);
        // An address for which the certificate is not.
        self.setting("bind", "127.0.0.1 127.0.0.2")
            .setting("tls-cert-file", certificate.display().to_string())
            .setting("tls-key-file", key.display().to_string())
            .setting("tls-ca-cert-file", authority.display().to_string())
            .setting(
                "tls-auth-clients",
                if verify_clients { "yes" } else { "no" },
            )
    }

    /// Serves a unix socket beside the port.
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Follows this master.
    #[must_use]
    pub fn replica_of(self, master: &Redis) -> Self {
        self.setting("replicaof", format!("127.0.0.1 {}", master.port()))
    }

    /// Allows `DEBUG`.
    #[must_use]
    pub fn debug(self) -> Self {
        self.setting("enable-debug-command", "yes")
    }

    /// Is a sentinel instead of a server.
    pub(crate) fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// With its log when it does not.
    pub fn start(self) -> Redis {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let (port, tls_port) = (ports::free(), ports::free());
            let process = self.launch(port, tls_port);
            let redis = Redis {
                process,
                builder: self.clone(),
                port,
                tls_port,
            };
            if redis.serves() {
                return redis;
            }
            log = redis.log();
        }
        panic!("redis-server did not become ready:\n{log}");
    }

    fn launch(&self, port: u16, tls_port: u16) -> Watched {
        let home = self.home.path();
        let mut text = format!("port {port}\nbind 127.0.0.1\ndir {}\n", home.display());
        if !self.sentinel {
            text.push_str("save \"\"\nrepl-diskless-sync-delay 0\n");
        }
        if self.certificates.is_some() {
            text.push_str(&format!("tls-port {tls_port}\n"));
        }
        if self.unix_socket {
            text.push_str(&format!("unixsocket {}\n", self.socket_path().display()));
        }
        for (name, value) in &self.settings {
            text.push_str(&format!("{name} {value}\n"));
        }
        let path = home.join("redis.conf");
        fs::write(&path, text).expect("the configuration can be written");
        let mut command = Command::new("redis-server");
        command.arg(path).current_dir(home);
        if self.sentinel {
            command.arg("--sentinel");
        }
        Watched::start(command)
    }

    fn socket_path(&self) -> PathBuf {
        self.home.path().join("redis.sock")
    }
}

/// What becomes of the data when Redis is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// It is there again; needs [`RedisBuilder::durable`].
    Kept,
    /// It is gone.
    Lost,
}

/// A running `redis-server`.
#[derive(Debug)]
pub struct Redis {
    process: Watched,
    builder: RedisBuilder,
    port: u16,
    tls_port: u16,
}

impl Redis {
    /// Starts one with the default [`RedisBuilder`].
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Says how to start one.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Its port, never encrypted.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it serves, never encrypted.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// What a daemon is to be given: with the password when there is one, by TLS when it serves it.
    pub fn url(&self) -> String {
        match &self.builder.password {
            Some(password) => self.url_with(&format!(":{password}@")),
            None => self.url_with(""),
        }
    }

    /// The same with credentials of a user.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(&format!("{user}:{password}@"))
    }

    fn url_with(&self, credentials: &str) -> String {
        match self.builder.certificates {
            Some(_) => format!("rediss://{credentials}localhost:{}", self.tls_port),
            None => format!("redis://{credentials}127.0.0.1:{}", self.port),
        }
    }

    /// The same by the unix socket.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.builder.socket_path().display())
    }

    /// The certificates it was started with.
    ///
    /// # Panics
    /// When it serves no TLS.
    pub fn certificates(&self) -> &Certificates {
        let certificates = self.builder.certificates.as_ref();
        certificates.expect("started with TLS")
    }

    /// The port that serves TLS, when one does.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Where it keeps its files.
    pub fn home(&self) -> &Path {
        self.builder.home.path()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A connection of its own as the default user.
    ///
    /// # Errors
    /// When it is away or silent.
    pub fn connection(&self) -> io::Result<Connection> {
        Connection::open(self.address(), self.builder.password.as_deref())
    }

    /// Runs one command on a connection of its own; a refusal is an answer too.
    ///
    /// # Errors
    /// When it is away or silent.
    pub fn try_command(&self, arguments: &[impl AsRef<[u8]>]) -> io::Result<Reply> {
        self.connection()?.command(arguments)
    }

    /// The same for one that is there.
    ///
    /// # Panics
    /// When it is not.
    pub fn command(&self, arguments: &[impl AsRef<[u8]>]) -> Reply {
        let reply = self.try_command(arguments);
        reply.unwrap_or_else(|error| panic!("redis: {error}\n{}", self.log()))
    }

    /// A field of INFO; `None` when it has no such field.
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        let text = self.command(&["INFO", section]).text();
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field)?;
        Some(value.trim().to_owned())
    }

    /// How often it has been given a command since [`Redis::forget_calls`], by any client.
    pub fn calls(&self, command: &str) -> u64 {
        let field = format!("cmdstat_{}", command.to_lowercase());
        let stat = self.info("commandstats", &field).unwrap_or_default();
        let calls = stat.split(',').find_map(|it| it.strip_prefix("calls="));
        calls.map_or(0, |calls| calls.parse().expect("a count"))
    }

    /// How often it has been asked for whole values since then.
    pub fn reads(&self) -> u64 {
        self.calls("get") + self.calls("mget")
    }

    /// Sets the counters of INFO to zero.
    pub fn forget_calls(&self) {
        assert!(self.command(&["CONFIG", "RESETSTAT"]).is_ok());
    }

    /// Bytes it has sent to all its clients and replicas.
    pub fn bytes_sent(&self) -> u64 {
        let bytes = self.info("stats", "total_net_output_bytes");
        bytes.and_then(|it| it.parse().ok()).expect("a count")
    }

    /// Its clients: for each the fields of CLIENT LIST.
    pub fn clients(&self) -> Vec<BTreeMap<String, String>> {
        let text = self.command(&["CLIENT", "LIST"]).text();
        let fields = |line: &str| {
            let fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        text.lines().map(fields).collect()
    }

    /// Closes the connections on which tracking is on; how many.
    pub fn kill_trackers(&self) -> usize {
        let clients = self.clients();
        let is_tracker = |client: &&BTreeMap<String, String>| client["flags"].contains('t');
        let kill = |client: &BTreeMap<String, String>| {
            self.command(&["CLIENT", "KILL", "ID", &client["id"]]);
        };
        clients.iter().filter(is_tracker).map(kill).count()
    }

    /// Closes all connections of others; how many.
    pub fn kill_clients(&self) -> i64 {
        self.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .integer()
            + self
                .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
                .integer()
    }

    /// What it has written to its log so far.
    pub fn log(&self) -> String {
        let output = |output: &crate::process::Output| {
            Some([output.stdout.clone(), output.stderr.clone()].concat())
        };
        self.process
            .wait_for(Duration::ZERO, output)
            .unwrap_or_default()
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it as an operator does.
    pub fn terminate(&mut self) -> Ended {
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE)
    }

    /// Stops it where it stands until [`Redis::thaw`]; it stands when this returns.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Kills it, if it still runs, and starts it again on the same port; it serves when this
    /// returns.
    ///
    /// # Panics
    /// With its log when it does not.
    pub fn restart(&mut self, data: Data) {
        self.relaunch(data);
        assert!(self.serves(), "redis-server is not back:\n{}", self.log());
    }

    /// The same without waiting: it may still be loading its data.
    pub fn relaunch(&mut self, data: Data) {
        self.kill();
        if data == Data::Lost {
            // What is not there need not be removed.
            let _ = fs::remove_dir_all(self.home().join("appendonlydir"));
            let _ = fs::remove_file(self.home().join("appendonly.aof"));
            let _ = fs::remove_file(self.home().join("dump.rdb"));
        }
        self.process = self.builder.launch(self.port, self.tls_port);
    }

    /// Sets a directive for the next start.
    pub fn set_for_restart(&mut self, name: &str, value: &str) {
        self.builder.settings.retain(|(other, _)| other != name);
        let setting = (name.to_owned(), value.to_owned());
        self.builder.settings.push(setting);
    }

    /// Waits until it serves; `false` when it has ended instead.
    fn serves(&self) -> bool {
        let sign = match self.builder.sentinel {
            true => "+monitor",
            false => "Ready to accept connections",
        };
        let seen = self.process.wait_for(PATIENCE, |output| {
            let serves = output.stdout.contains(sign);
            (serves || output.has_ended()).then_some(serves)
        });
        seen == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::{Data, Redis, Reply};

    #[test]
    fn it_answers_every_kind_of_reply() {
        let redis = Redis::start();
        assert!(redis.command(&["SET", "k", "v"]).is_ok());
        assert_eq!(redis.command(&["GET", "k"]).bytes(), Some(&b"v"[..]));
        assert_eq!(redis.command(&["GET", "none"]), Reply::Nil);
        assert_eq!(redis.command(&["DEL", "k", "none"]).integer(), 1);
        assert!(redis.command(&["NONSENSE"]).is_error());
        assert_eq!(redis.command(&["ROLE"]).array()[0].text(), "master");
        assert_eq!(redis.calls("get"), 2);
        redis.forget_calls();
        assert_eq!(redis.calls("get"), 0);
    }

    #[test]
    fn what_is_durable_survives_a_kill_and_can_be_lost() {
        let mut redis = Redis::builder().durable().password("secret").start();
        redis.command(&["SET", "k", "v"]);
        redis.restart(Data::Kept);
        assert_eq!(redis.command(&["GET", "k"]).text(), "v");
        redis.restart(Data::Lost);
        assert_eq!(redis.command(&["GET", "k"]), Reply::Nil);
        assert!(redis.url().contains(":secret@"));
        redis.kill();
        assert!(redis.try_command(&["PING"]).is_err());
    }

    #[test]
    fn a_frozen_one_takes_commands_and_answers_when_it_is_thawed() {
        let redis = Redis::start();
        let mut connection = redis.connection().expect("it is there");
        redis.freeze();
        redis.thaw();
        assert_eq!(
            connection.command(&["PING"]).expect("an answer").text(),
            "PONG"
        );
        assert_eq!(redis.kill_clients(), 1, "the other connection");
    }

    #[test]
    fn tls_and_a_unix_socket_are_served_beside_the_plain_port() {
        let redis = Redis::builder().tls(true).unix_socket().start();
        assert!(redis.url().starts_with("rediss://localhost:"));
        assert!(redis.home().join("redis.sock").exists());
        let (certificate, key) = redis.certificates().client();
        let output = std::process::Command::new("redis-cli")
            .args([
                "--tls",
                "-h",
                "localhost",
                "-p",
                &redis.tls_port().to_string(),
            ])
            .arg("--cacert")
            .arg(redis.certificates().authority())
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key)
            .arg("PING")
            .output()
            .expect("redis-cli is there");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "PONG\n",
            "{output:?}"
        );
    }
}
