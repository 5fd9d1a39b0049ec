//! How the generator connects: one HTTP/2 connection for each channel, over TCP or a unix socket.

use std::time::Duration;

use tonic::transport::Endpoint;

/// A call that takes longer counts as an error.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// The HTTP/2 windows of the daemon, so that neither side waits for the other's.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The largest message in either direction: 4 MiB and headroom for what is around the value.
pub(super) const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// Reads `host:port`, `http://host:port` or `unix:/path`. Nothing is connected yet.
pub(super) fn endpoint(target: &str) -> Result<Endpoint, String> {
    if target.starts_with("https:") {
        return Err(format!("target {target}: the generator does not speak TLS"));
    }
    let uri = if target.starts_with("unix:") || target.starts_with("http:") {
        target.to_owned()
    } else {
        format!("http://{target}")
    };
    let endpoint =
        Endpoint::from_shared(uri).map_err(|error| format!("target {target}: {error}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIME_MAX)
        .timeout(CALL_TIME_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn addresses_of_all_kinds_are_understood() {
        for target in [
            "127.0.0.1:7070",
            "http://[::1]:7070",
            "unix:/run/pannier.sock",
        ] {
            assert!(endpoint(target).is_ok(), "{target}");
        }
    }

    #[test]
    fn tls_is_refused_by_name() {
        let refusal = endpoint("https://cache:7070").err().unwrap_or_default();
        assert!(refusal.contains("TLS"), "{refusal}");
    }
}
