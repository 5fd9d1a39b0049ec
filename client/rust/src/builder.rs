//! How a client is set up: address, deadlines, limits of the transport.

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::{
    Address, Client, Error, Kind, Result,
    proto::{admin_service_client::AdminServiceClient, cache_service_client::CacheServiceClient},
};

/// Deadline of a call when the caller sets none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// How long opening a connection may take when the caller sets nothing.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// Largest message in either direction: 4 MiB, the limit of the API, and 64 KiB for a peer that
/// counts its framing differently, so that it is the daemon that refuses and says why.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 + 64 * 1024;

/// An unused connection is probed this often, so that a dead peer is known before the next call.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A probe without an answer for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Flow control: one whole message of a call may be under way, and four of a connection.
const STREAM_WINDOW_BYTES: u32 = 5 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;

/// The same for connections that carry streams of Read and Write. A connection that announces just
/// this window is served by the daemon's threads for large values.
const TRANSFER_WINDOW_BYTES: u32 = 4 * 1024 * 1024 + 7466;
const TRANSFER_CONNECTION_WINDOW_BYTES: u32 = 2 * TRANSFER_WINDOW_BYTES;

/// Sets up a [`Client`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing before `build`"]
pub struct Builder {
    address: Option<String>,
    deadline: Duration,
    connect_timeout: Duration,
    fail_open: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: None,
            deadline: DEADLINE_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            fail_open: false,
        }
    }
}

impl Builder {
    /// Where the daemon listens, in a form of [`Address`]. Default: `PANNIER_ADDR`, else
    /// [`DEFAULT_ADDRESS`](crate::DEFAULT_ADDRESS).
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// How long a call may take, connecting included. Told to the daemon as `grpc-timeout` and kept
    /// on this side too. For streams it limits each wait, not the whole. Default: 5 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long opening a TCP connection may take. Default: 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether the caller goes on without its cache when the daemon cannot be reached, cannot serve
    /// or does not answer in time ([`Kind::is_outage`]): reads are then misses, and writes and
    /// invalidations are [`Outcome::Skipped`](crate::Outcome::Skipped). Other faults stay errors.
    /// Does not hold for streams and the administrative calls. Default: false.
    ///
    /// An invalidation that was skipped did not happen: the old entry is served again when the
    /// daemon returns, until its lifetime ends.
    pub fn fail_open(mut self, fail_open: bool) -> Self {
        self.fail_open = fail_open;
        self
    }

    /// Makes the client. Nothing is sent yet: the connection opens with the first call, and the one
    /// for large values with the first [`read`](Client::read) or [`write`](Client::write).
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the address does not parse.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, which has to carry the connection.
    pub fn build(self) -> Result<Client> {
        let address = match &self.address {
            Some(address) => address.parse()?,
            None => Address::from_env()?,
        };
        let channel = self.endpoint(&address)?.connect_lazy();
        let transfers = self
            .endpoint(&address)?
            .initial_stream_window_size(TRANSFER_WINDOW_BYTES)
            .initial_connection_window_size(TRANSFER_CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        Ok(Client {
            transfers: CacheServiceClient::new(transfers)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            cache: CacheServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            address,
            deadline: self.deadline,
            fail_open: self.fail_open,
        })
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint> {
        let invalid = |error: tonic::transport::Error| {
            Error::local(Kind::InvalidArgument, format!("address {address}: {error}"))
        };
        let endpoint = Endpoint::from_shared(address.endpoint())
            .map_err(invalid)?
            .user_agent(concat!("pannier-client/", env!("CARGO_PKG_VERSION")))
            .map_err(invalid)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(endpoint)
    }
}
