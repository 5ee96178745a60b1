//! Apache: every `ProxyPass` and `RewriteRule` that leads to the service, and which takes a path.
//!
//! Owns their order and what a virtual host inherits. It does not know what is right:
//! [`super::passage`] judges.
//!
//! Sources: mod_proxy, mod_proxy_wstunnel, mod_rewrite, and core for `Timeout`.

mod syntax;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use regex_lite::{Captures, Regex, RegexBuilder};

pub use self::syntax::{Started, parse};
use super::files::{Files, Node};
use super::nginx::listen_addr;
use super::passage::{
    Entry, MAX_PASSAGES, Ours, Passage, Product, Speaks, paths_below, without_query,
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
    // One that has no rules of its own is like the main server.
    let has_rules = |host: &&Node| {
        host.children().iter().any(|it| {
            ["ProxyPass", "ProxyPassMatch", "RewriteRule", "Location"]
                .iter()
                .any(|name| it.is(name))
        })
    };
    let hosts = nodes.iter().filter(|node| node.is("VirtualHost")).filter(has_rules);
    let hosts = hosts.take(MAX_HOSTS);
    let main = Server { own: nodes, main: nodes, section: None, ours, endpoints: &endpoints };
    let servers = hosts.map(|host| Server { own: host.children(), section: Some(host), ..main });
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

/// The main server, or a virtual host.
#[derive(Clone, Copy)]
struct Server<'a> {
    own: &'a [Node],
    main: &'a [Node],
    section: Option<&'a Node>,
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
                Some(substituted(replaced, &captures, asked))
            }
        }
    }
}

/// Where a URL leads, if that is to the service.
struct Target<'a> {
    scheme: &'a str,
    path: &'a str,
    peer: PeerAddr,
}

