//! Apache: every `ProxyPass` and `RewriteRule` that leads to the service, and which takes a path.
//!
//! Owns their order and what a virtual host inherits. It does not know what is right:
//! [`super::passage`] judges.
//!
//! Sources: mod_proxy, mod_proxy_wstunnel, mod_rewrite, and core for `Timeout`.

mod syntax;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use std::{iter, mem, ptr};

use regex_lite::{Captures, Regex, RegexBuilder};

pub use self::syntax::{Started, parse};
use super::files::{Files, Node};
use super::nginx::listen_addr;
use super::passage::{
    Entry, MAX_PASSAGES, Ours, Passage, Product, Speaks, here, paths_below, without_query,
};
use super::report::Finding;
use crate::config::Config;
use crate::net::addr::PeerAddr;
use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

/// The most rules of one server that are compared with each other.
const MAX_RULES: usize = 300;
/// The most virtual hosts that are looked at: each inherits what the main server has.
const MAX_HOSTS: usize = 2_000;

/// Reads a configuration and all that it includes.
#[must_use]
pub fn read(main: &Path, started: &Started, files: &mut Files) -> Vec<Node> {
    syntax::read(main, started, files)
}

/// Every way to the service, and what else is wrong on it.
#[must_use]
pub fn passages(nodes: &[Node], ours: &Ours, config: &Config) -> (Vec<Passage>, Vec<Finding>) {
    let endpoints: Vec<&str> = config.policy.endpoints.iter().map(|it| &*it.path).collect();
    let hosts = Hosts::new(nodes);
    let main = Server {
        own: nodes,
        main: nodes,
        section: None,
        hosts: &hosts,
        ours,
        endpoints: &endpoints,
    };
    let servers = hosts.all.iter().filter(|host| has_rules(host)).map(|host| main.of(host));
    let (mut found, mut findings) = (Vec::new(), Vec::new());
    for server in servers.chain([main]) {
        for passage in server.passages() {
            let inherited = |it: &Passage| it.place == passage.place;
            if found.len() < MAX_PASSAGES && !found.iter().any(inherited) {
                findings.extend(server.module_missing(&passage));
                found.push(passage);
            }
        }
    }
    (found, findings)
}

/// The virtual hosts, and where Apache listens.
struct Hosts<'a> {
    all: Vec<&'a Node>,
    listens: Vec<SocketAddr>,
    /// The first of each address, which takes what no name of another claims.
    first: HashMap<SocketAddr, &'a Node>,
}

impl<'a> Hosts<'a> {
    fn new(nodes: &'a [Node]) -> Self {
        let all = nodes.iter().filter(|node| node.is("VirtualHost")).take(MAX_HOSTS).collect();
        let listens = nodes.iter().filter(|node| node.is("Listen"));
        let listens = listens.filter_map(|node| listen_addr(node.arg(0))).collect();
        let mut hosts = Self { all, listens, first: HashMap::new() };
        for host in &hosts.all {
            for addr in hosts.addrs(host) {
                hosts.first.entry(addr).or_insert(host);
            }
        }
        hosts
    }

    /// The addresses of a virtual host, as they are written.
    fn addrs(&self, host: &Node) -> Vec<SocketAddr> {
        let addrs = |arg: &String| {
            let arg = arg.replace("_default_", "*");
            let (ip, ports) = match arg.rsplit_once(':') {
                Some((ip, "*")) => (ip, &self.listens[..]),
                Some((_, port)) if !port.ends_with(']') => {
                    return Vec::from_iter(listen_addr(&arg));
                }
                _ => (&*arg, self.listens.last().map_or(&[][..], std::slice::from_ref)),
            };
            let at = |listen: &SocketAddr| listen_addr(&format!("{ip}:{}", listen.port()));
            ports.iter().filter_map(at).collect()
        };
        host.args.iter().flat_map(addrs).collect()
    }

    /// The virtual host that takes what comes to an address under no name of another.
    fn taking(&self, addr: SocketAddr) -> Option<&'a Node> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
        self.first.get(&addr).or_else(|| self.first.get(&any)).copied()
    }
}

/// Whether a virtual host is more than the main server under another name.
fn has_rules(host: &Node) -> bool {
    let rules = ["ProxyPass", "ProxyPassMatch", "RewriteRule", "Location", "LocationMatch"];
    host.children().iter().any(|it| rules.iter().any(|name| it.is(name)))
}

