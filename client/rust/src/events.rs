//! Following the changes of a namespace.

use bytes::Bytes;
use tonic::Streaming;

use crate::{
    Client, Error, Result,
    proto::{self, watch_response::Event as Wire},
};

/// What an event says about the entries of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These keys changed or went.
    Keys(Vec<String>),
    /// Every key with this prefix.
    Prefix(String),
    /// Every key that matches this glob.
    Pattern(String),
    /// Every entry with this tag.
    Tag(String),
    /// Every entry of the namespace.
    All,
    /// Events may have been missed: whoever holds copies drops them. Also what a kind of event that
    /// this client does not know yet is taken for.
    ContinuityLost,
    /// Nothing happened: the stream stands here. Every stream begins with this or the loss.
    Progress,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Give this to [`Client::watch`] to go on after this event.
    pub resume_token: Bytes,
    /// What happened.
    pub change: Change,
}

/// The events of a namespace as they happen. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<proto::WatchResponse>,
    client: Client,
}

impl Client {
    /// Follows the changes of a namespace: from now on, or after the event whose token is given.
    /// The first event comes at once: [`Change::Progress`], or [`Change::ContinuityLost`] when what
    /// was held before does not count. The deadline limits the subscription, not the wait for
    /// events.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`](crate::Kind::Unimplemented) when the daemon does not serve it.
    pub async fn watch(&self, namespace: &str, resume_token: Option<Bytes>) -> Result<Events> {
        let request = proto::WatchRequest {
            namespace: namespace.to_owned(),
            resume_token: resume_token.unwrap_or_default(),
        };
        let stream = self.answer(self.cache.clone().watch(request)).await?;
        Ok(Events {
            stream,
            client: self.clone(),
        })
    }
}

impl Events {
    /// Waits for the next event; `None` when the daemon ended the stream. Cancel safe.
    ///
    /// # Errors
    /// [`Kind::Unreachable`](crate::Kind::Unreachable) when the connection broke or the daemon
    /// stops: watch again with the last token.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        match self.stream.message().await {
            Ok(message) => Ok(message.map(Event::from_proto)),
            Err(status) => Err(Error::from_status(status, &self.client.address)),
        }
    }
}

impl Event {
    fn from_proto(response: proto::WatchResponse) -> Self {
        let change = match response.event {
            Some(Wire::Keys(list)) => Change::Keys(list.keys),
            Some(Wire::Prefix(prefix)) => Change::Prefix(prefix),
            Some(Wire::Pattern(pattern)) => Change::Pattern(pattern),
            Some(Wire::Tag(tag)) => Change::Tag(tag),
            Some(Wire::All(_)) => Change::All,
            Some(Wire::Progress(_)) => Change::Progress,
            Some(Wire::ContinuityLost(_)) | None => Change::ContinuityLost,
        };
        Self {
            resume_token: response.resume_token,
            change,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Change;
    use crate::{Client, Target, fake::FakeDaemon};

    #[tokio::test]
    async fn an_invalidation_is_seen_by_a_watcher() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let mut events = client.watch("n", None).await.expect("a subscription");
        for (target, change) in [
            (Target::key("k"), Change::Keys(vec!["k".to_owned()])),
            (
                Target::Prefix("p".to_owned()),
                Change::Prefix("p".to_owned()),
            ),
            (Target::Tag("t".to_owned()), Change::Tag("t".to_owned())),
            (Target::All, Change::All),
        ] {
            let done = client.invalidate("n", target).await.expect("an answer");
            assert!(!done.is_skipped());
            let event = events.next().await.expect("no fault").expect("an event");
            assert_eq!(event.change, change);
        }
    }
}
