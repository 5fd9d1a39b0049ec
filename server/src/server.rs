//! The daemon as a whole: binds, runs, stops. Owns every task and thread it starts.
//!
//! Threads: the caller's runtime accepts, serves HTTP and looks after the tiers; each worker is a
//! thread with a current-thread runtime that serves gRPC (ADR 0007), and so are the threads of
//! large values, which come after them (ADR 0016).
//!
//! Stopping (P24): health says not serving, the acceptor stops, connections are told to go away
//! and finish what is in flight (idle ones are not waited for), the local tier is written out and
//! closed. Whatever has not finished within `drain_timeout` is dropped.

mod attached;
mod exporting;

use std::{future::Future, io, sync::Arc, thread, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{attached::Attached, exporting::Exporting};
use crate::{
    clock::Clock,
    config::{Config, Listen, TierName},
    engine::Engine,
    error::{Error, Kind, Result},
    frontdoor::{
        grpc::{CACHE_SERVICE, SHARED_PART, Services},
        http,
        listen::{self, Inlet, Listener},
    },
    observe::Observer,
    stamp::Stamper,
    tier::local::{LocalTier, Maintenance},
    trace::Tracer,
};

/// A bound daemon, not yet serving.
pub struct Server {
    config: Arc<Config>,
    grpc: Listener,
    http: Listener,
    services: Services,
    observer: Arc<Observer>,
    health: HealthReporter,
    local: LocalTier,
    maintenance: Maintenance,
    stop_maintenance: CancellationToken,
    attached: Option<Attached>,
    exporting: Exporting,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything in flight was finished.
    Drained,
    /// Requests were cut off: the drain deadline passed, or a second signal came.
    CutOff,
}

impl Server {
    /// Opens the tiers and binds the addresses. `Held` when the data directory belongs to another
    /// daemon; `Unavailable` when it or an address cannot be used.
    pub async fn build(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let grpc = bind("server.listen", &config.server.listen).await?;
        let http = bind("server.http_listen", &config.server.http_listen).await?;
        warn_of_namespaces_that_keep_nothing(&config);
        let clock = Clock::system();
        let stop_maintenance = CancellationToken::new();
        let address = address(&grpc)?.to_string();
        let (local, maintenance) = LocalTier::open(
            &config.local,
            config.longest_lifetime(),
            &address,
            clock.clone(),
            stop_maintenance.clone(),
        )
        .await?;
        let stamper = Arc::new(Stamper::new(clock.clone(), Stamper::random_writer()?));
        let (tracer, spans) = Tracer::new(&config.telemetry.otlp);
        let attached = Attached::begin(&config, &clock, &stamper, &local, &tracer).await?;
        let (shared, attached) = attached.unzip();
        let engine = Engine::new(
            Arc::clone(&config),
            clock.clone(),
            stamper,
            local.clone(),
            shared,
        );
        let (engine, door) = (Arc::new(engine), Arc::default());
        let observer = Arc::new(Observer::new(engine, clock, door, tracer));
        let exporting = Exporting::begin(&config, &observer, spans)?;
        let health = HealthReporter::new();
        say(&health, ServingStatus::Serving).await;
        health
            .set_service_status(SHARED_PART, ServingStatus::Unknown)
            .await;
        let max_in_flight = config.server.max_in_flight;
        let services = Services::new(Arc::clone(&observer), health.clone(), max_in_flight);
        Ok(Self {
            config,
            grpc,
            http,
            services,
            observer,
            health,
            local,
            maintenance,
            stop_maintenance,
            attached,
            exporting,
        })
    }

    /// The addresses as bound: gRPC, HTTP.
    pub fn addresses(&self) -> Result<(Listen, Listen)> {
        Ok((address(&self.grpc)?, address(&self.http)?))
    }

    /// Serves until `stop` is ready, then drains until `hurry` is or the deadline passes.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<Ending> {
        let (stopping, drained) = (CancellationToken::new(), CancellationToken::new());
        let mut workers = self.start_workers(&stopping)?;
        let (drain, mut doors) = (self.config.server.drain_timeout.0, JoinSet::new());
        doors.spawn(listen::accept(
            self.grpc,
            std::mem::take(&mut workers.outlets),
            self.config.server.max_connections,
            Arc::clone(self.observer.door()),
            stopping.clone(),
        ));
        doors.spawn(Arc::clone(&self.observer).watch(stopping.clone()));
        if let Some(attached) = &self.attached {
            doors.spawn(attached.tell(self.health.clone()));
        }
        doors.spawn(http::serve(
            self.http,
            http::router(Arc::clone(&self.observer), stopping.clone()),
            self.config.server.max_http_connections,
            Arc::clone(self.observer.door()),
            drained.clone(),
        ));

        tokio::pin!(hurry);
        tokio::select! {
            () = stop => tracing::info!("stopping: finishing what is in flight"),
            () = workers.first_failure() => tracing::error!("a worker stopped by itself"),
        }
        say(&self.health, ServingStatus::NotServing).await;
        begin_nothing(&self.observer, &stopping);
        let (ending, hurried) = tokio::select! {
            () = self.services.quiet() => (Ending::Drained, false),
            finished = timeout(drain, workers.finished()) => match finished {
                Ok(()) => (Ending::Drained, false),
                Err(_) => (Ending::CutOff, false),
            },
            () = &mut hurry => (Ending::CutOff, true),
        };
        if ending == Ending::CutOff {
            let in_flight = self.services.in_flight();
            tracing::warn!(in_flight, "stopped before everything in flight was done");
        }
        workers.abandon();
        drained.cancel();
        doors.shutdown().await;
        self.exporting.stop();
        if let Some(attached) = self.attached {
            attached.end().await;
        }
        self.stop_maintenance.cancel();
        let _ = self.maintenance.await;
        if hurried {
            // The write-ahead log has everything; the next start takes a little longer.
            return Ok(ending);
        }
        let close = async {
            // First: its last figures are of the store.
            self.exporting.end().await;
            self.local.close().await
        };
        tokio::select! {
            closed = close => closed?,
            () = &mut hurry => return Ok(Ending::CutOff),
        }
        Ok(ending)
    }
}

