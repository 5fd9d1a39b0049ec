//! Every interleaving of a few actors around one key, with real fences and a simulated Redis.
//!
//! An actor is a list of atomic steps. The explorer runs them in every order that is possible and
//! looks, at every answer that is served as fresh and at the end, whether it may be served. Each
//! rule of the protocol can be broken, and must then be found out.
//!
//! Redis is a number: how often the key was changed (set or deleted). The value read at a time is
//! that number, so "older" is "smaller".

use std::collections::VecDeque;

use super::*;

const KEY: &[u8] = b"key";

/// What keeps the protocol right; a test breaks one.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Broken {
    Nothing,
    MarkAfterRequest,
    NoChangeAtAcknowledgement,
    NoEpochAtAttach,
    NoEpochAtGap,
    JoinsAnyFlight,
    JoinerForgetsEpoch,
    OwnCopyTrusted,
    RepliesBeforeChange,
    NotesChangeBeforeItHappens,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    // A reader.
    Lookup,
    LoadEpoch,
    LoadSequence,
    Get,
    Check,
    Keep,
    // A reader that is alone in asking.
    Fly,
    Land,
    JoinOrFly,
    // A write, by this daemon or by another.
    Apply,
    ApplyLate,
    GiveUp,
    Count,
    Raise,
    KeepOwn,
    DropOwn,
    Reply,
    // The tracking connection.
    Receive,
    Note,
    Cut,
    Detect,
    Track,
    Attach,
}

/// A value in the local tier.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Held {
    value: u64,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Flight {
    mark: Mark,
    value: Option<u64>,
}

#[derive(Clone, Default)]
struct Actor {
    steps: Vec<Step>,
    at: usize,
    /// What a fresh answer must have at least, as known when the reader began.
    floor: u64,
    mark: Mark,
    value: u64,
    number: u64,
    flight: Option<usize>,
}

struct World {
    broken: Broken,
    fences: Fences,
    redis: u64,
    /// Pushes on their way, in order; none of an older connection.
    pushes: VecDeque<u64>,
    tracked: bool,
    attached: bool,
    local: Option<Held>,
    verified: Option<Held>,
    flights: Vec<Flight>,
    landing: Option<usize>,
    sent: bool,
    /// The newest change that no reader who begins now may miss: acknowledged to a client of this
    /// daemon, noted from a push, or from before the daemon attached.
    floor: u64,
    actors: Vec<Actor>,
}

#[derive(PartialEq)]
enum Turn {
    Done,
    Blocked,
    /// The actor has its answer and leaves out the rest.
    Over,
}

impl Clone for World {
    fn clone(&self) -> Self {
        let fences = Fences::new(self.fences.seed, 0);
        fences.epoch.store(self.fences.epoch(), Ordering::Relaxed);
        fences
            .sequence
            .store(self.fences.sequence(), Ordering::Relaxed);
        fences.raise(KEY, self.fences.last_change(KEY));
        Self {
            fences,
            pushes: self.pushes.clone(),
            flights: self.flights.clone(),
            actors: self.actors.clone(),
            ..*self
        }
    }
}

impl World {
    /// Attached, with the value of change 1 in Redis and, trusted, in the local tier.
    fn new(broken: Broken, local: bool, actors: &[&[Step]]) -> Self {
        let fences = Fences::new(7, 0);
        let mark = fences.mark();
        let actor = |steps: &&[Step]| Actor {
            steps: in_order(steps, broken),
            ..Actor::default()
        };
        Self {
            broken,
            fences,
            redis: 1,
            pushes: VecDeque::new(),
            tracked: true,
            attached: true,
            local: local.then_some(Held { value: 1, mark }),
            verified: None,
            flights: Vec::new(),
            landing: None,
            sent: false,
            floor: 1,
            actors: actors.iter().map(actor).collect(),
        }
    }

    fn unverified(mut self) -> Self {
        self.local = self.local.map(|it| Held {
            mark: Mark::default(),
            ..it
        });
        self
    }

