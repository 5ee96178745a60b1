//! The table of paths, and what each of them answers.
//!
//! Owns the answers that are not a WebSocket, and the start, the count and the one log line of a
//! session. It does not know hyper's connection, nor where a request came from but for its peer.
//!
//! Sources: RFC 9110 for the statuses; RFC 6455, section 4.2.2 for the 101.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::clients::{Claim, Clients};
use super::refusal::{Body, Refusal, plain};
use crate::config::{Endpoint, Policy};
use crate::net::client_addr::{self, Client, ClientAddr};
use crate::net::listen::{PeerAddr, Transport};
use crate::net::proxy_protocol::ProxyHeader;
use crate::ops::drain::Drain;
use crate::ops::logging::{Limiter, Lost, Untrusted};
use crate::ops::metrics::{Label, Metrics};
use crate::ws::diagnosis::is_upstream;
use crate::ws::echo::End;
use crate::ws::handshake::{self, Accepted, Rejection, Trace};
use crate::ws::session::{self, Budget, Ended, Report, Shared};

/// What a request gets.
#[derive(Debug)]
pub enum Answer {
    /// An answer after which the connection closes.
    Plain(Response<Body>),
    /// A 101, and the session that begins behind it.
    Upgrade(Response<Body>, Opening),
}

/// A session that is about to begin.
#[derive(Debug)]
pub struct Opening {
    endpoint: Arc<Endpoint>,
    client: ClientAddr,
    /// The peer, where it is not the client itself. Boxed, because an idle session keeps it.
    via: Option<Box<PeerAddr>>,
    /// Whether a silent client is pinged: `?ping=off` promises silence, to measure a path by it.
    pings: bool,
    claim: Option<Box<Claim>>,
    #[cfg(feature = "faults")]
    fault: Option<super::faults::Fault>,
}

/// What is known of a connection before its request.
#[derive(Debug)]
pub struct Caller {
    /// The other end of the socket.
    pub peer: PeerAddr,
    /// What a PROXY header said, from a peer that may send one.
    pub proxy: Option<ProxyHeader>,
    /// When the connection was accepted.
    pub accepted: Instant,
    /// Why no WebSocket is opened, whatever is asked for.
    pub refused: Option<Rejection>,
    /// Its place among the connections of its client, where the client is known already.
    pub claim: Option<Box<Claim>>,
}

/// What outlives a reload: one for all routers of a server.
pub struct Lasting {
    /// What the sessions share.
    pub shared: Shared,
    /// Limits what is written about those who get no WebSocket.
    pub limiter: Limiter,
    /// Connections by client.
    pub clients: Clients,
    /// Log lines that nobody read.
    pub log_lost: Lost,
}

impl Lasting {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(budget: Budget, log_lost: Lost) -> Self {
        let shared = Shared { budget, drain: Drain::default(), metrics: Metrics::new() };
        let (limiter, clients) = (Limiter::new(), Clients::default());
        Self { shared, limiter, clients, log_lost }
    }

    /// The one door through which tasks start.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Counts a connection for as long as the value lives, and the panic it ends by.
    pub(super) fn count_connection(&self) -> impl Drop + Send + use<'_> {
        Counted::of_connection(self.metrics())
    }

    /// The answer of `/healthz`.
    pub(super) fn health(&self) -> Response<Body> {
        if self.drain().is_draining() {
            plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        } else {
            plain(StatusCode::OK, "ok\n".to_owned())
        }
    }

    /// Counts a connection that got no WebSocket, and says whether a line may be written about it.
    pub(super) fn refuse(&self, peer: PeerAddr, reason: &impl Label) -> bool {
        self.metrics().refuse(reason);
        let admitted = self.limiter.admits(ClientAddr::from(peer).ip(), reason.label());
        if !admitted {
            self.metrics().suppress(reason.label());
        }
        admitted
    }
}