/// The main server, or a virtual host.
#[derive(Clone, Copy)]
struct Server<'a> {
    own: &'a [Node],
    main: &'a [Node],
    section: Option<&'a Node>,
    hosts: &'a Hosts<'a>,
    ours: &'a Ours,
    endpoints: &'a [&'a str],
}

/// What sends a path elsewhere.
struct Rule<'a> {
    node: &'a Node,
    /// Settings beside it, such as those of its `<Location>`.
    beside: &'a [Node],
    path: Matches<'a>,
    /// The URL; none for `!`.
    url: Option<&'a str>,
    conditions: Vec<Condition>,
}

/// A `RewriteCond`.
struct Condition {
    /// What it looks at, in lower case.
    of: String,
    /// `None` if it is no comparison, or one that only PCRE understands.
    regex: Option<Regex>,
    negated: bool,
    /// Whether the next one will do instead.
    or_next: bool,
}

impl Condition {
    fn new(node: &Node) -> Self {
        let (negated, pattern) = match node.arg(1).strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, node.arg(1)),
        };
        let pattern = match pattern.strip_prefix('=') {
            Some(text) => Some(format!("^{}$", regex_lite::escape(text.trim_matches('"')))),
            None => Some(pattern.to_owned()).filter(|it| !it.starts_with(['-', '<', '>'])),
        };
        let any_case = has_flag(node, &["NC", "nocase"]);
        let regex = |it: String| RegexBuilder::new(&it).case_insensitive(any_case).build().ok();
        Self {
            of: node.arg(0).to_ascii_lowercase(),
            regex: pattern.and_then(regex),
            negated,
            or_next: has_flag(node, &["OR", "ornext"]),
        }
    }

    /// Whether a handshake for a path meets it, as far as the configuration tells.
    fn met(&self, asked: &str) -> Option<bool> {
        let text = match &*self.of {
            "%{http:upgrade}" => "websocket",
            "%{http:connection}" => "Upgrade",
            "%{request_method}" => "GET",
            "%{request_uri}" => asked,
            _ => return None,
        };
        self.regex.as_ref().map(|regex| regex.is_match(text) != self.negated)
    }
}

enum Matches<'a> {
    Below(&'a str),
    /// `None` if only PCRE understands it: then it takes everything.
    Regex(Option<Regex>),
}

impl Rule<'_> {
    /// What the path becomes behind the host of the URL, if the rule takes it.
    fn maps(&self, asked: &str, replaced: &str) -> Option<String> {
        match &self.path {
            Matches::Below(prefix) => {
                let rest = asked.strip_prefix(prefix)?;
                let whole = rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/');
                whole.then(|| format!("{replaced}{rest}"))
            }
            Matches::Regex(None) => Some(asked.to_owned()),
            Matches::Regex(Some(regex)) => {
                let captures = regex.captures(asked)?;
                let path = substituted(replaced, &captures, asked);
                // Where nothing was put in, Apache adds the whole path.
                let adds = self.node.is("ProxyPassMatch") && path == replaced;
                Some(if adds { path + asked } else { path })
            }
        }
    }

    /// Whether its conditions let a handshake for a path through, as far as that is known.
    fn holds(&self, asked: &str) -> Option<bool> {
        let (mut all, mut any) = (Some(true), Some(false));
        for condition in &self.conditions {
            any = one_of(any, condition.met(asked));
            if !condition.or_next {
                all = not(one_of(not(all), not(any)));
                any = Some(false);
            }
        }
        all
    }
}

/// Where a URL leads, if that is to the service.
struct Target<'a> {
    scheme: &'a str,
    path: &'a str,
    peer: PeerAddr,
    /// The member of a balancer.
    member: Option<&'a Node>,
}

impl<'a> Server<'a> {
    fn of(self, host: &'a Node) -> Self {
        Self { own: host.children(), section: Some(host), ..self }
    }

