//! HTTP: what orchestrators ask. `/healthz` says that the process runs, `/readyz` that it takes
//! requests; neither depends on any tier, because a daemon without tiers still answers misses.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{MethodRouter, get},
};
use tokio_util::sync::CancellationToken;

use super::listen::Listener;

/// The routes; `stopping` is cancelled when the daemon begins to stop.
pub(crate) fn router(stopping: CancellationToken) -> Router {
    let healthz: MethodRouter<CancellationToken> = get(|| async { "ok\n" });
    Router::new()
        .route("/healthz", healthz)
        .route("/readyz", get(ready))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "not found; try /healthz or /readyz\n",
            )
        })
        .with_state(stopping)
}

async fn ready(State(stopping): State<CancellationToken>) -> (StatusCode, &'static str) {
    if stopping.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// Serves until `stop`; then finishes what is in flight.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let stop = stop.cancelled_owned();
    match listener {
        Listener::Tcp(listener) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop)
                .await
        }
        Listener::Unix(listener, _file) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop)
                .await
        }
    }
}
