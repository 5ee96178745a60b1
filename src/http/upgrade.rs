//! From a request to a session: opening, running and logging a WebSocket.
//!
//! Owns the 101, the quota's check once the client is known, and the one log line of a session or
//! a refused handshake. It does not know which paths are endpoints, nor hyper's connection.
//!
//! Source: RFC 6455, section 4.2.2.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::Body;
use super::clients::Claim;
use super::options::Shown;
use super::refusal::Refusal;
use super::service::Service;
use crate::config::{Endpoint, Policy};
use crate::net::addr::PeerAddr;
use crate::net::stream::Transport;
use crate::ops::logging::Untrusted;
use crate::ops::metrics::Label;
use crate::proxy::client_addr::{self, Client, ClientAddr};
use crate::proxy::diagnosis::is_upstream;
use crate::proxy::protocol::ProxyHeader;
use crate::ws::engine::{Counts, Echo, End};
use crate::ws::handshake::{self, Accepted, Agreed, Compared, Origins, Rejection, Rules, Trace};
use crate::ws::session::{self, Ended, Report, Script};

/// An endpoint, ready to be served under its policy.
#[derive(Debug)]
pub(super) struct Route {
    policy: Arc<Policy>,
    endpoint: Endpoint,
    origins: Origins,
    echo: Arc<Echo>,
}

impl Route {
    /// The routes of all endpoints of a policy.
    pub(super) fn all(policy: &Arc<Policy>) -> Vec<Arc<Self>> {
        let endpoints = policy.endpoints.iter().cloned();
        let route = |endpoint| Self::new(policy, endpoint, policy.origins.clone());
        endpoints.map(route).collect()
    }

    /// A path that agrees to what the first endpoint does, and that no page of another site reads: a
    /// WebSocket lacks what keeps it from reading plain answers.
    pub(super) fn private(policy: &Arc<Policy>, path: &str) -> Arc<Self> {
        let first = policy.endpoints.first().cloned().unwrap_or_default();
        let (path, prefix) = (path.to_owned(), "".into());
        let endpoint = Endpoint { path, prefix, options: false, ..first };
        let origins = match &policy.origins {
            Origins::Any => Origins::SameHost,
            stricter => stricter.clone(),
        };
        Self::new(policy, endpoint, origins)
    }

    fn new(policy: &Arc<Policy>, endpoint: Endpoint, origins: Origins) -> Arc<Self> {
        let echo = Arc::new(Echo::new(&endpoint.prefix, policy.max_message_size));
        Arc::new(Self { policy: Arc::clone(policy), endpoint, origins, echo })
    }

    pub(super) fn path(&self) -> &str {
        &self.endpoint.path
    }

    /// Whether its clients may have options.
    pub(super) fn has_options(&self) -> bool {
        self.endpoint.options
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            subprotocols: &self.endpoint.subprotocols,
            origins: &self.origins,
            require_origin: self.policy.require_origin,
            compression: self.endpoint.compression,
        }
    }
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
    /// Its share of its client's quota, where the client is known already.
    pub claim: Option<Box<Claim>>,
}

impl Caller {
    /// Counts the connection against the quota of its peer, or refuses it.
    pub(super) fn claim(&mut self, service: &Service, quota: usize) {
        match service.claim(self.peer.into(), quota) {
            Ok(claim) => self.claim = claim,
            Err(rejection) => self.refused = Some(rejection),
        }
    }
}

/// A session that is about to begin.
#[derive(Debug)]
pub struct Opening {
    route: Arc<Route>,
    client: ClientAddr,
    /// The peer, where it is not the client itself. Boxed, because an idle session keeps it.
    via: Option<Box<PeerAddr>>,
    /// What is done besides echoing. Boxed, because most sessions have none.
    script: Option<Box<Script>>,
    /// Whether messages may be compressed.
    compressed: bool,
    claim: Option<Box<Claim>>,
    #[cfg(feature = "faults")]
    fault: Option<super::faults::Fault>,
}

