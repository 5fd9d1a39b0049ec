//! What kind of Redis it is, what that implies, and who else is connected under our name.

use std::collections::HashMap;

use bytes::Bytes;
use fred::types::{Value, config::Server};

use super::{
    Result, SharedTier,
    call::{Call, bytes_of, count_of, text_of},
    connection::Metering,
    trouble::{SharedError, Trouble, unexpected},
};

/// Oldest version that is supported.
const VERSION_MIN: (u32, u32) = (6, 2);

/// What a server says about itself. Empty or `None` where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// `Redis` or `Valkey`.
    pub product: String,
    /// Its version, as it writes it.
    pub version: String,
    /// The version of Redis it is compatible with: major and minor.
    pub compatible: Option<(u32, u32)>,
    /// `master` or `slave`.
    pub role: String,
    /// Most bytes of memory; 0 is no limit.
    pub maxmemory: Option<u64>,
    /// What it does at that limit.
    pub maxmemory_policy: String,
    /// Whether it writes an append-only file.
    pub append_only: Option<bool>,
    /// When that file is synced; told only to those who may see the configuration.
    pub append_sync: Option<String>,
    /// When it writes snapshots, empty for never; told only to those who may see the
    /// configuration.
    pub snapshots: Option<String>,
}

impl ServerFacts {
    /// Takes the reply of `INFO` apart.
    fn read(info: &str) -> Self {
        let fields: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .collect();
        let text = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
        let valkey = fields.contains_key("valkey_version");
        let (product, version) = match valkey {
            true => ("Valkey", "valkey_version"),
            false => ("Redis", "redis_version"),
        };
        let mut numbers = text("redis_version")
            .split('.')
            .map(str::parse)
            .collect::<Vec<_>>();
        numbers.truncate(2);
        let compatible = match numbers.as_slice() {
            [Ok(major), Ok(minor)] => Some((*major, *minor)),
            _ => None,
        };
        Self {
            product: product.to_owned(),
            version: text(version),
            compatible,
            role: text("role"),
            maxmemory: text("maxmemory").parse().ok(),
            maxmemory_policy: text("maxmemory_policy"),
            append_only: fields.get("aof_enabled").map(|enabled| *enabled == "1"),
            append_sync: None,
            snapshots: None,
        }
    }

    /// What hurts, each a sentence that says what to do.
    pub fn warnings(&self) -> Vec<String> {
        let mut said = Vec::new();
        let (product, version) = (&self.product, &self.version);
        if self.compatible.is_some_and(|found| found < VERSION_MIN) {
            let (major, minor) = VERSION_MIN;
            said.push(format!(
                "{product} {version} is older than {major}.{minor}, the oldest that is supported: \
                 upgrade it"
            ));
        }
        if !self.role.is_empty() && self.role != "master" {
            said.push(format!(
                "this {product} is a replica, which takes no writes: the URL must lead to the \
                 master"
            ));
        }
        match (self.maxmemory, self.maxmemory_policy.as_str()) {
            (Some(1..), "noeviction") => said.push(format!(
                "{product} has a maxmemory and the policy noeviction, as a job queue wants it: \
                 once it is full, every write fails, those of others too. Give the cache a \
                 {product} of its own with allkeys-lru"
            )),
            (Some(0), _) => said.push(format!(
                "{product} has no maxmemory: the cache grows until the machine has no memory \
                 left. Set maxmemory and the policy allkeys-lru"
            )),
            _ => {}
        }
        if self.append_only == Some(true) && self.append_sync.as_deref() == Some("always") {
            said.push(format!(
                "{product} syncs its append-only file with every write (appendfsync always), \
                 which makes each write as slow as its disk: everysec will do for a cache"
            ));
        }
        said
    }

    /// What is worth knowing and does not hurt.
    pub fn notes(&self) -> Vec<String> {
        let mut said = Vec::new();
        let (product, policy) = (&self.product, &self.maxmemory_policy);
        if self.append_only == Some(false) && self.snapshots.as_deref() == Some("") {
            said.push(format!(
                "{product} writes nothing to disk: its restart empties the shared tier, which \
                 costs misses and nothing else"
            ));
        }
        if policy.starts_with("volatile-") {
            said.push(format!(
                "{product} evicts only what has a lifetime ({policy}): all entries of ours do, \
                 so they go before the data of others"
            ));
        }
        said
    }
}

