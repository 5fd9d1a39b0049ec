//! One runtime that serves the connections it is given.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use pannier_proto::v1::cache_service_server::CacheServiceServer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
    sync::mpsc::{self, Sender},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Server, server::Connected};

use super::{acceptor::Connection, service::Echo};

/// Connections accepted and not yet taken up by the runtime.
const QUEUE: usize = 64;
/// The HTTP/2 settings of the daemon.
const FRAME_BYTES_MAX: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// Starts a runtime of `threads` threads that serves what is sent to the returned channel.
pub(super) fn start(echo: &Echo, threads: usize) -> Result<Sender<Connection>, String> {
    let describe = |error: io::Error| format!("cannot start a runtime: {error}");
    let runtime = match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    }
    .map_err(describe)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let service = CacheServiceServer::new(echo.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    thread::Builder::new()
        .name("echo-worker".to_owned())
        .spawn(move || serve(&runtime, service, ReceiverStream::new(receiver)))
        .map_err(describe)?;
    Ok(sender)
}

fn serve(
    runtime: &Runtime,
    service: CacheServiceServer<Echo>,
    connections: ReceiverStream<Connection>,
) {
    let server = Server::builder()
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming(connections.map(Stream::adopt));
    // It ends only when the acceptor is gone, and then the process ends as well.
    drop(runtime.block_on(server));
}

/// A connection registered with the runtime it was adopted on.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn adopt(connection: Connection) -> io::Result<Self> {
        match connection {
            Connection::Tcp(stream) => TcpStream::from_std(stream).map(Self::Tcp),
            Connection::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    // Without this the values would be copied into one buffer first.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
