//! Reading: get, exists, get many.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    BATCH_TURN, Engine, Lease, LeaseRequest, Provenance, Source, available, check_batch,
    look::{Known, Share},
    looked::Looked,
    shared::{Question, Shared},
};
use crate::{
    clock::Timestamp,
    config::{TierName, UNARY_VALUE_BYTES_MAX},
    entry::Entry,
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    stamp::Stamp,
    steps::{Ended, Steps, What},
    tier::{Found, Tier},
};

/// How a caller wants to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// The staleness this caller accepts; `None`: the namespace's.
    pub max_stale: Option<Duration>,
    /// Look in the local tier only.
    pub local_only: bool,
    /// Bypass the local tier.
    pub require_shared: bool,
    /// On a miss, take part in the election of the one who computes.
    pub lease: Option<LeaseRequest>,
}

impl ReadOptions {
    /// For a call that elects nobody.
    fn check_without_lease(self, rpc: &str) -> Result<()> {
        if self.lease.is_some() {
            let text = format!("options.lease: cannot be used with {rpc}");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    pub(super) fn check(self, namespace: &Namespace, shared: Option<&Shared>) -> Result<()> {
        if self.local_only && self.require_shared {
            return Err(Error::invalid(
                "options: local_only and require_shared exclude each other",
            ));
        }
        if self.require_shared && shared.is_none() {
            let text = match namespace.uses_shared() {
                true => "options.require_shared: no shared tier is configured",
                false => "options.require_shared: the namespace leaves the shared tier out",
            };
            return Err(Error::new(Kind::Precondition, text));
        }
        match self.lease {
            None => Ok(()),
            Some(_) if self.local_only => Err(Error::invalid(
                "options.lease: cannot be used with local_only; what is missing may be in Redis",
            )),
            Some(_) if namespace.policy.raw => Err(Error::invalid(
                "options.lease: the namespace is raw, where a lease would be read as a value",
            )),
            Some(_) => Ok(()),
        }
    }
}

/// A live entry.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The entry.
    pub entry: Entry,
    /// Its version.
    pub stamp: Stamp,
    /// When it was put.
    pub created: Timestamp,
    /// When its lifetime ends.
    pub expires: Timestamp,
}

/// Answer to a read.
#[derive(Debug)]
pub struct Answer {
    /// The entry; `None` is a miss.
    pub hit: Option<Hit>,
    /// Where it came from.
    pub provenance: Provenance,
    /// The caller is the one to compute the value.
    pub lease: Option<Lease>,
}

/// Answer to whether an entry exists.
#[derive(Debug)]
pub struct Existence {
    /// Remaining lifetime; `None` when there is no entry.
    pub remaining: Option<Duration>,
    /// The entry says that there is nothing.
    pub is_negative: bool,
    /// Where the answer came from.
    pub provenance: Provenance,
}

impl Engine {
    /// Reads one entry. A tier that cannot be read is a tier that does not have it, unless the
    /// caller asked for that tier only.
    pub async fn get(
        &self,
        namespace: &str,
        key: String,
        options: ReadOptions,
        steps: &Steps,
    ) -> Result<Answer> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.get_in(&namespace, key, (options, &[]), steps).await;
        Self::counted(&namespace, result)
    }

