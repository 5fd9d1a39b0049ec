//! Export of traces and metrics by OTLP, on a thread of its own.
//!
//! ```text
//!   Queue of spans ─ batches ──▶ Sender ─┐
//!                                        ├─ gRPC or HTTP ──▶ collector
//!   snapshot of the figures ───▶ Sender ─┘
//! ```
//! The thread has a runtime of its own and a lower priority, so that a collector that hangs, and
//! the work of encoding, cost requests nothing, also where there is one worker. Nothing here is
//! waited for, except at the end of the daemon, and then for at most [`END_MAX`].

mod connector;
mod figures;
mod resource;
mod sender;
mod spans;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    resource::resource,
    sender::{Accepted, Sender, Target},
};
use crate::{
    config::{Config, OtlpConfig},
    error::{Error, Kind, Result},
    metrics::Snapshot,
    stats::Count,
    trace::Waiting,
};

/// Longest time that the end of the daemon waits for what is left to be sent.
pub const END_MAX: Duration = Duration::from_secs(2);
/// The same for the thread itself, which is to be done before nobody waits any more.
const LAST_SENDING_MAX: Duration = Duration::from_millis(1900);
/// How much nicer than the others the thread is.
const NICENESS: i32 = 10;

/// A snapshot of all figures.
pub type Figures = Box<dyn Fn() -> Taken + Send>;
/// A snapshot that is being taken.
pub type Taken = Pin<Box<dyn Future<Output = Result<Snapshot>> + Send>>;

/// What became of what was to be exported.
#[derive(Debug, Default)]
pub struct Counts {
    /// Spans that the collector took.
    pub spans_sent: Count,
    /// Spans that the collector did not take.
    pub spans_failed: Count,
    /// Exports of metrics that the collector took.
    pub metrics_sent: Count,
    /// Exports of metrics that the collector did not take.
    pub metrics_failed: Count,
    trouble: Mutex<Option<String>>,
}

