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
            RedisServer::tcp(&["--cluster-enabled", "yes", "--cluster-port", &bus])
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

/// fred on its own would here take the reply of one command for that of another.
#[tokio::test]
async fn a_slot_on_the_move_is_not_ready_and_harms_nobody() {
    let cluster = Cluster::start();
    let (tier, space) = (cluster.connect().await, space(&cluster.nodes[0]));
    let moving = space.name("k");
    let others: HashMap<_, _> = (1..200)
        .map(|at| (at, space.name(&format!("o{at}"))))
        .collect();
    for (stamp, name) in &others {
        put(&tier, name, &stamped(*stamp)).await;
    }
    let (from, slot) = cluster.owner("pannier:n:k");
    let to = (from + 1) % 3;
    let ids = [cluster.id(from), cluster.id(to)];
    cluster.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    cluster.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    for _ in 0..10 {
        let asked = async {
            let error = tier.get(&moving).await.expect_err("it is moving");
            assert_eq!(error.trouble, Trouble::NotReady, "{error}");
        };
        let read = others.iter().map(|(stamp, name)| async {
            assert!(holds(&tier, name, &stamped(*stamp)).await);
        });
        let read = async {
            let mut all: Vec<_> = read.map(Box::pin).collect();
            std::future::poll_fn(|context| {
                all.retain_mut(|one| one.as_mut().poll(context).is_pending());
                match all.is_empty() {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
        };
        tokio::join!(asked, read);
    }
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
