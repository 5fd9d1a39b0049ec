//! The client: get, put, exists, invalidate, and how every call is made.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    Address, Builder, Error, Hit, Invalidated, Kind, Lease, LeaseOptions, Lookup, Outcome,
    Presence, Provenance, PutOptions, ReadOptions, Result, Stored, Target, Version,
    proto::{
        self, admin_service_client::AdminServiceClient, cache_service_client::CacheServiceClient,
    },
    time,
};

/// Largest value that any daemon takes in one message; larger ones go through [`Client::write`]. A
/// namespace may set a smaller limit (3 MiB by default).
pub const UNARY_VALUE_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;

/// A client of one daemon. Cheap to clone; clones share the connection, and a second one for values
/// that are [read](Client::read) and [written](Client::write) in chunks.
///
/// Every call is cancel safe on this side: dropping its future abandons the call. The daemon may
/// have carried it out all the same, or carry it out later: gRPC does not order an abandoned call
/// before the next one. So an invalidation that follows a dropped [`put`](Client::put) may be done
/// first, and the value be there afterwards; await the put where that matters.
///
/// Every call fails with [`Kind::Unreachable`], [`Kind::Deadline`], [`Kind::InvalidArgument`],
/// [`Kind::Overloaded`] or [`Kind::Internal`]; other kinds are named where they occur.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) cache: CacheServiceClient<Channel>,
    // A connection of its own: on the same one a small call would wait for a large value.
    pub(crate) transfers: CacheServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    pub(crate) address: Address,
    pub(crate) deadline: Duration,
    pub(crate) fail_open: bool,
}

impl Client {
    /// A client of the daemon at `address` with everything else by default. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the address does not parse.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build()
    }

    /// Sets up a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the daemon is expected.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The same client with another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// Reads one entry; `None` is a miss.
    ///
    /// ```no_run
    /// # async fn example(client: pannier_client::Client) -> Result<(), pannier_client::Error> {
    /// if let Some(hit) = client.get("reports", "2026-07").await? {
    ///     assert!(!hit.value.is_empty());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, namespace: &str, key: &str) -> Result<Option<Hit>> {
        let lookup = self
            .get_with(namespace, key, &ReadOptions::default())
            .await?;
        Ok(lookup.hit)
    }

    /// Reads one entry as the options say, and tells where the answer came from.
    ///
    /// # Errors
    /// With `require_shared`, [`Kind::Unreachable`] when Redis cannot be reached and
    /// [`Kind::Refused`] when none is configured.
    pub async fn get_with(
        &self,
        namespace: &str,
        key: &str,
        options: &ReadOptions,
    ) -> Result<Lookup> {
        let extra = options.lease.as_ref().map(LeaseOptions::extra);
        let patient = match extra.filter(|extra| !extra.is_zero()) {
            Some(extra) => &self.with_deadline(self.deadline.saturating_add(extra)),
            None => self,
        };
        let request = patient.request(proto::GetRequest {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            options: options.to_proto()?,
        });
        match patient.answer(self.cache.clone().get(request)).await {
            Ok(response) => Ok(Lookup {
                hit: response.entry.map(Hit::from_proto).transpose()?,
                provenance: Provenance::from_proto(response.provenance),
                lease: response.lease.map(Lease::from_proto).transpose()?,
                skipped: None,
            }),
            Err(error) => self.pass_over(error).map(Lookup::skipped),
        }
    }

    /// Writes one entry, replacing what is there. The value is at most [`UNARY_VALUE_BYTES_MAX`]
    /// bytes, often less by the namespace's policy.
    ///
    /// ```no_run
    /// # use pannier_client::{Outcome, PutOptions};
    /// # async fn example(client: pannier_client::Client) -> Result<(), pannier_client::Error> {
    /// let options = PutOptions::new().content_type("text/plain").if_absent();
    /// match client.put("reports", "2026-07", "all well", options).await? {
    ///     Outcome::Done(stored) => println!("stored as {}", stored.version),
    ///     Outcome::Skipped(error) => println!("not cached: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Refused`] when a condition does not hold or the namespace is immutable and holds
    /// another value; [`Kind::Unreachable`] when no tier took it.
    pub async fn put(
        &self,
        namespace: &str,
        key: &str,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Outcome<Stored>> {
        let value = value.into();
        check_value_bytes(value.len())?;
        let request = self.request(options.into_put(namespace, key, value)?);
        match self.answer(self.cache.clone().put(request)).await {
            Ok(response) => stored(response).map(Outcome::Done),
            Err(error) => self.pass_over(error).map(Outcome::Skipped),
        }
    }

    /// The remaining lifetime of an entry, without moving its value; `None` when there is none.
    pub async fn exists(&self, namespace: &str, key: &str) -> Result<Option<Duration>> {
        let presence = self
            .exists_with(namespace, key, &ReadOptions::default())
            .await?;
        Ok(presence.remaining)
    }

    /// As [`exists`](Self::exists), as the options say, and tells where the answer came from.
    ///
    /// # Errors
    /// As [`get_with`](Self::get_with).
    pub async fn exists_with(
        &self,
        namespace: &str,
        key: &str,
        options: &ReadOptions,
    ) -> Result<Presence> {
        let request = self.request(proto::ExistsRequest {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            options: options.to_proto()?,
        });
        match self.answer(self.cache.clone().exists(request)).await {
            Ok(response) => Ok(Presence {
                remaining: response
                    .exists
                    .then(|| time::from_proto(response.ttl).unwrap_or_default()),
                negative: response.negative,
                provenance: Provenance::from_proto(response.provenance),
                skipped: None,
            }),
            Err(error) => self.pass_over(error).map(|error| Presence {
                remaining: None,
                negative: false,
                provenance: Provenance::nowhere(),
                skipped: Some(error),
            }),
        }
    }

    /// Removes entries. Once it has returned [`Outcome::Done`], no read that starts later on this
    /// daemon sees them.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`] for a target that this daemon does not serve; [`Kind::Refused`] when
    /// the caller may not invalidate here.
    pub async fn invalidate(
        &self,
        namespace: &str,
        target: Target,
    ) -> Result<Outcome<Invalidated>> {
        let request = self.request(proto::InvalidateRequest {
            namespace: namespace.to_owned(),
            target: Some(target.into_proto()),
        });
        match self.answer(self.cache.clone().invalidate(request)).await {
            Ok(response) => Ok(Outcome::Done(Invalidated::from_proto(response))),
            Err(error) => self.pass_over(error).map(Outcome::Skipped),
        }
    }

    /// A request that tells the daemon its deadline.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }

    /// Waits for one answer, no longer than the deadline.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(status, &self.address)),
            Err(_) => Err(Error::deadline(&self.address, self.deadline)),
        }
    }

    /// Gives the error back as a value when fail-open passes over it.
    pub(crate) fn pass_over(&self, error: Error) -> Result<Error> {
        if self.fail_open && error.kind().is_outage() {
            Ok(error)
        } else {
            Err(error)
        }
    }
}

