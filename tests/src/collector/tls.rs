//! TLS in front of a collector, as a load balancer would have it.

use std::{fs::File, io, net::SocketAddr, path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::Certificates;

/// What the front door shows and demands: the server's certificate, and a client's.
///
/// # Panics
/// When the files are not what they should be.
pub(super) fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in read(&certificates.authority()) {
        roots.add(authority).expect("an authority");
    }
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let (chain, key) = certificates.server();
    let key = PrivateKeyDer::from_pem_reader(File::open(key).expect("is there")).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_client_cert_verifier(clients.build().expect("authorities"))
        .with_single_cert(read(&chain), key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).expect("is there");
    all.collect::<Result<_, _>>().expect("certificates")
}

/// Forwards what comes in over TLS: HTTP/2 to one address, HTTP/1.1 to the other.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    (http2, http1): (SocketAddr, SocketAddr),
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let mut secure = acceptor.accept(stream).await?;
            let to = match secure.get_ref().1.alpn_protocol() {
                Some(b"h2") => http2,
                Some(b"http/1.1") => http1,
                _ => return Err(io::Error::other("no protocol was agreed on")),
            };
            let mut plain = TcpStream::connect(to).await?;
            copy_bidirectional(&mut secure, &mut plain).await
        });
    }
}
