//! A master, two replicas and three sentinels that elect another master when it dies.

use std::net::SocketAddr;

use super::{Connection, Redis};
use crate::eventually;

const SERVICE: &str = "pannier-test";
// Not less: when the machine stands still for so long they fail over once more, to a server that
// may not have heard of the last changes, which Redis then has lost.
const DOWN_AFTER_MS: &str = "1000";
const FAILOVER_TIMEOUT_MS: &str = "2000";

/// Three servers, of which one is the master, and three sentinels.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts all six and waits until they know one another.
    pub async fn start() -> Self {
        let master = Redis::start();
        let replica = || Redis::builder().replica_of(&master).start();
        let replicas = [replica(), replica()];
        let sentinel = || {
            Redis::builder()
                .sentinel()
                .setting(
                    "sentinel monitor",
                    format!("{SERVICE} 127.0.0.1 {} 2", master.port()),
                )
                .setting(
                    "sentinel down-after-milliseconds",
                    format!("{SERVICE} {DOWN_AFTER_MS}"),
                )
                .setting(
                    "sentinel failover-timeout",
                    format!("{SERVICE} {FAILOVER_TIMEOUT_MS}"),
                )
                .start()
        };
        let sentinels = vec![sentinel(), sentinel(), sentinel()];
        let all = Self {
            servers: [master].into_iter().chain(replicas).collect(),
            sentinels,
        };
        eventually("replicas follow and sentinels know them", async || {
            all.servers[1..].iter().all(follows) && all.sentinels.iter().all(knows_all)
        })
        .await;
        all
    }

    /// What a daemon is to be given.
    pub fn url(&self) -> String {
        let hosts = self.sentinels.iter();
        let hosts: Vec<_> = hosts.map(|it| format!("127.0.0.1:{}", it.port())).collect();
        format!("redis-sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// The three servers, alive or not.
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// One of them, to be killed or frozen.
    pub fn server(&mut self, index: usize) -> &mut Redis {
        &mut self.servers[index]
    }

    /// The three sentinels.
    pub fn sentinels(&mut self) -> &mut [Redis] {
        &mut self.sentinels
    }

    /// Which server is the master, as most sentinels say and itself too; `None` while they differ.
    pub fn master(&self) -> Option<usize> {
        let count = |port: u16| {
            let named = self.sentinels.iter().filter_map(master_port);
            named.filter(|named| *named == port).count()
        };
        let is_master = |server: &Redis| {
            count(server.port()) >= 2
                && server
                    .try_command(&["ROLE"])
                    .is_ok_and(|role| role.array()[0].text() == "master")
        };
        self.servers.iter().position(is_master)
    }

    /// Who thinks what, for a failed test.
    pub fn story(&self) -> String {
        let ask = |server: &Redis, command: &[&str]| match server.try_command(command) {
            Ok(reply) => format!("{}: {reply:?}\n", server.port()),
            Err(error) => format!("{}: {error}\n", server.port()),
        };
        let servers = self.servers.iter().map(|it| ask(it, &["ROLE"]));
        let sentinels = self.sentinels.iter();
        let sentinels = sentinels.map(|it| ask(it, &["SENTINEL", "MASTER", SERVICE]));
        servers.chain(sentinels).collect()
    }

    /// Kills the master and waits until there is another; both, by index.
    pub async fn fail_over(&mut self) -> (usize, usize) {
        let old = self.master().expect("there is a master");
        self.servers[old].kill();
        let mut new = None;
        eventually("the sentinels have another master", async || {
            new = self.master().filter(|new| *new != old);
            new.is_some()
        })
        .await;
        (old, new.expect("just found"))
    }
}

fn follows(replica: &Redis) -> bool {
    replica.info("replication", "master_link_status").as_deref() == Some("up")
}

fn knows_all(sentinel: &Redis) -> bool {
    let reply = sentinel.command(&["SENTINEL", "MASTER", SERVICE]);
    let words: Vec<_> = reply.array().iter().map(super::Reply::text).collect();
    let field = |name: &str| {
        words
            .chunks(2)
            .find(|pair| pair[0] == name)
            .map(|pair| &*pair[1])
    };
    field("num-slaves") == Some("2") && field("num-other-sentinels") == Some("2")
}

fn master_port(sentinel: &Redis) -> Option<u16> {
    let address: SocketAddr = sentinel.address();
    let mut connection = Connection::open(address, None).ok()?;
    let reply = connection.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
    reply.ok()?.array().get(1)?.text().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Sentinels;

    #[tokio::test]
    async fn another_master_is_elected_when_one_dies() {
        let mut sentinels = Sentinels::start().await;
        assert_eq!(sentinels.master(), Some(0));
        let (old, new) = sentinels.fail_over().await;
        assert_eq!((old, sentinels.master()), (0, Some(new)));
    }
}
