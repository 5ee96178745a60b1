//! What is said to a client that gets no WebSocket, as text or as JSON.
//!
//! Owns the form of a refusal. The reason comes from the handshake, the remedy from the diagnosis.
//! Nothing from the request is ever reflected.

use std::fmt::Write as _;

use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::answer::{ALLOWED, Body, accepts, plain};
use super::head::BadHead;
use crate::config::Endpoint;
use crate::ops::metrics::Label;
use crate::proxy::blame::Fault;
use crate::proxy::diagnosis::{Diagnosis, Remedy, Verdict, host_remedy, misplaced};
use crate::ws::handshake::{self, Rejection, labelled};

/// The most endpoints that are listed to a client that missed them.
const LISTED: usize = 16;

/// A refusal, and where to fix what led to it.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    /// What a proxy did to the handshake, if that is what led to it.
    #[serde(skip)]
    pub fault: Option<Fault>,
    /// The label of logs and metrics.
    reason: &'static str,
    /// The sentence.
    pub message: String,
    #[serde(flatten)]
    remedy: Option<Remedy>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let status = rejection.status();
        let Rejection::Upgrade(trace) = rejection else {
            return Self::new(status, rejection.label(), rejection.to_string());
        };
        let Diagnosis { verdict, remedy } = Diagnosis::of(trace);
        Self { remedy, ..Self::by(verdict, status) }
    }
}

impl From<Verdict> for Refusal {
    /// Refuses a connection that did not begin with a request.
    fn from(verdict: Verdict) -> Self {
        Self::by(verdict, StatusCode::BAD_REQUEST)
    }
}

impl From<BadHead> for Refusal {
    fn from(bad: BadHead) -> Self {
        let status = match bad {
            BadHead::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, bad.label(), bad.to_string())
    }
}

impl Label for Refusal {
    fn label(&self) -> &'static str {
        self.reason
    }
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: String) -> Self {
        Self { status, fault: None, reason, message, remedy: None }
    }

    fn by(verdict: Verdict, status: StatusCode) -> Self {
        let refusal = Self::new(status, verdict.label(), verdict.to_string());
        Self { fault: verdict.fault(), ..refusal }
    }

    /// A page that is refused only because the proxy in front hides the site's host.
    #[must_use]
    pub fn host_lost() -> Self {
        let refusal = Self::by(Verdict::HostLost, StatusCode::FORBIDDEN);
        Self { remedy: Some(host_remedy()), ..refusal }
    }

    /// A handshake on a path that is no endpoint. The path only selects what is said.
    #[must_use]
    pub fn no_endpoint(path: &str, endpoints: &[Endpoint]) -> Self {
        let paths: Vec<_> = endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect();
        let (meant, remedy) = misplaced(path, &paths);
        let meant = meant.map(|meant| format!(", {meant} is probably meant")).unwrap_or_default();
        let (listed, more) = paths.split_at(paths.len().min(LISTED));
        let mut listed = listed.join(", ");
        if !more.is_empty() {
            let _ = write!(listed, " and {} more", more.len());
        }
        let refusal = Self::by(Verdict::NoEndpoint, StatusCode::NOT_FOUND);
        let message = format!("{}{meant}; endpoints: {listed}", refusal.message);
        Self { message, remedy, ..refusal }
    }

    /// For a terminal, or the network tab of a browser.
    fn text(&self) -> String {
        let Some(Remedy { location, lines, elsewhere }) = &self.remedy else {
            return labelled(&self.message, self.reason);
        };
        let lines: String = lines.iter().map(|line| ["    ", line, "\n"].concat()).collect();
        let text = format!("{}\n\n{location}:\n\n{lines}\n{elsewhere}", self.message);
        labelled(&text, self.reason)
    }

    /// The answer to a request with these headers: JSON where they ask for it.
    #[must_use]
    pub fn response(&self, asked: &HeaderMap) -> Response<Body> {
        let mut response = if accepts(asked, "application/json") {
            let json = serde_json::to_string(self).expect("a refusal is plain text");
            let mut response = plain(self.status, json + "\n");
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        } else {
            plain(self.status, self.text())
        };
        let mut say = |name: HeaderName, value: HeaderValue| {
            response.headers_mut().insert(name, value);
        };
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => say(ALLOW, HeaderValue::from_static(ALLOWED)),
            StatusCode::UPGRADE_REQUIRED => {
                say(UPGRADE, HeaderValue::from_static("websocket"));
                say(CONNECTION, HeaderValue::from_static("close, Upgrade"));
                say(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                // Jitter, so that refused clients do not return all at once.
                say(RETRY_AFTER, HeaderValue::from(fastrand::u16(1..=5)));
            }
            _ => {}
        }
        response
    }

    /// The answer where no request was read. A proxy whose only mistake is the PROXY protocol passes
    /// it on to its client; a peer that speaks TLS or HTTP/2 cannot read it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let text = self.text();
        format!(
            "HTTP/1.1 {}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
            self.status,
            text.len()
        )
        .into_bytes()
    }
}
