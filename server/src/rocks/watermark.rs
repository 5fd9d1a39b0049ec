//! How far the store must have come back.
//!
//! RocksDB cannot tell a log whose last write was interrupted by a kill from one that was cut or
//! damaged near its end: it drops what does not fit and opens. What was removed there would come
//! back. So the sequence number of the last change is kept beside the log, in 8 bytes that are
//! overwritten after each change and before it is acknowledged. A store that comes back with a
//! smaller one has lost acknowledged changes and must not be used.
//!
//! Not synced: it is for kills. A power cut may leave an older number, never a newer one than what
//! was synced in the log before; whoever does not sync the log must not rely on it then.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const FILE: &str = "WATERMARK";

pub(crate) struct Watermark(File);

impl Watermark {
    /// Opens or creates the one of the store in `path`, with what it says: 0 for a new store.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(FILE))?;
        let mut bytes = [0; 8];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            // New: the block is taken now, so that no full disk is in the way later.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                file.write_all_at(&bytes, 0)?;
            }
            Err(error) => return Err(error),
        }
        Ok((Self(file), u64::from_le_bytes(bytes)))
    }

    /// Keeps the number of a change. Of changes at the same time the lower number may win: then the
    /// mark is a little lower than it could be.
    pub(crate) fn raise(&self, sequence: u64) {
        // A disk that takes no 8 bytes over others takes no change either; that one is reported.
        let _ = self.0.write_all_at(&sequence.to_le_bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mark, found) = Watermark::open(dir.path()).expect("opens");
        assert_eq!(found, 0);
        mark.raise(77);
        assert_eq!(Watermark::open(dir.path()).expect("opens").1, 77);
    }
}
