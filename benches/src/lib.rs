//! Measurements of Pannier: a bare tonic echo as the yardstick, and the report on the daemon.
//!
//! ```text
//!   bin/report ── starts ──> pannierd, bin/echo        (servers, release build), redis-server
//!        │
//!        └───── runs ─────> `pannier bench --json`     (the load, one process per run)
//! ```
//!
//! The echo answers the messages of `pannier.v1` with constants: what it costs is what gRPC itself
//! costs, and what the daemon costs beyond it is Pannier's own. Nothing here links the daemon; it
//! is measured from outside, as its users meet it. Where Redis has to hang, or single calls have to
//! be timed, the report calls by itself.

#![allow(
    clippy::disallowed_methods,
    reason = "programs of their own that wait for processes and state the date"
)]

pub mod echo;
pub mod report;
