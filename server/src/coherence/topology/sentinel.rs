//! The Sentinels' word on who is master.
//!
//! All are asked at once and the majority of those that answer counts: one that is cut off from
//! the others goes on naming the old master.

use std::sync::Arc;

use futures_util::future::join_all;
use rustls::ClientConfig;

use crate::{
    config::{Address, SharedConfig},
    resp::{Connection, Fault, Value},
};

/// Connections to the Sentinels of a service, kept between questions.
pub(super) struct Sentinels<'a> {
    service: &'a str,
    peers: Vec<Peer<'a>>,
}

struct Peer<'a> {
    address: &'a Address,
    config: &'a SharedConfig,
    tls: Option<&'a Arc<ClientConfig>>,
    /// Absent before the first question and after a fault.
    connection: Option<Connection>,
}

impl<'a> Sentinels<'a> {
    /// Connects to nobody yet.
    pub(super) fn new(
        hosts: &'a [Address],
        service: &'a str,
        config: &'a SharedConfig,
        tls: Option<&'a Arc<ClientConfig>>,
    ) -> Self {
        let peers = hosts.iter().map(|address| Peer {
            address,
            config,
            tls,
            connection: None,
        });
        Self {
            service,
            peers: peers.collect(),
        }
    }

    /// The master most of them name. The error says what each of them said instead.
    pub(super) async fn master(&mut self) -> Result<Address, String> {
        let service = self.service;
        let asked = self.peers.iter_mut().map(|peer| peer.ask(service));
        let answers = join_all(asked).await;
        let named: Vec<&Address> = answers.iter().filter_map(|it| it.as_ref().ok()).collect();
        elected(&named).cloned().ok_or_else(|| {
            let faults: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
            format!(
                "no Sentinel names a master of {service}: {}",
                faults.join("; ")
            )
        })
    }
}

/// The address with the most votes, of several the one that was named first.
fn elected<'a>(named: &[&'a Address]) -> Option<&'a Address> {
    let votes = |address: &Address| named.iter().filter(|it| **it == address).count();
    // Of equals the last one counts for `max_by_key`.
    named.iter().rev().copied().max_by_key(|it| votes(it))
}

impl Peer<'_> {
    async fn ask(&mut self, service: &str) -> Result<Address, String> {
        let told = self.question(service).await;
        let address = self.address;
        match told {
            Ok(Some(master)) => Ok(master),
            Ok(None) => Err(format!("{address}: does not know the service")),
            Err(fault) => {
                self.connection = None;
                Err(format!("{address}: {fault}"))
            }
        }
    }

    async fn question(&mut self, service: &str) -> Result<Option<Address>, Fault> {
        const COMMAND: &str = "SENTINEL GET-MASTER-ADDR-BY-NAME";
        let limit = self.config.connect_timeout.0;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut opened = Connection::open(self.address, self.config, self.tls).await?;
                let who = &self.config.sentinel_credentials;
                opened.authenticate(who, limit).await?;
                opened
            }
        };
        let arguments = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service];
        let told = connection.call(COMMAND, &arguments, limit).await?;
        self.connection = Some(connection);
        match told {
            Value::Null => Ok(None),
            told => read(&told).map(Some).ok_or(Fault::Unexpected(COMMAND)),
        }
    }
}

/// Host and port.
fn read(told: &Value) -> Option<Address> {
    let [host, port] = told.list()? else {
        return None;
    };
    Some(Address::Tcp {
        host: host.utf8().filter(|host| !host.is_empty())?.to_owned(),
        port: u16::try_from(port.integer()?)
            .ok()
            .filter(|&port| port != 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_votes_win_and_of_equals_the_first() {
        let [a, b, c] = [1, 2, 3].map(|port| Address::Tcp {
            host: "h".into(),
            port,
        });
        assert_eq!(elected(&[]), None);
        assert_eq!(elected(&[&a, &b, &b]), Some(&b));
        assert_eq!(elected(&[&a, &b, &c]), Some(&a));
        assert_eq!(elected(&[&c, &a, &b, &a, &b]), Some(&a));
    }
}