    fn passages(&self) -> Vec<Passage> {
        let rules = self.rules();
        let targets: Vec<_> = rules.iter().map(|rule| self.target(rule.url?)).collect();
        let mut passages = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let Some(target) = &targets[index] else { continue };
            let asked: Vec<String> = match rule.path {
                Matches::Below(prefix) => {
                    paths_below(prefix, None, self.endpoints).into_iter().map(|it| it.0).collect()
                }
                Matches::Regex(_) => self.endpoints.iter().map(|&path| path.to_owned()).collect(),
            };
            let arrives = |asked: String| {
                // What conditions only may send elsewhere may still come here.
                let takes = |rule: &Rule<'_>| {
                    rule.maps(&asked, "").is_some() && rule.holds(&asked) == Some(true)
                };
                if rule.holds(&asked) == Some(false) || rules[..index].iter().any(takes) {
                    return None;
                }
                let gets = rule.maps(&asked, target.path)?;
                Some((asked, without_query(gets)))
            };
            let mut paths: Vec<_> = asked.into_iter().filter_map(arrives).collect();
            if paths.is_empty() {
                continue;
            }
            if paths.iter().any(|(_, gets)| gets.contains("%{")) {
                paths.clear();
            }
            passages.push(self.passage(rule, target, paths));
        }
        passages
    }

    /// All rules, in the order in which Apache asks them.
    fn rules(&self) -> Vec<Rule<'a>> {
        let mut rules: Vec<Rule<'a>> = Vec::new();
        if last(self.own, "RewriteEngine")
            .is_some_and(|node| node.arg(0).eq_ignore_ascii_case("on"))
        {
            rules.extend(rewriting(self.own));
        }
        let contexts =
            if self.section.is_some() { vec![self.own, self.main] } else { vec![self.own] };
        for context in &contexts {
            let is_location = |node: &&Node| node.is("Location") || node.is("LocationMatch");
            for location in context.iter().rev().filter(is_location) {
                let inner = location.children();
                rules.extend(inner.iter().filter_map(|it| passing(it, Some(location), inner)));
            }
        }
        for context in contexts {
            rules.extend(context.iter().filter_map(|node| passing(node, None, context)));
        }
        rules.truncate(MAX_RULES);
        rules
    }

    fn target<'b>(&self, url: &'b str) -> Option<Target<'b>>
    where
        'a: 'b,
    {
        let (socket, url) = match url.strip_prefix("unix:").and_then(|rest| rest.split_once('|')) {
            Some((socket, url)) => (Some(format!("unix:{socket}")), url),
            None => (None, url),
        };
        let (scheme, rest) = url.split_once("://")?;
        // A path, or a variable that begins with one.
        let end = rest.find(['/', '$', '%']).unwrap_or(rest.len());
        let (address, path) = rest.split_at(end);
        if scheme.eq_ignore_ascii_case("balancer") {
            let target = |node| Some(Target { member: Some(node), ..self.target(node.arg(0))? });
            return Some(Target { path, ..self.members(address).find_map(target)? });
        }
        let usual = if ["wss", "https"].contains(&scheme) { 443 } else { 80 };
        let peer = self.ours.peer(socket.as_deref().unwrap_or(address), usual)?;
        Some(Target { scheme, path, peer, member: None })
    }

    /// The members of a balancer. One of them that is a balancer leads nowhere.
    fn members(&self, name: &str) -> impl Iterator<Item = &'a Node> {
        let is_this = move |node: &&Node| {
            let of = node.arg(0).split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
            node.is("Proxy") && of.is_some_and(|of| of == name)
        };
        let sections = self.own.iter().chain(self.main).filter(is_this);
        let members = sections.flat_map(Node::children).filter(|node| node.is("BalancerMember"));
        members.filter(|node| !node.arg(0).starts_with("balancer:"))
    }

    fn passage(
        &self,
        rule: &Rule<'a>,
        target: &Target<'_>,
        paths: Vec<(String, String)>,
    ) -> Passage {
        let option = |name: &str| {
            let args = target.member.into_iter().chain([rule.node]).flat_map(|node| &node.args);
            args.filter_map(|arg| arg.split_once('=')).find(|it| it.0 == name).map(|it| it.1)
        };
        let named = |to: &str| ["websocket", "any"].iter().any(|it| it.eq_ignore_ascii_case(to));
        // Before 2.4.47 a module passes ws on whatever is named.
        let upgrades =
            target.scheme.eq_ignore_ascii_case("ws") || option("upgrade").is_some_and(named);
        let trace = Trace {
            http_1_1: true,
            upgrade: if upgrades { Upgrade::WebSocket } else { Upgrade::Absent },
            connection: if upgrades { Connection::Upgrade } else { Connection::KeepAlive },
            key: true,
            front: Front::Apache,
        };
        let setting = |name: &str| self.setting(rule, name).map(|node| node.arg(0));
        // It takes seconds, whatever unit follows.
        let seconds = |text: &'a str| time(text.trim_end_matches(|it: char| !it.is_ascii_digit()));
        let timeout = setting("Timeout").and_then(seconds).unwrap_or(Duration::from_secs(60));
        let of_proxy = option("timeout").or_else(|| setting("ProxyTimeout")).and_then(time);
        Passage {
            product: Product::Apache,
            place: rule.node.place.clone(),
            inside: format!("{} {}", rule.node.name, rule.node.arg(0)),
            speaks: match &*target.scheme.to_ascii_lowercase() {
                "https" | "wss" => Speaks::Tls,
                "h2" | "h2c" => Speaks::Http2,
                _ => Speaks::Http(trace),
            },
            proxy_headers: 0,
            host_kept: setting("ProxyPreserveHost").is_some_and(|it| it.eq_ignore_ascii_case("on")),
            idle: Some(of_proxy.map_or(timeout, |of_proxy| of_proxy.max(timeout))),
            paths,
            peer: target.peer,
            map: None,
            entry: self.entry(),
        }
    }

    /// A directive beside a rule, of its server, or of the main one.
    fn setting(&self, rule: &Rule<'a>, name: &str) -> Option<&'a Node> {
        last(rule.beside, name).or_else(|| self.general(name))
    }

    /// A directive that is set for the whole server, or for all.
    fn general(&self, name: &str) -> Option<&'a Node> {
        last(self.own, name).or_else(|| last(self.main, name))
    }

    fn entry(&self) -> Option<Entry> {
        if self.section.is_some() {
            return Entry::best(self.entries());
        }
        let free =
            self.hosts.listens.iter().filter(|addr| self.hosts.taking(here(**addr)).is_none());
        let free = free.map(|addr| self.entry_at(*addr));
        let heirs = self.hosts.all.iter().filter(|host| !has_rules(host));
        Entry::best(free.chain(heirs.flat_map(|host| self.of(host).entries().collect::<Vec<_>>())))
    }

    /// Those of a virtual host.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.section
            .into_iter()
            .flat_map(|host| self.hosts.addrs(host))
            .map(|addr| self.entry_at(addr))
    }

    fn entry_at(&self, listen: SocketAddr) -> Entry {
        let is = |name: &str, values: &[&str]| {
            self.general(name)
                .is_some_and(|node| values.iter().any(|it| node.arg(0).eq_ignore_ascii_case(it)))
        };
        let inside = || {
            self.own
                .iter()
                .filter(|it| !it.is("VirtualHost"))
                .flat_map(|it| iter::once(it).chain(it.children()))
        };
        let secure = is("SSLEngine", &["on", "optional"]);
        let demands =
            |it: &Node| it.is("SSLVerifyClient") && it.arg(0).eq_ignore_ascii_case("require");
        let addr = here(listen);
        let name = self.section.and_then(|_| name(self.own));
        let is_first = self
            .hosts
            .taking(addr)
            .is_none_or(|host| self.section.is_some_and(|own| ptr::eq(own, host)));
        let is_taken = addr != listen && self.hosts.first.contains_key(&addr) && !is_first;
        let barred = if secure && (is("SSLVerifyClient", &["require"]) || inside().any(demands)) {
            Some(Entry::CERTIFICATE)
        } else if is_taken || (name.is_none() && !is_first) {
            Some(Entry::NAME)
        } else {
            (!secure && inside().any(redirects)).then_some(Entry::REDIRECT)
        };
        Entry::at(listen, secure, name, is("RemoteIPProxyProtocol", &["on"]), barred)
    }

    /// Apache answers 500 where no loaded module knows the scheme of a URL.
    fn module_missing(&self, passage: &Passage) -> Option<Finding> {
        let Speaks::Http(_) = passage.speaks else { return None };
        let loaded: Vec<&str> =
            self.main.iter().filter(|node| node.is("LoadModule")).map(|it| it.arg(0)).collect();
        let any = ["proxy_http_module", "proxy_wstunnel_module"];
        if loaded.is_empty() || any.iter().any(|name| loaded.contains(name)) {
            return None;
        }
        Some(Finding {
            label: "module_missing",
            place: Some(passage.place.clone()),
            what: "Apache: mod_proxy_wstunnel and mod_proxy_http are not loaded".to_owned(),
            why: "Apache answers every request here with 500: no module knows the URL.".to_owned(),
            fix: "Load both (Debian: `a2enmod proxy_http proxy_wstunnel`), then restart Apache."
                .to_owned(),
            lines: Vec::new(),
        })
    }
}

