//! The daemon of Pannier, a caching sidecar.
//!
//! ```text
//!            gRPC ─┐
//!                  ├─ frontdoor ── engine ── tier::local ── RocksDB
//!            HTTP ─┘      │           │
//!                    error table   policy of the namespace, counters
//! ```
//! A request flows front door -> engine -> tier; imports point only that way. `main` parses and
//! waits, `server` binds, runs and stops everything.
//!
//! Invariants that more than one module keeps; the others stand in their own module:
//! - (I1) nothing is served at or after the end of its lifetime (`tier`, `record`);
//! - (I2) what a daemon has acknowledged, its next read sees (`tier::local`, P5);
//! - (I3) what does not decode is a miss, never an answer (`record`, `tier::local`, P3);
//! - (I4) the runtime's threads never wait for the disk (`tier::local`).

pub mod changes;
pub mod clock;
pub mod coherence;
pub mod config;
pub mod engine;
pub mod entry;
pub mod error;
pub mod export;
mod frontdoor;
pub mod glob;
pub mod journal;
pub mod key;
pub mod metrics;
pub mod namespace;
pub mod observe;
pub mod record;
mod resp;
mod rocks;
pub mod server;
pub mod stamp;
pub mod stats;
pub mod steps;
pub mod telemetry;
pub mod tier;
pub mod trace;
