//! A Redis Cluster of three masters, with or without a replica for each.

use super::{Redis, RedisBuilder, Reply};
use crate::{eventually, ports};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
const NODE_TIMEOUT_MS: &str = "1000";

/// Masters 0 to 2 and, with replicas, 3 to 5: node 3 follows node 0 and so on.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts three masters and waits until every slot is served.
    pub async fn start() -> Self {
        Self::form(MASTERS).await
    }

    /// The same with a replica for each master.
    pub async fn start_with_replicas() -> Self {
        Self::form(2 * MASTERS).await
    }

    async fn form(count: usize) -> Self {
        let nodes: Vec<_> = (0..count).map(|_| node().start()).collect();
        let cluster = Self { nodes };
        for (index, master) in cluster.nodes[..MASTERS].iter().enumerate() {
            let first = (index * SLOTS / MASTERS).to_string();
            let last = ((index + 1) * SLOTS / MASTERS - 1).to_string();
            ok(&master.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]));
            let epoch = (index + 1).to_string();
            ok(&master.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]));
        }
        let (port, bus) = (cluster.nodes[0].port().to_string(), cluster.bus_port(0));
        for other in &cluster.nodes[1..] {
            ok(&other.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]));
        }
        let known = cluster.nodes.len().to_string();
        eventually("the nodes of the cluster know one another", async || {
            let knows = |node: &Redis| {
                node.info_of_cluster("cluster_known_nodes") == Some(known.clone())
                    && node.info_of_cluster("cluster_state").as_deref() == Some("ok")
            };
            cluster.nodes.iter().all(knows)
        })
        .await;
        for index in MASTERS..count {
            let id = cluster.node_id(index - MASTERS);
            ok(&cluster.nodes[index].command(&["CLUSTER", "REPLICATE", &id]));
        }
        eventually("the replicas follow", async || {
            let link = |node: &Redis| node.info("replication", "master_link_status");
            let mut replicas = cluster.nodes[MASTERS..].iter();
            replicas.all(|node| link(node).as_deref() == Some("up"))
        })
        .await;
        cluster
    }

    /// What a daemon is to be given: two of the nodes, it finds the rest.
    pub fn url(&self) -> String {
        let (first, second) = (self.nodes[0].port(), self.nodes[1].port());
        format!("redis-cluster://127.0.0.1:{first},127.0.0.1:{second}")
    }

    /// All nodes, alive or not.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// One of them, to be killed or frozen.
    pub fn node(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> i64 {
        let mut alive = self.nodes.iter();
        let reply = alive.find_map(|node| node.try_command(&["CLUSTER", "KEYSLOT", key]).ok());
        reply.expect("a node is alive").integer()
    }

    /// The node that serves a slot, as it says itself.
    ///
    /// # Panics
    /// When none does.
    pub fn owner(&self, slot: i64) -> usize {
        let owns = |node: &Redis| {
            let Ok(reply) = node.try_command(&["CLUSTER", "NODES"]) else {
                return false;
            };
            let text = reply.text();
            let mut own = text.lines().filter(|line| line.contains("myself"));
            own.next()
                .is_some_and(|line| line.contains("master") && serves(line, slot))
        };
        let owner = self.nodes.iter().position(owns);
        owner.unwrap_or_else(|| panic!("nobody serves slot {slot}"))
    }

    /// Runs a command where its key is.
    pub fn command(&self, key: &str, arguments: &[&str]) -> Reply {
        self.nodes[self.owner(self.slot(key))].command(arguments)
    }

    /// Moves a slot with all its keys to another master.
    pub fn migrate(&self, slot: i64, to: usize) {
        self.begin_migration(slot, to);
        self.finish_migration(slot, to);
    }

    /// Begins to move a slot: what is not in its old place is looked for in the new one (ASK).
    pub fn begin_migration(&self, slot: i64, to: usize) {
        let from = self.owner(slot);
        let (slot, from_id, to_id) = (slot.to_string(), self.node_id(from), self.node_id(to));
        let set = ["CLUSTER", "SETSLOT", &slot];
        ok(&self.nodes[to].command(&[&set[..], &["IMPORTING", &from_id]].concat()));
        ok(&self.nodes[from].command(&[&set[..], &["MIGRATING", &to_id]].concat()));
    }

    /// Moves the keys and says so to everyone (MOVED from then on).
    pub fn finish_migration(&self, slot: i64, to: usize) {
        let from = self.owner(slot);
        let (slot, to_id) = (slot.to_string(), self.node_id(to));
        let port = self.nodes[to].port().to_string();
        loop {
            let keys = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            let keys: Vec<_> = keys.array().iter().map(Reply::text).collect();
            if keys.is_empty() {
                break;
            }
            let move_to = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let keys = keys.iter().map(String::as_str);
            let command: Vec<_> = move_to.into_iter().chain(keys).collect();
            ok(&self.nodes[from].command(&command));
        }
        let others = (0..self.nodes.len()).filter(|index| *index != to && *index != from);
        for index in [to, from].into_iter().chain(others) {
            // A replica learns it from the others.
            let set = ["CLUSTER", "SETSLOT", &slot, "NODE", &to_id];
            let _ = self.nodes[index].try_command(&set);
        }
    }

    /// Kills a master and waits until its replica serves in its place.
    ///
    /// # Panics
    /// When it has none.
    pub async fn fail_over(&mut self, master: usize) {
        assert!(self.nodes.len() > MASTERS, "started without replicas");
        self.nodes[master].kill();
        let replica = &self.nodes[master + MASTERS];
        eventually("the replica serves instead of its master", async || {
            let role = replica.command(&["ROLE"]);
            role.array()[0].text() == "master"
                && replica.info_of_cluster("cluster_state").as_deref() == Some("ok")
        })
        .await;
    }

    fn node_id(&self, index: usize) -> String {
        self.nodes[index].command(&["CLUSTER", "MYID"]).text()
    }

    fn bus_port(&self, index: usize) -> String {
        let reply = self.nodes[index].command(&["CONFIG", "GET", "cluster-port"]);
        reply.array()[1].text()
    }
}

