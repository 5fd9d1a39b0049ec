//! Leases: one caller computes a missing value, the others wait for it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{Client, Error, Hit, Kind, PutOptions, ReadOptions, Result, Target, proto, time};

/// How to take part in the election of the one who computes. The default: not to wait, and to be
/// given ten seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseOptions {
    wait: Option<Duration>,
    duration: Option<Duration>,
    early_refresh: Option<Duration>,
    tags: Vec<String>,
}

impl LeaseOptions {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for another caller's value, up to 60 s. The call may take that long in
    /// addition to the client's deadline.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// How long this caller may take if it is the one to compute: 100 ms to 10 min. Afterwards
    /// another one is told to.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// About how long a computation takes, up to 10 min: then one of those who read the entry
    /// shortly before it ends is told to compute it anew.
    pub fn early_refresh(mut self, takes: Duration) -> Self {
        self.early_refresh = Some(takes);
        self
    }

    /// The tags that the value will be put with: an invalidation of one of them ends the lease.
    /// [`get_or_compute`](Client::get_or_compute) takes them from the options of the put.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// By how much a call may take longer.
    pub(crate) fn extra(&self) -> Duration {
        self.wait.unwrap_or_default()
    }

    /// # Errors
    /// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) when a span is too long to be said.
    pub(crate) fn to_proto(&self) -> Result<proto::LeaseRequest> {
        let span = |span: Option<Duration>, field| {
            span.map(|span| time::to_proto(span, field)).transpose()
        };
        Ok(proto::LeaseRequest {
            wait_duration: span(self.wait, "wait")?,
            lease_duration: span(self.duration, "duration")?,
            early_refresh: span(self.early_refresh, "early_refresh")?,
            tags: self.tags.clone(),
        })
    }
}

/// The right, and the duty, to compute a value: put it with [`PutOptions::lease`].
#[derive(Clone, PartialEq, Eq)]
pub struct Lease {
    /// What the put shows. Opaque.
    pub token: Bytes,
    /// When the right ends.
    pub expires: SystemTime,
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn from_proto(lease: proto::Lease) -> Result<Self> {
        Ok(Self {
            token: lease.token,
            expires: time::instant(lease.expire_time, "no expire_time")?,
        })
    }
}

/// Why [`Client::get_or_compute`] has no value.
#[derive(Debug)]
pub enum ComputeError<E> {
    /// The caller could not compute it.
    Compute(E),
    /// The request itself is at fault: a limit is broken, or the caller may not.
    Cache(Error),
}

impl<E: fmt::Display> fmt::Display for ComputeError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compute(error) => write!(formatter, "the value could not be computed: {error}"),
            Self::Cache(error) => error.fmt(formatter),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ComputeError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Compute(error) => Some(error),
            Self::Cache(error) => Some(error),
        }
    }
}

