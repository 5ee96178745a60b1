//! The command line of `wsecho probe`.
//!
//! Owns its options, and the files and variables that they name.

mod load;

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{
    HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
};
use regex_lite::Regex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Options;
use super::http2::Policy;
use super::measure::Plan;
use super::report::Family;
use super::report::nagios::{Limit, Limits};
use super::talk::Dialogue;
use super::target::{Pinned, Target, masked};
use super::tls::{Trust, provider};
use super::tunnel::Proxies;
use super::upgrade::Asked;
use crate::config::{read_duration, read_size};
use crate::net::field::is_token;
use crate::proxy::protocol::Version;

/// The longest `--timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The largest `--max-size`, in bytes.
const MAX_SIZE: usize = 64 << 20;

/// What follows the options in the help.
pub const AFTER_HELP: &str = "\
Stages: resolve, tcp, tls, http, upgrade, echo, ping, close, http2. The first that fails is explained.
Example: wsecho probe wss://echo.example.com/socket

Exit codes: 0 WebSockets work on every path, 1 they do not, 2 usage; with --format nagios those of a
plugin: 0 OK, 1 warning, 2 critical, 3 unknown. More: man wsecho-probe";

/// The arguments of `wsecho probe`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Args {
    /// The WebSocket to probe, such as wss://echo.example.com/socket; several are probed side by side
    #[arg(required = true, value_name = "URL")]
    urls: Vec<Target>,
    /// The time for all stages together
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = time)]
    timeout: Duration,
    /// Use this address for this host, as in /etc/hosts; can be repeated
    #[arg(long, value_name = "HOST:IP")]
    resolve: Vec<Pinned>,
    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Connect to this Unix socket instead of the URL's host
    #[arg(long, value_name = "PATH", conflicts_with_all = ["proxy", "resolve", "ipv4", "ipv6"])]
    unix: Option<PathBuf>,
    /// Go through this HTTP proxy, http://[USER:PASSWORD@]HOST:PORT; "none" ignores the environment
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Begin the connection with a PROXY header, as a load balancer does
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v2"])]
    proxy_protocol: Option<String>,
    /// Trust the certificates in this PEM file instead of those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate; the verdict says so
    #[arg(short = 'k', long, conflicts_with = "ca")]
    insecure: bool,
    /// Show the server this client certificate, from a PEM file with its chain
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The private key of --cert, if that file does not hold it
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Follow redirects, which browsers do not
    #[arg(short = 'L', long)]
    follow: bool,
    /// Send this header, "Name: value"; can be repeated
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Send this Origin, as a browser does for a page of https://SITE
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<HeaderValue>,
    /// Offer this subprotocol; can be repeated
    #[arg(long, value_name = "NAME", value_parser = subprotocol)]
    subprotocol: Vec<String>,
    /// Send this Host instead of the URL's
    #[arg(long, value_name = "HOST")]
    host: Option<HeaderValue>,
    /// Try WebSockets over HTTP/2 alone, or not at all; wss:// only
    #[arg(long, value_name = "HOW", value_parser = ["only", "off"])]
    http2: Option<String>,
    /// Send this text, to a server that is no echo
    #[arg(long, value_name = "TEXT", requires = "expect")]
    send: Option<String>,
    /// Wait for a message that matches this regular expression instead of echoes
    #[arg(long, value_name = "REGEX")]
    expect: Option<Regex>,
    /// Send no messages: open, ping and close
    #[arg(long, conflicts_with_all = ["send", "expect"])]
    connect_only: bool,
    /// How the reports are shown.
    #[command(flatten)]
    pub show: Show,
    /// Then send this many messages and show their round trips, 1 to 100000; pings unless it is an echo
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: Option<u32>,
    /// The time from one message of --count to the next
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "count", value_parser = time)]
    interval: Duration,
    /// Then find the largest message that comes back, up to this size
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "16MiB", value_parser = message_size, conflicts_with_all = ["expect", "connect_only"])]
    max_size: Option<usize>,
    /// Then find out how long a silent connection lives, up to this time
    #[arg(long, value_name = "MAX", num_args = 0..=1, default_missing_value = "6m", value_parser = silence)]
    idle: Option<Duration>,
    /// What `--load` is.
    #[command(flatten)]
    load: load::Load,
    /// Show both heads of the handshake, without their secrets
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print the verdict alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// How reports are shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Show {
    /// The form of the report
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub format: Format,
    /// Replace this file at once instead of printing: for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// With nagios: a warning beyond this limit, such as rtt=200ms, days=21 or idle=60s
    #[arg(long, value_name = "NAME=LIMIT", value_delimiter = ',')]
    warn: Vec<Limit>,
    /// With nagios: critical beyond this limit
    #[arg(long, value_name = "NAME=LIMIT", value_delimiter = ',')]
    crit: Vec<Limit>,
}

