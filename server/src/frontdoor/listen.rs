//! Listening, and handing connections to the workers.
//!
//! One task accepts, looks what a connection is for, and gives it to the worker with the fewest, or
//! to the thread of large values with the fewest. Each worker is a
//! thread with a runtime of its own, so a request stays on one core from the first byte to the
//! last (ADR 0007 has the measurements). `SO_REUSEPORT` would spread connections by hash, unevenly
//! when they are few, and does not exist for unix sockets.

mod arrival;

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

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use self::arrival::{Purpose, purpose};
use crate::{
    config::Listen,
    stats::{Door, Level},
};

/// Connections that may wait for a worker.
const HANDOVER_QUEUE: usize = 128;
/// Pause after an accept that failed for lack of something, file descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Who has said nothing by then is served like most.
const FIRST_BYTES_PATIENCE: Duration = Duration::from_secs(1);
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

    async fn accept(&self) -> io::Result<Transport> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without it small replies wait for the caller's delayed acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Transport::Tcp(stream))
            }
            Self::Unix(listener, _) => listener.accept().await.map(|it| Transport::Unix(it.0)),
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

/// A connection with what was read of it, and what it counts against.
struct Handover {
    socket: Socket,
    first: Bytes,
    load: Load,
}

/// What a connection counts against; given back when it is closed.
struct Load {
    open: Arc<Level>,
    _admitted: Admitted,
}

struct Admitted {
    door: Arc<Door>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.open.one_less();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.door.connections.one_less();
    }
}

/// The acceptor's ends of all who serve connections.
#[derive(Default)]
pub(crate) struct Outlets {
    /// Of the workers.
    pub(crate) ordinary: Vec<Outlet>,
    /// Of the threads of large values.
    pub(crate) transfers: Vec<Outlet>,
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
        ReceiverStream::new(self.0).map(|handover| {
            let transport = match handover.socket {
                Socket::Tcp(stream) => Transport::Tcp(TcpStream::from_std(stream)?),
                Socket::Unix(stream) => Transport::Unix(UnixStream::from_std(stream)?),
            };
            Ok(Connection {
                transport,
                first: handover.first,
                _load: handover.load,
            })
        })
    }
}

/// Accepts until `stop`. Connections beyond `max_connections` are closed at once: a caller that is
/// told no can go on without its cache, one that waits cannot.
pub(crate) async fn accept(
    listener: Listener,
    outlets: Outlets,
    max_connections: usize,
    door: Arc<Door>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let (outlets, mut arriving) = (Arc::new(outlets), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
            Some(_) = arriving.join_next() => continue,
        };
        let transport = match accepted {
            Ok(transport) => transport,
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
        door.connections.one();
        let admitted = Admitted {
            door: Arc::clone(&door),
            _permit: permit,
        };
        let outlets = Arc::clone(&outlets);
        arriving.spawn(async move { outlets.hand_over(transport, admitted).await });
    }
}

impl Outlets {
    /// Gives a connection to the one with the fewest of its kind.
    async fn hand_over(&self, mut transport: Transport, admitted: Admitted) {
        let (purpose, first) = match &mut transport {
            Transport::Tcp(stream) => purpose(stream, FIRST_BYTES_PATIENCE).await,
            Transport::Unix(stream) => purpose(stream, FIRST_BYTES_PATIENCE).await,
        };
        let kind = match purpose {
            Purpose::Ordinary => &self.ordinary,
            Purpose::Transfers => &self.transfers,
        };
        let Some(outlet) = kind.iter().min_by_key(|outlet| outlet.open.get()) else {
            return;
        };
        let socket = match transport {
            Transport::Tcp(stream) => stream.into_std().map(Socket::Tcp),
            Transport::Unix(stream) => stream.into_std().map(Socket::Unix),
        };
        let Ok(socket) = socket else { return };
        outlet.open.one();
        let door = Arc::clone(&admitted.door);
        let load = Load {
            open: Arc::clone(&outlet.open),
            _admitted: admitted,
        };
        let handover = Handover {
            socket,
            first,
            load,
        };
        // A full queue is a worker that does not keep up; then the connection is closed.
        if outlet.queue.try_send(handover).is_err() {
            door.connections_refused.one();
            tracing::warn!("a worker does not keep up with new connections, one was closed");
        }
    }
}

/// A connection on its worker.
pub(crate) struct Connection {
    transport: Transport,
    /// What was read of it before it came here.
    first: Bytes,
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let first = &mut self.first;
        if !first.is_empty() {
            let known = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..known]);
            first.advance(known);
            return Poll::Ready(Ok(()));
        }
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
