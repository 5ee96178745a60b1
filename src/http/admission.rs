//! Under what right a connection is open: as one of `limits.max_connections`, or in a lane.
//!
//! Owns the lanes: a fixed number of seats in which the newcomer is always seated, if need be in
//! place of the one that has kept its seat longest. So those who only hold a seat hold up nobody. It
//! does not know what a seated connection does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// How long an evicted connection may take to leave before the next one is evicted as well.
const EVICTION: Duration = Duration::from_millis(10);

/// The right by which a connection is open, kept as long as it lives.
#[derive(Debug)]
pub enum Admission {
    /// One of `limits.max_connections`.
    Admitted(OwnedSemaphorePermit),
    /// One over a limit: it is refused, and only `/healthz` is answered.
    Seated(Seat),
}

impl Admission {
    /// Gives up a permit for a seat: whoever gets no WebSocket takes no room from those that may.
    pub(super) async fn step_aside(&mut self, lane: &Lane) {
        if let Self::Admitted(_) = self {
            *self = Self::Seated(lane.enter().await);
        }
    }

    /// What a session keeps. It has a permit: a seated connection opens none.
    pub(super) fn into_permit(self) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Admitted(permit) => Some(permit),
            Self::Seated(_) => None,
        }
    }

    /// Completes when the connection has to make room; `None` for an admitted one, which never has
    /// to, and carries no more than this.
    pub(super) fn evicted(&self) -> Option<Pin<Box<WaitForCancellationFuture<'_>>>> {
        match self {
            Self::Admitted(_) => None,
            Self::Seated(seat) => Some(Box::pin(seat.evicted.cancelled())),
        }
    }
}

/// A number of seats for connections that are soon over.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Seats>);

#[derive(Debug)]
struct Seats {
    size: usize,
    taken: Mutex<Taken>,
    left: Notify,
}

/// The seated, the longest first.
#[derive(Debug, Default)]
struct Taken {
    next: u64,
    all: VecDeque<(u64, CancellationToken)>,
}

/// A seat in a lane, given up on drop.
#[derive(Debug)]
pub struct Seat {
    lane: Lane,
    number: u64,
    evicted: CancellationToken,
}

impl Lane {
    /// A lane with so many seats, at least one.
    #[must_use]
    pub fn new(seats: usize) -> Self {
        let (taken, left) = (Mutex::default(), Notify::new());
        Self(Arc::new(Seats { size: seats.max(1), taken, left }))
    }

    /// Takes a seat. If there is none, the connection seated longest is evicted, and waited for.
    ///
    /// Cancel safe.
    pub async fn enter(&self) -> Seat {
        loop {
            let left = self.0.left.notified();
            if let Some(seat) = self.try_enter() {
                return seat;
            }
            // A task that is stuck does not leave: the next turn evicts another one.
            let _ = timeout(EVICTION, left).await;
        }
    }

    /// Takes a free seat, or evicts the first that is not yet leaving.
    fn try_enter(&self) -> Option<Seat> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all.len() >= self.0.size {
            let first = taken.all.iter().find(|(_, evicted)| !evicted.is_cancelled());
            if let Some((_, evicted)) = first {
                evicted.cancel();
            }
            return None;
        }
        let (number, evicted) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.all.push_back((number, evicted.clone()));
        Some(Seat { lane: self.clone(), number, evicted })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.lane.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all.retain(|(number, _)| *number != self.number);
        self.lane.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_takes_the_place_of_the_one_seated_longest() {
        let lane = Lane::new(2);
        let (first, second) = (lane.enter().await, lane.enter().await);
        let (mut entering, leave) = (Box::pin(lane.enter()), first.evicted.clone());
        assert!(timeout(Duration::from_millis(1), &mut entering).await.is_err(), "no free seat");
        assert!(leave.is_cancelled() && !second.evicted.is_cancelled());
        drop(first);
        let third = entering.await;
        assert!(!second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(second);
        let _fourth = lane.enter().await;
        assert!(!third.evicted.is_cancelled(), "a free seat is taken first");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_leave_holds_up_nobody() {
        let lane = Lane::new(2);
        let (stuck, other) = (lane.enter().await, lane.enter().await);
        let mut entering = Box::pin(lane.enter());
        assert!(timeout(2 * EVICTION, &mut entering).await.is_err());
        assert!(stuck.evicted.is_cancelled() && other.evicted.is_cancelled());
        drop(other);
        entering.await;
    }
}
