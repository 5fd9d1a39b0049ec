//! Writing a value of any size in chunks.

use std::{future::Future, pin::Pin, time::SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Response, Status, codegen::tokio_stream::wrappers::ReceiverStream};

use crate::{
    Client, Content, Error, Kind, Outcome, Provenance, PutOptions, Result, Stored, Version,
    proto::{self, write_request::Part},
    time,
};

/// Size of the chunks a [`Writer`] sends; larger pieces are cut, smaller ones sent as they are.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Chunks that wait in memory for the connection.
const QUEUE_CHUNKS: usize = 4;

type Call = Pin<Box<dyn Future<Output = Result<Response<proto::WriteResponse>, Status>> + Send>>;

/// A value on its way to the daemon. At most a few chunks (1 MiB) wait in memory, beside what
/// HTTP/2's flow control lets travel.
///
/// Nothing becomes visible before [`finish`](Writer::finish) has returned; dropping the writer
/// discards what was sent.
pub struct Writer {
    // Absent once the call has ended.
    call: Option<Call>,
    // How it ended before the value did: the daemon had it already, or fail-open passes over it.
    ended: Option<Outcome<Written>>,
    parts: mpsc::Sender<proto::WriteRequest>,
    client: Client,
}

/// What a stream left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// As after [`put`](Client::put).
    pub stored: Stored,
    /// Bytes of the value.
    pub size_bytes: u64,
}

impl Client {
    /// Begins to write a value of any size. `size_bytes`, when known, lets the daemon refuse at
    /// once what it has no room for, and refuse a stream of another size. Nothing is sent before
    /// the first chunk. Each wait for the daemon is limited by the deadline, not the whole.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the lifetime is too long to be said.
    pub fn write(
        &self,
        namespace: &str,
        key: &str,
        options: PutOptions,
        size_bytes: Option<u64>,
    ) -> Result<Writer> {
        let content = Content {
            size_bytes,
            sha256: None,
        };
        self.write_content(namespace, key, options, content)
    }

    /// As [`write`](Self::write), with all that is known of the value. With its SHA-256 the daemon
    /// may answer before all has been sent, because it has the content already: the rest is then
    /// not sent, which nobody needs to look out for.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_content(
        &self,
        namespace: &str,
        key: &str,
        options: PutOptions,
        content: Content,
    ) -> Result<Writer> {
        let header = options.into_header(namespace, key, content)?;
        let (parts, queue) = mpsc::channel(QUEUE_CHUNKS);
        parts
            .try_send(proto::WriteRequest {
                part: Some(Part::Header(header)),
            })
            .map_err(|_| Error::local(Kind::Internal, "a new queue does not take a header"))?;
        let mut cache = self.transfers.clone();
        let call = async move { cache.write(ReceiverStream::new(queue)).await };
        Ok(Writer {
            call: Some(Box::pin(call)),
            ended: None,
            parts,
            client: self.clone(),
        })
    }
}

impl Writer {
    /// Sends the next bytes. Not cancel safe: after a drop in the middle it is unknown how much of
    /// `bytes` was sent, so drop the writer too.
    ///
    /// # Errors
    /// When the daemon refuses the stream half-way: the reason it gives. The writer is of no use
    /// then.
    pub async fn chunk(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() && self.ended.is_none() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.send(Part::Chunk(piece)).await?;
        }
        Ok(())
    }

    /// Whether the daemon has answered already, so that nothing more needs to be sent.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Ends the value and waits until it is stored. With fail-open a daemon that is away is
    /// [`Outcome::Skipped`].
    ///
    /// # Errors
    /// As [`put`](Client::put), and [`Kind::Unimplemented`] when the daemon does not serve streams.
    pub async fn finish(mut self) -> Result<Outcome<Written>> {
        if self.ended.is_none() {
            let sha256 = Bytes::new();
            self.send(Part::Finish(proto::WriteFinish { sha256 }))
                .await?;
        }
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let call = self.call.take().ok_or_else(ended)?;
        // The daemon waits for the end of the stream, which is when the last sender goes.
        drop(self.parts);
        match self.client.answer(call).await {
            Ok(response) => written(response).map(Outcome::Done),
            Err(error) => self.client.pass_over(error).map(Outcome::Skipped),
        }
    }

    /// Queues one part, driving the call meanwhile. An answer that comes early ends the stream.
    async fn send(&mut self, part: Part) -> Result<()> {
        let call = self.call.as_mut().ok_or_else(ended)?;
        let message = proto::WriteRequest { part: Some(part) };
        let step = async {
            tokio::select! {
                biased;
                answer = &mut *call => Some(answer),
                sent = self.parts.send(message) => match sent {
                    Ok(()) => None,
                    // The queue is closed only when the call is over: its answer says why.
                    Err(_) => Some(call.await),
                },
            }
        };
        let address = &self.client.address;
        let answer = match tokio::time::timeout(self.client.deadline, step).await {
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => answer,
            Err(_) => {
                self.call = None;
                return self.end(Err(Error::deadline(address, self.client.deadline)));
            }
        };
        self.call = None;
        let answer = answer.map_err(|status| Error::from_status(status, address));
        self.end(answer.and_then(|response| written(response.into_inner())))
    }

    fn end(&mut self, how: Result<Written>) -> Result<()> {
        self.ended = Some(match how {
            Ok(written) => Outcome::Done(written),
            Err(error) => Outcome::Skipped(self.client.pass_over(error)?),
        });
        Ok(())
    }
}

