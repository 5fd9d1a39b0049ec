//! A folder as one value: packed while it is sent, unpacked while it comes.
//!
//! Both go on a thread of their own, at the other end of a pipe. The archive is a plain tar, as any
//! `tar` reads and writes it.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufReader, BufWriter, PipeReader, PipeWriter, Read, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use tar::{Archive, Builder, EntryType, Header, HeaderMode};

/// A folder being packed: regular files, folders and symbolic links, in the order of their names,
/// with permissions and the times of files, and without owners. So what did not change gives the
/// same bytes again, also when it was unpacked somewhere else.
#[derive(Debug)]
pub(crate) struct Packing {
    pipe: PipeReader,
    // Absent once it has been waited for.
    packer: Option<JoinHandle<io::Result<()>>>,
}

impl Packing {
    /// Begins to pack what is in this folder.
    pub(crate) fn begin(folder: &Path) -> io::Result<Self> {
        // Told now, not in the middle of a transfer.
        fs::read_dir(folder)?;
        let (pipe, sink) = io::pipe()?;
        let folder = folder.to_owned();
        let packer = thread::spawn(move || {
            let mut builder = Builder::new(BufWriter::new(sink));
            pack(&mut builder, &folder, Path::new(""))?;
            builder.into_inner()?.flush()
        });
        Ok(Self {
            pipe,
            packer: Some(packer),
        })
    }
}

impl Read for Packing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        // An archive that broke off must not pass for one that ended.
        match self.packer.take_if(|_| count == 0 && !buffer.is_empty()) {
            Some(packer) => ended(packer).map(|()| 0),
            None => Ok(count),
        }
    }
}

fn pack(builder: &mut Builder<impl Write>, folder: &Path, below: &Path) -> io::Result<()> {
    let named = |error: io::Error, path: &Path| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let here = folder.join(below);
    let entries = fs::read_dir(&here).map_err(|error| named(error, &here))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let (path, inside) = (here.join(&name), below.join(&name));
        let packed = pack_one(builder, &path, &inside);
        if packed.map_err(|error| named(error, &path))? {
            pack(builder, folder, &inside)?;
        }
    }
    Ok(())
}

/// Tells whether it is a folder, whose content comes next.
fn pack_one(builder: &mut Builder<impl Write>, path: &Path, inside: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let mut header = header_of(&metadata);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        builder.append_link(&mut header, inside, fs::read_link(path)?)?;
    } else if kind.is_dir() {
        builder.append_data(&mut header, inside, io::empty())?;
    } else if kind.is_file() {
        // No more than the header says, should it grow meanwhile; less is an error.
        let file = File::open(path)?.take(metadata.len());
        builder.append_data(&mut header, inside, Exactly(file))?;
    } else {
        let text = "neither a file nor a folder nor a symbolic link";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(kind.is_dir())
}

fn header_of(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(metadata, HeaderMode::Complete);
    header.set_uid(0);
    header.set_gid(0);
    if !metadata.is_file() {
        header.set_size(0);
        // Unpacking does not set it.
        header.set_mtime(0);
    }
    header
}

/// A file that is as long as it was.
struct Exactly(io::Take<File>);

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.0.limit() > 0 {
            let text = "it became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(count)
    }
}

/// An archive being unpacked: beside its folder, which appears whole or not at all.
#[derive(Debug)]
pub(crate) struct Unpacking {
    // Absent once everything has been handed over.
    sink: Option<PipeWriter>,
    unpacker: Option<JoinHandle<io::Result<()>>>,
    draft: PathBuf,
    folder: PathBuf,
}

impl Unpacking {
    /// Begins to unpack; the folder must not be there, or be empty.
    pub(crate) fn begin(folder: &Path, draft: PathBuf) -> io::Result<Self> {
        match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&draft)?;
        let (source, sink) = io::pipe()?;
        let into = draft.clone();
        let unpacker = thread::spawn(move || unpack(source, &into));
        Ok(Self {
            sink: Some(sink),
            unpacker: Some(unpacker),
            draft,
            folder: folder.to_owned(),
        })
    }

    /// Hands over the next bytes. Blocks.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(sink) = &mut self.sink else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match sink.write_all(bytes) {
            // It has ended before the stream has, and knows why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.end()?;
                Err(error)
            }
            written => written,
        }
    }

    /// Waits for the end and gives the folder its name.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.end()?;
        fs::rename(&self.draft, &self.folder)
    }

    /// The folder that it will be.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn end(&mut self) -> io::Result<()> {
        self.sink = None;
        self.unpacker.take().map_or(Ok(()), ended)
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        let _ = self.end();
        // What cannot be removed is left behind under a name that says what it is.
        let _ = fs::remove_dir_all(&self.draft);
    }
}

fn unpack(source: PipeReader, into: &Path) -> io::Result<()> {
    let mut source = BufReader::new(source);
    let mut archive = Archive::new(&mut source);
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type() == EntryType::Directory {
            // Last, the innermost first: a folder that may not be written to can be filled so.
            folders.push(entry);
        } else if !entry.unpack_in(into)? {
            return Err(outside(&entry.path_bytes()));
        }
    }
    folders.sort_by(|one, other| other.path_bytes().cmp(&one.path_bytes()));
    for mut folder in folders {
        if !folder.unpack_in(into)? {
            return Err(outside(&folder.path_bytes()));
        }
    }
    // Padding, as some programs write it: whoever sends it must not be cut off.
    io::copy(&mut source, &mut io::sink()).map(drop)
}

fn outside(path: &[u8]) -> io::Error {
    let path = String::from_utf8_lossy(path);
    let text = format!("the archive holds {path:?}, which is outside of the folder");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn ended(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    let panicked = |_| Err(io::Error::other("a thread panicked"));
    thread.join().unwrap_or_else(panicked)
}
