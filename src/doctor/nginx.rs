//! nginx: every `proxy_pass` that leads to the service, and what becomes of a handshake there.
//!
//! Owns which directives reach a location, which location takes a path, and what a variable can be.
//! It does not know what is right: [`super::passage`] judges.
//!
//! Sources: ngx_http_core_module (location), ngx_http_proxy_module, ngx_http_map_module,
//! ngx_http_rewrite_module, ngx_stream_proxy_module.

mod locations;
mod syntax;
mod variables;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use self::locations::{Kind, Locations, kind, matches};
pub use self::syntax::parse;
use self::variables::Variables;
use super::files::{Files, Node};
use super::passage::{
    Entry, MAX_PASSAGES, Ours, Passage, Product, Speaks, here, lists, paths_below, without_query,
};
use crate::config::Config;
use crate::net::addr::PeerAddr;
use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

/// The directives that hold for a place, from the innermost block outwards.
type Scope<'a> = Vec<&'a [Node]>;

/// From this version on, nginx speaks HTTP/1.1 to upstreams and sends no `Connection` by default.
const MODERN: [u32; 3] = [1, 29, 7];

/// Reads a configuration and all that it includes.
#[must_use]
pub fn read(main: &Path, files: &mut Files) -> Vec<Node> {
    syntax::read(main, files)
}

/// Every way to the service. `version` is that of nginx, as far as it is known.
#[must_use]
pub fn passages(
    nodes: &[Node],
    version: Option<[u32; 3]>,
    ours: &Ours,
    config: &Config,
) -> Vec<Passage> {
    let modern = version.is_some_and(|version| version >= MODERN);
    let endpoints: Vec<&str> = config.policy.endpoints.iter().map(|it| &*it.path).collect();
    let mut found = Vec::new();
    for http in nodes.iter().filter(|node| node.name == "http") {
        let upstreams = upstreams(http);
        let defaults = defaults(http);
        for server in http.children().iter().filter(|node| node.name == "server") {
            let context = Context {
                upstreams: &upstreams,
                server,
                defaults: &defaults,
                ours,
                modern,
                endpoints: &endpoints,
                locations: Locations::of(server.children()),
                tried: Cell::new(0),
                variables: Variables::new(server.children(), http.children()),
            };
            let scope = vec![server.children(), http.children()];
            context.visit(server.children(), &scope, &mut found);
        }
    }
    for stream in nodes.iter().filter(|node| node.name == "stream") {
        let (upstreams, defaults) = (upstreams(stream), defaults(stream));
        let servers = stream.children().iter().filter(|node| node.name == "server");
        let passages =
            servers.filter_map(|it| stream_passage(stream, it, &upstreams, &defaults, ours));
        found.extend(passages.take(MAX_PASSAGES));
    }
    found
}

/// One `server` of `http`.
struct Context<'a> {
    upstreams: &'a HashMap<&'a str, &'a Node>,
    server: &'a Node,
    defaults: &'a Defaults<'a>,
    ours: &'a Ours,
    modern: bool,
    endpoints: &'a [&'a str],
    locations: Locations<'a>,
    /// How many locations that lead to the service were compared with all others.
    tried: Cell<usize>,
    variables: Variables<'a>,
}

impl<'a> Context<'a> {
    /// Looks into each location, however deep.
    fn visit(&self, nodes: &'a [Node], outer: &Scope<'a>, found: &mut Vec<Passage>) {
        for node in nodes.iter().filter(|node| node.name == "location") {
            if found.len().max(self.tried.get()) >= MAX_PASSAGES {
                return;
            }
            let mut scope = vec![node.children()];
            scope.extend(outer);
            found.extend(self.location(node, &scope));
            self.visit(node.children(), &scope, found);
        }
    }

