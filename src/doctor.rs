//! `wsecho doctor`: what is wrong on the host of the service, and the command that fixes it.
//!
//! Owns the order of the checks and what each is given. It changes nothing: it reads files and asks
//! programs that only answer. A tool or a right that is missing is said, and is no error. Nothing of the
//! server knows it.

pub mod apache;
mod barriers;
mod echo;
pub mod files;
pub mod haproxy;
mod host;
pub mod limits;
pub mod nginx;
pub mod passage;
pub mod proc;
mod proxies;
pub mod reload;
pub mod report;
mod service;
pub mod unit;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use self::passage::Ours;
use self::proc::{Listening, Process};
use self::report::{Finding, Report};
use self::service::Service;
use self::unit::Unit;
use crate::config::{ConfigError, Source};
use crate::net::addr::ListenAddr;
use crate::net::listen;

/// How often, and how long apart, units that are just being started or stopped are looked at.
const LOOKS: (u32, Duration) = (30, Duration::from_millis(100));

/// The forms of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Terminal,
    /// For programs
    Json,
}

/// What follows the options in the help.
pub const AFTER_HELP: &str = "\
It changes nothing. Run it as root, on the host of the service: others may not see whose ports these
are, nor read every file of a proxy.

Exit codes: 0 all well, 1 findings, 2 usage. More: /usr/share/doc/wsecho/doctor.md";

/// Examines this host. Without a file in `source`, the configuration is the one of each service.
#[must_use]
pub fn run(source: &Source) -> Report {
    let mut report = Report::default();
    let units = units(&mut report);
    let processes = proc::processes();
    let services = services(source, &units, &processes, &mut report);
    let Some(first) = services.first() else {
        report.skip("ports, limits, proxies, echoes", "there is no configuration to go by");
        return report;
    };
    for service in &services {
        report.absorb(|part| service.as_its_user(part));
    }
    let ours = ours(&services, &units);
    let is_up = ports(&ours, &services, &processes, &mut report);
    limits::kernel(&listen::lacking(), &mut report);
    for service in &services {
        report.absorb(|part| {
            service.limits(part);
            service.reload(part);
            service.surprises(part);
        });
    }
    let config = &first.config;
    let passages = proxies::judge(&processes, &ours, config, &mut report);
    barriers::judge(&ours, &passages, &mut report);
    if is_up {
        echo::directly(config, &ours.addrs, &mut report);
    }
    if report.is_healthy() {
        echo::through(config, &passages, &mut report);
    }
    report
}

/// Asks systemd, and judges what it says.
fn units(report: &mut Report) -> Vec<Unit> {
    // All of their properties: systemd 219 fails when asked for one that a unit lacks.
    let show = [&["show", "--no-pager"][..], &unit::UNITS].concat();
    let mut looks = 0;
    let units = loop {
        let why = match host::run("systemctl", &show) {
            Ok(answer) if answer.ok => {
                let units = Unit::all(&answer.text);
                looks += 1;
                if looks == LOOKS.0 || !units.iter().any(Unit::is_changing) {
                    break units;
                }
                sleep(LOOKS.1);
                continue;
            }
            Ok(answer) => answer.text.lines().next().unwrap_or("systemctl failed").to_owned(),
            Err(error) => error.to_string(),
        };
        report.skip("the unit", &why);
        return Vec::new();
    };
    let last_error = |id: &str| {
        // What it said itself: `--unit` would add what systemd says about it.
        let own = format!("_SYSTEMD_UNIT={id}");
        let one = ["--priority=err", "--lines=1", "--output=cat", "--no-pager", "--quiet", &own];
        let answer = host::run("journalctl", &one).ok().filter(|answer| answer.ok)?;
        answer.text.lines().next_back().map(str::to_owned)
    };
    unit::judge(&units, last_error, report);
    units
}

/// The services to look at, with the configuration of each: those that are in use, or else
/// wsecho.service. With a file in `given` there is only one, which has that file.
fn services<'a>(
    given: &Source,
    units: &'a [Unit],
    processes: &[Process],
    report: &mut Report,
) -> Vec<Service<'a>> {
    let mut found: Vec<(Option<&Unit>, Option<u32>)> = Vec::new();
    if given.path.is_none() {
        found.extend(unit::in_use(units).map(|unit| (Some(unit), unit.pid())));
    }
    if found.is_empty() {
        let unit = units.iter().find(|unit| unit.id() == unit::SERVICE);
        let pid = match units {
            [] => serving(processes, given.path.as_deref()),
            units => units.iter().filter(|unit| unit.is_service()).find_map(Unit::pid),
        };
        found.push((unit, pid));
    }
    let mut services = Vec::new();
    for (unit, pid) in found {
        let source = source_of(given, unit, pid);
        let file = source.path();
        match source.load() {
            Ok((loaded, found)) => {
                let config = loaded.config;
                let file = found.then_some(file);
                services.push(Service { unit, pid, file, config });
            }
            Err(error) => report.absorb(|part| part.findings.push(invalid(&file, &error))),
        }
    }
    services
}

