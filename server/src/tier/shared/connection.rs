//! One client of fred, built once, lost once, never mended.
//!
//! Invariants:
//! - Nothing is sent twice. fred neither reconnects nor retries nor follows redirections; a command
//!   goes out again only after an answer that says it had no effect.
//! - After the first loss nothing more is sent and everybody who waits is told at once: fred alone
//!   would go on accepting commands whose answers nobody reads, each until its time is over.
//! - What had not reached the socket when the connection was given up never does: the task that
//!   would write it is gone, and the socket discards what it holds (`SO_LINGER` 0).
//! - No task outlives the connection: fred's is aborted, ours waits for fred's and ends with it.
//!
//! Why redirections are not left to fred: for `ASK` it reads the next reply of a connection that
//! others are waiting on as its own, after which everybody gets the answer of someone else. What is
//! done instead stands in `moving`.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, ClusterInterface},
    types::{Value, cluster::ClusterRouting, config::Server},
};
use futures_util::future::join_all;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    asking::Asking,
    call::Call,
    settings::Settings,
    trouble::{SharedError, Trouble, of_fred, unexpected},
};

/// Bytes that are given a millisecond on their way to Redis or back.
const BYTES_PER_MILLISECOND: usize = 16 << 10;
/// How often another node of a Cluster is asked, with fresh knowledge of who has which slot.
pub(super) const REDIRECTIONS_MAX: usize = 2;
/// How long a closing connection waits for its tasks, which end when they are next polled.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A connection to one Redis, or to all masters of a Cluster.
pub(super) struct Connection {
    client: Client,
    client_name: String,
    clustered: bool,
    /// For slots that are moving.
    pub(super) asking: Asking,
    command_timeout: Duration,
    permits: Semaphore,
    /// Bytes of commands that have no answer yet: each delays those behind it.
    sending: AtomicUsize,
    ending: Arc<Ending>,
    task: Task,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

/// Once it has come, nothing more is sent and nobody waits any longer.
#[derive(Default)]
struct Ending {
    come: CancellationToken,
    reason: OnceLock<SharedError>,
}

impl Ending {
    /// The first reason is the one that is told.
    fn come(&self, reason: SharedError) {
        self.reason.get_or_init(|| reason);
        self.come.cancel();
    }

    fn reason(&self) -> SharedError {
        let ended = || SharedError::new(Trouble::Lost, "the connection to Redis has ended");
        self.reason.get().cloned().unwrap_or_else(ended)
    }
}

/// fred's task; it ends with this.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether commands count against `max_in_flight`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Metering {
    /// They do, and are refused beyond it.
    Counted,
    /// They do not: their number is bounded by whoever sends them.
    Exempt,
}

impl Connection {
    /// Connects, authenticates and gives the connections their name. Cancel safe: dropped half way
    /// it leaves nothing behind.
    pub(super) async fn open(
        settings: Settings,
        asking: Asking,
        client_name: &str,
    ) -> Result<Self, SharedError> {
        let limit = settings.connect_max();
        let clustered = settings.is_clustered();
        let (command_timeout, max_in_flight) = (settings.command_timeout, settings.max_in_flight);
        let client = settings.client();
        let (task, watcher, ending) = start(&client, limit).await?;
        let connection = Self {
            client,
            client_name: client_name.to_owned(),
            clustered,
            asking,
            command_timeout,
            permits: Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS)),
            sending: AtomicUsize::new(0),
            ending,
            task,
            watcher: Mutex::new(Some(watcher)),
        };
        connection.set_names().await?;
        Ok(connection)
    }

    /// Whether nothing more is sent on it.
    pub(super) fn has_ended(&self) -> bool {
        self.ending.come.is_cancelled()
    }

    /// Whether there are several masters.
    pub(super) fn is_clustered(&self) -> bool {
        self.clustered
    }

    /// The masters, each to be asked on its own; the one server when it is no Cluster.
    pub(super) fn masters(&self) -> Result<Vec<Option<Server>>, SharedError> {
        if !self.clustered {
            return Ok(vec![None]);
        }
        let masters = self.cluster()?.unique_primary_nodes();
        Ok(masters.into_iter().map(Some).collect())
    }

    /// Who has which slot, as far as fred knows; never empty.
    pub(super) fn cluster(&self) -> Result<ClusterRouting, SharedError> {
        let known = self.client.cached_cluster_state();
        let known = known.filter(|known| !known.slots().is_empty());
        known.ok_or_else(|| unexpected("CLUSTER SLOTS"))
    }

    /// Sends one command.
    pub(super) async fn call(&self, call: Call) -> Result<Value, SharedError> {
        let mut replies = self.calls(vec![call], Metering::Counted).await?;
        replies
            .pop()
            .unwrap_or_else(|| Err(unexpected("a command")))
    }

    /// Sends commands, each to the node that has its key as far as fred knows.
    pub(super) async fn once(
        &self,
        calls: Vec<Call>,
        metering: Metering,
    ) -> Result<Vec<Result<Value, SharedError>>, SharedError> {
        if self.ending.come.is_cancelled() {
            return Err(self.ending.reason());
        }
        let _permit = self.permit(metering)?;
        let own = calls.iter().map(Call::size).sum();
        let expected: usize = calls.iter().map(Call::expected).sum();
        let sending = Sending::new(&self.sending, own);
        let limit = time_max(self.command_timeout, sending.all + expected);
        // All are handed over before the first is waited for, and so go out in one write.
        let sent = calls.into_iter().map(|call| async {
            let reply = call.send(&self.client, self.clustered).await;
            reply.map_err(of_fred)
        });
        let replies = tokio::select! {
            biased;
            replies = timeout(limit, join_all(sent)) => replies.map_err(|_| late(limit)),
            () = self.ending.come.cancelled() => Err(self.ending.reason()),
        };
        let lost = match &replies {
            Ok(replies) => replies
                .iter()
                .find_map(|reply| reply.as_ref().err().filter(is_lost)),
            Err(error) => Some(error).filter(is_lost),
        };
        if let Some(error) = lost {
            self.lose(error.clone());
        }
        replies
    }

    fn permit(&self, metering: Metering) -> Result<Option<SemaphorePermit<'_>>, SharedError> {
        if metering == Metering::Exempt {
            return Ok(None);
        }
        let permit = self.permits.try_acquire().map_err(|_| {
            SharedError::new(
                Trouble::Overloaded,
                "shared.max_in_flight commands wait for Redis; try again",
            )
        })?;
        Ok(Some(permit))
    }

    /// Gives all connections our name, by which what is left of them can be found and ended.
    pub(super) async fn set_names(&self) -> Result<(), SharedError> {
        let masters = self.masters()?.into_iter();
        let calls = masters.map(|master| {
            let call = Call::named("CLIENT")
                .text("SETNAME")
                .text(&self.client_name);
            call.at(master)
        });
        for reply in self.once(calls.collect(), Metering::Exempt).await? {
            reply?;
        }
        Ok(())
    }

    /// Waits until the connection is lost or closed, and says why.
    pub(super) async fn ended(&self) -> SharedError {
        self.ending.come.cancelled().await;
        self.ending.reason()
    }

    /// Gives the connection up: everybody who waits is told now.
    pub(super) fn lose(&self, reason: SharedError) {
        self.ending.come(reason);
        self.task.0.abort();
    }

    /// Ends the connection and its tasks. Waits at most [`CLOSE_MAX`].
    pub(super) async fn close(&self) {
        let reason = "the connection to Redis was closed by us";
        self.lose(SharedError::new(Trouble::Lost, reason));
        let watcher = self.watcher.lock();
        let watcher = watcher.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            let _ = timeout(CLOSE_MAX, watcher).await;
        }
    }
}