impl SharedTier {
    /// Asks the server what it is. Of a Cluster the master with most to warn of is told.
    pub async fn inspect(&self) -> Result<ServerFacts> {
        let mut worst: Option<ServerFacts> = None;
        for master in self.connection.masters()? {
            let facts = self.inspect_at(&master).await?;
            let warnings = facts.warnings().len();
            if worst
                .as_ref()
                .is_none_or(|worst| worst.warnings().len() < warnings)
            {
                worst = Some(facts);
            }
        }
        worst.ok_or_else(|| unexpected("INFO"))
    }

    async fn inspect_at(&self, master: &Option<Server>) -> Result<ServerFacts> {
        let setting = |name| {
            Call::named("CONFIG")
                .text("GET")
                .text(name)
                .at(master.clone())
        };
        let calls = vec![
            Call::named("INFO").at(master.clone()),
            setting("appendfsync"),
            setting("save"),
        ];
        let replies = self.connection.calls(calls, Metering::Exempt).await?;
        let [info, sync, snapshots] =
            <[Result<Value>; 3]>::try_from(replies).map_err(|_| unexpected("a pipeline"))?;
        let mut facts = ServerFacts::read(&text_of("INFO", info?)?);
        // CONFIG is forbidden to many users, and managed services have none.
        facts.append_sync = sync.ok().and_then(setting_of);
        facts.snapshots = snapshots.ok().and_then(setting_of);
        Ok(facts)
    }

    /// Bytes of memory in use and the most there may be, all masters together; the latter is 0
    /// where one has no limit. Not counted against the limit of calls in flight.
    pub async fn memory(&self) -> Result<(u64, u64)> {
        let (mut used, mut most) = (0, Some(0));
        for master in self.connection.masters()? {
            let info = Call::named("INFO").text("memory").at(master);
            let mut replies = self.connection.calls(vec![info], Metering::Exempt).await?;
            let info = replies.pop().ok_or_else(|| unexpected("INFO"))?;
            let info = text_of("INFO", info?)?;
            let field = |name: &str| {
                let value = info.lines().find_map(|line| line.strip_prefix(name));
                value.and_then(|it| it.trim().parse::<u64>().ok())
            };
            used += field("used_memory:").ok_or_else(|| unexpected("INFO"))?;
            let limit = field("maxmemory:").filter(|limit| *limit > 0);
            most = most.zip(limit).map(|(sum, limit)| sum + limit);
        }
        Ok((used, most.unwrap_or(0)))
    }

    /// Makes sure that one of these connections, named `present`, is to each server this tier
    /// speaks to. `Unexpected` otherwise: changes would be heard of from another server than is
    /// read from.
    pub async fn meet(&self, present: &str, connections: &[i64]) -> Result<()> {
        for (_, list) in self.connections_of_all().await? {
            if !listed(&list).any(|(id, name)| name == present && connections.contains(&id)) {
                let text = "the address of Redis leads to more than one server; name one of them";
                return Err(SharedError::new(Trouble::Unexpected, text));
            }
        }
        Ok(())
    }

    /// Ends the connections whose names begin with `ours`, other than those named `present`; tells
    /// how many. They are what is left of earlier attachments, whose last commands might otherwise
    /// be carried out after ours.
    pub async fn kill_predecessors(&self, ours: &str, present: &str) -> Result<u64> {
        let mut killed = 0;
        for (master, list) in self.connections_of_all().await? {
            let calls: Vec<_> = predecessors(&list, ours, present)
                .map(|id| Call::named("CLIENT").text("KILL").text("ID").number(id))
                .map(|call| call.at(master.clone()))
                .collect();
            if calls.is_empty() {
                continue;
            }
            for reply in self.connection.calls(calls, Metering::Exempt).await? {
                match reply {
                    Ok(reply) => killed += count_of("CLIENT KILL", &reply)?,
                    // It has ended by itself meanwhile.
                    Err(error) if error.trouble == Trouble::Unexpected => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(killed)
    }

    /// The reply of `CLIENT LIST` of each master.
    async fn connections_of_all(&self) -> Result<Vec<(Option<Server>, String)>> {
        let mut lists = Vec::new();
        for master in self.connection.masters()? {
            let list = Call::named("CLIENT").text("LIST").at(master.clone());
            let list = text_of("CLIENT LIST", self.connection.call(list).await?)?;
            lists.push((master, list));
        }
        Ok(lists)
    }

    /// Writes a key that says nothing and removes it: to find out whether writes are taken. Being
    /// out of memory is no refusal: what is there can still be read and removed.
    pub async fn try_writing(&self, key: &str) -> Result<()> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let write = Call::write(&key, Bytes::new(), 1000, false);
        let remove = Call::remove(std::slice::from_ref(&key));
        let [written, removed] = self.two(vec![write, remove]).await?;
        removed?;
        match written {
            Err(error) if error.trouble != Trouble::OutOfMemory => Err(error),
            _ => Ok(()),
        }
    }
}

/// The ids in the reply of `CLIENT LIST` whose names begin with `ours` and are not `present`.
fn predecessors<'a>(
    list: &'a str,
    ours: &'a str,
    present: &'a str,
) -> impl Iterator<Item = i64> + 'a {
    listed(list)
        .filter(move |(_, name)| name.starts_with(ours) && *name != present)
        .map(|(id, _)| id)
}

