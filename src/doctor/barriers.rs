//! What stands between clients, proxies and the service on Enterprise Linux: SELinux and firewalld.
//!
//! Owns what their tools print and the commands that open a port. It changes nothing.
//!
//! Sources: getenforce(8), getsebool(8), semanage-port(8), firewall-cmd(1).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use super::host;
use super::passage::{Ours, Passage, Product};
use super::report::{Finding, Report};
use crate::net::addr::ListenAddr;

/// SELinux between the proxies and our ports, and firewalld between others and all of them.
pub(super) fn judge(ours: &Ours, passages: &[Passage], report: &mut Report) {
    let tcp = |addr: &ListenAddr| match addr {
        ListenAddr::Tcp(tcp) => Some(*tcp),
        _ => None,
    };
    let own: Vec<SocketAddr> = ours.addrs.iter().filter_map(tcp).collect();
    let mut products: Vec<Product> = Vec::new();
    for passage in passages {
        if !products.contains(&passage.product) {
            products.push(passage.product);
        }
    }
    judge_selinux(&own, &products, report);
    let public = own.iter().filter(|addr| !addr.ip().is_loopback());
    let mut open: BTreeSet<(u16, &str)> = public.map(|addr| (addr.port(), "wsecho")).collect();
    for passage in passages {
        let entry = passage.entry.iter().filter(|it| !it.local);
        open.extend(entry.map(|it| (it.addr.port(), passage.product.name())));
    }
    judge_firewalld(&open, report);
}

fn judge_selinux(own: &[SocketAddr], products: &[Product], report: &mut Report) {
    let mode = match host::run("getenforce", &[]) {
        Ok(answer) => answer.text,
        Err(error) => {
            if Path::new("/sys/fs/selinux/enforce").exists() {
                report.skip("SELinux", &error);
            }
            return;
        }
    };
    if mode.trim() != "Enforcing" || products.is_empty() {
        return;
    }
    let listed = match host::run("semanage", &["port", "-l"]) {
        Ok(answer) if answer.ok => Some(answer.text),
        Ok(_) => {
            report.skip("the types of SELinux's ports", "only root can list them");
            None
        }
        Err(error) => {
            report.skip("the types of SELinux's ports", &error);
            None
        }
    };
    for &product in products {
        let switch = host::run("getsebool", &[boolean(product)]);
        if switch.is_ok_and(|answer| answer.text.trim_end().ends_with("on")) {
            continue;
        }
        for port in own.iter().map(SocketAddr::port).collect::<BTreeSet<_>>() {
            let of_type = listed.as_ref().map(|listed| port_type(listed, port));
            if let Some(of_type) = of_type
                && !may_connect(product, of_type)
            {
                report.findings.push(selinux(product, port, of_type));
            }
        }
    }
}

fn judge_firewalld(open: &BTreeSet<(u16, &str)>, report: &mut Report) {
    let is_running = host::run("firewall-cmd", &["--state"]);
    if !is_running.is_ok_and(|answer| answer.text.trim() == "running") {
        return;
    }
    for (port, of) in open {
        let by_port = format!("--query-port={port}/tcp");
        let by_service = firewalld_service(*port);
        let by_service = by_service.map(|service| format!("--query-service={service}"));
        let answers: Vec<String> = std::iter::once(by_port)
            .chain(by_service)
            .filter_map(|query| host::run("firewall-cmd", &[&query]).ok())
            .map(|answer| answer.text.trim().to_owned())
            .collect();
        if answers.iter().any(|answer| answer == "yes") {
            continue;
        }
        if answers.iter().all(|answer| answer == "no") {
            report.findings.push(firewalld(*port, of));
        } else {
            report.skip(format!("firewalld and port {port}"), "only root may ask it");
        }
    }
}

/// The type of a port in what `semanage port -l` printed, the narrowest one that has it.
fn port_type(listed: &str, port: u16) -> Option<&str> {
    let has = |range: &str| match range.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
            (first..=last).contains(&port).then_some(last - first)
        }
        None => (range.parse() == Ok(port)).then_some(0),
    };
    let line = |line: &'_ str| {
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let (_, protocol) = (words.next()?, words.next()?);
        (protocol == "tcp").then(|| words.filter_map(has).min())?
    };
    let found = listed.lines().filter_map(|text| Some((line(text)?, text)));
    found.min_by_key(|(width, _)| *width).and_then(|(_, text)| text.split_whitespace().next())
}