/// The name of a virtual host, or else one of its others; it may have a scheme and a port.
fn name(own: &[Node]) -> Option<String> {
    let find = |name: &str| own.iter().rfind(|node| node.is(name) && !node.args.is_empty());
    let name = find("ServerName").or_else(|| find("ServerAlias"))?.arg(0);
    let name = name.rsplit('/').next()?.split(':').next()?;
    Some(name.replace(['*', '?'], "wsecho"))
}

fn last<'a>(nodes: &'a [Node], name: &str) -> Option<&'a Node> {
    nodes.iter().rfind(|node| node.is(name))
}

/// Whether a directive sends clients elsewhere.
fn redirects(node: &Node) -> bool {
    let to = if node.is("RewriteRule") { node.args.get(1) } else { node.args.last() };
    let names = ["Redirect", "RedirectMatch", "RedirectPermanent", "RedirectTemp", "RewriteRule"];
    names.iter().any(|name| node.is(name)) && to.is_some_and(|to| to.starts_with("https://"))
}

/// A `ProxyPass` or `ProxyPassMatch`; inside a `<Location>` it has no path of its own.
fn passing<'a>(node: &'a Node, location: Option<&'a Node>, beside: &'a [Node]) -> Option<Rule<'a>> {
    let is_match = node.is("ProxyPassMatch");
    if !is_match && !node.is("ProxyPass") {
        return None;
    }
    let (path, url) = match location {
        Some(location) if location.arg(0) == "~" => (location.arg(1), node.arg(0)),
        Some(location) => (location.arg(0), node.arg(0)),
        None => (node.arg(0), node.arg(1)),
    };
    let path = if is_match {
        Matches::Regex(Regex::new(path).ok())
    } else if location.is_some_and(|it| it.is("LocationMatch") || it.arg(0) == "~") {
        // Apache takes the pattern for a path, which nobody asks for.
        return None;
    } else {
        Matches::Below(path)
    };
    let url = (url != "!").then_some(url);
    Some(Rule { node, beside, path, url, conditions: Vec::new() })
}

