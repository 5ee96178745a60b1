//! What a probe found, as plain data: the printers are pure functions of it.
//!
//! Owns the stages and the facts of each. Everything in it that came from the network is escaped and
//! cut, and secrets are masked, so no printer can leak or garble. It does not know how the facts were
//! found.

pub mod json;
mod lines;
pub mod measured;
pub mod nagios;
pub mod prometheus;
pub mod terminal;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(super) use self::lines::{printable, printable_lines, printable_start};
use self::measured::Measured;
use super::failure::Failed;

/// The stages of a probe, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From a name to addresses.
    Resolve,
    /// From an address to a connection, a tunnel through an HTTP proxy included.
    Tcp,
    /// The TLS handshake, and the certificates.
    Tls,
    /// The request and its answer.
    Http,
    /// Whether that answer opens a WebSocket (RFC 6455, section 4.1).
    Upgrade,
    /// Messages there and back.
    Echo,
    /// A ping and its pong.
    Ping,
    /// The closing handshake.
    Close,
    /// The same WebSocket over HTTP/2 (RFC 8441); for wss only.
    Http2,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Tcp,
        Self::Tls,
        Self::Http,
        Self::Upgrade,
        Self::Echo,
        Self::Ping,
        Self::Close,
        Self::Http2,
    ];

    /// The stable name in reports and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Upgrade => "upgrade",
            Self::Echo => "echo",
            Self::Ping => "ping",
            Self::Close => "close",
            Self::Http2 => "http2",
        }
    }
}

/// What one probe found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The URL that was probed last, with its secrets masked.
    pub url: String,
    /// When the probe began, in seconds of Unix time.
    pub begun_unix_seconds: u64,
    /// From the first stage to the end of the last, redirects included.
    pub took: Duration,
    /// The deadline of all stages together.
    pub timeout: Duration,
    /// Whether the certificate was not to be judged (`--insecure`).
    pub insecure: bool,
    /// The stages that were passed, failed, or left out, in order. Those behind a failure are absent.
    pub steps: Vec<Step>,
    /// The redirects on the way to `url`.
    pub redirects: Vec<Redirect>,
    /// The addresses of the name, or of the HTTP proxy, in the order in which clients try them.
    pub addresses: Vec<IpAddr>,
    /// Each attempt to connect; the one in use comes last.
    pub attempts: Vec<Attempt>,
    /// The HTTP proxy whose tunnel is used, as `host:port`.
    pub tunnel: Option<String>,
    /// What TLS agreed on, also where the certificate was refused.
    pub tls: Option<Tls>,
    /// The answer to the handshake.
    pub answer: Option<Answer>,
    /// Both heads of the handshake, as sent and received.
    pub heads: Option<Heads>,
    /// What the 101 agreed to, or with `--http2 only` the answer over HTTP/2.
    pub agreed: Option<Agreed>,
    /// What a server says before anything was sent to it.
    pub greeting: Option<String>,
    /// What the server puts before each text, if it does so every time.
    pub prefix: Option<String>,
    /// The round trip of each message.
    pub round_trips: Vec<RoundTrip>,
    /// The round trip of the ping.
    pub ping: Option<Duration>,
    /// How the WebSocket ended.
    pub closed: Option<Closed>,
    /// The measurements that were asked for.
    pub measured: Measured,
    /// What the server offers over HTTP/2, if that was asked.
    pub http2: Option<Http2>,
    /// What works, but should be known.
    pub warnings: Vec<String>,
    /// What failed; `None` is a healthy path.
    pub failed: Option<Failed>,
}

/// One stage of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub stage: Stage,
    /// Its time; `None` if it did not run, or takes none.
    pub took: Option<Duration>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Passed,
    /// It failed: see [`Report::failed`].
    Failed,
    /// It was left out, for this reason.
    Omitted(&'static str),
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// What was asked.
    pub url: String,
    /// The status of the answer.
    pub status: u16,
    /// Where it leads.
    pub location: String,
}

/// An attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address and port, or the path of a Unix socket.
    pub to: String,
    /// The family of the address; `None` for a Unix socket.
    pub family: Option<Family>,
    /// Until it was connected or failed.
    pub took: Duration,
    /// Why it failed.
    pub error: Option<Unconnected>,
}

/// Why an attempt to connect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// A reset, or an ICMP message that says as much.
    Refused,
    /// No answer in time.
    Timeout,
    /// This host itself has no route, as one without IPv6 has none to an AAAA record's address.
    NoRoute(String),
    /// An ICMP message of a router or firewall.
    Unreachable(String),
    /// Anything else.
    Other(String),
}