/// Counts a connection, or one with its session, and the panic that it may end by.
struct Counted<'a, const SESSION: bool>(&'a Metrics);

impl<'a> Counted<'a, false> {
    fn of_connection(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl<'a> Counted<'a, true> {
    fn of_session(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        metrics.sessions.inc();
        Self(metrics)
    }
}

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

/// Answers requests by one policy. A reload makes a new router; a connection keeps the one it was
/// accepted under.
pub struct Router {
    policy: Arc<Policy>,
    lasting: Arc<Lasting>,
}

impl Router {
    /// A router for this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>, lasting: Arc<Lasting>) -> Self {
        Self { policy, lasting }
    }

    /// The policy that its connections keep.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What it shares with the routers before and after it.
    #[must_use]
    pub fn lasting(&self) -> &Lasting {
        &self.lasting
    }

    /// Takes the place of a connection among those of its client.
    ///
    /// # Errors
    /// When the client has all that `limits.max_connections_per_client` gives to one.
    pub(super) fn claim(&self, client: ClientAddr) -> Result<Option<Box<Claim>>, Rejection> {
        let limit = self.policy.max_connections_per_client;
        let Some(ip) = client.ip().filter(|_| limit > 0) else { return Ok(None) };
        let claim = self.lasting.clients.claim(ip, limit).ok_or(Rejection::ClientFull)?;
        Ok(Some(Box::new(claim)))
    }

    /// Answers a request by its head.
    pub fn answer<B>(&self, request: &Request<B>, caller: &mut Caller) -> Answer {
        let path = request.uri().path();
        let endpoint = self.policy.endpoints.iter().find(|endpoint| endpoint.path == path);
        let trace = Trace::of(request);
        let readable = request.method() == Method::GET || request.method() == Method::HEAD;
        let refuse =
            |rejection| Answer::Plain(Refusal::from(rejection).response(request.headers()));
        match (path, endpoint, caller.refused) {
            ("/healthz", ..) if readable => Answer::Plain(self.lasting.health()),
            (_, Some(endpoint), _) if path != "/" || trace.is_attempt() => {
                self.open(request, endpoint, caller)
            }
            (_, _, Some(rejection)) => refuse(rejection),
            _ if !readable => refuse(Rejection::Method),
            ("/", ..) => {
                Answer::Plain(plain(StatusCode::OK, self.list("WebSocket echo endpoints:")))
            }
            _ => {
                let peer = caller.peer;
                tracing::debug!(%peer, path = %Untrusted(path.as_bytes()), "no such path");
                let text = self.list("nothing here; WebSocket echo endpoints:");
                Answer::Plain(plain(StatusCode::NOT_FOUND, text))
            }
        }
    }

    /// Opens a WebSocket, or says why not.
    fn open<B>(
        &self,
        request: &Request<B>,
        endpoint: &Arc<Endpoint>,
        caller: &mut Caller,
    ) -> Answer {
        let (headers, peer) = (request.headers(), caller.peer);
        let client = client_addr::resolve(peer, caller.proxy, headers, &self.policy.proxy.trusted);
        tracing::debug!(%peer, client = %client.addr, "the client is known: {}", client.because);
        let checked = self.check(request, endpoint, caller, &client).and_then(|accepted| {
            let claim = match caller.claim.take() {
                None => self.claim(client.addr)?,
                held => held,
            };
            Ok((accepted, claim))
        });
        match checked {
            Ok((accepted, claim)) => {
                let took = caller.accepted.elapsed();
                self.lasting.metrics().handshake_duration.observe(took.as_secs_f64());
                let query = request.uri().query().unwrap_or_default();
                let opening = Opening {
                    endpoint: Arc::clone(endpoint),
                    client: client.addr,
                    via: (client.addr != peer.into()).then(|| Box::new(peer)),
                    pings: query.split('&').all(|option| option != "ping=off"),
                    claim,
                    #[cfg(feature = "faults")]
                    fault: super::faults::Fault::of(query),
                };
                Answer::Upgrade(switch(accepted), opening)
            }
            Err(rejection) => {
                let host = headers.get(HOST).and_then(|host| host.to_str().ok());
                let hidden = client.addr != peer.into()
                    && client.host.is_none()
                    && host.is_some_and(is_upstream);
                let refusal = match rejection {
                    Rejection::Origin if hidden => Refusal::host_lost(),
                    other => other.into(),
                };
                if self.lasting.refuse(peer, &refusal) {
                    let origin = headers.get(ORIGIN).filter(|_| rejection == Rejection::Origin);
                    let origin =
                        origin.map(|origin| tracing::field::display(Untrusted(origin.as_bytes())));
                    tracing::info!(
                        %peer, client = %client.addr, endpoint = endpoint.path, origin,
                        reason = refusal.label(),
                        "handshake refused: {}", refusal.message
                    );
                }
                Answer::Plain(refusal.response(headers))
            }
        }
    }

    fn check<B>(
        &self,
        request: &Request<B>,
        endpoint: &Endpoint,
        caller: &Caller,
        client: &Client,
    ) -> Result<Accepted, Rejection> {
        if self.lasting.drain().is_draining() {
            return Err(Rejection::Draining);
        }
        if let Some(refused) = caller.refused {
            return Err(refused);
        }
        handshake::check(request, &endpoint.rules, client.host.as_deref())
    }

    /// A heading, and a line for each endpoint.
    fn list(&self, heading: &str) -> String {
        let mut text = format!("{heading}\n");
        for endpoint in &self.policy.endpoints {
            let prefix = &endpoint.session.echo.prefix;
            let what = if prefix.is_empty() { "echoes verbatim" } else { "text is prefixed with" };
            let quoted = if prefix.is_empty() { String::new() } else { format!(" {prefix:?}") };
            writeln!(text, "  {}  {what}{quoted}", endpoint.path).expect("a String takes all");
        }
        text
    }

    /// Runs the session behind a 101 to its end, and logs it.
    ///
    /// `place` is kept as long as the session lives.
    #[expect(clippy::manual_async_fn, reason = "an async fn stores what it moves twice")]
    pub fn run<S: Transport>(
        self: Arc<Self>,
        opening: Opening,
        stream: S,
        first: Bytes,
        place: impl Send,
    ) -> impl Future<Output = ()> + Send {
        // What is used where the future holds it is not stored twice.
        async move {
            let settings = &opening.endpoint.session;
            let counted = Counted::of_session(self.lasting.metrics());
            // Our own timer speaks first: it knows a slow peer from a dead one.
            stream.prepare(settings.timeouts.write + Duration::from_secs(10), opening.pings);
            let shared = &self.lasting.shared;
            let running = session::run(stream, &first, settings, shared, opening.pings);
            #[cfg(feature = "faults")]
            let running = super::faults::run(opening.fault, &shared.budget, running);
            drop(first);
            let Report { ended, counts, lasted } = running.await;
            drop((counted, place, opening.claim));
            self.lasting.metrics().end(&ended, lasted);
            let close_reason = match &ended {
                Ended::Closed(End::Peer { reason, .. }) => reason.as_bytes(),
                _ => b"",
            };
            let Opening { client, via, endpoint, .. } = opening;
            let via = via.map(tracing::field::display);
            tracing::info!(
                %client,
                via,
                endpoint = endpoint.path,
                messages = counts.messages,
                bytes_in = counts.bytes_in,
                bytes_out = counts.bytes_out,
                seconds = lasted.as_secs_f64(),
                ended = ended.label(),
                close_reason = %Untrusted(close_reason),
                "session ended: {ended}"
            );
        }
    }
}

/// The 101 of RFC 6455, section 4.2.2, item 5.
fn switch(accepted: Accepted) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted.accept);
    if let Some(subprotocol) = accepted.subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}
