//! What a proxy's configuration makes of a handshake, judged as the service would judge what arrives.
//!
//! Owns the judgement and its sentences. It does not know how a product writes any of it: `nginx`,
//! `haproxy` and `apache` find the passages. The verdicts, and the lines that fix them, are those of
//! [`crate::proxy::diagnosis`].

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use super::report::{Finding, Place};
use crate::config::{Config, show_duration};
use crate::net::addr::{ListenAddr, PeerAddr, from_here};
use crate::ops::metrics::Label as _;
use crate::proxy::diagnosis::{Diagnosis, Remedy, Verdict, host_remedy, misplaced};
use crate::proxy::protocol::Expect;
use crate::ws::handshake::{Origins, Trace};

/// The most ways to the service that are judged in one configuration: nobody reads more findings, and
/// each is compared with all others.
pub(super) const MAX_PASSAGES: usize = 500;

/// A proxy whose configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache httpd.
    Apache,
}

impl Product {
    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Apache => "Apache",
        }
    }

    /// What applies a changed configuration.
    fn apply(self) -> &'static str {
        match self {
            Self::Nginx => "`nginx -t && systemctl reload nginx`",
            Self::Haproxy => "`haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy`",
            Self::Apache => {
                "`apachectl -t && systemctl reload httpd` (Debian: `systemctl reload apache2`)"
            }
        }
    }

    /// The lines for what the service cannot see: the path of silence, and `Host`.
    fn idle_line(self) -> &'static str {
        match self {
            Self::Nginx => "proxy_read_timeout 1h;",
            Self::Haproxy => "timeout tunnel 1h",
            Self::Apache => "ProxyTimeout 3600",
        }
    }
}

/// How a connection to the service begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP, with what is left of a handshake.
    Http(Trace),
    /// Bytes of the client, unread.
    Stream,
    /// TLS.
    Tls,
    /// HTTP/2 without a preceding upgrade.
    Http2,
}

/// One way through a proxy to the service.
#[derive(Clone, Debug)]
pub struct Passage {
    /// The proxy.
    pub product: Product,
    /// The line that leads to the service.
    pub place: Place,
    /// What contains it, such as `location /socket`.
    pub inside: String,
    /// What it sends.
    pub speaks: Speaks,
    /// How many PROXY headers precede that.
    pub proxy_headers: u8,
    /// Whether `Host` is passed on.
    pub host_kept: bool,
    /// How long it lets an open WebSocket be silent; `None` is for ever.
    pub idle: Option<Duration>,
    /// Paths that clients may ask for, each with what the service gets; empty if that is not known.
    pub paths: Vec<(String, String)>,
    /// Who the service takes it for.
    pub peer: PeerAddr,
    /// The variable that sets `Connection`, where its values are listed, and what is missing there.
    pub map: Option<(Place, &'static str)>,
    /// Where clients reach it.
    pub entry: Option<Entry>,
}

/// Where clients reach a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it speaks TLS there.
    pub secure: bool,
    /// The address, on this host.
    pub addr: SocketAddr,
    /// Whether other hosts cannot connect there.
    pub local: bool,
    /// The name that it serves.
    pub host: String,
    /// Whether it expects a PROXY header.
    pub introduced: bool,
    /// Why what an echo meets there would say nothing about clients.
    pub barred: Option<&'static str>,
}

impl Entry {
    /// What listens on an address, as it is written. Without a name, it serves the address.
    pub(super) fn at(
        listen: SocketAddr,
        secure: bool,
        name: Option<String>,
        introduced: bool,
        barred: Option<&'static str>,
    ) -> Self {
        let (addr, local) = (here(listen), listen.ip().is_loopback());
        let host = name.unwrap_or_else(|| addr.ip().to_string());
        Self { secure, addr, local, host, introduced, barred }
    }

    /// It asks for what only clients have.
    pub(super) const CERTIFICATE: &'static str = "it asks clients for a certificate";
    /// Another server may take what is sent there.
    pub(super) const NAME: &'static str = "the configuration tells no name that leads there";
    /// Clients come over TLS, to another listener or another proxy.
    pub(super) const REDIRECT: &'static str = "it may redirect what comes without TLS";

    /// The one by which most clients come: browsers insist on TLS where they can have it.
    pub(super) fn best(all: impl Iterator<Item = Self>) -> Option<Self> {
        all.min_by_key(|it| (it.barred.is_some(), !it.secure, it.local))
    }
}

impl Passage {
    /// What is wrong with it for a service that is configured so, and what is good to know.
    #[must_use]
    pub fn judge(&self, config: &Config) -> (Vec<Finding>, Vec<Finding>) {
        let verdict = self.verdict(config).map(|(verdict, remedy)| self.blamed(verdict, remedy));
        let mut wrong: Vec<Finding> = verdict.into_iter().collect();
        let mut advice = Vec::new();
        match self.too_short(config) {
            Some(finding) => wrong.push(finding),
            None => advice.extend(self.usual_minute()),
        }
        let origins_need_it = config.policy.origins == Origins::SameHost;
        let list = if origins_need_it { &mut wrong } else { &mut advice };
        list.extend(self.host_lost());
        (wrong, advice)
    }

