//! Accepting connections under permits: `limits.max_connections`, and the lanes for those over it and
//! for the admin listener.
//!
//! Owns the permits and the order in which they are taken, and what a full instance leaves to the others
//! on its sockets. It does not know how many permits there should be, nor how a connection is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::http::admission::{Admission, Lane};
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::net::listen::{Listeners, Reach};
use crate::net::stream::Stream;

/// How often a full instance looks whether the others take the connections of the sockets they share.
const LOOK: Duration = Duration::from_millis(50);
/// For how long there must always have been a connection waiting until it is taken for certain that the
/// others are full as well.
const NEGLECT: Duration = Duration::from_secs(1);

/// Listening sockets, and the permits for what is accepted on them.
pub(super) struct Entrance {
    listeners: Listeners,
    /// Without a permit at the admin listener, all of whose connections are seated.
    admitted: Arc<Semaphore>,
    lane: Lane,
    /// Whether other instances accept on the inherited sockets too.
    shared: bool,
    /// Since when, as far as a full instance has seen, connections have waited there.
    waiting: Option<Instant>,
    looked: Instant,
    /// Accepted, and without a permit yet: kept here, so that accepting can be cancelled.
    standing: Option<(Stream, PeerAddr)>,
}

impl Entrance {
    /// Admits so many connections, and seats the others in the lane.
    pub(super) fn new(listeners: Listeners, admitted: usize, lane: Lane) -> Self {
        let admitted = Arc::new(Semaphore::new(admitted));
        let (waiting, standing, looked) = (None, None, Instant::now());
        Self { listeners, admitted, lane, shared: false, waiting, looked, standing }
    }

    /// While it is full, leaves what arrives at the inherited sockets to the instances that share them,
    /// unless none of those takes it.
    pub(super) fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// The bound addresses.
    pub(super) fn addrs(&self) -> impl Iterator<Item = &ListenAddr> {
        self.listeners.addrs()
    }

    /// Leaves the inherited sockets to whoever comes after us, with the connections in their backlog.
    pub(super) fn keep_own(&mut self) {
        self.listeners.keep_own();
    }

    /// Waits for a connection, and admits or seats it. Cancel safe.
    pub(super) async fn accept(&mut self) -> (Stream, PeerAddr, Admission) {
        if self.standing.is_none() {
            self.standing = Some(self.next().await);
        }
        let admission = match Arc::clone(&self.admitted).try_acquire_owned() {
            Ok(permit) => Admission::Admitted(permit),
            Err(_) => Admission::Seated(self.lane.enter().await),
        };
        let (stream, peer) = self.standing.take().expect("it stands there until now");
        (stream, peer, admission)
    }

    /// The next connection that is ours to admit or to refuse.
    async fn next(&mut self) -> (Stream, PeerAddr) {
        while self.shared && self.admitted.available_permits() == 0 {
            let neglected = self.waiting.is_some_and(|since| since.elapsed() >= NEGLECT);
            let from = if neglected { Reach::All } else { Reach::Own };
            tokio::select! {
                biased;
                // Given back at once: it only tells that there is room.
                _ = self.admitted.acquire() => {}
                accepted = self.listeners.accept(from) => return accepted,
                () = sleep_until(self.looked + LOOK) => {
                    self.looked = Instant::now();
                    let waiting = self.listeners.are_waited_at();
                    self.waiting = waiting.then(|| self.waiting.unwrap_or(self.looked));
                }
            }
        }
        self.waiting = None;
        self.listeners.accept(Reach::All).await
    }
}
