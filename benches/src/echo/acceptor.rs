//! Accepts connections on a thread of its own and deals them out in turn.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::sync::mpsc::Sender;

/// Pause after an accept that failed: most often the process is out of file descriptors.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// A connection that belongs to no runtime yet; in non-blocking mode.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A bound listener.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(TcpListener, String),
    Unix(UnixListener, PathBuf),
}

impl Acceptor {
    /// Binds `host:port` or `unix:/path`; a socket file left behind by another process is replaced.
    pub(super) fn bind(listen: &str) -> Result<Self, String> {
        let bound = match listen.strip_prefix("unix:") {
            Some(path) => Self::bind_unix(Path::new(path)),
            None => Self::bind_tcp(listen),
        };
        bound.map_err(|error| format!("cannot listen on {listen}: {error}"))
    }

    fn bind_tcp(listen: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?.to_string();
        Ok(Self::Tcp(listener, address))
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self::Unix(UnixListener::bind(path)?, path.to_owned()))
    }

    /// The address as a client would write it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.clone(),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Accepts for ever and gives each connection to the next worker.
    pub(super) fn run(&self, workers: &[Sender<Connection>]) -> Result<(), String> {
        for worker in workers.iter().cycle() {
            let connection = loop {
                match self.accept() {
                    Ok(connection) => break connection,
                    Err(_) => thread::sleep(PAUSE_AFTER_ERROR),
                }
            };
            worker
                .blocking_send(connection)
                .map_err(|_| "a worker has ended".to_owned())?;
        }
        Err("there are no workers".to_owned())
    }

    fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Connection::Tcp(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Connection::Unix(stream))
            }
        }
    }
}
