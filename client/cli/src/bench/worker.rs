//! One thread of the generator: its runtime, its connections and their slots.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pannier_client::proto::cache_service_client::CacheServiceClient;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    Args,
    connection::MESSAGE_BYTES_MAX,
    load::{Call, Chooser, Load},
    pacer::Pacer,
    schedule::{PreloadQueue, Schedule},
    tally::{Kind, Outcome, Tally},
};

type Client = CacheServiceClient<Channel>;

/// Pause of a slot after an error, so that a daemon that is away is not called in a busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);

/// A runtime of one thread with its connections.
#[derive(Debug)]
pub(super) struct Worker {
    runtime: Runtime,
    clients: Vec<Client>,
    in_flight: u16,
    /// Number of its first slot among all slots of the run.
    first_slot: u64,
    /// Its part of all connections.
    share: f64,
}

impl Worker {
    /// Makes the workers and connects them all.
    pub(super) fn connect_all(endpoint: &Endpoint, args: &Args) -> Result<Vec<Self>, String> {
        let threads = args.thread_count();
        let mut workers = Vec::new();
        let mut first_slot = 0;
        for index in 0..threads {
            let spare = u16::from(index < args.connections % threads);
            let connections = args.connections / threads + spare;
            let worker = Self::connect(endpoint, args, connections, first_slot)?;
            first_slot += u64::from(connections) * u64::from(args.in_flight);
            workers.push(worker);
        }
        Ok(workers)
    }

    fn connect(
        endpoint: &Endpoint,
        args: &Args,
        connections: u16,
        first_slot: u64,
    ) -> Result<Self, String> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a runtime: {error}"))?;
        let connect = || {
            let channel = runtime
                .block_on(endpoint.connect())
                .map_err(|error| format!("cannot connect: {}", chain(&error)))?;
            Ok(CacheServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX))
        };
        let clients = (0..connections)
            .map(|_| connect())
            .collect::<Result<_, String>>()?;
        let share = f64::from(connections) / f64::from(args.connections);
        Ok(Self {
            runtime,
            clients,
            in_flight: args.in_flight,
            first_slot,
            share,
        })
    }

    /// Puts keys of the set until all have been handed out.
    pub(super) fn preload(
        &self,
        load: &Arc<Load>,
        queue: &Arc<PreloadQueue>,
    ) -> Result<Tally, String> {
        self.on_all_slots(load, |slot| {
            let queue = queue.clone();
            async move { slot.preload(&queue).await }
        })
    }

    /// Makes calls as the schedule says; with a `rate` (of the whole run) in an open loop.
    pub(super) fn run(
        &self,
        load: &Arc<Load>,
        schedule: &Arc<Schedule>,
        rate: Option<f64>,
    ) -> Result<Tally, String> {
        let pacer = rate
            .zip(schedule.ends())
            .map(|(rate, end)| Pacer::new(rate * self.share, schedule.begun(), end));
        std::thread::scope(|scope| {
            if let Some(pacer) = &pacer {
                scope.spawn(|| pacer.run());
            }
            self.on_all_slots(load, |slot| {
                let (schedule, pacer) = (schedule.clone(), pacer.clone());
                async move {
                    match pacer {
                        Some(pacer) => slot.run_open(&schedule, &pacer).await,
                        None => slot.run_closed(&schedule).await,
                    }
                }
            })
        })
    }

    /// Runs `work` on every slot at once and returns what they counted together.
    fn on_all_slots<F>(&self, load: &Arc<Load>, work: impl Fn(Slot) -> F) -> Result<Tally, String>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tally = Arc::new(Mutex::new(Tally::new()));
        let mut number = self.first_slot;
        let mut slots = JoinSet::new();
        for client in &self.clients {
            for _ in 0..self.in_flight {
                let slot = Slot {
                    client: client.clone(),
                    load: load.clone(),
                    chooser: load.chooser(number)?,
                    tally: tally.clone(),
                };
                slots.spawn_on(work(slot), self.runtime.handle());
                number += 1;
            }
        }
        self.runtime.block_on(slots.join_all());
        let counted = tally.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(counted.clone())
    }
}

/// One call in flight: makes one call after the other.
struct Slot {
    client: Client,
    load: Arc<Load>,
    chooser: Chooser,
    /// Shared by the slots of one thread: never waited for.
    tally: Arc<Mutex<Tally>>,
}

impl Slot {
    async fn preload(mut self, queue: &PreloadQueue) {
        while let Some(index) = queue.take() {
            let put = Call::Put(self.chooser.put(&self.load, index));
            self.perform(put, Instant::now(), true).await;
        }
    }

    async fn run_closed(mut self, schedule: &Schedule) {
        loop {
            let start = Instant::now();
            if !schedule.admits(start) {
                return;
            }
            let call = self.chooser.next(&self.load);
            self.perform(call, start, schedule.counts(start)).await;
        }
    }

    async fn run_open(mut self, schedule: &Schedule, pacer: &Pacer) {
        while let Some(due) = pacer.next().await {
            if !schedule.admits(Instant::now()) {
                self.tally().unstarted += 1;
                continue;
            }
            let call = self.chooser.next(&self.load);
            self.perform(call, due, schedule.counts(due)).await;
        }
    }

    async fn perform(&mut self, call: Call, start: Instant, counts: bool) {
        let outcome = send(&mut self.client, call).await;
        let failed = outcome.errors > 0;
        self.tally().record(outcome, start.elapsed(), counts);
        if failed {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one call and says what came of it.
async fn send(client: &mut Client, call: Call) -> Outcome {
    match call {
        Call::Get(request) => match client.get(request).await {
            Ok(response) => {
                let entry = response.into_inner().entry;
                let hits = u64::from(entry.is_some());
                let value_bytes = entry.map_or(0, |entry| entry.value.len() as u64);
                answered(Kind::Read, 1, hits, value_bytes)
            }
            Err(status) => failed(Kind::Read, &status),
        },
        Call::GetMany(request) => match client.get_many(request).await {
            Ok(response) => {
                let items = response.into_inner().items;
                let entries = items.iter().filter_map(|item| item.entry.as_ref());
                let (hits, value_bytes) = entries.fold((0, 0), |(hits, bytes), entry| {
                    (hits + 1, bytes + entry.value.len() as u64)
                });
                let mut faults = items.iter().filter_map(|item| item.fault.as_ref());
                let error = faults.next().map(|fault| fault.message.clone());
                let errors = u64::from(error.is_some()) + faults.count() as u64;
                let keys = items.len() as u64;
                Outcome {
                    errors,
                    error,
                    ..answered(Kind::Read, keys, hits, value_bytes)
                }
            }
            Err(status) => failed(Kind::Read, &status),
        },
        Call::Put(request) => {
            let value_bytes = request.value.len() as u64;
            match client.put(request).await {
                Ok(_) => answered(Kind::Write, 1, 0, value_bytes),
                Err(status) => failed(Kind::Write, &status),
            }
        }
    }
}

fn answered(kind: Kind, keys: u64, hits: u64, value_bytes: u64) -> Outcome {
    Outcome {
        kind,
        keys,
        hits,
        value_bytes,
        errors: 0,
        error: None,
    }
}

fn failed(kind: Kind, status: &Status) -> Outcome {
    let error = Some(format!("{:?}: {}", status.code(), status.message()));
    Outcome {
        kind,
        keys: 0,
        hits: 0,
        value_bytes: 0,
        errors: 1,
        error,
    }
}

/// An error with its causes: tonic's own words stop at "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
