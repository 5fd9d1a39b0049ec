//! Listening, and handing connections to the workers.
//!
//! One task accepts and gives each connection to the worker with the fewest. Each worker is a
//! thread with a runtime of its own, so a request stays on one core from the first byte to the
//! last (ADR 0007 has the measurements). `SO_REUSEPORT` would spread connections by hash, unevenly
//! when they are few, and does not exist for unix sockets.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::sleep,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{
    config::Listen,
    stats::{Door, Level},
};

/// Connections that may wait for a worker.
const HANDOVER_QUEUE: usize = 128;
/// Pause after an accept that failed for lack of something, file descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const BACKLOG: u32 = 1024;

/// A bound address.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, removed when dropped.
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds. A unix socket whose owner is gone is replaced; one that answers is in use.
    pub(crate) async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
                };
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            Listen::Unix(path) => {
                clear_stale_socket(path).await?;
                let listener = UnixListener::bind(path)?;
                // The socket is the only lock on the door: owner and group.
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// The address as bound, with the port that was found.
    pub(crate) fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(_, file) => Ok(Listen::Unix(file.0.clone())),
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without it small replies wait for the caller's delayed acknowledgement.
                stream.set_nodelay(true)?;
                stream.into_std().map(Socket::Tcp)
            }
            Self::Unix(listener, _) => listener.accept().await?.0.into_std().map(Socket::Unix),
        }
    }
}

async fn clear_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        let text = format!("{} exists and is no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    if UnixStream::connect(path).await.is_ok() {
        let text = format!("{} is in use by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    fs::remove_file(path)
}

/// A connection between acceptor and worker, belonging to no runtime.
enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection with what it counts against, given back when it is closed.
struct Handover {
    socket: Socket,
    load: Load,
}

struct Load {
    open: Arc<Level>,
    door: Arc<Door>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.open.one_less();
        self.door.connections.one_less();
    }
}

/// The acceptor's end of a worker.
pub(crate) struct Outlet {
    queue: mpsc::Sender<Handover>,
    open: Arc<Level>,
}

/// A worker's end: its connections.
pub(crate) struct Inlet(mpsc::Receiver<Handover>);

/// Both ends of the way from the acceptor to one worker.
pub(crate) fn handover() -> (Outlet, Inlet) {
    let (queue, inlet) = mpsc::channel(HANDOVER_QUEUE);
    (
        Outlet {
            queue,
            open: Arc::default(),
        },
        Inlet(inlet),
    )
}

impl Inlet {
    /// The connections as they come. To be called on the worker's runtime.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        ReceiverStream::new(self.0).map(|Handover { socket, load }| {
            let transport = match socket {
                Socket::Tcp(stream) => Transport::Tcp(TcpStream::from_std(stream)?),
                Socket::Unix(stream) => Transport::Unix(UnixStream::from_std(stream)?),
            };
            Ok(Connection {
                transport,
                _load: load,
            })
        })
    }
}

/// Accepts until `stop`. Connections beyond `max_connections` are closed at once: a caller that is
/// told no can go on without its cache, one that waits cannot.
pub(crate) async fn accept(
    listener: Listener,
    outlets: Vec<Outlet>,
    max_connections: usize,
    door: Arc<Door>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            door.connections_refused.one();
            tracing::warn!(
                max_connections,
                "server.max_connections reached, one was closed"
            );
            continue;
        };
        let least = outlets.iter().min_by_key(|outlet| outlet.open.get());
        let Some(outlet) = least else { return };
        outlet.open.one();
        door.connections.one();
        let load = Load {
            open: Arc::clone(&outlet.open),
            door: Arc::clone(&door),
            _permit: permit,
        };
        // A full queue is a worker that does not keep up; then the connection is closed.
        if outlet.queue.try_send(Handover { socket, load }).is_err() {
            door.connections_refused.one();
            tracing::warn!("a worker does not keep up with new connections, one was closed");
        }
    }
}

/// A connection on its worker.
pub(crate) struct Connection {
    transport: Transport,
    _load: Load,
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

macro_rules! forward {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match &mut $self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx))
    }
}
