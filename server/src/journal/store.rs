//! The RocksDB store under the journal. Its layout is drawn in `journal`.
//!
//! Recovery: RocksDB refuses to open a log with a record that fails its checksum, but takes an
//! incomplete last record for a write that was interrupted, and drops it. That is right after a
//! kill and wrong when the end of the log was cut off or its last length was damaged. The
//! [`Watermark`] tells the two apart: a store that comes back with a smaller number has lost
//! acknowledged items, which is damage. A log that stops at the first fault instead, or skips it,
//! would lose them without a word between two writes of the mark.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options, PrefixRange,
    ReadOptions, WriteBatch, WriteOptions,
};

use super::index::Edits;
use crate::{
    error::{Error, Kind, Result},
    rocks::{self, Watermark},
};

const FORMAT: &[u8] = b"sformat";
const FORMAT_NOW: &[u8] = &[1];
/// 8 bytes, big-endian: who this data directory is.
pub(super) const DAEMON: &[u8] = b"sdaemon";
/// 8 bytes, big-endian: milliseconds of the last contact.
pub(super) const CONTACT: &[u8] = b"scontact";
/// 8 bytes, big-endian: the epoch of that contact.
pub(super) const EPOCH: &[u8] = b"sepoch";
/// Empty: items were lost, and the loss has not been settled.
pub(super) const LOST: &[u8] = b"slost";
const ITEM: u8 = b'i';
const ITEM_KEY: usize = 9;

/// Items wait in memory for a table of this size at most.
const WRITE_BUFFER: usize = 2 << 20;

/// A change of the small state: its key, and its value or none.
pub(super) type StateEdit = (&'static [u8], Option<[u8; 8]>);

/// An open store. Every method blocks.
pub(super) struct Store {
    db: DB,
    path: PathBuf,
    watermark: Watermark,
    acknowledged: u64,
    fresh: bool,
}

impl Store {
    /// Opens or creates the store in `path`. `Corrupt` when it is damaged, or when it lacks what
    /// was acknowledged: `acknowledged` is the number this process knows of.
    pub(super) fn open(path: &Path, acknowledged: u64) -> Result<Self> {
        let failed = |error| io_error(path, error);
        fs::create_dir_all(path).map_err(failed)?;
        let db = DB::open(&options(), path).map_err(|error| store_error(&error))?;
        let (watermark, marked) = Watermark::open(path).map_err(failed)?;
        if db.latest_sequence_number() < marked.max(acknowledged) {
            let text = "journal: acknowledged items are missing from the log";
            return Err(Error::new(Kind::Corrupt, text));
        }
        let mut store = Self {
            acknowledged: db.latest_sequence_number(),
            db,
            path: path.to_owned(),
            watermark,
            fresh: false,
        };
        match store.state(FORMAT)?.as_deref() {
            Some(FORMAT_NOW) => {}
            None if store.db.latest_sequence_number() == 0 => {
                store.fresh = true;
                // The names of the new directories, too, must survive a power cut.
                for directory in path.ancestors().take(3) {
                    let here = directory.as_os_str().is_empty();
                    let directory = if here { Path::new(".") } else { directory };
                    let synced = fs::File::open(directory).and_then(|it| it.sync_all());
                    synced.map_err(failed)?;
                }
            }
            _ => {
                let text = "journal: the store is of no known format";
                return Err(Error::new(Kind::Corrupt, text));
            }
        }
        Ok(store)
    }

    /// Whether it was created just now; it must be given its state then.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// A piece of the small state.
    pub(super) fn state(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(|error| store_error(&error))
    }

    /// A piece of the small state that is a number; damage when it is none.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>> {
        let Some(bytes) = self.state(key)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| {
            Error::new(
                Kind::Corrupt,
                "journal: a piece of its state has a wrong length",
            )
        })?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Writes all of it or, after an error, perhaps all and perhaps nothing: which, a reopened
    /// store tells. With `sync` it is on the disk when this returns.
    pub(super) fn write(&mut self, edits: &Edits, state: &[StateEdit], sync: bool) -> Result<()> {
        let mut batch = WriteBatch::default();
        if self.fresh {
            batch.put(FORMAT, FORMAT_NOW);
        }
        for (sequence, item) in &edits.puts {
            batch.put(item_key(*sequence), item);
        }
        for sequence in &edits.deletes {
            batch.delete(item_key(*sequence));
        }
        for (key, value) in state {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(batch, &options)
            .map_err(|error| store_error(&error))?;
        self.fresh = false;
        if sync {
            // What is not synced must not be missed after a power cut.
            self.acknowledged = self.db.latest_sequence_number();
            self.watermark.raise(self.acknowledged);
        }
        Ok(())
    }

    /// The number of the last change that was synced.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// One item as it was written.
    pub(super) fn item(&self, sequence: u64) -> Result<Option<Vec<u8>>> {
        self.state(&item_key(sequence))
    }

    /// Calls `visit` with the items from `from` on, in order, until it says stop.
    pub(super) fn items(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(PrefixRange([ITEM]));
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(item_key(from));
        while let Some((key, item)) = cursor.item() {
            let sequence = key.get(1..).and_then(|it| it.try_into().ok());
            let sequence = sequence.map(u64::from_be_bytes).ok_or_else(|| {
                Error::new(Kind::Corrupt, "journal: an item's key has a wrong length")
            })?;
            if !visit(sequence, item)? {
                return Ok(());
            }
            cursor.next();
        }
        cursor.status().map_err(|error| store_error(&error))
    }

    /// Whether the store's directory is still where it was opened.
    pub(super) fn is_in_place(&self) -> bool {
        self.path.join("CURRENT").exists()
    }

    /// Syncs what was written without.
    pub(super) fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(|error| store_error(&error))
    }
}

fn item_key(sequence: u64) -> [u8; ITEM_KEY] {
    let mut key = [ITEM; ITEM_KEY];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    // Items are read once, in order; what little is read again lies in the page cache.
    table.disable_cache();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_target_file_size_base(4 << 20);
    options.set_max_bytes_for_level_base(32 << 20);
    options.set_max_open_files(64);
    // Threads that would only be started and ended again.
    options.set_max_file_opening_threads(1);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}

fn store_error(error: &rocksdb::Error) -> Error {
    rocks::store_error("journal", error)
}

pub(super) fn io_error(path: &Path, error: io::Error) -> Error {
    let text = format!(
        "journal: {} cannot be used; check its permissions and the space on its disk",
        path.display()
    );
    Error::new(Kind::Unavailable, text).caused_by(error)
}
