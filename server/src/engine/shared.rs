//! The engine's side of the shared tier: whether a local copy counts, what Redis says, and what is
//! made of Redis not answering. A fault of Redis is never a fault of a request (P11).

mod life;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use super::{
    GiveBack, Source,
    download::Fills,
    flight::{Fetched, Flights},
    sweep::Sweeps,
    write::ended,
};
use crate::{
    clock::Timestamp,
    coherence::{Coherence, Link, Verified},
    config::{Policy, SharedConfig, TierName},
    error::{Error, Kind},
    journal::{Deferred, Journal},
    key::{EntryName, Key},
    metrics::Histogram,
    namespace::Namespace,
    record::Head,
    stamp::Stamper,
    steps::{Ended, Steps, What},
    tier::{
        Found, Mark,
        local::LocalTier,
        shared::{SharedError, SharedName, There, Trouble},
    },
};

/// What the engine needs besides the local tier when Redis is shared.
#[derive(Debug)]
pub struct Shared {
    pub(super) config: SharedConfig,
    pub(super) coherence: Arc<Coherence>,
    pub(super) journal: Journal,
    pub(super) flights: Flights,
    pub(super) fills: Fills,
    pub(super) sweeps: Sweeps,
    pub(super) give_back: GiveBack,
    stamper: Arc<Stamper>,
    /// How long ago what was served as stale was right for sure.
    staleness: Histogram,
}

/// What a local copy is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It is what Redis has, until then.
    Fresh(Timestamp),
    /// Perhaps.
    Unverified,
}

/// One question about one key of a namespace that is shared.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) name: &'a EntryName,
    pub(super) shared_name: &'a SharedName,
    /// The number of the last change of the key when the question was asked.
    pub(super) begun: u64,
    pub(super) steps: &'a Steps,
}

/// Links that one change may lose. A Redis that loses more is not one to be attached to.
const LINKS_MAX: usize = 3;

impl Shared {
    /// The shared tier as the engine uses it.
    pub fn new(
        config: SharedConfig,
        coherence: Arc<Coherence>,
        journal: Journal,
        sweeps: Sweeps,
        give_back: GiveBack,
        stamper: Arc<Stamper>,
    ) -> Self {
        Self {
            config,
            coherence,
            journal,
            flights: Flights::default(),
            fills: Fills::default(),
            sweeps,
            give_back,
            stamper,
            staleness: Histogram::default(),
        }
    }

    /// What is known of the contact with Redis.
    pub fn coherence(&self) -> &Arc<Coherence> {
        &self.coherence
    }

    /// How long ago the entries that were served as stale were right for sure.
    pub fn staleness(&self) -> &Histogram {
        &self.staleness
    }

    /// Changes that wait for Redis.
    pub fn deferred(&self) -> usize {
        self.journal.depth()
    }

    pub(super) fn name(&self, namespace: &Namespace, key: &Key) -> SharedName {
        namespace.space.name(key.as_str())
    }

    /// The link to Redis for a change that has lost so many; `None`: it is to be deferred.
    pub(super) fn link_after(&self, lost: usize) -> Option<Arc<Link>> {
        let link = self.coherence.link()?;
        if lost < LINKS_MAX {
            return Some(link);
        }
        let reason = "the connection to Redis comes and goes";
        self.coherence.lost(&link, reason);
        None
    }

    /// How the fences stand that this namespace's copies are judged by.
    pub(super) fn mark(&self, policy: &Policy) -> Mark {
        match policy.immutable {
            true => self.coherence.immutable_mark(),
            false => self.coherence.mark(),
        }
    }

    /// Notes changes for Redis's return. What overflows becomes the removal of all of a namespace,
    /// which a raw one without a prefix does not have: there it is refused.
    pub(super) async fn defer(
        &self,
        namespace: &Namespace,
        items: &[Deferred],
    ) -> Result<(), Error> {
        let policy = &namespace.policy;
        let room = self.config.journal_max.saturating_sub(self.journal.depth());
        if policy.raw && policy.raw_prefix.is_empty() && items.len() > room {
            let text = "the journal of changes that wait for Redis is full, and a raw namespace \
                        without raw_prefix cannot be removed as a whole; raise shared.journal_max";
            return Err(Error::new(Kind::Overloaded, text));
        }
        try_join_all(items.iter().map(|item| self.journal.add(item))).await?;
        Ok(())
    }

    /// What a local copy is worth now.
    pub(super) fn worth(
        &self,
        question: &Question<'_>,
        head: &Head,
        mark: Mark,
        expires: Timestamp,
    ) -> Worth {
        let key = question.shared_name.as_bytes();
        let immutable = question.namespace.policy.immutable;
        let fresh = match immutable {
            true => self.coherence.is_unwished(mark, key),
            false => self.coherence.is_fresh(mark, key),
        };
        if fresh {
            return Worth::Fresh(expires);
        }
        match self.coherence.verified(question.name, &head.stamp, key) {
            Some(verified) => Worth::Fresh(verified.expires),
            None => Worth::Unverified,
        }
    }

    /// The copy that may be served without Redis, marked stale: known to have been right not
    /// longer ago than the namespace and the caller allow.
    pub(super) fn stale(
        &self,
        question: &Question<'_>,
        head: &Head,
        mark: Mark,
        max_stale: Option<Duration>,
    ) -> bool {
        // Whoever asks serves it.
        self.staleness_of(question, head, mark, max_stale)
            .inspect(|it| self.staleness.observe(*it))
            .is_some()
    }