impl Counts {
    /// The last fault; `None` when the last export succeeded.
    pub fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Notes how an export ended. The log says it when that changes.
    fn note(&self, what: &str, result: std::result::Result<(), String>) {
        let mut trouble = self.lock();
        match result {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!(what, "can be exported again");
                }
            }
            Err(error) => {
                if trouble.is_none() {
                    tracing::warn!(what, error, "cannot be exported; requests are not affected");
                } else {
                    tracing::debug!(what, error, "still cannot be exported");
                }
                *trouble = Some(error);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts exporting what is configured; `None` when nothing is. `Unavailable` when files of TLS
    /// cannot be used.
    pub fn start(
        config: &Config,
        waiting: Option<Waiting>,
        figures: Figures,
        counts: Arc<Counts>,
    ) -> Result<Option<Self>> {
        let otlp = &config.telemetry.otlp;
        let stop = CancellationToken::new();
        let traces = match (&otlp.traces, waiting) {
            (Some(to), Some(waiting)) => Some(Traces {
                sender: Sender::new(to, Target::Traces)?,
                waiting,
                config: otlp.clone(),
                counts: Arc::clone(&counts),
                stop: stop.clone(),
                under_way: 0,
            }),
            _ => None,
        };
        let metrics = match &otlp.metrics {
            Some(to) => Some(Metrics {
                sender: Sender::new(to, Target::Metrics)?,
                figures,
                config: otlp.clone(),
                counts,
                stop: stop.clone(),
            }),
            None => None,
        };
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let (tell, ended) = oneshot::channel();
        let stopped = stop.clone();
        thread::Builder::new()
            .name("pannier-export".into())
            .spawn(move || {
                export(traces, metrics, &stopped);
                // Nobody waits when the daemon was told to hurry.
                let _ = tell.send(());
            })
            .map_err(|error| {
                Error::new(Kind::Unavailable, "the export's thread cannot be started")
                    .caused_by(error)
            })?;
        Ok(Some(Self { stop, ended }))
    }

    /// Begins to send what is left.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until that is done, for at most [`END_MAX`].
    pub async fn end(self) {
        self.stop();
        if timeout(END_MAX, self.ended).await.is_err() {
            tracing::debug!("the export did not end in time");
        }
    }
}

/// The thread's life.
fn export(traces: Option<Traces>, metrics: Option<Metrics>, stop: &CancellationToken) {
    // On Linux this is the thread's own; elsewhere it may fail, or not exist.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the export's thread keeps the priority of the others");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the export's runtime cannot be built"),
    };
    runtime.block_on(async {
        let all = async {
            tokio::join!(
                async {
                    if let Some(traces) = traces {
                        traces.run().await;
                    }
                },
                async {
                    if let Some(metrics) = metrics {
                        metrics.run().await;
                    }
                }
            )
        };
        let cut_off = async {
            stop.cancelled().await;
            sleep(LAST_SENDING_MAX).await;
        };
        tokio::select! {
            _ = all => {}
            () = cut_off => tracing::debug!("what was left could not be exported in time"),
        }
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_timeout(Duration::ZERO);
}

/// The export of spans.
struct Traces {
    sender: Sender,
    waiting: Waiting,
    config: OtlpConfig,
    counts: Arc<Counts>,
    stop: CancellationToken,
    /// Spans in the message that is being sent.
    under_way: usize,
}

impl Traces {
    async fn run(mut self) {
        let resource = resource(&self.config);
        loop {
            tokio::select! {
                () = self.waiting.batch() => {}
                () = sleep(self.config.batch_delay.0) => {}
                () = self.stop.cancelled() => {}
            }
            let stopping = self.stop.is_cancelled();
            loop {
                let batch = self.waiting.take(self.config.batch_max);
                let count: usize = batch.iter().map(|span| span.count()).sum();
                if count == 0 {
                    break;
                }
                let message = spans::message(&resource, &batch).encode_to_vec();
                drop(batch);
                let sent = self.send(message, count).await;
                // What does not fill a batch waits for more; at the end a collector that is away
                // is not asked again and again.
                let go_on = match stopping {
                    true => sent,
                    false => count * 2 > self.config.batch_max,
                };
                if !go_on {
                    break;
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Whether the collector took it.
    async fn send(&mut self, message: Vec<u8>, count: usize) -> bool {
        self.under_way = count;
        let limit = self.config.batch_timeout.0;
        let sent = self.sender.send(message.into(), limit, &self.stop).await;
        self.under_way = 0;
        let count = count as u64;
        let (taken, result) = match sent {
            Ok(Accepted { rejected: 0, .. }) => (count, Ok(())),
            Ok(Accepted { rejected, message }) => {
                let text = format!("the collector rejected {rejected} of {count} spans: {message}");
                (count.saturating_sub(rejected), Err(text))
            }
            Err(error) => (0, Err(error)),
        };
        self.counts.spans_sent.add(taken);
        self.counts.spans_failed.add(count - taken);
        self.counts.note("traces", result);
        taken > 0
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.counts.spans_failed.add(self.under_way as u64);
        self.waiting.close();
    }
}

/// The export of metrics.
struct Metrics {
    sender: Sender,
    figures: Figures,
    config: OtlpConfig,
    counts: Arc<Counts>,
    stop: CancellationToken,
}

impl Metrics {
    async fn run(mut self) {
        let resource = resource(&self.config);
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = sleep(self.config.metrics_interval.0) => {}
                // Once more at the end.
                () = self.stop.cancelled() => {}
            }
            let result = self.export(&resource).await;
            match &result {
                Ok(()) => self.counts.metrics_sent.one(),
                Err(_) => self.counts.metrics_failed.one(),
            }
            self.counts.note("metrics", result);
        }
    }

    async fn export(&mut self, resource: &Resource) -> std::result::Result<(), String> {
        let snapshot = (self.figures)().await.map_err(|error| error.to_string())?;
        let message = figures::message(resource, &snapshot).encode_to_vec();
        let limit = self.config.metrics_timeout.0;
        match self.sender.send(message.into(), limit, &self.stop).await? {
            Accepted { rejected: 0, .. } => Ok(()),
            Accepted { rejected, message } => {
                let text = format!("the collector rejected {rejected} figures: {message}");
                Err(text)
            }
        }
    }
}
