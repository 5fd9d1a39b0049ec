//! How the two budgets of the local tier are divided.
//!
//! ```text
//! disk    = data files (tables and blobs, the oldest dropped first)
//!         + write-ahead log: 4 write buffers
//!         + room for the output of one merge: an eighth
//!         + logs and manifests: 2 MiB
//! memory  = 3 write buffers + hot set (a quarter) + block cache
//! ```
//! A write buffer is 1/32 of the disk budget, at most 1/8 of the memory budget, 2 to 64 MiB:
//! larger ones mean fewer files to look into, smaller ones keep closer to the budget.

use crate::config::Size;

const MIB: u64 = 1 << 20;
/// Write buffers that may exist at once: one filling, two waiting for the disk.
pub(super) const WRITE_BUFFERS: u64 = 3;
const LOGS_BYTES: u64 = 2 * MIB;

/// Sizes in bytes that the store is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) write_buffer: u64,
    pub(super) hot: u64,
    pub(super) block_cache: u64,
    pub(super) data_files: u64,
    pub(super) write_ahead_log: u64,
}

impl Sizes {
    pub(super) fn new(disk: Size, memory: Size) -> Self {
        let write_buffer = (disk.0 / 32).min(memory.0 / 8).clamp(2 * MIB, 64 * MIB);
        let write_ahead_log = 4 * write_buffer;
        Self {
            write_buffer,
            hot: memory.0 / 4,
            block_cache: memory.0 - memory.0 / 4 - WRITE_BUFFERS * write_buffer,
            data_files: disk.0 - write_ahead_log - disk.0 / 8 - LOGS_BYTES,
            write_ahead_log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_never_exceed_the_whole() {
        for disk in [64, 100, 256, 4096, 1 << 20] {
            for memory in [16, 128, 4096] {
                let sizes = Sizes::new(Size(disk * MIB), Size(memory * MIB));
                assert!(
                    sizes.data_files >= disk * MIB / 2,
                    "{disk} {memory} {sizes:?}"
                );
                assert!(sizes.data_files + sizes.write_ahead_log < disk * MIB);
                let buffers = WRITE_BUFFERS * sizes.write_buffer;
                assert_eq!(buffers + sizes.hot + sizes.block_cache, memory * MIB);
            }
        }
    }
}