    /// What comes first, in the order in which the service looks at a connection.
    fn verdict(&self, config: &Config) -> Option<(Verdict, Option<Remedy>)> {
        let expected = config.policy.proxy.protocol;
        let trusted = config.policy.proxy.trusted.contains(self.peer);
        let said = |verdict| Some((verdict, None));
        match (self.proxy_headers, expected) {
            (0, Expect::Required) => return said(Verdict::ProxyMissing),
            (1.., Expect::Off) => return said(Verdict::ProxyUnexpected),
            (_, Expect::Required) if !trusted => return said(Verdict::ProxyUntrusted),
            (2.., Expect::Required) => return said(Verdict::ProxyDoubled),
            _ => {}
        }
        let trace = match self.speaks {
            Speaks::Tls => return said(Verdict::TlsSpoken),
            Speaks::Http2 => return said(Verdict::Http2Spoken),
            Speaks::Stream => return None,
            Speaks::Http(trace) => trace,
        };
        let endpoints: Vec<&str> =
            config.policy.endpoints.iter().map(|endpoint| &*endpoint.path).collect();
        let arrives = |(_, path): &(String, String)| endpoints.contains(&path.as_str());
        if !self.paths.is_empty() && !self.paths.iter().any(arrives) {
            let (_, remedy) = misplaced(&self.paths[0].1, &endpoints);
            return Some((Verdict::NoEndpoint, remedy));
        }
        let Diagnosis { verdict, remedy } = Diagnosis::of(trace);
        (verdict != Verdict::NoWebSocket).then_some((verdict, remedy))
    }

    fn finding(&self, label: &'static str, what: &str) -> Finding {
        let place = Some(self.place.clone());
        let what = format!("{}: {} {what}", self.product.name(), self.inside);
        Finding { label, place, what, ..Finding::default() }
    }

    fn blamed(&self, verdict: Verdict, remedy: Option<Remedy>) -> Finding {
        let what = match &self.paths.first() {
            Some((asked, gets)) if verdict == Verdict::NoEndpoint => {
                format!("passes {asked} to wsecho as {gets}")
            }
            _ => "leads to wsecho, but lets no WebSocket through".to_owned(),
        };
        let mut finding = self.finding(verdict.label(), &what);
        finding.why = format!("wsecho answers: {verdict}.");
        let apply = self.product.apply();
        finding.fix = format!("Correct the line, then run {apply}.");
        if let (Some((place, line)), Verdict::ConnectionEmptied | Verdict::ConnectionLost) =
            (&self.map, verdict)
        {
            finding.place = Some(place.clone());
            finding.fix = format!("Add to the map, then run {apply}:");
            finding.lines = vec![(*line).to_owned()];
        } else if let Some(remedy) = remedy {
            let nginx_only = verdict == Verdict::NoEndpoint && self.product != Product::Nginx;
            if nginx_only {
                finding.fix = format!("{}. Then run {apply}.", capitalized(remedy.elsewhere));
            } else {
                finding.fix = format!("In {}, then run {apply}:", remedy.location);
                finding.lines = remedy.lines.iter().map(|&line| line.to_owned()).collect();
            }
        }
        finding
    }

    /// A timeout that ends sessions although the service pings.
    fn too_short(&self, config: &Config) -> Option<Finding> {
        let pinged = config.policy.timeouts.ping_interval;
        // Pings come up to a tenth late.
        let idle = self.idle.filter(|idle| *idle <= pinged * 11 / 10)?;
        let [idle, pinged] = [idle, pinged].map(show_duration);
        let mut finding = self.finding("idle_timeout", &format!("cuts what is silent for {idle}"));
        finding.why = format!(
            "wsecho pings a silent client after {pinged}, give or take a tenth: until then the \
             connection is already cut, which clients report as 1006."
        );
        Some(self.with_longer_idle(finding))
    }

    fn with_longer_idle(&self, finding: Finding) -> Finding {
        let lines = vec![self.product.idle_line().to_owned()];
        Finding { fix: format!("Set there, then run {}:", self.product.apply()), lines, ..finding }
    }

    /// The default of most proxies: pings hide it, except from who asked for none.
    fn usual_minute(&self) -> Option<Finding> {
        const USUAL: Duration = Duration::from_secs(60);
        let idle = show_duration(self.idle.filter(|idle| *idle <= USUAL)?);
        let mut finding = self.finding("idle_usual", &format!("cuts what is silent for {idle}"));
        finding.why = "Only wsecho's pings keep silent sessions open: a client with ?ping=off is \
                       cut, and so is everyone if timeouts.ping_interval grows."
            .into();
        Some(self.with_longer_idle(finding))
    }

