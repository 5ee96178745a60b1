//! The table of paths, and what each of them answers.
//!
//! Owns the answers that are not a WebSocket, and the start, the count and the one log line of a
//! session. It does not know hyper's connection, nor where a request came from but for its peer.
//!
//! Sources: RFC 9110 for the statuses; RFC 6455, section 4.2.2 for the 101.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::{Endpoint, Policy};
use crate::net::listen::{PeerAddr, Transport};
use crate::ops::drain::Drain;
use crate::ops::logging::Untrusted;
use crate::ws::diagnosis::{Verdict, remedy};
use crate::ws::echo::End;
use crate::ws::handshake::{self, Accepted, Rejection, Trace};
use crate::ws::session::{self, Budget, Ended, Report, Shared};

/// The only kind of body there is: short, and known at once.
pub type Body = Full<Bytes>;

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
    /// Whether a silent client is pinged: `?ping=off` promises silence, to measure a path by it.
    pings: bool,
}

/// The number of open sessions, shared by all routers of a process.
pub type SessionCount = Arc<AtomicUsize>;

/// Answers requests by one policy. A reload makes a new router; a connection keeps the one it was
/// accepted under.
pub struct Router {
    policy: Arc<Policy>,
    drain: Drain,
    budget: Budget,
    sessions: SessionCount,
}

impl Router {
    /// A router for this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>, drain: Drain, budget: Budget, sessions: SessionCount) -> Self {
        Self { policy, drain, budget, sessions }
    }

    /// The policy that its connections keep.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The drain that its sessions belong to.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Answers a request by its head; `overflow` says that its connection is one too many.
    pub fn answer<B>(&self, request: &Request<B>, peer: PeerAddr, overflow: bool) -> Answer {
        let path = request.uri().path();
        let endpoint = self.policy.endpoints.iter().find(|endpoint| endpoint.path == path);
        let trace = Trace::of(request);
        let readable = request.method() == Method::GET || request.method() == Method::HEAD;
        match (path, endpoint) {
            ("/healthz", _) if readable => Answer::Plain(self.health()),
            (_, Some(endpoint)) if path != "/" || trace.is_attempt() => {
                match self.check(request, endpoint, overflow) {
                    Ok(accepted) => {
                        let query = request.uri().query().unwrap_or_default();
                        let pings = query.split('&').all(|option| option != "ping=off");
                        let opening = Opening { endpoint: Arc::clone(endpoint), pings };
                        Answer::Upgrade(switch(accepted), opening)
                    }
                    Err(rejection) => {
                        let refusal = Refusal::new(rejection);
                        let Refusal { reason, message, .. } = &refusal;
                        tracing::info!(
                            %peer, endpoint = endpoint.path, reason,
                            "handshake refused: {message}"
                        );
                        Answer::Plain(refuse(request, &refusal))
                    }
                }
            }
            _ if overflow => Answer::Plain(refuse(request, &Refusal::new(Rejection::Full))),
            _ if !readable => Answer::Plain(refuse(request, &Refusal::new(Rejection::Method))),
            ("/", _) => {
                Answer::Plain(plain(StatusCode::OK, self.list("WebSocket echo endpoints:")))
            }
            _ => {
                tracing::debug!(%peer, path = %Untrusted(path.as_bytes()), "no such path");
                let text = self.list("nothing here; WebSocket echo endpoints:");
                Answer::Plain(plain(StatusCode::NOT_FOUND, text))
            }
        }
    }

    fn check<B>(
        &self,
        request: &Request<B>,
        endpoint: &Endpoint,
        overflow: bool,
    ) -> Result<Accepted, Rejection> {
        if self.drain.is_draining() {
            return Err(Rejection::Draining);
        }
        if overflow {
            return Err(Rejection::Full);
        }
        handshake::check(request, &endpoint.rules)
    }

    fn health(&self) -> Response<Body> {
        if self.drain.is_draining() {
            plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        } else {
            plain(StatusCode::OK, "ok\n".to_owned())
        }
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
        peer: PeerAddr,
        place: impl Send,
    ) -> impl Future<Output = ()> + Send {
        // What is used where the future holds it is not stored twice.
        async move {
            let settings = &opening.endpoint.session;
            let began = Instant::now();
            let counted = Counted::new(&self.sessions);
            // Our own timer speaks first: it knows a slow peer from a dead one.
            stream.prepare(settings.timeouts.write + Duration::from_secs(10), opening.pings);
            let shared = Shared { settings, budget: &self.budget, drain: &self.drain };
            let running = session::run(stream, &first, shared, opening.pings);
            drop(first);
            let Report { ended, counts } = running.await;
            drop((counted, place));
            let close_reason = match &ended {
                Ended::Closed(End::Peer { reason, .. }) => reason.as_bytes(),
                _ => b"",
            };
            tracing::info!(
                client = %peer,
                endpoint = opening.endpoint.path,
                messages = counts.messages,
                bytes_in = counts.bytes_in,
                bytes_out = counts.bytes_out,
                seconds = began.elapsed().as_secs_f64(),
                ended = ended.label(),
                close_reason = %Untrusted(close_reason),
                "session ended: {ended}"
            );
        }
    }
}