/// The forms of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Terminal,
    /// For Nagios and Icinga: a line with figures; exits with 0, 1, 2 or 3
    Nagios,
    /// For programs
    Json,
    /// For Prometheus
    Prometheus,
}

impl Show {
    /// The limits for Nagios.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { warn: self.warn.clone(), crit: self.crit.clone() }
    }

    fn check(&self, targets: &[Target]) -> Result<(), UnusableOption> {
        let unusable = |text: String| Err(UnusableOption(text));
        if self.output.is_some() && self.format != Format::Prometheus {
            return unusable("--output is for --format prometheus".to_owned());
        }
        if !(self.warn.is_empty() && self.crit.is_empty()) && self.format != Format::Nagios {
            return unusable("--warn and --crit are for --format nagios".to_owned());
        }
        // Series that differ in nothing are an error of the whole file.
        let mut urls: Vec<_> = targets.iter().map(ToString::to_string).collect();
        urls.sort_unstable();
        match urls.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) if self.format == Format::Prometheus => {
                unusable(format!("{} is given twice", twice[0]))
            }
            _ => Ok(()),
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    no_url(text, "10s")?;
    let time = read_duration(text)?;
    if time.is_zero() || time > MAX_TIMEOUT { Err("write 1ms to 1h".to_owned()) } else { Ok(time) }
}

/// The value of an option that was left out, or may be, in front of a URL, which may have a password.
fn no_url(text: &str, example: &str) -> Result<(), String> {
    if text.contains("://") {
        Err(format!("write the URL first, or \"{example}\""))
    } else {
        Ok(())
    }
}

fn silence(text: &str) -> Result<Duration, String> {
    no_url(text, "--idle 6m")?;
    // wsecho ends a session that asked for silence after an hour.
    let range = Duration::from_secs(1)..=Duration::from_secs(55 * 60);
    let time = read_duration(text)?;
    if range.contains(&time) { Ok(time) } else { Err("write 1s to 55m".to_owned()) }
}

fn message_size(text: &str) -> Result<usize, String> {
    no_url(text, "--max-size 16MiB")?;
    match usize::try_from(read_size(text)?) {
        Ok(size @ 1..=MAX_SIZE) => Ok(size),
        _ => Err("write \"1 B\" to \"64 MiB\"".to_owned()),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let example = || "write \"Name: value\"".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(example)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| example())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| example())?;
    match name {
        SEC_WEBSOCKET_EXTENSIONS => {
            Err("the probe offers permessage-deflate, and can check nothing else".to_owned())
        }
        SEC_WEBSOCKET_PROTOCOL => Err("offer subprotocols with --subprotocol".to_owned()),
        _ => Ok((name, value)),
    }
}

fn subprotocol(text: &str) -> Result<String, String> {
    if is_token(text.as_bytes()) {
        Ok(text.to_owned())
    } else {
        Err("a subprotocol is a token, without spaces or commas".to_owned())
    }
}

/// What may be shown of a value that `option` does not take, which may hold a secret.
#[must_use]
pub fn shown(option: &str, value: &str) -> String {
    if option.starts_with("--header") {
        value.split_once(':').map_or("…".to_owned(), |(name, _)| format!("{name}: …"))
    } else if option.starts_with("--subprotocol") {
        "…".to_owned()
    } else if option.starts_with("<URL>") || value.contains("://") || value.contains('@') {
        masked(value)
    } else {
        value.to_owned()
    }
}

