//! Attaching, staying attached, noticing the end, and again: one task for the life of the daemon.
//!
//! The order of an attachment, each step with its reason:
//! 1. the masters' addresses are found (Sentinel and Cluster are asked);
//! 2. tracking connections to all of them, confirmed: from here on no change is missed;
//! 3. the data client, to the same masters;
//! 4. connections that this daemon left behind are closed at the server, so that no write it gave
//!    up on can still be carried out (it would come after its replacement);
//! 5. a write is tried: a Redis that refuses writes is not one to attach to;
//! 6. the journal is replayed; the last items with the gate held;
//! 7. a new epoch, the lease begins, the gate opens.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{select_all, try_join_all};
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Coherence, Link,
    topology::{self, Resolved},
    tracking::{Beat, Push, Tracking},
};
use crate::{
    clock::Timestamp,
    config::SharedConfig,
    error::Result,
    tier::shared::{SharedError, SharedTier, Trouble},
};

/// First pause after an attachment ended or failed.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// An attachment that lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);

/// What has to be done in Redis before a daemon may attach.
pub trait Replay: Send + Sync {
    /// Carries out what was deferred; returns at the first trouble, when nothing is left, or,
    /// unless `wholly`, when what was there at the beginning is done.
    fn replay(
        &self,
        tier: &SharedTier,
        wholly: bool,
    ) -> impl Future<Output = Result<(), SharedError>> + Send;

    /// A message of another daemon on the channel of invalidations.
    fn heard(&self, message: &[u8]);

    /// The clock of Redis is ahead of this daemon's by so many microseconds, give or take.
    fn clock_differs(&self, micros: i64, give_or_take: Duration);

    /// The daemon has just attached, or had contact; to be noted durably. Called now and then.
    fn note_contact(&self, epoch: u64, at: Timestamp) -> impl Future<Output = ()> + Send;
}

/// Everything an attachment needs.
pub struct Supervisor<R> {
    /// What is told of it all.
    pub coherence: Arc<Coherence>,
    /// Where Redis is and how to speak to it.
    pub config: SharedConfig,
    /// How to encrypt; `None` for plain text.
    pub tls: Option<Arc<ClientConfig>>,
    /// Beginnings of all keys in use.
    pub prefixes: Vec<String>,
    /// What to do on attaching and with messages.
    pub replay: R,
    /// Names this daemon's connections; the same after a restart.
    pub daemon_id: u64,
}

/// Runs until `stop`: attached whenever Redis lets us.
pub async fn supervise<R: Replay>(supervisor: Supervisor<R>, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    let mut attempt = 0_u64;
    loop {
        attempt += 1;
        let (attached, begun) = (AtomicBool::new(false), Instant::now());
        let reason = tokio::select! {
            reason = supervisor.attachment(attempt, &attached) => reason,
            () = stop.cancelled() => {
                supervisor.note_contact().await;
                supervisor.coherence.detach("the daemon is stopping");
                return;
            }
        };
        let was_attached = attached.load(Ordering::Relaxed);
        if was_attached {
            tracing::warn!(reason, "detached from Redis: serving from the local tier");
            // An attachment that did not last is as good as none.
            if begun.elapsed() > STEADY {
                pause = PAUSE_MIN;
            }
        } else if attempt == 1 {
            tracing::warn!(
                reason,
                "Redis cannot be used yet: serving from the local tier"
            );
        } else {
            tracing::debug!(reason, "Redis still cannot be used");
        }
        supervisor.coherence.detach(&reason);
        if was_attached {
            supervisor.note_contact().await;
        }
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(supervisor.config.reconnect_max.0);
    }
}