    fn change(&mut self) -> u64 {
        self.redis += 1;
        if self.tracked {
            self.pushes.push_back(self.redis);
        }
        self.redis
    }

    /// What a reader would be served as fresh from the local tier.
    fn servable(&self) -> Option<u64> {
        let holds = |it: &Held| self.fences.holds(it.mark, KEY);
        let copy = self.local.filter(|_| self.attached)?;
        let verified = self.verified.filter(|it| it.value == copy.value);
        (holds(&copy) || verified.is_some_and(|it| holds(&it))).then_some(copy.value)
    }

    fn may_join(&self, flight: &Flight) -> bool {
        match self.broken {
            Broken::JoinsAnyFlight => true,
            Broken::JoinerForgetsEpoch => flight.mark.sequence >= self.fences.last_change(KEY),
            _ => self.fences.holds(flight.mark, KEY),
        }
    }

    /// One step of one actor. `Err` is a violation.
    fn step(&mut self, who: usize) -> Result<Turn, String> {
        let mut actor = std::mem::take(&mut self.actors[who]);
        let step = actor.steps[actor.at];
        let turn = match step {
            Step::Lookup | Step::LoadEpoch | Step::LoadSequence => self.read(&mut actor, step),
            Step::Get | Step::Check | Step::Keep => self.ask(&mut actor, step),
            Step::Fly | Step::Land | Step::JoinOrFly => self.fly(&mut actor, step),
            Step::Receive | Step::Note => self.receive(&mut actor, step, who),
            Step::Cut | Step::Detect | Step::Track | Step::Attach => {
                self.link(step);
                Ok(Turn::Done)
            }
            _ => Ok(self.write(&mut actor, step)),
        };
        match turn {
            Ok(Turn::Done) => actor.at += 1,
            Ok(Turn::Over) => actor.at = actor.steps.len(),
            _ => {}
        }
        self.actors[who] = actor;
        turn
    }

    fn read(&mut self, actor: &mut Actor, step: Step) -> Result<Turn, String> {
        match step {
            Step::Lookup => {
                actor.floor = self.floor;
                if let Some(value) = self.servable() {
                    serve(actor, value, "the local tier")?;
                    return Ok(Turn::Over);
                }
            }
            Step::LoadEpoch => actor.mark.epoch = self.fences.epoch(),
            _ => actor.mark.sequence = self.fences.sequence(),
        }
        Ok(Turn::Done)
    }

    fn ask(&mut self, actor: &mut Actor, step: Step) -> Result<Turn, String> {
        match step {
            Step::Get => actor.value = self.redis,
            // The stamp of the local copy against the one in Redis.
            Step::Check => match self.local.filter(|it| it.value == self.redis) {
                Some(copy) => actor.value = copy.value,
                None => return Ok(Turn::Over),
            },
            _ => {
                let (value, mark) = (actor.value, actor.mark);
                serve(actor, value, "Redis")?;
                if actor.steps.contains(&Step::Check) {
                    self.verified = Some(Held { value, mark });
                } else {
                    self.local = Some(Held { value, mark });
                }
            }
        }
        Ok(Turn::Done)
    }

    fn fly(&mut self, actor: &mut Actor, step: Step) -> Result<Turn, String> {
        match step {
            Step::JoinOrFly => {
                actor.floor = self.floor;
                let joined = self.landing.filter(|it| self.may_join(&self.flights[*it]));
                if joined.is_some() {
                    actor.flight = joined;
                    actor.steps.push(Step::Land);
                }
            }
            Step::Fly => {
                actor.flight = Some(self.flights.len());
                self.landing = actor.flight;
                let mark = actor.mark;
                self.flights.push(Flight { mark, value: None });
            }
            _ => return self.land(actor),
        }
        Ok(Turn::Done)
    }