impl Unconnected {
    /// What an error of connect(2) means.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Unreachable(plain(error))
            }
            _ => Self::Other(plain(error)),
        }
    }
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("no answer"),
            Self::NoRoute(text) | Self::Unreachable(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// The whole days from one moment to another, both in seconds of Unix time; negative if that is past.
pub(super) fn days_until(then: i64, now: i64) -> i64 {
    const DAY: i64 = 24 * 60 * 60;
    then.saturating_sub(now).div_euclid(DAY)
}

/// Since when a certificate is expired that has so many days left; `None` if it is not.
pub(super) fn expired(days_left: i64) -> Option<String> {
    (days_left < 0).then(|| format!("expired {} ago", days(days_left.saturating_neg())))
}

/// A number of days, with its unit.
pub(super) fn days(count: i64) -> String {
    if count == 1 { "1 day".to_owned() } else { format!("{count} days") }
}

/// The text of an error in lower case, without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What TLS agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Such as `TLS 1.3`.
    pub version: String,
    /// The cipher suite, by IANA's name.
    pub cipher: String,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// The certificates that the server sent, its own first.
    pub chain: Vec<Certificate>,
    /// Whether the chain was verified. `false` with `--insecure`, and where it failed.
    pub verified: bool,
    /// When the verified chain that lasts longest expires, its root included, in seconds of Unix time.
    pub last_expiry_unix_seconds: Option<i64>,
    /// Whether the server asked for a client certificate.
    pub client_certificate_asked: bool,
}

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The names that it is valid for: DNS names and addresses of `subjectAltName`.
    pub names: Vec<String>,
    /// When it becomes valid, in seconds of Unix time.
    pub not_before_unix_seconds: i64,
    /// When it expires, in seconds of Unix time.
    pub not_after_unix_seconds: i64,
    /// Until it expires, in whole days at the time of the probe; negative once it has.
    pub days_left: i64,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of its DER form, in hexadecimal.
    pub sha256: String,
}

/// An answer to the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its reason phrase, or the usual one for the status.
    pub reason: String,
    /// The headers that tell who answered: `Server`, `Via`, `X-Cache` and their like.
    pub from: Vec<(String, String)>,
    /// `Location` of a redirect.
    pub location: Option<String>,
}

/// Both heads of a handshake, secrets masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The request, line by line.
    pub request: Vec<String>,
    /// The answer, line by line; empty if none came.
    pub answer: Vec<String>,
}

/// What the 101 agreed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The subprotocol.
    pub subprotocol: Option<String>,
    /// `Sec-WebSocket-Extensions` as answered.
    pub extensions: Option<String>,
}

/// A message there and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// What was sent, such as `text` or `70 KB`.
    pub message: &'static str,
    /// Bytes of payload.
    pub bytes: usize,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

/// WebSockets over HTTP/2, as far as the server offers them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2 {
    /// What ALPN chose of `h2` and `http/1.1`.
    pub alpn: Option<String>,
    /// Whether the server announces extended CONNECT.
    pub announced: bool,
    /// The status that it was answered with.
    pub status: Option<u16>,
    /// The round trip over HTTP/2, as [`Report::round_trip`] defines it.
    pub round_trip: Option<Duration>,
}

/// How the WebSocket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code that was sent.
    pub sent: u16,
    /// The code in the answer; `None` if it had none.
    pub answered: Option<u16>,
    /// From our Close frame to the server's.
    pub took: Duration,
    /// How the connection ended after that.
    pub end: Ending,
}

/// How a connection ended after the closing handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server closed it, as it should (RFC 6455, section 7.1.1).
    Fin,
    /// It was reset.
    Reset,
    /// The server left it open, and the probe closed it.
    LeftOpen,
}

impl Report {
    /// Whether WebSockets work on the path.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.failed.is_none()
    }

    /// Until the verified chain expires, in whole days at the time of the probe; if none was verified, until
    /// the first certificate that was sent does.
    #[must_use]
    pub fn days_left(&self) -> Option<i64> {
        let tls = self.tls.as_ref()?;
        let now = i64::try_from(self.begun_unix_seconds).unwrap_or(i64::MAX);
        let verified = tls.last_expiry_unix_seconds.map(|it| days_until(it, now));
        verified.or_else(|| tls.chain.iter().map(|it| it.days_left).min())
    }

    /// The address that the connection is to; `None` for a Unix socket and where none was made.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let used = self.attempts.last().filter(|it| it.error.is_none())?;
        used.to.parse().ok().map(|it: SocketAddr| it.ip())
    }

    /// The URL that was to be probed, with its secrets masked.
    #[must_use]
    pub fn asked(&self) -> &str {
        self.redirects.first().map_or(&self.url, |first| &first.url)
    }

    /// The step of a stage, if the probe got that far.
    #[must_use]
    pub fn step(&self, stage: Stage) -> Option<&Step> {
        self.steps.iter().find(|step| step.stage == stage)
    }

    /// The median round trip: of the small messages, or of the ping where none was sent.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        let small = self.round_trips.iter().filter(|trip| trip.bytes < 1024);
        let mut times: Vec<_> = small.map(|trip| trip.took).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().or(self.ping)
    }
}
