//! A link: one attachment's way to Redis. Built, used once, and thrown away as a whole.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::tier::shared::SharedTier;

/// The data client of one attachment.
#[derive(Debug)]
pub struct Link {
    tier: SharedTier,
    failed: CancellationToken,
    reason: Mutex<String>,
}

impl Link {
    /// A link over a connected client.
    pub(super) fn new(tier: SharedTier) -> Self {
        Self {
            tier,
            failed: CancellationToken::new(),
            reason: Mutex::default(),
        }
    }

    /// The shared tier over it.
    pub fn tier(&self) -> &SharedTier {
        &self.tier
    }

    /// Whether these are the same link.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }

    /// Ends it: from here on nothing is sent on it (C4), whoever still holds it; the first reason
    /// stays.
    pub(super) fn fail(&self, reason: &str) {
        {
            let mut kept = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.is_empty() {
                reason.clone_into(&mut kept);
            }
        }
        self.failed.cancel();
        self.tier.give_up(reason);
    }

    /// Ready when it has failed or its client has, with the reason.
    pub(super) async fn failed(&self) -> String {
        tokio::select! {
            error = self.tier.lost() => error.to_string(),
            () = self.failed.cancelled() => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
                reason.clone()
            }
        }
    }
}
