//! A put through both tiers, and what becomes of it when Redis cannot take it.

use std::time::Instant;

use super::{
    Engine, Outcome, WriteMode,
    shared::{Shared, shared_is_away},
    write::{Done, Put},
};
use crate::{
    coherence::Link,
    config::TierName,
    error::{Error, Kind, Result},
    journal::Deferred,
    record::{Content, Record},
    stamp::Stamp,
    steps::{Ended, What},
    tier::{
        Condition, Found, Mark, Stored,
        shared::{SharedError, SharedName, Trouble},
    },
};

const NO_TIER: &str = "value: no tier took it: the shared tier cannot be reached, and the \
                       namespace leaves the local tier out";

/// Why a put was not made on a link.
enum NotPut {
    /// Its condition does not hold.
    Refused,
    /// Its condition does not hold now; whether it is this very put that is in the way, sent on a
    /// link that was lost, cannot be told.
    Unclear,
    /// Redis did not do it.
    Trouble(SharedError),
}

impl Engine {
    /// Both tiers: Redis decides the condition while it can be reached.
    pub(super) async fn put_through(&self, shared: &Shared, put: &Put<'_>) -> Result<Done> {
        let policy = &put.namespace.policy;
        let name = shared.name(put.namespace, put.key);
        if policy.immutable {
            self.check_known(shared, put, &name).await?;
        }
        let too_large = put.placed.is_not_in_redis();
        if too_large && policy.immutable {
            return self.put_here_only(shared, put, &name).await;
        }
        // Too large for Redis, or its chunks are not there: in Redis it is noted under its stamp,
        // so that others drop what they have and this daemon can verify its copy.
        let sent = match too_large {
            true => put.record.without_value(),
            false => put.record.clone(),
        };
        let begun = Instant::now();
        let mut lost = 0;
        loop {
            let Some(link) = shared.link_after(lost) else {
                if put.mode == WriteMode::Shared {
                    return Err(shared_is_away("options.mode: SHARED", ""));
                }
                put.check_lease_without_redis(lost > 0)?;
                match self.put_later(shared, put, &name).await? {
                    Some(done) => return Ok(done),
                    // It has come back.
                    None => continue,
                }
            };
            put.check_lease_with_redis()?;
            let stored = self
                .put_on(shared, &link, put, (&name, &sent), lost > 0)
                .await;
            let trouble = match stored {
                Ok(mut done) => {
                    if too_large {
                        done.shared = put.not_for(TierName::Shared);
                    }
                    done.spent = Some(begun.elapsed());
                    return Ok(done);
                }
                Err(NotPut::Refused) => return Err(put.refusal(put.condition)),
                Err(NotPut::Unclear) => return Err(unclear()),
                Err(NotPut::Trouble(error)) => error,
            };
            if trouble.trouble == Trouble::Overloaded {
                return Err(Error::new(Kind::Overloaded, trouble.to_string()));
            }
            if put.mode == WriteMode::Shared {
                let detail = format!(": {trouble}");
                return Err(shared_is_away("options.mode: SHARED", &detail));
            }
            if trouble.trouble == Trouble::OutOfMemory
                && let Some(mut done) = self.put_beside(shared, put, &name).await?
            {
                done.spent = Some(begun.elapsed());
                return Ok(done);
            }
            // Otherwise the link is gone: deferred, or sent again on the next one.
            lost += 1;
        }
    }

    /// Redis may have let go of an immutable entry that this daemon still has: it is not replaced.
    async fn check_known(&self, shared: &Shared, put: &Put<'_>, name: &SharedName) -> Result<()> {
        if !put.namespace.uses_local() {
            return Ok(());
        }
        let found = self.find_locally(put.namespace, &put.name, put.steps).await;
        let counts = |it: &Found| shared.coherence.is_unwished(it.mark, name.as_bytes());
        match found.filter(counts) {
            Some(found) if !found.record.says_the_same(&put.record)? => {
                Err(put.refusal(put.condition))
            }
            _ => Ok(()),
        }
    }

