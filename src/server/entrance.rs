//! Accepting connections under permits: `limits.max_connections`, and the lanes for those over it and
//! for the admin listener.
//!
//! Owns the permits and the order in which they are taken, and what an instance that is full, or about to
//! be restarted, leaves to the others on its sockets. It does not know how many permits there should be,
//! nor how a connection is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::http::admission::{Admission, Lane};
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::net::listen::{Listeners, Reach};
use crate::net::stream::Stream;

/// How often an instance that leaves newcomers to the others looks whether they take them.
const LOOK: Duration = Duration::from_millis(50);
/// For how long there must always have been a connection waiting until it is taken for certain that the
/// others are full as well.
const NEGLECT: Duration = Duration::from_secs(1);
/// The same until an instance that has stepped aside serves them itself: shorter, so that it comes before
/// a full one, which can only refuse them.
const NEGLECT_ASIDE: Duration = Duration::from_millis(200);
/// For how long an instance steps aside: longer than a sibling may take to check its configuration, to
/// drain and to start, by the timeouts of the unit.
const ASIDE: Duration = Duration::from_secs(90);

/// Listening sockets, and the permits for what is accepted on them.
pub(super) struct Entrance {
    listeners: Listeners,
    /// Without a permit at the admin listener, all of whose connections are seated.
    admitted: Arc<Semaphore>,
    lane: Lane,
    /// Whether other instances accept on the inherited sockets too.
    shared: bool,
    /// Until when newcomers are left to those.
    aside: Option<Instant>,
    /// Since when, as far as it was looked, connections have waited there.
    waiting: Option<Instant>,
    looked: Instant,
    /// Accepted, and without a permit yet: kept here, so that accepting can be cancelled.
    standing: Option<(Stream, PeerAddr)>,
}

impl Entrance {
    /// Admits so many connections, and seats the others in the lane.
    pub(super) fn new(listeners: Listeners, admitted: usize, lane: Lane) -> Self {
        let admitted = Arc::new(Semaphore::new(admitted));
        let (aside, waiting, standing, looked) = (None, None, None, Instant::now());
        Self { listeners, admitted, lane, shared: false, aside, waiting, looked, standing }
    }

    /// While it is full, leaves what arrives at the inherited sockets to the instances that share them,
    /// unless none of those takes it.
    pub(super) fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// Leaves what arrives at the inherited sockets to the instances that share them, unless none of
    /// those takes it, for [`ASIDE`]: this one is about to be restarted, and would close what it takes.
    pub(super) fn step_aside(&mut self) {
        if self.shared {
            self.aside = Some(Instant::now() + ASIDE);
            let seconds = ASIDE.as_secs();
            tracing::info!(seconds, "leaving newcomers to the other instances");
        } else {
            tracing::info!("SIGUSR1 ignored: no other instance shares the sockets");
        }
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
        while let Some(patience) = self.patience() {
            let neglected = self.waiting.is_some_and(|since| since.elapsed() >= patience);
            let from = if neglected { Reach::All } else { Reach::Own };
            tokio::select! {
                biased;
                // Given back at once: it only tells that there is room.
                _ = self.admitted.acquire(), if self.is_full() => {}
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

    /// For how long newcomers may wait for the other instances, if they are left to those at all.
    fn patience(&self) -> Option<Duration> {
        if !self.shared {
            return None;
        }
        let is_aside = self.aside.is_some_and(|end| Instant::now() < end);
        match (self.is_full(), is_aside) {
            (true, _) => Some(NEGLECT),
            (false, true) => Some(NEGLECT_ASIDE),
            (false, false) => None,
        }
    }

    fn is_full(&self) -> bool {
        self.admitted.available_permits() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tokio::time::timeout;

    use super::*;
    use crate::net::listen::Listener;
    use crate::ops::systemd::Inherited;

    #[tokio::test(start_paused = true)]
    async fn newcomers_are_left_to_others_for_a_while_unless_nobody_takes_them() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = Listener::adopt(Inherited::Tcp(socket)).unwrap();
        let mut entrance =
            Entrance::new(Listeners::new(vec![listener]), 9, Lane::new(1)).shared(true);
        let connect = || TcpStream::connect(addr).unwrap();
        let _first = connect();
        let seconds = Duration::from_secs;
        assert!(timeout(seconds(1), entrance.accept()).await.is_ok(), "it serves");

        entrance.step_aside();
        let _second = connect();
        assert!(timeout(NEGLECT_ASIDE, entrance.accept()).await.is_err(), "others may take it");
        assert!(timeout(NEGLECT_ASIDE, entrance.accept()).await.is_ok(), "nobody did");

        let begun = Instant::now();
        assert!(timeout(ASIDE * 2, entrance.accept()).await.is_err(), "nobody has come");
        let _third = connect();
        assert!(entrance.aside.is_some_and(|end| end < begun + ASIDE));
        assert!(timeout(LOOK, entrance.accept()).await.is_ok(), "it serves as before");
    }
}
