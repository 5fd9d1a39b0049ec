//! Reading a value of any size in chunks.

use bytes::Bytes;
use tonic::Streaming;

use crate::{
    Client, Error, Hit, Provenance, ReadOptions, Result,
    proto::{self, read_response::Part},
};

/// A value that arrives in chunks. At most one flow-control window (5 MiB) waits in memory.
///
/// Dropping it abandons the rest.
#[derive(Debug)]
pub struct Reader {
    hit: Hit,
    provenance: Provenance,
    size_bytes: u64,
    // Bytes still to come.
    left_bytes: u64,
    stream: Streaming<proto::ReadResponse>,
    client: Client,
}

impl Client {
    /// Begins to read a value of any size, `length` bytes from `offset` on (absent: to the end).
    /// `None` is a miss, with fail-open also a daemon that is away. Each wait for the daemon is
    /// limited by the deadline, not the whole.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`](crate::Kind::Unimplemented) when the daemon does not serve streams;
    /// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) when `offset` is beyond the end.
    pub async fn read(
        &self,
        namespace: &str,
        key: &str,
        options: &ReadOptions,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Option<Reader>> {
        let request = proto::ReadRequest {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            options: options.to_proto()?,
            offset,
            length,
        };
        // No `grpc-timeout`: it would limit the whole stream.
        let begun = async {
            let mut stream = self.answer(self.transfers.clone().read(request)).await?;
            let first = self.next(&mut stream).await?;
            Ok((stream, first.and_then(|message| message.part)))
        };
        let (stream, first) = match begun.await {
            Ok(begun) => begun,
            Err(error) => return self.pass_over(error).map(|_| None),
        };
        let header = match first {
            Some(Part::Header(header)) => header,
            Some(Part::Chunk(_)) | None => return Err(Error::malformed("no header")),
        };
        let Some(entry) = header.entry else {
            return Ok(None);
        };
        let rest = header.size_bytes.saturating_sub(offset);
        Ok(Some(Reader {
            hit: Hit::from_proto(entry)?,
            provenance: Provenance::from_proto(header.provenance),
            size_bytes: header.size_bytes,
            left_bytes: length.map_or(rest, |length| length.min(rest)),
            stream,
            client: self.clone(),
        }))
    }

    /// The next message of a stream, within the deadline; `None` at its end.
    async fn next<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>> {
        match tokio::time::timeout(self.deadline, stream.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(Error::from_status(status, &self.address)),
            Err(_) => Err(Error::deadline(&self.address, self.deadline)),
        }
    }
}

impl Reader {
    /// Everything about the entry but its value, which is empty here.
    pub fn hit(&self) -> &Hit {
        &self.hit
    }

    /// Where the answer comes from, as far as it was known at the start.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Size of the whole value, whatever part of it was asked for.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes that are still to come.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// The next bytes, at most 1 MiB; `None` when all that was asked for has arrived. Cancel safe.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the daemon sends fewer or more bytes than its
    /// header said, [`Kind::Unreachable`](crate::Kind::Unreachable) when part of the value went
    /// away meanwhile or the daemon did: what arrived so far is then not the value. Fail-open does
    /// not pass over it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(message) = self.client.next(&mut self.stream).await? else {
            return match self.left_bytes {
                0 => Ok(None),
                left => Err(Error::malformed(&format!("{left} bytes too few"))),
            };
        };
        let Some(Part::Chunk(chunk)) = message.part else {
            return Err(Error::malformed("something else where a chunk belongs"));
        };
        match self.left_bytes.checked_sub(chunk.len() as u64) {
            Some(left) => self.left_bytes = left,
            None => return Err(Error::malformed("more bytes than its header said")),
        }
        Ok(Some(chunk))
    }
}