    /// One try on one link.
    async fn put_on(
        &self,
        shared: &Shared,
        link: &Link,
        put: &Put<'_>,
        (name, sent): (&SharedName, &Record),
        sent_before: bool,
    ) -> Result<Done, NotPut> {
        let immutable = put.namespace.policy.immutable;
        let mark = shared.mark(&put.namespace.policy);
        let begun = Instant::now();
        let expected = shared.coherence.expect(name.as_bytes());
        let stored = link
            .tier()
            .put(name, sent, put.expires.since(self.now()), put.condition)
            .await;
        put.note(TierName::Shared, &stored, begun);
        if let (Some(expected), Ok(Stored::Written)) = (expected, &stored) {
            expected.acknowledged();
        }
        let stored = shared.noted(link, stored);
        let change = shared.coherence.changed(name.as_bytes());
        let own = put.record.head().stamp;
        let mut done = Done {
            stamp: own,
            expires: put.expires,
            local: Outcome::Skipped,
            shared: Outcome::Applied,
            spent: None,
        };
        match stored.map_err(NotPut::Trouble)? {
            Stored::Kept { head, expires } => {
                done.stamp = head.stamp;
                done.expires = shared.end(&head.stamp, head.lifetime(), expires);
                return Ok(done);
            }
            Stored::Refused if !sent_before => return Err(NotPut::Refused),
            // What refuses may be this very put, sent on the link before this one.
            Stored::Refused if name.is_raw() => {
                let there = link.tier().get(name).await.map_err(NotPut::Trouble)?;
                let value = |record: &Record| record.entry().ok().map(|entry| entry.value);
                let same = there.is_some_and(|it| value(&it.record) == value(&put.record));
                return Err(if same {
                    NotPut::Unclear
                } else {
                    NotPut::Refused
                });
            }
            Stored::Refused => {
                let there = link.tier().check(name).await.map_err(NotPut::Trouble)?;
                if there.is_none_or(|there| there.record.stamp != own) {
                    return Err(NotPut::Refused);
                }
            }
            Stored::Written => {}
        }
        // Verified when it is read next: Redis may have been changed again already.
        let mark = match immutable {
            true => mark,
            false => Mark {
                sequence: change,
                ..shared.coherence.mark()
            }
            .unverified(),
        };
        done.local = self.copy(shared, put, name, mark).await;
        Ok(done)
    }

    /// Redis is out of memory: it must not keep the value that this one replaces, and the local
    /// tier keeps this one alone. `None` when the link was lost meanwhile.
    async fn put_beside(
        &self,
        shared: &Shared,
        put: &Put<'_>,
        name: &SharedName,
    ) -> Result<Option<Done>> {
        let Some(link) = shared.coherence.link() else {
            return Ok(None);
        };
        let there = shared.noted(&link, link.tier().check_or_lease(name).await);
        let Ok(there) = there else { return Ok(None) };
        let (lease, entry) = match there {
            Some(there) if there.record.content == Content::Lease => {
                (Some(there.record.stamp), None)
            }
            there => (None, there.map(|there| there.record.stamp)),
        };
        let holds = match put.condition {
            Condition::Always => true,
            Condition::Absent | Condition::AbsentOrSame => entry.is_none(),
            Condition::Version(wanted) => entry == Some(wanted),
            Condition::Lease(wanted) => lease == Some(wanted),
        };
        if !holds {
            return Err(put.refusal(put.condition));
        }
        let removed = link.tier().delete(std::slice::from_ref(name)).await;
        let removed = shared.noted(&link, removed);
        shared.coherence.changed(name.as_bytes());
        if removed.is_err() {
            return Ok(None);
        }
        // After the word of that removal has come back, so that it does not speak of this copy.
        shared.coherence.settle().await;
        let mark = shared.mark(&put.namespace.policy);
        let absent = shared.noted(&link, link.tier().check(name).await);
        let local = match absent {
            Ok(None) => self.copy(shared, put, name, mark).await,
            _ => Outcome::Skipped,
        };
        Ok(Some(Done {
            stamp: put.record.head().stamp,
            expires: put.expires,
            local,
            shared: Outcome::Failed,
            spent: None,
        }))
    }

