//! Namespaces as requests meet them: a name, its policy, its counters.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    config::{Config, Policy, TierName},
    error::{Error, Result},
    key::{NamespaceName, Shown},
    stats::Counters,
    tier::shared::SharedSpace,
};

/// Namespaces that are counted apart; requests of further ones are counted together.
pub const COUNTED_APART_MAX: usize = 1000;

/// One namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: NamespaceName,
    /// How it is treated.
    pub policy: Policy,
    /// Its place in the shared tier, when there is one.
    pub space: SharedSpace,
    /// Its counters; shared by all namespaces beyond [`COUNTED_APART_MAX`].
    pub counters: Arc<Counters>,
}

impl Namespace {
    /// Whether its entries are kept in the local tier.
    pub fn uses_local(&self) -> bool {
        self.policy.tiers.contains(&TierName::Local)
    }

    /// Whether its entries are kept in the shared tier, when there is one.
    pub fn uses_shared(&self) -> bool {
        self.policy.tiers.contains(&TierName::Shared)
    }
}

/// All namespaces met so far.
#[derive(Debug)]
pub struct Namespaces {
    config: Arc<Config>,
    met: RwLock<HashMap<String, Arc<Namespace>>>,
    other: Arc<Counters>,
}

impl Namespaces {
    /// None met yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            met: RwLock::default(),
            other: Arc::default(),
        }
    }

    /// The namespace of this name. `Invalid` when the name breaks the rule, or is not configured
    /// and only configured ones are served.
    pub fn get(&self, name: &str) -> Result<Arc<Namespace>> {
        {
            let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(namespace) = met.get(name) {
                return Ok(Arc::clone(namespace));
            }
        }
        let name = NamespaceName::new(name)?;
        let policy = self.config.policy(&name).cloned().ok_or_else(|| {
            let shown = Shown(name.as_str());
            Error::invalid(format!(
                "namespace: {shown} is not configured, and server.known_namespaces_only is set"
            ))
        })?;
        let space = SharedSpace::new(&self.config.shared, &name, &policy);
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = met.get(name.as_str()) {
            return Ok(Arc::clone(namespace));
        }
        if met.len() >= COUNTED_APART_MAX {
            let counters = Arc::clone(&self.other);
            return Ok(Arc::new(Namespace {
                name,
                policy,
                space,
                counters,
            }));
        }
        let key = name.as_str().to_owned();
        let namespace = Arc::new(Namespace {
            name,
            policy,
            space,
            counters: Arc::default(),
        });
        met.insert(key, Arc::clone(&namespace));
        Ok(namespace)
    }

    /// Name and counters of each, by name; `other` last when there is one.
    pub fn counters(&self) -> Vec<(String, Arc<Counters>)> {
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        let each = met
            .values()
            .map(|it| (it.name.as_str().to_owned(), Arc::clone(&it.counters)));
        let mut all: Vec<_> = each.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        if met.len() >= COUNTED_APART_MAX {
            all.push(("other".to_owned(), Arc::clone(&self.other)));
        }
        all
    }
}
