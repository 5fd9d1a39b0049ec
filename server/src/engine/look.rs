//! Looking in both tiers (P1): the local copy if it counts, Redis if it does not, and what is left
//! when Redis does not answer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{
    Engine, ReadOptions, Source, Standing,
    looked::Looked,
    shared::{Question, Shared, Worth, shared_is_away},
};
use crate::{
    clock::Timestamp,
    config::TierName,
    error::Result,
    key::{EntryName, Key},
    namespace::Namespace,
    record::Head,
    steps::{Ended, Step, Steps, What},
    tier::{Found, Mark},
};

/// Whether an entry exists, as far as the tiers know.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) created: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    pub(super) source: Source,
    pub(super) stale: bool,
    /// It has tags, which have not been asked.
    pub(super) is_tagged: bool,
    pub(super) is_negative: bool,
    pub(super) shared: Option<Duration>,
    pub(super) standing: Option<Standing>,
}

/// One read of one key.
pub(super) struct Reading<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) key: &'a Key,
    pub(super) name: &'a EntryName,
    pub(super) options: ReadOptions,
    /// That the value will be put with, should this caller compute it.
    pub(super) tags: &'a [String],
    pub(super) steps: &'a Steps,
}

impl Known {
    /// What a look says that asked its tags as well.
    pub(super) fn of(looked: &Looked) -> Self {
        let found = looked.found.as_ref();
        Self {
            created: found.map(|found| found.record.head().created),
            expires: found.map(|found| found.expires),
            source: looked.source,
            stale: looked.stale,
            is_tagged: false,
            is_negative: found.is_some_and(|found| found.record.head().is_negative),
            shared: looked.shared,
            standing: looked.standing,
        }
    }
}

impl Engine {
    /// One look for a key.
    pub(super) async fn look_once(&self, read: &Reading<'_>) -> Result<Looked> {
        let (namespace, how) = (read.namespace, (read.options, read.steps));
        let looked = self.look_in(namespace, read.key, read.name, how).await?;
        self.live(namespace, read.key, looked, how).await
    }

    /// What the tiers have under a key, whatever has become of its tags.
    pub(super) async fn look_in(
        &self,
        namespace: &Namespace,
        key: &Key,
        name: &EntryName,
        (options, steps): (ReadOptions, &Steps),
    ) -> Result<Looked> {
        let Some(shared) = self.shared_for(namespace) else {
            let found = self.find_locally(namespace, name, steps).await;
            return Ok(found.map_or_else(Looked::nothing, Looked::local));
        };
        let shared_name = shared.name(namespace, key);
        let question = Question {
            namespace,
            name,
            shared_name: &shared_name,
            begun: shared.coherence.last_change(shared_name.as_bytes()),
            steps,
        };
        self.look(shared, question, None, options).await
    }

    /// Looks in both tiers. `local` is what the local tier has, if it was asked already.
    pub(super) async fn look(
        &self,
        shared: &Shared,
        question: Question<'_>,
        local: Option<Option<Found>>,
        options: ReadOptions,
    ) -> Result<Looked> {
        let namespace = question.namespace;
        let local = match local {
            _ if options.require_shared || !namespace.uses_local() => None,
            Some(local) => local,
            None => {
                self.find_locally(namespace, question.name, question.steps)
                    .await
            }
        };
        let local = match self.at_home(shared, &question, local) {
            Ok(looked) => return Ok(looked),
            Err(local) => local,
        };
        let had = local.is_some();
        let looked = self.look_further(shared, question, local, options).await;
        if had {
            let ended = match &looked {
                Ok(looked) if looked.stale => Ended::Stale,
                Ok(looked) if looked.found.is_some() && looked.source == Source::Local => {
                    Ended::Hit
                }
                _ => Ended::Miss,
            };
            let steps = question.steps;
            steps.turns_out(What::Lookup, TierName::Local, ended);
        }
        looked
    }

