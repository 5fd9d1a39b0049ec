//! What the tier remembers while its store does not work (L3).
//!
//! A write or delete that failed leaves the old record in the store. Its name is *doubtful*: reads
//! of it are misses, and before the store is used for writing again the name is removed from it.
//! When there are more such names than [`DOUBTFUL_MAX`], or a whole selection could not be
//! removed, everything is doubtful and the store is begun anew.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Inner;
use crate::{
    error::{Error, Kind},
    key::EntryName,
};

/// Names kept in doubt; beyond it everything is.
const DOUBTFUL_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether `trouble` holds something: one load on the way of every request.
    failing: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

/// The store has failed and has not been made to work again yet.
#[derive(Debug)]
pub(super) struct Trouble {
    reason: String,
    doubtful: HashSet<EntryName>,
    everything: bool,
    damaged: bool,
}

impl Health {
    /// Why the tier does not take writes.
    pub(super) fn trouble(&self) -> Option<String> {
        self.lock().as_ref().map(|trouble| trouble.reason.clone())
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// The error of a write while failing.
    pub(super) fn unavailable(&self) -> Error {
        let reason = self
            .trouble()
            .unwrap_or_else(|| "local tier: being repaired".into());
        Error::new(Kind::Unavailable, reason)
    }

    /// Whether a record of this name may be one that should be gone.
    pub(super) fn doubts(&self, name: &EntryName) -> bool {
        self.is_failing()
            && self
                .lock()
                .as_ref()
                .is_some_and(|trouble| trouble.everything || trouble.doubtful.contains(name))
    }

    /// While failing: keeps in mind that this name should have been written, and says so.
    pub(super) fn doubt(&self, name: &EntryName) -> bool {
        if !self.is_failing() {
            return false;
        }
        let mut guard = self.lock();
        // None: the store was made to work between the two looks, so the write can go on.
        guard.as_mut().map(|trouble| trouble.add(name)).is_some()
    }

    /// While failing: as [`Health::doubt`] for everything.
    pub(super) fn doubt_everything(&self) -> bool {
        let mut guard = self.lock();
        guard
            .as_mut()
            .map(|trouble| trouble.everything = true)
            .is_some()
    }

    /// Notes a failure; `name` is what could not be changed, `None` a whole selection.
    pub(super) fn fail(&self, name: Option<&EntryName>, error: &Error) {
        let mut guard = self.lock();
        let trouble = guard.get_or_insert_with(|| Trouble {
            reason: error.to_string(),
            doubtful: HashSet::new(),
            everything: false,
            damaged: false,
        });
        trouble.damaged |= error.kind() == Kind::Corrupt;
        match name {
            Some(name) => trouble.add(name),
            None => trouble.everything = true,
        }
        self.failing.store(true, Ordering::Release);
    }

    /// Says why repair has not succeeded yet.
    pub(super) fn still(&self, reason: String) {
        if let Some(trouble) = self.lock().as_mut() {
            trouble.reason = reason;
        }
    }

    /// Whether the store must be begun anew, and whether what is there is damaged.
    pub(super) fn verdict(&self) -> (bool, bool) {
        self.lock()
            .as_ref()
            .map_or((false, false), |it| (it.everything, it.damaged))
    }

    /// Hands `remove` the doubtful names until none is left, then ends the trouble and says true.
    /// `anew` says that the store was begun anew. False: meanwhile everything has come into doubt,
    /// so the store must be begun anew. An error of `remove` leaves all as it was.
    pub(super) fn resolve<E>(
        &self,
        anew: bool,
        mut remove: impl FnMut(&[EntryName]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let verdict = self.verdict();
        loop {
            let names: Vec<_> = match self.lock().as_ref() {
                None => return Ok(true),
                Some(trouble) => trouble.doubtful.iter().cloned().collect(),
            };
            remove(&names)?;
            let mut guard = self.lock();
            let Some(trouble) = guard.as_mut() else {
                return Ok(true);
            };
            let now = (trouble.everything, trouble.damaged);
            if now != verdict || (!anew && now != (false, false)) {
                return Ok(false);
            }
            for name in &names {
                trouble.doubtful.remove(name);
            }
            if trouble.doubtful.is_empty() {
                *guard = None;
                self.failing.store(false, Ordering::Release);
                return Ok(true);
            }
        }
    }

    /// Ends the trouble after the store was begun anew: nothing is left to doubt.
    pub(super) fn clear(&self) {
        *self.lock() = None;
        self.failing.store(false, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    fn add(&mut self, name: &EntryName) {
        if self.doubtful.len() < DOUBTFUL_MAX {
            self.doubtful.insert(name.clone());
        } else {
            self.everything = true;
        }
    }
}

impl Inner {
    /// Notes that changing `name` failed, calls for repair and passes the error on.
    pub(super) fn failed(&self, name: &EntryName, error: Error) -> Error {
        self.note(Some(name), error)
    }

    /// As [`Inner::failed`] for a whole selection.
    pub(super) fn failed_all(&self, error: Error) -> Error {
        self.note(None, error)
    }

    fn note(&self, name: Option<&EntryName>, error: Error) -> Error {
        let first = !self.health.is_failing();
        self.health.fail(name, &error);
        if first {
            tracing::error!(%error, "local tier stopped taking writes; repair follows");
            self.note_doubt(true);
        }
        self.wake.notify_one();
        // Whatever the store called it: to the caller the tier cannot be used now.
        Error::new(Kind::Unavailable, error.message().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::conformance::name;

    fn full() -> Error {
        Error::new(Kind::Unavailable, "no space")
    }

    #[test]
    fn a_failed_name_is_doubted_until_it_has_been_removed() {
        let health = Health::default();
        let (failed, other) = (name("n", "a"), name("n", "b"));
        assert!(!health.doubt(&failed));
        health.fail(Some(&failed), &full());
        assert!(health.doubts(&failed) && !health.doubts(&other));
        assert_eq!(
            health.resolve(false, |_| Err("still full")),
            Err("still full")
        );
        assert!(health.doubts(&failed));
        let mut removed = Vec::new();
        health
            .resolve(false, |names| {
                removed.extend_from_slice(names);
                Ok::<_, ()>(())
            })
            .expect("works");
        assert_eq!(removed, std::slice::from_ref(&failed));
        assert!(!health.doubts(&failed) && !health.is_failing());
    }

    #[test]
    fn a_name_that_fails_while_others_are_removed_is_removed_too() {
        let health = Health::default();
        health.fail(Some(&name("n", "a")), &full());
        let mut rounds = 0;
        health
            .resolve(false, |_| {
                rounds += 1;
                if rounds == 1 {
                    assert!(health.doubt(&name("n", "late")));
                }
                Ok::<_, ()>(())
            })
            .expect("works");
        assert_eq!(rounds, 2);
        assert!(!health.doubt(&name("n", "later")));
    }

    #[test]
    fn too_many_names_put_everything_in_doubt() {
        let health = Health::default();
        for i in 0..=DOUBTFUL_MAX {
            health.fail(Some(&name("n", &i.to_string())), &full());
        }
        assert_eq!(health.verdict(), (true, false));
        assert!(health.doubts(&name("n", "never written")));
    }

    #[test]
    fn everything_that_comes_into_doubt_during_repair_is_not_forgotten() {
        let health = Health::default();
        health.fail(Some(&name("n", "a")), &full());
        let resolved = health.resolve(false, |_| {
            assert!(health.doubt_everything());
            Ok::<_, ()>(())
        });
        assert_eq!(resolved, Ok(false));
        assert!(health.doubts(&name("n", "other")));
        assert_eq!(health.resolve(true, |_| Ok::<_, ()>(())), Ok(true));
        assert!(!health.is_failing());
    }
}
