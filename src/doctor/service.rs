//! One service of this host, wsecho.service or an instance: whether it may start, what its limits are, and
//! whether it runs what is installed and configured.
//!
//! Owns what each of these is compared with. How the limits and the last reload are judged is known to
//! `limits` and `reload`.

use std::fs;
use std::path::PathBuf;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};

use super::report::{Finding, Report};
use super::unit::Unit;
use super::{host, limits, reload};
use crate::config::Config;
use crate::ops::machine::Machine;

/// A service and its configuration.
pub(super) struct Service<'a> {
    /// Its unit, if systemd knows one.
    pub unit: Option<&'a Unit>,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// Its file; none if the defaults hold.
    pub file: Option<PathBuf>,
    /// What that file and the unit say.
    pub config: Config,
}

impl Service<'_> {
    /// As commands name it.
    pub(super) fn name(&self) -> &str {
        self.unit.map_or("wsecho", Unit::name)
    }

    /// As its drop-ins are named: those of one instance are those of all.
    fn edited(&self) -> &str {
        let name = self.name();
        name.find('@').map_or(name, |at| &name[..=at])
    }

    fn shown_file(&self) -> String {
        self.file.as_ref().map_or("the default configuration".into(), |it| it.display().to_string())
    }

    /// Whether the unit's user can read the file and listen.
    pub(super) fn as_its_user(&self, report: &mut Report) {
        let Some(unit) = self.unit else { return };
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
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let mut arguments = vec!["check", "--user", user];
        arguments.extend(file.iter().flat_map(|file| ["--config", file]));
        let ours = unit.variables().filter(|(name, _)| name.starts_with("WSECHO_"));
        let answer = match host::run_self(&arguments, ours) {
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
            let what = format!("{} cannot be used by the user {user}", self.shown_file());
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
            let what = format!("{} would not start as the user {user}", self.name());
            report.findings.push(finding("start_as_user", what, obstacles));
        }
    }

    /// Descriptors and memory.
    pub(super) fn limits(&self, report: &mut Report) {
        let read = |name: &str| host::read(format!("/proc/{}/{name}", self.pid?)).ok();
        let of_process = read("limits").and_then(|text| limits::descriptors(&text));
        let of_unit = || self.unit?.get("LimitNOFILE").parse().ok();
        let here = Machine::here();
        let descriptors = of_process.or_else(of_unit).unwrap_or(here.descriptors);
        let machine = Machine { descriptors, ..here };
        let edited = self.edited();
        let Some(capacity) = limits::connections(&self.config, machine, edited, report) else {
            return;
        };
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = self.config.boot.workers;
        let workers = if workers == 0 { cores } else { workers };
        let needed = self.config.most_memory(capacity, workers);
        let set = |unit: &Unit| unit.limit("MemoryMax").or_else(|| unit.limit("MemoryLimit"));
        if let Some((unit, limit)) = self.unit.and_then(|unit| Some((unit, set(unit)?))) {
            let from = format!("MemoryMax= of {}", unit.id());
            limits::memory(needed, limit, &from, edited, report);
        } else if let Some(groups) = read("cgroup")
            && let Some((limit, file)) = limits::cgroup_limit(&groups, |path| host::read(path))
        {
            limits::memory(needed, limit, &file.display().to_string(), edited, report);
        }
    }

    /// Whether its program and its configuration are those of now.
    pub(super) fn reload(&self, report: &mut Report) {
        let Some(pid) = self.pid else { return };
        let name = self.name();
        let admin = &self.config.boot.admin;
        let metrics = reload::metrics(admin);
        if metrics.is_none() && !admin.is_empty() {
            report.skip(format!("the last reload of {name}"), "the admin listener does not answer");
        }
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(exe) => reload::program(&exe, name, metrics.as_deref(), report),
            Err(error) => report.skip(format!("the running program of {name}"), &error),
        }
        let written = self.file.as_deref().and_then(reload::written);
        let began = reload::began(pid);
        let file = self.shown_file();
        reload::judge(&file, name, metrics.as_deref(), [written, began], report);
    }

    /// What is valid and may still surprise.
    pub(super) fn surprises(&self, report: &mut Report) {
        let advice = |what| Finding { label: "config_advice", what, ..Finding::default() };
        report.advice.extend(self.config.surprises().into_iter().map(advice));
    }
}