/// Ids and names in the reply of `CLIENT LIST`.
fn listed(list: &str) -> impl Iterator<Item = (i64, &str)> {
    list.lines().filter_map(|line| {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
        Some((field("id=")?.parse().ok()?, field("name=")?))
    })
}

/// The value in the reply of `CONFIG GET` for one name.
fn setting_of(reply: Value) -> Option<String> {
    let value = match reply {
        Value::Map(map) => map.inner().into_values().next(),
        Value::Array(pair) => pair.into_iter().nth(1),
        _ => None,
    };
    let bytes = bytes_of(value?)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\
        # Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\n\
        aof_enabled:0\r\n# Replication\r\nrole:master\r\n";

    #[test]
    fn facts_are_read_from_info() {
        let facts = ServerFacts::read(INFO);
        assert_eq!(
            (facts.product.as_str(), facts.version.as_str()),
            ("Redis", "7.0.15")
        );
        assert_eq!(facts.compatible, Some((7, 0)));
        assert_eq!((facts.role.as_str(), facts.maxmemory), ("master", Some(0)));
        assert_eq!(facts.append_only, Some(false));
        let valkey = ServerFacts::read("redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n");
        assert_eq!(
            (valkey.product.as_str(), valkey.version.as_str()),
            ("Valkey", "8.1.0")
        );
        assert_eq!(
            ServerFacts::read("nonsense"),
            ServerFacts {
                product: "Redis".into(),
                ..ServerFacts::default()
            }
        );
    }

    #[test]
    fn what_hurts_is_said() {
        let good = ServerFacts {
            maxmemory: Some(1 << 30),
            ..ServerFacts::read(INFO)
        };
        assert_eq!(good.warnings(), Vec::<String>::new());
        let said = |change: fn(&mut ServerFacts)| {
            let mut facts = good.clone();
            change(&mut facts);
            facts.warnings().join("\n")
        };
        assert!(said(|it| it.compatible = Some((6, 0))).contains("older than 6.2"));
        assert!(said(|it| it.role = "slave".into()).contains("replica"));
        assert!(said(|it| it.maxmemory_policy = "noeviction".into()).contains("job queue"));
        assert!(said(|it| it.maxmemory = Some(0)).contains("no maxmemory"));
        let always = |it: &mut ServerFacts| {
            (it.append_only, it.append_sync) = (Some(true), Some("always".into()));
        };
        assert!(said(always).contains("appendfsync always"));
    }

    #[test]
    fn what_does_not_hurt_is_a_note() {
        let mut facts = ServerFacts::read(INFO);
        assert_eq!(
            facts.notes(),
            Vec::<String>::new(),
            "snapshots are not known"
        );
        facts.snapshots = Some(String::new());
        facts.maxmemory_policy = "volatile-lru".into();
        assert_eq!(facts.notes().len(), 2);
    }

    #[test]
    fn predecessors_are_ours_but_not_present() {
        let list = "id=3 addr=1 name=a-1 cmd=x\nid=4 name=b-1\nid=5 name=\nid=6 name=a-2\n";
        assert_eq!(predecessors(list, "a-", "a-2").collect::<Vec<_>>(), [3]);
    }
}
