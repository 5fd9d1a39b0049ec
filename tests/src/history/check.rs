//! The rules.

use std::{collections::HashMap, fmt, time::Duration};

use super::{
    Action, Bounds, Fault, FaultKind, Found, Grant, History, Operation, Reach, Settled,
    replacements::Order,
};

/// What was broken; see the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A replaced or removed value was served as fresh.
    Old,
    /// A daemon served what it had replaced itself.
    Own,
    /// A daemon did not find what it had put itself.
    Unread,
    /// A value that Redis never had was served as fresh.
    Unbacked,
    /// Something was served stale for too long.
    Stale,
    /// Something was served after its lifetime.
    Expired,
    /// Something was served that was never put.
    Invented,
    /// An operation failed.
    Failed,
    /// A daemon and Redis disagree in the end.
    Diverged,
    /// The last put is not there in the end.
    Harmed,
    /// A put under a lease that had ended, or had been overtaken, was accepted.
    Overtaken,
    /// Two were told to compute at the same time.
    Twice,
}

impl Rule {
    /// The promises that it stands for.
    pub fn promises(self) -> &'static str {
        match self {
            Self::Old => "P6 P7 P8 P9 P10",
            Self::Own | Self::Unread => "P5",
            Self::Unbacked | Self::Stale => "P9",
            Self::Expired => "P2",
            Self::Invented => "P3",
            Self::Failed => "P11",
            Self::Diverged => "P8 P10",
            Self::Harmed => "P10",
            Self::Overtaken | Self::Twice => "P13",
        }
    }
}

/// A rule that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The key; `None` when it is about none.
    pub key: Option<usize>,
    /// What happened, in a sentence.
    pub text: String,
    /// The operations that prove it, as places in the history.
    pub operations: Vec<usize>,
    /// From the first to the last of what matters.
    pub span: (Duration, Duration),
}

/// What was seen, in numbers.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Operations in all.
    pub operations: usize,
    /// Faults in all.
    pub faults: usize,
    /// Gets that found something: fresh at home, fresh in Redis, stale.
    pub hits: [usize; 3],
    /// Gets that found nothing.
    pub misses: usize,
    /// Changes by their outcome: applied, deferred, failed, unknown.
    pub changes: [usize; 4],
    /// The longest that a replaced value was served as fresh.
    pub staleness_max: Duration,
    /// Leases granted, and those under which a put was accepted.
    pub grants: [usize; 2],
    /// Gets that returned a replaced value as fresh, within the lease.
    pub late_by_lease: usize,
    /// The longest that an operation took whose daemon was neither killed nor stood still.
    pub duration_max: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [home, redis, stale] = self.hits;
        let [applied, deferred, failed, unknown] = self.changes;
        let [granted, used] = self.grants;
        write!(
            formatter,
            "{} operations, {} faults; hits: {home} at home, {redis} in Redis, {stale} stale; {} \
             misses; changes: {applied} applied, {deferred} deferred, {failed} failed, {unknown} \
             unanswered; leases: {granted} granted, {used} used; replaced values served as fresh: \
             {}, for at most {:?}; slowest operation: {:?}",
            self.operations,
            self.faults,
            self.misses,
            self.late_by_lease,
            self.staleness_max,
            self.duration_max
        )
    }
}

impl History {
    /// Every violation of a rule, and what was seen.
    pub fn check(&self, bounds: &Bounds) -> (Vec<Violation>, Summary) {
        let mut check = Check {
            history: self,
            bounds,
            order: Order::new(self, bounds.stamps),
            puts: HashMap::new(),
            violations: Vec::new(),
            summary: Summary {
                operations: self.operations.len(),
                faults: self.faults.len(),
                ..Summary::default()
            },
        };
        check.run();
        (check.violations, check.summary)
    }
}

/// Up to when a put may be served.
struct Known {
    key: usize,
    operation: usize,
    replaced: Option<(Duration, usize)>,
    earliest: Duration,
}

