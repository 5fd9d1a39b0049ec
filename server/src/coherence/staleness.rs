//! Staleness: how long ago a copy was surely right, for serving it without Redis (P9).

use std::{sync::PoisonError, time::Duration};

use super::{Coherence, Standing};
use crate::{clock::Timestamp, tier::Mark};

impl Coherence {
    /// How long ago a copy was surely what Redis had; `None` when that is not known, or when it is
    /// known to have been changed.
    pub fn staleness(&self, mark: Mark, key: &[u8], created: Timestamp) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (present, last) = (self.fences.mark().epoch, self.fences.last_change(key));
        let own = (self.first_epoch..=present).contains(&mark.epoch);
        let changed = match own {
            true => mark.sequence != 0 && last > mark.last_change(),
            // Every change this process has heard of is later.
            false => last != 0,
        };
        let known = match &state.standing {
            _ if changed => return None,
            // What the process before has heard of is forgotten: only the age is left.
            _ if !own => state
                .epochs
                .contact_of(mark.epoch)
                .map(|at| at.min(created)),
            // An own write that was not verified since: it was right when it was put.
            _ if mark.sequence != 0 && mark.is_unverified() => Some(created),
            // The lease is over and nobody has noticed yet.
            Standing::Attached { .. } if mark.epoch == present => Some(*self.contact.borrow()),
            // Put while detached, by this daemon.
            Standing::Detached { .. } if mark.epoch == present => Some(created),
            _ => state.epochs.contact_of(mark.epoch),
        };
        known.map(|known| self.clock.now().since(known))
    }
}
