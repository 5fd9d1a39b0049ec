//! HTTP: what orchestrators, Prometheus and people ask (P18).
//!
//! `/healthz` says that the process runs, `/readyz` that it takes requests; neither depends on any
//! tier, because a daemon without tiers still answers misses. `/cache/health` and `/cache/metrics`
//! have the fields that programs of the time before Pannier read. `/` is a page for people. All of
//! it answers GET and HEAD only, and reads no body. On a loopback address it answers nobody who
//! asks for another host ([`host`]).

mod host;
mod page;
mod serve;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{from_fn, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub(crate) use self::serve::serve;
use crate::{config::Listen, metrics::Format, observe::Observer, stats::Reading};

/// What is asked.
#[derive(Debug, Clone)]
struct Asked {
    observer: Arc<Observer>,
    /// Cancelled when the daemon begins to stop.
    stopping: CancellationToken,
}

/// The routes; `stopping` is cancelled when the daemon begins to stop.
pub(crate) fn router(observer: Arc<Observer>, stopping: CancellationToken) -> Router {
    let listen = observer.engine().config().server.http_listen.clone();
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status.json", get(status))
        .route("/cache/health", get(cache_health))
        .route("/cache/metrics", get(cache_metrics))
        .merge(page::routes())
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "not found; try / (a page to look at), /healthz, /readyz, /metrics, /status.json, \
                 /cache/health or /cache/metrics\n",
            )
        })
        .layer(map_response(as_declared))
        .with_state(Asked { observer, stopping });
    match listen {
        Listen::Tcp(address) if address.ip().to_canonical().is_loopback() => {
            routes.layer(from_fn(host::only_local))
        }
        // Who listens elsewhere has names that are not known here; no browser asks a socket.
        Listen::Tcp(_) | Listen::Unix(_) => routes,
    }
}

/// Names in the figures come from callers: no browser is to guess that they are markup.
async fn as_declared(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn ready(State(asked): State<Asked>) -> (StatusCode, &'static str) {
    if asked.stopping.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(asked): State<Asked>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|it| it.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    match asked.observer.snapshot().await {
        Ok(snapshot) => {
            let kind = [(header::CONTENT_TYPE, format.content_type())];
            (kind, format.write(&snapshot)).into_response()
        }
        Err(error) => broken(&error),
    }
}

async fn status(State(asked): State<Asked>) -> Response {
    match asked.observer.status().await {
        Ok(status) => ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response(),
        Err(error) => broken(&error),
    }
}

/// Figures are plain numbers: only a panic beside them comes here.
fn broken(error: &crate::error::Error) -> Response {
    tracing::error!(%error, "the figures cannot be read");
    let text = "the figures cannot be read; see the log\n";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

/// The body of `/cache/health`.
#[derive(Debug, PartialEq, Serialize)]
struct CacheHealth {
    enabled: bool,
    connected: bool,
    message: &'static str,
    hits: u64,
    misses: u64,
}

async fn cache_health(State(asked): State<Asked>) -> Response {
    let shared = asked.observer.engine().shared();
    let (connected, message) = match shared.map(|it| it.coherence().is_attached()) {
        None => (false, "No shared tier configured, using the local tier"),
        Some(true) => (true, "Connected"),
        Some(false) => (false, "Connection failed, using fallback"),
    };
    let total = asked.observer.since_reset().frame.total();
    let health = CacheHealth {
        enabled: true,
        connected,
        message,
        hits: total.hits(),
        misses: total.misses,
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}

/// The body of `/cache/metrics`.
#[derive(Debug, Serialize)]
struct CacheMetrics {
    total_requests: u64,
    hits: u64,
    misses: u64,
    hit_rate: String,
    sets: u64,
    deletes: u64,
    errors: u64,
    categories: BTreeMap<String, Category>,
}

/// What it says of a namespace.
#[derive(Debug, Serialize)]
struct Category {
    hits: u64,
    misses: u64,
    hit_rate: String,
}

async fn cache_metrics(State(asked): State<Asked>) -> Response {
    let frame = asked.observer.since_reset().frame;
    let total = frame.total();
    // Those that nobody has read from are no category.
    let read = |reading: &Reading| reading.hits() + reading.misses > 0;
    let read_from = frame.namespaces.iter().filter(|it| read(&it.reading));
    let categories = read_from.map(|met| {
        let category = Category {
            hits: met.reading.hits(),
            misses: met.reading.misses,
            hit_rate: percent(&met.reading),
        };
        (met.name.to_string(), category)
    });
    let metrics = CacheMetrics {
        total_requests: total.hits() + total.misses,
        hits: total.hits(),
        misses: total.misses,
        hit_rate: percent(&total),
        sets: total.puts,
        deletes: total.invalidations,
        errors: total.errors,
        categories: categories.collect(),
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(metrics)).into_response()
}

/// The hit rate as its readers expect it: `12.34%`, and `0.00%` without reads.
fn percent(reading: &Reading) -> String {
    format!("{:.2}%", reading.hit_ratio().unwrap_or(0.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_rate_has_two_digits() {
        let rate = |hits_local, misses| {
            percent(&Reading {
                hits_local,
                misses,
                ..Reading::default()
            })
        };
        assert_eq!(rate(0, 0), "0.00%");
        assert_eq!(rate(1, 2), "33.33%");
        assert_eq!(rate(2, 1), "66.67%");
        assert_eq!(rate(5, 0), "100.00%");
    }
}
