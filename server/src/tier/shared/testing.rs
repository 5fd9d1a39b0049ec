//! A real `redis-server` for tests, on its own socket in a directory that vanishes.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::config::{Address, Config, Overrides, SharedConfig};

/// Only a broken machine is slower.
const START_MAX: Duration = Duration::from_secs(20);

/// `[shared]` with this URL and defaults otherwise.
pub(crate) fn config_of(url: &str) -> SharedConfig {
    let flags = Overrides {
        redis_url: Some(url.into()),
        data_dir: Some("/nonexistent".into()),
        ..Overrides::default()
    };
    Config::load(&flags, &|_| None)
        .expect("the URL is good")
        .shared
}

/// A port nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("is bound").port()
}

/// A running `redis-server` without persistence; killed when dropped.
pub(crate) struct RedisServer {
    child: Child,
    _dir: TempDir,
    url: String,
    arguments: Vec<String>,
}

impl RedisServer {
    /// One on a unix socket, with more arguments (`["--maxmemory", "1mb"]`).
    pub(crate) fn unix(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("redis.sock");
        let socket = socket
            .to_str()
            .expect("temporary paths are UTF-8")
            .to_owned();
        let url = format!("redis+unix://{socket}");
        Self::start(dir, url, &["--port", "0", "--unixsocket", &socket], more)
    }

    /// One on a free port of 127.0.0.1.
    pub(crate) fn tcp(more: &[&str]) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("tempdir");
        let url = format!("redis://127.0.0.1:{port}");
        let port = port.to_string();
        Self::start(dir, url, &["--bind", "127.0.0.1", "--port", &port], more)
    }

    /// One that speaks TLS only, as `localhost`; it asks for a client certificate when `mutual`.
    pub(crate) fn tls(made: &Certificates, mutual: bool) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("tempdir");
        let url = format!("rediss://localhost:{port}");
        let port = port.to_string();
        let place = ["--bind", "127.0.0.1", "--port", "0", "--tls-port", &port];
        let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
        let (ca, cert, key) = (
            text(&made.ca_file),
            text(&made.cert_file),
            text(&made.key_file),
        );
        let clients = if mutual { "yes" } else { "no" };
        let files = [
            "--tls-ca-cert-file",
            &ca,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            clients,
        ];
        Self::start(dir, url, &place, &files)
    }

    /// A Sentinel on a free port, with a configuration file in `dir` that it may write to.
    pub(crate) fn sentinel(dir: TempDir, file: &Path) -> Self {
        let port = free_port().to_string();
        let file = file.to_str().expect("temporary paths are UTF-8").to_owned();
        let arguments = [&file, "--sentinel", "--bind", "127.0.0.1", "--port", &port];
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        Self {
            child: spawn(&arguments),
            _dir: dir,
            url: format!("redis://127.0.0.1:{port}"),
            arguments,
        }
    }

    fn start(dir: TempDir, url: String, place: &[&str], more: &[&str]) -> Self {
        let path = dir.path().to_str().expect("temporary paths are UTF-8");
        let common = ["--save", "", "--appendonly", "no", "--dir", path];
        let all = place.iter().chain(&common).chain(more);
        let arguments: Vec<String> = all.map(|&text| text.to_owned()).collect();
        Self {
            child: spawn(&arguments),
            _dir: dir,
            url,
            arguments,
        }
    }

    /// `[shared]` for it.
    pub(crate) fn config(&self) -> SharedConfig {
        config_of(&self.url)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        match self.config().topology {
            Some(crate::config::Topology::Standalone(address)) => address,
            other => panic!("one server, not {other:?}"),
        }
    }

    /// What `redis-cli` prints for a command; not for TLS.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        self.cli_as(&[], command)
    }

    /// The same with arguments of `redis-cli` itself, for example `["-a", "password"]`.
    pub(crate) fn cli_as(&self, options: &[&str], command: &[&str]) -> String {
        let place = match self.address() {
            Address::Unix(path) => vec!["-s".into(), path],
            Address::Tcp { port, .. } => vec!["-p".into(), PathBuf::from(port.to_string())],
        };
        let output = Command::new("redis-cli")
            .args(place)
            .arg("--no-auth-warning")
            .args(options)
            .args(command)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Stops it without ending it: connections stay open and silent.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at the same place, after [`RedisServer::kill`].
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.arguments);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = Pid::from_raw(id).expect("a child has an id");
        kill_process(pid, signal).expect("it is our child");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server and waits until it says that it is ready.
fn spawn(arguments: &[String]) -> Child {
    let mut child = Command::new("redis-server")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let mut output = BufReader::new(child.stdout.take().expect("is piped"));
    let (ready, is_ready) = sync_channel(1);
    thread::spawn(move || {
        let mut said = String::new();
        while output.read_line(&mut said).is_ok_and(|bytes| bytes != 0) {
            if said.contains("eady to accept connections") || said.contains("Sentinel ID is") {
                let _ = ready.try_send(Ok(()));
                // Read on, so that it never waits for a reader.
                let _ = output.read_to_end(&mut Vec::new());
                return;
            }
        }
        let _ = ready.try_send(Err(said));
    });
    match is_ready.recv_timeout(START_MAX) {
        Ok(Ok(())) => child,
        Ok(Err(said)) => panic!("redis-server {arguments:?} ended:\n{said}"),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            panic!("redis-server {arguments:?} did not start in {START_MAX:?}");
        }
    }
}

/// An authority, and a certificate of it for `localhost` and 127.0.0.1 with its key.
pub(crate) struct Certificates {
    pub(crate) ca_file: PathBuf,
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    _dir: TempDir,
}

impl Certificates {
    /// Made by the `openssl` program; `None`, with a word on stderr, where there is none.
    pub(crate) fn make() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: there is no openssl program to make certificates with");
            return None;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let openssl = |arguments: &str| {
            let output = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(dir.path())
                .output()
                .expect("openssl is installed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "openssl {arguments}: {said}");
        };
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 {curve} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority \
             -addext keyUsage=critical,keyCertSign"
        ));
        openssl(&format!(
            "req {curve} -keyout server.key -out server.csr -subj /CN=localhost"
        ));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
        std::fs::write(dir.path().join("names"), names).expect("writes");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out server.pem",
        );
        Some(Self {
            ca_file: dir.path().join("ca.pem"),
            cert_file: dir.path().join("server.pem"),
            key_file: dir.path().join("server.key"),
            _dir: dir,
        })
    }
}
