//! What all connections of a server share, across reloads.
//!
//! Owns the counting of connections and of requests that got no WebSocket. It does not know any
//! policy: a reload leaves it alone.

use super::admission::Lane;
use super::clients::{Claim, Clients};
use crate::ops::drain::Drain;
use crate::ops::logging::{Limiter, Lost};
use crate::ops::metrics::{Label, Metrics};
use crate::proxy::client_addr::ClientAddr;
use crate::ws::handshake::Rejection;
use crate::ws::session::{Budget, Shared};

/// What all connections share.
pub struct Service {
    /// What the sessions share.
    pub shared: Shared,
    /// Limits the log lines about refused requests.
    pub limiter: Limiter,
    /// Connections by client.
    pub clients: Clients,
    /// Log lines that were lost.
    pub log_lost: Lost,
    /// The seats of connections over a limit.
    pub overflow: Lane,
}

impl Service {
    /// A service that nobody has connected to yet.
    #[must_use]
    pub fn new(budget: Budget, log_lost: Lost, overflow: Lane) -> Self {
        let shared = Shared { budget, drain: Drain::default(), metrics: Metrics::new() };
        let (limiter, clients) = (Limiter::new(), Clients::default());
        Self { shared, limiter, clients, log_lost, overflow }
    }

    /// The one door through which tasks start.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Counts a connection for as long as the value lives, and a panic that ends it.
    pub(super) fn count_connection(&self) -> impl Drop + Send + use<'_> {
        self.metrics().connections.inc();
        Counted::<false>(self.metrics())
    }

    /// Counts a session, and the connection it runs on, as [`Service::count_connection`] does.
    pub(super) fn count_session(&self) -> impl Drop + Send + use<'_> {
        self.metrics().connections.inc();
        self.metrics().sessions.inc();
        Counted::<true>(self.metrics())
    }

    /// Counts a connection against its client's quota; 0 means that there is none.
    ///
    /// # Errors
    /// When the client has used up its quota, `limits.max_connections_per_client`.
    pub(super) fn claim(
        &self,
        client: ClientAddr,
        quota: usize,
    ) -> Result<Option<Box<Claim>>, Rejection> {
        let Some(ip) = client.ip().filter(|_| quota > 0) else { return Ok(None) };
        let claim = self.clients.claim(ip, quota).ok_or(Rejection::ClientFull)?;
        Ok(Some(Box::new(claim)))
    }

    /// Counts a connection that got no WebSocket. Returns whether it may be logged: a client causes
    /// few lines.
    pub(super) fn refuse(&self, client: ClientAddr, reason: &impl Label) -> bool {
        self.metrics().refuse(reason);
        let admitted = self.limiter.admits(client.ip(), reason.label());
        if !admitted {
            self.metrics().suppress(reason.label());
        }
        admitted
    }
}

/// A connection, or one with its session.
struct Counted<'a, const SESSION: bool>(&'a Metrics);

impl<const SESSION: bool> Drop for Counted<'_, SESSION> {
    fn drop(&mut self) {
        self.0.connections.dec();
        if SESSION {
            self.0.sessions.dec();
        }
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}
