//! Which items there are, without their text: what a new one replaces, and when there are too many.
//!
//! Of each item only a hash of its name, its sequence and its stamp are kept: 40 bytes, 24 for a
//! publication. At 100,000 items that is 5.5 MiB of hash table, and up to 8 while it grows.
//! The hash has 128 bits of SipHash under keys drawn at random, so that nobody can make two names
//! collide; a collision would replace an item by another.
//!
//! Rules:
//! - (R1) A removal replaces the removal of the same sort and text. The newer stamp of the two
//!   stays, the sequence is always new: an item that is added while its predecessor is being
//!   replayed is replayed again.
//! - (R2) A removal of a key or of all takes the publications it covers with it: what they were to
//!   publish is gone. A publication leaves a removal alone and comes after it.
//! - (R3) A removal of all takes with it the removals of its namespace that are not newer.
//! - (R4) At the limit the namespace with the most items *collapses*: into one removal of all with
//!   its newest stamp. Until that is done, it takes in every further removal of the namespace by
//!   raising its stamp. Publications are dropped; they only save others work.
//! - (R5) A publication for which there is no room is dropped. A removal for which no collapse can
//!   make room is refused.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
};

use super::item::{Item, Removed, What};
use crate::{
    error::{Error, Kind, Result},
    stamp::Stamp,
};

/// The hash of an item's sort and text.
type Name = [u64; 2];

/// What is to be written, all or nothing: first the puts, then the deletes.
#[derive(Default)]
pub(super) struct Edits {
    pub(super) puts: Vec<(u64, Vec<u8>)>,
    pub(super) deletes: Vec<u64>,
}

/// All items. It runs ahead of the store: when a write fails it is wrong, and made anew from there.
pub(super) struct Index {
    hashers: [RandomState; 2],
    namespaces: HashMap<Box<str>, Namespace>,
    depth: usize,
    limit: usize,
    next_sequence: u64,
    /// Publications dropped and namespaces collapsed since the index was made.
    pub(super) dropped: u64,
    pub(super) collapses: u64,
}

#[derive(Default)]
struct Namespace {
    removals: HashMap<Name, Removal>,
    publications: HashMap<Name, u64>,
    collapsed: bool,
}

struct Removal {
    sequence: u64,
    stamp: Stamp,
}

impl Namespace {
    fn len(&self) -> usize {
        self.removals.len() + self.publications.len()
    }
}

