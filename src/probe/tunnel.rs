//! The way out of a network through an HTTP proxy: which one, and the tunnel through it.
//!
//! Owns `--proxy`, the variables of the environment and CONNECT (RFC 9110, section 9.3.6). A proxy in
//! front of the server is another matter: no client knows of that.

use std::{env, fmt};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::time::Instant;

use super::answer::quote;
use super::exchange::{Exchange, Exchanged, Unanswered};
use super::failure::{Failed, Failure};
use super::report::printable;
use super::target::{Target, host, masked, port};
use super::wire::{End, Stream};

/// Which HTTP proxy a connection goes through.
pub struct Proxies {
    matcher: Matcher,
    /// Why those for ws and for wss cannot be used.
    unusable: [Option<String>; 2],
}

/// Why a text names no proxy that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableProxy {
    /// It is no URL of a host.
    #[error("write http://HOST:PORT")]
    Form,
    /// Its scheme is not `http`.
    #[error("only http:// proxies are supported, not SOCKS or https://: write http://HOST:PORT")]
    Scheme,
    /// Its port is none.
    #[error("the port is a number from 1 to 65535")]
    Port,
    /// It has a path, a query or a fragment.
    #[error("a proxy has no path, query or fragment: write http://HOST:PORT")]
    Path,
}

impl fmt::Debug for Proxies {
    /// Without the password that may be in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxies")
    }
}

impl Proxies {
    /// Those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case. One that cannot be
    /// used is an error only of a target that it is for.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let mut found = names.into_iter().filter_map(|it| Some((env::var(&it).ok()?, it)));
            found.next().filter(|(url, _)| !url.is_empty())
        };
        let exempt = set("NO_PROXY").map(|(hosts, _)| hosts).unwrap_or_default();
        let are_all_exempt = exempt.split(',').any(|host| host.trim() == "*");
        // Of a CGI program, a client sets HTTP_PROXY.
        if are_all_exempt || env::var_os("REQUEST_METHOD").is_some() {
            return Self::none();
        }
        let [plain, secure] =
            ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| set(name).or_else(|| set("ALL_PROXY")));
        let unusable = [&plain, &secure].map(|named| {
            let (url, name) = named.as_ref()?;
            check(url).err().map(|error| format!("{name}={}: {error}.", masked(url)))
        });
        // Whatever cannot be used still has to be for the same targets.
        let url = |named: Option<(String, String)>, error: &Option<String>| match (named, error) {
            (Some(_), Some(_)) => "http://unusable".to_owned(),
            (named, _) => named.map(|(url, _)| url).unwrap_or_default(),
        };
        let matcher = Matcher::builder()
            .http(url(plain, &unusable[0]))
            .https(url(secure, &unusable[1]))
            .no(exempt)
            .build();
        Self { matcher, unusable }
    }

    /// This one for everything.
    ///
    /// # Errors
    /// It is no `http://` URL of a host and a port.
    pub fn fixed(url: &str) -> Result<Self, UnusableProxy> {
        if !url.contains("://") {
            return Err(UnusableProxy::Form);
        }
        check(url)?;
        Ok(Self { matcher: Matcher::builder().all(url).build(), unusable: [None, None] })
    }

    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self { matcher: Matcher::builder().build(), unusable: [None, None] }
    }

    /// The one for a target, if there is one.
    pub(super) fn proxy_for(&self, target: &Target) -> Result<Option<Via>, Failed> {
        // The variables know no `ws`.
        let scheme = if target.secure { "https" } else { "http" };
        let url = format!("{scheme}://{}/", target.address()).parse().ok();
        let Some(intercept) = url.and_then(|url: Uri| self.matcher.intercept(&url)) else {
            return Ok(None);
        };
        if let Some(seen) = &self.unusable[usize::from(target.secure)] {
            return Err(Failed::new(Failure::TunnelBroken, seen));
        }
        let uri = intercept.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Ok(Some(Via { host, port: uri.port_u16().unwrap_or(80), intercept }))
    }
}

/// Whether a URL names an HTTP proxy; without a scheme, as curl has it, it is one.
fn check(url: &str) -> Result<(), UnusableProxy> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(UnusableProxy::Scheme);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(UnusableProxy::Path);
    }
    let authority: Authority = rest.parse().map_err(|_| UnusableProxy::Form)?;
    host(&authority).ok_or(UnusableProxy::Form)?;
    port(&authority).ok_or(UnusableProxy::Port)?;
    Ok(())
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
        Err(Failed::new(failure, seen).quoting(quote(&head, &body)))
    }
}
