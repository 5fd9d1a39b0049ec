//! Opening the store, for the first time and after a fault.

use std::{
    fs, io,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Keeper, Open, Trouble};
use crate::{
    error::{Error, Kind, Result},
    journal::{
        DAMAGED, DIRECTORY,
        index::{Edits, Index},
        item::Item,
        store::{CONTACT, DAEMON, EPOCH, LOST, Store, io_error},
    },
};

/// Between two attempts to open a store that failed.
const RETRY: Duration = Duration::from_secs(1);
/// What a directory must take before its store is closed to be opened again.
const PROBE_BYTES: usize = 1 << 20;

impl Keeper {
    /// Makes sure that the store takes writes: opens it again if it has failed.
    pub(super) fn make_usable(&mut self) -> Result<()> {
        let in_place = self.open.as_ref().is_some_and(|it| it.store.is_in_place());
        match &self.trouble {
            None if in_place => return Ok(()),
            Some(trouble) if Instant::now() < trouble.retry_at => {
                return Err(Error::new(Kind::Unavailable, trouble.reason.clone()));
            }
            _ => {}
        }
        match self.open_again() {
            Ok(()) => {
                self.trouble = None;
                tracing::info!("the journal takes items again");
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                self.trouble = Some(Trouble {
                    reason: reason.clone(),
                    retry_at: Instant::now() + RETRY,
                });
                Err(Error::new(Kind::Unavailable, reason))
            }
        }
    }

    fn open_again(&mut self) -> Result<()> {
        probe(&self.data_dir).map_err(|error| io_error(&self.data_dir, error))?;
        self.open = None;
        self.open_or_set_aside()
    }

    pub(super) fn open_or_set_aside(&mut self) -> Result<()> {
        match self.open_store() {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Internal) => {
                tracing::error!(
                    %error,
                    "the journal is damaged and set aside; changes that the shared tier has not \
                     been told of are lost"
                );
                set_aside(&self.data_dir).map_err(|error| io_error(&self.data_dir, error))?;
                self.acknowledged = 0;
                self.open_store()
            }
            result => result,
        }
    }

    fn open_store(&mut self) -> Result<()> {
        let mut store = Store::open(&self.data_dir.join(DIRECTORY), self.acknowledged)?;
        if store.is_fresh() {
            // Not after a crash in between either: what was set aside stays until the next time.
            let lost = self.data_dir.join(DAMAGED).exists();
            let mut state = vec![(DAEMON, Some(self.daemon_id.to_be_bytes()))];
            if lost {
                state.push((LOST, Some([0; 8])));
            }
            store.write(&Edits::default(), &state, true)?;
        }
        let missing = || Error::new(Kind::Corrupt, "journal: the store has no daemon id");
        let daemon_id = store.number(DAEMON)?.ok_or_else(missing)?;
        let contact = store.number(CONTACT)?.unwrap_or(0);
        let epoch = store.number(EPOCH)?.unwrap_or(0);
        let lost = store.state(LOST)?.is_some();
        let mut index = Index::new(self.limit, self.next_sequence);
        store.items(0, |sequence, item| {
            index.restore(sequence, &Item::decode(item)?);
            Ok(true)
        })?;
        let figures = &self.figures;
        figures.depth.store(index.depth(), Ordering::Relaxed);
        if figures.last_contact.fetch_max(contact, Ordering::Relaxed) < contact {
            figures.contact_epoch.store(epoch, Ordering::Relaxed);
        }
        figures.lost.store(lost, Ordering::Relaxed);
        self.daemon_id = daemon_id;
        self.acknowledged = store.acknowledged();
        self.next_sequence = index.next_sequence();
        let from = 0;
        self.open = Some(Open { store, index, from });
        Ok(())
    }
}

/// Puts a damaged store out of the way. The latest only is kept.
fn set_aside(data_dir: &Path) -> io::Result<()> {
    let aside = data_dir.join(DAMAGED);
    let store = data_dir.join(DIRECTORY);
    if !store.exists() {
        // Removed under the daemon; that something was lost must still be known.
        return fs::create_dir_all(aside);
    }
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(store, aside)
}

/// Whether the directory takes writes: tries.
fn probe(data_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let path = data_dir.join("journal-probe");
    let result = fs::File::create(&path).and_then(|mut file| {
        io::Write::write_all(&mut file, &vec![1; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    result.and(removed)
}
