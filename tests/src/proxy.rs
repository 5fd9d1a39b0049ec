//! A proxy between a daemon and Redis that does what networks do at their worst.
//!
//! What it does is a [`Mode`], changed at run time for connections that exist and those to come,
//! for all of them or one [`Path`]: those that receive invalidations, known by the word `TRACKING`
//! in what the daemon sends, or those that carry data, known by the commands. While the two modes
//! differ, a connection that has shown neither passes.
//!
//! Invariants:
//! - Bytes are forwarded in order, or they are lost and nothing follows on that connection: what
//!   was swallowed in [`Mode::Silence`] is never delivered, and when the silence ends such a
//!   connection is reset, as by a router that has forgotten it.
//! - When one side closes, or the proxy does, the other is closed at once by a reset, and what was
//!   under way is discarded: a command that the daemon gave up on does not arrive later. What has
//!   left the proxy before cannot be called back.
//! - A call that changes the mode returns when it holds: what is read from then on meets it.
//!
//! It has a thread of its own, so a blocked test blocks nothing here.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, LocalSet},
};

use crate::{eventually, ports};

mod pump;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are forwarded.
    #[default]
    Pass,
    /// Connections are reset; new ones are refused as if nobody listened (when both paths are
    /// cut), otherwise reset as soon as their path shows.
    Cut,
    /// Connections that are opened now are accepted and reset; older ones go on.
    Refuse,
    /// They are swallowed, both ways: the peer is there and says nothing.
    Silence,
    /// Each way takes this long.
    Delay(Duration),
    /// Each way, so many bytes per interval.
    Drip(usize, Duration),
    /// Replies are replaced by as many random bytes.
    Garbage,
    /// Connections are reset after so many more bytes of replies.
    Truncate(usize),
    /// Replies are kept and delivered when the mode changes; commands are forwarded.
    HoldReplies,
    /// Commands are kept and delivered when the mode changes; replies are forwarded.
    HoldCommands,
}

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// All of them.
    All,
    /// Those that receive invalidations.
    Tracking,
    /// The others.
    Data,
}

/// What has gone through since the start.
#[derive(Debug, Default)]
struct Meters {
    connections: AtomicU64,
    /// Bytes from Redis to the daemon, by path: tracking, data and not yet known.
    replies: [AtomicU64; 3],
    /// Bytes that are held at the moment, by path.
    held: [AtomicU64; 3],
}

/// What is wanted of the proxy at the moment.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    tracking: Setting,
    data: Setting,
    /// Counts the changes.
    change: u64,
    /// Connections of a path that are older than this change are reset.
    severed_tracking: u64,
    severed_data: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Setting {
    mode: Mode,
    /// The change that set it.
    since: u64,
}

/// The last change that the acceptor has followed.
#[derive(Debug, Default)]
struct Followed {
    change: Mutex<u64>,
    moved: Condvar,
}

