//! Histories written by hand: each rule once broken and, beside it, once not.

use std::time::Duration;

use super::{
    Action, Bounds, Fault, FaultKind, Found, Grant, History, Operation, Reach, Rule, Settled,
};

const BOUNDS: Bounds = Bounds {
    lease: Duration::from_millis(1000),
    max_stale: Duration::from_millis(2000),
    slack: Duration::from_millis(100),
    stamps: Duration::from_millis(500),
};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// An operation on key 0 by a daemon, from begin to end in milliseconds; attached.
fn by(daemon: usize, begin: u64, end: u64, action: Action) -> Operation {
    Operation {
        key: Some(0),
        daemon: Some(daemon),
        process: 0,
        begin: ms(begin),
        end: ms(end),
        attached: true,
        action,
    }
}

fn detached(operation: Operation) -> Operation {
    Operation {
        attached: false,
        ..operation
    }
}

fn process(operation: Operation, process: u32) -> Operation {
    Operation {
        process,
        ..operation
    }
}

fn put(value: u64, reach: Reach) -> Action {
    Action::Put {
        value,
        expires: ms(1_000_000),
        reach,
    }
}

fn remove(reach: Reach) -> Action {
    Action::Remove { reach }
}

fn get(value: u64) -> Action {
    found(value, false)
}

fn stale(value: u64) -> Action {
    found(value, true)
}

fn found(value: u64, stale: bool) -> Action {
    let found = Found {
        value: Some(value),
        stale,
        local: true,
    };
    Action::Get { found: Some(found) }
}

fn history(operations: impl IntoIterator<Item = Operation>) -> History {
    History {
        operations: operations.into_iter().collect(),
        ..History::default()
    }
}

fn fault(daemon: usize, kind: FaultKind, from: u64, to: u64) -> Fault {
    Fault {
        daemon: Some(daemon),
        kind,
        from: ms(from),
        to: ms(to),
        name: "a fault".into(),
    }
}

fn broken(history: &History) -> Vec<Rule> {
    let (violations, _) = history.check(&BOUNDS);
    for violation in &violations {
        assert!(history.report(violation).contains(&violation.text));
    }
    violations.iter().map(|violation| violation.rule).collect()
}

use FaultKind::{DataSwallowed, Down, Frozen, Late, Stopped, Swallowed, TrackingSwallowed};
use Reach::{Applied, Deferred, Failed, Unknown};

#[test]
fn what_was_replaced_elsewhere_is_old_after_the_lease() {
    for change in [put(2, Applied), remove(Applied)] {
        let seen_at = |at: u64, action: Action| {
            history([
                by(0, 0, 10, put(1, Applied)),
                by(1, 20, 30, change.clone()),
                by(0, at, at + 5, action),
            ])
        };
        assert_eq!(broken(&seen_at(1200, get(1))), [Rule::Old]);
        assert_eq!(broken(&seen_at(1100, get(1))), []);
        assert_eq!(broken(&seen_at(1200, stale(1))), []);
        let (_, summary) = seen_at(1100, get(1)).check(&BOUNDS);
        assert_eq!(
            (summary.late_by_lease, summary.staleness_max),
            (1, ms(1070))
        );
    }
}

#[test]
fn who_stands_still_decides_when_that_is_over() {
    let with = |daemon: usize, begin: u64| {
        let mut history = history([
            by(0, 0, 10, put(1, Applied)),
            by(1, 20, 30, put(2, Applied)),
            by(0, begin, 1300, get(1)),
        ]);
        history.faults.push(fault(daemon, Frozen, 15, 1200));
        broken(&history)
    };
    for begin in [18, 25, 1000] {
        assert_eq!(with(0, begin), [Rule::Old], "begun at {begin}");
        assert_eq!(with(1, begin), [], "the other one stood still");
    }
    assert_eq!(with(0, 12), [], "it may have decided before");
}

#[test]
fn puts_that_overlap_may_come_in_either_order() {
    let both = [by(0, 0, 10, put(1, Applied)), by(1, 5, 30, put(2, Applied))];
    for value in [1, 2] {
        let late = by(2, 9000, 9001, get(value));
        assert_eq!(broken(&history(both.iter().cloned().chain([late]))), []);
    }
}

#[test]
fn a_change_in_redis_itself_and_the_loss_of_all_data_count_too() {
    for key in [Some(0), None] {
        let change = |reach| Operation {
            key,
            daemon: None,
            ..by(0, 20, 30, remove(reach))
        };
        let with = |reach| {
            history([
                by(0, 0, 10, put(1, Applied)),
                change(reach),
                by(1, 2000, 2001, get(1)),
            ])
        };
        assert_eq!(broken(&with(Applied)), [Rule::Old]);
        assert_eq!(broken(&with(Unknown)), []);
    }
}

