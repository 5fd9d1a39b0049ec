//! Removing chunks from Redis that no manifest names, beside the requests.
//!
//! Nobody depends on it: such chunks cannot be found, and end with their lifetime. It gives memory
//! back early: at once after an upload that came to nothing, and once this daemon's own copy has
//! gone for an entry that was replaced, invalidated or ended. Whether Redis has let go of it as
//! well is looked at first, because this daemon may only have lacked the room.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    coherence::Coherence,
    config::Config,
    stamp::Stamp,
    tier::{
        local::Dropped,
        shared::{SharedError, SharedName},
    },
};

/// What waits; beyond it, chunks end by themselves.
const WAITING_MAX: usize = 256;

/// Chunks of an upload that came to nothing.
#[derive(Debug)]
struct Abandoned {
    set: Stamp,
    chunks: u32,
}

/// Takes what is to be swept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sweeps(mpsc::Sender<Abandoned>);

impl Sweeps {
    /// And who carries it out, until dropped. `dropped` tells of files that have gone.
    pub fn new(
        config: Arc<Config>,
        coherence: Arc<Coherence>,
        mut dropped: mpsc::Receiver<Dropped>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (abandon, mut abandoned) = mpsc::channel::<Abandoned>(WAITING_MAX);
        let sweeper = Sweeper { config, coherence };
        let sweep = async move {
            loop {
                let swept = tokio::select! {
                    Some(it) = abandoned.recv() => sweeper.remove(&it.set, it.chunks).await,
                    Some(it) = dropped.recv() => sweeper.remove_unnamed(&it).await,
                    else => return,
                };
                if let Err(error) = swept {
                    tracing::debug!(%error, "chunks of a large value are left to their lifetime");
                }
            }
        };
        (Self(abandon), sweep)
    }

    /// Has the first chunks of a set removed.
    pub(super) fn abandon(&self, set: Stamp, chunks: u32) {
        let _ = self.0.try_send(Abandoned { set, chunks });
    }

    /// What listens to a tier's dropped files, and what tells it.
    pub fn dropped() -> (mpsc::Sender<Dropped>, mpsc::Receiver<Dropped>) {
        mpsc::channel(WAITING_MAX)
    }
}

struct Sweeper {
    config: Arc<Config>,
    coherence: Arc<Coherence>,
}

impl Sweeper {
    async fn remove(&self, set: &Stamp, chunks: u32) -> Result<(), SharedError> {
        match self.coherence.link() {
            Some(link) => link.tier().remove_chunks(set, chunks).await,
            None => Ok(()),
        }
    }

    async fn remove_unnamed(&self, dropped: &Dropped) -> Result<(), SharedError> {
        let Some((namespace, key)) = dropped.name.parts() else {
            return Ok(());
        };
        let (Some(policy), Some(link)) = (self.config.policy(&namespace), self.coherence.link())
        else {
            return Ok(());
        };
        let name = SharedName::new(&self.config.shared, &namespace, &policy, key.as_str());
        let there = link.tier().get(&name).await?;
        let manifest = there.and_then(|it| it.record.manifest().ok().flatten());
        if manifest.is_some_and(|it| it.set == dropped.set) {
            return Ok(());
        }
        link.tier()
            .remove_chunks(&dropped.set, dropped.chunks)
            .await
    }
}