    /// Detached: the local tier takes it, and the journal notes that what Redis has is outdated.
    /// `None` when the daemon has attached meanwhile.
    async fn put_later(
        &self,
        shared: &Shared,
        put: &Put<'_>,
        name: &SharedName,
    ) -> Result<Option<Done>> {
        let gate = shared.coherence.hold_gate().await;
        if !shared.coherence.is_detached_for_sure(&gate) {
            return Ok(None);
        }
        let bound = self.bound_of(shared, put)?;
        shared.coherence.changed(name.as_bytes());
        let policy = &put.namespace.policy;
        if put.placed.is_not_local() {
            // Its chunks are in Redis alone, which has gone: nothing becomes visible.
            return Err(Error::new(Kind::Unavailable, NO_TIER));
        }
        if put.placed.is_in_chunks() && policy.immutable {
            // Not published at Redis's return: that would take as long as its chunks do.
            return self.put_locally(put, shared.mark(policy)).await.map(Some);
        }
        let mark = match policy.immutable {
            true => shared.mark(policy),
            false => own_write(shared),
        };
        let done = match put.namespace.uses_local() {
            true => self.put_locally(put, mark).await,
            false => Err(Error::new(Kind::Unavailable, NO_TIER)),
        };
        if let Err(error) = &done
            && (error.kind() != Kind::Unavailable || policy.immutable)
        {
            return done.map(Some);
        }
        let Some(deferred) = self.later(put, bound) else {
            return done.map(Some);
        };
        let begun = Instant::now();
        let noted = shared.defer(put.namespace, &[deferred]).await;
        let ended = noted.as_ref().map_or(Ended::Failed, |()| Ended::Deferred);
        put.steps.note(What::Store, TierName::Shared, ended, begun);
        drop(gate);
        // Also when no tier took it: the caller knows that what it replaces is outdated.
        let mut done = done?;
        done.shared = match noted {
            Ok(()) => Outcome::Deferred,
            // It stays here alone; there is no older one that could come back.
            Err(error) if policy.immutable => {
                tracing::warn!(%error, "a put cannot be noted for Redis's return");
                Outcome::Failed
            }
            // What it replaces would be served again after Redis's return: it was never put. A
            // removal that fails leaves the name in doubt, which is a miss.
            Err(error) => {
                let _ = self.local.remove_version(&put.name, done.stamp).await;
                return Err(error);
            }
        };
        Ok(Some(done))
    }

    /// What is to be done for a put when Redis is back; `None` for a tag that was made for entries
    /// of this outage: they end with it, and those that have the tag in Redis are not meant.
    fn later(&self, put: &Put<'_>, bound: Stamp) -> Option<Deferred> {
        let namespace = put.namespace.name.as_str().to_owned();
        let key = put.key.as_str().to_owned();
        let tagged = put.namespace.name.tagged();
        // Its entries are published, so their tags have to be.
        let publishes = match tagged.map(|tagged| self.namespaces.get(tagged)) {
            Some(tagged) => tagged.is_ok_and(|it| it.policy.immutable),
            None => put.namespace.policy.immutable,
        };
        if publishes {
            return Some(Deferred::Publish { namespace, key });
        }
        tagged.is_none().then_some(Deferred::Remove {
            namespace,
            key,
            stamp: bound,
        })
    }

    /// Keeps a local copy of what Redis has, or would have. A local tier that cannot is no fault.
    async fn copy(&self, shared: &Shared, put: &Put<'_>, name: &SharedName, mark: Mark) -> Outcome {
        if !put.namespace.uses_local() {
            return Outcome::Skipped;
        }
        let begun = Instant::now();
        let kept = match put.namespace.policy.immutable {
            // Nobody would verify it after a restart: it must not come after its invalidation.
            true => {
                let found = Found {
                    record: put.record.clone(),
                    expires: put.expires,
                    mark,
                };
                let holds = || shared.coherence.is_unwished(mark, name.as_bytes());
                self.local.fill(&put.name, &found, holds).await
            }
            false => {
                let always = Condition::Always;
                let put = self
                    .local
                    .put_if(&put.name, &put.record, put.expires, mark, always);
                put.await
            }
        };
        put.note(TierName::Local, &kept, begun);
        match kept {
            // What has been overtaken already is as good as kept.
            Ok(_) => Outcome::Applied,
            Err(error) => {
                tracing::debug!(%error, "the local tier did not take a put");
                Outcome::Failed
            }
        }
    }
}

fn unclear() -> Error {
    Error::new(
        Kind::Unavailable,
        "options.if_absent: the connection to Redis was lost in the middle of it, and whether the \
         equal value there now is this one or another caller's cannot be told in a raw namespace",
    )
}

/// The mark of a put of an outage: of the present epoch, and to be verified before it counts.
fn own_write(shared: &Shared) -> Mark {
    Mark {
        sequence: 0,
        ..shared.coherence.mark()
    }
}