fn is_lost(error: &&SharedError) -> bool {
    error.trouble == Trouble::Lost
}

fn late(limit: Duration) -> SharedError {
    let millis = limit.as_millis();
    let message = format!("Redis did not answer within {millis} ms (shared.command_timeout)");
    SharedError::new(Trouble::Lost, message)
}

/// How long to wait for replies. Half of the time-out is for bytes on their way: only more of them
/// than fit into it are given longer, so that a Redis that hangs costs no more than the time-out.
fn time_max(command_timeout: Duration, bytes: usize) -> Duration {
    let millis = u64::try_from(bytes / BYTES_PER_MILLISECOND).unwrap_or(u64::MAX);
    let transfer = Duration::from_millis(millis);
    command_timeout.max((command_timeout / 2).saturating_add(transfer))
}

/// Bytes on their way, as long as this lives.
struct Sending<'a> {
    counter: &'a AtomicUsize,
    own: usize,
    all: usize,
}

impl<'a> Sending<'a> {
    fn new(counter: &'a AtomicUsize, own: usize) -> Self {
        let before = counter.fetch_add(own, Ordering::Relaxed);
        Self {
            counter,
            own,
            all: before.saturating_add(own),
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Starts fred's task and waits until it is connected.
async fn start(
    client: &Client,
    limit: Duration,
) -> Result<(Task, JoinHandle<()>, Arc<Ending>), SharedError> {
    let mut connected = pin!(client.wait_for_connect());
    // Listens before there is something to be told: fred does not tell twice.
    let early = poll_fn(|context| Poll::Ready(connected.as_mut().poll(context))).await;
    let running = client.connect();
    let task = Task(running.abort_handle());
    let ending: Arc<Ending> = Arc::default();
    let known = Arc::clone(&ending);
    #[expect(
        clippy::disallowed_methods,
        reason = "owned by Connection, whose close awaits it; ends with the task it waits for"
    )]
    let watcher = tokio::spawn(async move {
        let reason = match running.await {
            Ok(Err(error)) => of_fred(error),
            // By the server's wish or by ours.
            _ => SharedError::new(Trouble::Lost, "the connection to Redis has ended"),
        };
        known.come(reason.of_the_end());
    });
    if early.is_pending() {
        let outcome = timeout(limit, connected).await;
        let late = |_| SharedError::new(Trouble::Lost, "connecting to Redis took too long");
        outcome.map_err(late)?.map_err(of_fred)?;
    }
    Ok((task, watcher, ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_to_transfer_is_waited_for_longer_than_the_timeout() {
        let timeout = Duration::from_millis(500);
        let largest_by_default = 3 << 20;
        assert_eq!(time_max(timeout, 0), timeout);
        assert_eq!(time_max(timeout, largest_by_default), timeout);
        assert_eq!(time_max(timeout, 16 << 20), Duration::from_millis(1274));
        assert!(time_max(timeout, usize::MAX) > timeout);
    }
}
