//! The bytes below: TCP, a unix socket, or TLS over TCP.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use crate::config::Address;

/// How long a connection may be idle before the kernel asks whether the other side is there. Our
/// own signs of life are far more frequent; this is for when the daemon itself stands still.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Any of them.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// Opens one. `lease` bounds how long sent bytes may stay unacknowledged. TLS is for TCP only: a
/// unix socket does not leave the machine.
pub(super) async fn open(
    at: &Address,
    lease: Duration,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Box<dyn Stream>> {
    let (host, tcp) = match at {
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp { host, port } => (host, TcpStream::connect((host.as_str(), *port)).await?),
    };
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(lease * 2))?;
    #[cfg(not(target_os = "linux"))]
    let _ = lease;
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    let name = ServerName::try_from(host.clone())
        .map_err(|_| io::Error::other("TLS needs a host name or IP address"))?;
    let secure = TlsConnector::from(Arc::clone(tls)).connect(name, tcp);
    Ok(Box::new(secure.await?))
}