    /// The first way to the service in a location, if a handshake can get there.
    fn location(&self, location: &'a Node, scope: &Scope<'a>) -> Option<Passage> {
        let is_block = |name: &str| ["if", "limit_except"].contains(&name);
        let blocks = location.children().iter().filter(|node| is_block(&node.name));
        let inner = blocks.flat_map(Node::children);
        // What `if` asks for is not judged: a client may get there.
        let passes = location.children().iter().chain(inner).filter(|it| it.name == "proxy_pass");
        let target = |pass: &'a Node| {
            self.variables.values(pass.arg(0)).iter().find_map(|url| self.target(url, pass))
        };
        let target = passes.into_iter().find_map(target)?;
        self.tried.set(self.tried.get() + 1);
        let paths = self.paths(location, scope, &target)?;
        Some(self.passage(location, scope, &target, paths))
    }

    /// What a URL of `proxy_pass` leads to, if that is the service.
    fn target(&self, url: &str, pass: &'a Node) -> Option<Target<'a>> {
        let (scheme, rest) = url.split_once("://")?;
        let secure = scheme == "https";
        let (address, uri) = if let Some(path) = rest.strip_prefix("unix:") {
            let (path, uri) = path.split_once(':').unwrap_or((path, ""));
            (format!("unix:{path}"), uri)
        } else {
            let end = rest.find(['/', '?', '$']).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        let usual = if secure { 443 } else { 80 };
        let peer = match self.upstreams.get(&*address) {
            Some(upstream) => servers(upstream).find_map(|server| self.ours.peer(server, 80)),
            None => self.ours.peer(&address, usual),
        }?;
        let uri = (!uri.is_empty()).then(|| uri.to_owned());
        Some(Target { pass, secure, uri, peer })
    }

    /// The paths by which handshakes may reach a location, each with what the service gets. `None` if
    /// no handshake does, none at all if what becomes of the path is not known.
    fn paths(
        &self,
        location: &Node,
        scope: &Scope<'_>,
        target: &Target<'_>,
    ) -> Option<Vec<(String, String)>> {
        if location.children().iter().any(|node| node.name == "return") {
            return None;
        }
        let uri = target.uri.as_deref();
        let rewritten = scope.iter().take(scope.len() - 1);
        let rewritten = rewritten.flat_map(|nodes| nodes.iter()).any(|it| it.name == "rewrite");
        let (kind, pattern) = kind(location);
        let whole = |path: &str| (path.to_owned(), uri.unwrap_or(path).to_owned());
        let all = match kind {
            Kind::Named => return Some(Vec::new()),
            Kind::Exact => vec![whole(pattern)],
            Kind::Prefix | Kind::Final if target.is_as_is() => {
                let asked = paths_below(pattern, None, self.endpoints);
                asked.iter().map(|(asked, _)| whole(asked)).collect()
            }
            Kind::Prefix | Kind::Final => paths_below(pattern, uri, self.endpoints),
            Kind::Regex | Kind::AnyCase => {
                let fits = |path: &&&str| matches(pattern, kind == Kind::AnyCase, path);
                self.endpoints.iter().filter(fits).map(|path| whole(path)).collect()
            }
        };
        let reached = |(asked, _): &(String, String)| {
            self.locations.select(asked).is_some_and(|chosen| std::ptr::eq(chosen, location))
        };
        let reached = all.into_iter().filter(reached);
        let mut reached: Vec<_> =
            reached.map(|(asked, gets)| (asked, without_query(gets))).collect();
        // An exact location for the page, for /info or for /healthz is for no handshake.
        let is_endpoint = |path: &str| self.endpoints.contains(&path);
        if let (Kind::Exact, [(asked, gets)]) = (kind, &reached[..])
            && asked == gets
            && !is_endpoint(gets)
        {
            return None;
        }
        if reached.is_empty() {
            return None;
        }
        if rewritten || uri.is_some_and(|uri| uri.contains('$')) {
            reached.clear();
        }
        Some(reached)
    }

    fn passage(
        &self,
        location: &'a Node,
        scope: &Scope<'a>,
        target: &Target<'a>,
        paths: Vec<(String, String)>,
    ) -> Passage {
        let header = |name: &str| header(scope, name);
        let values = |node: &Node| self.variables.values(node.arg(1));
        let version = setting(scope, "proxy_http_version").map(|node| node.arg(0));
        let http_1_1 = version.map_or(self.modern, |version| version == "1.1");
        let upgrade = header("Upgrade").map_or(Upgrade::Absent, |node| upgrade(&values(node)));
        let connection = match header("Connection") {
            Some(node) => connection(&values(node)),
            None if self.modern => Connection::Absent,
            None => Connection::Other,
        };
        let forgotten = setting(scope, "proxy_pass_request_headers");
        let key = forgotten.is_none_or(|node| node.arg(0) != "off");
        let trace = Trace { http_1_1, upgrade, connection, key, front: Front::Unnamed };
        let host = header("Host").map(values).unwrap_or_default();
        let client =
            |value: &String| ["$http_host", "$host"].iter().any(|it| value.starts_with(it));
        let idle = setting(scope, "proxy_read_timeout").map(|node| time(node.arg(0)));
        Passage {
            product: Product::Nginx,
            place: target.pass.place.clone(),
            inside: format!("location {}", location.args.join(" ")),
            speaks: if target.secure { Speaks::Tls } else { Speaks::Http(trace) },
            proxy_headers: 0,
            // A name of its own, such as that of the site, is as good.
            host_kept: host.iter().any(|value| client(value) || !value.starts_with('$')),
            idle: idle.unwrap_or(Some(Duration::from_secs(60))),
            paths,
            peer: target.peer,
            map: header("Connection").and_then(|node| self.variables.map_of(node.arg(1))),
            entry: entry(self.server, scope, self.defaults),
        }
    }
}

/// A `proxy_pass` that leads to the service.
struct Target<'a> {
    pass: &'a Node,
    secure: bool,
    uri: Option<String>,
    peer: PeerAddr,
}