#[test]
fn a_deferred_change_counts_when_its_daemon_is_attached_again() {
    for change in [put(2, Deferred), remove(Deferred)] {
        let with = |put_end: u64, attached: bool| {
            let again = by(1, 4000, 4010, Action::Get { found: None });
            history([
                by(0, 0, put_end, put(1, Applied)),
                detached(by(1, 1000, 1010, change.clone())),
                if attached { again } else { detached(again) },
                by(0, 8000, 8001, get(1)),
            ])
        };
        assert_eq!(broken(&with(10, true)), [Rule::Old]);
        assert_eq!(broken(&with(10, false)), []);
        assert_eq!(
            broken(&with(900, true)),
            [],
            "stamps may disagree that much"
        );
    }
}

#[test]
fn a_put_that_was_on_the_wire_may_arrive_until_its_daemon_is_attached() {
    for reach in [Deferred, Failed] {
        let with = |attached_at: u64| {
            history([
                detached(by(0, 0, 10, put(1, reach))),
                by(0, attached_at, attached_at + 1, Action::Get { found: None }),
                by(1, 3000, 3010, remove(Applied)),
                by(1, 9000, 9001, get(1)),
            ])
        };
        assert_eq!(broken(&with(5000)), []);
        assert_eq!(
            broken(&with(2000)),
            [Rule::Old, Rule::Own].into_iter().rev().collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_put_without_an_answer_is_over_when_the_next_process_is_attached() {
    let with = |number: u32| {
        let mut history = history([
            by(0, 0, 10, put(1, Unknown)),
            process(by(0, 2000, 2001, Action::Get { found: None }), number),
            by(1, 3000, 3010, remove(Applied)),
            by(2, 9000, 9001, get(1)),
        ]);
        history.faults.push(fault(0, Down, 5, 1000));
        history
    };
    assert_eq!(broken(&with(0)), []);
    assert_eq!(broken(&with(1)), [Rule::Old]);
}

#[test]
fn a_daemon_never_returns_what_it_replaced_itself() {
    for change in [
        put(2, Applied),
        remove(Applied),
        put(2, Deferred),
        remove(Deferred),
    ] {
        for read in [get(1), stale(1)] {
            let with = |writer: usize, reader: usize| {
                history([
                    by(writer, 0, 10, put(1, Applied)),
                    detached(by(0, 600, 610, change.clone())),
                    detached(by(reader, 611, 612, read.clone())),
                ])
            };
            assert_eq!(broken(&with(0, 0)), [Rule::Own]);
            assert_eq!(broken(&with(1, 0)), [Rule::Own]);
            assert_eq!(broken(&with(1, 1)), []);
        }
    }
    for change in [remove(Failed), remove(Unknown)] {
        let mut history = history([
            by(0, 0, 10, put(1, Applied)),
            by(0, 600, 610, change),
            by(0, 611, 612, get(1)),
        ]);
        history.faults.push(fault(0, Down, 605, 610));
        assert_eq!(broken(&history), []);
    }
}

#[test]
fn a_daemon_finds_what_it_has_put_itself() {
    let nothing = || Action::Get { found: None };
    let with = |reader: usize, begin: u64, more: Vec<Operation>| {
        let own = [
            by(0, 0, 10, remove(Applied)),
            by(0, 100, 110, put(1, Applied)),
            by(reader, begin, 130, nothing()),
        ];
        history(own.into_iter().chain(more))
    };
    assert_eq!(broken(&with(0, 120, vec![])), [Rule::Unread]);
    assert_eq!(broken(&with(1, 120, vec![])), [], "another's put");
    assert_eq!(broken(&with(0, 105, vec![])), [], "not acknowledged yet");
    let later = by(1, 140, 150, remove(Applied));
    assert_eq!(broken(&with(0, 120, vec![later])), [Rule::Unread]);
    for (begin, end, reach) in [(90, 101, Applied), (125, 150, Applied), (20, 30, Deferred)] {
        let other = by(1, begin, end, remove(reach));
        assert_eq!(broken(&with(0, 120, vec![other])), [], "{begin} {reach:?}");
    }
    for (kind, expected) in [(Late, vec![Rule::Unread]), (FaultKind::Other, vec![])] {
        let mut history = with(0, 120, vec![]);
        history.faults.push(fault(0, kind, 105, 115));
        assert_eq!(broken(&history), expected, "{kind:?}");
    }
    let mut away = with(0, 120, vec![]);
    away.operations[2].attached = false;
    assert_eq!(broken(&away), [], "Redis was not asked");
    let mut short = with(0, 120, vec![]);
    if let Action::Put { expires, .. } = &mut short.operations[1].action {
        *expires = ms(200);
    }
    assert_eq!(broken(&short), [], "its lifetime may be over");
}

#[test]
fn what_redis_cannot_have_is_not_fresh() {
    for kind in [Swallowed, DataSwallowed, Stopped] {
        let with = |from: u64, read: Action| {
            let mut history = history([
                detached(by(0, 1000, 1010, put(1, Deferred))),
                detached(by(0, 1020, 1030, read)),
            ]);
            history.faults.push(fault(0, kind, from, 2000));
            history
        };
        assert_eq!(broken(&with(900, get(1))), [Rule::Unbacked]);
        assert_eq!(broken(&with(900, stale(1))), []);
        assert_eq!(broken(&with(1005, get(1))), []);
    }
}

#[test]
fn stale_answers_end_with_max_stale() {
    for kind in [Swallowed, TrackingSwallowed, Stopped] {
        let with = |at: u64, to: u64| {
            let mut history = history([
                by(0, 0, 10, put(1, Applied)),
                detached(by(0, at, at + 1, stale(1))),
            ]);
            history.faults.push(fault(0, kind, 100, to));
            history
        };
        assert_eq!(broken(&with(3300, 9000)), [Rule::Stale]);
        assert_eq!(broken(&with(3150, 9000)), []);
        assert_eq!(broken(&with(3300, 3200)), []);
        // What was put here during the outage is as old as its put.
        let own = |at: u64, by_whom: usize| {
            let mut history = history([
                by(by_whom, 2000, 2010, put(1, Deferred)),
                detached(by(0, at, at + 1, stale(1))),
            ]);
            history.faults.push(fault(0, kind, 100, 9000));
            history
        };
        assert_eq!(broken(&own(5000, 0)), []);
        assert_eq!(broken(&own(5200, 0)), [Rule::Stale]);
        assert_eq!(broken(&own(5000, 1)), [Rule::Stale]);
    }
}

#[test]
fn nothing_is_returned_after_its_lifetime_or_out_of_thin_air() {
    let short = Action::Put {
        value: 1,
        expires: ms(500),
        reach: Applied,
    };
    for read in [get(1), stale(1)] {
        let with = |at: u64| history([by(0, 0, 10, short.clone()), by(1, at, at, read.clone())]);
        assert_eq!(broken(&with(700)), [Rule::Expired]);
        assert_eq!(broken(&with(550)), []);
    }
    assert_eq!(broken(&history([by(0, 0, 1, get(7))])), [Rule::Invented]);
    let other_key = Operation {
        key: Some(1),
        ..by(0, 20, 21, get(1))
    };
    assert_eq!(
        broken(&history([by(0, 0, 10, put(1, Applied)), other_key])),
        [Rule::Invented]
    );
    let from_the_future = [by(0, 0, 1, get(1)), by(0, 5, 10, put(1, Applied))];
    assert_eq!(broken(&history(from_the_future)), [Rule::Invented]);
}

#[test]
fn only_who_was_killed_may_fail() {
    for action in [put(1, Unknown), remove(Unknown), Action::Unanswered] {
        let mut history = history([by(0, 100, 200, action)]);
        assert_eq!(broken(&history), [Rule::Failed]);
        history.faults.push(fault(0, Down, 150, 300));
        assert_eq!(broken(&history), []);
    }
}

fn settled(history: History, redis: Option<u64>, answer: Option<u64>, stale: bool) -> History {
    let settled = Settled {
        key: 0,
        at: ms(20_000),
        redis,
        daemons: vec![(redis, false), (answer, stale)],
    };
    History {
        settled: vec![settled],
        ..history
    }
}

#[test]
fn in_the_end_everybody_agrees_with_redis() {
    let puts = history([by(0, 0, 10, put(1, Applied)), by(1, 5, 15, put(2, Applied))]);
    for (redis, answer, stale, expected) in [
        (Some(1), Some(1), false, None),
        (Some(1), None, false, None),
        (Some(1), Some(2), false, Some(Rule::Diverged)),
        (Some(1), Some(1), true, Some(Rule::Diverged)),
        (None, Some(1), false, Some(Rule::Diverged)),
        (None, None, false, None),
    ] {
        let broken = broken(&settled(puts.clone(), redis, answer, stale));
        assert_eq!(
            broken,
            Vec::from_iter(expected),
            "{redis:?} {answer:?} {stale}"
        );
    }
}

#[test]
fn the_last_put_is_not_harmed_by_what_came_before_it() {
    let with = |before: Operation, kind: FaultKind| {
        let mut history = history([before, by(1, 2000, 2010, put(2, Applied))]);
        history.faults.push(fault(0, kind, 500, 5000));
        broken(&settled(history, None, None, false))
    };
    let change = |begin: u64, reach: Reach| detached(by(0, begin, begin + 10, remove(reach)));
    assert_eq!(with(change(1000, Applied), Swallowed), [Rule::Harmed]);
    assert_eq!(with(change(1000, Deferred), Swallowed), [Rule::Harmed]);
    assert_eq!(
        with(change(1000, Deferred), Stopped),
        [],
        "it may arrive late"
    );
    assert_eq!(
        with(change(1800, Deferred), Swallowed),
        [],
        "stamps may disagree"
    );
    assert_eq!(with(change(1995, Applied), Swallowed), [], "they overlap");
    let untag = |reach: Reach| by(0, 1000, 1010, Action::Untag { reach });
    assert_eq!(with(untag(Applied), Swallowed), [Rule::Harmed]);
    assert_eq!(
        with(untag(Deferred), Swallowed),
        [],
        "it takes what is newer along"
    );
    assert_eq!(with(change(3000, Applied), Swallowed), [], "it came later");
}

/// A lease for 500 ms, granted by a Get from begin to 10 ms later.
fn grant(daemon: usize, begin: u64, used: Option<u64>) -> Grant {
    Grant {
        key: 0,
        daemon,
        begin: ms(begin),
        end: ms(begin + 10),
        attached: true,
        expires: ms(begin + 500),
        used,
    }
}

fn with_grants(
    operations: impl IntoIterator<Item = Operation>,
    grants: impl IntoIterator<Item = Grant>,
) -> History {
    History {
        grants: grants.into_iter().collect(),
        ..history(operations)
    }
}

#[test]
fn who_was_overtaken_is_refused() {
    for (reach, by_other, begin, is_broken) in [
        // A change of another daemon between the grant and the put.
        (Applied, Applied, 20, true),
        (Deferred, Applied, 20, false),
        (Applied, Deferred, 20, false),
        // One that overlaps the grant, or the put.
        (Applied, Applied, 5, false),
        (Applied, Applied, 95, false),
    ] {
        let operations = [
            by(1, begin, begin + 10, remove(by_other)),
            by(0, 100, 110, put(1, reach)),
        ];
        let expected = if is_broken {
            vec![Rule::Overtaken]
        } else {
            vec![]
        };
        let found = broken(&with_grants(operations, [grant(0, 0, Some(1))]));
        assert_eq!(found, expected, "{reach:?}, {by_other:?}, {begin}");
    }
    let own = [
        by(0, 20, 30, remove(Deferred)),
        by(0, 100, 110, put(1, Deferred)),
    ];
    let found = broken(&with_grants(own, [grant(0, 0, Some(1))]));
    assert_eq!(found, [Rule::Overtaken]);
    for (at, expected) in [(590, vec![]), (601, vec![Rule::Overtaken])] {
        let late = [by(0, at, at + 10, put(1, Applied))];
        let found = broken(&with_grants(late, [grant(0, 0, Some(1))]));
        assert_eq!(found, expected, "{at}");
    }
}

#[test]
fn two_do_not_compute_at_the_same_time() {
    let other = |begin| grant(1, begin, None);
    let twice = |operations: Vec<Operation>, second: Grant| {
        broken(&with_grants(operations, [grant(0, 1000, None), second]))
    };
    assert_eq!(twice(vec![], other(1100)), [Rule::Twice]);
    assert_eq!(
        twice(vec![], other(1005)),
        [],
        "together: the order is not known"
    );
    assert_eq!(
        twice(vec![], other(1391)),
        [],
        "the first one's time was over"
    );
    let alone = Grant {
        attached: false,
        ..other(1100)
    };
    assert_eq!(twice(vec![], alone), [], "each daemon by itself");
    let change = |begin, reach| vec![by(2, begin, begin + 10, remove(reach))];
    assert_eq!(twice(change(1050, Failed), other(1100)), []);
    assert_eq!(twice(change(100, Applied), other(1100)), [Rule::Twice]);
    assert_eq!(twice(change(100, Unknown), other(1100)), [Rule::Failed]);
}
