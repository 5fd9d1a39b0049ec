//! A Cluster of three masters, by the programs that come with Redis.

use std::{collections::HashMap, process::Command};

use super::*;
use crate::{config::Address, tier::shared::testing::free_port};

struct Cluster {
    nodes: Vec<RedisServer>,
}

fn port_of(redis: &RedisServer) -> u16 {
    match redis.address() {
        Address::Tcp { port, .. } => port,
        Address::Unix(_) => panic!("a node has a port"),
    }
}

impl Cluster {
    fn start() -> Self {
        let node = |_| {
            let bus = free_port().to_string();
            RedisServer::tcp(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--enable-debug-command",
                "yes",
            ])
        };
        let nodes: Vec<_> = (0..3).map(node).collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(
                nodes
                    .iter()
                    .map(|node| format!("127.0.0.1:{}", port_of(node))),
            )
            .arg("--cluster-yes")
            .output()
            .expect("redis-cli is installed");
        let said = String::from_utf8_lossy(&made.stdout);
        assert!(made.status.success(), "{said}");
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            while !node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {}
        }
        cluster
    }

    async fn connect(&self) -> SharedTier {
        self.connect_as(OURS).await
    }

    async fn connect_as(&self, name: &str) -> SharedTier {
        let target = Target::Cluster(vec![self.nodes[1].address()]);
        let config = self.nodes[1].config();
        let tier = SharedTier::connect(&target, &config, None, Clock::system(), name).await;
        tier.expect("connects")
    }

    fn keys(&self) -> u64 {
        let size = |node: &RedisServer| node.cli(&["DBSIZE"]).parse::<u64>().expect("a number");
        self.nodes.iter().map(size).sum()
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }

    /// Which node has the slot of a key, and which slot that is.
    fn owner(&self, key: &str) -> (usize, String) {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]);
        let known = self.nodes[0].cli(&["GET", key]);
        let port = known
            .split(':')
            .nth(1)
            .and_then(|port| port.trim().parse().ok());
        let owner = self
            .nodes
            .iter()
            .position(|node| Some(port_of(node)) == port);
        (owner.unwrap_or(0), slot)
    }
}

#[tokio::test]
async fn a_cluster_does_what_one_server_does() {
    let cluster = Cluster::start();
    let (tier, space) = (cluster.connect().await, space(&cluster.nodes[0]));
    let names: Vec<_> = (0..600)
        .map(|index| space.name(&format!("k{index}")))
        .collect();
    for (name, stamp) in names.iter().zip(1..) {
        put(&tier, name, &stamped(stamp)).await;
        assert!(holds(&tier, name, &stamped(stamp)).await);
    }
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| node.cli(&["DBSIZE"]) != "0")
    );
    assert_eq!(tier.delete(&names[..300]).await.expect("works"), 300);
    let than = Stamp::from_bytes(401_u128.to_be_bytes());
    assert!(tier.remove_older(&names[300], &than).await.expect("works"));
    let older = tier
        .remove_selected(&space, &Selection::All, Some(&than))
        .await;
    assert_eq!(older.expect("works"), 99);
    let rest = tier
        .remove_selected(&space, &Selection::Prefix("k".into()), None)
        .await;
    assert_eq!((rest.expect("works"), cluster.keys()), (200, 0));
    let (name, stamp) = (&names[0], Condition::Version(stamped(1).head().stamp));
    put(&tier, name, &stamped(1)).await;
    let stored = tier.put(name, &stamped(2), MINUTE, stamp).await;
    assert_eq!(stored.expect("works"), Stored::Written);
    tier.publish("pannier:!invalidate", Bytes::new())
        .await
        .expect("works");
    assert_eq!(tier.inspect().await.expect("works").role, "master");
    let old = cluster.connect().await;
    // Having lost one connection it drops the others itself.
    let heir = cluster.connect_as("pannier-test-2").await;
    let killed = heir.kill_predecessors(OURS, "pannier-test-2").await;
    assert!(killed.expect("works") > 0);
    assert_eq!(old.lost().await.trouble, Trouble::Lost);
    for node in &cluster.nodes {
        while node
            .cli(&["CLIENT", "LIST"])
            .matches("name=pannier-test ")
            .count()
            > 0
        {}
    }
    assert!(holds(&heir, name, &stamped(2)).await);
}

#[tokio::test]
async fn a_slot_that_has_moved_is_found() {
    let cluster = Cluster::start();
    let (tier, space) = (cluster.connect().await, space(&cluster.nodes[0]));
    let name = space.name("k");
    let (from, slot) = cluster.owner("pannier:n:k");
    let to = (from + 1) % 3;
    let owner = cluster.id(to);
    for node in [to, from, (from + 2) % 3] {
        let moved = cluster.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &owner]);
        assert_eq!(moved, "OK");
    }
    put(&tier, &name, &stamped(1)).await;
    assert!(holds(&tier, &name, &stamped(1)).await);
    let highest = Stamp::from_bytes([0xff; 16]);
    assert!(tier.remove_older(&name, &highest).await.expect("works"));
}