impl Target<'_> {
    /// Whether the URI takes the place of the whole path: with a variable, nginx adds nothing.
    fn is_as_is(&self) -> bool {
        self.pass.arg(0).contains('$')
    }
}

/// The upstreams beside a server, by their names.
fn upstreams(block: &Node) -> HashMap<&str, &Node> {
    let all = block.children().iter().filter(|node| node.name == "upstream");
    all.rev().map(|node| (node.arg(0), node)).collect()
}

/// The addresses of an upstream.
fn servers(upstream: &Node) -> impl Iterator<Item = &str> {
    upstream.children().iter().filter(|node| node.name == "server").map(|node| node.arg(0))
}

/// A directive that inner blocks inherit unless they set it.
fn setting<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Node> {
    scope.iter().find_map(|nodes| nodes.iter().rfind(|node| node.name == name))
}

/// A header: a block that sets any inherits none.
fn header<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Node> {
    let sets = |nodes: &&&[Node]| nodes.iter().any(|node| node.name == "proxy_set_header");
    let nodes = scope.iter().find(sets)?;
    let mut nodes = nodes.iter().rev().filter(|node| node.name == "proxy_set_header");
    nodes.find(|node| node.arg(0).eq_ignore_ascii_case(name))
}

/// What the service sees of `Upgrade`, if it has one of these values.
fn upgrade(values: &[String]) -> Upgrade {
    if values.iter().any(|value| unknown(value) || lists(value, "websocket")) {
        Upgrade::WebSocket
    } else if values.iter().all(String::is_empty) {
        Upgrade::Absent
    } else {
        Upgrade::Other
    }
}

fn connection(values: &[String]) -> Connection {
    let lists = |word: &str| values.iter().any(|value| lists(value, word));
    if values.iter().any(|value| unknown(value)) || lists("upgrade") {
        Connection::Upgrade
    } else if values.iter().all(String::is_empty) {
        Connection::Absent
    } else if lists("keep-alive") {
        Connection::KeepAlive
    } else {
        Connection::Other
    }
}

/// Whether a variable stands in it that only a request can tell.
fn unknown(value: &str) -> bool {
    value.contains('$')
}

/// A time such as `1h 30m`, `90` or `75s`; `None` is for ever.
fn time(text: &str) -> Option<Duration> {
    let mut sum = 0u64;
    let mut digits = String::new();
    let mut unit = String::new();
    // A unit ends where the next number begins.
    for char in text.chars().chain(['0']) {
        if char.is_ascii_digit() && !unit.is_empty() {
            sum = sum.saturating_add(span(&digits, &unit)?);
            digits.clear();
            unit.clear();
        }
        if char.is_ascii_digit() {
            digits.push(char);
        } else if !char.is_whitespace() {
            unit.push(char);
        }
    }
    // The digit that was appended is not part of it.
    digits.pop();
    let rest = if digits.is_empty() { 0 } else { span(&digits, "s")? };
    Some(Duration::from_millis(sum.saturating_add(rest)))
}

/// A number with its unit, in milliseconds.
fn span(digits: &str, unit: &str) -> Option<u64> {
    let each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        "M" => 2_592_000_000,
        "y" => 31_536_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(each)
}

/// The server that takes what no name of another claims, for each address as it is written.
type Defaults<'a> = HashMap<SocketAddr, &'a Node>;

fn defaults(block: &Node) -> Defaults<'_> {
    let mut defaults = HashMap::new();
    for server in block.children().iter().filter(|node| node.name == "server") {
        for (addr, options) in listens(server) {
            if options.iter().any(|it| ["default_server", "default"].contains(&&**it)) {
                defaults.insert(addr, server);
            } else {
                defaults.entry(addr).or_insert(server);
            }
        }
    }
    defaults
}

