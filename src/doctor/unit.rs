//! The units under systemd: whether they run, and if not, why.
//!
//! Owns which properties matter and what their values mean. It judges what systemctl printed, and starts
//! nothing.
//!
//! Sources: systemctl(1), org.freedesktop.systemd1(5), systemd.exec(5) for the exit statuses of
//! systemd's own; systemd 219 knows all of the properties but `MemoryMax`, and leaves out those that are
//! empty.

use std::collections::BTreeMap;

use super::report::{Finding, Report};

/// The service, where there are no instances.
pub(super) const SERVICE: &str = "wsecho.service";
/// The units that are asked about: the service, its socket, and its instances.
pub(super) const UNITS: [&str; 3] = [SERVICE, "wsecho.socket", "wsecho@*.service"];

/// What is known of a unit: its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit(BTreeMap<String, String>);

impl Unit {
    /// The units in what `systemctl show` printed.
    #[must_use]
    pub fn all(shown: &str) -> Vec<Self> {
        let one = |text: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            let mut properties = BTreeMap::<String, String>::new();
            for (name, value) in lines {
                // `Listen` has a line for each address.
                let all = properties.entry(name.to_owned()).or_default();
                if !all.is_empty() {
                    all.push('\n');
                }
                all.push_str(value);
            }
            Self(properties)
        };
        shown.split("\n\n").map(one).filter(|unit| unit.0.contains_key("Id")).collect()
    }

    /// A property; empty if it is not set, or not known to this systemd.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value)
    }

    /// Its full name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.get("Id")
    }

    /// Its name as commands take it: the type is left out.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id().strip_suffix(".service").unwrap_or(self.id())
    }

    /// Whether it is a service, and not a socket.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.id().ends_with(".service")
    }

    /// Whether it is one of several instances.
    #[must_use]
    pub fn is_instance(&self) -> bool {
        self.id().contains('@')
    }

    /// Whether it runs, or listens.
    #[must_use]
    pub fn is_active(&self) -> bool {
        ["active", "reloading"].contains(&self.get("ActiveState"))
    }

    /// Whether it is just being started or stopped, so that it is about to be in another state.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        ["activating", "deactivating"].contains(&self.get("ActiveState"))
            && self.get("SubState") != "auto-restart"
    }

    /// The main process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid != 0)
    }

    /// A number of bytes or descriptors; `None` if there is no limit.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok().filter(|limit| *limit < u64::MAX / 2)
    }

    /// The variables that `Environment=` sets.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.get("Environment").split_whitespace().filter_map(|word| word.split_once('='))
    }

    /// The addresses of a socket unit: `ListenStream=ADDR` by systemd 219, `Listen=ADDR (Stream)` by
    /// newer ones.
    pub fn listens(&self) -> impl Iterator<Item = &str> {
        let lines = self.get("Listen").lines().filter_map(|line| line.strip_suffix(" (Stream)"));
        lines.chain(self.get("ListenStream").lines())
    }
}

/// The services that run, or that should: those that do not idle. Without any, the instances that are
/// enabled, which the first connection may start.
pub fn in_use(units: &[Unit]) -> impl Iterator<Item = &Unit> {
    let services = || units.iter().filter(|unit| unit.is_service());
    let is_used = |unit: &Unit| !unit.get("ActiveState").is_empty() && !is_idle(unit);
    let any = services().any(is_used);
    let may_start = |unit: &Unit| unit.is_instance() && is_enabled(unit);
    services().filter(move |unit| if any { is_used(unit) } else { may_start(unit) })
}

/// Judges the units. `last_error` asks the journal for the last error of one.
pub fn judge(
    units: &[Unit],
    mut last_error: impl FnMut(&str) -> Option<String>,
    report: &mut Report,
) {
    let socket = units.iter().any(|unit| unit.id().ends_with(".socket") && unit.is_active());
    let services = || units.iter().filter(|unit| unit.is_service());
    let instances = services().any(|unit| unit.is_instance() && !is_idle(unit));
    for unit in services() {
        let id = unit.id();
        let finding = |label, what: &str, why: &str, fix: String| Finding {
            label,
            what: format!("{id} {what}"),
            why: why.to_owned(),
            fix,
            ..Finding::default()
        };
        if unit.get("NeedDaemonReload") == "yes" {
            report.findings.push(finding(
                "unit_changed",
                "has changed on disk",
                "systemd still uses the unit as it was when it read it last.",
                format!("Run `systemctl daemon-reload && systemctl restart {id}`."),
            ));
        }
        let idle_is_meant = socket || instances || unit.is_instance();
        if instances && unit.is_instance() && is_idle(unit) && is_enabled(unit) {
            report.advice.push(finding(
                "unit_stopped",
                "is enabled but not running",
                "The other instances serve without it.",
                format!("Run `systemctl start {id}`, or `systemctl disable {id}`."),
            ));
        }
        let found = match (unit.get("LoadState"), unit.get("ActiveState")) {
            ("masked", _) => finding(
                "unit_masked",
                "is masked",
                "Nothing can start it, not even a boot.",
                format!("Run `systemctl unmask {id} && systemctl start {id}`."),
            ),
            ("not-found", _) if instances => continue,
            ("not-found", _) => finding(
                "unit_missing",
                "does not exist",
                "The service does not start with the machine, and nothing restarts it.",
                "Install the package, or copy the unit from systemd/ and run `systemctl \
                 daemon-reload`."
                    .to_owned(),
            ),
            (_, "failed") => failed(unit, &mut last_error),
            // Between two starts.
            (_, "activating") if unit.get("SubState") == "auto-restart" => {
                failed(unit, &mut last_error)
            }
            (_, "inactive") if !idle_is_meant => finding(
                "unit_stopped",
                "is not running",
                "No client can connect.",
                format!("Run `systemctl start {id}`; `systemctl enable {id}` for every boot."),
            ),
            _ => {
                if unit.is_active() && unit.get("UnitFileState") == "disabled" && !idle_is_meant {
                    report.advice.push(finding(
                        "unit_disabled",
                        "is not enabled",
                        "It runs now, and will not after the next boot.",
                        format!("Run `systemctl enable {id}`."),
                    ));
                }
                continue;
            }
        };
        report.findings.push(found);
    }
}

