//! Giving back a lease that nobody has: its caller went away while Redis was giving it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{coherence::Coherence, stamp::Stamp, tier::shared::SharedName};

/// Leases that wait to be given back; those beyond it run out by themselves.
const QUEUE: usize = 256;

/// Takes leases that are to be given back.
#[derive(Debug, Clone)]
pub struct GiveBack(mpsc::Sender<(SharedName, Stamp)>);

/// And the task that removes them from Redis; it ends with `stop`.
pub fn give_back(
    coherence: Arc<Coherence>,
    stop: CancellationToken,
) -> (GiveBack, impl Future<Output = ()> + Send) {
    let (sender, mut queue) = mpsc::channel::<(SharedName, Stamp)>(QUEUE);
    let work = async move {
        while let Some((name, stamp)) = queue.recv().await {
            let Some(link) = coherence.link() else {
                continue;
            };
            if let Err(error) = link.tier().remove_lease(&name, stamp).await {
                tracing::debug!(%error, "a lease that nobody has runs out by itself");
            }
        }
    };
    let task = async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    };
    (GiveBack(sender), task)
}

/// A lease that is being asked for. Dropped before the answer has come, it is given back: the
/// question was sent first, so the removal comes after it.
pub(super) struct Asked<'a> {
    to: &'a GiveBack,
    lease: Option<(SharedName, Stamp)>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(to: &'a GiveBack, name: &SharedName, stamp: Stamp) -> Self {
        Self {
            to,
            lease: Some((name.clone(), stamp)),
        }
    }

    /// There is an answer, and somebody who has it.
    pub(super) fn answered(mut self) {
        self.lease = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            // Without room it runs out.
            let _ = self.to.0.try_send(lease);
        }
    }
}