/// The addresses of a server that take TCP, as they are written, each with its options.
fn listens(server: &Node) -> Vec<(SocketAddr, &[String])> {
    let mut all = server.children().iter().filter(|it| it.name == "listen").peekable();
    if all.peek().is_none() {
        return vec![((Ipv4Addr::UNSPECIFIED, 80).into(), &[])];
    }
    let is_tcp = |it: &&Node| !it.args.iter().any(|arg| ["quic", "udp"].contains(&&**arg));
    all.filter(is_tcp).filter_map(|it| Some((listen_addr(it.arg(0))?, it.args.get(1..)?))).collect()
}

/// Where clients reach a server, at the place of one of its passages.
fn entry(server: &Node, scope: &Scope<'_>, defaults: &Defaults<'_>) -> Option<Entry> {
    let on = |name: &str| setting(scope, name).is_some_and(|node| node.arg(0) == "on");
    let name = name(server);
    let redirects = scope.iter().flat_map(|nodes| nodes.iter()).any(redirects);
    let listens = listens(server);
    let own: Vec<SocketAddr> = listens.iter().map(|it| it.0).collect();
    Entry::best(listens.into_iter().map(|(listen, options)| {
        let has = |word: &str| options.iter().any(|option| option == word);
        let addr = here(listen);
        let secure = has("ssl") || on("ssl");
        // An address of its own takes precedence over all of them.
        let is_taken = !own.contains(&addr) && defaults.contains_key(&addr);
        let is_default = defaults.get(&listen).is_some_and(|it| std::ptr::eq(*it, server));
        let barred = if secure && on("ssl_verify_client") {
            Some(Entry::CERTIFICATE)
        } else if is_taken || (name.is_none() && !is_default) {
            Some(Entry::NAME)
        } else {
            (!secure && redirects).then_some(Entry::REDIRECT)
        };
        Entry::at(listen, secure, name.clone(), has("proxy_protocol"), barred)
    }))
}

/// A name that leads to a server: its first one, or one that fits a wildcard.
fn name(server: &Node) -> Option<String> {
    let names = server.children().iter().filter(|it| it.name == "server_name");
    let names = || {
        names
            .clone()
            .flat_map(|it| &it.args)
            .filter(|name| !name.is_empty() && *name != "_" && !name.contains(['~', '$']))
    };
    let plain = names().find(|name| !name.contains('*') && !name.starts_with('.'));
    let name = plain.or_else(|| names().next())?;
    Some(name.trim_start_matches('.').replace('*', "wsecho"))
}

/// Whether an `if` sends clients elsewhere.
fn redirects(node: &Node) -> bool {
    let sends = |it: &Node| match &*it.name {
        "return" => it.arg(0).starts_with('3') || it.arg(0).contains("://"),
        "rewrite" => it.arg(1).contains("://") || ["redirect", "permanent"].contains(&it.arg(2)),
        _ => false,
    };
    node.name == "if" && node.children().iter().any(sends)
}

/// An address of `listen` or `bind`, as it is written: the first of a range of ports.
pub(super) fn listen_addr(text: &str) -> Option<SocketAddr> {
    let port = |text: &str| text.split('-').next()?.parse().ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, text)) if !text.ends_with(']') => (host, port(text)?),
        _ => match port(text) {
            Some(port) => ("*", port),
            None => (text, 80),
        },
    };
    let ip = match host.trim_matches(['[', ']']) {
        "*" | "" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse::<IpAddr>().ok()?,
    };
    Some((ip, port).into())
}

/// A server of `stream` that leads to the service.
fn stream_passage(
    stream: &Node,
    server: &Node,
    upstreams: &HashMap<&str, &Node>,
    defaults: &Defaults<'_>,
    ours: &Ours,
) -> Option<Passage> {
    let scope = vec![server.children(), stream.children()];
    let pass = server.children().iter().find(|node| node.name == "proxy_pass")?;
    let peer = match upstreams.get(pass.arg(0)) {
        Some(upstream) => servers(upstream).find_map(|server| ours.peer(server, 80)),
        None => ours.peer(pass.arg(0), 80),
    }?;
    let on = |name: &str| setting(&scope, name).is_some_and(|node| node.arg(0) == "on");
    let idle = setting(&scope, "proxy_timeout").map(|node| time(node.arg(0)));
    Some(Passage {
        product: Product::Nginx,
        place: pass.place.clone(),
        inside: "server of `stream`".to_owned(),
        speaks: if on("proxy_ssl") { Speaks::Tls } else { Speaks::Stream },
        proxy_headers: u8::from(on("proxy_protocol")),
        host_kept: true,
        idle: idle.unwrap_or(Some(Duration::from_secs(600))),
        paths: Vec::new(),
        peer,
        map: None,
        entry: entry(server, &scope, defaults),
    })
}
