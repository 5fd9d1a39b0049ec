//! Where a value goes: stdout, or a file that appears whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use pannier_client::Version;

use crate::{archive::Unpacking, exit::Failure};

/// Where a value goes. Nothing appears under the file's name before [`commit`](Self::commit);
/// dropping it uncommitted removes what was written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Stdout, byte by byte as it comes.
    Stdout,
    /// A file of its own name that will take the place of the target.
    File(Draft),
    /// Something that cannot be replaced, such as a device or a pipe: written directly.
    Special(File, PathBuf),
    /// A folder that an archive becomes.
    Folder(Unpacking),
}

/// A file beside its target.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    draft: PathBuf,
    target: PathBuf,
    // Also when it is not committed.
    kept: bool,
}

/// What an earlier transfer has left beside a file.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// Of the entry it is a part of.
    pub(crate) version: Version,
    /// How much of it.
    pub(crate) bytes: u64,
}

impl Destination {
    /// Opens the file named, or stdout when there is none or it is `-`.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(Self::Stdout);
        };
        let opened = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => OpenOptions::new()
                .write(true)
                .open(path)
                .map(|file| Self::Special(file, path.to_owned())),
            _ => Draft::beside(path).map(Self::File),
        };
        opened.map_err(|error| cannot_write(path, &error))
    }

    /// A file that begins with what an earlier transfer of this version has left, and is kept when
    /// this one breaks off.
    pub(crate) fn resume(path: &Path, version: &Version) -> Result<Self, Failure> {
        let draft = Draft::kept_beside(path, version);
        draft
            .map(Self::File)
            .map_err(|error| cannot_write(path, &error))
    }

    /// A folder, from the archive that is written.
    pub(crate) fn unpack(folder: &Path) -> Result<Self, Failure> {
        let unpacking = hidden(folder, &std::process::id().to_string())
            .and_then(|draft| Unpacking::begin(folder, draft));
        unpacking.map(Self::Folder).map_err(|error| {
            let what = format!("cannot unpack into {}: {error}", folder.display());
            Failure::usage(what, "choose a DIR that is not there yet, or is empty")
        })
    }

    /// Whether the bytes go to a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout) && io::IsTerminal::is_terminal(&io::stdout())
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout => crate::output::bytes(bytes),
            Self::File(draft) => draft
                .file
                .write_all(bytes)
                .map_err(|error| cannot_write(&draft.target, &error)),
            Self::Special(file, path) => file
                .write_all(bytes)
                .map_err(|error| cannot_write(path, &error)),
            Self::Folder(unpacking) => unpacking
                .write(bytes)
                .map_err(|error| cannot_unpack(unpacking.folder(), &error)),
        }
    }

    /// Gives the file its name.
    pub(crate) fn commit(self) -> Result<(), Failure> {
        match self {
            Self::Stdout | Self::Special(..) => Ok(()),
            Self::File(mut draft) => {
                fs::rename(&draft.draft, &draft.target)
                    .map_err(|error| cannot_write(&draft.target, &error))?;
                draft.kept = true;
                Ok(())
            }
            Self::Folder(unpacking) => {
                let folder = unpacking.folder().to_owned();
                let done = unpacking.commit();
                done.map_err(|error| cannot_unpack(&folder, &error))
            }
        }
    }
}

impl Draft {
    fn beside(target: &Path) -> io::Result<Self> {
        let draft = hidden(target, &std::process::id().to_string())?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&draft)?;
        Ok(Self {
            file,
            draft,
            target: target.to_owned(),
            kept: false,
        })
    }

    fn kept_beside(target: &Path, version: &Version) -> io::Result<Self> {
        let draft = hidden(target, &version.to_string())?;
        let file = OpenOptions::new().append(true).create(true).open(&draft)?;
        Ok(Self {
            file,
            draft,
            target: target.to_owned(),
            kept: true,
        })
    }
}

impl Kept {
    /// What there is beside this file.
    pub(crate) fn beside(target: &Path) -> Option<Self> {
        let name = target.file_name()?.to_str()?;
        let directory = target.parent().filter(|it| *it != Path::new(""));
        let entries = fs::read_dir(directory.unwrap_or(Path::new("."))).ok()?;
        entries.flatten().find_map(|entry| {
            let found = entry.file_name();
            let rest = found.to_str()?.strip_prefix('.')?.strip_prefix(name)?;
            let version = rest.strip_prefix('.')?.strip_suffix(".part")?;
            Some(Self {
                path: target.with_file_name(&found),
                version: version.parse().ok()?,
                bytes: entry.metadata().ok()?.len(),
            })
        })
    }

    /// Removes it: it is of no use any more.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        fs::remove_file(&self.path).map_err(|error| cannot_write(&self.path, &error))
    }
}

/// A name for a draft of `target` in the same folder.
fn hidden(target: &Path, what: &str) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{what}.part"));
    Ok(target.with_file_name(hidden))
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is left behind under a name that says what it is.
            let _ = fs::remove_file(&self.draft);
        }
    }
}

fn cannot_unpack(folder: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot unpack into {}: {error}", folder.display());
    Failure::refused(what, "look at the value: `pannier read KEY | tar -t`")
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot write {}: {error}", path.display());
    Failure::refused(what, "choose another FILE, or make room")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::{Destination, Kept};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pannier-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = directory("whole");
        let target = directory.join("value");
        fs::write(&target, "old").expect("written");

        let mut destination = Destination::open(Some(&target)).expect("opened");
        destination.write(b"half").expect("written");
        drop(destination);
        assert_eq!(fs::read(&target).expect("the old file"), b"old");
        assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1);

        let mut destination = Destination::open(Some(&target)).expect("opened");
        destination.write(b"new").expect("written");
        destination.commit().expect("committed");
        assert_eq!(fs::read(&target).expect("the new file"), b"new");
        assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1);
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn what_has_arrived_is_found_again_by_its_version() {
        let directory = directory("kept");
        let target = directory.join("value");
        let version = "0190f3c2a1b47c2e8d5f60718293a4b5".parse().expect("valid");
        assert!(Kept::beside(&target).is_none());
        let mut destination = Destination::resume(&target, &version).expect("opened");
        destination.write(b"half").expect("written");
        drop(destination);
        assert!(!target.exists());
        let kept = Kept::beside(&target).expect("was kept");
        assert_eq!((kept.version, kept.bytes), (version, 4));
        let mut destination = Destination::resume(&target, &version).expect("opened");
        destination.write(b" and half").expect("written");
        destination.commit().expect("committed");
        assert_eq!(fs::read(&target).expect("the file"), b"half and half");
        assert!(Kept::beside(&target).is_none());
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_and_not_replaced() {
        let null = PathBuf::from("/dev/null");
        let mut destination = Destination::open(Some(&null)).expect("opened");
        assert!(matches!(destination, Destination::Special(..)));
        destination.write(b"x").expect("written");
        destination.commit().expect("committed");
        assert!(!fs::metadata(&null).expect("still there").is_file());
    }

    #[test]
    fn a_directory_is_refused() {
        assert!(Destination::open(Some(&std::env::temp_dir())).is_err());
    }
}
