//! What is done for Redis's return: replaying what was deferred, and hearing what others wish away.
//!
//! Deferred are removals only ("remove what is older than this"), and for immutable namespaces
//! publications ("put it unless something is there"). Never a put: replaying one could bring back
//! what another daemon removed meanwhile. A removal compares version stamps, which all daemons
//! draw from clocks that follow Redis's: what is newer by more than those clocks may differ stays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use crate::{
    clock::{Clock, Timestamp},
    coherence::{Coherence, Replay},
    config::Config,
    error::Error,
    journal::{Deferred, Journal},
    key::{EntryName, Key, NamespaceName},
    stamp::Stamper,
    tier::{
        Condition, Stored, Tier,
        local::{LocalTier, Selection},
        shared::{SharedError, SharedName, SharedSpace, SharedTier, Trouble},
    },
    trace::{self, Fact, Tracer},
};

use super::wish::{What, Wish};

/// Items in flight to Redis.
const REPLAY_BATCH: usize = 256;
/// Wishes of other daemons that wait for the local tier; beyond it, everything is verified.
const WISHES_MAX: usize = 64;

/// Carries out what was deferred.
#[derive(Debug)]
pub struct Outage {
    config: Arc<Config>,
    clock: Clock,
    stamper: Arc<Stamper>,
    coherence: Arc<Coherence>,
    journal: Journal,
    local: LocalTier,
    tracer: Tracer,
    wishes: mpsc::Sender<Wish>,
    /// A wish for an immutable namespace found no room: all local entries are to go.
    overflowed: Arc<AtomicBool>,
}

impl Outage {
    /// And the task that removes from the local tier what others wish away; it ends when the
    /// `Outage` is dropped.
    pub fn new(
        config: Arc<Config>,
        clock: Clock,
        stamper: Arc<Stamper>,
        coherence: Arc<Coherence>,
        journal: Journal,
        local: LocalTier,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (wishes, mut queue) = mpsc::channel(WISHES_MAX);
        let overflowed = Arc::<AtomicBool>::default();
        let remover = Remover {
            config: Arc::clone(&config),
            coherence: Arc::clone(&coherence),
            local: local.clone(),
        };
        let clears = Arc::clone(&overflowed);
        let remove = async move {
            while let Some(wish) = queue.recv().await {
                let mut removed = remover.remove(wish).await;
                if clears.swap(false, Ordering::AcqRel) {
                    removed = remover.local.clear().await;
                }
                match removed {
                    Ok(()) => tracing::debug!("what another daemon wished away has been removed"),
                    Err(error) => {
                        tracing::warn!(%error, "what another daemon wished away was not removed");
                    }
                }
            }
        };
        let outage = Self {
            config,
            clock,
            stamper,
            coherence,
            journal,
            local,
            tracer: Tracer::off(),
            wishes,
            overflowed,
        };
        (outage, remove)
    }

    /// The same, with what it carries out traced.
    #[must_use]
    pub fn traced_by(mut self, tracer: &Tracer) -> Self {
        self.tracer = tracer.clone();
        self
    }

    fn name(&self, namespace: &NamespaceName, key: &Key) -> Option<SharedName> {
        name(&self.config, namespace, key)
    }

    fn is_immutable(&self, namespace: &NamespaceName) -> bool {
        let policy = self.config.policy(namespace);
        policy.is_some_and(|policy| policy.immutable)
    }

    /// Has it removed from the local tier, beside the requests.
    fn remove(&self, wish: Wish) {
        let immutable = self.is_immutable(&wish.namespace);
        if self.wishes.try_send(wish).is_err() {
            if immutable {
                // After a restart nothing else would tell.
                self.coherence.wished_all_away();
                self.overflowed.store(true, Ordering::Release);
            }
            // Last: watchers are told, and read again.
            self.coherence.doubt_everything();
        }
    }

