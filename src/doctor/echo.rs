//! Echoes as clients see them: directly, and through each proxy that leads here.
//!
//! Owns which URL stands for which way. The stages are those of `wsecho probe`, one after the other so
//! that a report is of one path; certificates are shown to nobody, so any will do.

use std::time::Duration;

use hyper::header::HeaderValue;

use super::passage::{Entry, Passage, Speaks};
use super::report::{Finding, Report};
use crate::config::Config;
use crate::net::addr::{ListenAddr, PeerAddr, from_here};
use crate::probe::{self, Options, Pinned, Target};
use crate::proxy::protocol::{Expect, Version};
use crate::ws::handshake::Origins;

/// How long all stages of one echo may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Probes every address that the service has.
pub(super) fn directly(config: &Config, addrs: &[ListenAddr], report: &mut Report) {
    let introduced = config.policy.proxy.protocol == Expect::Required;
    for addr in addrs {
        let peer = match addr {
            ListenAddr::Tcp(tcp) => PeerAddr::Tcp(*tcp),
            _ => PeerAddr::Unix,
        };
        if introduced && !config.policy.proxy.trusted.contains(peer) {
            report.skip(format!("an echo directly at {addr}"), "proxy.trusted lacks this host");
            continue;
        }
        let (target, unix) = match addr {
            ListenAddr::Tcp(tcp) => {
                let ip = from_here(tcp.ip());
                (target(false, &ip.to_string(), tcp.port(), config.endpoint()), None)
            }
            ListenAddr::Unix(path) => {
                (target(false, "localhost", 80, config.endpoint()), Some(path.clone()))
            }
            ListenAddr::Inherited => continue,
        };
        let mut options = Options::of_echo(PATIENCE);
        options.unix = unix;
        options.proxy_protocol = introduced.then_some(Version::V2);
        probed(&target, options, config, &format!("directly at {addr}"), report);
    }
}

/// Probes the way through each proxy, once for each place where clients enter.
pub(super) fn through(config: &Config, passages: &[Passage], report: &mut Report) {
    let mut tried: Vec<&Entry> = Vec::new();
    for passage in passages {
        let Some(entry) = &passage.entry else { continue };
        if tried.contains(&entry) || passage.speaks == Speaks::Tls {
            continue;
        }
        tried.push(entry);
        let how = format!("through {}", passage.product.name());
        if let Some(why) = entry.barred {
            report.skip(format!("an echo {how} on port {}", entry.addr.port()), why);
            continue;
        }
        // Where it is not known what becomes of the path, an endpoint as it is may do.
        let known = passage.paths.iter().find(|(_, gets)| {
            config.policy.endpoints.iter().any(|endpoint| endpoint.path == *gets)
        });
        let path = known.map_or(config.endpoint(), |(asked, _)| asked);
        let target = target(entry.secure, &entry.host, entry.addr.port(), path);
        let mut options = Options::of_echo(PATIENCE);
        options.pinned = vec![Pinned { host: target.host.clone(), ip: entry.addr.ip() }];
        options.proxy_protocol = entry.introduced.then_some(Version::V2);
        probed(&target, options, config, &how, report);
    }
}

fn target(secure: bool, host: &str, port: u16, path: &str) -> Target {
    let host = host.to_ascii_lowercase();
    Target { secure, host, port, path: path.to_owned(), credentials: None, is_foreign: false }
}

impl Config {
    /// The path of an endpoint.
    fn endpoint(&self) -> &str {
        self.policy.endpoints.first().map_or("/", |endpoint| &endpoint.path)
    }
}

fn probed(target: &Target, mut options: Options, config: &Config, how: &str, report: &mut Report) {
    if config.policy.require_origin {
        let scheme = if target.secure { "https" } else { "http" };
        let own = format!("{scheme}://{}", target.authority());
        let origin = match &config.policy.origins {
            Origins::Only(listed) => listed.first().map_or(own, ToString::to_string),
            Origins::Any | Origins::SameHost => own,
        };
        options.asked.origin = HeaderValue::from_str(&origin).ok();
    }
    let probed = match probe::run_all(std::slice::from_ref(target), &options) {
        Ok(probed) => probed,
        Err(error) => return report.skip(format!("an echo {how}"), &error),
    };
    for probe in probed {
        let url = match &options.unix {
            Some(path) => format!("unix:{}", path.display()),
            None => probe.url.clone(),
        };
        let Some(failed) = &probe.failed else {
            let insecure = if probe.insecure { " (any certificate accepted)" } else { "" };
            report.echoed.push(format!("{url}{insecure}"));
            continue;
        };
        let quote =
            failed.quote.as_ref().map_or(String::new(), |quote| format!(" It says: {quote}"));
        report.findings.push(Finding {
            label: failed.failure.label(),
            what: format!("no echo {how}, {url}: {}", failed.seen),
            why: format!("{}{quote}", failed.failure.meaning()),
            fix: failed.failure.remedy().to_owned(),
            ..Finding::default()
        });
    }
}