/// Opens a WebSocket. `script` says what its session does besides echoing, once the handshake is known
/// to be good.
///
/// # Errors
/// The refusal, which is counted and logged.
pub(super) fn open<B>(
    route: &Arc<Route>,
    service: &Service,
    request: &Request<B>,
    trace: Trace,
    caller: &mut Caller,
    script: impl FnOnce(&Caller) -> Result<Option<Box<Script>>, Rejection>,
) -> Result<(Response<Body>, Opening), Refusal> {
    let (headers, peer, policy) = (request.headers(), caller.peer, &route.policy);
    let client = resolve(policy, headers, caller);
    // Also while the service stops: who was accepted hears 1001, which clients answer by coming back.
    let checked = (caller.refused)
        .map_or(Ok(()), Err)
        .and_then(|()| handshake::check(request, trace, route.rules(), client.host.as_deref()))
        .and_then(|accepted| {
            let script = script(caller)?;
            let claim = match caller.claim.take() {
                None => service.claim(client.addr, policy.max_connections_per_client)?,
                held => held,
            };
            Ok((accepted, script, claim))
        });
    let (accepted, script, claim) =
        checked.map_err(|rejection| refuse(rejection, route, service, request, peer, &client))?;
    service.acquit(peer, &client, headers);
    trace_compression(route, headers, client.addr, &accepted.agreed);
    let took = caller.accepted.elapsed();
    service.metrics().handshake_duration.observe(took.as_secs_f64());
    let opening = Opening {
        route: Arc::clone(route),
        client: client.addr,
        via: (client.addr != peer.into()).then(|| Box::new(peer)),
        script,
        compressed: accepted.agreed.compression.is_some(),
        claim,
        #[cfg(feature = "faults")]
        fault: super::faults::Fault::of(request.uri().query().unwrap_or_default()),
    };
    Ok((switch(accepted), opening))
}

/// Words, counts and logs the refusal of a handshake on an endpoint.
fn refuse<B>(
    rejection: Rejection,
    route: &Route,
    service: &Service,
    request: &Request<B>,
    peer: PeerAddr,
    client: &Client,
) -> Refusal {
    let headers = request.headers();
    let host = host_of(request);
    let refusal = match rejection {
        Rejection::Origin(Compared::Host) if host_is_lost(service, client, host) => {
            Refusal::host_lost()
        }
        other => other.into(),
    };
    if service.refuse(client.addr, &refusal) {
        let origin = headers.get(ORIGIN).filter(|_| matches!(rejection, Rejection::Origin(_)));
        let compared = match rejection {
            Rejection::Origin(Compared::Host) => Some(host),
            Rejection::Origin(Compared::ForwardedHost) => client.host.as_deref().map(str::as_bytes),
            _ => None,
        };
        let shown = |text| tracing::field::display(Untrusted(text));
        tracing::info!(
            %peer, client = %client.addr, endpoint = route.path(),
            origin = origin.map(|origin| shown(origin.as_bytes())),
            host = compared.map(shown),
            reason = refusal.label(),
            "handshake refused: {}", refusal.message
        );
    }
    service.blame(peer, client, &refusal);
    refusal
}

/// The host that a request names: in an absolute target, which overrules `Host` (RFC 9112, section
/// 3.2.2), or there.
pub(super) fn host_of<B>(request: &Request<B>) -> &[u8] {
    let target = request.uri().authority().map(|target| target.as_str().as_bytes());
    let named = || request.headers().get(HOST).map(HeaderValue::as_bytes);
    target.or_else(named).unwrap_or_default()
}

/// Whether the proxy that forwarded a request for this client replaced its host.
pub(super) fn host_is_lost(service: &Service, client: &Client, host: &[u8]) -> bool {
    client.is_forwarded()
        && client.host.is_none()
        && std::str::from_utf8(host)
            .is_ok_and(|host| is_upstream(host, |port| service.is_ours(port)))
}

fn resolve(policy: &Policy, headers: &HeaderMap, caller: &Caller) -> Client {
    let peer = caller.peer;
    let client = client_addr::resolve(peer, caller.proxy, headers, &policy.proxy.trusted);
    tracing::debug!(%peer, client = %client.addr, "client resolved: {}", client.because);
    client
}

/// Shows, at `debug`, which extensions were offered and whether compression was agreed to.
fn trace_compression(route: &Route, headers: &HeaderMap, client: ClientAddr, agreed: &Agreed) {
    let why = match (&agreed.compression, route.endpoint.compression) {
        (Some(_), _) => "agreed to",
        (None, false) => "off for this endpoint",
        (None, true) if handshake::offers(headers).next().is_none() => "not offered",
        (None, true) => "declined: no offer can be accepted",
    };
    let offered = || handshake::offers(headers).collect::<Vec<_>>().join(&b", "[..]);
    tracing::debug!(
        %client, endpoint = route.path(),
        offered = %Untrusted(&offered()),
        answer = agreed.compression.as_ref().map(tracing::field::display),
        "compression {why}"
    );
}

