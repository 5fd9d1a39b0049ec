//! A server that answers what a test wants, and counts who connects and what is sent.

use std::sync::Mutex;

use redis_protocol::resp2::{
    decode::decode,
    types::{OwnedFrame, Resp2Frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::{config::Address, tier::shared::testing::config_of};

/// What to do with a command that is none of those sent to set a connection up.
pub(super) enum Answer {
    Say(&'static str),
    /// Close the connection without a word.
    Hang,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    verbs: Vec<String>,
}

pub(super) struct FakeServer {
    address: Address,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl FakeServer {
    pub(super) async fn start(answer: fn(&str) -> Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("is bound").port();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (mut tasks, own) = (JoinSet::new(), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("accepts");
                own.lock().expect("no panic").connections += 1;
                served.spawn(serve(socket, answer, Arc::clone(&own)));
            }
        });
        let host = "127.0.0.1".into();
        Self {
            address: Address::Tcp { host, port },
            seen,
            _tasks: tasks,
        }
    }

    pub(super) async fn connect(&self) -> Result<SharedTier> {
        let config = config_of(&format!("redis://{}", self.address));
        let target = Target::One(self.address.clone());
        SharedTier::connect(&target, &config, None, Clock::system(), OURS).await
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().expect("no panic").connections
    }

    pub(super) fn times(&self, verb: &str) -> usize {
        let seen = self.seen.lock().expect("no panic");
        seen.verbs.iter().filter(|it| *it == verb).count()
    }
}

async fn serve(mut socket: TcpStream, answer: fn(&str) -> Answer, seen: Arc<Mutex<Seen>>) {
    let mut buffer = Vec::new();
    while matches!(socket.read_buf(&mut buffer).await, Ok(1..)) {
        while let Ok(Some((OwnedFrame::Array(words), used))) = decode(&buffer) {
            buffer.drain(..used);
            let word = |at: usize| {
                words
                    .get(at)
                    .and_then(Resp2Frame::as_str)
                    .unwrap_or_default()
            };
            seen.lock()
                .expect("no panic")
                .verbs
                .push(word(0).to_owned());
            let said = match (word(0), word(1)) {
                ("PING", _) => "+PONG\r\n",
                ("CLIENT", "ID") => ":1\r\n",
                ("CLIENT", _) => "+OK\r\n",
                ("INFO", _) => "$0\r\n\r\n",
                (verb, _) => match answer(verb) {
                    Answer::Say(said) => said,
                    Answer::Hang => return,
                },
            };
            if socket.write_all(said.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