impl Server {
    fn start_workers(&self, stop: &CancellationToken) -> Result<Workers> {
        let mut workers = Workers::start(&self.config, &self.services, stop)?;
        workers.start_transfers(&self.local.large_handles(), &self.services, stop);
        Ok(workers)
    }
}

/// Takes nothing new, and lets those go who wait for other callers.
fn begin_nothing(observer: &Observer, stopping: &CancellationToken) {
    stopping.cancel();
    observer.engine().end_waits();
}

/// Tells the health service how the daemon is.
async fn say(health: &HealthReporter, status: ServingStatus) {
    for part in ["", CACHE_SERVICE] {
        health.set_service_status(part, status).await;
    }
}

/// The threads that serve gRPC.
struct Workers {
    outlets: listen::Outlets,
    /// One for each worker; resolves when it has finished.
    running: JoinSet<()>,
    /// Makes the workers give up on what is left.
    abandoned: CancellationToken,
}

impl Workers {
    fn start(config: &Config, services: &Services, stop: &CancellationToken) -> Result<Self> {
        let abandoned = CancellationToken::new();
        let mut workers = Self {
            outlets: listen::Outlets::default(),
            running: JoinSet::new(),
            abandoned,
        };
        for index in 0..config.server.workers {
            let (outlet, inlet) = listen::handover();
            let (services, stop) = (services.clone(), stop.clone());
            let abandoned = workers.abandoned.clone();
            let (finished, has_finished) = oneshot::channel::<()>();
            thread::Builder::new()
                .name(format!("pannier-worker-{index}"))
                .spawn(move || {
                    work(services, inlet, stop, abandoned);
                    drop(finished);
                })
                .map_err(|error| unavailable("a worker thread cannot be started", error))?;
            workers.running.spawn(async {
                // An error only says that the sender is gone: the worker has finished.
                let _ = has_finished.await;
            });
            workers.outlets.ordinary.push(outlet);
        }
        Ok(workers)
    }

    /// Serves on these runtimes the connections that are for transfers.
    fn start_transfers(
        &mut self,
        handles: &[Handle],
        services: &Services,
        stop: &CancellationToken,
    ) {
        for handle in handles {
            let (outlet, inlet) = listen::handover();
            let work = serve(
                services.clone(),
                inlet,
                stop.clone(),
                self.abandoned.clone(),
            );
            self.running.spawn_on(work, handle);
            self.outlets.transfers.push(outlet);
        }
    }

    async fn first_failure(&mut self) {
        self.running.join_next().await;
    }

    async fn finished(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    fn abandon(&self) {
        self.abandoned.cancel();
    }
}

/// One worker, from its start to its end.
fn work(services: Services, inlet: Inlet, stop: CancellationToken, abandoned: CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker's runtime cannot be built"),
    };
    runtime.block_on(serve(services, inlet, stop, abandoned));
    // Blocking calls go on to their end, but nobody waits for them here: the tier does.
    runtime.shutdown_timeout(Duration::ZERO);
}

async fn serve(
    services: Services,
    inlet: Inlet,
    stop: CancellationToken,
    abandoned: CancellationToken,
) {
    tokio::select! {
        served = services.serve(inlet.connections(), stop) => {
            if let Err(error) = served {
                tracing::error!(%error, "a worker stopped");
            }
        }
        () = abandoned.cancelled() => {}
    }
}

/// A namespace that keeps nothing is most likely not what was meant.
fn warn_of_namespaces_that_keep_nothing(config: &Config) {
    let shared = config.shared.topology.is_some();
    let defaults = ("defaults", &config.defaults);
    let named = config
        .namespaces
        .iter()
        .map(|(name, policy)| (name.as_str(), policy));
    for (name, policy) in named.chain([defaults]) {
        let keeps = |tier: &TierName| *tier == TierName::Local || shared;
        if !policy.tiers.iter().any(keeps) {
            tracing::warn!(
                namespace = name,
                "keeps nothing: `tiers` leaves out the local tier, and no Redis is configured"
            );
        }
    }
}

async fn bind(setting: &str, listen: &Listen) -> Result<Listener> {
    Listener::bind(listen)
        .await
        .map_err(|error| unavailable(&format!("{setting}: {listen} cannot be listened on"), error))
}

fn address(listener: &Listener) -> Result<Listen> {
    listener
        .address()
        .map_err(|error| unavailable("a bound address cannot be read", error))
}

fn unavailable(text: &str, error: io::Error) -> Error {
    Error::new(Kind::Unavailable, text.to_owned()).caused_by(error)
}
