//! Invalidating: by key, prefix, pattern, a whole namespace.

use std::time::Instant;

use super::{Engine, Outcome, Provenance, Source, check_batch};
use crate::{
    error::{Error, Kind, Result},
    glob::Glob,
    key::{EntryName, Key, check_length},
    namespace::Namespace,
    tier::{Tier, local::Selection},
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
    /// Live entries removed.
    pub count: u64,
    /// What became of it in the local tier.
    pub local: Outcome,
    /// How long it took.
    pub provenance: Provenance,
}

impl Engine {
    /// Removes entries. No read that starts after it has returned sees them. On an error some may
    /// have been removed and the rest not.
    pub async fn invalidate(&self, namespace: &str, target: Target) -> Result<Invalidated> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.invalidate_in(&namespace, target).await;
        Self::counted(&namespace, result)
    }

    async fn invalidate_in(&self, namespace: &Namespace, target: Target) -> Result<Invalidated> {
        let begun = Instant::now();
        let count = match target {
            Target::Keys(keys) => self.remove_keys(namespace, keys).await?,
            Target::Prefix(prefix) => {
                check_length("prefix", &prefix)?;
                self.local
                    .delete_selected(&namespace.name, Selection::Prefix(prefix))
                    .await?
            }
            Target::Pattern(pattern) => {
                let selection = Selection::Pattern(Glob::new(&pattern)?);
                self.local
                    .delete_selected(&namespace.name, selection)
                    .await?
            }
            Target::All => {
                self.local
                    .delete_selected(&namespace.name, Selection::All)
                    .await?
            }
            Target::Tag(_) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "tag: not served by this version",
                ));
            }
        };
        namespace.counters.invalidations.add(count);
        let store = Some(begun.elapsed());
        let provenance = Provenance {
            source: Source::Local,
            store,
            ..Provenance::default()
        };
        Ok(Invalidated {
            count,
            local: Outcome::Applied,
            provenance,
        })
    }

    async fn remove_keys(&self, namespace: &Namespace, keys: Vec<String>) -> Result<u64> {
        check_batch("keys", keys.len())?;
        // All are checked before any is removed.
        let keys = keys.into_iter().map(Key::new).collect::<Result<Vec<_>>>()?;
        let mut count = 0;
        for key in keys {
            let name = EntryName::new(&namespace.name, &key);
            count += u64::from(self.local.delete(&name).await?);
        }
        Ok(count)
    }
}
