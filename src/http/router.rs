//! The table of paths.
//!
//! Owns which path is answered by what. It does not know how a WebSocket is opened, nor hyper's
//! connection.
//!
//! Source: RFC 9110 for methods and statuses.

use std::sync::Arc;

use hyper::{Method, Request, Response, StatusCode};

use super::answer::{self, Body};
use super::info::Info;
use super::refusal::Refusal;
use super::service::Service;
use super::traces::{Outcome, TraceId};
use super::upgrade::{self, Caller, Opening, Route};
use crate::config::Policy;
use crate::ops::logging::Untrusted;
use crate::ws::handshake::{Rejection, Trace};

/// What a request gets.
#[derive(Debug)]
pub enum Answer {
    /// An answer after which the connection closes.
    Plain(Response<Body>),
    /// A 101, and the session that begins behind it.
    Upgrade(Response<Body>, Opening),
}

/// Answers requests under one policy. A reload makes a new router; a connection keeps the one it
/// was accepted under.
pub struct Router {
    policy: Arc<Policy>,
    routes: Vec<Arc<Route>>,
    service: Arc<Service>,
}

impl Router {
    /// A router for this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>, service: Arc<Service>) -> Self {
        let routes = Route::all(&policy);
        Self { policy, routes, service }
    }

    /// The policy that its connections keep.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What it shares with the routers before and after it.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Answers a request by its head.
    pub fn answer<B>(&self, request: &Request<B>, caller: &mut Caller) -> Answer {
        let path = request.uri().path();
        let route = self.routes.iter().find(|route| route.path() == path);
        let trace = Trace::of(request);
        let readable = request.method() == Method::GET || request.method() == Method::HEAD;
        let is_options = request.method() == Method::OPTIONS && !trace.is_attempt();
        let refuse =
            |rejection| Answer::Plain(Refusal::from(rejection).response(request.headers()));
        match (path, route, caller.refused) {
            ("/healthz", ..) if readable => Answer::Plain(answer::health(self.service.drain())),
            // HAProxy's `option httpchk` without arguments, before any limit as /healthz is.
            ("/" | "*" | "/healthz", ..) | (_, Some(_), _) if is_options => {
                Answer::Plain(answer::options(self.service.drain()))
            }
            // A WebSocket on "/" leaves the list there to everybody else.
            (_, Some(route), _) if path != "/" || trace.is_attempt() => {
                let opened = upgrade::open(route, &self.service, request, trace, caller);
                self.finish(request, opened)
            }
            // Half a handshake gets it too: it says what the other half was.
            ("/info", _, None) if readable && self.policy.http.info => {
                let own = (&*self.policy, &self.routes[..]);
                match Info::of(request, trace, caller, &self.service, own) {
                    Ok(info) => Answer::Plain(info.response()),
                    Err(rejection) => refuse(rejection),
                }
            }
            (_, None, _) if trace.is_attempt() => {
                let refusal = upgrade::misplaced(&self.policy, &self.service, request, caller);
                self.finish(request, Err(refusal))
            }
            (_, _, Some(rejection)) => refuse(rejection),
            _ if !readable => refuse(Rejection::Method),
            ("/", ..) => Answer::Plain(self.list(StatusCode::OK, "WebSocket echo endpoints:")),
            _ => {
                let peer = caller.peer;
                tracing::debug!(%peer, path = %Untrusted(path.as_bytes()), "no such path");
                let heading = "nothing here; WebSocket echo endpoints:";
                Answer::Plain(self.list(StatusCode::NOT_FOUND, heading))
            }
        }
    }

    /// Answers a handshake, and remembers how if the client asks for it.
    fn finish<B>(
        &self,
        request: &Request<B>,
        opened: Result<(Response<Body>, Opening), Refusal>,
    ) -> Answer {
        let trace = TraceId::of(request.uri().query().unwrap_or_default()).ok().flatten();
        let traces = &self.service.traces;
        match opened {
            Ok((response, opening)) => {
                if let Some(trace) = trace {
                    traces.note(trace, Outcome::Opened);
                }
                Answer::Upgrade(response, opening)
            }
            Err(refusal) => {
                let response = refusal.response(request.headers());
                if let Some(trace) = trace {
                    traces.note(trace, Outcome::Refused(Box::new(refusal)));
                }
                Answer::Plain(response)
            }
        }
    }

    fn list(&self, status: StatusCode, heading: &str) -> Response<Body> {
        answer::list(status, heading, &self.policy.endpoints)
    }
}
