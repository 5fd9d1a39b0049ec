//! How long requests take, and what they do in each tier.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{
    clock::Timestamp,
    config::TierName,
    engine::Provenance,
    metrics::{Counts, Distribution, Exemplar, Histogram},
    steps::{Ended, Step, Steps, What},
};

/// The names of gRPC's codes, by their number
/// (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A method of the cache that is a request with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// One entry is read.
    Get,
    /// One entry is put.
    Put,
    /// Whether an entry is there.
    Exists,
    /// Entries are removed.
    Invalidate,
    /// Entries are read.
    GetMany,
    /// Entries are put.
    PutMany,
    /// A value is read in chunks; a call until its first chunk is there.
    Read,
    /// A value is put in chunks.
    Write,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Get,
        Self::Put,
        Self::Exists,
        Self::Invalidate,
        Self::GetMany,
        Self::PutMany,
        Self::Read,
        Self::Write,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        self.full_name().rsplit('/').next().unwrap_or_default()
    }

    /// Its name with that of its service.
    pub fn full_name(self) -> &'static str {
        match self {
            Self::Get => "pannier.v1.CacheService/Get",
            Self::Put => "pannier.v1.CacheService/Put",
            Self::Exists => "pannier.v1.CacheService/Exists",
            Self::Invalidate => "pannier.v1.CacheService/Invalidate",
            Self::GetMany => "pannier.v1.CacheService/GetMany",
            Self::PutMany => "pannier.v1.CacheService/PutMany",
            Self::Read => "pannier.v1.CacheService/Read",
            Self::Write => "pannier.v1.CacheService/Write",
        }
    }
}

/// A request that has been answered, refused or given up.
#[derive(Debug)]
pub struct Finished<'a> {
    /// What was called.
    pub method: Method,
    /// The namespace, as the caller wrote it.
    pub namespace: &'a str,
    /// A hash of the key; `None` where there is not one key.
    pub key: Option<u64>,
    /// When it began.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// What was done.
    pub steps: &'a Steps,
    /// What the answer said of itself; `None` when there was none.
    pub provenance: Option<&'a Provenance>,
    /// The number of its code in [`CODES`].
    pub code: usize,
    /// The trace and the span in it, when it is traced.
    pub trace: Option<([u8; 16], [u8; 8])>,
}

/// What is done in a tier, as histograms tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// An entry is looked for.
    Lookup,
    /// The version of a copy is compared with Redis's.
    Verify,
    /// The answer to another request's question is waited for.
    Wait,
    /// The value is waited for that another caller has the lease to compute.
    Lease,
    /// An entry is put, or copied from Redis.
    Store,
    /// Entries are removed.
    Remove,
}

/// What tells the histograms of operations apart.
pub type OperationKey = (Operation, TierName, Ended);

impl Operation {
    const ALL: [Self; 6] = [
        Self::Lookup,
        Self::Verify,
        Self::Wait,
        Self::Lease,
        Self::Store,
        Self::Remove,
    ];

    fn of(what: What) -> Self {
        match what {
            What::Lookup => Self::Lookup,
            What::Verify => Self::Verify,
            What::Wait => Self::Wait,
            What::Lease => Self::Lease,
            What::Store | What::Fill => Self::Store,
            What::Remove => Self::Remove,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Verify => "verify",
            Self::Wait => "wait",
            Self::Lease => "lease",
            Self::Store => "store",
            Self::Remove => "remove",
        }
    }
}

const TIERS: [TierName; 2] = [TierName::Local, TierName::Shared];

type Lazy = OnceLock<Box<Histogram>>;

/// Histograms of all requests and of what they do. One that nothing was added to takes no memory.
#[derive(Debug, Default)]
pub(super) struct Calls {
    operations: [[[Lazy; Ended::ALL.len()]; TIERS.len()]; Operation::ALL.len()],
    calls: [[Lazy; CODES.len()]; Method::ALL.len()],
}