impl<'a> Server<'a> {
    fn passages(&self) -> Vec<Passage> {
        let rules = self.rules();
        let targets: Vec<_> = rules.iter().map(|rule| self.target(rule.url?)).collect();
        let takes = |asked: &str| {
            let replaced = |index: usize| targets[index].as_ref().map_or("", |target| target.path);
            let mut taking = rules.iter().enumerate();
            taking.find_map(|(index, rule)| Some((index, rule.maps(asked, replaced(index))?)))
        };
        let mut passages = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let Some(target) = &targets[index] else { continue };
            let asked: Vec<String> = match rule.path {
                Matches::Below(prefix) => {
                    paths_below(prefix, None, self.endpoints).into_iter().map(|it| it.0).collect()
                }
                Matches::Regex(_) => self.endpoints.iter().map(|&path| path.to_owned()).collect(),
            };
            let arrives = |asked: String| match takes(&asked) {
                Some((taking, gets)) if taking == index => Some((asked, without_query(gets))),
                _ => None,
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
        let engine = self.own.iter().rfind(|node| node.is("RewriteEngine"));
        if engine.is_some_and(|node| node.arg(0).eq_ignore_ascii_case("on")) {
            rules.extend(self.own.iter().filter_map(|node| rewriting(node, self.own)));
        }
        let contexts =
            if self.section.is_some() { vec![self.own, self.main] } else { vec![self.own] };
        for context in &contexts {
            let locations = context.iter().rev().filter(|node| node.is("Location"));
            for location in locations {
                let inner = location.children();
                rules.extend(
                    inner.iter().filter_map(|it| passing(it, Some(location.arg(0)), inner)),
                );
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
            let member = self.members(address).find_map(|member| self.target(member))?;
            return Some(Target { path, ..member });
        }
        let usual = if ["wss", "https"].contains(&scheme) { 443 } else { 80 };
        let peer = self.ours.peer(socket.as_deref().unwrap_or(address), usual)?;
        Some(Target { scheme, path, peer })
    }

    /// The URLs of a balancer. One of them that is a balancer leads nowhere.
    fn members(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let is_this = move |node: &&Node| {
            let of = node.arg(0).split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
            node.is("Proxy") && of.is_some_and(|of| of == name)
        };
        let sections = self.own.iter().chain(self.main).filter(is_this);
        let members = sections.flat_map(Node::children).filter(|node| node.is("BalancerMember"));
        members.map(|node| node.arg(0)).filter(|url| !url.starts_with("balancer:"))
    }

    fn passage(
        &self,
        rule: &Rule<'a>,
        target: &Target<'_>,
        paths: Vec<(String, String)>,
    ) -> Passage {
        let option = |name: &str| {
            let of = |arg: &'a String| arg.split_once('=').filter(|(key, _)| *key == name);
            rule.node.args.iter().find_map(of).map(|(_, value)| value)
        };
        let upgrades = target.scheme.eq_ignore_ascii_case("ws") || option("upgrade").is_some();
        let trace = Trace {
            http_1_1: true,
            upgrade: if upgrades { Upgrade::WebSocket } else { Upgrade::Absent },
            connection: if upgrades { Connection::Upgrade } else { Connection::KeepAlive },
            key: true,
            front: Front::Apache,
        };
        let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
        let setting = |name: &str| self.setting(rule, name).map(|node| node.arg(0));
        let timeout = setting("Timeout").and_then(seconds).unwrap_or(Duration::from_secs(60));
        let of_proxy = option("timeout").or_else(|| setting("ProxyTimeout")).and_then(seconds);
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
        let find = |nodes: &'a [Node]| nodes.iter().rfind(|node| node.is(name));
        find(rule.beside).or_else(|| find(self.own)).or_else(|| find(self.main))
    }

    fn entry(&self) -> Option<Entry> {
        let find = |name: &str| self.own.iter().rfind(|node| node.is(name));
        let listen = match self.section {
            Some(host) => host.arg(0).replace("_default_", "*"),
            None => self.own.iter().find(|node| node.is("Listen"))?.arg(0).to_owned(),
        };
        let addr: SocketAddr = listen_addr(&listen)?;
        let name = find("ServerName").map(|node| node.arg(0));
        // It may have a scheme and a port.
        let name = name.map(|name| name.rsplit('/').next().unwrap_or(name));
        let name = name.map(|name| name.split(':').next().unwrap_or(name).to_owned());
        let secure = find("SSLEngine").is_some_and(|node| node.arg(0).eq_ignore_ascii_case("on"));
        let host = name.filter(|_| self.section.is_some()).unwrap_or(addr.ip().to_string());
        Some(Entry { secure, addr, host, introduced: false })
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

/// A `ProxyPass` or `ProxyPassMatch`; inside a `<Location>` it has no path of its own.
fn passing<'a>(node: &'a Node, location: Option<&'a str>, beside: &'a [Node]) -> Option<Rule<'a>> {
    let is_match = node.is("ProxyPassMatch");
    if !is_match && !node.is("ProxyPass") {
        return None;
    }
    let (path, url) = match location {
        Some(path) => (path, node.arg(0)),
        None => (node.arg(0), node.arg(1)),
    };
    let path = if is_match && location.is_none() {
        Matches::Regex(Regex::new(path).ok())
    } else {
        Matches::Below(path)
    };
    Some(Rule { node, beside, path, url: (url != "!").then_some(url) })
}

/// A `RewriteRule` that passes requests on.
fn rewriting<'a>(node: &'a Node, beside: &'a [Node]) -> Option<Rule<'a>> {
    let mut flags = node.arg(2).trim_matches(['[', ']']).split(',').map(str::trim);
    let proxies = |flag: &str| ["P", "proxy"].contains(&flag);
    if !node.is("RewriteRule") || !flags.clone().any(proxies) {
        return None;
    }
    let any_case = flags.any(|flag| ["NC", "nocase"].contains(&flag));
    let regex = RegexBuilder::new(node.arg(0)).case_insensitive(any_case).build();
    Some(Rule { node, beside, path: Matches::Regex(regex.ok()), url: Some(node.arg(1)) })
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
