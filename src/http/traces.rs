//! What became of handshakes that carry a trace: `?trace=` and 16 hex digits.
//!
//! A browser hides from its page why a handshake failed. A page that adds a random trace to the URL
//! can ask for the outcome later, by that trace alone.
//!
//! Owns the ring of outcomes. It does not know what led to them.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::query;
use super::refusal::Refusal;
use crate::ws::handshake::Rejection;

/// How many outcomes are remembered: less than 1 MiB of them.
pub const REMEMBERED: usize = 1024;
/// For how long.
pub const KEPT: Duration = Duration::from_secs(30);

/// The name of a trace, which only its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId(u64);

impl TraceId {
    /// The trace in a query.
    ///
    /// # Errors
    /// Where it is not 16 hex digits.
    pub(super) fn of(query: &str) -> Result<Option<Self>, Rejection> {
        let Some(digits) = query::value(query, "trace") else { return Ok(None) };
        let good = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(digits, 16).ok().filter(|_| good);
        id.map(|id| Some(Self(id))).ok_or(Rejection::BadOption("trace must be 16 hex digits"))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a handshake was answered with.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// With 101.
    Opened,
    /// With a refusal.
    Refused(Box<Refusal>),
}

/// What is known of a trace.
#[derive(Debug)]
pub(super) enum Known {
    /// What its handshake was answered with, and how long ago.
    Answered(Outcome, Duration),
    /// Nothing came with it in the last [`KEPT`].
    Never,
    /// Nothing is known: there were more handshakes than can be remembered.
    Forgotten,
}

/// The outcomes of the last handshakes with a trace.
#[derive(Debug, Default)]
pub(super) struct Traces(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    /// Empty until the first trace, then never reallocated.
    all: Vec<Remembered>,
    /// The oldest, once all are in use.
    oldest: usize,
    /// When one last had to make room before its time was over.
    overrun: Option<Instant>,
}

#[derive(Debug)]
struct Remembered {
    id: TraceId,
    at: Instant,
    outcome: Outcome,
}

impl Traces {
    /// Remembers the outcome of a handshake, in place of an earlier one with the same trace.
    pub(super) fn note(&self, id: TraceId, outcome: Outcome) {
        let now = Instant::now();
        let one = Remembered { id, at: now, outcome };
        let ring = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = ring.all.iter_mut().find(|other| other.id == id) {
            *same = one;
        } else if ring.all.len() < REMEMBERED {
            ring.all.reserve_exact(REMEMBERED - ring.all.len());
            ring.all.push(one);
        } else {
            let oldest = std::mem::replace(&mut ring.all[ring.oldest], one);
            ring.oldest = (ring.oldest + 1) % REMEMBERED;
            if now < oldest.at + KEPT {
                ring.overrun = Some(now);
            }
        }
    }

    /// What became of the handshake with this trace.
    pub(super) fn tell(&self, id: TraceId) -> Known {
        let now = Instant::now();
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ring.all.iter().find(|one| one.id == id && now < one.at + KEPT);
        match (found, ring.overrun) {
            (Some(one), _) => Known::Answered(one.outcome.clone(), now - one.at),
            (None, Some(overrun)) if now < overrun + KEPT => Known::Forgotten,
            (None, _) => Known::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_16_hex_digits() {
        assert_eq!(TraceId::of("a=1"), Ok(None));
        let good = TraceId::of("ping=off&trace=00ffA0123456789b").unwrap().unwrap();
        assert_eq!(good.to_string(), "00ffa0123456789b");
        for bad in ["", "0", "00ffa0123456789", "00ffa0123456789b0", "+0ffa0123456789b"] {
            assert!(TraceId::of(&format!("trace={bad}")).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_is_kept_for_its_time_and_by_its_trace_alone() {
        let traces = Traces::default();
        let refusal = Box::new(Refusal::from(Rejection::BadKey));
        traces.note(TraceId(1), Outcome::Refused(refusal));
        traces.note(TraceId(2), Outcome::Opened);
        assert!(matches!(traces.tell(TraceId(1)), Known::Answered(Outcome::Refused(_), _)));
        traces.note(TraceId(1), Outcome::Opened);
        let almost = Duration::from_millis(29_999);
        tokio::time::advance(almost).await;
        let Known::Answered(Outcome::Opened, ago) = traces.tell(TraceId(1)) else { panic!() };
        assert_eq!(ago, almost);
        assert!(matches!(traces.tell(TraceId(3)), Known::Never));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(traces.tell(TraceId(1)), Known::Never));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_can_be_remembered_takes_no_more_memory_and_is_admitted() {
        let traces = Traces::default();
        for id in 0..=REMEMBERED as u64 {
            traces.note(TraceId(id), Outcome::Opened);
        }
        assert_eq!(traces.0.lock().unwrap().all.capacity(), REMEMBERED);
        assert!(matches!(traces.tell(TraceId(0)), Known::Forgotten));
        assert!(matches!(traces.tell(TraceId(1)), Known::Answered(..)));
        tokio::time::advance(KEPT).await;
        assert!(matches!(traces.tell(TraceId(0)), Known::Never));
        for id in 0..REMEMBERED as u64 {
            traces.note(TraceId(id), Outcome::Opened);
        }
        assert!(matches!(traces.tell(TraceId(9999)), Known::Never), "all old ones were expired");
    }
}
