//! The permits under which connections are accepted: `limits.max_connections`, the overflow lane and
//! the admin listener's own.
//!
//! Owns the semaphores, and that a permit is taken before a connection is. It does not know how many
//! there should be, nor what a connection is refused with.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::conn::Admission;
use crate::net::listen::{Listeners, PeerAddr, Stream};
use crate::ops::machine::Capacity;

/// The permits for connections.
pub(super) struct Places {
    admitted: Arc<Semaphore>,
    overflow: Arc<Semaphore>,
    admin: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(Capacity { admitted, overflow, admin }: Capacity) -> Self {
        let [admitted, overflow, admin] =
            [admitted, overflow, admin].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { admitted, overflow, admin }
    }

    /// Waits for a permit of the admin listener, then for a connection. Cancel safe.
    pub(super) async fn accept_admin(
        &self,
        listeners: &mut Listeners,
    ) -> (Stream, OwnedSemaphorePermit) {
        let permit = acquire(&self.admin).await;
        (listeners.accept().await.0, permit)
    }

    /// Waits for a permit, then for a connection to give it to. Cancel safe.
    pub(super) async fn accept(&self, listeners: &mut Listeners) -> (Stream, PeerAddr, Admission) {
        let first = tokio::select! {
            biased;
            permit = acquire(&self.admitted) => Admission::Admitted(permit),
            permit = acquire(&self.overflow) => Admission::Overflow(permit),
        };
        let (stream, peer) = listeners.accept().await;
        let admission = match first {
            // A connection may have ended while this one was awaited.
            Admission::Overflow(permit) => match Arc::clone(&self.admitted).try_acquire_owned() {
                Ok(better) => Admission::Admitted(better),
                Err(_) => Admission::Overflow(permit),
            },
            admitted @ Admission::Admitted(_) => admitted,
        };
        (stream, peer, admission)
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(permits).acquire_owned().await.expect("these semaphores are never closed")
}