/// A running proxy; ends when dropped, and resets all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// `None` only while it is dropped.
    wanted: Option<watch::Sender<Wanted>>,
    followed: Arc<Followed>,
    meters: Arc<Meters>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one in front of `target`, forwarding everything.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(target: SocketAddr) -> Self {
        let port = ports::free();
        let (sender, receiver) = watch::channel(Wanted {
            change: 1,
            ..Wanted::default()
        });
        let followed = Arc::new(Followed::default());
        let meters = Arc::new(Meters::default());
        let acceptor = Acceptor {
            port,
            target,
            wanted: receiver,
            followed: Arc::clone(&followed),
            meters: Arc::clone(&meters),
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let thread = thread::spawn(move || LocalSet::new().block_on(&runtime, acceptor.run()));
        let proxy = Self {
            port,
            wanted: Some(sender),
            followed,
            meters,
            thread: Some(thread),
        };
        proxy.wait_until_followed(1);
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// What a daemon is to be given, for a Redis without password and TLS.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Sets the mode of all connections.
    pub fn set(&self, mode: Mode) {
        self.set_for(Path::All, mode);
    }

    /// Sets the mode of one path.
    pub fn set_for(&self, path: Path, mode: Mode) {
        self.change(|wanted| {
            let setting = Setting {
                mode,
                since: wanted.change,
            };
            if path != Path::Data {
                wanted.tracking = setting;
            }
            if path != Path::Tracking {
                wanted.data = setting;
            }
        });
    }

    /// Resets the connections that exist; new ones are treated by the mode as before.
    pub fn sever(&self, path: Path) {
        self.change(|wanted| {
            if path != Path::Data {
                wanted.severed_tracking = wanted.change;
            }
            if path != Path::Tracking {
                wanted.severed_data = wanted.change;
            }
        });
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.meters.connections.load(Ordering::Relaxed)
    }

    /// Bytes that went from Redis to the daemon so far.
    pub fn reply_bytes(&self, path: Path) -> u64 {
        sum(&self.meters.replies, path)
    }

    /// Bytes that are held at the moment, by either mode that holds.
    pub fn held_bytes(&self, path: Path) -> u64 {
        sum(&self.meters.held, path)
    }

    /// Waits until something is held: a reply or a command is under way and stays there.
    pub async fn holds(&self, path: Path) {
        eventually("the proxy holds something", async || {
            self.held_bytes(path) > 0
        })
        .await;
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut number = 0;
        let wanted = self.wanted.as_ref().expect("not dropped");
        wanted.send_modify(|wanted| {
            wanted.change += 1;
            change(wanted);
            number = wanted.change;
        });
        self.wait_until_followed(number);
    }

    fn wait_until_followed(&self, change: u64) {
        let followed = self.followed.change.lock();
        let followed = followed.unwrap_or_else(PoisonError::into_inner);
        let waiting = |followed: &mut u64| *followed < change;
        let waited =
            self.followed
                .moved
                .wait_timeout_while(followed, eventually::EVENTUALLY_MAX, waiting);
        let (followed, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(
            *followed >= change,
            "the proxy is stuck or could not listen"
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // It panicked if it did, and the test has seen that in another way.
            let _ = thread.join();
        }
    }
}

fn sum(meters: &[AtomicU64; 3], path: Path) -> u64 {
    let of = |index: usize| meters[index].load(Ordering::Relaxed);
    match path {
        Path::All => of(0) + of(1) + of(2),
        Path::Tracking => of(0),
        Path::Data => of(1),
    }
}

impl Wanted {
    /// Whether new connections are refused as if nobody listened.
    fn is_closed(&self) -> bool {
        self.tracking.mode == Mode::Cut && self.data.mode == Mode::Cut
    }
}

/// Accepts connections and owns their tasks.
struct Acceptor {
    port: u16,
    target: SocketAddr,
    wanted: watch::Receiver<Wanted>,
    followed: Arc<Followed>,
    meters: Arc<Meters>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut connections = JoinSet::new();
        let mut listener = None;
        loop {
            let wanted = *self.wanted.borrow_and_update();
            match (wanted.is_closed(), &listener) {
                (true, _) => listener = None,
                (false, None) => listener = Some(self.listen().await),
                (false, Some(_)) => {}
            }
            // The tasks of connections look at the mode before they act on what they have read, so
            // for them it holds already.
            *self
                .followed
                .change
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = wanted.change;
            self.followed.moved.notify_all();
            tokio::select! {
                biased;
                changed = self.wanted.changed() => if changed.is_err() {
                    // Dropping the set ends the tasks, which resets their connections.
                    return;
                },
                Some(_) = connections.join_next() => {}
                accepted = accept(listener.as_ref()) => if let Some(daemon) = accepted {
                    self.meters.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn_local(pump::serve(
                        daemon,
                        self.target,
                        self.wanted.clone(),
                        Arc::clone(&self.meters),
                    ));
                }
            }
        }
    }

    async fn listen(&self) -> TcpListener {
        // Connections that are still closing may hold the port for a moment.
        let mut attempts = tokio::time::interval(Duration::from_millis(5));
        loop {
            attempts.tick().await;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", self.port)).await {
                return listener;
            }
        }
    }
}

/// The next connection; never while nobody listens.
async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => Some(listener.accept().await.ok()?.0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