    /// Beyond a local copy that does not count by itself.
    async fn look_further(
        &self,
        shared: &Shared,
        question: Question<'_>,
        local: Option<Found>,
        options: ReadOptions,
    ) -> Result<Looked> {
        let Some(link) = shared.coherence.link() else {
            return self.look_without_redis(shared, &question, local, options, "");
        };
        if options.local_only && local.is_none() {
            return Ok(Looked::nothing());
        }
        let asked = Instant::now();
        // In a box: it is large, and most reads never come here.
        let ask = shared.ask(&link, &question, local.as_ref(), &self.local);
        let fetched = Box::pin(ask).await;
        let spent = Some(asked.elapsed());
        let standing = match &fetched.found {
            Ok(_) => Standing::Attached,
            Err(_) => Standing::Detached,
        };
        let looked = match fetched.found {
            Ok(None) => Looked::nothing(),
            Ok(Some(found)) => {
                self.stamper.observe(&found.record.head().stamp);
                let expires = found.expires;
                let looked = self.until(found, expires);
                // Ended while it was on its way: nothing came from anywhere.
                let source = looked
                    .found
                    .as_ref()
                    .map_or(Source::None, |_| fetched.source);
                Looked { source, ..looked }
            }
            Err(error) => {
                let detail = format!(": {error}");
                self.look_without_redis(shared, &question, local, options, &detail)?
            }
        };
        let wrong_tier = options.local_only && looked.source == Source::Shared;
        Ok(Looked {
            shared: spent,
            standing: Some(standing),
            ..match wrong_tier {
                true => Looked::nothing(),
                false => looked,
            }
        })
    }

    /// What a local copy that counts says; the copy is given back when it does not.
    fn at_home(
        &self,
        shared: &Shared,
        question: &Question<'_>,
        local: Option<Found>,
    ) -> Result<Looked, Option<Found>> {
        let Some(found) = local else {
            return Err(None);
        };
        match shared.worth(question, found.record.head(), found.mark, found.expires) {
            Worth::Fresh(expires) => Ok(self.until(found, expires)),
            Worth::Unverified => Err(Some(found)),
        }
    }

    /// Expiry is decided here as well: Redis may have shortened a lifetime since the copy was made.
    fn until(&self, mut found: Found, expires: Timestamp) -> Looked {
        if expires <= self.now() {
            return Looked::nothing();
        }
        found.expires = expires;
        Looked::local(found)
    }

    /// The local copy marked stale, within what is allowed.
    fn look_without_redis(
        &self,
        shared: &Shared,
        question: &Question<'_>,
        local: Option<Found>,
        options: ReadOptions,
        detail: &str,
    ) -> Result<Looked> {
        if options.require_shared {
            return Err(shared_is_away("options.require_shared", detail));
        }
        let allowed = |found: &Found| {
            let head = found.record.head();
            shared.stale(question, head, found.mark, options.max_stale)
        };
        let looked = match local.filter(allowed) {
            Some(found) => Looked {
                stale: true,
                ..Looked::local(found)
            },
            None => Looked::nothing(),
        };
        Ok(Looked {
            standing: Some(Standing::Detached),
            ..looked
        })
    }

