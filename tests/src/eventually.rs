//! Waiting for a state that announces itself by no event.

use std::time::{Duration, Instant};

/// Only a broken build takes this long.
pub const EVENTUALLY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Returns once `condition` holds; asks every 10 ms and panics after [`EVENTUALLY_MAX`]. Only for
/// what has no event of its own: the state of another process, seen through its answers.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(
            begun.elapsed() < EVENTUALLY_MAX,
            "not within {EVENTUALLY_MAX:?}: {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}
