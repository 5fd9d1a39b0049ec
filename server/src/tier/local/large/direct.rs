//! Files past the page cache (`local.direct_io`): what is written is copied once, into a buffer
//! that the disk takes it from, and leaves nothing in memory behind.
//!
//! `O_DIRECT` takes offsets, lengths and addresses that are multiples of the disk's blocks only.
//! The value begins at such an offset and its chunks are as long, but for the last: that one is
//! filled up with zeros and cut off again at the end. Where the file system does not know the flag,
//! files are opened without it, and all this does no harm.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bytes::Bytes;
use rustix::{fs::OFlags, io::Errno};

/// A multiple of the blocks of all disks, or nearly: a page.
const BLOCK: usize = 4096;

thread_local! {
    /// What is on its way to the disk; there are few threads that write.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens a file past the page cache, or through it where that is impossible.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flag = OFlags::DIRECT.bits().cast_signed();
    match options.custom_flags(flag).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            options.custom_flags(0).open(path)
        }
        opened => opened,
    }
}

/// Writes pieces one behind the other at a multiple of a block, and zeros up to the next one.
pub(super) fn write(file: &File, at: u64, pieces: &[&[u8]]) -> io::Result<()> {
    let bytes: usize = pieces.iter().map(|it| it.len()).sum();
    let whole = bytes.next_multiple_of(BLOCK);
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < whole + BLOCK {
            *buffer = vec![0; whole + BLOCK];
        }
        let begin = begin_of(buffer);
        let mut end = begin;
        for piece in pieces {
            buffer[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        buffer[end..begin + whole].fill(0);
        file.write_all_at(&buffer[begin..begin + whole], at)
    })
}

/// So many bytes from a multiple of a block, or what there is of them.
pub(super) fn read(file: &File, at: u64, count: usize) -> Bytes {
    let whole = count.next_multiple_of(BLOCK);
    let mut buffer = vec![0; whole + BLOCK];
    let begin = begin_of(&buffer);
    let mut bytes = 0;
    while bytes < count {
        let rest = &mut buffer[begin + bytes..begin + whole];
        match file.read_at(rest, at + bytes as u64) {
            Ok(0) => break,
            Ok(more) => bytes += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Bytes::from(buffer).slice(begin..begin + bytes.min(count))
}

/// Where the first block begins in a buffer.
fn begin_of(buffer: &[u8]) -> usize {
    buffer.as_ptr().align_offset(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_whatever_its_length() {
        let dir = tempfile::tempdir().expect("tempdir");
        for bytes in [1, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 20] {
            let path = dir.path().join(bytes.to_string());
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            let file = open(&mut options, &path).expect("opens");
            let value: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let (one, two) = value.split_at(bytes / 3);
            write(&file, 4096, &[one, two]).expect("writes");
            file.set_len(4096 + bytes as u64).expect("is cut off");
            assert_eq!(read(&file, 4096, bytes), value);
            assert_eq!(read(&file, 4096, bytes + BLOCK), value, "there is no more");
            assert!(read(&file, 4096 + bytes.next_multiple_of(BLOCK) as u64, 1).is_empty());
        }
    }
}
