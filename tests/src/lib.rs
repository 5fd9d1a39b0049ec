//! The harness of the integration tests: real processes, ports that the system chose, directories
//! that vanish.
//!
//! - [`Daemon`] is a running `pannierd`: started, watched, killed, stopped, restarted.
//! - [`pannier`] runs the command line once.
//! - [`Redis`] is a running `redis-server`; [`Sentinels`] and [`Cluster`] are several.
//! - [`Proxy`] stands between daemon and Redis and does what networks do at their worst.
//! - [`Pair`] is two daemons on one Redis, of which one can be cut off.
//! - [`shared`] configures daemons for a shared tier and waits for what they make of it.
//! - [`caller`] calls one daemon and expects an answer, whatever Redis does.
//! - [`history`] records what callers saw and checks it against the promises of coherence.
//! - [`Collector`] takes traces and metrics by OTLP, as a real one does.
//! - [`wire`] speaks to a port below the level of any client, [`request`] builds messages.
//! - [`sandbox`] gives a daemon a disk of its own that a test can fill or make read-only.
//! - [`Browser`] is a real one, without a window.
//! - [`metrics`] takes apart what `/metrics` says.
//! - [`load`] makes values and requests that take long.
//! - [`stream`] writes and reads values in chunks.
//! - [`eventually`] waits for a state that announces itself by no event.
//!
//! The programs are those beside the test's own executable, so they are of the same build; cargo
//! does not build them for a test of another package, hence `cargo build --workspace` comes first.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

pub mod browser;
pub mod caller;
mod cli;
pub mod collector;
mod daemon;
mod eventually;
pub mod history;
pub mod load;
pub mod metrics;
mod pair;
mod ports;
mod process;
mod proxy;
mod redis;
pub mod request;
pub mod sandbox;
pub mod shared;
pub mod stream;
pub mod wire;

pub use browser::Browser;
pub use caller::Caller;
pub use cli::{pannier, pannier_lines, pannier_with_stdin, stderr, stdout};
pub use collector::Collector;
pub use daemon::{Builder, Daemon};
pub use eventually::{EVENTUALLY_MAX, eventually};
pub use pair::Pair;
pub use process::Ended;
pub use proxy::{Mode, Path, Proxy};
pub use redis::{Certificates, Cluster, Connection, Data, Redis, RedisBuilder, Reply, Sentinels};
