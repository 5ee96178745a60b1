//! The way out of a network through an HTTP proxy: which one, and the tunnel through it.
//!
//! Owns `--proxy`, the variables of the environment and CONNECT (RFC 9110, section 9.3.6). A proxy in
//! front of the server is another matter: no client knows of that.

use std::fmt;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::time::Instant;

use super::exchange::{Exchange, Exchanged, Unanswered};
use super::failure::{Failed, Failure};
use super::report::{printable, printable_lines};
use super::target::Target;
use super::wire::{End, Stream};

/// Which HTTP proxy a connection goes through.
pub struct Proxies(Matcher);

impl fmt::Debug for Proxies {
    /// Without the password that may be in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxies")
    }
}

impl Proxies {
    /// Those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Matcher::from_env())
    }

    /// This one for everything; `None` if it is no `http://` URL.
    #[must_use]
    pub fn fixed(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_http = uri.scheme_str() == Some("http") && uri.host().is_some();
        is_http.then(|| Self(Matcher::builder().all(url).build()))
    }

    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self(Matcher::builder().build())
    }

    /// The one for a target.
    pub(super) fn proxy_for(&self, target: &Target) -> Option<Via> {
        // The variables know no `ws`.
        let scheme = if target.secure { "https" } else { "http" };
        let url: Uri = format!("{scheme}://{}/", target.address()).parse().ok()?;
        let intercept = self.0.intercept(&url)?;
        let uri = intercept.uri();
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Some(Via { host, port: uri.port_u16().unwrap_or(usual), intercept })
    }
}

/// An HTTP proxy to go through.
pub(super) struct Via {
    pub host: String,
    pub port: u16,
    intercept: Intercept,
}

impl Via {
    /// `Basic …`, as the proxy gets it.
    pub(super) fn authorization(&self) -> Option<String> {
        let value = self.intercept.basic_auth()?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// Opens a tunnel to the target.
    pub(super) async fn open(
        &self,
        stream: Stream,
        target: &Target,
        deadline: Instant,
    ) -> Result<Stream, Failed> {
        let to = target.address();
        let broken = |seen: String| Failed::new(Failure::TunnelBroken, seen);
        if let Some(other) = self.intercept.uri().scheme_str().filter(|scheme| *scheme != "http") {
            return Err(broken(format!(
                "The proxy named by the environment is {other}://, not http://."
            )));
        }
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(&to)
            .header(HOST, &to)
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(format!("{to}: {error}.")))?;
        if let Some(credentials) = self.intercept.basic_auth() {
            let mut credentials: HeaderValue = credentials.clone();
            credentials.set_sensitive(true);
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials);
        }
        let exchange = Exchange::new(stream);
        let Exchanged { head, body, stream } = match exchange.run(request, deadline).await {
            Ok(exchanged) => exchanged,
            Err(Unanswered::NotHttp(bytes)) => {
                let seen = "The answer to CONNECT is not HTTP.".to_owned();
                return Err(broken(seen).quoting(printable(&bytes)));
            }
            Err(Unanswered::Ended(end)) => {
                return Err(broken(format!(
                    "The HTTP proxy {} without answering CONNECT {to}.",
                    match end {
                        End::Fin => "closed the connection".to_owned(),
                        End::Reset => "reset the connection".to_owned(),
                        End::Tls(error) => format!("failed ({error})"),
                        End::Other(error) => format!("failed ({error})"),
                    }
                )));
            }
            Err(Unanswered::HeadTooLarge(most)) => {
                let seen = "The head of the answer to CONNECT does not end within";
                return Err(broken(format!("{seen} {most} bytes and 100 fields.")));
            }
            Err(Unanswered::Late(_)) => {
                return Err(broken(format!("CONNECT {to} was not answered in time.")));
            }
        };
        if let Some(stream) = stream {
            return Ok(stream);
        }
        let failure = if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            Failure::TunnelAuth
        } else {
            Failure::TunnelRefused
        };
        let seen = format!("The HTTP proxy answered CONNECT {to} with {}.", head.status);
        Err(Failed::new(failure, seen).quoting(printable_lines(&body)))
    }
}
