//! Invalidating: by key, prefix, pattern, a whole namespace.

use std::time::{Duration, Instant};

use super::{
    Engine, Outcome, Provenance, Source, check_batch,
    shared::Shared,
    wish::{KEYS_MAX, What, Wish},
};
use crate::{
    coherence::Link,
    config::TierName,
    entry::check_tag,
    error::{Error, Kind, Result},
    glob::Glob,
    journal::Deferred,
    key::{EntryName, Key, check_length},
    namespace::Namespace,
    steps::{self, Ended, Steps},
    tier::{
        Tier,
        local::Selection,
        shared::{SharedError, SharedName, Trouble},
    },
};

/// What a caller wants gone.
#[derive(Debug, Clone)]
pub enum Target {
    /// These keys.
    Keys(Vec<String>),
    /// Every key that begins so.
    Prefix(String),
    /// Every key that matches.
    Pattern(String),
    /// Every entry with this tag.
    Tag(String),
    /// Everything.
    All,
}

/// An invalidation that has taken effect.
#[derive(Debug)]
pub struct Invalidated {
    /// Live entries removed, as far as they could be counted.
    pub count: u64,
    /// What became of it in the local tier.
    pub local: Outcome,
    /// What became of it in the shared tier.
    pub shared: Outcome,
    /// How long it took.
    pub provenance: Provenance,
}

/// A checked target.
enum Gone {
    Keys(Vec<Key>),
    Selected(Selection),
}

/// What was done in the shared tier.
struct Reached {
    count: u64,
    outcome: Outcome,
    spent: Option<Duration>,
}

