//! What arrived of a request, for the client that sent it: `/info`.
//!
//! Owns the form of the answer, whose names are stable: new ones may be added. What may be shown is
//! decided in `redaction`; what it means comes from the handshake, the client's address and the
//! diagnosis.

mod redaction;

use std::time::Duration;

use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::answer::{Body, plain};
use super::query;
use super::refusal::Refusal;
use super::service::Service;
use super::traces::{Known, Outcome, TraceId};
use super::upgrade::{Caller, Route, host_is_lost, host_of};
use crate::config::Policy;
use crate::ops::logging;
use crate::ops::metrics::Label;
use crate::proxy::client_addr::{Account, Scheme, account};
use crate::proxy::diagnosis::{Remedy, Warning};
use crate::proxy::protocol::ProxyHeader;
use crate::ws::engine::End;
use crate::ws::handshake::{self, Offer, Rejection, Trace};
use crate::ws::session::{After, Closing, Script};

/// The longest text that is shown besides the target and the headers, in bytes: each of them is there in
/// full as well, and several times a long head would be too much memory for an answer.
const AGAIN: usize = 256;

/// What the service knows of a request.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    instance: String,
    version: &'static str,
    uptime_seconds: f64,
    /// The other end of the socket: an address and port, or `unix`.
    peer: String,
    /// Whom a PROXY header names: an address and port, `local` or `unknown`.
    proxy_header: Option<String>,
    client: Believed,
    received: Received,
    reported: Reported,
    handshake: Handshake,
    headers: Vec<Field>,
    verdict: Verdict,
    warnings: Vec<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Traced>,
}

/// Who we believe the client is, and why.
#[derive(Debug, Serialize)]
struct Believed {
    address: String,
    reason: &'static str,
    message: String,
    /// The trusted proxies behind the peer, the nearest first.
    hops: Vec<String>,
    ignored: Vec<Ignored>,
}

/// A header that is not believed, or not beyond the client.
#[derive(Debug, Serialize)]
struct Ignored {
    header: String,
    reason: &'static str,
    message: String,
}

/// The request as it arrived.
#[derive(Debug, Serialize)]
struct Received {
    method: String,
    target: String,
    http_version: String,
    /// Always `http`: TLS ends in front.
    scheme: &'static str,
    host: Option<String>,
}

/// What proxies that are believed say of the request that the client made.
#[derive(Debug, Serialize)]
struct Reported {
    scheme: Option<&'static str>,
    host: Option<String>,
    path: Option<String>,
    prefix: Option<String>,
}

/// What there is of an opening handshake.
#[derive(Debug, Serialize)]
struct Handshake {
    upgrade: Option<String>,
    connection: Option<String>,
    origin: Option<String>,
    key: bool,
    version: Option<String>,
    subprotocols: Vec<String>,
    extensions: Vec<String>,
    /// By whose rules it is judged.
    endpoint: String,
    /// Whether that endpoint takes options in its URL.
    options: bool,
    /// What the endpoint would agree on; `None` if what is offered is malformed.
    agreed: Option<Agreed>,
}

