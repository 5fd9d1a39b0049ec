//! Which masters there are, and whether that has changed.
//!
//! A Sentinel or Cluster is asked, again and again, over connections of its own. Nothing is done
//! about a change here: the owner drops what it has and asks anew. One server has no topology to
//! speak of.

mod cluster;
mod sentinel;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;

use crate::{
    config::{Address, SharedConfig, Topology},
    tier::shared::Target,
};

/// How often a Sentinel or Cluster is asked, at most.
const POLL: Duration = Duration::from_millis(500);

/// What the topology has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// What the data client connects to.
    pub(super) target: Target,
    /// Every master; each needs a tracking connection. Sorted, never empty.
    pub(super) masters: Vec<Address>,
    /// How many of the Cluster's slots have a master; 0 without a Cluster.
    slots: u32,
}

/// Finds the masters. Each server that is asked has `connect_timeout` for each step.
///
/// Whether they are masters indeed, tracking finds out. The error is a sentence for the log.
pub(super) async fn resolve(
    config: &SharedConfig,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Resolved, String> {
    match &config.topology {
        None => Err("no Redis is configured (shared.url)".into()),
        Some(Topology::Standalone(address)) => Ok(one(address.clone())),
        Some(Topology::Sentinel { hosts, service }) => {
            let mut sentinels = sentinel::Sentinels::new(hosts, service, config, tls.as_ref());
            sentinels.master().await.map(one)
        }
        Some(Topology::Cluster(hosts)) => {
            let layout = cluster::Nodes::new(hosts, config, tls.as_ref())
                .any_layout()
                .await?;
            Ok(Resolved {
                target: Target::Cluster(layout.masters.clone()),
                masters: layout.masters,
                slots: layout.slots,
            })
        }
    }
}

/// Returns when the masters are no longer those, and says why; never for one server.
///
/// A Sentinel that does not answer says nothing. A Cluster that has not told its layout for a
/// lease counts as changed: a new master in it would not be tracked.
pub(super) async fn watch(
    config: &SharedConfig,
    tls: Option<Arc<ClientConfig>>,
    resolved: &Resolved,
) -> String {
    match &config.topology {
        None | Some(Topology::Standalone(_)) => std::future::pending().await,
        Some(Topology::Sentinel { hosts, service }) => {
            let mut sentinels = sentinel::Sentinels::new(hosts, service, config, tls.as_ref());
            loop {
                tokio::time::sleep(POLL).await;
                if let Ok(master) = sentinels.master().await
                    && !resolved.masters.contains(&master)
                {
                    return format!("the Sentinels name another master of {service}: {master}");
                }
            }
        }
        Some(Topology::Cluster(_)) => {
            let mut nodes = cluster::Nodes::new(&resolved.masters, config, tls.as_ref());
            nodes.watch(&resolved.masters, resolved.slots).await
        }
    }
}

fn one(master: Address) -> Resolved {
    Resolved {
        target: Target::One(master.clone()),
        masters: vec![master],
        slots: 0,
    }
}

#[cfg(test)]
mod tests;