impl Client {
    /// The value of an entry, computed by one of all callers that miss it together.
    ///
    /// Who is told to compute does so and puts the value; the others wait for it, as long as
    /// `lease` says, and compute for themselves if it has not come. With
    /// [`early_refresh`](LeaseOptions::early_refresh) one caller computes before the entry ends.
    ///
    /// The cache is no reason to fail here, with or without
    /// [fail-open](crate::Builder::fail_open): without a daemon every caller computes, and a value
    /// that could not be put is returned all the same.
    ///
    /// ```no_run
    /// # use pannier_client::{LeaseOptions, PutOptions};
    /// # use std::{error::Error, time::Duration};
    /// # async fn example(client: pannier_client::Client) -> Result<(), Box<dyn Error>> {
    /// let lease = LeaseOptions::new().wait(Duration::from_secs(5));
    /// let options = PutOptions::new().ttl(Duration::from_secs(600));
    /// let report = client
    ///     .get_or_compute("reports", "2026-07", lease, options, async || {
    ///         std::fs::read("report.txt").map(Into::into)
    ///     })
    ///     .await?;
    /// # drop(report);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with what `compute` failed with: the lease is given back then, so
    /// that another caller tries at once. [`ComputeError::Cache`] when the request is at fault
    /// ([`Kind::InvalidArgument`], [`Kind::Refused`]): then nothing was computed, or the value
    /// breaks a limit.
    ///
    /// A negative entry is not taken for a value: who meets one computes.
    pub async fn get_or_compute<E>(
        &self,
        namespace: &str,
        key: &str,
        lease: LeaseOptions,
        options: PutOptions,
        compute: impl AsyncFnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, ComputeError<E>> {
        let known = |hit: &Hit| (!hit.negative).then(|| hit.value.clone());
        let to_put = |value: &Bytes| (value.clone(), options.clone());
        let how = (lease, &options, known, to_put);
        self.elect(namespace, key, how, compute).await
    }

    /// As [`get_or_compute`](Client::get_or_compute) of a value that may not exist. `None` is kept
    /// as a [negative](PutOptions::negative) entry, for the namespace's `negative_ttl`.
    ///
    /// # Errors
    /// As of [`get_or_compute`](Client::get_or_compute).
    pub async fn get_or_compute_optional<E>(
        &self,
        namespace: &str,
        key: &str,
        lease: LeaseOptions,
        options: PutOptions,
        compute: impl AsyncFnOnce() -> Result<Option<Bytes>, E>,
    ) -> Result<Option<Bytes>, ComputeError<E>> {
        let known = |hit: &Hit| Some((!hit.negative).then(|| hit.value.clone()));
        let to_put = |value: &Option<Bytes>| match value {
            Some(value) => (value.clone(), options.clone()),
            None => (Bytes::new(), options.clone().negated()),
        };
        let how = (lease, &options, known, to_put);
        self.elect(namespace, key, how, compute).await
    }

    /// What both have in common: what is known by an entry, and what is put for what was computed.
    async fn elect<T, E>(
        &self,
        namespace: &str,
        key: &str,
        (lease, options, known, to_put): (
            LeaseOptions,
            &PutOptions,
            impl Fn(&Hit) -> Option<T>,
            impl Fn(&T) -> (Bytes, PutOptions),
        ),
        compute: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, ComputeError<E>> {
        let read = ReadOptions {
            lease: Some(lease.tags(options.own_tags())),
            ..ReadOptions::default()
        };
        let (hit, lease) = match self.get_with(namespace, key, &read).await {
            Ok(lookup) => (lookup.hit, lookup.lease),
            Err(error) if is_fault_of_the_request(&error) => {
                return Err(ComputeError::Cache(error));
            }
            Err(_) => (None, None),
        };
        let known = hit.as_ref().and_then(known);
        let known = match (known, &lease) {
            (Some(known), None) => return Ok(known),
            (known, _) => known,
        };
        let computed = match (compute().await, known) {
            (Ok(computed), _) => computed,
            // It is still good.
            (Err(_), Some(known)) => return Ok(known),
            (Err(error), None) => {
                // An entry that is there stays, and its lease runs out.
                if lease.is_some() && hit.is_none() {
                    let keys = Target::Keys(vec![key.to_owned()]);
                    // If it fails the lease runs out.
                    let _ = self.invalidate(namespace, keys).await;
                }
                return Err(ComputeError::Compute(error));
            }
        };
        let (value, options) = to_put(&computed);
        let options = match &lease {
            Some(lease) => options.lease(lease),
            None => options,
        };
        match self.put(namespace, key, value, options).await {
            Err(error) if error.kind() == Kind::InvalidArgument => Err(ComputeError::Cache(error)),
            // Overtaken, or out of reach: this caller has it.
            Ok(_) | Err(_) => Ok(computed),
        }
    }
}

fn is_fault_of_the_request(error: &Error) -> bool {
    matches!(error.kind(), Kind::InvalidArgument | Kind::Refused)
}