    /// The same for a caller who may be told to compute the value, and would put it with these
    /// tags: an invalidation of one of them ends its lease.
    pub async fn get_for(
        &self,
        namespace: &str,
        key: String,
        (options, tags): (ReadOptions, &[String]),
        steps: &Steps,
    ) -> Result<Answer> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.get_in(&namespace, key, (options, tags), steps).await;
        Self::counted(&namespace, result)
    }

    async fn get_in(
        &self,
        namespace: &Namespace,
        key: String,
        (options, tags): (ReadOptions, &[String]),
        steps: &Steps,
    ) -> Result<Answer> {
        let key = Key::new(key)?;
        let begun = Instant::now();
        let how = (options, tags, steps);
        let (looked, lease) = self.look_or_elect(namespace, &key, how).await?;
        let looked = match looked.is_in_chunks() {
            true => {
                let mut room = UNARY_VALUE_BYTES_MAX;
                let whole = self.assemble(namespace, &key, looked, options, &mut room);
                Box::pin(whole).await?
            }
            false => looked,
        };
        Ok(Answer {
            lease,
            ..self.answer(namespace, looked, begun.elapsed())
        })
    }

    pub(super) async fn find_locally(
        &self,
        namespace: &Namespace,
        name: &EntryName,
        steps: &Steps,
    ) -> Option<Found> {
        if !namespace.uses_local() {
            return None;
        }
        let begun = Instant::now();
        let found = self.local.get(name).await;
        steps.note(What::Lookup, TierName::Local, Ended::lookup(&found), begun);
        available(namespace, found)
    }

    /// Reads several entries of one namespace, answered in their order. A key that breaks a limit
    /// fails alone.
    pub async fn get_many(
        &self,
        namespace: &str,
        keys: Vec<String>,
        options: ReadOptions,
        steps: &Steps,
    ) -> Result<Vec<Result<Answer>>> {
        let namespace = self.namespaces.get(namespace)?;
        let checked = check_batch("keys", keys.len())
            .and_then(|()| options.check_without_lease("GetMany"))
            .and_then(|()| options.check(&namespace, self.shared_for(&namespace)));
        Self::counted(&namespace, checked)?;
        let mut answers = Vec::with_capacity(keys.len());
        let mut keys = keys.into_iter().peekable();
        let mut room = UNARY_VALUE_BYTES_MAX;
        while keys.peek().is_some() {
            let turn = keys.by_ref().take(BATCH_TURN).map(Key::new).collect();
            let wish = (options, steps);
            self.get_turn(&namespace, turn, wish, (&mut answers, &mut room))
                .await;
            tokio::task::yield_now().await;
        }
        Ok(answers)
    }

    async fn get_turn(
        &self,
        namespace: &Namespace,
        keys: Vec<Result<Key>>,
        (options, steps): (ReadOptions, &Steps),
        (answers, room): (&mut Vec<Result<Answer>>, &mut u64),
    ) {
        let begun = Instant::now();
        let valid = keys.iter().flatten();
        let names: Vec<_> = valid
            .map(|key| EntryName::new(&namespace.name, key))
            .collect();
        let looked = match self.shared_for(namespace) {
            None => {
                let (found, share) = self.found_locally(namespace, &names).await;
                let hits = found.iter().flatten().count();
                if let Some(share) = share {
                    share.note(steps, Ended::Hit, hits);
                    share.note(steps, Ended::Miss, found.len() - hits);
                }
                let looked = found.into_iter().map(|it| it.map(Looked::local));
                looked
                    .map(|it| Ok(it.unwrap_or_else(Looked::nothing)))
                    .collect::<Vec<_>>()
            }
            Some(shared) => {
                let keys: Vec<_> = keys.iter().flatten().collect();
                self.look_for_all(shared, namespace, &keys, &names, (options, steps))
                    .await
            }
        };
        let judged = keys.iter().flatten().zip(looked);
        let judged = judged.map(|(key, looked)| async move {
            self.live(namespace, key, looked?, (options, steps)).await
        });
        let looked = join_all(judged).await;
        let lookup = begun.elapsed();
        let mut looked = looked.into_iter();
        for key in keys {
            let looked = match key {
                Ok(key) => match looked.next().unwrap_or_else(|| Ok(Looked::nothing())) {
                    Ok(looked) if looked.is_in_chunks() => {
                        Box::pin(self.assemble(namespace, &key, looked, options, room)).await
                    }
                    looked => looked,
                },
                Err(error) => Err(error),
            };
            let answer = looked.map(|looked| self.answer(namespace, looked, lookup));
            answers.push(Self::counted(namespace, answer));
        }
    }

    /// What the local tier has of each, and the time of one; `None` when it was not asked.
    pub(super) async fn found_locally(
        &self,
        namespace: &Namespace,
        names: &[EntryName],
    ) -> (Vec<Option<Found>>, Option<Share>) {
        if !namespace.uses_local() {
            return (names.iter().map(|_| None).collect(), None);
        }
        let begun = Instant::now();
        let found = self.local.get_many(names).await.into_iter();
        let share = Share::new(begun, names.len());
        let found = found.map(|found| available(namespace, found)).collect();
        (found, Some(share))
    }

    /// Whether a live entry is there, without moving its value. Counts neither hit nor miss.
    pub async fn exists(
        &self,
        namespace: &str,
        key: String,
        options: ReadOptions,
        steps: &Steps,
    ) -> Result<Existence> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.exists_in(&namespace, key, options, steps).await;
        Self::counted(&namespace, result)
    }

    pub(super) async fn exists_in(
        &self,
        namespace: &Namespace,
        key: String,
        options: ReadOptions,
        steps: &Steps,
    ) -> Result<Existence> {
        let key = Key::new(key)?;
        let name = EntryName::new(&namespace.name, &key);
        options.check_without_lease("Exists")?;
        options.check(namespace, self.shared_for(namespace))?;
        let begun = Instant::now();
        let head = match namespace.uses_local() && !options.require_shared {
            true => {
                let begun = Instant::now();
                let head = self.local.head(&name).await;
                steps.note(What::Lookup, TierName::Local, Ended::lookup(&head), begun);
                available(namespace, head)
            }
            false => None,
        };
        let mut known = match self.shared_for(namespace) {
            None => Known {
                is_tagged: head.is_some_and(|(head, ..)| head.is_tagged),
                is_negative: head.is_some_and(|(head, ..)| head.is_negative),
                created: head.map(|(head, ..)| head.created),
                expires: head.map(|(_, expires, _)| expires),
                source: head.map_or(Source::None, |_| Source::Local),
                ..Known::default()
            },
            Some(shared) => {
                let shared_name = shared.name(namespace, &key);
                let question = Question {
                    namespace,
                    name: &name,
                    shared_name: &shared_name,
                    begun: 0,
                    steps,
                };
                self.known(shared, &question, head, options).await?
            }
        };
        if known.is_tagged {
            // Its tags stand in the entry.
            let how = (options, steps);
            let looked = self.look_in(namespace, &key, &name, how).await?;
            known = Known::of(&self.live(namespace, &key, looked, how).await?);
        }
        let now = self.now();
        let live = known.expires.filter(|expires| now < *expires);
        Ok(Existence {
            remaining: live.map(|expires| expires.since(now)),
            is_negative: live.is_some() && known.is_negative,
            provenance: Provenance {
                source: live.map_or(Source::None, |_| known.source),
                stale: live.is_some() && known.stale,
                age: live.and(known.created).map(|created| now.since(created)),
                lookup: Some(begun.elapsed()),
                shared_lookup: known.shared,
                ..self.provenance_of(namespace, known.standing)
            },
        })
    }

    pub(super) fn answer(&self, namespace: &Namespace, looked: Looked, lookup: Duration) -> Answer {
        let hit = looked
            .found
            .and_then(|found| hit(namespace, &found, looked.value));
        let counters = &namespace.counters;
        match (&hit, looked.source) {
            (Some(_), Source::Shared) => counters.hits_shared.one(),
            (Some(_), _) => counters.hits_local.one(),
            (None, _) => counters.misses.one(),
        }
        if hit.is_some() && looked.stale {
            counters.stale.one();
        }
        let provenance = Provenance {
            source: hit.as_ref().map_or(Source::None, |_| looked.source),
            stale: hit.is_some() && looked.stale,
            age: hit.as_ref().map(|hit| self.now().since(hit.created)),
            lookup: Some(lookup),
            shared_lookup: looked.shared,
            ..self.provenance_of(namespace, looked.standing)
        };
        Answer {
            hit,
            provenance,
            lease: None,
        }
    }
}

fn hit(namespace: &Namespace, found: &Found, value: Option<Bytes>) -> Option<Hit> {
    let (record, head) = (&found.record, found.record.head());
    let entry = match value {
        Some(value) => record.attributes().map(|attributes| Entry {
            value,
            attributes,
            negative: false,
        }),
        None => record.entry(),
    };
    let hit = entry.map(|entry| {
        Some(Hit {
            entry,
            stamp: head.stamp,
            created: head.created,
            expires: found.expires,
        })
    });
    available(namespace, hit)
}
