//! A real `pannierd`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use pannier_client::Client;
use pannier_proto::v1::{
    StatsRequest, StatsResponse, admin_service_client::AdminServiceClient,
    cache_service_client::CacheServiceClient,
};
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::process::{Ended, Watched};

/// Only a broken build takes this long to start, to answer or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Larger than what the daemon takes, so that it is the daemon that refuses.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How a daemon is to be started. By default: loopback, ports that the system chooses, a data
/// directory that vanishes with the last clone, and nothing of this process's environment.
#[derive(Debug, Clone)]
pub struct Builder {
    home: Arc<TempDir>,
    listen: String,
    data_dir: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    prefix: Vec<OsString>,
}

impl Default for Builder {
    fn default() -> Self {
        let home = TempDir::with_prefix("pannier-test-").expect("a temporary directory");
        let data_dir = Some(home.path().join("data"));
        Self {
            home: Arc::new(home),
            listen: "127.0.0.1:0".into(),
            data_dir,
            arguments: Vec::new(),
            environment: Vec::new(),
            prefix: Vec::new(),
        }
    }
}

impl Builder {
    /// Adds arguments, as `["--disk-budget", "64MiB"]`.
    #[must_use]
    pub fn arguments<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Gives it a configuration file with this text.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        let path = self.config_path();
        fs::write(&path, text).expect("the configuration can be written");
        self.arguments([OsString::from("--config"), path.into()])
    }

    /// Where [`Builder::config`] writes the file.
    pub fn config_path(&self) -> PathBuf {
        self.home().join("pannierd.toml")
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Listens for gRPC here.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Keeps its data here; `None` leaves the choice to the daemon.
    #[must_use]
    pub fn data_dir(mut self, path: Option<&Path>) -> Self {
        self.data_dir = path.map(Path::to_owned);
        self
    }

    /// Runs this program, which ends by executing the arguments that follow its own.
    #[must_use]
    pub fn behind(mut self, prefix: Vec<OsString>) -> Self {
        self.prefix = prefix;
        self
    }

    /// A directory that vanishes with the last clone of this builder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// With its log when it does not become ready.
    pub fn start(&self) -> Daemon {
        let http = ["--http-listen", "127.0.0.1:0"].map(OsString::from);
        let process = Watched::start(self.command(http));
        let ready = process.wait_for(PATIENCE, |output| {
            output
                .has_ended()
                .then_some(None)
                .or_else(|| ready_line(&output.stdout).map(Some))
        });
        let Some(Some((grpc, http))) = ready else {
            panic!("pannierd did not become ready:\n{}", process.stderr());
        };
        Daemon {
            process,
            builder: self.clone(),
            grpc,
            http,
        }
    }

    /// Runs it to its end, for what ends by itself.
    ///
    /// # Panics
    /// With its log when it does not end.
    pub fn run(&self) -> Ended {
        let http = ["--http-listen", "127.0.0.1:0"].map(OsString::from);
        Watched::start(self.command(http)).wait(PATIENCE)
    }

    /// Runs it to its end with exactly these arguments.
    ///
    /// # Panics
    /// With its log when it does not end.
    pub fn run_with(&self, arguments: &[&str]) -> Ended {
        let mut command = self.clean(Command::new(program("pannierd")));
        command.args(arguments);
        Watched::start(command).wait(PATIENCE)
    }

    fn command(&self, more: impl IntoIterator<Item = OsString>) -> Command {
        let program = program("pannierd");
        let mut command = match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(["--listen", &self.listen]).args(more);
        if let Some(data_dir) = &self.data_dir {
            command.arg("--data-dir").arg(data_dir);
        }
        command.args(&self.arguments);
        self.clean(command)
    }

    /// With nothing of this process's environment but the way to the system's programs.
    fn clean(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("HOME", self.home())
            .current_dir(self.home());
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }
}

/// A running `pannierd`; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Watched,
    builder: Builder,
    grpc: String,
    http: String,
}

