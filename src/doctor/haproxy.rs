//! HAProxy: every `server` that leads to the service, and what its section does to a handshake.
//!
//! Owns the sections, their defaults, and which frontend uses which backend. It does not know what is
//! right: [`super::passage`] judges.
//!
//! Source: HAProxy's configuration manual, sections 2.2 (words), 4 (proxies) and 5 (bind and server).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::Files;
use super::nginx::listen_addr;
use super::passage::{Entry, MAX_PASSAGES, Ours, Passage, Product, Speaks, here, without_family};
use super::report::{Finding, Place};
use crate::net::addr::PeerAddr;
use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

/// One line of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its words: at least one.
    pub words: Vec<String>,
    /// Where it stands.
    pub place: Place,
}

impl Line {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|it| it == word)
    }

    /// The word behind another.
    fn behind(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|it| it == word)?;
        self.words.get(at + 1).map(|word| &**word)
    }

    /// Whether it is for some requests only.
    fn is_conditional(&self) -> bool {
        self.has("if") || self.has("unless")
    }

    fn begins(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(it, word)| it == word)
    }
}

/// A section, such as `backend wsecho`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `frontend`, `backend`, `listen`, `defaults` or another.
    pub kind: String,
    /// Its name, if it has one.
    pub name: String,
    /// The index of the `defaults` that hold for it.
    defaults: Option<usize>,
    /// What is in it.
    pub lines: Vec<Line>,
}

/// Reads the files that HAProxy is given, in their order.
#[must_use]
pub fn read(paths: &[PathBuf], files: &mut Files) -> Vec<Section> {
    let mut sections = Vec::new();
    for path in paths {
        let text = files.read(path);
        parse(&text, path, &mut sections);
    }
    sections
}