/// The `RewriteRule`s that pass requests on, each with the conditions before it.
fn rewriting(own: &[Node]) -> Vec<Rule<'_>> {
    let (mut rules, mut conditions) = (Vec::new(), Vec::new());
    for node in own {
        if node.is("RewriteCond") {
            conditions.push(Condition::new(node));
        } else if node.is("RewriteRule") {
            let conditions = mem::take(&mut conditions);
            if has_flag(node, &["P", "proxy"]) {
                let any_case = has_flag(node, &["NC", "nocase"]);
                let regex = RegexBuilder::new(node.arg(0)).case_insensitive(any_case).build();
                let (path, url) = (Matches::Regex(regex.ok()), Some(node.arg(1)));
                rules.push(Rule { node, beside: own, path, url, conditions });
            }
        }
    }
    rules
}

/// Whether the third argument of a rule or condition lists a flag.
fn has_flag(node: &Node, names: &[&str]) -> bool {
    let mut flags = node.arg(2).trim_matches(['[', ']']).split(',');
    flags.any(|flag| names.contains(&flag.trim()))
}

fn not(known: Option<bool>) -> Option<bool> {
    known.map(|it| !it)
}

/// Whether one of two is true, as far as that is known.
fn one_of(first: Option<bool>, second: Option<bool>) -> Option<bool> {
    match (first, second) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), second) => second,
        (None, _) => None,
    }
}

/// A time: seconds without a unit.
fn time(text: &str) -> Option<Duration> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = match &*unit.to_ascii_lowercase() {
        "ms" => 1,
        "" | "s" => 1_000,
        "mi" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

/// A path with the parts of the one that was asked for.
fn substituted(replaced: &str, captures: &Captures<'_>, asked: &str) -> String {
    let mut path = String::new();
    let mut chars = replaced.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek().and_then(|next| next.to_digit(10))) {
            ('$', Some(group)) => {
                chars.next();
                path.push_str(captures.get(group as usize).map_or("", |part| part.as_str()));
            }
            _ => path.push(char),
        }
    }
    path.replace("%{REQUEST_URI}", asked)
}