fn is_idle(unit: &Unit) -> bool {
    unit.get("ActiveState") == "inactive"
}

fn is_enabled(unit: &Unit) -> bool {
    unit.get("UnitFileState") == "enabled"
}

/// What made a unit fail, and what to do.
fn failed(unit: &Unit, last_error: &mut dyn FnMut(&str) -> Option<String>) -> Finding {
    /// The first exit status of systemd's own, from before the program ran: it said nothing then.
    const OF_SYSTEMD: u32 = 200;
    let id = unit.id();
    let status = unit.get("ExecMainStatus").parse().unwrap_or(0);
    let last_error = (status < OF_SYSTEMD).then(|| last_error(id)).flatten();
    let (what, fix) = reason(unit);
    let start = format!("run `systemctl reset-failed {id} && systemctl start {id}`");
    let log = format!("`journalctl -u {id} -n 20`");
    let harm = if unit.is_instance() {
        "Only the other instances serve clients."
    } else {
        "No client can connect."
    };
    Finding {
        label: "unit_failed",
        what: format!("{id} has failed: {what}"),
        why: match last_error {
            Some(line) => format!("{harm} Its last error: {line}"),
            None => format!("{harm} {log} shows what it said."),
        },
        fix: format!("{fix}, then {start}."),
        ..Finding::default()
    }
}