impl Engine {
    /// Removes entries. No read that starts after it has returned sees them. On an error some may
    /// have been removed and the rest not. `Unavailable` when Redis is away and the wish cannot be
    /// kept for its return, or when the local tier cannot remove.
    pub async fn invalidate(
        &self,
        namespace: &str,
        target: Target,
        steps: &Steps,
    ) -> Result<Invalidated> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.invalidate_in(&namespace, target, steps).await;
        Self::counted(&namespace, result)
    }

    async fn invalidate_in(
        &self,
        namespace: &Namespace,
        target: Target,
        steps: &Steps,
    ) -> Result<Invalidated> {
        let begun = Instant::now();
        let (tagged, gone) = (namespace, checked(&target)?);
        // The tag itself is removed; nobody counts the entries that go with it.
        let namespace = match (&target, &tagged.tags) {
            (Target::Tag(_), Some(of_tags)) => of_tags,
            (Target::Tag(_), None) => {
                let text = "tag: the namespace is raw, its entries have no tags";
                return Err(Error::invalid(text));
            }
            _ => tagged,
        };
        check_raw(namespace, &gone)?;
        let shared = match self.shared_for(namespace) {
            Some(shared) => {
                let removed = Box::pin(self.remove_shared(shared, namespace, &gone, steps));
                Some(removed.await?)
            }
            None => None,
        };
        let deferred = shared
            .as_ref()
            .is_some_and(|it| it.outcome == Outcome::Deferred);
        // Done under the gate already, when Redis was away.
        let (count, local) = match deferred {
            true => (0, Outcome::Applied),
            false => match (self.remove_local(namespace, &gone, steps).await, &shared) {
                (Ok(removed), _) => removed,
                // What could not be removed is in doubt, which is a miss: Redis has the say.
                (Err(error), Some(_)) if error.kind() == Kind::Unavailable => (0, Outcome::Failed),
                (Err(error), _) => return Err(error),
            },
        };
        let reached = shared.unwrap_or(Reached {
            count: 0,
            outcome: Outcome::Skipped,
            spent: None,
        });
        let count = match target {
            Target::Tag(_) => 0,
            _ => count.max(reached.count),
        };
        namespace.counters.invalidations.add(count);
        let source = match (reached.outcome, local) {
            (Outcome::Applied, _) => Source::Shared,
            (_, Outcome::Applied) => Source::Local,
            _ => Source::None,
        };
        Ok(Invalidated {
            count,
            local,
            shared: reached.outcome,
            provenance: Provenance {
                source,
                store: Some(begun.elapsed()),
                shared_store: reached.spent,
                ..self.provenance(namespace)
            },
        })
    }

    async fn remove_local(
        &self,
        namespace: &Namespace,
        gone: &Gone,
        steps: &Steps,
    ) -> Result<(u64, Outcome)> {
        if !namespace.uses_local() {
            self.tell(namespace, gone);
            return Ok((0, Outcome::Skipped));
        }
        let begun = Instant::now();
        let removed = self.remove_from_local(namespace, gone).await;
        steps.note(
            steps::What::Remove,
            TierName::Local,
            Ended::change(&removed),
            begun,
        );
        removed.map(|count| (count, Outcome::Applied))
    }

    async fn remove_from_local(&self, namespace: &Namespace, gone: &Gone) -> Result<u64> {
        let mut count = 0;
        match gone {
            Gone::Keys(keys) => {
                for key in keys {
                    let name = EntryName::new(&namespace.name, key);
                    count += u64::from(self.local.delete(&name).await?);
                }
            }
            Gone::Selected(selection) => {
                let selection = selection.clone();
                count = self
                    .local
                    .delete_selected(&namespace.name, selection)
                    .await?;
            }
        }
        Ok(count)
    }

    /// Tells watchers, where no local tier does.
    fn tell(&self, namespace: &Namespace, gone: &Gone) {
        let changes = self.local.changes();
        match gone {
            Gone::Keys(keys) => {
                for key in keys {
                    changes.changed(&EntryName::new(&namespace.name, key));
                }
            }
            Gone::Selected(selection) => changes.selected(&namespace.name, || selection.told()),
        }
    }

    /// In Redis, or noted for its return.
    async fn remove_shared(
        &self,
        shared: &Shared,
        namespace: &Namespace,
        gone: &Gone,
        steps: &Steps,
    ) -> Result<Reached> {
        let begun = Instant::now();
        let mut lost = 0;
        loop {
            let Some(link) = shared.link_after(lost) else {
                match self.remove_later(shared, namespace, gone, steps).await? {
                    Some(count) => {
                        return Ok(Reached {
                            count,
                            outcome: Outcome::Deferred,
                            spent: None,
                        });
                    }
                    // It has come back.
                    None => continue,
                }
            };
            let asked = Instant::now();
            let removed = self.remove_on(shared, &link, namespace, gone).await;
            steps.note(
                steps::What::Remove,
                TierName::Shared,
                Ended::change(&removed),
                asked,
            );
            match shared.noted(&link, removed) {
                Ok(count) => {
                    return Ok(Reached {
                        count,
                        outcome: Outcome::Applied,
                        spent: Some(begun.elapsed()),
                    });
                }
                Err(error) if error.trouble == Trouble::Overloaded => {
                    return Err(Error::new(Kind::Overloaded, error.to_string()));
                }
                Err(error) => tracing::debug!(%error, "an invalidation did not reach Redis"),
            }
            lost += 1;
        }
    }

    async fn remove_on(
        &self,
        shared: &Shared,
        link: &Link,
        namespace: &Namespace,
        gone: &Gone,
    ) -> Result<u64, SharedError> {
        let channel = shared.config.channel();
        match gone {
            Gone::Keys(keys) => {
                let names: Vec<_> = keys.iter().map(|key| shared.name(namespace, key)).collect();
                let first = names.first().map(SharedName::as_bytes);
                let expected = first.and_then(|first| shared.coherence.expect(first));
                let removed = link.tier().delete(&names).await;
                // Redis tells of what was there, and only of one can be said that it was.
                if let (Some(expected), [_], Ok(1)) = (expected, &*names, &removed) {
                    expected.acknowledged();
                }
                wish_away(shared, &names);
                for keys in keys.chunks(KEYS_MAX) {
                    let keys = keys.iter().map(|key| key.as_str().to_owned()).collect();
                    let wish = self.wish(shared, namespace, What::Keys(keys));
                    link.tier().publish(&channel, wish.encode()).await?;
                }
                removed
            }
            Gone::Selected(selection) => {
                let removed = link
                    .tier()
                    .remove_selected(&namespace.space, selection, None)
                    .await?;
                if namespace.policy.immutable {
                    shared.coherence.wished_all_away();
                }
                let wish = self.wish(shared, namespace, What::Selected(selection.clone()));
                link.tier().publish(&channel, wish.encode()).await?;
                // Redis tells of each key it removed; once that has been heard, no copy that is on
                // its way from there counts.
                shared.coherence.settle().await;
                Ok(removed)
            }
        }
    }

    /// Detached: removed here, noted for Redis's return. `None` when the daemon has attached
    /// meanwhile.
    async fn remove_later(
        &self,
        shared: &Shared,
        namespace: &Namespace,
        gone: &Gone,
        steps: &Steps,
    ) -> Result<Option<u64>> {
        let gate = shared.coherence.hold_gate().await;
        if !shared.coherence.is_detached_for_sure(&gate) {
            return Ok(None);
        }
        let begun = Instant::now();
        let stamp = self.stamper.bound();
        let name = namespace.name.as_str().to_owned();
        match gone {
            Gone::Keys(keys) => {
                let names: Vec<_> = keys.iter().map(|key| shared.name(namespace, key)).collect();
                wish_away(shared, &names);
                let items: Vec<_> = keys
                    .iter()
                    .map(|key| Deferred::Remove {
                        namespace: name.clone(),
                        key: key.as_str().to_owned(),
                        stamp,
                    })
                    .collect();
                shared.defer(namespace, &items).await?;
            }
            Gone::Selected(selection) => {
                if namespace.policy.immutable {
                    shared.coherence.wished_all_away();
                }
                let item = Deferred::RemoveSelected {
                    namespace: name,
                    selection: selection.clone(),
                    stamp,
                };
                shared.defer(namespace, &[item]).await?;
            }
        }
        steps.note(
            steps::What::Remove,
            TierName::Shared,
            Ended::Deferred,
            begun,
        );
        let (count, _) = self.remove_local(namespace, gone, steps).await?;
        Ok(Some(count))
    }

    fn wish(&self, shared: &Shared, namespace: &Namespace, what: What) -> Wish {
        Wish {
            sender: shared.journal.daemon_id(),
            namespace: namespace.name.clone(),
            what,
        }
    }
}