    async fn carry_out(&self, tier: &SharedTier, item: &Deferred) -> Result<(), SharedError> {
        let namespace = match item {
            Deferred::Remove { namespace, .. }
            | Deferred::RemoveSelected { namespace, .. }
            | Deferred::Publish { namespace, .. } => NamespaceName::parse(namespace),
        };
        let Ok(namespace) = namespace else {
            return Ok(());
        };
        match item {
            Deferred::Remove { key, stamp, .. } => {
                let Ok(key) = Key::new(key.as_str()) else {
                    return Ok(());
                };
                if let Some(name) = self.name(&namespace, &key) {
                    tier.remove_older(&name, stamp).await?;
                    let what = What::Keys(vec![key.as_str().to_owned()]);
                    self.publish(tier, namespace, what).await?;
                }
            }
            Deferred::RemoveSelected {
                selection, stamp, ..
            } => {
                if let Some(policy) = self.config.policy(&namespace) {
                    if policy.raw && policy.raw_prefix.is_empty() && is_all(selection) {
                        tracing::error!(
                            namespace = namespace.as_str(),
                            "invalidations of an outage are lost: there were more than the journal \
                             holds, and a raw namespace without raw_prefix cannot be removed as a \
                             whole"
                        );
                        return Ok(());
                    }
                    let space = SharedSpace::new(&self.config.shared, &namespace, &policy);
                    tier.remove_selected(&space, selection, Some(stamp)).await?;
                    self.publish(tier, namespace, What::Selected(selection.clone()))
                        .await?;
                }
            }
            Deferred::Publish { key, .. } => {
                if let Ok(key) = Key::new(key.as_str()) {
                    self.publish_entry(tier, &namespace, &key).await?;
                }
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        tier: &SharedTier,
        namespace: NamespaceName,
        what: What,
    ) -> Result<(), SharedError> {
        let wish = Wish {
            sender: self.journal.daemon_id(),
            namespace,
            what,
        };
        tier.publish(&self.config.shared.channel(), wish.encode())
            .await
    }

    /// A damaged journal may have held the removal of anything: all that is older goes. What others
    /// lose by it they can compute again; what they would keep could be wrong for ever.
    async fn settle_loss(&self, tier: &SharedTier) -> Result<(), SharedError> {
        if !self.journal.lost() {
            return Ok(());
        }
        let space = SharedSpace::whole(&self.config.shared);
        let bound = self.stamper.bound();
        let removed = tier
            .remove_selected(&space, &Selection::All, Some(&bound))
            .await?;
        tracing::error!(
            removed,
            "invalidations of an outage were lost with a damaged journal: everything older under \
             shared.key_prefix was removed from Redis"
        );
        let settled = self.journal.settle_loss().await;
        settled.map_err(|error| {
            let text = format!("the journal cannot be written: {error}");
            SharedError::new(Trouble::Unexpected, text)
        })
    }

    /// An entry of an immutable namespace that was put while Redis was away (P10a).
    async fn publish_entry(
        &self,
        tier: &SharedTier,
        namespace: &NamespaceName,
        key: &Key,
    ) -> Result<(), SharedError> {
        let entry_name = EntryName::new(namespace, key);
        let (Some(name), Ok(Some(found))) =
            (self.name(namespace, key), self.local.get(&entry_name).await)
        else {
            // Evicted, expired or invalidated meanwhile.
            return Ok(());
        };
        if found.record.head().is_in_chunks() {
            // Put in place of another while Redis was away; its chunks stay here.
            return Ok(());
        }
        let lifetime = found.expires.since(self.clock.now());
        let stored = tier
            .put(&name, &found.record, lifetime, Condition::AbsentOrSame)
            .await;
        let stored = match stored {
            Err(error) if error.trouble == Trouble::OutOfMemory => {
                tracing::debug!(%error, "an entry put while Redis was away stays here");
                return Ok(());
            }
            stored => stored?,
        };
        if stored == Stored::Refused {
            tracing::warn!(
                namespace = namespace.as_str(),
                "an immutable entry put while Redis was away differs from the one it has: dropped"
            );
            // An error leaves the name doubtful, which is a miss as well.
            let _ = self.local.delete(&entry_name).await;
        }
        Ok(())
    }
}

fn is_all(selection: &Selection) -> bool {
    matches!(selection, Selection::All)
}

fn name(config: &Config, namespace: &NamespaceName, key: &Key) -> Option<SharedName> {
    // A namespace that is no longer known: nobody here can have a copy of it.
    let policy = config.policy(namespace)?;
    let shared = &config.shared;
    Some(SharedName::new(shared, namespace, &policy, key.as_str()))
}

/// Removes from the local tier what others have wished away.
struct Remover {
    config: Arc<Config>,
    coherence: Arc<Coherence>,
    local: LocalTier,
}

impl Remover {
    async fn remove(&self, wish: Wish) -> Result<(), Error> {
        let keys = match wish.what {
            What::Selected(selection) => {
                let removed = self.local.delete_selected(&wish.namespace, selection);
                return removed.await.map(drop);
            }
            What::Keys(keys) => keys,
        };
        for key in keys.into_iter().filter_map(|key| Key::new(key).ok()) {
            let Some(name) = name(&self.config, &wish.namespace, &key) else {
                continue;
            };
            let entry = EntryName::new(&wish.namespace, &key);
            // What was put since is not meant.
            if let Some((head, _, mark)) = self.local.head(&entry).await?
                && !self.coherence.is_unwished(mark, name.as_bytes())
            {
                self.local.remove_version(&entry, head.stamp).await?;
            }
        }
        Ok(())
    }
}

impl Replay for Outage {
    async fn replay(&self, tier: &SharedTier, wholly: bool) -> Result<(), SharedError> {
        self.settle_loss(tier).await?;
        let begun = self.journal.depth();
        let work = (begun > 0).then(|| self.tracer.work(trace::REPLAY));
        let mut carried_out = 0;
        while wholly || carried_out <= begun {
            let items = match self.journal.next(REPLAY_BATCH).await {
                Ok(items) if items.is_empty() => break,
                Ok(items) => items,
                Err(error) => {
                    let text = format!("the journal cannot be read: {error}");
                    return Err(SharedError::new(Trouble::Unexpected, text));
                }
            };
            carried_out += items.len();
            // What was published after a removal must not come before it.
            let (publications, removals): (Vec<_>, Vec<_>) = items
                .iter()
                .map(|(_, item)| item)
                .partition(|item| matches!(item, Deferred::Publish { .. }));
            for each in [removals, publications] {
                try_join_all(each.into_iter().map(|item| self.carry_out(tier, item))).await?;
            }
            let done: Vec<_> = items.iter().map(|(number, _)| *number).collect();
            if let Err(error) = self.journal.done(&done).await {
                let text = format!("the journal cannot be written: {error}");
                return Err(SharedError::new(Trouble::Unexpected, text));
            }
        }
        if let Some(work) = work {
            work.succeed(("cache.items", Fact::Number(carried_out as u64)));
            tracing::info!(
                changes = begun,
                "what waited for Redis has been carried out"
            );
        }
        Ok(())
    }

    fn heard(&self, message: &[u8]) {
        let Some(wish) = Wish::decode(message) else {
            tracing::warn!("a message of another version of Pannier: all entries are verified");
            self.coherence.doubt_everything();
            return;
        };
        if wish.sender == self.journal.daemon_id() {
            return;
        }
        let immutable = self.is_immutable(&wish.namespace);
        match &wish.what {
            What::Keys(keys) => {
                for key in keys.iter().filter_map(|key| Key::new(key.as_str()).ok()) {
                    if let Some(name) = self.name(&wish.namespace, &key) {
                        self.coherence.wished_away(name.as_bytes());
                        let name = EntryName::new(&wish.namespace, &key);
                        self.local.changes().changed(&name);
                    }
                }
                // Others are verified after a restart, these are not.
                if immutable {
                    self.remove(wish);
                }
            }
            What::Selected(_) => {
                if immutable {
                    self.coherence.wished_all_away();
                }
                self.remove(wish);
            }
        }
    }

    fn clock_differs(&self, micros: i64, give_or_take: Duration) {
        self.stamper.follow(micros, give_or_take);
    }

    async fn note_contact(&self, epoch: u64, at: Timestamp) {
        if let Err(error) = self.journal.set_last_contact(epoch, at).await {
            tracing::debug!(%error, "the contact with Redis cannot be noted");
        }
    }
}