/// Refuses a handshake on a path that is no endpoint, which is counted and logged.
pub(super) fn misplaced<B>(
    policy: &Policy,
    service: &Service,
    request: &Request<B>,
    caller: &Caller,
) -> Refusal {
    let (peer, path) = (caller.peer, request.uri().path());
    tracing::debug!(%peer, path = %Untrusted(path.as_bytes()), "no such path");
    let client = resolve(policy, request.headers(), caller);
    let refusal = match caller.refused {
        None => Refusal::no_endpoint(path, &policy.endpoints),
        Some(rejection) => rejection.into(),
    };
    if service.refuse(client.addr, &refusal) {
        tracing::info!(
            %peer, client = %client.addr, path = %Untrusted(path.as_bytes()),
            reason = refusal.label(),
            "handshake refused: {}", refusal.message
        );
    }
    refusal
}

/// The 101 of RFC 6455, section 4.2.2, item 5.
fn switch(accepted: Accepted) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted.accept);
    if let Some(subprotocol) = accepted.agreed.subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    if let Some(compression) = accepted.agreed.compression {
        let answer = HeaderValue::try_from(compression.to_string()).expect("it is ASCII");
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer);
    }
    response
}

/// Runs the session behind a 101 to its end, and logs it.
///
/// `first` is what the client sent behind its handshake; `permit` is kept for as long as the
/// session lives.
pub(super) fn run<S: Transport>(
    opening: Opening,
    service: Arc<Service>,
    stream: S,
    first: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = ()> + Send {
    let mut live = Live::new(opening, service, permit);
    // Boxed until the session has it: a future keeps room for what it captures, and an idle session
    // is little more than this future.
    let boxed = Box::new((stream, first));
    async move {
        let Live { opening, service, .. } = &live;
        let Route { policy, echo, .. } = &*opening.route;
        let (stream, first) = {
            // Moved, so that it is freed here and not with the future.
            let boxed = boxed;
            *boxed
        };
        let running = session::run(
            stream,
            first,
            Arc::clone(echo),
            &policy.timeouts,
            &service.shared,
            opening.script.as_deref(),
            opening.compressed,
        );
        #[cfg(feature = "faults")]
        let running = super::faults::run(opening.fault, &service.shared.budget, running);
        let Report { ended, counts, lasted } = running.await;
        live.end(&ended, Some(counts), lasted);
    }
}

/// A session's part in what is counted and limited. If it is dropped before the session ends, that is
/// logged and counted too.
struct Live {
    opening: Opening,
    service: Arc<Service>,
    permit: Option<OwnedSemaphorePermit>,
    /// When it began; `None` once it has ended.
    begun: Option<Instant>,
}

impl Live {
    fn new(opening: Opening, service: Arc<Service>, permit: Option<OwnedSemaphorePermit>) -> Self {
        service.count_session(opening.compressed);
        Self { opening, service, permit, begun: Some(Instant::now()) }
    }

    /// Gives back what the session took, then counts and logs its end; `counts` are lost if its future
    /// was dropped.
    fn end(&mut self, ended: &Ended, counts: Option<Counts>, lasted: Duration) {
        self.begun = None;
        let Self { opening, service, permit, .. } = self;
        service.discount_session(opening.compressed);
        drop((permit.take(), opening.claim.take()));
        if !service.end(opening.client, ended, lasted) {
            return;
        }
        let close_reason = match ended {
            Ended::Closed(End::Peer { reason, .. }) if !reason.is_empty() => {
                Some(tracing::field::display(Untrusted(reason.as_bytes())))
            }
            _ => None,
        };
        let inflated = counts.filter(|counts| counts.compressed_in > 0);
        let script = opening.script.as_deref().filter(|_| opening.route.has_options());
        tracing::info!(
            client = %opening.client,
            via = opening.via.as_ref().map(tracing::field::display),
            endpoint = opening.route.path(),
            compression = opening.compressed,
            options = script.map(|script| tracing::field::display(Shown(script))),
            messages = counts.map(|counts| counts.messages),
            bytes_in = counts.map(|counts| counts.bytes_in),
            bytes_out = counts.map(|counts| counts.bytes_out),
            compressed_bytes = inflated.map(|counts| counts.compressed_in),
            inflated_bytes = inflated.map(|counts| counts.inflated),
            seconds = (lasted.as_secs_f64() * 1000.0).round() / 1000.0,
            ended = ended.label(),
            close_reason,
            "session ended: {ended}"
        );
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            let ended = if std::thread::panicking() { Ended::Panicked } else { Ended::Aborted };
            self.end(&ended, None, begun.elapsed());
        }
    }
}