struct Check<'a> {
    history: &'a History,
    bounds: &'a Bounds,
    order: Order<'a>,
    /// By value.
    puts: HashMap<u64, Known>,
    violations: Vec<Violation>,
    summary: Summary,
}

impl Check<'_> {
    fn run(&mut self) {
        for (index, operation) in self.history.operations.iter().enumerate() {
            if let (Action::Put { value, .. }, Some(key)) = (&operation.action, operation.key) {
                let known = Known {
                    key,
                    operation: index,
                    replaced: self.order.replaced(key, operation),
                    earliest: self.order.earliest(operation),
                };
                self.puts.insert(*value, known);
            }
        }
        for index in 0..self.history.operations.len() {
            self.operation(index);
        }
        let mut grants: Vec<_> = self.history.grants.iter().collect();
        grants.sort_by_key(|grant| (grant.key, grant.begin));
        for (index, grant) in grants.iter().enumerate() {
            self.overtaken(grant);
            let later = grants[index + 1..].iter();
            let of_same_key = later.take_while(|it| it.key == grant.key);
            let meanwhile = of_same_key.take_while(|it| it.begin < grant.expires);
            meanwhile.for_each(|it| self.twice(grant, it));
        }
        for settled in &self.history.settled {
            self.diverged(settled);
            self.harmed(settled);
        }
    }

    fn operation(&mut self, index: usize) {
        let operation = &self.history.operations[index];
        if let Some(reach) = operation.reach() {
            self.summary.changes[reach as usize] += 1;
        }
        self.failed(index, operation);
        match operation.action {
            Action::Get { found: None } => {
                self.summary.misses += 1;
                self.unread(index, operation);
            }
            Action::Get { found: Some(found) } => {
                let place = match (found.stale, found.local) {
                    (true, _) => 2,
                    (false, local) => usize::from(!local),
                };
                self.summary.hits[place] += 1;
                self.found(index, operation, found);
            }
            _ => {}
        }
    }

    fn failed(&mut self, index: usize, operation: &Operation) {
        let Some(daemon) = operation.daemon else {
            return;
        };
        let duration = operation.end - operation.begin;
        let failed = operation.is_unanswered();
        if !failed && duration <= self.summary.duration_max {
            return;
        }
        let met = |kind: FaultKind| {
            self.history.faults.iter().any(|fault| {
                fault.kind == kind
                    && fault.daemon == Some(daemon)
                    && fault.from <= operation.end
                    && operation.begin <= fault.to
            })
        };
        if met(FaultKind::Down) || !failed && met(FaultKind::Frozen) {
            return;
        }
        self.summary.duration_max = self.summary.duration_max.max(duration);
        if failed {
            let text = format!("an operation of daemon {daemon} failed, which was not killed");
            self.violate(Rule::Failed, operation.key, text, &[index]);
        }
    }

    fn found(&mut self, index: usize, get: &Operation, found: Found) {
        let (Some(key), Some(daemon)) = (get.key, get.daemon) else {
            return;
        };
        let known = found.value.and_then(|value| self.puts.get(&value));
        let known = known.filter(|known| {
            known.key == key && self.history.operations[known.operation].begin <= get.end
        });
        let Some(known) = known else {
            let text = format!("{:?} was never put under this key", found.value);
            return self.violate(Rule::Invented, Some(key), text, &[index]);
        };
        let (source, replaced, earliest) = (known.operation, known.replaced, known.earliest);
        let put = &self.history.operations[source];
        if let Some((since, change)) = self.order.replaced_by(daemon, key, put)
            && since <= get.begin
        {
            let text = format!(
                "daemon {daemon} returned what it had replaced itself {:?} before",
                get.begin - since
            );
            self.violate(Rule::Own, Some(key), text, &[source, change, index]);
        }
        if let Action::Put { expires, .. } = put.action
            && expires + self.bounds.slack < get.begin
        {
            let text = format!("returned {:?} after its lifetime", get.begin - expires);
            self.violate(Rule::Expired, Some(key), text, &[source, index]);
        }
        if found.stale {
            return self.stale(index, get, source);
        }
        if get.end < earliest {
            let text = format!(
                "served as fresh {:?} before it can be in Redis",
                earliest - get.end
            );
            self.violate(Rule::Unbacked, Some(key), text, &[source, index]);
        }
        let decided = self.decided(get);
        if let Some((since, change)) = replaced
            && since < decided
        {
            self.old(index, [source, change], decided - since);
        }
    }

    /// When a daemon can have decided on its answer at the earliest.
    fn decided(&self, get: &Operation) -> Duration {
        let faults = self.history.faults.iter();
        let frozen = faults.filter(|fault| {
            fault.kind == FaultKind::Frozen
                && fault.daemon == get.daemon
                && fault.from <= get.begin
                && get.begin <= fault.to
        });
        frozen.map(|fault| fault.to).max().unwrap_or(get.begin)
    }

    /// Nothing was found: right unless it was put here and certainly is there.
    fn unread(&mut self, index: usize, get: &Operation) {
        let Some((key, source)) = get
            .key
            .and_then(|key| Some((key, self.order.last(key, get)?)))
        else {
            return;
        };
        let put = &self.history.operations[source];
        let Action::Put {
            expires,
            reach: Reach::Applied,
            ..
        } = put.action
        else {
            return;
        };
        let own = put.daemon == get.daemon && put.end <= get.begin;
        // A daemon counts what Redis says is left from when it asked.
        let took = get.end - get.begin;
        let lives = get.end + took + self.bounds.slack < expires;
        let disturbed = self.history.faults.iter().any(|fault| {
            fault.kind != FaultKind::Late
                && (fault.daemon.is_none() || fault.daemon == get.daemon)
                && fault.from <= get.end
                && put.begin <= fault.to
        });
        let attached = put.attached && get.attached;
        if own && lives && attached && !disturbed && self.order.is_alone(key, source, get) {
            let since = get.begin - put.end;
            let text = format!("nothing was found {since:?} after the daemon itself had put it");
            let mut proof = vec![source, index];
            // What was deferred last may have undone it.
            proof.extend(self.order.not_applied(key, get).take(3));
            self.violate(Rule::Unread, Some(key), text, &proof);
        }
    }

    fn old(&mut self, get: usize, [put, change]: [usize; 2], late: Duration) {
        self.summary.late_by_lease += 1;
        self.summary.staleness_max = self.summary.staleness_max.max(late);
        if late <= self.bounds.lease + self.bounds.slack {
            return;
        }
        let operations = &self.history.operations;
        let what = match operations[change].action {
            Action::Put { .. } => "replaced",
            _ => "removed",
        };
        let text = format!("served as fresh {late:?} after it was certainly {what}");
        self.violate(Rule::Old, operations[get].key, text, &[put, change, get]);
    }

    /// A copy was right at the last contact; what the daemon took itself, when it was put.
    fn stale(&mut self, index: usize, get: &Operation, source: usize) {
        let bound = self.bounds.lease + self.bounds.max_stale + self.bounds.slack;
        let own = Some(&self.history.operations[source]).filter(|put| put.daemon == get.daemon);
        let known = |fault: &Fault| own.map_or(fault.from, |put| put.end.max(fault.from));
        let lost = self.history.faults.iter().find(|fault| {
            fault.kind.ends_contact()
                && (fault.daemon.is_none() || fault.daemon == get.daemon)
                && known(fault) + bound < get.begin
                && get.begin <= fault.to
        });
        if let Some(lost) = lost {
            let since = get.begin - known(lost);
            let text = format!(
                "served stale {since:?} after contact was lost: {}",
                lost.name
            );
            self.violate(Rule::Stale, get.key, text, &[index]);
        }
    }

    fn overtaken(&mut self, grant: &Grant) {
        self.summary.grants[0] += 1;
        let known = grant.used.and_then(|value| self.puts.get(&value));
        let Some(source) = known.map(|known| known.operation) else {
            return;
        };
        let put = &self.history.operations[source];
        let reach = put.reach();
        if !matches!(reach, Some(Reach::Applied | Reach::Deferred)) {
            return;
        }
        self.summary.grants[1] += 1;
        if grant.expires + self.bounds.slack < put.begin {
            let late = put.begin - grant.expires;
            let text = format!("a put was accepted {late:?} after its lease had ended");
            self.violate(Rule::Overtaken, Some(grant.key), text, &[source]);
        }
        let overtakes = |index: &usize| {
            let change = &self.history.operations[*index];
            let counts = match (reach, change.reach()) {
                (Some(Reach::Applied), Some(Reach::Applied)) => true,
                (Some(Reach::Deferred), Some(Reach::Applied | Reach::Deferred)) => {
                    change.daemon == put.daemon && change.process == put.process
                }
                _ => false,
            };
            counts && change.end <= put.begin
        };
        let between = self.order.between(grant.key, grant.end, put.begin);
        if let Some(change) = between.into_iter().find(overtakes) {
            let text = "a put was accepted whose lease had been overtaken".to_owned();
            self.violate(Rule::Overtaken, Some(grant.key), text, &[change, source]);
        }
    }

    /// Of two grants of one key that began one after the other.
    fn twice(&mut self, first: &Grant, second: &Grant) {
        let lasted = second.end + self.bounds.slack < first.expires;
        if !first.attached || !second.attached || !lasted || second.begin < first.end {
            return;
        }
        if !self.order.is_quiet(first.key, first.begin, second.end) {
            return;
        }
        let text = format!(
            "daemon {} told a caller to compute at {:?}, daemon {} another one at {:?}; the first \
             had time until {:?}",
            first.daemon, first.end, second.daemon, second.end, first.expires
        );
        self.violations.push(Violation {
            rule: Rule::Twice,
            key: Some(first.key),
            text,
            operations: Vec::new(),
            span: (first.begin, second.end),
        });
    }

    fn diverged(&mut self, settled: &Settled) {
        for (daemon, (answer, stale)) in settled.daemons.iter().enumerate() {
            if *stale || (answer.is_some() && *answer != settled.redis) {
                let text = format!(
                    "in the end Redis has {:?} and daemon {daemon} answers {answer:?}, stale: \
                     {stale}",
                    settled.redis
                );
                let puts = [*answer, settled.redis].into_iter().flatten();
                let puts = puts.filter_map(|value| self.puts.get(&value));
                let puts: Vec<_> = puts.map(|known| known.operation).collect();
                self.violate(Rule::Diverged, Some(settled.key), text, &puts);
            }
        }
    }

    fn harmed(&mut self, settled: &Settled) {
        let concerns = |it: &Operation| it.key.is_none_or(|key| key == settled.key);
        let operations = self.history.operations.iter().enumerate();
        let changes: Vec<_> = operations
            .filter(|(_, it)| it.reach().is_some() && concerns(it))
            .collect();
        let Some(&(index, last)) = changes.iter().max_by_key(|(_, it)| it.begin) else {
            return;
        };
        let Action::Put {
            value,
            expires,
            reach: Reach::Applied,
        } = last.action
        else {
            return;
        };
        let mut others = changes.iter().filter(|(other, _)| *other != index);
        let lives = settled.at + self.bounds.slack < expires;
        if lives
            && settled.redis != Some(value)
            && others.all(|(_, change)| self.order.spares(change, last))
        {
            let text = format!("Redis should have {value} and has {:?}", settled.redis);
            self.violate(Rule::Harmed, Some(settled.key), text, &[index]);
        }
    }

    fn violate(&mut self, rule: Rule, key: Option<usize>, text: String, operations: &[usize]) {
        let of = |index: &usize| &self.history.operations[*index];
        let begin = operations.iter().map(|index| of(index).begin).min();
        let end = operations.iter().map(|index| of(index).end).max();
        self.violations.push(Violation {
            rule,
            key,
            text,
            operations: operations.to_vec(),
            span: (begin.unwrap_or_default(), end.unwrap_or(Duration::MAX)),
        });
    }
}
