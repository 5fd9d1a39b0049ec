//! The RocksDB store under the local tier: how it is opened, and its blocking calls.
//!
//! Layout: one column family. Small values lie in the tables, those of [`BLOB_BYTES_MIN`] and more
//! in blob files. Compaction is FIFO over tables and blobs together: past the budget the oldest
//! tables go, with their blobs. While small values fill the tables, these are merged until there
//! are about [`TABLES_TARGET`], so that a lookup probes few; a merge drops what has expired. Hot
//! entries stay because the tier writes them again before their table's turn comes (ADR 0006).
//!
//! Values below [`INLINE_BYTES_MAX`] that are in memory are read and written on the caller's
//! thread (a few microseconds); everything else is for a thread that may block.

use std::{
    ffi::CStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, DBRecoveryMode, ErrorKind,
    FifoCompactOptions, LogLevel, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use super::{
    budget::{Sizes, WRITE_BUFFERS},
    sweep::{SweeperFactory, Swept},
};
use crate::{
    clock::Clock,
    error::{Error, Kind, Result},
    rocks::{self, Watermark},
};

/// Values from this size on lie in blob files and are read on a blocking thread.
pub(super) const BLOB_BYTES_MIN: usize = 16 << 10;
/// Values up to this size are written on the caller's thread.
pub(super) const INLINE_BYTES_MAX: usize = BLOB_BYTES_MIN;
/// Tables that merging aims at.
const TABLES_TARGET: i32 = 16;
/// Tables below which merging is left off.
const TABLES_MIN: usize = 8;
/// Where the position is kept; no entry's name begins with a zero byte.
const POSITION_KEY: &[u8] = b"\0position";

/// An open store.
pub(super) struct Store {
    db: DB,
    cache: Cache,
    path: PathBuf,
    sizes: Sizes,
    merging: AtomicBool,
    /// Most bytes of tables and blobs.
    data_files: AtomicU64,
    watermark: Watermark,
    in_memory: ReadOptions,
    anywhere: ReadOptions,
    no_wait: WriteOptions,
    may_wait: WriteOptions,
}

/// What a read on the caller's thread found.
pub(super) enum Lookup<T> {
    /// A value, as the reader made of it.
    Found(T),
    /// No value.
    Absent,
    /// Not in memory: ask again where blocking is allowed.
    OnDisk,
}

impl Store {
    /// Opens or creates the store in `path`. `Corrupt` when it is damaged beyond opening.
    pub(super) fn open(
        path: &Path,
        sizes: &Sizes,
        longest_lifetime: Duration,
        clock: &Clock,
        swept: &Arc<Swept>,
    ) -> Result<Self> {
        let cache = Cache::new_hyper_clock_cache(bytes(sizes.block_cache), 0);
        let mut options = options(sizes, &cache, longest_lifetime);
        options.set_compaction_filter_factory(SweeperFactory {
            clock: clock.clone(),
            swept: Arc::clone(swept),
        });
        fs::create_dir_all(path).map_err(|error| io_error(path, error))?;
        let db = DB::open(&options, path).map_err(|error| store_error(&error))?;
        let (watermark, acknowledged) =
            Watermark::open(path).map_err(|error| io_error(path, error))?;
        if db.latest_sequence_number() < acknowledged {
            let text = "local tier: acknowledged changes are missing from the log";
            return Err(Error::new(Kind::Corrupt, text));
        }
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        let mut no_wait = WriteOptions::default();
        no_wait.set_no_slowdown(true);
        let store = Self {
            db,
            cache,
            path: path.to_owned(),
            sizes: *sizes,
            merging: AtomicBool::new(false),
            data_files: AtomicU64::new(sizes.data_files),
            watermark,
            in_memory,
            anywhere: ReadOptions::default(),
            no_wait,
            may_wait: WriteOptions::default(),
        };
        store.set_merging(false)?;
        Ok(store)
    }

    /// Reads if it can be done without the disk. `read` sees the stored value in place.
    pub(super) fn read_in_memory<T>(
        &self,
        name: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Lookup<T>> {
        match self.db.get_pinned_opt(name, &self.in_memory) {
            Ok(Some(value)) => Ok(Lookup::Found(read(&value))),
            Ok(None) => Ok(Lookup::Absent),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Lookup::OnDisk),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Reads wherever it lies. Blocks.
    pub(super) fn read<T>(&self, name: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let value = self.db.get_pinned_opt(name, &self.anywhere);
        Ok(value
            .map_err(|error| store_error(&error))?
            .map(|value| read(&value)))
    }

    /// Writes if it can be done without waiting; `false` when it cannot.
    pub(super) fn try_write(&self, name: &[u8], value: &[u8]) -> Result<bool> {
        match self.db.put_opt(name, value, &self.no_wait) {
            Ok(()) => {
                self.acknowledge();
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(false),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Writes. Blocks.
    pub(super) fn write(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.db
            .put_opt(name, value, &self.may_wait)
            .map_err(|error| store_error(&error))?;
        self.acknowledge();
        Ok(())
    }

    /// Removes a name if it can be done without waiting; `false` when it cannot.
    pub(super) fn try_delete(&self, name: &[u8]) -> Result<bool> {
        match self.db.delete_opt(name, &self.no_wait) {
            Ok(()) => {
                self.acknowledge();
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(false),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Removes a name. Blocks.
    pub(super) fn delete(&self, name: &[u8]) -> Result<()> {
        self.db
            .delete_opt(name, &self.may_wait)
            .map_err(|error| store_error(&error))?;
        self.acknowledge();
        Ok(())
    }

    /// Removes these names in one write. Blocks.
    pub(super) fn delete_all(&self, names: &[Box<[u8]>]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for name in names {
            batch.delete(name);
        }
        self.db
            .write_opt(batch, &self.may_wait)
            .map_err(|error| store_error(&error))?;
        self.acknowledge();
        Ok(())
    }

    fn acknowledge(&self) {
        self.watermark.raise(self.db.latest_sequence_number());
    }

    /// Calls `visit` with names and values in order, from `from` on and below `prefix`'s end,
    /// until it says stop. Blocks.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_range(rocksdb::PrefixRange(prefix));
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(from);
        while let Some((name, value)) = cursor.item() {
            if !visit(name, value) {
                return Ok(());
            }
            cursor.next();
        }
        cursor.status().map_err(|error| store_error(&error))
    }

    /// The position that was last kept; 0 for a new store. Blocks.
    pub(super) fn position(&self) -> Result<u64> {
        let stored = self.read(POSITION_KEY, |value| {
            value.try_into().map(u64::from_le_bytes)
        })?;
        Ok(stored.and_then(std::result::Result::ok).unwrap_or(0))
    }

    /// Keeps the position for the next start.
    pub(super) fn keep_position(&self, position: u64) -> Result<()> {
        self.write(POSITION_KEY, &position.to_le_bytes())
    }

    /// Writes everything in memory to tables and syncs them. Blocks.
    pub(super) fn flush(&self) -> Result<()> {
        self.db.flush().map_err(|error| store_error(&error))
    }

    /// Bytes of write buffers, block cache and table readers.
    pub(super) fn memory_bytes(&self) -> u64 {
        let property = |name: &CStr| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property(c"rocksdb.cur-size-all-mem-tables")
            + property(c"rocksdb.estimate-table-readers-mem")
            + self.cache.get_usage() as u64
    }

    /// Keys, as the store estimates them.
    pub(super) fn keys_estimate(&self) -> u64 {
        self.db
            .property_int_value(c"rocksdb.estimate-num-keys")
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Whether the store's directory is still where it was opened.
    pub(super) fn is_in_place(&self) -> bool {
        self.path.join("CURRENT").exists()
    }

    /// Allows merging while every table stands for about as much data as its neighbours, and
    /// forbids it otherwise. RocksDB merges by the size of the tables alone: the tables of large
    /// values are tiny, so it would make one of all of them, and then drop that one at once.
    /// Blocks shortly.
    pub(super) fn tune_merging(&self) -> Result<()> {
        let tables = self.db.live_files().map_err(|error| store_error(&error))?;
        // A few tables say nothing yet, and need no merging.
        let even = tables.len() >= TABLES_MIN
            && tables
                .iter()
                .all(|table| table.size as u64 >= self.sizes.write_buffer / 8);
        if even == self.merging.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.set_merging(even)
    }

    /// Limits tables and blobs anew. What is beyond goes now. Blocks.
    pub(super) fn limit_data_files(&self, bytes: u64) -> Result<()> {
        let before = self.data_files.swap(bytes, Ordering::Relaxed);
        self.set_merging(self.merging.load(Ordering::Relaxed))?;
        if bytes < before {
            // Otherwise the oldest would go with the next flush, whenever that is.
            self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    fn set_merging(&self, allowed: bool) -> Result<()> {
        // The binding has no setters for these options.
        let fifo = format!(
            "{{max_data_files_size={0};max_table_files_size={0};allow_compaction={allowed};\
             use_kv_ratio_compaction=true}}",
            self.data_files.load(Ordering::Relaxed)
        );
        self.db
            .set_options(&[("compaction_options_fifo", &fifo)])
            .map_err(|error| store_error(&error))?;
        self.merging.store(allowed, Ordering::Relaxed);
        Ok(())
    }

    /// Stops background work so that closing does not wait for a merge. Blocks shortly.
    pub(super) fn stop_background(&self) {
        self.db.cancel_all_background_work(true);
    }
}

fn options(sizes: &Sizes, cache: &Cache, longest_lifetime: Duration) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    // Filters and indexes count against the memory budget, and stay.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_compaction_style(DBCompactionStyle::Fifo);
    let mut fifo = FifoCompactOptions::default();
    fifo.set_max_table_files_size(sizes.data_files);
    options.set_fifo_compaction_options(&fifo);
    options.set_level_zero_file_num_compaction_trigger(TABLES_TARGET);
    // A table whose newest record is older than any lifetime goes as a whole.
    options.set_ttl(longest_lifetime.as_secs() + 1);
    options.set_max_open_files(-1);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN as u64);

    options.set_write_buffer_size(bytes(sizes.write_buffer));
    options.set_max_write_buffer_number(i32::try_from(WRITE_BUFFERS).unwrap_or(3));
    options.set_max_total_wal_size(sizes.write_ahead_log / 2);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.1);
    // A torn last record is the write that a kill interrupted; any other damage means that later
    // deletes could be missing, so the store must not open. What only looks like a torn record is
    // for the watermark to notice.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_background_jobs(2);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}

/// Bytes on disk of everything under `path`, as the file system allocates them. Blocks.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn store_error(error: &rocksdb::Error) -> Error {
    rocks::store_error("local tier", error)
}

fn io_error(path: &Path, error: io::Error) -> Error {
    let text = format!("local tier: {} cannot be used", path.display());
    let kind = match error.kind() {
        // As in `store_error`: a file where a directory belongs, or the other way round.
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => Kind::Corrupt,
        _ => Kind::Unavailable,
    };
    Error::new(kind, text).caused_by(error)
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
