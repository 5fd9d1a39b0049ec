//! Who owns the data directory, and how the last owner left it.
//!
//! `pannierd.lock` is held with `flock` as long as the daemon lives, so the lock goes with the
//! process, however it ends. The file says who holds it, for the error of the next one, and
//! whether the store was closed in order:
//!
//! ```text
//! pid = 4711
//! listen = 127.0.0.1:7466
//! boot = 8b1c…            the kernel's boot id
//! closed = false          true once the store is closed and synced
//! doubtful = false        true while the store holds what should have been removed (`health`)
//! ```
//! Why the boot id: the write-ahead log is not synced, so a killed process loses nothing, but a
//! power cut may lose the newest writes and thereby bring back what they removed. A store that was
//! open when the machine went down is therefore not trusted (see ADR 0006).

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use crate::error::{Error, Kind, Result};

const LOCK_FILE: &str = "pannierd.lock";

/// The right to use a data directory.
#[derive(Debug)]
pub(super) struct Owner {
    file: File,
    path: PathBuf,
    listen: String,
    doubtful: bool,
}

/// How the directory was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// New, closed in order, or left by a process that died while the machine stayed up.
    Intact,
    /// The machine went down while the store was open.
    PowerCut,
    /// A removal had failed and was not made up for.
    Doubtful,
}

impl Owner {
    /// Takes the directory. `Held` names the daemon that holds it; `Unavailable` says why it
    /// cannot be used.
    pub(super) fn take(dir: &Path, listen: &str) -> Result<(Self, Left)> {
        let unusable = |error: io::Error| {
            let text = format!("data directory {} cannot be used", dir.display());
            Error::new(Kind::Unavailable, text).caused_by(error)
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        let path = dir.join(LOCK_FILE);
        if path.is_dir() {
            tracing::warn!("{LOCK_FILE} is a directory; it is removed");
            fs::remove_dir_all(&path).map_err(unusable)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held_by_another(dir, &mut file)),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let mut before = String::new();
        let readable = file.read_to_string(&mut before).is_ok();
        let in_order = before.is_empty()
            || field(&before, "closed") == Some("true")
            || field(&before, "boot") == Some(boot_id().as_str());
        let intact = readable && in_order;
        let doubtful = field(&before, "doubtful") == Some("true");
        let mut owner = Self {
            file,
            path,
            listen: listen.to_owned(),
            doubtful,
        };
        owner
            .write(false)
            .and_then(|()| owner.file.sync_all())
            .map_err(unusable)?;
        let left = match (intact, doubtful) {
            (false, _) => Left::PowerCut,
            (true, true) => Left::Doubtful,
            (true, false) => Left::Intact,
        };
        Ok((owner, left))
    }

    /// Whether the lock file is still the one in the directory.
    pub(super) fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let ids = |meta: fs::Metadata| (meta.dev(), meta.ino());
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => ids(there) == ids(ours),
            _ => false,
        }
    }

    /// Notes that the store was closed in order and synced.
    pub(super) fn note_closed(&mut self) -> io::Result<()> {
        self.write(true)?;
        self.file.sync_all()
    }

    /// Notes whether the store holds what should have been removed. Not synced: it is for the next
    /// start after a kill; after a power cut the store goes anyway.
    pub(super) fn note_doubt(&mut self, doubtful: bool) -> io::Result<()> {
        self.doubtful = doubtful;
        self.write(false)
    }

    fn write(&mut self, closed: bool) -> io::Result<()> {
        let pid = std::process::id();
        let (listen, boot, doubtful) = (&self.listen, boot_id(), self.doubtful);
        let text = format!(
            "pid = {pid}\nlisten = {listen}\nboot = {boot}\nclosed = {closed}\n\
             doubtful = {doubtful}\n"
        );
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }
}

fn held_by_another(dir: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    let pid = field(&text, "pid").unwrap_or("unknown").to_owned();
    let listen = field(&text, "listen")
        .unwrap_or("an unknown address")
        .to_owned();
    Error::new(
        Kind::Held,
        format!(
            "data directory {} is in use by pannierd with process id {pid}, listening on \
             {listen}; stop it or give this one another --data-dir",
            dir.display()
        ),
    )
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
}

/// The kernel's id of this boot; empty, which equals itself, where there is none.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (owner, left) = Owner::take(dir.path(), "127.0.0.1:7466").expect("free");
        assert_eq!(left, Left::Intact);
        let error = Owner::take(dir.path(), "127.0.0.1:1").expect_err("is held");
        assert_eq!(error.kind(), Kind::Held);
        let pid = std::process::id().to_string();
        assert!(error.message().contains(&pid), "{error}");
        assert!(error.message().contains("127.0.0.1:7466"), "{error}");
        drop(owner);
        assert_eq!(
            Owner::take(dir.path(), "x").expect("free again").1,
            Left::Intact
        );
    }

    #[test]
    fn a_store_open_at_another_boot_is_not_intact_and_a_closed_one_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(LOCK_FILE);
        fs::write(&path, "pid = 1\nlisten = x\nboot = other\nclosed = false\n").expect("writes");
        assert_eq!(
            Owner::take(dir.path(), "x").expect("free").1,
            Left::PowerCut
        );
        fs::write(&path, "pid = 1\nlisten = x\nboot = other\nclosed = true\n").expect("writes");
        let (mut owner, left) = Owner::take(dir.path(), "x").expect("free");
        assert_eq!(left, Left::Intact);
        owner.note_closed().expect("writes");
        assert!(
            fs::read_to_string(&path)
                .expect("reads")
                .contains("closed = true")
        );
        owner.note_doubt(true).expect("writes");
        drop(owner);
        let (owner, left) = Owner::take(dir.path(), "x").expect("free");
        assert_eq!(left, Left::Doubtful);
        assert!(owner.is_in_place());
        fs::remove_file(&path).expect("removes");
        assert!(!owner.is_in_place());
    }
}