/// A process that looks like the service and was started with the file that was named.
fn serving(processes: &[Process], named: Option<&Path>) -> Option<u32> {
    let serves = |process: &&Process| {
        let others = ["probe", "check", "snippet", "doctor"];
        let has = |word: &dyn Fn(&str) -> bool| process.args.iter().any(|arg| word(arg));
        process.name == "wsecho"
            && !has(&|arg| others.contains(&arg))
            && named.is_none_or(|named| has(&|arg| Path::new(arg) == named))
    };
    processes.iter().find(serves).map(|process| process.pid)
}

/// The file that was given, or else the one that a service was started with, or that its unit names;
/// and what the unit's environment sets, over the file.
fn source_of(given: &Source, unit: Option<&Unit>, pid: Option<u32>) -> Source {
    let mut source = match unit {
        Some(unit) => {
            Source::new(unit.variables().map(|(name, value)| (name.into(), value.into())))
        }
        None => given.clone(),
    };
    source.overrides.bind.clone_from(&given.overrides.bind);
    source.overrides.log_level = given.overrides.log_level;
    let started_with = || {
        let args = pid.and_then(proc::process)?.args;
        let at = args.iter().position(|arg| arg == "--config" || arg == "-c")?;
        args.get(at + 1).map(PathBuf::from)
    };
    source.path = given.path.clone().or_else(started_with);
    source
}

fn invalid(file: &Path, error: &ConfigError) -> Finding {
    Finding {
        label: "config_invalid",
        what: format!("{} cannot be used", file.display()),
        why: "A start exits with 78, and a reload is refused.".to_owned(),
        fix: "Correct it; `wsecho check` shows this again:".to_owned(),
        lines: error.to_string().lines().map(str::to_owned).collect(),
        ..Finding::default()
    }
}

/// Where the services listen; sockets of systemd's included.
fn ours(services: &[Service<'_>], units: &[Unit]) -> Ours {
    let mut addrs: Vec<ListenAddr> = Vec::new();
    for addr in services.iter().flat_map(|service| &service.config.boot.bind) {
        if *addr == ListenAddr::Inherited {
            let sockets = units.iter().filter(|unit| unit.id().ends_with(".socket"));
            addrs.extend(sockets.flat_map(Unit::listens).filter_map(|text| {
                if text.starts_with('/') {
                    return Some(ListenAddr::Unix(text.into()));
                }
                text.parse::<SocketAddr>().ok().map(ListenAddr::Tcp)
            }));
        } else {
            addrs.push(addr.clone());
        }
    }
    addrs.retain(|addr| !matches!(addr, ListenAddr::Tcp(tcp) if tcp.port() == 0));
    let mut once: Vec<ListenAddr> = Vec::new();
    for addr in addrs {
        if !once.contains(&addr) {
            once.push(addr);
        }
    }
    Ours { addrs: once, hosts: passage::hosts(&host::read("/etc/hosts").unwrap_or_default()) }
}

/// Whose the ports are. Whether something of ours listens.
fn ports(
    ours: &Ours,
    services: &[Service<'_>],
    processes: &[Process],
    report: &mut Report,
) -> bool {
    let listening = proc::listening();
    let mut is_up = true;
    for addr in &ours.addrs {
        let taken = |it: &&Listening| it.addr == *addr || it.addr.collides(addr);
        let mut sockets = listening.iter().filter(taken).peekable();
        if sockets.peek().is_none() {
            is_up = false;
            // The unit's state has said it already.
            if report.is_healthy() {
                report.findings.push(closed(addr, &services[0]));
            }
            continue;
        }
        match sockets.find_map(|socket| proc::owner(socket.inode, processes)) {
            Some(owner) if owner.name == "wsecho" || owner.pid == 1 => {}
            Some(owner) if services.iter().any(|service| service.pid == Some(owner.pid)) => {}
            Some(owner) => {
                is_up = false;
                report.findings.push(Finding {
                    label: "port_taken",
                    what: format!("{addr} belongs to {} (process {})", owner.name, owner.pid),
                    why: "wsecho cannot listen there, and clients reach something else.".into(),
                    fix: format!(
                        "Stop it: `systemctl status {}` names its unit. Or choose another \
                         address in `bind`.",
                        owner.pid
                    ),
                    ..Finding::default()
                });
            }
            None => report.skip(format!("whose {addr} is"), "only root can see that"),
        }
    }
    is_up
}

/// An address on which nothing listens, of a service that should.
fn closed(addr: &ListenAddr, service: &Service<'_>) -> Finding {
    let fix = if service.config.boot.bind.contains(&ListenAddr::Inherited) {
        "Run `systemctl restart wsecho.socket`; if that is refused, stop wsecho.service first."
            .to_owned()
    } else {
        let name = service.name();
        format!(
            "Run `systemctl start {name}`; if it runs, `systemctl restart {name}`: a change of \
             `bind` needs that."
        )
    };
    Finding {
        label: "port_closed",
        what: format!("nothing listens on {addr}"),
        why: "No client can connect, and a proxy answers 502 or 503.".to_owned(),
        fix,
        ..Finding::default()
    }
}
