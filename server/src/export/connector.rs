//! A connection to a collector: TCP, with TLS if the endpoint says `https`.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{config::Destination, error::Result, tier::shared::tls::client_config};

/// Connects to one collector.
#[derive(Clone)]
pub(super) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// For this collector; with TLS it is asked for this protocol. Reads the files of TLS.
    pub(super) fn new(to: &Destination, protocol: &[u8]) -> Result<Self> {
        let uri = to.endpoint.uri();
        let tls = match to.tls() {
            None => None,
            Some(files) => {
                let mut config = client_config(&files, "telemetry.otlp")?;
                config.alpn_protocols = vec![protocol.to_vec()];
                Some(Arc::new(config))
            }
        };
        let host = uri.host().unwrap_or_default();
        Ok(Self {
            // An IPv6 address stands in brackets there, and nowhere else.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(match tls {
                Some(_) => 443,
                None => 80,
            }),
            tls,
        })
    }

    async fn connect(self) -> io::Result<TokioIo<Wire>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = self.tls else {
            return Ok(TokioIo::new(Wire(Box::new(tcp))));
        };
        let name = ServerName::try_from(self.host)
            .map_err(|_| io::Error::other("TLS needs a host name or IP address"))?;
        let secure = TlsConnector::from(tls).connect(name, tcp).await?;
        Ok(TokioIo::new(Wire(Box::new(secure))))
    }
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Where to was said at the beginning.
    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// TCP, or TLS over it.
pub(super) struct Wire(Box<dyn Stream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
