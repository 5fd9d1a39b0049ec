//! The programs that are measured, and what the kernel knows about them.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A server that is not ready by then is reported as broken.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_POLL: Duration = Duration::from_millis(5);
/// Ticks of /proc/PID/stat: USER_HZ, which is 100 on every machine Linux lets us meet.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the programs are: next to this one, that is, of the same build.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(super) fn beside_this_one() -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = this.parent().unwrap_or(Path::new(".")).to_owned();
        let missing = ["pannierd", "pannier", "echo"].map(|name| folder.join(name));
        match missing.iter().find(|path| !path.is_file()) {
            Some(path) => Err(format!(
                "{} is missing: build the workspace",
                path.display()
            )),
            None => Ok(Self { folder }),
        }
    }

    pub(super) fn pannierd(&self) -> PathBuf {
        self.folder.join("pannierd")
    }

    pub(super) fn pannier(&self) -> PathBuf {
        self.folder.join("pannier")
    }

    /// Starts a daemon on `data`, without Redis unless `more` names one.
    pub(super) fn start_pannierd(
        &self,
        listen: &str,
        data: &Path,
        more: &[&str],
    ) -> Result<Server, String> {
        let mut command = Command::new(self.pannierd());
        command.args([
            "--listen",
            listen,
            "--http-listen",
            "127.0.0.1:0",
            "--data-dir",
        ]);
        command.arg(data).args(more);
        Server::start(command, &data.with_extension("log"))
    }

    /// Starts a bare tonic server in one of its layouts.
    pub(super) fn start_echo(
        &self,
        listen: &str,
        layout: &str,
        log: &Path,
    ) -> Result<Server, String> {
        let mut command = Command::new(self.folder.join("echo"));
        command.args(["--listen", listen, "--layout", layout]);
        Server::start(command, log)
    }
}

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    address: String,
    time_to_ready: Duration,
}

impl Server {
    /// Starts a server and waits for its line `NAME ready grpc=ADDR …`. Standard error goes to the
    /// file `log`.
    fn start(mut command: Command, log: &Path) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let describe = |error| format!("cannot start {name}: {error}");
        let log_file = File::create(log).map_err(describe)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file);
        let begun = Instant::now();
        let mut child = command.spawn().map_err(describe)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let (sender, receiver) = mpsc::sync_channel(1);
        // Reads to the end, so that the server never meets a closed pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = ready_address(&line) {
                    // Nobody waits for a second such line.
                    let _ = sender.try_send((address, begun.elapsed()));
                }
            }
        });
        let ready = receiver.recv_timeout(READY_TIME_MAX);
        let mut server = Self {
            child,
            log: log.to_owned(),
            address: String::new(),
            time_to_ready: Duration::MAX,
        };
        (server.address, server.time_to_ready) =
            ready.map_err(|_| server.complaint(&format!("{name} did not become ready")))?;
        Ok(server)
    }

    /// What went wrong, with the last words of the server about it.
    fn complaint(&self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log
            .trim_end()
            .lines()
            .next_back()
            .unwrap_or("(nothing logged)");
        format!("{what}: {last}")
    }

    /// Where it listens, as a client writes it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Time from the start of the process to its ready line.
    pub(super) fn time_to_ready(&self) -> Duration {
        self.time_to_ready
    }

    /// Whether it still runs, and its last words.
    pub(super) fn condition(&mut self) -> String {
        match self.child.try_wait() {
            Ok(None) => self.complaint("it still runs"),
            Ok(Some(status)) => self.complaint(&format!("it has ended with {status}")),
            Err(error) => error.to_string(),
        }
    }

    /// Processor time the process has used so far.
    pub(super) fn processor_seconds(&self) -> Result<f64, String> {
        Ok(times(&self.child.id().to_string())?.own)
    }

    /// Resident memory in bytes.
    pub(super) fn resident_bytes(&self) -> Result<f64, String> {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, field: &str) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .and_then(|kibibytes| kibibytes.parse::<f64>().ok())
            .map(|kibibytes| kibibytes * 1024.0)
            .ok_or_else(|| format!("{path} has no {field}"))
    }

    /// The most resident memory it has had, in bytes.
    pub(super) fn peak_bytes(&self) -> Result<f64, String> {
        self.status_bytes("VmHWM:")
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time or with another exit code than 0.
    pub(super) fn stop(mut self) -> Result<(), String> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or("the process has no id")?;
        kill_process(id, Signal::TERM).map_err(|error| format!("cannot stop it: {error}"))?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIME_MAX {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.complaint(&format!("it ended with {status}"))),
                Ok(None) => thread::sleep(STOP_POLL),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(self.complaint("it did not stop in time"))
    }

    /// Kills it without warning.
    pub(super) fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of the generator processes that have ended.
pub(super) fn processor_seconds_of_children() -> Result<f64, String> {
    Ok(times("self")?.children)
}

struct Times {
    own: f64,
    children: f64,
}

/// User and system time from /proc/PID/stat (proc_pid_stat(5): fields 14 to 17).
fn times(process: &str) -> Result<Times, String> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name, field 2, may hold anything but ends with the last bracket.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = after_name
        .split_whitespace()
        .skip(11)
        .take(4)
        .map_while(|field| field.parse().ok())
        .collect();
    match ticks[..] {
        [user, system, children_user, children_system] => Ok(Times {
            own: (user + system) / TICKS_PER_SECOND,
            children: (children_user + children_system) / TICKS_PER_SECOND,
        }),
        _ => Err(format!("{path} cannot be read")),
    }
}

/// The address in a line such as `pannierd ready grpc=127.0.0.1:7070 http=127.0.0.1:7071`.
fn ready_address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" ready grpc=")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// What a program says about its version.
pub(super) fn version(program: &OsStr) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{ready_address, times};

    #[test]
    fn the_address_stands_in_the_ready_line() {
        let line = "pannierd ready grpc=unix:/run/p.sock http=127.0.0.1:7071";
        assert_eq!(ready_address(line).as_deref(), Some("unix:/run/p.sock"));
        assert_eq!(
            ready_address("echo ready grpc=[::1]:1").as_deref(),
            Some("[::1]:1")
        );
        assert_eq!(ready_address("INFO starting"), None);
    }

    #[test]
    fn the_kernel_tells_the_processor_time() {
        assert!(times("self").is_ok_and(|times| times.own >= 0.0 && times.children >= 0.0));
    }
}
