//! Where a value comes from: a file or stdin.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use crate::{archive::Packing, exit::Failure};

/// Bytes that are hashed in one go.
const HASHED_BYTES: usize = 1 << 20;

/// Where a value comes from.
pub(crate) struct Source {
    reader: Box<dyn Read>,
    name: String,
    size_bytes: Option<u64>,
    is_repeatable: bool,
}

impl Source {
    /// Opens the file named, or stdin when there is none or it is `-`.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            if io::stdin().is_terminal() {
                let remedy = "name a FILE, pipe one in, or say `-` to type it";
                return Err(Failure::usage("no value given", remedy));
            }
            return Ok(Self::stdin());
        };
        if path == Path::new("-") {
            return Ok(Self::stdin());
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| cannot_read(&name, &error))?;
        let metadata = file
            .metadata()
            .map_err(|error| cannot_read(&name, &error))?;
        let size_bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self {
            reader: Box::new(file),
            name,
            size_bytes,
            is_repeatable: size_bytes.is_some(),
        })
    }

    /// A folder, as an archive.
    pub(crate) fn pack(folder: &Path) -> Result<Self, Failure> {
        let name = folder.display().to_string();
        let packing = Packing::begin(folder).map_err(|error| cannot_read(&name, &error))?;
        Ok(Self {
            reader: Box::new(packing),
            name,
            size_bytes: None,
            is_repeatable: true,
        })
    }

    fn stdin() -> Self {
        Self {
            reader: Box::new(io::stdin()),
            name: "stdin".to_owned(),
            size_bytes: None,
            is_repeatable: false,
        }
    }

    /// Size of the value, when it is known beforehand.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// The next bytes, as many as `bytes_max` unless the end comes first; empty at the end. Blocks.
    pub(crate) fn chunk(&mut self, bytes_max: usize) -> Result<Bytes, Failure> {
        let mut chunk = Vec::with_capacity(bytes_max);
        self.reader
            .by_ref()
            .take(bytes_max as u64)
            .read_to_end(&mut chunk)
            .map_err(|error| cannot_read(&self.name, &error))?;
        Ok(chunk.into())
    }

    /// The SHA-256 of all of it. Blocks. Only a file or folder can be read again.
    pub(crate) fn sha256(mut self) -> Result<[u8; 32], Failure> {
        if !self.is_repeatable {
            let what = format!("{} can be read only once", self.name);
            return Err(Failure::usage(what, "leave --if-changed out"));
        }
        let mut hasher = Context::new(&SHA256);
        loop {
            let chunk = self.chunk(HASHED_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            hasher.update(&chunk);
        }
        let digest = hasher.finish();
        Ok(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// All of it, when that is at most `limit_bytes`. Blocks.
    pub(crate) fn read_within(mut self, limit_bytes: usize) -> Result<Bytes, Failure> {
        if let Some(size) = self.size_bytes.filter(|size| *size > limit_bytes as u64) {
            return Err(self.too_large(&format!("{size} bytes"), limit_bytes));
        }
        // One byte more tells a value at the limit from one beyond it.
        let value = self.chunk(limit_bytes + 1)?;
        if value.len() > limit_bytes {
            return Err(self.too_large("larger", limit_bytes));
        }
        Ok(value)
    }

    fn too_large(&self, size: &str, limit_bytes: usize) -> Failure {
        let what = format!(
            "{} is {size}, put takes at most {limit_bytes} bytes",
            self.name
        );
        Failure::usage(what, "use `pannier write`")
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::usage(
        format!("cannot read {name}: {error}"),
        "choose another FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn source(bytes: &'static [u8], size_bytes: Option<u64>) -> Source {
        Source {
            reader: Box::new(bytes),
            name: "it".to_owned(),
            size_bytes,
            is_repeatable: false,
        }
    }

    #[test]
    fn a_value_at_the_limit_is_taken_and_one_beyond_is_not() {
        let value = source(b"1234", None).read_within(4).expect("at the limit");
        assert_eq!(value, &b"1234"[..]);
        assert!(source(b"12345", None).read_within(4).is_err());
        assert!(source(b"", Some(5)).read_within(4).is_err());
    }

    #[test]
    fn chunks_are_full_but_the_last() {
        let mut source = source(b"12345", None);
        assert_eq!(source.chunk(2).expect("a chunk"), &b"12"[..]);
        assert_eq!(source.chunk(2).expect("a chunk"), &b"34"[..]);
        assert_eq!(source.chunk(2).expect("a chunk"), &b"5"[..]);
        assert!(source.chunk(2).expect("the end").is_empty());
    }
}
