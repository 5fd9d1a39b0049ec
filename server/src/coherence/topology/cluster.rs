//! The layout of a Cluster: its masters, and how many slots they serve.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::POLL;
use crate::{
    config::{Address, SharedConfig},
    resp::{Connection, Fault, Value},
};

const COMMAND: &str = "CLUSTER SLOTS";

/// What one node says of the Cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Of at least one slot each; sorted, each once.
    pub(super) masters: Vec<Address>,
    /// Slots that have a master, 0 to 16384.
    pub(super) slots: u32,
}

/// Some nodes, and a connection to each that was asked.
pub(super) struct Nodes<'a> {
    config: &'a SharedConfig,
    tls: Option<&'a Arc<ClientConfig>>,
    nodes: Vec<(&'a Address, Option<Connection>)>,
}

impl<'a> Nodes<'a> {
    /// Connects to nobody yet.
    pub(super) fn new(
        nodes: &'a [Address],
        config: &'a SharedConfig,
        tls: Option<&'a Arc<ClientConfig>>,
    ) -> Self {
        let nodes = nodes.iter().map(|node| (node, None));
        Self {
            config,
            tls,
            nodes: nodes.collect(),
        }
    }

    /// The layout as the first node that answers tells it. Begins at a random one, so that one
    /// node with an old view does not decide each time.
    pub(super) async fn any_layout(&mut self) -> Result<Layout, String> {
        let count = self.nodes.len();
        let first = fastrand::usize(..count.max(1));
        let mut faults = Vec::new();
        for index in (0..count).map(|offset| (first + offset) % count) {
            match self.ask(index).await {
                Ok(layout) if layout.masters.is_empty() => {
                    faults.push(format!("{}: no slot has a master", self.nodes[index].0));
                }
                Ok(layout) => return Ok(layout),
                Err(fault) => faults.push(format!("{}: {fault}", self.nodes[index].0)),
            }
        }
        let faults = faults.join("; ");
        Err(format!("no node of the Cluster tells its layout: {faults}"))
    }

    /// Asks one node after the other until the layout is no longer that, or has not been told for
    /// a lease, and says why.
    pub(super) async fn watch(&mut self, masters: &[Address], slots: u32) -> String {
        let lease = self.config.lease.0;
        // Often enough that a node or two may fail to answer.
        let pause = POLL.min(lease / 4);
        let mut last_told = Instant::now();
        let mut fault = String::from("too slow");
        for index in (0..self.nodes.len()).cycle() {
            let node = self.nodes[index].0;
            let turn = async {
                sleep(pause).await;
                let asked = Instant::now();
                (asked, timeout(lease / 2, self.ask(index)).await)
            };
            match timeout_at(last_told + lease, turn).await {
                Err(_) => break,
                Ok((_, Ok(Ok(layout)))) if layout.masters != masters => {
                    return format!("the masters of the Cluster have changed (says {node})");
                }
                Ok((_, Ok(Ok(layout)))) if layout.slots != slots => {
                    let now = layout.slots;
                    return format!(
                        "{now} slots of the Cluster have a master instead of {slots} (says {node})"
                    );
                }
                Ok((asked, Ok(Ok(_)))) => last_told = asked,
                Ok((_, Ok(Err(told)))) => fault = format!("{node}: {told}"),
                Ok((_, Err(_))) => fault = format!("{node}: no answer"),
            }
        }
        format!("the Cluster has not told its layout for a lease: {fault}")
    }

    async fn ask(&mut self, index: usize) -> Result<Layout, Fault> {
        let limit = self.config.connect_timeout.0;
        let (node, kept) = &mut self.nodes[index];
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let mut opened = Connection::open(node, self.config, self.tls).await?;
                opened.authenticate(&self.config.credentials, limit).await?;
                opened
            }
        };
        let told = connection
            .call(COMMAND, &["CLUSTER", "SLOTS"], limit)
            .await?;
        *kept = Some(connection);
        read(&told, node).ok_or(Fault::Unexpected(COMMAND))
    }
}

/// Entries of first slot, last slot, master, replicas; a node begins with host and port.
fn read(told: &Value, asked: &Address) -> Option<Layout> {
    let mut layout = Layout {
        masters: Vec::new(),
        slots: 0,
    };
    for range in told.list()? {
        let [first, last, master, ..] = range.list()? else {
            return None;
        };
        let (first, last) = (first.integer()?, last.integer()?);
        if !(0..16384).contains(&first) || !(first..16384).contains(&last) {
            return None;
        }
        layout.slots += u32::try_from(last - first + 1).ok()?;
        layout.masters.push(address(master.list()?, asked)?);
    }
    layout.masters.sort();
    layout.masters.dedup();
    Some(layout)
}

/// A node's address. Without a host it is reached as the one that was asked.
fn address(node: &[Value], asked: &Address) -> Option<Address> {
    let [host, port, ..] = node else {
        return None;
    };
    let host = match (host, asked) {
        (Value::Text(host), _) if !host.is_empty() => host_name(host)?,
        (Value::Text(_) | Value::Null, Address::Tcp { host, .. }) => host.clone(),
        _ => return None,
    };
    let port = u16::try_from(port.integer()?)
        .ok()
        .filter(|&port| port != 0)?;
    Some(Address::Tcp { host, port })
}

/// `?` stands for a node whose address is not known.
fn host_name(host: &[u8]) -> Option<String> {
    let host = str::from_utf8(host).ok().filter(|&host| host != "?")?;
    Some(host.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::List(vec![host, Value::Integer(port), Value::Null]);
        Value::List(vec![Value::Integer(first), Value::Integer(last), node])
    }

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn the_masters_are_each_named_once_whatever_the_order() {
        let ranges = [
            range(100, 16383, text("b"), 2),
            range(0, 49, text("a"), 1),
            range(50, 99, text("b"), 2),
        ];
        let layout = read(&Value::List(ranges.to_vec()), &tcp("x", 9)).expect("is a layout");
        assert_eq!(layout.masters, [tcp("a", 1), tcp("b", 2)]);
        assert_eq!(layout.slots, 16384);
    }

    #[test]
    fn a_node_without_a_host_is_the_one_asked() {
        for host in [text(""), Value::Null] {
            let told = Value::List(vec![range(0, 0, host, 7)]);
            let layout = read(&told, &tcp("asked", 9)).expect("is a layout");
            assert_eq!(layout.masters, [tcp("asked", 7)]);
        }
    }

    #[test]
    fn nonsense_is_no_layout() {
        let asked = tcp("x", 9);
        for range in [
            range(0, 1, text("?"), 7),
            range(0, 1, text("h"), 0),
            range(0, 1, text("h"), 70_000),
            range(5, 4, text("h"), 1),
            range(0, 16384, text("h"), 1),
            Value::List(vec![]),
            Value::Null,
        ] {
            assert_eq!(read(&Value::List(vec![range]), &asked), None);
        }
        assert_eq!(read(&Value::Null, &asked), None);
    }
}