/// Adds the sections of one file.
pub fn parse(text: &str, file: &Path, sections: &mut Vec<Section>) {
    const KINDS: [&str; 14] = [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "resolvers",
        "mailers",
        "userlist",
        "cache",
        "program",
        "ring",
        "http-errors",
        "log-forward",
    ];
    let mut defaults = sections.iter().rposition(|section| section.kind == "defaults");
    let named = sections.iter().enumerate().filter(|(_, it)| it.kind == "defaults");
    let mut named: HashMap<String, usize> =
        named.map(|(index, section)| (section.name.clone(), index)).collect();
    for (index, line) in text.lines().enumerate() {
        let words = words(line);
        let Some(first) = words.first() else { continue };
        if KINDS.contains(&&**first) {
            let from = words.iter().position(|word| word == "from");
            let from = from.and_then(|at| named.get(words.get(at + 1)?)).copied();
            let (kind, name) = (first.clone(), words.get(1).cloned().unwrap_or_default());
            let inherited = if first == "defaults" {
                defaults = Some(sections.len());
                named.insert(name.clone(), sections.len());
                from
            } else {
                from.or(defaults)
            };
            sections.push(Section { kind, name, defaults: inherited, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            let place = Place { file: file.to_path_buf(), line: index + 1 };
            section.lines.push(Line { words, place });
        }
    }
}

/// The words of a line: quotes, escapes, and a comment at its end.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '#' => break,
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '\'' => {
                let quoted = chars.by_ref().take_while(|it| *it != '\'');
                word.get_or_insert_default().extend(quoted);
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(char) = chars.next() {
                    match char {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        char => word.push(char),
                    }
                }
            }
            space if space.is_whitespace() => words.extend(word.take()),
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// Every way to the service, and what else is wrong on it.
#[must_use]
pub fn passages<'a>(sections: &'a [Section], ours: &Ours) -> (Vec<Passage>, Vec<Finding>) {
    let all = Sections(sections);
    let mut passages = Vec::new();
    // Each only once, however many lead to the service by way of it.
    let (mut lossless, mut bound): (Vec<&Section>, Vec<&Section>) = (Vec::new(), Vec::new());
    for section in sections.iter().filter(|it| ["backend", "listen"].contains(&&*it.kind)) {
        let mut servers = section.lines.iter().filter(|line| line.words[0] == "server");
        let leads = |line: &'a Line| Some((line, ours.peer(line.words.get(2)?, 80)?));
        // The others are meant to be like the first.
        let Some((server, peer)) = servers.find_map(leads) else { continue };
        let fronts = all.fronts(section);
        let mut passage = all.passage(section, server, peer, &fronts);
        if passage.proxy_headers == 1 && all.comes_introduced(&fronts) {
            passage.proxy_headers = 2;
        }
        if matches!(passage.speaks, Speaks::Http(_)) {
            lossless.extend(fronts.iter().copied().chain([section]));
        }
        bound.extend(fronts);
        passages.push(passage);
        if passages.len() == MAX_PASSAGES {
            break;
        }
    }
    let lossy = distinct(lossless).into_iter().flat_map(|it| all.with_defaults(it));
    let lossy = lossy.filter_map(lossy_rule);
    let alone = distinct(bound).into_iter().flat_map(|it| &it.lines).filter_map(http2_alone);
    let mut findings: Vec<Finding> = Vec::new();
    for finding in lossy.take(MAX_PASSAGES).chain(alone.take(MAX_PASSAGES)) {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    (passages, findings)
}

/// Sections without those that are named twice.
fn distinct(mut sections: Vec<&Section>) -> Vec<&Section> {
    let mut seen = HashSet::new();
    sections.retain(|section| seen.insert(std::ptr::from_ref::<Section>(*section)));
    sections
}

struct Sections<'a>(&'a [Section]);

impl<'a> Sections<'a> {
    /// The lines of a section's defaults, then its own.
    fn with_defaults(&self, section: &'a Section) -> impl Iterator<Item = &'a Line> + use<'a> {
        // Defaults may stand on others; a chain has no end only if it is circular.
        let mut chain = vec![section];
        while let Some(next) = chain[chain.len() - 1].defaults.and_then(|index| self.0.get(index)) {
            if chain.len() > 8 {
                break;
            }
            chain.push(next);
        }
        chain.into_iter().rev().flat_map(|section| &section.lines)
    }

    /// The last line that begins so.
    fn last(&self, section: &'a Section, begin: &[&str]) -> Option<&'a Line> {
        self.with_defaults(section).filter(|line| line.begins(begin)).last()
    }

    fn is_http(&self, section: &'a Section) -> bool {
        self.last(section, &["mode"]).is_some_and(|line| line.behind("mode") == Some("http"))
    }

    /// The sections by which clients come to another: itself, or frontends.
    fn fronts(&self, section: &'a Section) -> Vec<&'a Section> {
        if section.kind == "listen" {
            return vec![section];
        }
        let leads = |line: &Line| {
            let leads = ["default_backend", "use_backend"].contains(&&*line.words[0]);
            leads && line.words.get(1) == Some(&section.name)
        };
        let uses = |front: &&Section| self.with_defaults(front).any(leads);
        let fronts = self.0.iter().filter(|it| ["frontend", "listen"].contains(&&*it.kind));
        fronts.filter(uses).collect()
    }

    fn passage(
        &self,
        section: &'a Section,
        server: &Line,
        peer: PeerAddr,
        fronts: &[&'a Section],
    ) -> Passage {
        let default = self.last(section, &["default-server"]);
        let has = |word: &str| {
            server.has(word)
                || (default.is_some_and(|it| it.has(word)) && !server.has(&format!("no-{word}")))
        };
        let sends = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"];
        let proto = server.behind("proto").or_else(|| default.and_then(|it| it.behind("proto")));
        let complete = Trace {
            http_1_1: true,
            upgrade: Upgrade::WebSocket,
            connection: Connection::Upgrade,
            key: true,
            front: Front::Unnamed,
        };
        // Zero is none, which for a tunnel means that the others hold.
        let timeout = |section: &'a Section, name: &str| {
            let line = self.last(section, &["timeout", name])?;
            time(line.words.get(2)?).filter(|time| !time.is_zero())
        };
        let idle = timeout(section, "tunnel").or_else(|| {
            let clients = fronts.iter().filter_map(|front| timeout(front, "client"));
            clients.chain(timeout(section, "server")).min()
        });
        Passage {
            product: Product::Haproxy,
            place: server.place.clone(),
            inside: format!("{} {}", section.kind, section.name),
            speaks: match proto {
                _ if has("ssl") => Speaks::Tls,
                Some("h2") => Speaks::Http2,
                _ if self.is_http(section) => Speaks::Http(complete),
                _ => Speaks::Stream,
            },
            proxy_headers: u8::from(sends.iter().any(|word| has(word))),
            host_kept: true,
            idle,
            paths: Vec::new(),
            peer,
            map: None,
            entry: Entry::best(fronts.iter().flat_map(|front| self.entries(section, front))),
        }
    }

    /// Where clients of a front reach a section without conditions.
    fn entries(&self, section: &'a Section, front: &'a Section) -> Vec<Entry> {
        let direct = std::ptr::eq(front, section);
        let by_default = self.last(front, &["default_backend"]);
        if !direct && by_default.is_none_or(|line| line.words.get(1) != Some(&section.name)) {
            return Vec::new();
        }
        let mut rules = self.with_defaults(front).chain(self.with_defaults(section));
        let redirects = rules.any(redirects);
        let expected = ["tcp-request", "connection", "expect-proxy"];
        let expected = self.last(front, &expected).is_some_and(|line| !line.is_conditional());
        let binds = front.lines.iter().filter(|line| line.words[0] == "bind");
        let all = binds.flat_map(|bind| addrs(bind).map(move |listen| (bind, listen)));
        let entry = |(bind, listen): (&Line, SocketAddr)| {
            let secure = bind.has("ssl");
            let barred = if bind.behind("verify") == Some("required") {
                Some(Entry::CERTIFICATE)
            } else if bind.has("strict-sni") {
                Some(Entry::NAME)
            } else {
                (!secure && redirects).then_some(Entry::REDIRECT)
            };
            Entry::at(listen, secure, None, expected || bind.has("accept-proxy"), barred)
        };
        all.map(entry).collect()
    }

    /// Whether another proxy of this HAProxy sends a PROXY header that one of these passes on unread.
    fn comes_introduced(&self, fronts: &[&'a Section]) -> bool {
        let own: Vec<_> = fronts
            .iter()
            .filter(|front| !self.is_http(front))
            .flat_map(|front| &front.lines)
            .filter(|line| line.words[0] == "bind" && !line.has("accept-proxy"))
            .flat_map(addrs)
            .map(here)
            .collect();
        let servers = self.0.iter().flat_map(|it| &it.lines).filter(|it| it.words[0] == "server");
        servers
            .filter(|line| line.words.iter().any(|word| word.starts_with("send-proxy")))
            .filter_map(|line| listen_addr(line.words.get(2)?))
            .any(|target| own.contains(&target))
    }
}

/// The addresses of a `bind`, as they are written.
fn addrs(bind: &Line) -> impl Iterator<Item = SocketAddr> {
    let all = bind.words.get(1).into_iter().flat_map(|word| word.split(','));
    all.filter_map(|text| listen_addr(without_family(text)))
}

/// Whether a rule sends clients to another scheme or host.
fn redirects(line: &Line) -> bool {
    let is_one = line.words[0] == "redirect" || line.begins(&["http-request", "redirect"]);
    is_one && (line.has("scheme") || line.words.iter().any(|word| word.contains("://")))
}

/// A rule that takes from every request what a handshake needs.
fn lossy_rule(line: &Line) -> Option<Finding> {
    let [rule, action, header, rest @ ..] = &line.words[..] else { return None };
    let (action, in_one) = match action.split_once('(') {
        Some((action, header)) => (action, Some(header.trim_end_matches(')'))),
        None => (&**action, None),
    };
    let (header, conditions) = match in_one {
        Some(header) => (header, &line.words[2..]),
        None => (&**header, rest),
    };
    let takes = ["del-header", "set-header", "replace-header"].contains(&action);
    let needed = ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version"];
    let name = header.to_ascii_lowercase();
    // What holds for some requests may be meant for others.
    let for_some = conditions.iter().any(|word| ["if", "unless"].contains(&&**word));
    if rule != "http-request" || !takes || !needed.contains(&&*name) || for_some {
        return None;
    }
    Some(Finding {
        label: "header_dropped",
        place: Some(line.place.clone()),
        what: format!("HAProxy: {action} takes `{header}` from every handshake"),
        why: "HAProxy passes WebSockets by itself; without this header wsecho answers 426 or 400."
            .to_owned(),
        fix: "Remove the line, or add a condition: `unless { hdr(Upgrade) -i websocket }`.".into(),
        lines: Vec::new(),
    })
}

/// A `bind` that offers HTTP/2 and nothing else.
fn http2_alone(line: &Line) -> Option<Finding> {
    let offered = line.behind("alpn").filter(|_| line.words[0] == "bind")?;
    let mut offered = offered.split(',');
    if offered.clone().any(|it| it == "http/1.1") || !offered.any(|it| it == "h2") {
        return None;
    }
    Some(Finding {
        label: "http2_alone",
        place: Some(line.place.clone()),
        what: "HAProxy: bind offers HTTP/2 only".to_owned(),
        why: "Most WebSocket clients speak HTTP/1.1, and get no connection.".to_owned(),
        fix: "Offer both, then reload HAProxy:".to_owned(),
        lines: vec!["alpn h2,http/1.1".to_owned()],
    })
}

/// A time: milliseconds without a unit.
fn time(text: &str) -> Option<Duration> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let micros = match unit {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(micros).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_haproxy_reads_them() {
        for (line, expected) in [
            ("  server a 127.0.0.1:1 check # x", &["server", "a", "127.0.0.1:1", "check"][..]),
            (r#"bind "unix@/a b" mode\ x"#, &["bind", "unix@/a b", "mode x"]),
            ("acl x path '/a #b'", &["acl", "x", "path", "/a #b"]),
            ("x ''", &["x", ""]),
            ("# x", &[]),
            ("x \"", &["x", ""]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