impl<R: Replay> Supervisor<R> {
    /// One attachment, from its beginning to its end; says why it ended or never began.
    async fn attachment(&self, attempt: u64, attached: &AtomicBool) -> String {
        let patience = self.config.connect_timeout.0;
        let tls = self.tls.clone();
        let resolved = match timeout(patience * 3, topology::resolve(&self.config, tls)).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(reason)) => return reason,
            Err(_) => return "the masters of Redis were not found in time".to_owned(),
        };
        let ours = format!("pannier-{:016x}-", self.daemon_id);
        // Of this process alone: what the one before has left open is closed too.
        let name = format!("{ours}{:x}-{attempt}", self.coherence.first_epoch);
        let trackers = match self.track(&resolved, &name).await {
            Ok(trackers) => trackers,
            Err(reason) => return reason,
        };
        let contact = Contact::new(&self.coherence, trackers.len(), self.config.lease.0);
        let hears_messages = trackers.iter().all(Tracking::hears_messages);
        let ids: Vec<_> = trackers.iter().map(Tracking::client_id).collect();
        let contact = &contact;
        let tracking = trackers.into_iter().enumerate().map(|(index, tracking)| {
            Box::pin(tracking.run(
                &self.coherence.clock,
                &self.coherence.nudge,
                |push| self.pushed(push),
                move |beat| self.beaten(contact, index, &beat),
            ))
        });
        let use_it = async {
            let link = match self.join(&resolved, (&ours, &name), &ids, contact).await {
                Ok(link) => link,
                Err(error) => return error.to_string(),
            };
            attached.store(true, Ordering::Relaxed);
            tracing::info!(hears_messages, "attached to Redis");
            tokio::select! {
                reason = link.failed() => reason,
                never = self.keep_noting() => match never {},
                error = self.keep_asking(&link) => error.to_string(),
            }
        };
        tokio::select! {
            biased;
            (reason, ..) = select_all(tracking) => reason,
            reason = topology::watch(&self.config, self.tls.clone(), &resolved) => reason,
            reason = use_it => reason,
        }
    }

    async fn track(&self, resolved: &Resolved, name: &str) -> Result<Vec<Tracking>, String> {
        let channel = self.config.channel();
        try_join_all(resolved.masters.iter().map(|master| {
            Tracking::connect(
                master,
                &self.config,
                self.tls.clone(),
                &self.prefixes,
                &channel,
                name,
            )
        }))
        .await
    }

    /// From the connected trackers to the attachment.
    async fn join(
        &self,
        resolved: &Resolved,
        (ours, name): (&str, &str),
        trackers: &[i64],
        contact: &Contact<'_>,
    ) -> Result<Arc<Link>, SharedError> {
        let clock = self.coherence.clock.clone();
        let tls = self.tls.clone();
        let tier = SharedTier::connect(&resolved.target, &self.config, tls, clock, name).await?;
        let tier = tier.counting(&self.coherence.counts.scans);
        tier.meet(name, trackers).await?;
        tier.kill_predecessors(ours, name).await?;
        tier.try_writing(&format!(
            "{}!probe:{:016x}",
            self.config.key_prefix, self.daemon_id
        ))
        .await?;
        self.look_at(&tier).await;
        // As long as it takes: each command has its time-out. Twice, so that little is left for
        // the time in which everybody waits.
        for _ in 0..2 {
            self.replay.replay(&tier, false).await?;
        }
        let link = Arc::new(Link::new(tier));
        // From here on nobody defers anything.
        let _alone = self.coherence.gate.write().await;
        self.replay.replay(link.tier(), true).await?;
        let lease_until = contact.first().await.after(self.config.lease.0);
        self.coherence.attach(Arc::clone(&link), lease_until);
        Ok(link)
    }

    /// What the server says of itself, where that matters to a cache.
    async fn look_at(&self, tier: &SharedTier) {
        match tier.inspect().await {
            Ok(facts) => {
                for warning in facts.warnings() {
                    tracing::warn!("Redis: {warning}");
                }
                for note in facts.notes() {
                    tracing::info!("Redis: {note}");
                }
            }
            Err(error) => tracing::info!(%error, "Redis does not tell about itself"),
        }
    }

    fn pushed(&self, push: Push) {
        match push {
            Push::Keys(keys) => {
                let counts = &self.coherence.counts;
                counts
                    .pushes
                    .fetch_add(keys.len() as u64, Ordering::Relaxed);
                for key in &keys {
                    self.coherence.changed(key);
                    self.coherence.delay.heard(key);
                }
                self.coherence.watched.pushed(&keys);
            }
            Push::Flush => {
                let counts = &self.coherence.counts;
                counts.flushes.fetch_add(1, Ordering::Relaxed);
                self.coherence.doubt_everything();
            }
            Push::Message(message) => self.replay.heard(&message),
        }
    }

    fn beaten(&self, contact: &Contact<'_>, index: usize, beat: &Beat) {
        contact.beat(index, beat.sent_at);
        if index == 0 {
            // Redis looked at its clock between sending and answer: taken to be half way.
            let half = beat.round_trip / 2;
            let local = beat.sent_micros + u64::try_from(half.as_micros()).unwrap_or(0);
            let ahead = beat.server_micros.cast_signed() - local.cast_signed();
            self.replay.clock_differs(ahead, half);
        }
    }

    /// Notes the contact durably every few seconds.
    async fn keep_noting(&self) -> Infallible {
        loop {
            self.note_contact().await;
            sleep(Duration::from_secs(5)).await;
        }
    }

    /// Asks for a sign of life on the connections for data, until one does not come. Callers whose
    /// deadlines are shorter than the time-out of a command never find out.
    async fn keep_asking(&self, link: &Link) -> SharedError {
        loop {
            sleep(self.config.lease.0).await;
            match link.tier().ping().await {
                // Full of what callers who have gone have left there is as good as silent.
                Err(error) if matches!(error.trouble, Trouble::Lost | Trouble::Overloaded) => {
                    return error;
                }
                // Any answer is a sign of life.
                _ => {}
            }
        }
    }

    async fn note_contact(&self) {
        if let Some((epoch, at)) = self.coherence.last_contact() {
            self.replay.note_contact(epoch, at).await;
        }
    }
}

/// When each tracking connection answered last.
struct Contact<'a> {
    coherence: &'a Coherence,
    lease: Duration,
    answered: Mutex<Vec<Option<Timestamp>>>,
}

impl<'a> Contact<'a> {
    fn new(coherence: &'a Coherence, connections: usize, lease: Duration) -> Self {
        Self {
            coherence,
            lease,
            answered: Mutex::new(vec![None; connections]),
        }
    }

    /// A beat sent at `sent_at` was answered by the connection of this index.
    fn beat(&self, index: usize, sent_at: Timestamp) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered[index] = Some(sent_at);
        // The slowest decides.
        if let Some(all) = answered.iter().copied().min().flatten() {
            self.coherence.beat(all, self.lease);
        }
    }

    /// The contact of all, once there was one with each.
    async fn first(&self) -> Timestamp {
        loop {
            {
                let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(all) = answered.iter().copied().min().flatten() {
                    return all;
                }
            }
            self.coherence.nudge.notify_waiters();
            sleep(Duration::from_millis(5)).await;
        }
    }
}
