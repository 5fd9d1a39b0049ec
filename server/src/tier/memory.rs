//! A tier in memory, for tests: the contract of [`Tier`] in the fewest words.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{Found, Mark, Tier};
use crate::{
    clock::{Clock, Timestamp},
    error::Result,
    key::EntryName,
    record::Record,
};

pub(super) struct MemoryTier {
    clock: Clock,
    found: Mutex<HashMap<EntryName, Found>>,
}

impl MemoryTier {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            found: Mutex::default(),
        }
    }
}

impl Tier for MemoryTier {
    async fn get(&self, name: &EntryName) -> Result<Option<Found>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found
            .get(name)
            .filter(|found| self.clock.now() < found.expires)
            .cloned())
    }

    async fn put(&self, name: &EntryName, record: &Record, expires: Timestamp) -> Result<()> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(
            name.clone(),
            Found {
                record: record.clone(),
                expires,
                mark: Mark::default(),
            },
        );
        Ok(())
    }

    async fn delete(&self, name: &EntryName) -> Result<bool> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found
            .remove(name)
            .is_some_and(|found| self.clock.now() < found.expires))
    }
}

#[tokio::test]
async fn memory_tier_conforms() {
    super::conformance::check(|clock| async { (MemoryTier::new(clock), ()) }).await;
}