impl Calls {
    /// With the histograms that dashboards and alerts look at, so that they are there, at zero,
    /// before something happens for the first time.
    pub(super) fn new(shared: bool) -> Self {
        let calls = Self::default();
        for tier in TIERS {
            if tier == TierName::Shared && !shared {
                continue;
            }
            for ended in Ended::ALL {
                let operation = match ended {
                    Ended::Stale if tier == TierName::Shared || !shared => continue,
                    Ended::Deferred if tier == TierName::Local => continue,
                    Ended::Hit | Ended::Miss | Ended::Stale | Ended::Error => Operation::Lookup,
                    _ => Operation::Store,
                };
                calls.operation((operation, tier, ended));
            }
        }
        for method in Method::ALL {
            calls.call(method, 0);
        }
        calls
    }

    fn operation(&self, (operation, tier, ended): OperationKey) -> &Histogram {
        let of_tier = &self.operations[operation as usize][tier as usize];
        of_tier[ended as usize].get_or_init(Box::default)
    }

    fn call(&self, method: Method, code: usize) -> &Histogram {
        let code = code.min(CODES.len() - 1);
        self.calls[method as usize][code].get_or_init(Box::default)
    }

    /// Adds a request and its steps.
    pub(super) fn note(&self, finished: &Finished<'_>, now: impl FnOnce() -> Timestamp) {
        let call = self.call(finished.method, finished.code);
        call.observe(finished.took);
        for step in finished.steps.list() {
            self.of(&step).observe_many(step.spent, step.items);
        }
        if let Some((trace_id, span_id)) = finished.trace {
            let at = now();
            let exemplar = |took| Exemplar {
                trace_id,
                span_id,
                took,
                at,
            };
            call.exemplify(exemplar(finished.took));
            // Items of a batch are averages: none of them took as long.
            for step in finished.steps.list().filter(|it| it.items == 1) {
                self.of(&step).exemplify(exemplar(step.took));
            }
        }
    }

    fn of(&self, step: &Step) -> &Histogram {
        self.operation((Operation::of(step.what), step.tier, step.ended))
    }

    fn each_operation(&self) -> impl Iterator<Item = (OperationKey, &Histogram)> {
        Operation::ALL.into_iter().flat_map(move |operation| {
            TIERS.into_iter().flat_map(move |tier| {
                Ended::ALL.into_iter().filter_map(move |ended| {
                    let of_tier = &self.operations[operation as usize][tier as usize];
                    let histogram = of_tier[ended as usize].get()?;
                    Some(((operation, tier, ended), &**histogram))
                })
            })
        })
    }

    fn each_call(&self) -> impl Iterator<Item = ((Method, usize), &Histogram)> {
        Method::ALL.into_iter().flat_map(move |method| {
            (0..CODES.len()).filter_map(move |code| {
                let histogram = self.calls[method as usize][code].get()?;
                Some(((method, code), &**histogram))
            })
        })
    }

    /// What was counted of each operation.
    pub(super) fn operations(&self) -> Vec<(OperationKey, Counts)> {
        let each = self.each_operation();
        each.map(|(key, histogram)| (key, histogram.counts()))
            .collect()
    }

    /// What was counted of each method and code.
    pub(super) fn calls(&self) -> Vec<((Method, usize), Counts)> {
        let each = self.each_call();
        each.map(|(key, histogram)| (key, histogram.counts()))
            .collect()
    }

    /// The same with exemplars.
    pub(super) fn operation_distributions(
        &self,
    ) -> impl Iterator<Item = (OperationKey, Distribution)> {
        let each = self.each_operation();
        each.map(|(key, histogram)| (key, distribution(histogram)))
    }

    /// The same with exemplars.
    pub(super) fn call_distributions(
        &self,
    ) -> impl Iterator<Item = ((Method, usize), Distribution)> {
        let each = self.each_call();
        each.map(|(key, histogram)| (key, distribution(histogram)))
    }
}

/// A reading of a histogram with its exemplars.
pub(super) fn distribution(histogram: &Histogram) -> Distribution {
    Distribution {
        counts: histogram.counts(),
        exemplars: histogram.exemplars(),
    }
}
