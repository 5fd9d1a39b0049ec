//! Removing many: by prefix, by pattern, a whole namespace.
//!
//! Works in slices of [`SLICE`] names or [`SLICE_TIME`] so that nobody waits long: between two
//! slices everything else has its turn. Entries put while a scan runs may or may not be removed by
//! it; those put before it began are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Inner, LocalTier, closed, envelope::Envelope, off_thread, store::Store};
use crate::{
    changes::Selected,
    clock::Timestamp,
    error::{Error, Kind, Result},
    glob::Glob,
    key::{EntryName, NamespaceName},
    record::is_lease,
};

/// Names looked at before others have their turn.
const SLICE: usize = 1000;
/// Time after which others have their turn, however few names that were: patterns can be slow.
const SLICE_TIME: Duration = Duration::from_millis(5);

/// Which entries of a namespace.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All.
    All,
    /// Those whose key begins with this.
    Prefix(String),
    /// Those whose key matches.
    Pattern(Glob),
}

impl Selection {
    fn prefix(&self) -> &str {
        match self {
            Self::All => "",
            Self::Prefix(prefix) => prefix,
            Self::Pattern(glob) => glob.literal_prefix(),
        }
    }

    /// The same, as watchers are told.
    pub fn told(&self) -> Selected {
        match self {
            Self::All => Selected::All,
            Self::Prefix(prefix) => Selected::Prefix(prefix.clone()),
            Self::Pattern(glob) => Selected::Pattern(glob.as_str().to_owned()),
        }
    }

    fn selects(&self, name: &[u8]) -> bool {
        let Self::Pattern(glob) = self else {
            return true;
        };
        let key = EntryName::key_of(name).and_then(|key| std::str::from_utf8(key).ok());
        key.is_some_and(|key| glob.matches(key))
    }
}

/// Ends a scan whose caller has gone.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One slice's findings.
struct Slice {
    names: Vec<Box<[u8]>>,
    live: u64,
    /// Where the next slice begins; `None` at the end.
    next: Option<Vec<u8>>,
}

impl LocalTier {
    /// Removes the selected entries of a namespace; tells how many of them were live.
    ///
    /// Cancel safe: a dropped call stops after the slice at hand. An error leaves the tier in
    /// doubt about all it holds.
    pub async fn delete_selected(
        &self,
        namespace: &NamespaceName,
        selection: Selection,
    ) -> Result<u64> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = Cancel(Arc::clone(&cancelled));
        let prefix = EntryName::prefix(namespace, selection.prefix());
        let (inner, namespace) = (Arc::clone(&self.inner), namespace.clone());
        let permit = Arc::clone(&self.inner.scans).acquire_owned().await;
        off_thread(move || {
            // Given back after the fence has moved: `refresh` relies on it.
            let _permit = permit;
            let result = inner.delete_selected(&prefix, &selection, &cancelled);
            // Also for what the store has dropped for space and only the hot set still has.
            inner.hot.changed_all();
            let result = result.map_err(|error| match error.kind() {
                Kind::Overloaded => error,
                _ => inner.failed_all(error),
            });
            inner.changes.selected(&namespace, || selection.told());
            result
        })
        .await?
    }
}

impl Inner {
    fn delete_selected(
        &self,
        prefix: &[u8],
        selection: &Selection,
        cancelled: &AtomicBool,
    ) -> Result<u64> {
        if self.health.is_failing() && self.health.doubt_everything() {
            return Err(self.health.unavailable());
        }
        let now = self.clock.now();
        let mut live = 0;
        let mut from = prefix.to_vec();
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Overloaded, "the caller has gone"));
            }
            let _alone = self.slices.blocking_write();
            let slot = self.store.blocking_read();
            let store = slot.as_ref().ok_or_else(closed)?;
            let slice = slice(store, prefix, &from, selection, now)?;
            if !slice.names.is_empty() {
                store.delete_all(&slice.names)?;
            }
            live += slice.live;
            match slice.next {
                Some(next) => from = next,
                None => return Ok(live),
            }
        }
    }
}

fn slice(
    store: &Store,
    prefix: &[u8],
    from: &[u8],
    selection: &Selection,
    now: Timestamp,
) -> Result<Slice> {
    let mut found = Slice {
        names: Vec::new(),
        live: 0,
        next: None,
    };
    let (mut seen, begun) = (0, Instant::now());
    store.scan(prefix, from, |name, value| {
        if seen == SLICE || (seen > 0 && begun.elapsed() > SLICE_TIME) {
            found.next = Some(name.to_vec());
            return false;
        }
        seen += 1;
        if selection.selects(name) {
            found.names.push(name.into());
            let entry = Envelope::unwrap(value).filter(|(_, record)| !is_lease(record));
            found.live += u64::from(entry.is_some_and(|(it, _)| now < it.expires));
        }
        true
    })?;
    Ok(found)
}
