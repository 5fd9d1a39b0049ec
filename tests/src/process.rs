//! A child process whose output is watched.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::EVENTUALLY_MAX;

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// All it said on standard output.
    pub stdout: String,
    /// All it said on standard error.
    pub stderr: String,
}

impl Ended {
    /// Its exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    output: Mutex<Output>,
    changed: Condvar,
}

/// What has been said so far.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Streams that the process has not closed. None left: it has ended.
    open: usize,
}

impl Output {
    pub(crate) fn has_ended(&self) -> bool {
        self.open == 0
    }
}

impl Watched {
    pub(crate) fn start(mut command: Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{} cannot be started: {error}",
                command.get_program().display()
            )
        });
        let seen = Arc::new(Seen::default());
        seen.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open = 2;
        pump(child.stdout.take().expect("piped"), &seen, |output| {
            &mut output.stdout
        });
        pump(child.stderr.take().expect("piped"), &seen, |output| {
            &mut output.stderr
        });
        Self { child, seen }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What `look` finds in the output, as soon as it does; `None` after `patience`.
    pub(crate) fn wait_for<T>(
        &self,
        patience: Duration,
        mut look: impl FnMut(&Output) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        let output = self
            .seen
            .output
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waiting = |output: &mut Output| {
            found = look(output);
            found.is_none()
        };
        drop(
            self.seen
                .changed
                .wait_timeout_while(output, patience, waiting),
        );
        found
    }

    pub(crate) fn stderr(&self) -> String {
        self.wait_for(Duration::ZERO, |output| Some(output.stderr.clone()))
            .unwrap_or_default()
    }

    /// Waits for the end; panics with the log when it does not come within `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> Ended {
        let ended = self.wait_for(patience, |output| {
            output
                .has_ended()
                .then(|| (output.stdout.clone(), output.stderr.clone()))
        });
        let Some((stdout, stderr)) = ended else {
            panic!(
                "process {} did not end within {patience:?}:\n{}",
                self.id(),
                self.stderr()
            )
        };
        let status = self.child.wait().expect("a child can be waited for");
        Ended {
            status,
            stdout,
            stderr,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Stops it where it stands; returns when all its threads do (proc_pid_stat(5), field 3).
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + EVENTUALLY_MAX;
        while !self.stands_still() {
            assert!(Instant::now() < deadline, "process {} goes on", self.id());
            thread::yield_now();
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When somebody else has already: what was measured meanwhile is wrong then. The kernel does
    /// when the shell that started the tests ends before them; `setsid` keeps them apart.
    pub(crate) fn thaw(&self) {
        let id = self.id();
        assert!(
            self.stands_still(),
            "process {id} was continued by somebody else"
        );
        self.signal(Signal::CONT);
    }

    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        tasks.flatten().all(|task| {
            // A thread that has ended meanwhile does nothing either.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state stands behind the name, which may contain anything.
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            state.is_none_or(|state| state == b'T')
        })
    }

    pub(crate) fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a stream to its end on a thread of its own, which ends with the process.
fn pump(
    stream: impl Read + Send + 'static,
    seen: &Arc<Seen>,
    part: fn(&mut Output) -> &mut String,
) {
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        let change = |change: &dyn Fn(&mut Output)| {
            change(&mut seen.output.lock().unwrap_or_else(PoisonError::into_inner));
            seen.changed.notify_all();
        };
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            change(&|output| part(output).push_str(&String::from_utf8_lossy(&line)));
            line.clear();
        }
        change(&|output| output.open -= 1);
    });
}