/// How it ended, and what helps.
fn reason(unit: &Unit) -> (String, String) {
    /// `CLD_EXITED` of waitid(2).
    const EXITED: &str = "1";
    let status = unit.get("ExecMainStatus");
    let said = |what: &str, fix: &str| (what.to_owned(), fix.to_owned());
    match unit.get("Result") {
        "start-limit" | "start-limit-hit" => {
            return said("it was started too often in too short a time", "Fix what its log shows");
        }
        "timeout" => return said("it was not ready, or not gone, in time", "Read its log"),
        "watchdog" => return said("it hung, and the watchdog ended it", "Report it, with its log"),
        "oom-kill" => return said("the kernel killed it for memory", "Raise MemoryMax="),
        "resources" => {
            return said("systemd could not start it", "Read `systemctl status`");
        }
        _ => {}
    }
    if unit.get("ExecMainCode") != EXITED {
        return (format!("signal {status} ended it"), "Read its log".to_owned());
    }
    let (what, fix) = match status {
        "1" => ("an error at run time", "Fix what its log shows, such as an address in use"),
        "2" => ("its command line is wrong", "Correct ExecStart= with `systemctl edit --full`"),
        "70" => ("an internal error", "Report it, with its log"),
        "78" => ("its configuration is invalid", "Fix what `wsecho check` shows"),
        "200" => ("systemd cannot enter its WorkingDirectory=", "Correct it"),
        "203" => ("systemd cannot run its program", "Correct ExecStart=, or install the package"),
        "216" => ("its group does not exist", "Correct Group=, or `groupadd -r wsecho`"),
        "217" => (
            "its user does not exist",
            "Correct User=, or `useradd -r -g wsecho -s /sbin/nologin wsecho`",
        ),
        "226" => ("systemd cannot set up its sandbox", "Read `systemctl status`"),
        _ => ("an unknown error", "Read its log"),
    };
    (format!("{what} (exit status {status})"), fix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(shown: &str) -> Report {
        let mut report = Report::default();
        judge(&Unit::all(shown), |_| Some("cannot listen".to_owned()), &mut report);
        report
    }

    fn service(properties: &str) -> String {
        format!("Id=wsecho.service\nLoadState=loaded\nUnitFileState=enabled\n{properties}")
    }

    #[test]
    fn each_state_has_its_reason_and_its_command() {
        let failed = "ActiveState=failed\nSubState=failed\n";
        let exited =
            |status| format!("{failed}Result=exit-code\nExecMainCode=1\nExecMainStatus={status}");
        for (properties, label, what, fix) in [
            ("ActiveState=inactive".to_owned(), "unit_stopped", "not running", "systemctl start"),
            (exited(78), "unit_failed", "configuration is invalid", "wsecho check"),
            (exited(217), "unit_failed", "user does not exist", "useradd -r"),
            (exited(1), "unit_failed", "error at run time", "reset-failed"),
            (
                format!("{failed}Result=signal\nExecMainCode=2\nExecMainStatus=9"),
                "unit_failed",
                "signal 9",
                "log",
            ),
            (format!("{failed}Result=start-limit-hit"), "unit_failed", "too often", "reset-failed"),
            (
                exited(78)
                    .replace("failed\nSub", "activating\nSub")
                    .replace("SubState=failed", "SubState=auto-restart"),
                "unit_failed",
                "invalid",
                "",
            ),
            (
                "ActiveState=active\nNeedDaemonReload=yes".to_owned(),
                "unit_changed",
                "changed",
                "daemon-reload",
            ),
        ] {
            let report = judged(&service(&properties));
            let [finding] = &report.findings[..] else { panic!("{properties}: {report:?}") };
            assert_eq!(finding.label, label, "{properties}");
            assert!(finding.what.contains(what) && finding.fix.contains(fix), "{finding:?}");
            let ran = label == "unit_failed" && !properties.contains("217");
            assert_eq!(finding.why.ends_with("cannot listen"), ran, "{finding:?}");
        }
        for (state, label) in [("masked", "unit_masked"), ("not-found", "unit_missing")] {
            let text = format!("Id=wsecho.service\nLoadState={state}\nActiveState=inactive");
            assert_eq!(judged(&text).findings[0].label, label);
        }
    }

    #[test]
    fn a_service_that_its_socket_or_its_instances_replace_may_be_idle() {
        let idle = service("ActiveState=inactive");
        for other in [
            "Id=wsecho.socket\nActiveState=active",
            "Id=wsecho@a.service\nLoadState=loaded\nActiveState=active",
        ] {
            let report = judged(&format!("{idle}\n\n{other}"));
            assert_eq!(report, Report::default(), "{other}");
        }
        let failed = "Id=wsecho@a.service\nLoadState=loaded\nActiveState=failed\nExecMainCode=1\nExecMainStatus=78";
        assert_eq!(judged(&format!("{idle}\n\n{failed}")).findings.len(), 1);
    }

    #[test]
    fn what_runs_or_failed_is_in_use_and_a_stopped_instance_is_told() {
        let unit = |name: &str, state: &str| {
            format!(
                "Id={name}.service\nLoadState=loaded\nActiveState={state}\nUnitFileState=enabled"
            )
        };
        let ids = |shown: &str| -> Vec<String> {
            in_use(&Unit::all(shown)).map(|unit| unit.name().to_owned()).collect()
        };
        let stopped = [unit("wsecho", "inactive"), unit("wsecho@1", "inactive")].join("\n\n");
        assert_eq!(ids(&stopped), ["wsecho@1"], "the first connection starts it");
        let shown = [stopped, unit("wsecho@2", "active"), unit("wsecho@3", "failed")].join("\n\n");
        assert_eq!(ids(&shown), ["wsecho@2", "wsecho@3"]);
        let report = judged(&shown);
        let labels = |list: &[Finding]| list.iter().map(|it| it.label).collect::<Vec<_>>();
        assert_eq!(labels(&report.findings), ["unit_failed"], "{report:?}");
        assert!(report.findings[0].why.starts_with("Only the other instances"), "{report:?}");
        assert_eq!(labels(&report.advice), ["unit_stopped"], "{report:?}");
        assert!(report.advice[0].what.starts_with("wsecho@1.service"), "{report:?}");
    }

    #[test]
    fn properties_are_read_as_systemd_prints_them() {
        let text = "Id=wsecho.socket\nListen=127.0.0.1:8888 (Stream)\nListen=/run/w (Stream)\n\n\
                    Id=wsecho.service\nMainPID=42\nLimitNOFILE=65536\nMemoryMax=infinity\n\
                    MemoryLimit=18446744073709551615\nEnvironment=A=1 WSECHO_CONFIG=/etc/w.toml";
        let old = Unit::all("Id=wsecho.socket\nListenStream=127.0.0.1:8888\nListenStream=/run/w");
        assert_eq!(old[0].listens().collect::<Vec<_>>(), ["127.0.0.1:8888", "/run/w"]);
        let units = Unit::all(text);
        assert_eq!(units[0].listens().collect::<Vec<_>>(), ["127.0.0.1:8888", "/run/w"]);
        assert_eq!(units[1].pid(), Some(42));
        assert_eq!(units[1].limit("LimitNOFILE"), Some(65_536));
        assert_eq!((units[1].limit("MemoryMax"), units[1].limit("MemoryLimit")), (None, None));
        let variables: Vec<_> = units[1].variables().collect();
        assert_eq!(variables, [("A", "1"), ("WSECHO_CONFIG", "/etc/w.toml")]);
    }
}