#[derive(Debug, Serialize)]
struct Agreed {
    subprotocol: Option<String>,
    extensions: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Field {
    name: String,
    value: String,
}

/// A label, a sentence, and what fixes it.
#[derive(Debug, Serialize)]
struct Said {
    reason: &'static str,
    message: String,
    #[serde(flatten)]
    remedy: Option<Remedy>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Verdict {
    Said(Said),
    Refused(Refusal),
}

/// What became of the handshake with a trace.
#[derive(Debug, Serialize)]
struct Traced {
    id: String,
    /// `opened`, `broken`, `refused`, `never` or `forgotten`.
    outcome: &'static str,
    seconds_ago: Option<f64>,
    #[serde(flatten)]
    refusal: Option<Refusal>,
}

impl Info {
    /// What is known of a request to `/info`, judged by the rules of an endpoint: the first of
    /// `routes`, or the one in `?endpoint=`.
    ///
    /// # Errors
    /// When the query asks for what cannot be.
    pub(super) fn of<B, R: AsRef<Route>>(
        request: &Request<B>,
        trace: Trace,
        caller: &Caller,
        service: &Service,
        (policy, routes): (&Policy, &[R]),
    ) -> Result<Self, Rejection> {
        let headers = request.headers();
        let query = request.uri().query().unwrap_or_default();
        let route = endpoint(query, routes)?;
        let traced = TraceId::of(query)?.map(|id| Traced::of(id, service));
        let account = account(caller.peer, caller.proxy, headers, &policy.proxy.trusted);
        let host_lost = host_is_lost(service, &account.client, host_of(request));
        let text = |value: &String| again(redaction::text(value.as_bytes()));
        Ok(Self {
            instance: instance(policy, service).to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: millis(service.started.elapsed()),
            peer: caller.peer.to_string(),
            proxy_header: caller.proxy.map(|header| match header {
                ProxyHeader::Local => "local".to_owned(),
                ProxyHeader::Unknown => "unknown".to_owned(),
                ProxyHeader::Proxied(addr) => addr.to_string(),
            }),
            client: Believed::of(&account),
            received: Received {
                method: request.method().to_string(),
                target: redaction::text(request.uri().to_string().as_bytes()),
                http_version: format!("{:?}", request.version()),
                scheme: "http",
                host: Some(host_of(request))
                    .filter(|host| !host.is_empty())
                    .map(|host| again(redaction::header("host", host))),
            },
            reported: Reported {
                scheme: account.client.scheme.map(|scheme| match scheme {
                    Scheme::Plain => "http",
                    Scheme::Tls => "https",
                }),
                host: account.client.host.clone(),
                path: account.path.as_ref().map(text),
                prefix: account.prefix.as_ref().map(text),
            },
            handshake: Handshake::of(headers, route),
            headers: fields(headers),
            verdict: Verdict::of(request, trace, route, account.client.host.as_deref()),
            warnings: Warning::all(&account, host_lost).into_iter().map(Said::from).collect(),
            trace: traced,
        })
    }

    /// As one line of JSON, without spare memory: it may wait long to be read.
    fn json(&self) -> Box<str> {
        let json = serde_json::to_string(self).expect("it is made of texts and numbers");
        (json + "\n").into()
    }

    /// The session that tells it in one message and ends.
    pub(super) fn script(&self) -> Script {
        let close = Closing { end: End::Told, after: After::Time(Duration::ZERO) };
        Script { greeting: Some(self.json()), close: Some(close), ..Script::default() }
    }