    fn host_lost(&self) -> Option<Finding> {
        if self.host_kept || !matches!(self.speaks, Speaks::Http(_)) {
            return None;
        }
        let mut finding = self.finding("host_lost", "does not pass on `Host`");
        finding.why = "With origins = \"same-host\", pages of the site itself are refused.".into();
        finding.fix = format!("Add there, then run {}:", self.product.apply());
        finding.lines = match self.product {
            Product::Apache => vec!["ProxyPreserveHost On".to_owned()],
            _ => host_remedy().lines.into_iter().map(str::to_owned).collect(),
        };
        Some(finding)
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// The paths that clients may ask for below a prefix, each with what the service gets if `uri`
/// replaces the prefix: first the endpoints as they are, then below the prefix.
#[must_use]
pub fn paths_below(prefix: &str, uri: Option<&str>, endpoints: &[&str]) -> Vec<(String, String)> {
    let folder = prefix.trim_end_matches('/');
    let same =
        endpoints.iter().filter(|path| path.starts_with(prefix)).map(|&path| path.to_owned());
    let below = endpoints.iter().map(|path| format!("{folder}{path}"));
    let below = below.filter(|path| !folder.is_empty() && path.starts_with(prefix));
    let arriving = |asked: &String| match uri {
        Some(uri) => format!("{uri}{}", &asked[prefix.len()..]),
        None => asked.clone(),
    };
    same.chain(below).map(|asked| (asked.clone(), arriving(&asked))).collect()
}

/// What the service gets, without the query that a proxy adds: that is no part of the path, and may hold
/// a secret.
pub(super) fn without_query(mut gets: String) -> String {
    gets.truncate(gets.find('?').unwrap_or(gets.len()));
    gets
}

/// The addresses of the service, as a proxy on this host may write them.
#[derive(Clone, Debug, Default)]
pub struct Ours {
    /// What it listens on; an unspecified address stands for all of this host.
    pub addrs: Vec<ListenAddr>,
    /// Names and addresses from /etc/hosts.
    pub hosts: Vec<(String, IpAddr)>,
}

impl Ours {
    /// Whether an address leads to the service, and who the service then takes the proxy for.
    /// Without a port it has the given one. A name that /etc/hosts does not have leads elsewhere.
    #[must_use]
    pub fn peer(&self, address: &str, usual_port: u16) -> Option<PeerAddr> {
        let unix = ["unix:", "unix@"].iter().find_map(|prefix| address.strip_prefix(prefix));
        if let Some(path) = unix.or_else(|| address.starts_with('/').then_some(address)) {
            let ours = |addr: &ListenAddr| *addr == ListenAddr::Unix(PathBuf::from(path));
            return self.addrs.iter().any(ours).then_some(PeerAddr::Unix);
        }
        self.resolved(without_family(address), usual_port)
            .into_iter()
            .find(|addr| self.listens_on(*addr))
            .map(PeerAddr::Tcp)
    }

    fn resolved(&self, address: &str, usual_port: u16) -> Vec<SocketAddr> {
        let bare = address.trim_matches(['[', ']']).parse::<IpAddr>();
        if let Ok(addr) = address.parse::<SocketAddr>() {
            return vec![addr];
        } else if let Ok(ip) = bare {
            return vec![(ip, usual_port).into()];
        }
        let (name, port) = match address.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (address, Some(usual_port)),
        };
        let Some(port) = port else { return Vec::new() };
        let of_name = self.hosts.iter().filter(|(host, _)| host.eq_ignore_ascii_case(name));
        of_name.map(|(_, ip)| (*ip, port).into()).collect()
    }

    fn listens_on(&self, addr: SocketAddr) -> bool {
        // Connecting to it leads to the loopback.
        let target = if addr.ip().is_unspecified() { None } else { Some(addr.ip()) };
        let is_here = || match target {
            Some(ip) => ip.is_loopback() || TcpListener::bind((ip, 0)).is_ok(),
            None => true,
        };
        self.addrs.iter().any(|own| match own {
            ListenAddr::Tcp(own) if own.port() == addr.port() => {
                Some(own.ip()) == target
                    || (target.is_none() && own.ip().is_loopback())
                    || (own.ip().is_unspecified() && own.is_ipv4() == addr.is_ipv4() && is_here())
            }
            _ => false,
        })
    }
}

/// Where this host reaches what listens on an address.
pub(super) fn here(listen: SocketAddr) -> SocketAddr {
    SocketAddr::new(from_here(listen.ip()), listen.port())
}

/// An address without the family that HAProxy may have before it.
pub(super) fn without_family(address: &str) -> &str {
    ["ipv4@", "ipv6@"].iter().find_map(|it| address.strip_prefix(it)).unwrap_or(address)
}

/// The names of /etc/hosts, and `localhost`.
#[must_use]
pub fn hosts(file: &str) -> Vec<(String, IpAddr)> {
    let line = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let names: Vec<String> = words.map(str::to_owned).collect();
        ip.map(|ip| names.into_iter().map(move |name| (name, ip)))
    };
    let known = ["127.0.0.1", "::1"].into_iter().filter_map(|ip| ip.parse().ok());
    let known = known.map(|ip| ("localhost".to_owned(), ip));
    known.chain(file.lines().filter_map(line).flatten()).collect()
}

/// Whether a header's value lists a word: RFC 9110, section 5.6.1, read as the service reads it.
pub(super) fn lists(value: &str, word: &str) -> bool {
    value.split([',', ' ', '\t']).any(|element| element.eq_ignore_ascii_case(word))
}
