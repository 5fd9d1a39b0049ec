//! What a command works with: the client and the flags that all commands share.

use pannier_client::{CONNECT_TIMEOUT_DEFAULT, Client, DEFAULT_ADDRESS, Error};

use crate::{cli::Global, exit::Failure};

/// The namespace used when none is named.
const NAMESPACE_DEFAULT: &str = "default";

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) json: bool,
    namespace: Option<String>,
}

impl Session {
    /// Sets up the client. Nothing is sent yet.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        // An empty variable counts as unset.
        let address = if global.addr.is_empty() {
            DEFAULT_ADDRESS
        } else {
            &global.addr
        };
        let client = Client::builder()
            .address(address)
            .deadline(global.timeout)
            .connect_timeout(global.timeout.min(CONNECT_TIMEOUT_DEFAULT))
            .build()
            .map_err(|error| Failure::usage(error.message(), "see `pannier --help`"))?;
        Ok(Self {
            client,
            json: global.json,
            namespace: global.namespace.clone(),
        })
    }

    /// The namespace of the keys.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE_DEFAULT)
    }

    /// The namespace, when one was named.
    pub(crate) fn namespace_named(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What to say about a call that failed.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        Failure::call(&error, self.client.address())
    }
}
