//! Looking after a daemon. Fail-open does not hold here: whoever asks wants to know.

use crate::{Client, Result, TierOutcome, proto};

impl Client {
    /// Counters since the start or the last [`reset`](Self::reset), of all namespaces or of one.
    pub async fn stats(&self, namespace: Option<&str>) -> Result<proto::StatsResponse> {
        let namespace = namespace.unwrap_or_default().to_owned();
        let request = self.request(proto::StatsRequest { namespace });
        self.answer(self.admin.clone().stats(request)).await
    }

    /// Sets the counters to zero. Sizes and states stay.
    pub async fn reset(&self) -> Result<()> {
        let request = self.request(proto::ResetRequest {});
        self.answer(self.admin.clone().reset(request))
            .await
            .map(drop)
    }

    /// The configuration in effect as a TOML document, defaults filled in, secrets masked.
    pub async fn config(&self) -> Result<String> {
        let request = self.request(proto::ConfigRequest {});
        Ok(self.answer(self.admin.clone().config(request)).await?.toml)
    }

    /// Drops every entry of the local tier, in all namespaces. The shared tier is not touched.
    pub async fn flush(&self) -> Result<TierOutcome> {
        let request = self.request(proto::FlushRequest {});
        Ok(self
            .answer(self.admin.clone().flush(request))
            .await?
            .local_outcome())
    }

    /// The health of each part.
    pub async fn health(&self) -> Result<proto::HealthResponse> {
        let request = self.request(proto::HealthRequest {});
        self.answer(self.admin.clone().health(request)).await
    }
}

#[cfg(test)]
mod tests {
    use crate::{Client, PutOptions, TierOutcome, fake::FakeDaemon};

    #[tokio::test]
    async fn every_call_reaches_the_daemon() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        client
            .put("n", "k", "v", PutOptions::new())
            .await
            .expect("stored");
        assert!(client.health().await.expect("health").serving);
        assert_eq!(
            client
                .stats(None)
                .await
                .expect("stats")
                .total
                .expect("total")
                .puts,
            1
        );
        client.reset().await.expect("reset");
        assert_eq!(
            client
                .stats(Some("n"))
                .await
                .expect("stats")
                .total
                .expect("total")
                .puts,
            0
        );
        assert!(client.config().await.expect("config").contains("fake"));
        assert_eq!(client.flush().await.expect("flush"), TierOutcome::Applied);
        assert!(client.get("n", "k").await.expect("a miss").is_none());
    }
}
