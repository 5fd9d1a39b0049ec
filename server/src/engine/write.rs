//! Writing: put, put many. Through both tiers; what Redis cannot take now is deferred.

mod checks;

use std::time::{Duration, Instant};

pub(super) use self::checks::{check, condition};
use self::checks::{check_value, lifetime};
use super::{
    Engine, Outcome, Provenance, ReadOptions, Source, Token, check_batch, check_tags_of_lease,
    lease_has_ended, placed::Placed,
};
use crate::{
    clock::Timestamp,
    config::TierName,
    entry::Entry,
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::Record,
    stamp::Stamp,
    steps::{Ended, Steps, What},
    tier::{Condition, Mark, Stored},
};

/// Which tiers must have accepted before the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMode {
    /// Local and, when it can be reached, shared.
    #[default]
    Through,
    /// Local only.
    Local,
    /// Shared.
    Shared,
}

/// How a caller wants to write.
#[derive(Debug, Clone, Copy)]
pub struct PutOptions {
    /// Lifetime asked for.
    pub ttl: Option<Duration>,
    /// Which tiers must have accepted.
    pub mode: WriteMode,
    /// What must hold for the write to happen.
    pub condition: Condition,
    /// The lease under which the value was computed; instead of a condition.
    pub lease: Option<Token>,
}

/// A put that was accepted.
#[derive(Debug)]
pub struct Written {
    /// Version of the entry.
    pub stamp: Stamp,
    /// When its lifetime ends.
    pub expires: Timestamp,
    /// What became of it in the local tier.
    pub local: Outcome,
    /// What became of it in the shared tier.
    pub shared: Outcome,
    /// Where it went.
    pub provenance: Provenance,
}

/// One put, checked and encoded.
pub(super) struct Put<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) key: &'a Key,
    pub(super) name: EntryName,
    pub(super) record: Record,
    pub(super) expires: Timestamp,
    pub(super) condition: Condition,
    pub(super) lease: Option<Token>,
    pub(super) mode: WriteMode,
    /// Where its value is to be found.
    pub(super) placed: Placed,
    pub(super) steps: &'a Steps,
}

/// What became of a put.
pub(super) struct Done {
    pub(super) stamp: Stamp,
    pub(super) expires: Timestamp,
    pub(super) local: Outcome,
    pub(super) shared: Outcome,
    /// Time spent on the shared tier.
    pub(super) spent: Option<Duration>,
}

impl Put<'_> {
    /// The answer when a condition does not hold.
    pub(super) fn refusal(&self, condition: Condition) -> Error {
        match self.lease {
            Some(_) => lease_has_ended(),
            None => refusal(condition),
        }
    }

    /// Notes that what was just written to a tier was not this put.
    pub(super) fn not_for(&self, tier: TierName) -> Outcome {
        self.steps.turns_out(What::Store, tier, Ended::Skipped);
        Outcome::Skipped
    }

    /// Notes what became of it in a tier.
    pub(super) fn note<E>(&self, tier: TierName, stored: &Result<Stored, E>, begun: Instant) {
        self.steps.note(What::Store, tier, ended(stored), begun);
    }
}

/// How a write ended that may be refused.
pub(super) fn ended<E>(stored: &Result<Stored, E>) -> Ended {
    match stored {
        Ok(Stored::Written | Stored::Kept { .. }) => Ended::Applied,
        Ok(Stored::Refused) => Ended::Skipped,
        Err(_) => Ended::Failed,
    }
}

