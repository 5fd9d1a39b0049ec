//! Accepting and serving connections for HTTP, with limits: axum's own `serve` has none.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{frontdoor::listen::Listener, stats::Door};

/// A request's line and headers must have come by then; also how long an idle connection is kept.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a request's line and headers.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Pause after an accept that failed for lack of something, file descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`; then finishes what is in flight. Connections beyond `connections_max` are
/// closed at once.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    connections_max: usize,
    door: Arc<Door>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            // Only to let go of what has ended.
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            door.http_connections_refused.one();
            continue;
        };
        let open = Open::new(permit, Arc::clone(&door));
        connections.spawn(connection(stream, router.clone(), stop.clone(), open));
    }
    while connections.join_next().await.is_some() {}
}

/// A connection that is open; ends when dropped.
struct Open {
    door: Arc<Door>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(permit: OwnedSemaphorePermit, door: Arc<Door>) -> Self {
        door.http_connections.one();
        Self {
            door,
            _permit: permit,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.door.http_connections.one_less();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
        Listener::Unix(listener, _file) => Box::new(listener.accept().await?.0),
    })
}

async fn connection(stream: Box<dyn Stream>, router: Router, stop: CancellationToken, open: Open) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_BYTES_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
    drop(open);
}
