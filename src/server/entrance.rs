//! Accepting connections under permits: `limits.max_connections`, and the lanes for those over it and
//! for the admin listener.
//!
//! Owns the permits and the order in which they are taken. It does not know how many there should be,
//! nor how a connection is refused.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::http::admission::{Admission, Lane};
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::net::listen::Listeners;
use crate::net::stream::Stream;

/// Listening sockets, and the permits for what is accepted on them.
pub(super) struct Entrance {
    listeners: Listeners,
    /// Without a permit at the admin listener, all of whose connections are seated.
    admitted: Arc<Semaphore>,
    lane: Lane,
    /// Accepted, and without a permit yet: kept here, so that accepting can be cancelled.
    standing: Option<(Stream, PeerAddr)>,
}

impl Entrance {
    /// Admits so many connections, and seats the others in the lane.
    pub(super) fn new(listeners: Listeners, admitted: usize, lane: Lane) -> Self {
        Self { listeners, admitted: Arc::new(Semaphore::new(admitted)), lane, standing: None }
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
            self.standing = Some(self.listeners.accept().await);
        }
        let admission = match Arc::clone(&self.admitted).try_acquire_owned() {
            Ok(permit) => Admission::Admitted(permit),
            Err(_) => Admission::Seated(self.lane.enter().await),
        };
        let (stream, peer) = self.standing.take().expect("it stands there until now");
        (stream, peer, admission)
    }
}
