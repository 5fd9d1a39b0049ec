//! A daemon in this process, in memory, for the tests of programs that use the client (feature
//! `fake`).
//!
//! It keeps the contract as far as a client can see it: limits, conditions, lifetimes, tags and
//! streams. Of digests it believes what it is told: content of which somebody knows the SHA-256
//! is there if anything is. It has no shared tier and no patterns, and its lifetimes default to an
//! hour.

mod admin;
mod cache;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};
use tonic::{
    Code, Status,
    codegen::tokio_stream::wrappers::UnixListenerStream,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};

use crate::{
    Address, MESSAGE_BYTES_MAX,
    proto::{
        self, admin_service_server::AdminServiceServer, cache_service_server::CacheServiceServer,
    },
};

/// Lifetime of an entry put without one.
const TTL_DEFAULT: Duration = Duration::from_secs(3600);

/// How the daemon answers from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As the contract says.
    #[default]
    Serve,
    /// Every call ends with this code.
    Fail(Code),
    /// No call is ever answered.
    Hang,
}

/// A daemon in this process. It stops when dropped.
#[derive(Debug)]
pub struct FakeDaemon {
    address: String,
    state: Arc<State>,
    // Dropping the sender stops the server, dropping the set does it at once.
    stop: Option<oneshot::Sender<()>>,
    server: JoinSet<Result<(), tonic::transport::Error>>,
}

impl FakeDaemon {
    /// Starts one on a free port of the loopback.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Starts one at an address in a form of [`Address`], port 0 included.
    ///
    /// # Panics
    /// When the address does not parse or is in use.
    pub async fn start_at(address: &str) -> Self {
        let state = Arc::<State>::default();
        let router = router(&state);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let mut server = JoinSet::new();
        let address = if let Ok(Address::Unix(path)) = address.parse() {
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(path).expect("a socket");
            let incoming = UnixListenerStream::new(listener);
            server.spawn(router.serve_with_incoming_shutdown(incoming, stopped));
            address.to_owned()
        } else {
            let listener = TcpListener::bind(address).await.expect("a port");
            let address = listener.local_addr().expect("its address").to_string();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.spawn(router.serve_with_incoming_shutdown(incoming, stopped));
            address
        };
        Self {
            address,
            state,
            stop: Some(stop),
            server,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Changes how it answers the calls that follow.
    pub fn behave(&self, behaviour: Behaviour) {
        *locked(&self.state.behaviour) = behaviour;
    }

    /// Every call ends with UNIMPLEMENTED from now on.
    pub fn fail_with_unimplemented(&self) {
        self.behave(Behaviour::Fail(Code::Unimplemented));
    }

    /// Waits until somebody watches.
    pub async fn watched(&self) {
        self.state.watched.notified().await;
    }

    /// Stops it and waits until its connections have ended.
    pub async fn stop(mut self) {
        self.stop = None;
        while let Some(server) = self.server.join_next().await {
            server
                .expect("a server that does not panic")
                .expect("a server that ends in peace");
        }
    }
}

fn router(state: &Arc<State>) -> Router {
    Server::builder()
        .initial_stream_window_size(1024 * 1024)
        .add_service(
            CacheServiceServer::from_arc(Arc::clone(state))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(AdminServiceServer::from_arc(Arc::clone(state)))
}

type Watcher = mpsc::Sender<Result<proto::WatchResponse, Status>>;

/// What the daemon holds.
#[derive(Debug, Default)]
struct State {
    behaviour: Mutex<Behaviour>,
    entries: Mutex<BTreeMap<(String, String), proto::Entry>>,
    // Each with the namespace it watches.
    watchers: Mutex<Vec<(String, Watcher)>>,
    // One permit is kept for the next call of `FakeDaemon::watched`.
    watched: Notify,
    versions: AtomicU64,
    counters: Mutex<proto::Counters>,
}

/// What a put, an item of a batch and the header of a stream have in common.
struct Draft {
    namespace: String,
    key: String,
    entry: proto::Entry,
    ttl: Option<prost_types::Duration>,
    options: Option<proto::WriteOptions>,
}

impl State {
    /// What every call does first.
    async fn enter(&self) -> Result<(), Status> {
        let behaviour = *locked(&self.behaviour);
        match behaviour {
            Behaviour::Serve => Ok(()),
            Behaviour::Fail(code) => Err(Status::new(code, "the fake daemon was told to fail")),
            Behaviour::Hang => std::future::pending().await,
        }
    }

    /// The live entry, counted as a hit or a miss.
    fn look_up(&self, namespace: &str, key: &str) -> Result<Option<proto::Entry>, Status> {
        check_name(namespace, key)?;
        let found = self.live(namespace, key);
        let mut counters = locked(&self.counters);
        match found {
            Some(_) => counters.hits += 1,
            None => counters.misses += 1,
        }
        Ok(found)
    }

    fn live(&self, namespace: &str, key: &str) -> Option<proto::Entry> {
        let entries = locked(&self.entries);
        let entry = entries.get(&(namespace.to_owned(), key.to_owned()))?;
        let expires = SystemTime::try_from(entry.expire_time?).ok()?;
        (expires > now()).then(|| entry.clone())
    }

    /// Writes an entry under its conditions and gives back its stamp and end.
    fn store(&self, draft: Draft) -> Result<(Bytes, prost_types::Timestamp), Status> {
        use proto::write_options::Condition;
        check_name(&draft.namespace, &draft.key)?;
        let live = self.live(&draft.namespace, &draft.key);
        match draft.options.and_then(|options| options.condition) {
            Some(Condition::IfAbsent(true)) if live.is_some() => {
                return Err(Status::already_exists("if_absent: the key has an entry"));
            }
            Some(Condition::IfVersion(version))
                if live.is_none_or(|entry| entry.version != version) =>
            {
                return Err(Status::failed_precondition("if_version: another version"));
            }
            _ => {}
        }
        let ttl = match draft.ttl {
            Some(ttl) => Duration::try_from(ttl).map_err(|_| Status::invalid_argument("ttl"))?,
            None => TTL_DEFAULT,
        };
        let now = now();
        let expire_time = prost_types::Timestamp::from(now + ttl);
        let number = u128::from(self.versions.fetch_add(1, Ordering::Relaxed)) + 1;
        let version = Bytes::copy_from_slice(&number.to_be_bytes());
        let entry = proto::Entry {
            version: version.clone(),
            create_time: Some(now.into()),
            expire_time: Some(expire_time),
            ..draft.entry
        };
        locked(&self.entries).insert((draft.namespace, draft.key), entry);
        locked(&self.counters).puts += 1;
        Ok((version, expire_time))
    }
}

/// The limits of names, worded as the daemon does.
fn check_name(namespace: &str, key: &str) -> Result<(), Status> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || b"._-".contains(&byte);
    let first = namespace.bytes().next().is_some_and(plain);
    if !first || namespace.len() > 63 || !namespace.bytes().all(inner) {
        return Err(Status::invalid_argument(
            "namespace: must match [a-z0-9][a-z0-9._-]{0,62}",
        ));
    }
    if key.is_empty() || key.len() > 1024 {
        let message = format!("key: {} bytes, must be 1 to 1024", key.len());
        return Err(Status::invalid_argument(message));
    }
    Ok(())
}

fn provenance(tier: proto::Tier) -> Option<proto::Provenance> {
    Some(proto::Provenance {
        tier: tier.into(),
        shared_state: proto::SharedState::Disabled.into(),
        ..proto::Provenance::default()
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a fake for tests on the real clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