    /// How long ago a copy was right for sure; `None` when it may not be served stale.
    pub(super) fn staleness_of(
        &self,
        question: &Question<'_>,
        head: &Head,
        mark: Mark,
        max_stale: Option<Duration>,
    ) -> Option<Duration> {
        let allowed = question.namespace.policy.stale_max();
        let allowed = max_stale.map_or(allowed, |wish| wish.min(allowed));
        let key = question.shared_name.as_bytes();
        let verified = self.coherence.last_verified(question.name, &head.stamp);
        let marks = [Some(mark), verified].into_iter().flatten();
        let staleness = marks
            .filter_map(|mark| self.coherence.staleness(mark, key, head.created))
            .min();
        staleness.filter(|staleness| *staleness < allowed)
    }

    /// Asks Redis: whether the local copy is what it has, and for the entry if it is not. Fills the
    /// local tier with what it gives.
    pub(super) async fn ask(
        &self,
        link: &Link,
        question: &Question<'_>,
        local: Option<&Found>,
        tier: &LocalTier,
    ) -> Fetched {
        let epoch = self.coherence.mark().epoch;
        let accepts =
            |known: &Fetched| known.mark.epoch == epoch && known.mark.sequence >= question.begun;
        let begun = Instant::now();
        let mut alone = false;
        let ask = async {
            alone = true;
            let mark = self.coherence.mark();
            // Judged by other fences, but taken before Redis is asked as well.
            let kept = self.mark(&question.namespace.policy);
            let asked = self
                .ask_alone(link, question, local, (mark, kept), tier)
                .await;
            let (found, source) = match asked {
                Ok(found) => found.map_or((None, Source::None), |(it, at)| (Some(it), at)),
                Err(error) => {
                    return Fetched {
                        found: Err(error),
                        source: Source::None,
                        mark,
                    };
                }
            };
            Fetched {
                found: Ok(found),
                source,
                mark,
            }
        };
        let fetched = self.flights.fly(question.name, accepts, ask).await;
        if !alone {
            let steps = question.steps;
            steps.note(
                What::Wait,
                TierName::Shared,
                Ended::lookup(&fetched.found),
                begun,
            );
        }
        fetched
    }

    async fn ask_alone(
        &self,
        link: &Link,
        question: &Question<'_>,
        local: Option<&Found>,
        (mark, kept): (Mark, Mark),
        tier: &LocalTier,
    ) -> Result<Option<(Found, Source)>, SharedError> {
        let (name, steps) = (question.shared_name, question.steps);
        if let Some(local) = local.filter(|_| !name.is_raw()) {
            let stamp = local.record.head().stamp;
            let begun = Instant::now();
            let checked = link.tier().check(name).await;
            let of_own = |it: &There| it.record.stamp == stamp;
            let same = checked.as_ref().map(|it| it.filter(of_own));
            steps.note(What::Verify, TierName::Shared, Ended::lookup(&same), begun);
            match self.noted(link, checked)? {
                Some(there) if of_own(&there) => {
                    let expires = self.end_there(&there);
                    let verified = Verified {
                        stamp,
                        mark,
                        expires,
                    };
                    self.coherence.verify(question.name, verified);
                    let mut found = local.clone();
                    found.expires = expires;
                    return Ok(Some((found, Source::Local)));
                }
                other => {
                    self.coherence.refute();
                    // Known to be wrong: it must not be served stale later either.
                    let _ = tier.remove_version(question.name, stamp).await;
                    if other.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
        let begun = Instant::now();
        let fetched = link.tier().get(name).await;
        steps.note(
            What::Lookup,
            TierName::Shared,
            Ended::lookup(&fetched),
            begun,
        );
        let fetched = self.noted(link, fetched)?;
        let Some(mut found) = fetched.and_then(|found| self.alive(name, found)) else {
            return Ok(None);
        };
        found.mark = kept;
        if question.namespace.uses_local() {
            let holds = || match question.namespace.policy.immutable {
                true => self.coherence.is_unwished(kept, name.as_bytes()),
                false => self.coherence.holds(mark, name.as_bytes()),
            };
            let begun = Instant::now();
            let filled = tier.fill(question.name, &found, holds).await;
            steps.note(What::Fill, TierName::Local, ended(&filled), begun);
            if let Err(error) = filled {
                tracing::debug!(%error, "the local tier could not be filled");
            }
        }
        Ok(Some((found, Source::Shared)))
    }

    /// Looks at what Redis said. All that leaves in doubt what it did, or says that it is not one
    /// to work with, ends the link: a write that was given up on must not be carried out later than
    /// what replaces it.
    pub(super) fn noted<T>(
        &self,
        link: &Link,
        result: Result<T, SharedError>,
    ) -> Result<T, SharedError> {
        if let Err(error) = &result
            && !matches!(error.trouble, Trouble::Overloaded | Trouble::OutOfMemory)
        {
            self.coherence.lost(link, &error.to_string());
        }
        result
    }
}

/// The refusal of a call that asked for Redis and nothing else.
pub(super) fn shared_is_away(field: &str, detail: &str) -> Error {
    let text = format!("{field}: the shared tier cannot be reached{detail}");
    Error::new(Kind::Unavailable, text)
}
