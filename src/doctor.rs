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
pub mod unit;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};

use self::passage::Ours;
use self::proc::{Listening, Process};
use self::report::{Finding, Report};
use self::unit::Unit;
use crate::config::{Config, DEFAULT_PATH, Environment, PATH_VARIABLE, Source};
use crate::net::addr::ListenAddr;
use crate::net::listen;
use crate::ops::machine::Machine;

/// The unit whose user, limits and environment are looked at.
const SERVICE: &str = "wsecho.service";

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

/// Examines this host. Without a file in `source`, the configuration is the one of the service.
#[must_use]
pub fn run(source: Source) -> Report {
    let mut report = Report::default();
    let units = units(&mut report);
    let processes = proc::processes();
    let service = service(&units, &processes, source.path.as_deref());
    let source = source_of(source, &units, service);
    let file = source.path();
    let config = match source.load() {
        Ok((loaded, _)) => loaded.config,
        Err(error) => {
            report.findings.push(Finding {
                label: "config_invalid",
                what: format!("{} cannot be used", file.display()),
                why: "A start exits with 78, and a reload is refused.".to_owned(),
                fix: "Correct it; `wsecho check` shows this again:".to_owned(),
                lines: error.to_string().lines().map(str::to_owned).collect(),
                ..Finding::default()
            });
            report.skip("ports, limits, proxies, echoes", "there is no configuration to go by");
            return report;
        }
    };
    let host = Host { config: &config, units: &units, processes: &processes, service };
    host.as_its_user(&file, &mut report);
    let is_up = host.ports(&mut report);
    host.limits(&mut report);
    host.reload(&file, &mut report);
    report.advice.extend(config.surprises().into_iter().map(|what| Finding {
        label: "config_advice",
        what,
        ..Finding::default()
    }));
    let ours = host.ours();
    let passages = proxies::judge(&processes, &ours, &config, &mut report);
    barriers::judge(&ours, &passages, &mut report);
    if is_up {
        echo::directly(&config, &ours.addrs, &mut report);
    }
    if report.is_healthy() {
        echo::through(&config, &passages, &mut report);
    }
    report
}