impl Engine {
    /// Writes one entry. `Exists` or `Precondition` when a condition does not hold; `Unavailable`
    /// when no tier took it, or the shared one did not and was asked for.
    pub async fn put(
        &self,
        namespace: &str,
        key: String,
        entry: Entry,
        options: PutOptions,
        steps: &Steps,
    ) -> Result<Written> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.put_in(&namespace, key, entry, (options, steps)).await;
        let refused = |error: &Error| error.kind() == Kind::Precondition;
        if options.lease.is_some() && result.as_ref().is_err_and(refused) {
            self.leases.counts().refused.one();
        }
        Self::counted_write(&namespace, result)
    }

    /// Checks what all items of a batch of puts have in common; each is then put by itself.
    pub fn check_put_many(
        &self,
        namespace: &str,
        items: usize,
        options: &PutOptions,
    ) -> Result<()> {
        let namespace = self.namespaces.get(namespace)?;
        let checked = check_batch("items", items).and_then(|()| {
            if matches!(options.condition, Condition::Version(_)) {
                let text = "options.if_version: cannot be used with PutMany";
                return Err(Error::invalid(text));
            }
            self.check_mode(&namespace, options.mode)
        });
        Self::counted_write(&namespace, checked)
    }

    pub(super) fn counted_write<T>(namespace: &Namespace, result: Result<T>) -> Result<T> {
        match &result {
            // Not an error of anybody: the caller asked to be refused.
            Err(error) if matches!(error.kind(), Kind::Exists | Kind::Precondition) => {
                namespace.counters.refusals.one();
                result
            }
            _ => Self::counted(namespace, result),
        }
    }

    async fn put_in(
        &self,
        namespace: &Namespace,
        key: String,
        entry: Entry,
        (options, steps): (PutOptions, &Steps),
    ) -> Result<Written> {
        let key = Key::new(key)?;
        check_value(&namespace.policy, &entry)?;
        check(&namespace.policy, &entry.attributes, &options)?;
        self.check_mode(namespace, options.mode)?;
        self.put_entry(namespace, &key, &entry, (options, steps))
            .await
    }

    /// Puts an entry that has been checked.
    pub(super) async fn put_entry(
        &self,
        namespace: &Namespace,
        key: &Key,
        entry: &Entry,
        (options, steps): (PutOptions, &Steps),
    ) -> Result<Written> {
        let policy = &namespace.policy;
        let begun = Instant::now();
        let ttl = options
            .ttl
            .or_else(|| entry.negative.then_some(policy.negative_ttl.0));
        let (created, expires) = self.times(namespace, ttl);
        if options.lease.is_some_and(|token| token.is_over(created)) {
            return Err(lease_has_ended());
        }
        let tags = self.generations(namespace, entry.attributes.tags(), expires);
        let tags = tags.await?;
        if let Some(token) = options.lease {
            check_tags_of_lease(token, entry.attributes.tags(), &tags)?;
        }
        let stamp = self.stamper.next();
        let times = (created, expires);
        let limit = policy.shared_value_max.filter(|_| !policy.raw);
        let put = Put {
            name: EntryName::new(&namespace.name, key),
            namespace,
            key,
            record: Record::encode_tagged(entry, &tags, stamp, times, policy.compression)?,
            expires,
            condition: condition(policy, &options),
            lease: options.lease,
            mode: options.mode,
            placed: Placed::Inside {
                too_large: limit.is_some_and(|limit| entry.value.len() as u64 > limit.0),
            },
            steps,
        };
        self.publish(&put, begun).await
    }

    /// When an entry that is put now is put, and when it ends.
    pub(super) fn times(
        &self,
        namespace: &Namespace,
        ttl: Option<Duration>,
    ) -> (Timestamp, Timestamp) {
        let created = self.now();
        (created, created.after(lifetime(&namespace.policy, ttl)))
    }

    /// Writes the record of a put to the tiers: with that, it is visible.
    pub(super) async fn publish(&self, put: &Put<'_>, begun: Instant) -> Result<Written> {
        let namespace = put.namespace;
        if matches!(put.condition, Condition::Version(_)) && !self.is_there(put).await? {
            return Err(put.refusal(put.condition));
        }
        let mut done = self.store(put).await;
        if self.is_in_the_way(put, &done).await? {
            done = self.store(put).await;
        }
        let mut done = done?;
        (done.local, done.shared) = put.placed.outcomes(done.local, done.shared);
        if !namespace.uses_local() {
            self.local.changes().changed(&put.name);
        }
        namespace.counters.puts.one();
        let source = match (done.shared, done.local) {
            (Outcome::Applied, _) => Source::Shared,
            (_, Outcome::Applied) => Source::Local,
            _ => Source::None,
        };
        Ok(Written {
            stamp: done.stamp,
            expires: done.expires,
            local: done.local,
            shared: done.shared,
            provenance: Provenance {
                source,
                store: Some(begun.elapsed()),
                shared_store: done.spent,
                ..self.provenance(namespace)
            },
        })
    }

    /// To the tiers it is for.
    pub(super) async fn store(&self, put: &Put<'_>) -> Result<Done> {
        match self.shared_for(put.namespace) {
            Some(shared) if put.mode != WriteMode::Local => {
                Box::pin(self.put_through(shared, put)).await
            }
            Some(shared) => {
                let name = shared.name(put.namespace, put.key);
                // An older value that is on its way from Redis must not replace this one.
                shared.coherence.changed(name.as_bytes());
                self.put_locally(put, shared.mark(&put.namespace.policy))
                    .await
            }
            None => self.put_locally(put, Mark::default()).await,
        }
    }

    /// Whether what a put was refused for, or was kept in its place, has gone with its tags; it is
    /// removed then.
    async fn is_in_the_way(&self, put: &Put<'_>, done: &Result<Done>) -> Result<bool> {
        let possible = match (put.condition, done) {
            (Condition::Absent | Condition::AbsentOrSame, Err(error)) => {
                error.kind() == Kind::Exists
            }
            (Condition::AbsentOrSame, Ok(done)) => done.stamp != put.record.head().stamp,
            _ => false,
        };
        if !possible || put.namespace.tags.is_none() {
            return Ok(false);
        }
        Ok(!self.is_there(put).await?)
    }

    /// Whether there is an entry whose tags are in force.
    async fn is_there(&self, put: &Put<'_>) -> Result<bool> {
        let key = put.key.as_str().to_owned();
        let (options, steps) = (ReadOptions::default(), Steps::default());
        let there = self.exists_in(put.namespace, key, options, &steps);
        Ok(Box::pin(there).await?.remaining.is_some())
    }

    /// The local tier alone, which decides the condition.
    pub(super) async fn put_locally(&self, put: &Put<'_>, mark: Mark) -> Result<Done> {
        self.put_locally_if(put, mark, put.condition).await
    }

    pub(super) async fn put_locally_if(
        &self,
        put: &Put<'_>,
        mark: Mark,
        condition: Condition,
    ) -> Result<Done> {
        let mut done = Done {
            stamp: put.record.head().stamp,
            expires: put.expires,
            local: Outcome::Skipped,
            shared: Outcome::Skipped,
            spent: None,
        };
        if !put.namespace.uses_local() {
            return Ok(done);
        }
        let begun = Instant::now();
        let stored = self
            .local
            .put_if(&put.name, &put.record, put.expires, mark, condition)
            .await;
        put.note(TierName::Local, &stored, begun);
        done.local = Outcome::Applied;
        match stored? {
            Stored::Written => {}
            Stored::Kept { head, expires } => (done.stamp, done.expires) = (head.stamp, expires),
            Stored::Refused => return Err(put.refusal(condition)),
        }
        Ok(done)
    }

    pub(super) fn check_mode(&self, namespace: &Namespace, mode: WriteMode) -> Result<()> {
        let refused = match mode {
            WriteMode::Through => return Ok(()),
            WriteMode::Local if namespace.uses_local() => return Ok(()),
            WriteMode::Local => "options.mode: LOCAL, but the namespace leaves the local tier out",
            WriteMode::Shared if self.shared_for(namespace).is_some() => return Ok(()),
            WriteMode::Shared if namespace.uses_shared() => {
                "options.mode: SHARED asks for the shared tier, but none is configured"
            }
            WriteMode::Shared => {
                "options.mode: SHARED, but the namespace leaves the shared tier out"
            }
        };
        Err(Error::new(Kind::Precondition, refused))
    }
}

fn refusal(condition: Condition) -> Error {
    match condition {
        Condition::Version(_) => Error::new(
            Kind::Precondition,
            "options.if_version: the entry has another version or does not exist",
        ),
        Condition::Lease(_) => lease_has_ended(),
        Condition::AbsentOrSame => Error::new(
            Kind::Exists,
            "key: the namespace is immutable and holds a different value for it",
        ),
        Condition::Absent | Condition::Always => {
            Error::new(Kind::Exists, "options.if_absent: the key has a live entry")
        }
    }
}
