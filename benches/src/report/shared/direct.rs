//! Redis without Pannier, by the library and the settings that the daemon uses.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface},
    types::{
        Expiration, RespVersion,
        config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig},
    },
};

/// As the daemon gives one: the command has the same words.
const LIFETIME_MILLIS: i64 = 86_400_000;

/// One connection.
pub(super) struct Direct {
    client: Client,
}

impl Direct {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, String> {
        let config = Config {
            fail_fast: true,
            server: ServerConfig::new_centralized(address.ip().to_string(), address.port()),
            version: RespVersion::RESP2,
            ..Config::default()
        };
        let connection = ConnectionConfig {
            max_command_attempts: 1,
            auto_client_setname: false,
            tcp: TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        };
        let performance = PerformanceConfig {
            default_command_timeout: Duration::ZERO,
            ..PerformanceConfig::default()
        };
        let client = Client::new(config, Some(performance), Some(connection), None);
        client.init().await.map_err(text)?;
        Ok(Self { client })
    }

    /// Sets value and expiry in one command.
    pub(super) async fn set(&self, key: &str, value: &Bytes) -> Result<(), String> {
        let lifetime = Some(Expiration::PX(LIFETIME_MILLIS));
        let set = self.client.set(key, value.clone(), lifetime, None, false);
        set.await.map_err(text)
    }

    /// Reads a value, which has to be there.
    pub(super) async fn get(&self, key: &str) -> Result<(), String> {
        let value: Option<Bytes> = self.client.get(key).await.map_err(text)?;
        value
            .map(drop)
            .ok_or_else(|| format!("Redis does not have {key}"))
    }
}

fn text(error: impl Display) -> String {
    format!("redis: {error}")
}