/// Refuses here what the transport would refuse with less to say.
pub(crate) fn check_value_bytes(value_bytes: usize) -> Result<()> {
    if value_bytes <= UNARY_VALUE_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("value: {value_bytes} bytes, one message takes at most {UNARY_VALUE_BYTES_MAX}");
    Err(Error::local(Kind::InvalidArgument, message))
}

fn stored(response: proto::PutResponse) -> Result<Stored> {
    Ok(Stored {
        version: Version::from_proto(&response.version)?,
        expires: time::instant(response.expire_time, "no expire_time")?,
        local: response.local_outcome(),
        shared: response.shared_outcome(),
        provenance: Provenance::from_proto(response.provenance),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::{Client, UNARY_VALUE_BYTES_MAX};
    use crate::{
        Kind, Outcome, PutOptions, ReadOptions, SharedState, Target, Tier, TierOutcome,
        fake::{Behaviour, FakeDaemon},
    };

    /// An address where nobody listens: the port was free a moment ago.
    async fn nobody() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        listener.local_addr().expect("its address").to_string()
    }

    #[tokio::test]
    async fn what_was_put_is_got() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        assert!(client.get("n", "k").await.expect("a miss").is_none());
        assert_eq!(client.exists("n", "k").await.expect("a miss"), None);

        let options = PutOptions::new()
            .ttl(Duration::from_secs(60))
            .metadata("lang", "en")
            .content_type("text/plain")
            .tag("t");
        let stored = client
            .put("n", "k", "value", options)
            .await
            .expect("an answer");
        let stored = stored.done().expect("stored");
        assert_eq!(
            (stored.local, stored.shared),
            (TierOutcome::Applied, TierOutcome::Skipped)
        );

        let lookup = client
            .get_with("n", "k", &ReadOptions::default())
            .await
            .expect("an answer");
        assert_eq!(lookup.provenance.tier, Tier::Local);
        assert_eq!(lookup.provenance.shared_state, SharedState::Disabled);
        let hit = lookup.hit.expect("a hit");
        assert_eq!(
            (&hit.value[..], hit.version),
            (&b"value"[..], stored.version)
        );
        assert_eq!(hit.metadata["lang"], "en");
        assert!(hit.remaining() > Duration::from_secs(50));
        assert!(client.exists("n", "k").await.expect("an answer").is_some());

        let gone = client
            .invalidate("n", Target::Tag("t".to_owned()))
            .await
            .expect("an answer");
        assert_eq!(gone.done().expect("done").count, 1);
        assert!(client.get("n", "k").await.expect("a miss").is_none());
    }

    #[tokio::test]
    async fn the_largest_value_of_one_message_passes_and_one_byte_more_does_not() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let largest = vec![7_u8; UNARY_VALUE_BYTES_MAX];
        client
            .put("n", "k", largest.clone(), PutOptions::new())
            .await
            .expect("stored");
        assert_eq!(
            client
                .get("n", "k")
                .await
                .expect("a hit")
                .expect("a hit")
                .value,
            largest
        );
        let more = vec![7_u8; UNARY_VALUE_BYTES_MAX + 1];
        let error = client
            .put("n", "k", more, PutOptions::new())
            .await
            .expect_err("too large");
        assert_eq!(
            (error.kind(), error.answered()),
            (Kind::InvalidArgument, false)
        );
    }

    #[tokio::test]
    async fn a_condition_that_does_not_hold_is_refused_even_under_fail_open() {
        let daemon = FakeDaemon::start().await;
        let client = Client::builder()
            .address(daemon.address())
            .fail_open(true)
            .build();
        let client = client.expect("a client");
        client
            .put("n", "k", "a", PutOptions::new().if_absent())
            .await
            .expect("stored");
        let error = client
            .put("n", "k", "b", PutOptions::new().if_absent())
            .await;
        assert_eq!(error.expect_err("refused").kind(), Kind::Refused);
        let error = client.get("N!", "k").await.expect_err("a bad namespace");
        assert_eq!(
            (error.kind(), error.answered()),
            (Kind::InvalidArgument, true)
        );
    }

    #[tokio::test]
    async fn without_a_daemon_it_is_an_error_that_names_the_address() {
        let address = nobody().await;
        let client = Client::connect(&*address).expect("a client");
        let error = client.get("n", "k").await.expect_err("nobody there");
        assert_eq!((error.kind(), error.answered()), (Kind::Unreachable, false));
        assert!(error.message().contains(&address), "{error}");
        assert!(error.message().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn fail_open_turns_an_absent_daemon_into_misses_and_skips() {
        let client = Client::builder()
            .address(nobody().await)
            .fail_open(true)
            .build();
        assert_passed_over(&client.expect("a client"), Kind::Unreachable).await;
    }

    #[tokio::test]
    async fn fail_open_turns_an_unavailable_daemon_into_misses_and_skips() {
        let daemon = FakeDaemon::start().await;
        daemon.behave(Behaviour::Fail(Code::Unavailable));
        let client = Client::builder()
            .address(daemon.address())
            .fail_open(true)
            .build();
        assert_passed_over(&client.expect("a client"), Kind::Unreachable).await;
    }

    #[tokio::test]
    async fn fail_open_turns_a_silent_daemon_into_misses_and_skips() {
        let daemon = FakeDaemon::start().await;
        daemon.behave(Behaviour::Hang);
        let client = Client::builder()
            .address(daemon.address())
            .deadline(Duration::from_millis(50))
            .fail_open(true)
            .build();
        assert_passed_over(&client.expect("a client"), Kind::Deadline).await;
    }

    async fn assert_passed_over(client: &Client, kind: Kind) {
        assert!(client.get("n", "k").await.expect("a miss").is_none());
        let lookup = client
            .get_with("n", "k", &ReadOptions::default())
            .await
            .expect("a miss");
        assert_eq!(lookup.skipped.expect("the reason").kind(), kind);
        assert_eq!(client.exists("n", "k").await.expect("a miss"), None);
        let put = client
            .put("n", "k", "v", PutOptions::new())
            .await
            .expect("an outcome");
        assert!(matches!(put, Outcome::Skipped(error) if error.kind() == kind));
        let gone = client
            .invalidate("n", Target::All)
            .await
            .expect("an outcome");
        assert!(gone.is_skipped());
    }

    #[tokio::test]
    async fn a_silent_daemon_is_a_deadline_without_fail_open() {
        let daemon = FakeDaemon::start().await;
        daemon.behave(Behaviour::Hang);
        let client = Client::connect(daemon.address()).expect("a client");
        let client = client.with_deadline(Duration::from_millis(50));
        let error = client.get("n", "k").await.expect_err("too late");
        assert_eq!(error.kind(), Kind::Deadline);
    }

    #[tokio::test]
    async fn the_connection_comes_back_by_itself() {
        let daemon = FakeDaemon::start().await;
        let address = daemon.address();
        let client = Client::connect(&*address).expect("a client");
        client.get("n", "k").await.expect("a miss");
        daemon.stop().await;
        let error = client.get("n", "k").await.expect_err("gone");
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        let daemon = FakeDaemon::start_at(&address).await;
        client.get("n", "k").await.expect("a miss");
        daemon.stop().await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_serves_too() {
        let path = std::env::temp_dir().join(format!("pannier-client-{}.sock", std::process::id()));
        let address = format!("unix:{}", path.display());
        let daemon = FakeDaemon::start_at(&address).await;
        let client = Client::connect(&*address).expect("a client");
        client
            .put("n", "k", "v", PutOptions::new())
            .await
            .expect("stored");
        assert!(client.get("n", "k").await.expect("an answer").is_some());
        daemon.stop().await;
        let error = client.get("n", "k").await.expect_err("gone");
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        std::fs::remove_file(path).expect("the daemon leaves its socket");
    }
}
