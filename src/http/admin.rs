//! The admin listener: metrics and health, for machines that watch.
//!
//! Owns its table of paths. It does not know the metrics' names, nor who may connect: that depends on
//! the address it listens on.

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{self, Body, plain};
use super::refusal::Refusal;
use super::service::Service;
use crate::ops::metrics::Now;
use crate::ws::handshake::Rejection;

/// Answers a request on the admin listener.
pub fn answer<B>(request: &Request<B>, service: &Service) -> Response<Body> {
    let path = request.uri().path();
    if request.method() == Method::OPTIONS && matches!(path, "/" | "*" | "/healthz" | "/metrics") {
        return answer::options(service.drain());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Refusal::from(Rejection::Method).response(request.headers());
    }
    let list = "/metrics  what Prometheus reads\n/healthz  200, and 503 while the service stops\n";
    match path {
        "/healthz" => answer::health(service.drain()),
        "/metrics" => {
            let now = Now {
                budget_limit: service.shared.budget.limit(),
                budget_used: service.shared.budget.used(),
                log_lost: service.log_lost.count(),
            };
            let mut response = plain(StatusCode::OK, service.metrics().text(now));
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        "/" => plain(StatusCode::OK, list),
        _ => plain(StatusCode::NOT_FOUND, format!("nothing here; there are:\n{list}")),
    }
}
