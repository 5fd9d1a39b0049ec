//! One connection of the proxy.

use std::{
    cell::Cell,
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Meters, Mode, Wanted};

/// Bytes that wait in one direction; past it the sender has to wait.
const QUEUE_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// What the first bytes have shown a connection to be. The number is its place in the meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tracking = 0,
    Data = 1,
    Unknown = 2,
}

/// Commands that only a connection for data sends.
const DATA_COMMANDS: [&str; 15] = [
    "GET", "MGET", "SET", "GETRANGE", "PTTL", "UNLINK", "DEL", "EVAL", "EVALSHA", "SCAN",
    "PUBLISH", "SCRIPT", "CONFIG", "INFO", "EXISTS",
];
/// Longest end of a chunk in which a word may have begun.
const CARRY_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Commands,
    Replies,
}

/// The end of a connection, whoever wants it.
struct Over;

/// What both directions of a connection know.
struct Connection {
    wanted: watch::Receiver<Wanted>,
    meters: Arc<Meters>,
    kind: Cell<Kind>,
    /// The change that held when it was accepted.
    born: u64,
    /// Bytes were swallowed, so nothing may follow.
    lost: Cell<bool>,
}

/// Forwards between the daemon and Redis until one of them or the mode ends it; then both sides
/// are reset.
pub(super) async fn serve(
    mut daemon: TcpStream,
    target: SocketAddr,
    wanted: watch::Receiver<Wanted>,
    meters: Arc<Meters>,
) {
    // Or small messages would wait for one another.
    let _ = (daemon.set_nodelay(true), daemon.set_zero_linger());
    let born = wanted.borrow().change;
    let connection = Connection {
        wanted,
        meters,
        kind: Cell::new(Kind::Unknown),
        born,
        lost: Cell::new(false),
    };
    if connection.mode().is_err() {
        return;
    }
    let Ok(mut redis) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (redis.set_nodelay(true), redis.set_zero_linger());
    let (from_daemon, to_daemon) = daemon.split();
    let (from_redis, to_redis) = redis.split();
    tokio::select! {
        Over = connection.pump(Direction::Commands, from_daemon, to_redis) => {}
        Over = connection.pump(Direction::Replies, from_redis, to_daemon) => {}
    }
}

impl Connection {
    /// What holds for it now; over when that is to be reset.
    fn mode(&self) -> Result<Mode, Over> {
        let wanted = *self.wanted.borrow();
        let (setting, severed) = match self.kind.get() {
            Kind::Tracking => (wanted.tracking, wanted.severed_tracking),
            Kind::Data => (wanted.data, wanted.severed_data),
            Kind::Unknown if wanted.tracking.mode == wanted.data.mode => {
                let severed = wanted.severed_tracking.min(wanted.severed_data);
                (wanted.data, severed)
            }
            Kind::Unknown => return Ok(Mode::Pass),
        };
        if severed > self.born {
            return Err(Over);
        }
        let mode = match setting.mode {
            Mode::Cut => return Err(Over),
            Mode::Refuse if self.born >= setting.since => return Err(Over),
            Mode::Refuse => Mode::Pass,
            mode => mode,
        };
        match self.lost.get() && mode != Mode::Silence {
            true => Err(Over),
            false => Ok(mode),
        }
    }

    async fn pump(&self, direction: Direction, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Over {
        let mut pump = Pump::new(self, direction);
        match pump.run(from, to).await {
            Ok(never) => match never {},
            Err(over) => over,
        }
    }
}

enum Never {}

/// One direction of a connection.
struct Pump<'a> {
    connection: &'a Connection,
    direction: Direction,
    /// What was read and is to be written, each part not before its instant.
    queue: VecDeque<(Instant, Vec<u8>)>,
    queued_bytes: usize,
    /// Not before this instant, when it drips.
    next_drip: Instant,
    /// The mode that was last acted on, and bytes forwarded under it.
    mode: Mode,
    under_mode: usize,
    /// Bytes that stand in the meter of what is held.
    metered: u64,
    metered_as: Kind,
    scan: Scan,
}

impl<'a> Pump<'a> {
    fn new(connection: &'a Connection, direction: Direction) -> Self {
        Self {
            connection,
            direction,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_drip: Instant::now(),
            mode: Mode::Pass,
            under_mode: 0,
            metered: 0,
            metered_as: Kind::Unknown,
            scan: Scan::default(),
        }
    }

    async fn run(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<Never, Over> {
        let mut wanted = self.connection.wanted.clone();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            // Whatever comes after this wakes the loop.
            wanted.borrow_and_update();
            self.follow_mode()?;
            let due = self.due();
            let limit = self.write_limit();
            let ready = due.is_some_and(|due| due <= Instant::now());
            let front = self.queue.front().map_or(&[][..], |(_, bytes)| &bytes[..]);
            let front = &front[..front.len().min(limit)];
            tokio::select! {
                changed = wanted.changed() => changed.map_err(|_| Over)?,
                read = from.read(&mut buffer), if self.queued_bytes < QUEUE_BYTES_MAX => {
                    match read {
                        Ok(0) | Err(_) => return Err(Over),
                        Ok(count) => self.take(&buffer[..count])?,
                    }
                }
                written = to.write(front), if ready => {
                    let count = written.map_err(|_| Over)?;
                    self.written(count)?;
                }
                () = wait_until(due), if !ready => {}
            }
        }
    }