    pub(super) async fn look_for_all(
        &self,
        shared: &Shared,
        namespace: &Namespace,
        keys: &[&Key],
        names: &[EntryName],
        (options, steps): (ReadOptions, &Steps),
    ) -> Vec<Result<Looked>> {
        let shared_names: Vec<_> = keys.iter().map(|key| shared.name(namespace, key)).collect();
        let questions: Vec<_> = names
            .iter()
            .zip(&shared_names)
            .map(|(name, shared_name)| Question {
                namespace,
                name,
                shared_name,
                begun: shared.coherence.last_change(shared_name.as_bytes()),
                steps,
            })
            .collect();
        let (local, share) = match options.require_shared {
            true => (names.iter().map(|_| None).collect(), None),
            false => self.found_locally(namespace, names).await,
        };
        let mut looked = Vec::with_capacity(names.len());
        let mut left = Vec::new();
        for (question, local) in questions.into_iter().zip(local) {
            looked.push(Ok(match self.at_home(shared, &question, local) {
                Ok(looked) => looked,
                Err(local) => {
                    left.push((looked.len(), question, local));
                    Looked::nothing()
                }
            }));
        }
        if let Some(share) = share {
            share.note(steps, Ended::Hit, looked.len() - left.len());
        }
        // All at once: the client sends them in one go.
        let asked = left.into_iter().map(|(index, question, local)| async move {
            let own = Steps::default();
            if let Some(share) = share {
                let ended = local.as_ref().map_or(Ended::Miss, |_| Ended::Hit);
                share.note(&own, ended, 1);
            }
            let question = Question {
                steps: &own,
                ..question
            };
            let looked = self.look(shared, question, Some(local), options).await;
            steps.add_all(&own);
            (index, looked)
        });
        for (index, answer) in join_all(asked).await {
            looked[index] = answer;
        }
        looked
    }

    pub(super) async fn known(
        &self,
        shared: &Shared,
        question: &Question<'_>,
        head: Option<(Head, Timestamp, Mark)>,
        options: ReadOptions,
    ) -> Result<Known> {
        let local = head.map(|(head, expires, mark)| {
            let worth = shared.worth(question, &head, mark, expires);
            (head, expires, mark, worth)
        });
        let of_copy = |head: Head, expires, stale| Known {
            created: Some(head.created),
            expires: Some(expires),
            source: Source::Local,
            stale,
            is_tagged: head.is_tagged,
            is_negative: head.is_negative,
            ..Known::default()
        };
        if let Some((head, _, _, Worth::Fresh(expires))) = local {
            return Ok(of_copy(head, expires, false));
        }
        if options.local_only && local.is_none() {
            return Ok(Known::default());
        }
        let mut detail = String::new();
        let own = local.map(|(head, ..)| head.stamp);
        if let Some(link) = shared.coherence.link() {
            let asked = Instant::now();
            let there = Box::pin(shared.exists(&link, question, own)).await;
            let steps = question.steps;
            steps.note(What::Lookup, TierName::Shared, Ended::lookup(&there), asked);
            match there {
                Ok(there) => {
                    let noted = local.is_some_and(|(head, ..)| head.is_tagged);
                    return Ok(Known {
                        created: None,
                        expires: there.map(|it| it.expires),
                        source: Source::Shared,
                        stale: false,
                        is_tagged: there.is_some_and(|it| it.is_tagged || noted),
                        is_negative: there.is_some_and(|it| it.is_negative),
                        shared: Some(asked.elapsed()),
                        standing: Some(Standing::Attached),
                    });
                }
                Err(error) => detail = format!(": {error}"),
            }
        }
        if options.require_shared {
            return Err(shared_is_away("options.require_shared", &detail));
        }
        let stale = local
            .filter(|(head, _, mark, _)| shared.stale(question, head, *mark, options.max_stale));
        let known = stale.map_or_else(Known::default, |(head, expires, ..)| {
            of_copy(head, expires, true)
        });
        Ok(Known {
            standing: Some(Standing::Detached),
            ..known
        })
    }
}

/// The part of one item in a call of the local tier for many.
#[derive(Clone, Copy)]
pub(super) struct Share {
    begun: Instant,
    took: Duration,
    of_one: Duration,
}

impl Share {
    pub(super) fn new(begun: Instant, items: usize) -> Self {
        let took = begun.elapsed();
        let items = u32::try_from(items).unwrap_or(u32::MAX).max(1);
        let of_one = took / items;
        Self {
            begun,
            took,
            of_one,
        }
    }

    /// Notes that so many of them ended so.
    pub(super) fn note(self, steps: &Steps, ended: Ended, items: usize) {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        steps.add_items(Step {
            what: What::Lookup,
            tier: TierName::Local,
            ended,
            begun: self.begun,
            took: self.took,
            items,
            spent: self.of_one * items,
        });
    }
}
