//! What all connections of a server share, across reloads.
//!
//! Owns the counting of connections and of requests that got no WebSocket. It does not know any
//! policy: a reload leaves it alone.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use hyper::header::{HeaderMap, ORIGIN};
use tokio::time::Instant;

use super::admission::Lane;
use super::clients::{Claim, Clients};
use super::refusal::Refusal;
use super::traces::Traces;
use crate::net::addr::PeerAddr;
use crate::ops::drain::Drain;
use crate::ops::logging::{Limiter, Lost};
use crate::ops::machine::host_name;
use crate::ops::metrics::{Label, Metrics};
use crate::proxy::blame::{Blame, Fault};
use crate::proxy::client_addr::{Client, ClientAddr};
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
    /// The TCP ports that are listened on, once they are known.
    pub ports: OnceLock<BTreeSet<u16>>,
    /// What became of handshakes with a trace.
    pub(super) traces: Traces,
    /// The name of the host, and of this instance there if there are several.
    pub(super) host: String,
    /// When it began.
    pub(super) started: Instant,
    /// Which faults are a proxy's.
    blame: Blame,
}

impl Service {
    /// A service that nobody has connected to yet.
    #[must_use]
    pub fn new(budget: Budget, log_lost: Lost, overflow: Lane) -> Self {
        Self {
            shared: Shared::new(budget),
            limiter: Limiter::new(),
            clients: Clients::default(),
            log_lost,
            overflow,
            ports: OnceLock::new(),
            traces: Traces::default(),
            host: host_name(),
            started: Instant::now(),
            blame: Blame::default(),
        }
    }

    /// The same, as one of several instances on a host, unless the name is empty.
    #[must_use]
    pub fn named(mut self, instance: &str) -> Self {
        if !instance.is_empty() {
            self.host = format!("{}/{instance}", self.host);
            self.metrics().name(instance);
        }
        self
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
        Counted(self)
    }

    /// Counts a session, and the connection it runs on, until [`Service::discount_session`].
    pub(super) fn count_session(&self, compressed: bool) {
        let metrics = self.metrics();
        metrics.connections.inc();
        metrics.sessions.inc();
        if compressed {
            metrics.sessions_compressed.inc();
        }
    }

    /// Ends what [`Service::count_session`] began, and counts a panic that led to it.
    pub(super) fn discount_session(&self, compressed: bool) {
        let metrics = self.metrics();
        if compressed {
            metrics.sessions_compressed.dec();
        }
        metrics.sessions.dec();
        self.discount_connection();
    }

    fn discount_connection(&self) {
        self.metrics().connections.dec();
        if std::thread::panicking() {
            self.metrics().panics.inc();
        }
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
        self.logged(self.limiter.admits(client.ip(), reason.label()), reason.label())
    }

    /// Counts the end of a session. Returns whether it may be logged: a client causes few lines.
    pub(super) fn end(&self, client: ClientAddr, ended: &impl Label, lasted: Duration) -> bool {
        const KIND: &str = "session";
        self.metrics().end(ended, lasted);
        self.logged(self.limiter.admits_session(client.ip(), KIND), KIND)
    }

    /// Counts a line that is not logged.
    fn logged(&self, admitted: bool, kind: &'static str) -> bool {
        if !admitted {
            self.metrics().suppress(kind);
        }
        admitted
    }

    /// Whether a TCP port may be one of ours: any may while none is known.
    pub(super) fn is_ours(&self, port: u16) -> bool {
        self.ports.get().is_none_or(|ports| ports.contains(&port))
    }

    /// Counts the refusal of a request that this peer forwarded, if it is certain that the peer is at
    /// fault and not the client.
    pub(super) fn blame(&self, peer: PeerAddr, client: &Client, refusal: &Refusal) {
        if let Some(fault) = refusal.fault.filter(|_| client.is_forwarded())
            && self.blame.counts(peer, client.addr, fault)
        {
            self.metrics().fault(refusal);
        }
    }

    /// Notes that a WebSocket was opened by a request with these headers, and which faults the peer
    /// that forwarded it therefore does not have.
    pub(super) fn acquit(&self, peer: PeerAddr, client: &Client, headers: &HeaderMap) {
        if client.is_forwarded() {
            self.blame.acquit(peer, Fault::Upgrade);
            if headers.contains_key(ORIGIN) {
                self.blame.acquit(peer, Fault::Host);
            }
        }
    }
}

/// A connection.
struct Counted<'a>(&'a Service);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.discount_connection();
    }
}