    /// Acts on what holds now.
    fn follow_mode(&mut self) -> Result<(), Over> {
        let mode = self.connection.mode()?;
        if mode != self.mode {
            self.mode = mode;
            self.under_mode = 0;
            let now = Instant::now();
            self.next_drip = now;
            // What a mode delayed goes on at once under the next.
            for (due, _) in &mut self.queue {
                *due = now;
            }
        }
        if mode == Mode::Silence && !self.queue.is_empty() {
            self.queue.clear();
            self.queued_bytes = 0;
            self.connection.lost.set(true);
        }
        self.meter_held();
        Ok(())
    }

    /// Whether what is queued stays until the mode changes.
    fn is_held(&self) -> bool {
        matches!(
            (self.mode, self.direction),
            (Mode::HoldReplies, Direction::Replies) | (Mode::HoldCommands, Direction::Commands)
        )
    }

    fn meter_held(&mut self) {
        let held = match self.is_held() {
            true => u64::try_from(self.queued_bytes).expect("at most 64 MiB"),
            false => 0,
        };
        let meters = &self.connection.meters.held;
        meters[self.metered_as as usize].fetch_sub(self.metered, Ordering::Relaxed);
        (self.metered, self.metered_as) = (held, self.connection.kind.get());
        meters[self.metered_as as usize].fetch_add(held, Ordering::Relaxed);
    }

    /// When something is to be written next.
    fn due(&self) -> Option<Instant> {
        let (due, _) = self.queue.front()?;
        match self.mode {
            _ if self.is_held() => None,
            Mode::Drip(..) => Some(self.next_drip.max(*due)),
            _ => Some(*due),
        }
    }

    /// Most bytes that may be written now.
    fn write_limit(&self) -> usize {
        match (self.mode, self.direction) {
            (Mode::Drip(bytes, _), _) => bytes.max(1),
            (Mode::Truncate(bytes), Direction::Replies) => bytes.saturating_sub(self.under_mode),
            _ => usize::MAX,
        }
    }

    /// Bytes were read.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Over> {
        if self.direction == Direction::Commands {
            self.classify(bytes);
        }
        // It may have changed, or hold for a kind of connection that has only now shown itself.
        self.follow_mode()?;
        let mut bytes = bytes.to_vec();
        let mut delay = Duration::ZERO;
        match (self.mode, self.direction) {
            (Mode::Silence, _) => {
                self.connection.lost.set(true);
                return Ok(());
            }
            (Mode::Delay(span), _) => delay = span,
            (Mode::Garbage, Direction::Replies) => rand::rng().fill_bytes(&mut bytes),
            (Mode::Truncate(limit), Direction::Replies) if limit <= self.under_mode => {
                return Err(Over);
            }
            _ => {}
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back((Instant::now() + delay, bytes));
        self.meter_held();
        Ok(())
    }

    fn classify(&mut self, bytes: &[u8]) {
        let kind = &self.connection.kind;
        if kind.get() == Kind::Tracking {
            return;
        }
        match self.scan.look(bytes) {
            Some(Kind::Data) if kind.get() == Kind::Data => {}
            Some(found) => kind.set(found),
            None => {}
        }
    }

    /// Bytes were written.
    fn written(&mut self, count: usize) -> Result<(), Over> {
        if count == 0 {
            return Err(Over);
        }
        if let Some((_, front)) = self.queue.front_mut() {
            front.drain(..count);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        self.queued_bytes -= count;
        self.under_mode += count;
        if let Mode::Drip(_, interval) = self.mode {
            self.next_drip = Instant::now() + interval;
        }
        if self.direction == Direction::Replies {
            let place = self.connection.kind.get() as usize;
            let count = u64::try_from(count).expect("at most 64 MiB");
            self.connection.meters.replies[place].fetch_add(count, Ordering::Relaxed);
            if self.write_limit() == 0 {
                return Err(Over);
            }
        }
        Ok(())
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        let held = &self.connection.meters.held[self.metered_as as usize];
        held.fetch_sub(self.metered, Ordering::Relaxed);
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Looks for words of commands, also those that two chunks share.
#[derive(Debug, Default)]
struct Scan {
    carry: Vec<u8>,
}

impl Scan {
    fn look(&mut self, bytes: &[u8]) -> Option<Kind> {
        let mut text = std::mem::take(&mut self.carry);
        text.extend_from_slice(bytes);
        text.make_ascii_uppercase();
        let is_there = |word: &str| {
            let framed = format!("\r\n{word}\r\n");
            text.windows(framed.len())
                .any(|window| window == framed.as_bytes())
        };
        let found = match is_there("TRACKING") {
            true => Some(Kind::Tracking),
            false if DATA_COMMANDS.iter().any(|word| is_there(word)) => Some(Kind::Data),
            false => None,
        };
        let keep = text.len().saturating_sub(CARRY_BYTES);
        self.carry = text.split_off(keep);
        found
    }
}