fn wish_away(shared: &Shared, names: &[SharedName]) {
    for name in names {
        shared.coherence.wished_away(name.as_bytes());
    }
}

/// A raw namespace without a prefix of its own is the whole database.
fn check_raw(namespace: &Namespace, gone: &Gone) -> Result<()> {
    let policy = &namespace.policy;
    let everything = matches!(gone, Gone::Selected(Selection::All));
    if everything && policy.raw && policy.raw_prefix.is_empty() {
        let text = "all: the namespace is raw without a raw_prefix: all of it is the whole \
                    database, other programs' keys included; use prefix, pattern or keys";
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// All is checked before anything is removed.
fn checked(target: &Target) -> Result<Gone> {
    Ok(match target {
        Target::Keys(keys) => {
            check_batch("keys", keys.len())?;
            Gone::Keys(keys.iter().map(Key::new).collect::<Result<_>>()?)
        }
        Target::Prefix(prefix) => {
            check_length("prefix", prefix)?;
            Gone::Selected(Selection::Prefix(prefix.clone()))
        }
        Target::Pattern(pattern) => Gone::Selected(Selection::Pattern(Glob::new(pattern)?)),
        Target::All => Gone::Selected(Selection::All),
        Target::Tag(tag) => {
            check_tag(tag)?;
            Gone::Keys(vec![Key::new(tag)?])
        }
    })
}