/// Asks systemd, and judges what it says.
fn units(report: &mut Report) -> Vec<Unit> {
    let show = [&["show", "--no-pager", unit::PROPERTIES][..], &unit::UNITS].concat();
    let units = match host::run("systemctl", &show) {
        Ok(answer) if answer.ok => Unit::all(&answer.text),
        Ok(answer) => {
            let why = answer.text.lines().next().unwrap_or("systemctl failed").to_owned();
            report.skip("the unit", &why);
            return Vec::new();
        }
        Err(error) => {
            report.skip("the unit", &error);
            return Vec::new();
        }
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

/// The process of the service: systemd's or, where there is no systemd, one that looks like it and
/// was started with the file that was named.
fn service(units: &[Unit], processes: &[Process], named: Option<&Path>) -> Option<u32> {
    let serves = |process: &&Process| {
        let others = ["probe", "check", "snippet", "doctor"];
        let has = |word: &dyn Fn(&str) -> bool| process.args.iter().any(|arg| word(arg));
        process.name == "wsecho"
            && !has(&|arg| others.contains(&arg))
            && named.is_none_or(|named| has(&|arg| Path::new(arg) == named))
    };
    let by_unit = units.iter().filter(|unit| unit.id().ends_with(".service")).find_map(Unit::pid);
    let by_name = || processes.iter().find(serves).map(|process| process.pid);
    if units.is_empty() { by_name() } else { by_unit }
}

/// The file that was named, or else the one that the service was started with; and what the unit's
/// environment sets, over the file.
fn source_of(mut source: Source, units: &[Unit], service: Option<u32>) -> Source {
    let of_service = || {
        let args = service.and_then(proc::process)?.args;
        let at = args.iter().position(|arg| arg == "--config" || arg == "-c")?;
        args.get(at + 1).map(PathBuf::from)
    };
    let mut path = source.path.clone().or_else(of_service);
    if let Some(unit) = units.iter().find(|unit| unit.id() == SERVICE) {
        let variables = unit.variables().map(|(name, value)| (name.into(), value.into()));
        source.overrides.environment = Environment::new(variables);
        let of_unit = unit.variables().find(|(name, _)| *name == PATH_VARIABLE);
        // The packaged unit names the default, which may be missing.
        let of_unit = of_unit.map(|(_, file)| file).filter(|file| *file != DEFAULT_PATH);
        path = path.or_else(|| of_unit.map(PathBuf::from));
    }
    Source { path, ..source }
}

/// What the checks go by.
struct Host<'a> {
    config: &'a Config,
    units: &'a [Unit],
    processes: &'a [Process],
    service: Option<u32>,
}

impl Host<'_> {
    fn unit(&self) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.id() == SERVICE)
    }

    /// Where the service listens; sockets of systemd's included.
    fn ours(&self) -> Ours {
        let mut addrs = Vec::new();
        for addr in &self.config.boot.bind {
            if *addr == ListenAddr::Inherited {
                let sockets = self.units.iter().filter(|unit| unit.id().ends_with(".socket"));
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
        Ours { addrs, hosts: passage::hosts(&host::read("/etc/hosts").unwrap_or_default()) }
    }

    /// Whether the unit's user can read the file and listen.
    fn as_its_user(&self, file: &Path, report: &mut Report) {
        let Some(unit) = self.unit() else { return };
        let user = unit.get("User");
        if user.is_empty() {
            return;
        }
        if !geteuid().is_root() {
            report.skip(format!("the configuration as the user {user}"), "only root can do that");
            return;
        }
        // The check that follows is to see the limit that the service has.
        if let Some(most) = unit.limit("LimitNOFILE") {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            // Without the right to raise it, it stays: its word on descriptors is not used anyway.
            let _ = setrlimit(Resource::Nofile, limit);
        }
        let file = file.display().to_string();
        let found = file != DEFAULT_PATH || Path::new(&file).exists();
        let named: &[&str] = if found { &["--config", &file] } else { &[] };
        let answer = match host::run_self(&[&["check", "--user", user][..], named].concat()) {
            Ok(answer) => answer,
            Err(error) => return report.skip("the configuration as the unit's user", &error),
        };
        let finding = |label, what: String, lines: Vec<String>| Finding {
            label,
            what,
            why: "A start fails, and so does a reload.".to_owned(),
            fix: format!("Correct what it says; `sudo wsecho check --user {user}` shows it again:"),
            lines,
            ..Finding::default()
        };
        let said = || answer.text.lines().map(str::to_owned);
        if !answer.ok {
            let what = format!("{file} cannot be used by the user {user}");
            report.findings.push(finding("config_as_user", what, said().collect()));
            return;
        }
        // Descriptors are judged by the limits of the service.
        let obstacle = |line: String| {
            let line = line.strip_prefix("warning: it would not start: ")?.to_owned();
            (!line.contains("file descriptors")).then_some(line)
        };
        let obstacles: Vec<String> = said().filter_map(obstacle).collect();
        if !obstacles.is_empty() {
            let what = format!("the service would not start as the user {user}");
            report.findings.push(finding("start_as_user", what, obstacles));
        }
    }

    /// Whose the ports are. Whether something of ours listens.
    fn ports(&self, report: &mut Report) -> bool {
        let listening = proc::listening();
        let mut is_up = true;
        for addr in self.ours().addrs {
            let taken = |it: &&Listening| it.addr == addr || it.addr.collides(&addr);
            let mut sockets = listening.iter().filter(taken).peekable();
            if sockets.peek().is_none() {
                is_up = false;
                // The unit's state has said it already.
                if report.is_healthy() {
                    report.findings.push(Finding {
                        label: "port_closed",
                        what: format!("nothing listens on {addr}"),
                        why: "No client can connect, and a proxy answers 502 or 503.".to_owned(),
                        fix:
                            "Run `systemctl start wsecho`; if it runs, `systemctl restart wsecho`: \
                              a change of `bind` needs that."
                                .to_owned(),
                        ..Finding::default()
                    });
                }
                continue;
            }
            match sockets.find_map(|socket| proc::owner(socket.inode, self.processes)) {
                Some(owner) if owner.name == "wsecho" || owner.pid == 1 => {}
                Some(owner) if Some(owner.pid) == self.service => {}
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

    fn limits(&self, report: &mut Report) {
        let read = |name: &str| host::read(format!("/proc/{}/{name}", self.service?)).ok();
        let of_process = read("limits").and_then(|text| limits::descriptors(&text));
        let of_unit = || self.unit()?.get("LimitNOFILE").parse().ok();
        let here = Machine::here();
        let descriptors = of_process.or_else(of_unit).unwrap_or(here.descriptors);
        let machine = Machine { descriptors, ..here };
        limits::kernel(&listen::lacking(), report);
        let Some(capacity) = limits::connections(self.config, machine, report) else { return };
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = self.config.boot.workers;
        let workers = if workers == 0 { cores } else { workers };
        let needed = self.config.most_memory(capacity, workers);
        let set = |unit: &Unit| unit.limit("MemoryMax").or_else(|| unit.limit("MemoryLimit"));
        if let Some((unit, limit)) = self.unit().and_then(|unit| Some((unit, set(unit)?))) {
            limits::memory(needed, limit, &format!("MemoryMax= of {}", unit.id()), report);
        } else if let Some(groups) = read("cgroup")
            && let Some((limit, file)) = limits::cgroup_limit(&groups, |path| host::read(path))
        {
            limits::memory(needed, limit, &file.display().to_string(), report);
        }
    }

    fn reload(&self, file: &Path, report: &mut Report) {
        let Some(pid) = self.service else { return };
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(exe) => reload::program(&exe, report),
            Err(error) => report.skip("the running program", &error),
        }
        let admin = &self.config.boot.admin;
        let metrics = reload::metrics(admin);
        if metrics.is_none() && !admin.is_empty() {
            report.skip("the last reload", "the admin listener does not answer");
        }
        let (written, began) = (reload::written(file), reload::began(pid));
        reload::judge(&file.display().to_string(), metrics.as_deref(), written, began, report);
    }
}