impl Daemon {
    /// Starts one with the default [`Builder`].
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Says how to start one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it serves gRPC, as a client writes it.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Where it serves HTTP.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it keeps its data.
    ///
    /// # Panics
    /// When the choice was left to the daemon.
    pub fn data_dir(&self) -> &Path {
        self.builder
            .data_dir
            .as_deref()
            .expect("was given a data directory")
    }

    /// A client of its own connection, with a deadline that only a broken build reaches.
    pub fn client(&self) -> Client {
        let client = Client::builder().address(&self.grpc).deadline(PATIENCE);
        client
            .build()
            .expect("the address of the ready line is valid")
    }

    /// A connection of its own for stubs, opened by the first call.
    pub fn channel(&self) -> Channel {
        let address = match self.grpc.starts_with("unix:") {
            true => self.grpc.clone(),
            false => format!("http://{}", self.grpc),
        };
        let endpoint = Endpoint::from_shared(address).expect("the ready line's address is valid");
        endpoint.initial_stream_window_size(8 << 20).connect_lazy()
    }

    /// The generated stub, without deadlines and with limits above the daemon's.
    pub fn stub(&self) -> CacheServiceClient<Channel> {
        CacheServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated stub of the other service.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }

    /// Its counters.
    pub async fn stats(&self) -> StatsResponse {
        let stats = self.admin().stats(StatsRequest::default()).await;
        stats.expect("stats are always answered").into_inner()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it where it stands, until [`Daemon::thaw`]; returns when it does nothing any more.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// With its log when it does not end within a minute.
    pub fn wait(&mut self) -> Ended {
        self.process.wait(PATIENCE)
    }

    /// Asks it to stop and waits for its end.
    pub fn terminate(&mut self) -> Ended {
        self.ask_to_stop();
        self.wait()
    }

    /// Starts it again on the same data, killing it first if it still runs. Its port is another.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.kill();
        self.builder.start()
    }

    /// The same for one that cannot be given away.
    #[must_use]
    pub fn restart_in_place(&mut self) -> Self {
        self.kill();
        self.builder.start()
    }

    /// How it was started.
    pub fn how(&self) -> &Builder {
        &self.builder
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes
            .and_then(|text| text.parse::<u64>().ok())
            .expect("VmRSS in kB")
            * 1024
    }

    /// Processor time it has used, in a resolution of 10 ms (proc_pid_stat(5): fields 14, 15).
    pub fn processor_time(&self) -> Duration {
        let stat = self.proc("stat");
        // The name, field 2, may hold anything but ends with the last bracket.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2);
        Duration::from_millis(
            ticks
                .map(|it| it.parse::<u64>().expect("ticks"))
                .sum::<u64>()
                * 10,
        )
    }

    /// Processor time of its threads whose name begins so; names are cut at 15 bytes
    /// (`/proc/PID/task/TID/schedstat`, first field, nanoseconds).
    pub fn thread_time(&self, name: &str) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).expect("the process runs");
        let times = threads.flatten().map(|thread| {
            // One that ends meanwhile has nothing to say.
            let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let time = read("schedstat").split_whitespace().next().map(str::parse);
            match read("comm").starts_with(name) {
                true => time.and_then(Result::ok).unwrap_or(0),
                false => 0,
            }
        });
        Duration::from_nanos(times.sum())
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.id())).expect("the process runs")
    }
}

/// The two addresses in `pannierd ready grpc=ADDR http=ADDR`, once the line is complete.
fn ready_line(stdout: &str) -> Option<(String, String)> {
    let line = stdout
        .split_inclusive('\n')
        .find(|line| line.ends_with('\n'))?;
    let (grpc, http) = line
        .strip_prefix("pannierd ready grpc=")?
        .trim_end()
        .split_once(" http=")?;
    Some((grpc.to_owned(), http.to_owned()))
}

/// A program of the same build: tests lie in `release/deps`, programs in `release`.
pub(crate) fn program(name: &str) -> PathBuf {
    let this = env::current_exe().expect("this executable has a path");
    let folder = this
        .parent()
        .and_then(Path::parent)
        .expect("it lies in deps");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build the workspace first",
        path.display()
    );
    path
}
