//! The local tier's background work: opening, repair, closing; `refresh` runs beside it.
//!
//! Repair, after a failed write (P12): wait until the directory takes a megabyte again, close the
//! store, set it aside if it is damaged, open it, remove what is doubtful. Tried at once, then
//! after 1, 2, 4 … 30 s. The store is readable until it is closed.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Inner, Left, Owner, Store, large, off_thread, refresh, store_dir};
use crate::error::{Error, Kind, Result};

const WATCH_EVERY: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// What a directory must take before its store is closed for repair.
const PROBE_BYTES: usize = 1 << 20;
const DAMAGED_PREFIX: &str = "damaged-";

/// Works until `stop`.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    // Side by side: a record that is about to be dropped cannot wait for a repair.
    let work = async { tokio::join!(refresh::run(&inner), large::run(&inner), look_after(&inner)) };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = work => {}
    }
    inner.refresh.close();
}

async fn look_after(inner: &Arc<Inner>) {
    let mut watch = interval(WATCH_EVERY);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry = RETRY_MIN;
    let mut next_try: Option<Instant> = None;
    loop {
        let due = async {
            match next_try {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.wake.notified(), if next_try.is_none() => {
                // The call may be one of a failure that has been repaired since.
                next_try = inner.health.is_failing().then(Instant::now);
            }
            () = due => {
                let repaired = repair(inner).await;
                next_try = (!repaired).then(|| Instant::now() + retry);
                retry = if repaired { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
            }
            _ = watch.tick() => look_around(inner).await,
        }
    }
}

/// Notices a directory that was removed under the store, keeps the position, tunes merging.
async fn look_around(inner: &Arc<Inner>) {
    if inner.health.is_failing() {
        return;
    }
    let (worker, slot) = (
        Arc::clone(inner),
        Arc::clone(&inner.store).read_owned().await,
    );
    let _ = off_thread(move || {
        let Some(store) = &*slot else { return };
        let owned = {
            let owner = worker.owner.lock().unwrap_or_else(PoisonError::into_inner);
            owner.as_ref().is_some_and(Owner::is_in_place)
        };
        let position = worker.position.load(Ordering::Relaxed);
        if !owned || !store.is_in_place() {
            let text = format!("local tier: {} was removed", worker.data_dir.display());
            worker.failed_all(Error::new(Kind::Unavailable, text));
        } else if worker.kept_position.swap(position, Ordering::Relaxed) != position {
            // Lost at worst: then records look younger than they are.
            let _ = store.keep_position(position);
            if let Err(error) = store.tune_merging() {
                tracing::warn!(%error, "local tier: merging of tables could not be tuned");
            }
        }
    })
    .await;
}

/// One attempt to make the store work; tells whether it does.
async fn repair(inner: &Arc<Inner>) -> bool {
    let worker = Arc::clone(inner);
    match off_thread(move || probe(&worker.data_dir)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            inner.health.still(format!(
                "local tier: data directory takes no writes: {error}"
            ));
            return false;
        }
        Err(_) => return false,
    }
    let mut slot = Arc::clone(&inner.store).write_owned().await;
    let worker = Arc::clone(inner);
    let result = off_thread(move || {
        if let Some(store) = slot.take() {
            store.stop_background();
        }
        let reopened = worker.reopen();
        worker.hot.changed_all();
        *slot = Some(reopened?);
        Ok::<_, Error>(())
    })
    .await;
    match result {
        Ok(Ok(())) => {
            inner.counts.reopens.fetch_add(1, Ordering::Relaxed);
            tracing::info!("local tier takes writes again");
            true
        }
        Ok(Err(error)) | Err(error) => {
            inner.health.still(error.to_string());
            tracing::warn!(%error, "local tier could not be repaired yet");
            false
        }
    }
}

impl Inner {
    /// The first opening: takes the directory.
    pub(super) fn open_first(&self) -> Result<()> {
        let (owner, left) = Owner::take(&self.data_dir, &self.listen)?;
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        match left {
            Left::Intact => {}
            Left::PowerCut => {
                tracing::warn!(
                    "the machine went down while the store was open; its entries are dropped, \
                     because the last removals may be missing"
                );
                discard(&self.data_dir)?;
            }
            Left::Doubtful => {
                tracing::warn!(
                    "the last daemon could not write some removals; the entries are dropped"
                );
                discard(&self.data_dir)?;
            }
        }
        let store = self.open_or_set_aside()?;
        self.note_doubt(false);
        *self.store.blocking_write() = Some(store);
        Ok(())
    }

    /// Opens the store again after a fault, without what is doubtful.
    fn reopen(&self) -> Result<Store> {
        let in_place = {
            let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
            owner.as_ref().is_some_and(Owner::is_in_place)
        };
        if !in_place {
            let (owner, _) = Owner::take(&self.data_dir, &self.listen)?;
            *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        }
        loop {
            let (everything, damaged) = self.health.verdict();
            if damaged {
                self.set_aside()?;
            } else if everything {
                discard(&self.data_dir)?;
            }
            let store = self.open_or_set_aside()?;
            let resolved = self.health.resolve(everything || damaged, |names| {
                let names: Vec<_> = names.iter().map(|name| name.as_bytes().into()).collect();
                store.delete_all(&names)
            })?;
            if resolved {
                self.note_doubt(false);
                return Ok(store);
            }
            store.stop_background();
        }
    }

    /// Keeps in the directory whether the store may hold what should be gone, for the next start.
    pub(super) fn note_doubt(&self, doubtful: bool) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = owner.as_mut() {
            // The file has its blocks already, so this succeeds on a full disk.
            if let Err(error) = owner.note_doubt(doubtful) {
                tracing::error!(%error, "local tier: doubt could not be noted for the next start");
            }
        }
    }

    fn open_or_set_aside(&self) -> Result<Store> {
        match self.open_store() {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Internal) => {
                tracing::error!(%error, "the store is damaged; it is set aside");
                self.set_aside()?;
                self.open_store()
            }
            result => result,
        }
    }

    fn open_store(&self) -> Result<Store> {
        let store = Store::open(
            &store_dir(&self.data_dir),
            &self.sizes,
            self.longest_lifetime,
            &self.clock,
            &self.counts.swept,
        )?;
        self.position
            .fetch_max(store.position()?, Ordering::Relaxed);
        self.large.load();
        if self.large.taken() > 0 {
            store.limit_data_files(self.data_files())?;
        }
        Ok(store)
    }

    /// Puts a damaged store out of the way. What tells how it came about is kept, the latest only;
    /// its data would count against the budget and goes.
    fn set_aside(&self) -> Result<()> {
        self.counts.set_asides.fetch_add(1, Ordering::Relaxed);
        let failed = |error| unusable(&self.data_dir, error);
        for entry in fs::read_dir(&self.data_dir).map_err(failed)?.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(DAMAGED_PREFIX)
            {
                remove_any(&entry.path()).map_err(failed)?;
            }
        }
        let aside = format!("{DAMAGED_PREFIX}{}", self.clock.now().as_millis());
        let aside = self.data_dir.join(aside);
        match fs::rename(store_dir(&self.data_dir), &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        if !aside.is_dir() {
            // A file in place of the store tells nothing.
            return remove_any(&aside).map_err(failed);
        }
        for entry in fs::read_dir(&aside).map_err(failed)?.flatten() {
            let data = entry
                .path()
                .extension()
                .is_some_and(|it| ["sst", "blob", "log"].iter().any(|kind| it == *kind));
            if data || entry.path().ends_with(large::DIRECTORY) {
                remove_any(&entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Writes everything out and closes the store in order.
    pub(super) fn close(&self, store: Option<Store>) -> Result<()> {
        let Some(store) = store else { return Ok(()) };
        store.keep_position(self.position.load(Ordering::Relaxed))?;
        store.flush()?;
        // Only now: a store told to stop refuses to flush.
        store.stop_background();
        drop(store);
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut owner) = owner.take() {
            owner
                .note_closed()
                .map_err(|error| unusable(&self.data_dir, error))?;
        }
        Ok(())
    }

    /// Drops everything and begins anew.
    pub(super) fn begin_anew(&self, store: Option<Store>) -> Result<Store> {
        if let Some(store) = store {
            store.stop_background();
        }
        discard(&self.data_dir)?;
        let store = self.open_or_set_aside()?;
        self.health.clear();
        self.note_doubt(false);
        Ok(store)
    }
}

/// Whether the directory takes writes: tries.
fn probe(data_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let path = data_dir.join("probe");
    if path.is_dir() {
        remove_any(&path)?;
    }
    let result = fs::File::create(&path).and_then(|mut file| {
        io::Write::write_all(&mut file, &vec![1; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    result.and(removed)
}

/// Removes a file or a whole directory; nothing there is fine as well.
fn remove_any(path: &Path) -> io::Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|meta| match meta.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn discard(data_dir: &Path) -> Result<()> {
    remove_any(&store_dir(data_dir)).map_err(|error| unusable(data_dir, error))
}

fn unusable(data_dir: &Path, error: io::Error) -> Error {
    let text = format!(
        "local tier: data directory {} cannot be used",
        data_dir.display()
    );
    Error::new(Kind::Unavailable, text).caused_by(error)
}