/// Counts a session for as long as it lives, also when it panics.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(sessions: &'a AtomicUsize) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(sessions)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

/// An answer for people. It closes the connection, so that bytes behind a refused handshake are
/// never taken for a request.
fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    for (name, value) in [
        (CONNECTION, "close"),
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What is said to a client that gets no WebSocket. None of it comes from the request.
#[derive(Serialize)]
struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    /// The label of logs and metrics.
    reason: &'static str,
    message: String,
    /// Where to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'static str>,
    /// The lines that are missing there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<&'static str>,
}

impl Refusal {
    fn new(rejection: Rejection) -> Self {
        let status = rejection.status();
        let Rejection::Upgrade(trace) = rejection else {
            let (reason, message) = (rejection.label(), rejection.to_string());
            return Self { status, reason, message, place: None, lines: Vec::new() };
        };
        let verdict = Verdict::of(trace);
        let (place, lines) = remedy(trace).unzip();
        Self {
            status,
            reason: verdict.label(),
            message: verdict.to_string(),
            place,
            lines: lines.unwrap_or_default(),
        }
    }

    /// For a terminal, or the network tab of a browser.
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.message);
        if let Some(place) = self.place {
            write!(text, "\n{place}, add:\n\n").expect("a String takes all");
            for line in &self.lines {
                writeln!(text, "    {line}").expect("a String takes all");
            }
            writeln!(text, "\n({})", self.reason).expect("a String takes all");
        }
        text
    }
}

/// The answer to a handshake that is not accepted: text, or JSON where the client asks for it.
fn refuse<B>(request: &Request<B>, refusal: &Refusal) -> Response<Body> {
    let wants_json = request.headers().get_all(ACCEPT).iter().any(|accepted| {
        let mut types = accepted.as_bytes().split(|byte| b",;".contains(byte));
        types.any(|found| found.trim_ascii() == b"application/json")
    });
    let mut response = if wants_json {
        let json = serde_json::to_string(refusal).expect("it is text all through");
        let mut response = plain(refusal.status, json + "\n");
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    } else {
        plain(refusal.status, refusal.text())
    };
    let mut say = |name: HeaderName, value: HeaderValue| {
        response.headers_mut().insert(name, value);
    };
    match refusal.status {
        StatusCode::METHOD_NOT_ALLOWED => say(ALLOW, HeaderValue::from_static("GET, HEAD")),
        StatusCode::UPGRADE_REQUIRED => {
            say(UPGRADE, HeaderValue::from_static("websocket"));
            say(CONNECTION, HeaderValue::from_static("close, Upgrade"));
            say(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            // Jitter, so that those who were turned away do not return together.
            say(RETRY_AFTER, HeaderValue::from(fastrand::u16(1..=5)));
        }
        _ => {}
    }
    response
}