    fn land(&mut self, actor: &mut Actor) -> Result<Turn, String> {
        let flight = actor.flight.expect("in a flight");
        if actor.steps.contains(&Step::Get) {
            self.flights[flight].value = Some(actor.value);
            self.landing = self.landing.filter(|it| *it != flight);
            return Ok(Turn::Done);
        }
        let Some(value) = self.flights[flight].value else {
            return Ok(Turn::Blocked);
        };
        serve(actor, value, "a flight")?;
        Ok(Turn::Over)
    }

    fn write(&mut self, actor: &mut Actor, step: Step) -> Turn {
        match step {
            Step::Apply => {
                self.sent = true;
                actor.value = self.change();
            }
            // Was sent by one who gave up; whether before or after is open.
            Step::ApplyLate => _ = self.change(),
            Step::GiveUp => self.sent = true,
            Step::Count => actor.number = self.fences.count(),
            Step::Raise => self.fences.raise(KEY, actor.number),
            Step::KeepOwn => {
                let mark = match self.broken {
                    Broken::OwnCopyTrusted => self.fences.mark(),
                    _ => Mark::default(),
                };
                let value = actor.value;
                self.local = Some(Held { value, mark });
            }
            Step::DropOwn => self.local = None,
            _ => self.floor = self.floor.max(actor.value),
        }
        Turn::Done
    }

    fn receive(&mut self, actor: &mut Actor, step: Step, me: usize) -> Result<Turn, String> {
        if step == Step::Note {
            // Zero: there was nothing to receive any more.
            if actor.value != 0 {
                self.fences.raise(KEY, actor.number);
                self.floor = self.floor.max(actor.value);
            }
            return Ok(Turn::Done);
        }
        let others = self.actors.iter().enumerate().filter(|(who, _)| *who != me);
        let ended = { others }.all(|(_, it)| it.at == it.steps.len());
        match self.pushes.pop_front() {
            Some(value) => {
                actor.value = value;
                actor.number = self.fences.count();
            }
            None if ended => actor.value = 0,
            None => return Ok(Turn::Blocked),
        }
        Ok(Turn::Done)
    }

    fn link(&mut self, step: Step) {
        match step {
            Step::Cut => {
                self.tracked = false;
                self.pushes.clear();
            }
            Step::Detect => {
                self.attached = false;
                if self.broken != Broken::NoEpochAtGap {
                    self.fences.changed_all();
                }
            }
            Step::Track => self.tracked = true,
            _ => {
                let broken = [Broken::NoEpochAtGap, Broken::NoEpochAtAttach];
                if !broken.contains(&self.broken) {
                    self.fences.changed_all();
                }
                self.attached = true;
                // P8: nothing from the gap, except what is still on its way to us.
                let coming = self.pushes.len() as u64;
                self.floor = self.floor.max(self.redis - coming);
            }
        }
    }
}

fn serve(actor: &Actor, value: u64, from: &str) -> Result<(), String> {
    if value >= actor.floor {
        return Ok(());
    }
    let floor = actor.floor;
    Err(format!(
        "{from} gave {value} as fresh to one who began at {floor}"
    ))
}

/// The steps with the order broken where that is what is broken.
fn in_order(steps: &[Step], broken: Broken) -> Vec<Step> {
    let mut steps = steps.to_vec();
    match broken {
        Broken::MarkAfterRequest => {
            let is_mark = |it: &Step| matches!(it, Step::LoadEpoch | Step::LoadSequence);
            let asks = |it: &Step| matches!(it, Step::Get | Step::Check);
            if let Some(asked) = steps.iter().position(asks) {
                let marks: Vec<_> = steps.iter().copied().filter(is_mark).collect();
                steps.splice(asked + 1..asked + 1, marks.iter().copied());
                let mut at = 0;
                steps.retain(|it| {
                    at += 1;
                    at > asked + 1 || !is_mark(it)
                });
            }
        }
        Broken::NoChangeAtAcknowledgement if steps.contains(&Step::Reply) => {
            steps.retain(|it| !matches!(it, Step::Count | Step::Raise));
        }
        Broken::RepliesBeforeChange if steps.contains(&Step::Reply) => {
            steps.retain(|it| *it != Step::Reply);
            let counted = steps.iter().position(|it| *it == Step::Count);
            steps.insert(counted.expect("a write counts"), Step::Reply);
        }
        Broken::NotesChangeBeforeItHappens if steps.contains(&Step::Reply) => {
            steps.retain(|it| *it != Step::Apply);
            let raised = steps.iter().position(|it| *it == Step::Raise);
            steps.insert(raised.expect("a write raises") + 1, Step::Apply);
        }
        _ => {}
    }
    steps
}