/// The switch that lets a proxy connect to any port.
fn boolean(product: Product) -> &'static str {
    match product {
        Product::Haproxy => "haproxy_connect_any",
        Product::Nginx | Product::Apache => "httpd_can_network_connect",
    }
}

/// Whether the policy of Enterprise Linux lets a proxy connect to ports of a type.
fn may_connect(product: Product, of_type: Option<&str>) -> bool {
    match of_type {
        Some("http_port_t") => true,
        Some("http_cache_port_t") => product == Product::Haproxy,
        _ => false,
    }
}

/// A port that SELinux, which is enforcing, keeps from a proxy. `of_type` is the port's type, if that
/// is known.
fn selinux(product: Product, port: u16, of_type: Option<&str>) -> Finding {
    /// The types of ranges that every port has: one may be given another.
    const UNRESERVED: [&str; 4] =
        ["unreserved_port_t", "ephemeral_port_t", "port_t", "reserved_port_t"];
    // A port with a type of its own cannot be added to a second one.
    let own = of_type.filter(|name| !UNRESERVED.contains(name));
    let how = if own.is_some() { "-m" } else { "-a" };
    let boolean = boolean(product);
    Finding {
        label: "selinux_port",
        what: format!(
            "SELinux keeps {} from port {port}, whose type is {}",
            product.name(),
            of_type.unwrap_or("not http_port_t")
        ),
        why: format!(
            "It is enforcing, and {} may connect to ports of type http_port_t only: clients get 502 \
             or 503.",
            product.name()
        ),
        fix: format!("Run one of these; the second opens every port to {}:", product.name()),
        lines: vec![
            format!("semanage port {how} -t http_port_t -p tcp {port}"),
            format!("setsebool -P {boolean} on"),
        ],
        ..Finding::default()
    }
}

/// The service of firewalld that stands for a port.
fn firewalld_service(port: u16) -> Option<&'static str> {
    match port {
        80 => Some("http"),
        443 => Some("https"),
        8888 => Some("wsecho"),
        _ => None,
    }
}

/// A port that firewalld closes.
fn firewalld(port: u16, of: &str) -> Finding {
    let opens = match firewalld_service(port) {
        Some(service) => format!("--add-service={service}"),
        None => format!("--add-port={port}/tcp"),
    };
    Finding {
        label: "firewall_closed",
        what: format!("firewalld closes port {port}, on which {of} listens for other hosts"),
        why: "They get no answer, or \"no route to host\".".to_owned(),
        fix: "If clients are to connect there directly, run:".to_owned(),
        lines: vec![format!("firewall-cmd --permanent {opens} && firewall-cmd --reload")],
        ..Finding::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As semanage-port(8) lists them.
    const LISTED: &str = "\
ephemeral_port_t               tcp      32768-60999
http_port_t                    tcp      80, 81, 443, 488, 8008, 8009, 8443, 9000
http_port_t                    udp      8888
jenkins_port_t                 tcp      8080-8081
unreserved_port_t              tcp      61001-65535, 1024-32767
";

    #[test]
    fn a_port_has_the_narrowest_type_and_that_decides_the_command() {
        for (port, expected) in [
            (8888, Some("unreserved_port_t")),
            (9000, Some("http_port_t")),
            (8080, Some("jenkins_port_t")),
            (22, None),
        ] {
            assert_eq!(port_type(LISTED, port), expected, "{port}");
        }
        let command = |port| selinux(Product::Nginx, port, port_type(LISTED, port)).lines;
        assert_eq!(command(8888)[0], "semanage port -a -t http_port_t -p tcp 8888");
        assert_eq!(command(8080)[0], "semanage port -m -t http_port_t -p tcp 8080");
        assert_eq!(
            selinux(Product::Haproxy, 1, None).lines[1],
            "setsebool -P haproxy_connect_any on"
        );
    }
}
