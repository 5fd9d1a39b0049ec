//! Daemons with a shared tier.

use pannier_proto::v1::SharedState;

use crate::{Builder, Daemon, eventually};

/// A daemon's configuration for this Redis; `more` follows in the section `[shared]` and may open
/// others.
pub fn config(url: &str, more: &str) -> String {
    format!("[shared]\nurl = \"{url}\"\n{more}\n")
}

/// How to start a daemon for this Redis.
pub fn builder(url: &str, more: &str) -> Builder {
    Daemon::builder().config(&config(url, more))
}

/// Starts a daemon and waits until it is attached.
pub async fn start(url: &str, more: &str) -> Daemon {
    let daemon = builder(url, more).start();
    attached(&daemon).await;
    daemon
}

/// Waits until the daemon is in contact with Redis and trusts what it has.
pub async fn attached(daemon: &Daemon) {
    is(daemon, SharedState::Attached).await;
}

/// Waits until the daemon knows that it is not.
pub async fn detached(daemon: &Daemon) {
    is(daemon, SharedState::Detached).await;
}

async fn is(daemon: &Daemon, state: SharedState) {
    eventually(&format!("the daemon is {state:?}"), async || {
        daemon.stats().await.shared_state() == state
    })
    .await;
}

/// The name of an entry in Redis, with the default prefix.
pub fn key(namespace: &str, key: &str) -> String {
    format!("pannier:{namespace}:{key}")
}