fn written(response: proto::WriteResponse) -> Result<Written> {
    let expires: SystemTime = time::instant(response.expire_time, "no expire_time")?;
    Ok(Written {
        stored: Stored {
            version: Version::from_proto(&response.version)?,
            expires,
            local: response.local_outcome(),
            shared: response.shared_outcome(),
            provenance: Provenance::from_proto(response.provenance),
        },
        size_bytes: response.size_bytes,
    })
}

/// The writer was used again after an error.
fn ended() -> Error {
    Error::local(Kind::Internal, "the stream has ended")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::CHUNK_BYTES;
    use crate::{
        Client, Content, Kind, PutOptions, ReadOptions,
        fake::{Behaviour, FakeDaemon},
    };

    #[tokio::test]
    async fn a_large_value_goes_there_and_comes_back_in_chunks() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let value: Vec<u8> = (0..9_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let size = value.len() as u64;
        let mut writer = client
            .write("n", "k", PutOptions::new(), Some(size))
            .expect("a writer");
        for piece in value.chunks(3 * CHUNK_BYTES + 1) {
            writer
                .chunk(Bytes::copy_from_slice(piece))
                .await
                .expect("sent");
        }
        let written = writer.finish().await.expect("an answer");
        assert_eq!(written.done().expect("stored").size_bytes, size);

        let options = ReadOptions::default();
        let mut reader = client
            .read("n", "k", &options, 0, None)
            .await
            .expect("an answer")
            .expect("a hit");
        assert_eq!(reader.size_bytes(), size);
        let mut back = Vec::new();
        while let Some(chunk) = reader.chunk().await.expect("a chunk") {
            back.extend_from_slice(&chunk);
        }
        assert!(back == value);

        let reader = client
            .read("n", "k", &options, size - 10, Some(4))
            .await
            .expect("an answer");
        let mut reader = reader.expect("a hit");
        let chunk = reader.chunk().await.expect("a chunk").expect("four bytes");
        assert_eq!(chunk, value[value.len() - 10..value.len() - 6]);
        assert_eq!(reader.chunk().await.expect("the end"), None);
        assert!(
            client
                .read("n", "no", &options, 0, None)
                .await
                .expect("a miss")
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_value_of_another_size_is_refused_and_not_stored() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let mut writer = client
            .write("n", "k", PutOptions::new(), Some(5))
            .expect("a writer");
        writer.chunk("four".into()).await.expect("sent");
        let error = writer.finish().await.expect_err("a byte is missing");
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(client.get("n", "k").await.expect("a miss").is_none());
    }

    #[tokio::test]
    async fn a_daemon_without_streams_says_so() {
        let daemon = FakeDaemon::start().await;
        daemon.behave(Behaviour::Fail(Code::Unimplemented));
        let client = Client::connect(daemon.address()).expect("a client");
        let error = client
            .read("n", "k", &ReadOptions::default(), 0, None)
            .await;
        assert_eq!(error.expect_err("not served").kind(), Kind::Unimplemented);

        let mut writer = client
            .write("n", "k", PutOptions::new(), None)
            .expect("a writer");
        let big = Bytes::from(vec![0; 64 * CHUNK_BYTES]);
        let error = match writer.chunk(big).await {
            Err(error) => error,
            Ok(()) => writer.finish().await.expect_err("not served"),
        };
        assert_eq!(error.kind(), Kind::Unimplemented, "{error}");
    }

    #[tokio::test]
    async fn content_that_is_there_is_answered_early_and_the_rest_is_not_sent() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let put = client.put("n", "k", "there", PutOptions::new());
        put.await.expect("stored");
        let content = Content {
            size_bytes: None,
            sha256: Some([7; 32]),
        };
        let writer = client.write_content("n", "k", PutOptions::new(), content);
        let mut writer = writer.expect("a writer");
        let piece = Bytes::from(vec![0; CHUNK_BYTES]);
        while !writer.has_ended() {
            writer.chunk(piece.clone()).await.expect("sent, or not");
        }
        writer.chunk(piece).await.expect("not sent");
        let written = writer.finish().await.expect("an answer").done();
        assert_eq!(written.expect("stored").size_bytes, 5);
    }

    #[tokio::test]
    async fn with_fail_open_an_outage_is_a_miss_and_a_value_that_is_not_cached() {
        let daemon = FakeDaemon::start().await;
        let client = Client::builder().address(daemon.address()).fail_open(true);
        let client = client.build().expect("a client");
        daemon.behave(Behaviour::Fail(Code::Unavailable));
        let options = ReadOptions::default();
        let read = client.read("n", "k", &options, 0, None).await;
        assert!(read.expect("passed over").is_none());
        let writer = client.write("n", "k", PutOptions::new(), None);
        let mut writer = writer.expect("a writer");
        let big = Bytes::from(vec![0; 64 * CHUNK_BYTES]);
        writer.chunk(big).await.expect("passed over");
        let skipped = writer.finish().await.expect("passed over").done();
        assert!(skipped.is_none());
    }
}