/// An option that cannot be used, such as one that names a file without a certificate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnusableOption(String);

fn unusable(option: &str, path: &Path, error: impl Display) -> UnusableOption {
    UnusableOption(format!("{option} {}: {error}", path.display()))
}

impl Args {
    /// What to probe, and how.
    ///
    /// # Errors
    /// A file that cannot be used, a proxy that is none, or options that do not go together.
    pub fn plan(self) -> Result<(Vec<Target>, Options), UnusableOption> {
        self.show.check(&self.urls)?;
        let http2 = match self.http2.as_deref() {
            Some("only") => Policy::Only,
            Some(_) => Policy::Off,
            None => Policy::Also,
        };
        if let (Policy::Only, Some(plain)) = (http2, self.urls.iter().find(|url| !url.secure)) {
            return Err(UnusableOption(format!("--http2 only {plain}: write a wss:// URL")));
        }
        let proxies = match self.proxy.as_deref() {
            None => Proxies::from_environment(),
            Some("none") => Proxies::none(),
            Some(url) => Proxies::fixed(url)
                .map_err(|error| UnusableOption(format!("--proxy {}: {error}", masked(url))))?,
        };
        let measure = self.measurements(&proxies)?;
        if !measure.asked().is_empty() && matches!(http2, Policy::Only) {
            let message = "measurements are made over HTTP/1.1: leave out --http2";
            return Err(UnusableOption(message.to_owned()));
        }
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        };
        let roots = self.ca.as_deref().map(|path| certificates("--ca", path)).transpose()?;
        let identity = match &self.cert {
            Some(cert) => Some(identity(cert, self.key.as_deref())?),
            None => None,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in self.header {
            headers.append(name, value);
        }
        let dialogue = match (self.connect_only, self.expect) {
            (true, _) => Dialogue::Nothing,
            (false, Some(expect)) => Dialogue::Expect { send: self.send, expect },
            (false, None) => Dialogue::Echo,
        };
        let options = Options {
            timeout: self.timeout,
            pinned: self.resolve,
            family,
            unix: self.unix,
            proxies,
            proxy_protocol: self.proxy_protocol.map(|version| match &*version {
                "v1" => Version::V1,
                _ => Version::V2,
            }),
            trust: Trust::new(roots, self.insecure, identity),
            follow: self.follow,
            asked: Asked {
                headers,
                origin: self.origin,
                subprotocols: self.subprotocol,
                host: self.host,
                uncompressed: false,
            },
            http2,
            dialogue,
            measure,
        };
        Ok((self.urls, options))
    }

    fn measurements(&self, proxies: &Proxies) -> Result<Plan, UnusableOption> {
        let load = self.load.settings(&self.urls, |target| {
            self.unix.is_some() || load::is_loopback(target, &self.resolve, proxies)
        })?;
        let mut plan = Plan {
            count: self.count.map(|count| (count, self.interval)),
            idle: self.idle,
            max_size: self.max_size,
            load,
            live: false,
        };
        let asked = plan.asked();
        // Several at once would overwrite each other's line.
        let alone = self.urls.len() == 1 && !self.quiet;
        plan.live = alone && !asked.is_empty() && io::stderr().is_terminal();
        match self.show.limits().unmeasured(&asked) {
            None => Ok(plan),
            Some((figure, measurement)) => {
                let option = measurement.option();
                Err(UnusableOption(format!("a limit on {figure} needs {option}")))
            }
        }
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, UnusableOption> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(read) if read.is_empty() => Err(unusable(option, path, "no certificate in PEM form")),
        Ok(read) => Ok(read),
        Err(error) => Err(unusable(option, path, error)),
    }
}

fn identity(cert: &Path, key: Option<&Path>) -> Result<Arc<CertifiedKey>, UnusableOption> {
    let chain = certificates("--cert", cert)?;
    let (option, path) = key.map_or(("--cert", cert), |key| ("--key", key));
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(option, path, error))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map(Arc::new)
        .map_err(|error| unusable(option, path, error))
}
