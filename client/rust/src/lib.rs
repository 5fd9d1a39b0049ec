//! A thin client of the Pannier sidecar over the generated stubs.
//!
//! What it adds to the stubs: addresses that include unix sockets, one lazily opened connection
//! that heals itself, a deadline on every call, plain Rust types, one error type with a small
//! closed [`Kind`], and [fail-open](Builder::fail_open): a service goes on without its cache when
//! the daemon is away. What it does not do: retry, batch by itself, or keep values.
//!
//! ```no_run
//! use pannier_client::{Client, PutOptions};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), pannier_client::Error> {
//! let client = Client::builder().fail_open(true).build()?;
//! let report = match client.get("reports", "2026-07").await? {
//!     Some(hit) => hit.value,
//!     None => {
//!         let report = bytes::Bytes::from("…computed…");
//!         let options = PutOptions::new().ttl(Duration::from_secs(600)).tag("monthly");
//!         client.put("reports", "2026-07", report.clone(), options).await?;
//!         report
//!     }
//! };
//! # drop(report);
//! # Ok(())
//! # }
//! ```

mod address;
mod admin;
mod batch;
mod builder;
mod client;
mod entry;
mod error;
mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod invalidation;
mod lease;
mod options;
mod outcome;
mod provenance;
mod reader;
mod time;
mod writer;

/// The generated messages and stubs of `pannier.v1`, for what this client does not wrap.
pub use pannier_proto::v1 as proto;

pub use pannier_proto::v1::{SharedState, Tier, TierOutcome, WriteMode};

pub use address::{Address, DEFAULT_ADDRESS};
pub use batch::{BatchOptions, PutItem};
pub use builder::{Builder, CONNECT_TIMEOUT_DEFAULT, DEADLINE_DEFAULT, MESSAGE_BYTES_MAX};
pub use client::{Client, UNARY_VALUE_BYTES_MAX};
pub use entry::{Hit, Lookup, Presence, Stored, Version, VersionInvalid};
pub use error::{Error, Kind, Result};
pub use events::{Change, Event, Events};
pub use invalidation::{Invalidated, Target};
pub use lease::{ComputeError, Lease, LeaseOptions};
pub use options::{Content, PutOptions, ReadOptions};
pub use outcome::Outcome;
pub use provenance::{Provenance, TierTimes};
pub use reader::Reader;
pub use writer::{CHUNK_BYTES, Writer, Written};