    /// The answer to a request that is not a handshake. Nobody may keep it, and no other site may
    /// read it: it has no header that allows that.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = plain(StatusCode::OK, self.json());
        for (name, value) in [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The name of this instance: `http.name`, or else the host's, and its own there if it has one.
pub(super) fn instance<'a>(policy: &'a Policy, service: &'a Service) -> &'a str {
    match &*policy.http.name {
        "" => &service.host,
        name => name,
    }
}

/// The endpoint by whose rules a request is judged.
fn endpoint<'a, R: AsRef<Route>>(query: &str, routes: &'a [R]) -> Result<&'a Route, Rejection> {
    let mut routes = routes.iter().map(AsRef::as_ref);
    let found = match query::value(query, "endpoint").map(query::decode) {
        None => routes.next(),
        Some(path) => routes.find(|route| Some(route.path()) == path.as_deref()),
    };
    found.ok_or(Rejection::BadOption("endpoint must be the path of an endpoint"))
}

impl Believed {
    fn of(account: &Account) -> Self {
        let ignored = account.ignored.iter().map(|ignored| Ignored {
            header: ignored.header.to_string(),
            reason: ignored.because.label(),
            message: ignored.because.to_string(),
        });
        Self {
            address: account.client.addr.to_string(),
            reason: account.client.because.label(),
            message: account.client.because.to_string(),
            hops: account.hops.iter().map(ToString::to_string).collect(),
            ignored: ignored.collect(),
        }
    }
}

impl Handshake {
    fn of(headers: &HeaderMap, route: &Route) -> Self {
        let offer = Offer::of(headers);
        let subprotocols = redaction::subprotocols(&offer.subprotocols);
        let agreed = handshake::agree(headers, route.rules()).ok().map(|agreed| {
            let chosen = agreed.subprotocol.and_then(|chosen| {
                let is_chosen = |offered: &&[u8]| *offered == chosen.as_bytes();
                offer.subprotocols.iter().position(is_chosen)
            });
            Agreed {
                subprotocol: chosen.map(|at| subprotocols[at].clone()),
                extensions: agreed.compression.iter().map(ToString::to_string).collect(),
            }
        });
        Self {
            upgrade: lines(headers, &UPGRADE),
            connection: lines(headers, &CONNECTION),
            origin: lines(headers, &ORIGIN),
            key: offer.key,
            version: (!offer.versions.is_empty())
                .then(|| again(redaction::text(&offer.versions.join(&b", "[..])))),
            subprotocols,
            extensions: offer.extensions.iter().map(|it| again(redaction::text(it))).collect(),
            endpoint: route.path().to_owned(),
            options: route.has_options(),
            agreed,
        }
    }
}

/// What is shown once more, cut.
fn again(mut shown: String) -> String {
    if shown.len() > AGAIN {
        logging::cut(&mut shown, AGAIN);
        shown.push('…');
    }
    shown
}

/// All lines of a header, in one.
fn lines(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> =
        lines.map(|line| redaction::header(name.as_str(), line.as_bytes())).collect();
    (!lines.is_empty()).then(|| again(lines.join(", ")))
}

/// Every header. The lines of a list of subprotocols are one: whether one is a token depends on those
/// before it.
fn fields(headers: &HeaderMap) -> Vec<Field> {
    let field = |name: &HeaderName, value| Field { name: name.to_string(), value };
    let of = |name| {
        if name == SEC_WEBSOCKET_PROTOCOL {
            let offered = Offer::of(headers).subprotocols;
            return vec![field(name, redaction::subprotocols(&offered).join(", "))];
        }
        let lines = headers.get_all(name).iter();
        lines.map(|line| field(name, redaction::header(name.as_str(), line.as_bytes()))).collect()
    };
    headers.keys().flat_map(of).collect()
}

impl Verdict {
    /// Judges a request as a handshake with an endpoint.
    fn of<B>(request: &Request<B>, trace: Trace, route: &Route, site: Option<&str>) -> Self {
        let said = |reason, message: &str| {
            Self::Said(Said { reason, message: message.to_owned(), remedy: None })
        };
        if !trace.is_attempt() {
            return said(
                "no_websocket",
                "this is a plain request, so it does not show how handshakes arrive",
            );
        }
        match handshake::check(request, trace, route.rules(), site) {
            Ok(_) => said("complete", "the opening handshake is complete and correct"),
            Err(rejection) => Self::Refused(rejection.into()),
        }
    }
}

impl From<Warning> for Said {
    fn from(warning: Warning) -> Self {
        let (reason, message) = (warning.label(), warning.to_string());
        Self { reason, message, remedy: warning.remedy() }
    }
}

impl Traced {
    fn of(id: TraceId, service: &Service) -> Self {
        let (outcome, ago, refusal) = match service.traces.tell(id) {
            Known::Answered(Outcome::Opened, ago) => ("opened", Some(ago), None),
            Known::Answered(Outcome::Refused(refusal), ago) => {
                let outcome = if refusal.fault.is_some() { "broken" } else { "refused" };
                (outcome, Some(ago), Some(*refusal))
            }
            Known::Never => ("never", None, None),
            Known::Forgotten => ("forgotten", None, None),
        };
        Self { id: id.to_string(), outcome, seconds_ago: ago.map(millis), refusal }
    }
}

/// In seconds, to the millisecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
