//! Which questions were asked, which were answered, and when an answer is overdue.
//!
//! ```text
//! asked      |----|----|----|----|          every heartbeat, also while earlier ones are open
//! answered     |    |
//!                   ^ last answered
//!                 |<------- lease ------->| overdue: lease after the last answered was asked,
//!                      |<- lease - hb --->| which is lease - heartbeat after the oldest open one
//! ```
//! It is reckoned from the oldest open question, so that a daemon that was late to ask does not
//! take its own pause for the server's silence.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Beat, check_role};
use crate::{
    clock::Timestamp,
    resp::{Fault, Value, code_of},
};

/// Questions open at once, beyond which nobody can hurry for another one.
const OPEN_MAX: usize = 32;

/// One question (ROLE and TIME in one go) without its whole answer.
struct Question {
    sent_micros: u64,
    asked: Instant,
    /// Whether ROLE has been answered.
    is_master: bool,
}

/// The questions of one connection.
pub(super) struct Pulse {
    heartbeat: Duration,
    /// How long a question may be open.
    patience: Duration,
    /// Oldest first; at most one for each heartbeat of a lease.
    open: VecDeque<Question>,
    next: Instant,
}

impl Pulse {
    /// The first question is due at once.
    pub(super) fn new(heartbeat: Duration, lease: Duration) -> Self {
        Self {
            heartbeat,
            patience: lease.saturating_sub(heartbeat),
            open: VecDeque::new(),
            next: Instant::now(),
        }
    }

    /// Whether to ask now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// The next question is due now, unless many are open already.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.open.len() < OPEN_MAX {
            self.next = self.next.min(now);
        }
    }

    /// A question is being sent; `sent_micros` was read before.
    pub(super) fn sent(&mut self, sent_micros: u64, asked: Instant) {
        self.next = asked + self.heartbeat;
        self.open.push_back(Question {
            sent_micros,
            asked,
            is_master: false,
        });
    }

    /// When there is something to do if nothing arrives before.
    pub(super) fn wake(&self) -> Instant {
        self.deadline().map_or(self.next, |it| it.min(self.next))
    }

    /// Whether an answer should have come by now.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    fn deadline(&self) -> Option<Instant> {
        let oldest = self.open.front()?;
        Some(oldest.asked + self.patience)
    }

    /// Takes one reply; a beat when it completes an answer. The error ends the connection.
    pub(super) fn answered(&mut self, reply: Value, now: Instant) -> Result<Option<Beat>, String> {
        let question = self.open.front_mut();
        let question = question.ok_or("an answer came without a question")?;
        let command = if question.is_master { "TIME" } else { "ROLE" };
        if let Value::Error(error) = reply {
            return Err(Fault::Refused(command, code_of(&error)).to_string());
        }
        if !question.is_master {
            check_role(&reply)?;
            question.is_master = true;
            return Ok(None);
        }
        let beat = Beat {
            sent_at: Timestamp::from_millis(question.sent_micros / 1000),
            sent_micros: question.sent_micros,
            server_micros: time(&reply).ok_or_else(|| Fault::Unexpected("TIME").to_string())?,
            round_trip: now.saturating_duration_since(question.asked),
        };
        self.open.pop_front();
        Ok(Some(beat))
    }
}

/// Seconds and microseconds, as TIME answers, as microseconds.
fn time(reply: &Value) -> Option<u64> {
    let [seconds, micros] = reply.list()? else {
        return None;
    };
    let seconds = u64::try_from(seconds.integer()?).ok()?;
    let micros = u64::try_from(micros.integer()?).ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(100);
    const LEASE: Duration = Duration::from_millis(1000);

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    fn master() -> Value {
        Value::List(vec![text("master"), Value::Integer(0), Value::List(vec![])])
    }

    #[test]
    fn an_answer_is_role_and_time() {
        let mut pulse = Pulse::new(HEARTBEAT, LEASE);
        let start = Instant::now();
        assert!(pulse.is_due(start) && !pulse.is_overdue(start + LEASE));
        pulse.sent(7_000, start);
        assert!(!pulse.is_due(start));
        assert_eq!(pulse.answered(master(), start), Ok(None));
        let told = Value::List(vec![text("12"), text("345678")]);
        let beat = pulse.answered(told, start + HEARTBEAT);
        let expected = Beat {
            sent_at: Timestamp::from_millis(7),
            sent_micros: 7_000,
            server_micros: 12_345_678,
            round_trip: HEARTBEAT,
        };
        assert_eq!(beat, Ok(Some(expected)));
    }

    #[test]
    fn an_answer_is_overdue_a_lease_after_the_last_answered_question() {
        let mut pulse = Pulse::new(HEARTBEAT, LEASE);
        let start = Instant::now();
        for beat in 0..3 {
            pulse.sent(0, start + HEARTBEAT * beat);
        }
        pulse.answered(master(), start).expect("master");
        let told = Value::List(vec![text("1"), text("1")]);
        pulse.answered(told, start).expect("time");
        // The first was asked at `start`.
        assert!(!pulse.is_overdue(start + LEASE - Duration::from_millis(1)));
        assert!(pulse.is_overdue(start + LEASE));
        assert_eq!(pulse.wake(), start + HEARTBEAT * 3);
    }

    #[test]
    fn a_question_asked_late_gets_its_time() {
        let mut pulse = Pulse::new(HEARTBEAT, LEASE);
        let late = Instant::now() + 5 * LEASE;
        assert!(!pulse.is_overdue(late));
        pulse.sent(0, late);
        assert!(!pulse.is_overdue(late + LEASE / 2));
        assert!(pulse.is_overdue(late + LEASE));
    }

    #[test]
    fn other_answers_end_it() {
        let replies = [
            (Value::List(vec![text("slave")]), "replica"),
            (Value::Null, "ROLE is not as expected"),
            (
                Value::Error(Bytes::from_static(b"NOPERM x")),
                "may not run ROLE",
            ),
            (Value::Error(Bytes::from_static(b"LOADING x")), "LOADING"),
        ];
        for (reply, part) in replies {
            let mut pulse = Pulse::new(HEARTBEAT, LEASE);
            pulse.sent(0, Instant::now());
            let fault = pulse.answered(reply, Instant::now()).expect_err(part);
            assert!(fault.contains(part), "{fault}");
        }
        let mut pulse = Pulse::new(HEARTBEAT, LEASE);
        assert!(pulse.answered(master(), Instant::now()).is_err());
    }
}
