//! Commands behind `ASKING`, for a slot of a Cluster that is moving (`moving` says when).
//!
//! `ASKING` counts for the next command on its connection only, which fred cannot promise: so there
//! is one more connection to each new master that is asked, with one command at a time. It is a
//! slot in 16384 that needs it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fred::types::{Value, config::Server};
use rustls::ClientConfig;
use tokio::{sync::Mutex, time::timeout};

use super::{
    call::Call,
    trouble::{SharedError, Trouble, of_code},
};
use crate::{
    config::{Address, SharedConfig},
    resp::{self, Fault},
};

/// The further connections.
pub(super) struct Asking {
    config: SharedConfig,
    tls: Option<Arc<ClientConfig>>,
    client_name: String,
    connections: Mutex<HashMap<Server, resp::Connection>>,
}

impl Asking {
    pub(super) fn new(
        config: &SharedConfig,
        tls: Option<Arc<ClientConfig>>,
        client_name: &str,
    ) -> Self {
        Self {
            config: config.clone(),
            tls,
            client_name: client_name.to_owned(),
            connections: Mutex::default(),
        }
    }

    /// Sends a command behind `ASKING`. Dropped half way, nobody knows what became of it.
    pub(super) async fn call(&self, at: &Server, call: &Call) -> Result<Value, SharedError> {
        let limit = self.config.command_timeout.0;
        let Ok(mut connections) = timeout(limit, self.connections.lock()).await else {
            let text = "too many commands wait for a slot of the Cluster that is moving";
            return Err(SharedError::new(Trouble::Overloaded, text));
        };
        // Whatever goes wrong leaves no connection behind with a reply on its way.
        let connection = match connections.remove(at) {
            Some(connection) => Ok(connection),
            None => self.open(at).await,
        };
        let mut connection = connection.map_err(of_fault)?;
        let told = ask(&mut connection, &call.arguments(), limit).await;
        if matches!(told, Ok(_) | Err(Fault::Refused(..))) {
            connections.insert(at.clone(), connection);
        }
        Ok(value_of(told.map_err(of_fault)?))
    }

    async fn open(&self, at: &Server) -> Result<resp::Connection, Fault> {
        let address = Address::Tcp {
            host: at.host.to_string(),
            port: at.port,
        };
        let limit = self.config.connect_timeout.0;
        let tls = self.tls.as_ref();
        let mut opened = resp::Connection::open(&address, &self.config, tls).await?;
        opened.authenticate(&self.config.credentials, limit).await?;
        // By which it is found and closed, should this daemon leave it behind.
        let name = ["CLIENT", "SETNAME", &self.client_name];
        opened.call("CLIENT SETNAME", &name, limit).await?;
        Ok(opened)
    }
}

async fn ask(
    connection: &mut resp::Connection,
    arguments: &[Bytes],
    limit: Duration,
) -> Result<resp::Value, Fault> {
    connection.call("ASKING", &["ASKING"], limit).await?;
    connection.call("a command", arguments, limit).await
}

fn of_fault(fault: Fault) -> SharedError {
    match fault {
        Fault::Refused(_, code) => of_code(&code),
        fault => SharedError::new(Trouble::Lost, fault.to_string()),
    }
}

/// As fred would have it.
fn value_of(value: resp::Value) -> Value {
    match value {
        resp::Value::Text(bytes) => Value::Bytes(bytes),
        resp::Value::Integer(number) => Value::Integer(number),
        resp::Value::List(values) => Value::Array(values.into_iter().map(value_of).collect()),
        resp::Value::Null | resp::Value::Error(_) | resp::Value::Push(_) => Value::Null,
    }
}