/// What an exploration found.
#[derive(Default)]
struct Findings {
    interleavings: u64,
    violations: u64,
    first: Option<String>,
}

/// Goes through every order.
fn explore(world: &World, path: &mut Vec<(usize, Step)>, found: &mut Findings) {
    let mut moved = false;
    for who in 0..world.actors.len() {
        let actor = &world.actors[who];
        let Some(step) = actor.steps.get(actor.at) else {
            continue;
        };
        let mut next = world.clone();
        path.push((who, *step));
        match next.step(who) {
            Ok(Turn::Blocked) => {}
            Ok(_) => {
                moved = true;
                explore(&next, path, found);
            }
            Err(violation) => {
                moved = true;
                end(Some(violation), path, found);
            }
        }
        path.pop();
    }
    if !moved {
        let stuck = world.actors.iter().any(|it| it.at < it.steps.len());
        assert!(!stuck, "nobody can go on: {path:?}");
        assert!(world.pushes.is_empty(), "pushes left over: {path:?}");
        let stale = world.servable().filter(|value| *value != world.redis);
        let say = |value| format!("{value} is servable for ever, Redis has {}", world.redis);
        end(stale.map(say), path, found);
    }
}

fn end(violation: Option<String>, path: &[(usize, Step)], found: &mut Findings) {
    found.interleavings += 1;
    if let Some(violation) = violation {
        found.violations += 1;
        found
            .first
            .get_or_insert_with(|| format!("{violation}: {path:?}"));
    }
}

fn look(world: &World) -> Findings {
    let mut found = Findings::default();
    explore(world, &mut Vec::new(), &mut found);
    found
}

const LOOK: &[Step] = &[Step::Lookup];
const FILL: &[Step] = &[
    Step::Lookup,
    Step::LoadEpoch,
    Step::LoadSequence,
    Step::Get,
    Step::Keep,
];
const FILL_SEQUENCE_FIRST: &[Step] = &[
    Step::Lookup,
    Step::LoadSequence,
    Step::LoadEpoch,
    Step::Get,
    Step::Keep,
];
const VERIFY: &[Step] = &[
    Step::Lookup,
    Step::LoadEpoch,
    Step::LoadSequence,
    Step::Check,
    Step::Keep,
];
const FLY: &[Step] = &[
    Step::LoadEpoch,
    Step::LoadSequence,
    Step::Fly,
    Step::Get,
    Step::Land,
];
const JOIN: &[Step] = &[Step::JoinOrFly];
const FOREIGN: &[Step] = &[Step::Apply];
const FOREIGN_TWICE: &[Step] = &[Step::Apply, Step::Apply];
const OWN: &[Step] = &[
    Step::Apply,
    Step::Count,
    Step::Raise,
    Step::KeepOwn,
    Step::Reply,
];
const OWN_NOT_KEPT: &[Step] = &[Step::Apply, Step::Count, Step::Raise, Step::Reply];
const DELETE: &[Step] = &[
    Step::Apply,
    Step::Count,
    Step::Raise,
    Step::DropOwn,
    Step::Reply,
];
const TIMED_OUT: &[Step] = &[Step::GiveUp, Step::Count, Step::Raise, Step::ApplyLate];
const PUSH: &[Step] = &[Step::Receive, Step::Note];
const PUSHES: &[Step] = &[Step::Receive, Step::Note, Step::Receive, Step::Note];
const GAP: &[Step] = &[Step::Cut, Step::Detect, Step::Track, Step::Attach];

