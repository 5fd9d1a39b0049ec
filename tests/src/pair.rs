//! Two daemons on one Redis, of which one is behind a proxy.

use pannier_proto::v1::TierOutcome;

use crate::{Caller, Daemon, Mode, Proxy, Redis, eventually, shared};

/// What happens to the near one alone, the other one stays in contact; both are attached at first.
#[derive(Debug)]
pub struct Pair {
    /// What they share.
    pub redis: Redis,
    /// Between the near one and Redis.
    pub proxy: Proxy,
    /// Behind the proxy.
    pub near: Daemon,
    /// Beside it.
    pub other: Daemon,
}

impl Pair {
    /// Starts them with what is to follow in the section `[shared]` of each.
    pub async fn start(near: &str, other: &str) -> Self {
        Self::start_on(Redis::start(), near, other).await
    }

    /// The same on this Redis.
    pub async fn start_on(redis: Redis, near: &str, other: &str) -> Self {
        let proxy = Proxy::start(redis.address());
        let near = shared::start(&proxy.url(), near).await;
        let other = shared::start(&redis.url(), other).await;
        Self {
            redis,
            proxy,
            near,
            other,
        }
    }

    /// Who calls the near one.
    pub fn near(&self, namespace: &str) -> Caller {
        Caller::new(&self.near, namespace)
    }

    /// Who calls the other one.
    pub fn other(&self, namespace: &str) -> Caller {
        Caller::new(&self.other, namespace)
    }

    /// Puts a value by the other one, and again until it reaches Redis: when Redis was away, both
    /// come back in their own time.
    pub async fn put_by_other(&self, namespace: &str, key: &str, value: &[u8]) {
        let other = self.other(namespace);
        eventually("the other daemon reaches Redis", async || {
            let put = other.put(key, value.to_vec()).await;
            put.shared_outcome() == TierOutcome::Applied
        })
        .await;
    }

    /// Puts a value by the other one and makes the near one hold it at home.
    pub async fn hold(&self, namespace: &str, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.put_by_other(namespace, key, value).await;
        self.near(namespace).has_local(key, value).await;
    }

    /// Whether Redis has an entry.
    pub fn is_in_redis(&self, namespace: &str, key: &str) -> bool {
        let name = shared::key(namespace, key);
        self.redis.command(&["EXISTS", &name]).integer() == 1
    }

    /// Cuts the near one off and waits until it knows.
    pub async fn cut_off(&self) {
        self.proxy.set(Mode::Cut);
        shared::detached(&self.near).await;
    }

    /// Lets the near one through and waits until it is attached.
    pub async fn come_back(&self) {
        self.proxy.set(Mode::Pass);
        shared::attached(&self.near).await;
    }

    /// Kills the near one and starts it on the same data, cut off or not.
    pub fn restart_near(&mut self) {
        self.near = self.near.restart_in_place();
    }
}
