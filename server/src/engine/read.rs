//! Reading: get, exists, get many.

use std::time::{Duration, Instant};

use super::{BATCH_TURN, Engine, Provenance, Source, check_batch};
use crate::{
    clock::Timestamp,
    entry::Entry,
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    stamp::Stamp,
    tier::{Found, Tier},
};

/// How a caller wants to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Look in the local tier only.
    pub local_only: bool,
    /// Bypass the local tier.
    pub require_shared: bool,
    /// Take part in the election of the one who computes.
    pub lease: bool,
}

impl ReadOptions {
    /// For a call that elects nobody.
    fn check_without_lease(self, rpc: &str) -> Result<()> {
        if self.lease {
            let text = format!("options.lease: cannot be used with {rpc}");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    fn check(self) -> Result<()> {
        if self.local_only && self.require_shared {
            return Err(Error::invalid(
                "options: local_only and require_shared exclude each other",
            ));
        }
        if self.require_shared {
            let text = "options.require_shared: no shared tier is configured";
            return Err(Error::new(Kind::Precondition, text));
        }
        if self.lease {
            let text = "options.lease: not served by this version";
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(())
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
}

/// Answer to whether an entry exists.
#[derive(Debug)]
pub struct Existence {
    /// Remaining lifetime; `None` when there is no entry.
    pub remaining: Option<Duration>,
    /// Where the answer came from.
    pub provenance: Provenance,
}

impl Engine {
    /// Reads one entry. A tier that cannot be read is a tier that does not have it.
    pub async fn get(&self, namespace: &str, key: String, options: ReadOptions) -> Result<Answer> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.get_in(&namespace, key, options).await;
        Self::counted(&namespace, result)
    }

    async fn get_in(
        &self,
        namespace: &Namespace,
        key: String,
        options: ReadOptions,
    ) -> Result<Answer> {
        let name = EntryName::new(&namespace.name, &Key::new(key)?);
        options.check()?;
        let begun = Instant::now();
        let found = if namespace.uses_local() {
            available(namespace, self.local.get(&name).await)
        } else {
            None
        };
        let hit = found.and_then(|found| hit(namespace, &found));
        Ok(self.answer(namespace, hit, begun.elapsed()))
    }

    /// Reads several entries of one namespace, answered in their order. A key that breaks a limit
    /// fails alone.
    pub async fn get_many(
        &self,
        namespace: &str,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Result<Answer>>> {
        let namespace = self.namespaces.get(namespace)?;
        let checked = check_batch("keys", keys.len())
            .and_then(|()| options.check_without_lease("GetMany"))
            .and_then(|()| options.check());
        Self::counted(&namespace, checked)?;
        let mut answers = Vec::with_capacity(keys.len());
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let turn = keys.by_ref().take(BATCH_TURN).map(Key::new).collect();
            self.get_turn(&namespace, turn, &mut answers).await;
            tokio::task::yield_now().await;
        }
        Ok(answers)
    }

    async fn get_turn(
        &self,
        namespace: &Namespace,
        keys: Vec<Result<Key>>,
        answers: &mut Vec<Result<Answer>>,
    ) {
        let begun = Instant::now();
        let valid = keys
            .iter()
            .flatten()
            .map(|key| EntryName::new(&namespace.name, key));
        let names: Vec<_> = valid.collect();
        let found = match namespace.uses_local() {
            true => self.local.get_many(&names).await,
            false => names.iter().map(|_| Ok(None)).collect(),
        };
        let lookup = begun.elapsed();
        let mut found = found.into_iter();
        for key in keys {
            let answer = key.map(|_| {
                let found = found.next().and_then(|found| available(namespace, found));
                self.answer(
                    namespace,
                    found.and_then(|found| hit(namespace, &found)),
                    lookup,
                )
            });
            answers.push(Self::counted(namespace, answer));
        }
    }

    /// Whether a live entry is there, without moving its value. Counts neither hit nor miss.
    pub async fn exists(
        &self,
        namespace: &str,
        key: String,
        options: ReadOptions,
    ) -> Result<Existence> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.exists_in(&namespace, key, options).await;
        Self::counted(&namespace, result)
    }

    async fn exists_in(
        &self,
        namespace: &Namespace,
        key: String,
        options: ReadOptions,
    ) -> Result<Existence> {
        let name = EntryName::new(&namespace.name, &Key::new(key)?);
        options.check_without_lease("Exists")?;
        options.check()?;
        let begun = Instant::now();
        let head = if namespace.uses_local() {
            available(namespace, self.local.head(&name).await)
        } else {
            None
        };
        let now = self.now();
        Ok(Existence {
            remaining: head.map(|(_, expires)| expires.since(now)),
            provenance: Provenance {
                source: if head.is_some() {
                    Source::Local
                } else {
                    Source::None
                },
                age: head.map(|(head, _)| now.since(head.created)),
                lookup: Some(begun.elapsed()),
                store: None,
            },
        })
    }

    fn answer(&self, namespace: &Namespace, hit: Option<Hit>, lookup: Duration) -> Answer {
        match &hit {
            Some(_) => namespace.counters.hits.one(),
            None => namespace.counters.misses.one(),
        }
        let provenance = Provenance {
            source: if hit.is_some() {
                Source::Local
            } else {
                Source::None
            },
            age: hit.as_ref().map(|hit| self.now().since(hit.created)),
            lookup: Some(lookup),
            store: None,
        };
        Answer { hit, provenance }
    }
}

/// What a tier found; a tier that cannot be used has found nothing, which is counted.
fn available<T>(namespace: &Namespace, found: Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, "a tier could not be read");
        namespace.counters.errors.one();
        None
    })
}

fn hit(namespace: &Namespace, found: &Found) -> Option<Hit> {
    let head = found.record.head();
    let hit = found.record.entry().map(|entry| {
        let (stamp, created) = (head.stamp, head.created);
        Some(Hit {
            entry,
            stamp,
            created,
            expires: found.expires,
        })
    });
    available(namespace, hit)
}