type Scenario = (&'static str, bool, bool, &'static [&'static [Step]]);

/// Name, whether there is a local copy, whether it is trusted, actors.
const SCENARIOS: &[Scenario] = &[
    (
        "fill against foreign writes",
        false,
        true,
        &[FILL, FOREIGN_TWICE, PUSHES, LOOK],
    ),
    (
        "sequence before epoch",
        false,
        true,
        &[FILL_SEQUENCE_FIRST, GAP, FOREIGN, PUSH],
    ),
    (
        "fill against own write",
        false,
        true,
        &[FILL, OWN, PUSH, LOOK],
    ),
    (
        "copy against own write",
        true,
        true,
        &[FILL, OWN, PUSH, LOOK],
    ),
    (
        "copy against own write that is not kept",
        true,
        true,
        &[FILL, OWN_NOT_KEPT, PUSH, LOOK],
    ),
    (
        "verify against own write that is not kept",
        true,
        false,
        &[VERIFY, OWN_NOT_KEPT, PUSH, LOOK],
    ),
    (
        "fill against own delete",
        false,
        true,
        &[FILL, DELETE, PUSH, LOOK],
    ),
    (
        "copy against own delete",
        true,
        true,
        &[FILL, DELETE, PUSH, LOOK],
    ),
    (
        "own write against foreign write",
        true,
        true,
        &[OWN, FOREIGN, PUSHES, LOOK],
    ),
    (
        "fill against own write that timed out",
        false,
        true,
        &[FILL, TIMED_OUT, PUSH, LOOK],
    ),
    (
        "copy against own write that timed out",
        true,
        true,
        &[FILL, TIMED_OUT, PUSH, LOOK],
    ),
    ("gap against fill", false, true, &[FILL, GAP, FOREIGN, PUSH]),
    ("gap against copy", true, true, &[FILL, GAP, FOREIGN, PUSH]),
    ("gap against own write", true, true, &[GAP, OWN, PUSH, LOOK]),
    (
        "gap against reader",
        true,
        true,
        &[GAP, FOREIGN, PUSH, LOOK],
    ),
    (
        "verify against foreign writes",
        true,
        false,
        &[VERIFY, FOREIGN_TWICE, PUSHES, LOOK],
    ),
    (
        "verify against own write",
        true,
        false,
        &[VERIFY, OWN, PUSH, LOOK],
    ),
    (
        "verify against gap",
        true,
        false,
        &[VERIFY, GAP, FOREIGN, PUSH],
    ),
    (
        "flight against own write",
        false,
        true,
        &[FLY, OWN, PUSH, JOIN],
    ),
    (
        "flight against foreign writes",
        false,
        true,
        &[FLY, FOREIGN_TWICE, PUSHES, JOIN],
    ),
    (
        "flight against gap",
        false,
        true,
        &[FLY, GAP, FOREIGN, PUSH, JOIN],
    ),
];

fn world(scenario: &Scenario, broken: Broken) -> World {
    let (_, local, trusted, actors) = scenario;
    let world = World::new(broken, *local, actors);
    if *trusted { world } else { world.unverified() }
}

#[test]
fn no_interleaving_serves_what_is_older_than_it_may_be() {
    let mut all = 0;
    for scenario in SCENARIOS {
        let found = look(&world(scenario, Broken::Nothing));
        println!("{:>9} interleavings: {}", found.interleavings, scenario.0);
        assert_eq!(found.first, None, "{}", scenario.0);
        all += found.interleavings;
    }
    println!("{all:>9} in all");
}

#[test]
fn the_explorer_finds_what_each_rule_is_for() {
    let cases: &[(Broken, &[&str])] = &[
        (
            Broken::MarkAfterRequest,
            &[
                "fill against foreign writes",
                "fill against own write",
                "fill against own delete",
                "fill against own write that timed out",
                "gap against fill",
                "verify against foreign writes",
                "verify against own write",
                "verify against gap",
            ],
        ),
        (
            Broken::NoChangeAtAcknowledgement,
            &[
                "fill against own write",
                "fill against own delete",
                "copy against own write that is not kept",
                "verify against own write that is not kept",
                "flight against own write",
            ],
        ),
        (
            Broken::RepliesBeforeChange,
            &["copy against own write", "flight against own write"],
        ),
        (
            Broken::NotesChangeBeforeItHappens,
            &["fill against own write", "flight against own write"],
        ),
        (Broken::OwnCopyTrusted, &["own write against foreign write"]),
        (
            Broken::NoEpochAtGap,
            &["gap against fill", "gap against copy", "gap against reader"],
        ),
        (
            Broken::NoEpochAtAttach,
            &["gap against fill", "verify against gap"],
        ),
        (
            Broken::JoinsAnyFlight,
            &["flight against own write", "flight against foreign writes"],
        ),
        (Broken::JoinerForgetsEpoch, &["flight against gap"]),
    ];
    for (broken, names) in cases {
        for name in *names {
            let scenario = SCENARIOS.iter().find(|it| it.0 == *name);
            let found = look(&world(scenario.expect("is listed"), *broken));
            println!(
                "{broken:?}, {name}: {} of {} interleavings",
                found.violations, found.interleavings
            );
            let first = found.first.expect("the violation is found");
            println!("    {first}");
        }
    }
}

#[test]
fn a_mark_holds_until_its_key_changes_or_a_gap() {
    let fences = Fences::new(1, 20);
    let mark = fences.mark();
    assert!(fences.holds(mark, KEY));
    fences.changed(b"another key");
    assert!(fences.holds(mark, KEY));
    fences.changed(KEY);
    assert!(!fences.holds(mark, KEY));
    assert_eq!(fences.last_change(KEY), fences.sequence());
    let later = fences.mark();
    assert!(fences.holds(later, KEY));
    assert_eq!(fences.changed_all(), later.epoch + 1);
    assert!(!fences.holds(later, KEY) && fences.holds(fences.mark(), KEY));
}

#[test]
fn an_unverified_mark_never_holds() {
    for epoch in [0, 1, u64::MAX] {
        let fences = Fences::new(epoch, 4);
        assert!(!fences.holds(Mark::default(), KEY));
        let unverified = Mark {
            sequence: 0,
            ..fences.mark()
        };
        assert!(unverified.epoch != 0 && fences.last_change(KEY) == 0);
        assert!(!fences.holds(unverified, KEY));
        assert!(fences.holds(fences.mark(), KEY));
        assert!(fences.changed_all() != 0);
    }
}

#[test]
fn one_stripe_is_enough_to_be_right_and_many_keep_keys_apart() {
    let one = Fences::new(3, 0);
    let mark = one.mark();
    one.changed(b"a");
    assert!(!one.holds(mark, b"b"));

    let many = Fences::new(3, 20);
    let mark = many.mark();
    for key in 0..1000_u32 {
        many.changed(&key.to_be_bytes());
    }
    let untouched = |key: &u32| many.holds(mark, &key.to_be_bytes());
    let shared = 1000 - (1000..2000).filter(untouched).count();
    assert!(
        shared < 20,
        "{shared} of 1000 keys share one of 1000 stripes of 2^20"
    );
    let made = many.blocks.iter().filter(|it| it.get().is_some()).count();
    assert!(made <= 1000 && many.blocks.len() == 2048, "{made}");
}

#[test]
fn changes_of_many_threads_all_count() {
    let fences = Fences::new(3, 10);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let mark = fences.mark();
                    fences.changed(KEY);
                    assert!(!fences.holds(mark, KEY));
                }
            });
        }
    });
    assert_eq!(fences.sequence(), 40_001);
    assert!(fences.last_change(KEY) == 40_001 && fences.holds(fences.mark(), KEY));
}
