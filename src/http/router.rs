//! The table of paths.
//!
//! Owns which path is answered by what. It does not know how a WebSocket is opened, nor hyper's
//! connection.
//!
//! Source: RFC 9110 for methods and statuses.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{self, Body};
use super::info::Info;
use super::options;
use super::page::Page;
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
    info: Arc<Route>,
    page: Option<Page>,
    service: Arc<Service>,
}

impl Router {
    /// A router for this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>, service: Arc<Service>) -> Self {
        let routes = Route::all(&policy);
        let info = Route::private(&policy, "/info");
        let page = policy.http.page.then(|| Page::new(&policy, &service));
        Self { policy, routes, info, page, service }
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
        let is_info = path == "/info" && self.policy.http.info;
        let is_known = is_info || route.is_some() || matches!(path, "/" | "*" | "/healthz");
        let refuse =
            |rejection| Answer::Plain(Refusal::from(rejection).response(request.headers()));
        match (path, route, caller.refused) {
            ("/healthz", ..) if readable => Answer::Plain(answer::health(self.service.drain())),
            // HAProxy's `option httpchk` without arguments, before any limit as /healthz is.
            _ if is_options && is_known => Answer::Plain(answer::options(self.service.drain())),
            // A WebSocket on "/" leaves the list there to everybody else.
            (_, Some(route), _) if path != "/" || trace.is_attempt() => {
                let query = request.uri().query().unwrap_or_default();
                let script = |_: &_| options::parse(query, route.has_options());
                let opened = upgrade::open(route, &self.service, request, trace, caller, script);
                self.remember(request, &opened);
                answered(request, opened)
            }
            _ if is_info && trace.is_complete() => {
                let service = &self.service;
                let script =
                    |caller: &_| Ok(Some(Box::new(self.info(request, trace, caller)?.script())));
                let opened = upgrade::open(&self.info, service, request, trace, caller, script);
                answered(request, opened)
            }
            // Half a handshake gets it too: it says what the other half was.
            (.., None) if is_info && readable => match self.info(request, trace, caller) {
                Ok(info) => Answer::Plain(info.response()),
                Err(rejection) => refuse(rejection),
            },
            (_, None, _) if trace.is_attempt() => {
                let refusal = upgrade::misplaced(&self.policy, &self.service, request, caller);
                let refused = Err(refusal);
                self.remember(request, &refused);
                answered(request, refused)
            }
            (_, _, Some(rejection)) => refuse(rejection),
            _ if !readable => refuse(Rejection::Method),
            ("/", ..) => Answer::Plain(self.root(request.headers())),
            _ => {
                let peer = caller.peer;
                tracing::debug!(%peer, path = %Untrusted(path.as_bytes()), "no such path");
                let heading = "nothing here; WebSocket echo endpoints:";
                Answer::Plain(self.list(StatusCode::NOT_FOUND, heading))
            }
        }
    }

    /// The page for who asks for one, the list for everybody else.
    fn root(&self, asked: &HeaderMap) -> Response<Body> {
        let list = || self.list(StatusCode::OK, "WebSocket echo endpoints:");
        match &self.page {
            None => list(),
            Some(page) if answer::accepts(asked, "text/html") => page.response(),
            Some(_) => {
                let mut list = list();
                list.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
                list
            }
        }
    }

    fn info<B>(
        &self,
        request: &Request<B>,
        trace: Trace,
        caller: &Caller,
    ) -> Result<Info, Rejection> {
        if self.service.shared.budget.is_spent() {
            return Err(Rejection::MemorySpent);
        }
        Info::of(request, trace, caller, &self.service, (&self.policy, &self.routes))
    }

    /// Remembers what a handshake is answered with, if it carries a trace.
    fn remember<B>(
        &self,
        request: &Request<B>,
        opened: &Result<(Response<Body>, Opening), Refusal>,
    ) {
        let query = request.uri().query().unwrap_or_default();
        if let Ok(Some(trace)) = TraceId::of(query) {
            let outcome = match opened {
                Ok(_) => Outcome::Opened,
                Err(refusal) => Outcome::Refused(Box::new(refusal.clone())),
            };
            self.service.traces.note(trace, outcome);
        }
    }

    fn list(&self, status: StatusCode, heading: &str) -> Response<Body> {
        answer::list(status, heading, &self.policy.endpoints)
    }
}

/// What a handshake is answered with.
fn answered<B>(request: &Request<B>, opened: Result<(Response<Body>, Opening), Refusal>) -> Answer {
    match opened {
        Ok((response, opening)) => Answer::Upgrade(response, opening),
        Err(refusal) => Answer::Plain(refusal.response(request.headers())),
    }
}