impl Redis {
    fn info_of_cluster(&self, field: &str) -> Option<String> {
        let text = self.command(&["CLUSTER", "INFO"]).text();
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field)?;
        Some(value.trim().to_owned())
    }
}

fn node() -> RedisBuilder {
    Redis::builder()
        .setting("cluster-enabled", "yes")
        .setting("cluster-node-timeout", NODE_TIMEOUT_MS)
        // Its default, 10000 above the other port, may be taken or too high.
        .setting("cluster-port", ports::free().to_string())
}

/// Whether a line of CLUSTER NODES names this slot, alone or in a range.
fn serves(line: &str, slot: i64) -> bool {
    let ranges = line
        .split(' ')
        .skip(8)
        .filter(|range| !range.starts_with('['));
    let mut bounds = ranges.filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<i64>().ok()?, last.trim().parse::<i64>().ok()?))
    });
    bounds.any(|(first, last)| (first..=last).contains(&slot))
}

fn ok(reply: &Reply) {
    assert!(reply.is_ok(), "{reply:?}");
}

#[cfg(test)]
mod tests {
    use super::Cluster;

    #[tokio::test]
    async fn slots_move_and_masters_are_replaced() {
        let mut cluster = Cluster::start_with_replicas().await;
        let slot = cluster.slot("k");
        let owner = cluster.owner(slot);
        assert!(cluster.command("k", &["SET", "k", "v"]).is_ok());
        let other = (owner + 1) % 3;
        cluster.migrate(slot, other);
        assert_eq!(cluster.owner(slot), other);
        assert_eq!(cluster.command("k", &["GET", "k"]).text(), "v");
        cluster.fail_over(other).await;
        assert_eq!(cluster.owner(slot), other + 3);
    }
}
