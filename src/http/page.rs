//! The page at `/` for browsers: whether WebSockets work from where it is opened, and if not, where
//! they break.
//!
//! Owns the document, what it is told about the service, and the headers that keep it closed: nothing
//! but its own style and script runs in it, and it talks to its own origin only. It does not know what
//! the script does.
//!
//! Source: Content Security Policy Level 3; RFC 9110, section 12.5.1, for who gets it.

use std::sync::LazyLock;

use bytes::Bytes;
use data_encoding::BASE64;
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::answer::Body;
use super::info::instance;
use super::service::Service;
use crate::config::{Endpoint, Policy};

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script of several files, in one scope: the browser runs it from the document, which has no
/// address to import others from.
const SCRIPT: &str = concat!(
    include_str!("page/show.js"),
    include_str!("page/line.js"),
    include_str!("page/verdict.js"),
    include_str!("page/diagnosis.js"),
    include_str!("page/log.js"),
    include_str!("page/pulse.js"),
    include_str!("page/silence.js"),
    include_str!("page/try.js"),
    include_str!("page/facts.js"),
    include_str!("page/test.js"),
);

/// The style as it is sent: without what is there for its readers only.
static SENT_STYLE: LazyLock<String> = LazyLock::new(|| {
    let lines: String = STYLE.lines().map(str::trim).collect();
    let signs =
        [("; ", ";"), (": ", ":"), (", ", ","), (" {", "{"), ("{ ", "{"), (" }", "}"), (";}", "}")];
    signs.iter().fold(lines, |style, (loose, tight)| style.replace(loose, tight))
});

/// The script as it is sent.
static SENT_SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let lines = SCRIPT.lines().map(str::trim_start);
    // What is written for its readers is a fifth of it.
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, if line.ends_with([';', '{']) { "" } else { "\n" }]).collect()
});

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(&SENT_SCRIPT),
        hash(&SENT_STYLE)
    );
    HeaderValue::try_from(policy).expect("it is ASCII")
});

/// What the script needs and cannot ask for where `/info` is switched off.
#[derive(Serialize)]
struct Facts<'a> {
    instance: &'a str,
    version: &'static str,
    endpoints: Vec<Shown<'a>>,
    /// `limits.max_message_size`, in bytes.
    limit: u64,
    /// `timeouts.ping_interval`, in seconds.
    ping: f64,
    /// Whether `/info` may be asked.
    info: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    prefix: &'a str,
}

impl<'a> From<&'a Endpoint> for Shown<'a> {
    fn from(Endpoint { path, prefix, .. }: &'a Endpoint) -> Self {
        Self { path, prefix }
    }
}

/// The page under one policy.
pub(super) struct Page(Bytes);

impl Page {
    pub(super) fn new(policy: &Policy, service: &Service) -> Self {
        let facts = Facts {
            instance: instance(policy, service),
            version: env!("CARGO_PKG_VERSION"),
            endpoints: policy.endpoints.iter().map(Shown::from).collect(),
            limit: policy.max_message_size,
            ping: policy.timeouts.ping_interval.as_secs_f64(),
            info: policy.http.info,
        };
        let facts = serde_json::to_string(&facts).expect("facts are plain text and numbers");
        let page = DOCUMENT
            .replacen("/*style*/", &SENT_STYLE, 1)
            .replacen("/*script*/", &SENT_SCRIPT, 1)
            .replacen("{facts}", &attribute(&facts), 1);
        Self(page.into())
    }

    /// The answer to a browser.
    pub(super) fn response(&self) -> Response<Body> {
        const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
        const EMBEDDER: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
        let mut response = Response::new(Body::from(self.0.clone()));
        let headers = response.headers_mut();
        for (name, value) in [
            (CONNECTION, "close"),
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (VARY, "Accept"),
            // The page reports how it came here: an old copy would report what is no longer true.
            (CACHE_CONTROL, "no-store"),
            (REFERRER_POLICY, "no-referrer"),
            // Both together give the script a clock that is fine enough for round trips.
            (OPENER, "same-origin"),
            (EMBEDDER, "require-corp"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
        response
    }
}

/// A text as the value of an attribute in double quotes.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}