impl Cluster {
    /// Begins to move the slot of a key; tells from where to where.
    fn begin_to_move(&self, key: &str, to: usize) -> (usize, usize) {
        let (from, slot) = self.owner(key);
        let ids = [self.id(from), self.id(to)];
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]];
        assert_eq!(self.nodes[to].cli(&importing), "OK");
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]];
        assert_eq!(self.nodes[from].cli(&migrating), "OK");
        (from, to)
    }

    /// Tells whether the key was still there.
    fn migrate(&self, (from, to): (usize, usize), key: &str) -> bool {
        let port = port_of(&self.nodes[to]).to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        self.nodes[from].cli(&migrate) == "OK"
    }

    fn stop_moving(&self, key: &str) {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]);
        for node in &self.nodes {
            node.cli(&["CLUSTER", "SETSLOT", &slot, "STABLE"]);
        }
    }
}

/// fred on its own would here take the reply of one command for that of another.
#[tokio::test]
async fn a_slot_on_the_move_is_served_by_both_masters() {
    let cluster = Cluster::start();
    let (tier, space) = (cluster.connect().await, space(&cluster.nodes[0]));
    let others: HashMap<_, _> = (1..200)
        .map(|at| (at, space.name(&format!("o{at}"))))
        .collect();
    for (stamp, name) in &others {
        put(&tier, name, &stamped(*stamp)).await;
    }
    // All of one slot: some stay, some go, some come when it is half moved.
    let [stays, goes, comes] = ["{k}stays", "{k}goes", "{k}comes"].map(|key| space.name(key));
    put(&tier, &stays, &stamped(1)).await;
    put(&tier, &goes, &stamped(2)).await;
    let from = cluster.owner("pannier:n:{k}goes").0;
    let way = cluster.begin_to_move("pannier:n:{k}goes", (from + 1) % 3);
    assert!(cluster.migrate(way, "pannier:n:{k}goes"));
    for round in 0..10 {
        let moving = async {
            assert!(holds(&tier, &stays, &stamped(1)).await);
            assert!(holds(&tier, &goes, &stamped(2)).await);
            put(&tier, &comes, &stamped(round + 1000)).await;
            assert!(holds(&tier, &comes, &stamped(round + 1000)).await);
        };
        let read = others.iter().map(|(stamp, name)| async {
            assert!(holds(&tier, name, &stamped(*stamp)).await);
        });
        tokio::join!(moving, futures_util::future::join_all(read));
    }
    // Conditions and scripts, of the one and of the other.
    for (name, stamp) in [(&stays, 1), (&goes, 2)] {
        let absent = tier.put(name, &stamped(9), MINUTE, Condition::Absent).await;
        assert_eq!(absent.expect("works"), Stored::Refused);
        let version = Condition::Version(stamped(stamp).head().stamp);
        let stored = tier.put(name, &stamped(stamp + 10), MINUTE, version).await;
        assert_eq!(stored.expect("works"), Stored::Written);
        let there = tier.check(name).await.expect("works").expect("is there");
        assert_eq!(there.record.stamp, stamped(stamp + 10).head().stamp);
        let old = stamped(stamp).head().stamp;
        assert!(!tier.remove_older(name, &old).await.expect("works"));
    }
    assert_eq!(tier.delete(&[comes, goes]).await.expect("works"), 2);
    // Nothing was written where it did not belong.
    assert_eq!(cluster.keys(), 1 + others.len() as u64);
    for node in &cluster.nodes {
        assert!(!node.cli(&["KEYS", "*{k}comes"]).contains("comes"));
    }
}

/// The scan has passed the new master when the key arrives there, and comes to the old one when it
/// has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_during_a_scan_is_not_missed() {
    let cluster = Cluster::start();
    let (tier, space) = (cluster.connect().await, space(&cluster.nodes[0]));
    // Masters are scanned by their addresses.
    let mut order = [0, 1, 2];
    order.sort_by_key(|node| port_of(&cluster.nodes[*node]));
    let [first, second, last] = order;
    let mut keys = (0..).map(|index| format!("k{index}"));
    let key = keys
        .find(|key| cluster.owner(&format!("pannier:n:{key}")).0 == last)
        .expect("every master has slots");
    let (name, key) = (space.name(&key), format!("pannier:n:{key}"));
    // So much that the key can move before the last one's turn comes. If it did not, again.
    cluster.nodes[second].cli(&["DEBUG", "POPULATE", "500000"]);
    let is_scanned = |node: usize| {
        let stats = cluster.nodes[node].cli(&["INFO", "commandstats"]);
        stats.contains("cmdstat_scan:")
    };
    for _ in 0..20 {
        put(&tier, &name, &stamped(1)).await;
        let way = cluster.begin_to_move(&key, first);
        for node in &cluster.nodes {
            node.cli(&["CONFIG", "RESETSTAT"]);
        }
        let scan = async {
            let removed = tier.remove_selected(&space, &Selection::All, None).await;
            assert_eq!(removed.expect("works"), 1);
        };
        let migrate = async {
            while !is_scanned(second) {
                tokio::task::yield_now().await;
            }
            cluster.migrate(way, &key) && !is_scanned(last)
        };
        let ((), in_time) = tokio::join!(scan, migrate);
        assert_eq!(cluster.keys(), 500_000);
        if in_time {
            return;
        }
        cluster.stop_moving(&key);
    }
    panic!("the key never moved between the turns of the two masters");
}

#[tokio::test]
async fn a_server_that_is_no_cluster_says_so() {
    let redis = RedisServer::tcp(&[]);
    let target = Target::Cluster(vec![redis.address()]);
    let error = SharedTier::connect(&target, &redis.config(), None, Clock::system(), OURS).await;
    assert!(
        error
            .expect_err("no Cluster")
            .message()
            .contains("no Cluster")
    );
}