impl Index {
    /// Empty; sequences begin at `next_sequence`.
    pub(super) fn new(limit: usize, next_sequence: u64) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            namespaces: HashMap::new(),
            depth: 0,
            limit,
            next_sequence,
            dropped: 0,
            collapses: 0,
        }
    }

    /// Items there are.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Greater than the sequence of every item there is or was.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes up an item that the store has. In the order of their sequences.
    pub(super) fn restore(&mut self, sequence: u64, item: &Item<'_>) {
        let name = self.name(&item.what);
        let namespace = self.namespaces.entry(item.namespace.into()).or_default();
        match item.what {
            What::Publication { .. } => _ = namespace.publications.insert(name, sequence),
            What::Removal { of, stamp, .. } => {
                namespace.collapsed |= of == Removed::Collapsed;
                let removal = Removal { sequence, stamp };
                namespace.removals.insert(name, removal);
            }
        }
        self.depth += 1;
        self.next_sequence = self.next_sequence.max(sequence + 1);
    }

    /// Plans an item in. `Overloaded` when there is no room and none can be made.
    pub(super) fn add(&mut self, item: &Item<'_>, edits: &mut Edits) -> Result<()> {
        match item.what {
            What::Publication { .. } => self.publish(item, edits),
            What::Removal { of, text, stamp } => self.remove(item, of, text, stamp, edits),
        }
    }

    /// Plans the end of an item; does nothing when it has been replaced.
    pub(super) fn forget(&mut self, sequence: u64, item: &Item<'_>, edits: &mut Edits) {
        let name = self.name(&item.what);
        let Some(namespace) = self.namespaces.get_mut(item.namespace) else {
            return;
        };
        let gone = match item.what {
            What::Publication { .. } => {
                let current = namespace.publications.get(&name) == Some(&sequence);
                current && namespace.publications.remove(&name).is_some()
            }
            What::Removal { of, .. } => {
                let current = |it: &Removal| it.sequence == sequence;
                let gone = namespace.removals.get(&name).is_some_and(current)
                    && namespace.removals.remove(&name).is_some();
                if gone && of == Removed::Collapsed {
                    namespace.collapsed = false;
                }
                gone
            }
        };
        if gone {
            self.depth -= 1;
            edits.deletes.push(sequence);
            if namespace.len() == 0 {
                self.namespaces.remove(item.namespace);
            }
        }
    }

    fn publish(&mut self, item: &Item<'_>, edits: &mut Edits) -> Result<()> {
        let name = self.name(&item.what);
        let namespace = self.namespaces.get(item.namespace);
        let replaces = namespace.is_some_and(|it| it.publications.contains_key(&name));
        let collapsed = namespace.is_some_and(|it| it.collapsed);
        if collapsed || (!replaces && self.depth >= self.limit) {
            self.dropped += 1;
            return Ok(());
        }
        let bytes = item.encode()?;
        let sequence = self.take_sequence();
        let namespace = self.namespaces.entry(item.namespace.into()).or_default();
        match namespace.publications.insert(name, sequence) {
            Some(replaced) => edits.deletes.push(replaced),
            None => self.depth += 1,
        }
        edits.puts.push((sequence, bytes));
        Ok(())
    }

    fn remove(
        &mut self,
        item: &Item<'_>,
        of: Removed,
        text: &str,
        stamp: Stamp,
        edits: &mut Edits,
    ) -> Result<()> {
        // Before anything is changed.
        item.encode()?;
        if !self.replaces(item, of, stamp) {
            self.make_room(item.namespace, edits)?;
        }
        let namespace = self.namespaces.entry(item.namespace.into()).or_default();
        let (of, text) = if namespace.collapsed {
            (Removed::Collapsed, "")
        } else {
            (of, text)
        };
        if of == Removed::All {
            let before = namespace.len();
            edits
                .deletes
                .extend(namespace.publications.drain().map(|it| it.1));
            namespace.removals.retain(|_, it| {
                let stays = it.stamp > stamp;
                if !stays {
                    edits.deletes.push(it.sequence);
                }
                stays
            });
            self.depth -= before - namespace.len();
        } else if of == Removed::Key {
            let published = name_of(&self.hashers, &What::Publication { key: text });
            if let Some(sequence) = namespace.publications.remove(&published) {
                edits.deletes.push(sequence);
                self.depth -= 1;
            }
        }
        self.put(item.namespace, of, text, stamp, edits)
    }

    /// Writes a removal in place of the one of the same sort and text.
    fn put(
        &mut self,
        space: &str,
        of: Removed,
        text: &str,
        stamp: Stamp,
        edits: &mut Edits,
    ) -> Result<()> {
        let name = self.name(&What::Removal { of, text, stamp });
        let sequence = self.take_sequence();
        let namespace = self.namespaces.entry(space.into()).or_default();
        let newest = namespace
            .removals
            .get(&name)
            .map_or(stamp, |it| it.stamp.max(stamp));
        let removal = Removal {
            sequence,
            stamp: newest,
        };
        match namespace.removals.insert(name, removal) {
            Some(replaced) => edits.deletes.push(replaced.sequence),
            None => self.depth += 1,
        }
        let stamp = newest;
        let what = What::Removal { of, text, stamp };
        let namespace = space;
        edits
            .puts
            .push((sequence, Item { namespace, what }.encode()?));
        Ok(())
    }

    /// Whether this removal takes the place of something, so that it needs no room.
    fn replaces(&self, item: &Item<'_>, of: Removed, stamp: Stamp) -> bool {
        let name = self.name(&item.what);
        self.namespaces.get(item.namespace).is_some_and(|it| {
            let takes_in = || {
                let not_newer = |it: &Removal| it.stamp <= stamp;
                !it.publications.is_empty() || it.removals.values().any(not_newer)
            };
            it.collapsed || it.removals.contains_key(&name) || (of == Removed::All && takes_in())
        })
    }

    /// Collapses namespaces until one more item for `space` fits, or `space` takes it in.
    fn make_room(&mut self, space: &str, edits: &mut Edits) -> Result<()> {
        while self.depth >= self.limit {
            let largest = self.namespaces.iter().max_by_key(|(_, it)| it.len());
            let name: Box<str> = match largest {
                Some((name, namespace)) if namespace.len() > 1 => name.clone(),
                // Each has one item: only this one's own can take in another.
                _ if self.namespaces.contains_key(space) => space.into(),
                _ => {
                    let (depth, limit) = (self.depth, self.limit);
                    let text = format!(
                        "journal: {depth} namespaces have deferred changes, at most {limit}; \
                         raise shared.journal_max"
                    );
                    return Err(Error::new(Kind::Overloaded, text));
                }
            };
            self.collapse(&name, edits)?;
            if self.namespaces.get(space).is_some_and(|it| it.collapsed) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn collapse(&mut self, space: &str, edits: &mut Edits) -> Result<()> {
        let Some(all) = self.namespaces.remove(space) else {
            return Ok(());
        };
        tracing::warn!(
            namespace = space,
            items = all.len(),
            "the journal is full: the namespace's deferred changes become the removal of all \
             of it from the shared tier"
        );
        self.depth -= all.len();
        self.dropped += all.publications.len() as u64;
        self.collapses += 1;
        edits.deletes.extend(all.publications.into_values());
        let sequences = all.removals.values().map(|it| it.sequence);
        edits.deletes.extend(sequences);
        if let Some(newest) = all.removals.into_values().map(|it| it.stamp).max() {
            self.put(space, Removed::Collapsed, "", newest, edits)?;
            if let Some(namespace) = self.namespaces.get_mut(space) {
                namespace.collapsed = true;
            }
        }
        Ok(())
    }

    fn take_sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence - 1
    }

    fn name(&self, what: &What<'_>) -> Name {
        name_of(&self.hashers, what)
    }
}

fn name_of(hashers: &[RandomState; 2], what: &What<'_>) -> Name {
    let named = match *what {
        What::Publication { key } => (0_u8, key),
        What::Removal { of, text, .. } => match of {
            Removed::Key => (1, text),
            // One name: there is one removal of all, however it came about.
            Removed::All | Removed::Collapsed => (2, text),
            Removed::Prefix => (3, text),
            Removed::Pattern => (4, text),
        },
    };
    [hashers[0].hash_one(named), hashers[1].hash_one(named)]
}

#[cfg(test)]
mod tests;
