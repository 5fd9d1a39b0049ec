//! Namespaces as requests meet them: a name, its policy, its counters.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    config::{Config, Policy, TierName},
    error::{Error, Result},
    key::{NamespaceName, Shown},
    stats::{Counters, Reading},
    tier::shared::SharedSpace,
};

/// Namespaces that are counted apart, besides those that are configured; requests of further ones
/// are counted together.
pub const COUNTED_APART_MAX: usize = 1000;
/// The name under which the others are counted.
pub const OTHER: &str = "other";

/// One namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: NamespaceName,
    /// How it is treated.
    pub policy: Policy,
    /// Its place in the shared tier, when there is one.
    pub space: SharedSpace,
    /// Where its tags are kept (`engine::tags`); `None` for one that holds tags or can have none.
    pub tags: Option<Arc<Namespace>>,
    /// Its counters; shared by all namespaces beyond [`COUNTED_APART_MAX`].
    pub counters: Arc<Counters>,
    /// Whether metrics show it by its name.
    labelled: bool,
}

/// What was counted for a namespace.
#[derive(Debug, Clone)]
pub struct Met {
    /// Its name; [`OTHER`] for those that are not counted apart.
    pub name: Arc<str>,
    /// Whether metrics show it by its name: it is configured, or was among the first to be met.
    /// That never changes, so that no counter jumps.
    pub labelled: bool,
    /// Its counts.
    pub reading: Reading,
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
    met: RwLock<HashMap<Arc<str>, Arc<Namespace>>>,
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
        let policy = self.config.policy(&name).ok_or_else(|| {
            let shown = Shown(name.as_str());
            Error::invalid(format!(
                "namespace: {shown} is not configured, and server.known_namespaces_only is set"
            ))
        })?;
        let policy = policy.into_owned();
        let space = SharedSpace::new(&self.config.shared, &name, &policy);
        let tags = (!policy.raw).then(|| self.of_tags(&name, &policy));
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = met.get(name.as_str()) {
            return Ok(Arc::clone(namespace));
        }
        let room = met.len() < COUNTED_APART_MAX || self.is_configured(name.as_str());
        // The figures of one with this name could not be told from those of the others.
        if !room || name.as_str() == OTHER {
            let counters = Arc::clone(&self.other);
            return Ok(Arc::new(Namespace {
                name,
                policy,
                space,
                tags,
                counters,
                labelled: false,
            }));
        }
        let key = Arc::from(name.as_str());
        let namespace = Arc::new(Namespace {
            labelled: self.is_labelled(&met, name.as_str()),
            name,
            policy,
            space,
            tags,
            counters: Arc::default(),
        });
        met.insert(key, Arc::clone(&namespace));
        Ok(namespace)
    }

    /// What is done with tags is counted nowhere.
    fn of_tags(&self, tagged: &NamespaceName, policy: &Policy) -> Arc<Namespace> {
        let (name, policy) = (tagged.of_tags(), policy.of_tags());
        Arc::new(Namespace {
            space: SharedSpace::new(&self.config.shared, &name, &policy),
            name,
            policy,
            tags: None,
            counters: Arc::default(),
            labelled: false,
        })
    }

    /// Those that are configured are, and of the rest the first ones.
    fn is_labelled(&self, met: &HashMap<Arc<str>, Arc<Namespace>>, name: &str) -> bool {
        let configured = self.config.namespaces.len();
        let unknown = met
            .values()
            .filter(|it| it.labelled && !self.is_configured(it.name.as_str()));
        let room = self.config.telemetry.namespaces_max;
        self.is_configured(name) || unknown.count() < room.saturating_sub(configured)
    }

    fn is_configured(&self, name: &str) -> bool {
        self.config.namespaces.contains_key(name)
    }

    /// What was counted for each, by name; [`OTHER`] last when there is one.
    pub fn counters(&self) -> Vec<Met> {
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = met
            .iter()
            .map(|(name, namespace)| Met {
                name: Arc::clone(name),
                labelled: namespace.labelled,
                reading: namespace.counters.read(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let reading = self.other.read();
        if reading != Reading::default() {
            all.push(Met {
                name: Arc::from(OTHER),
                labelled: false,
                reading,
            });
        }
        all
    }
}
