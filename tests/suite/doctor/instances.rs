//! `wsecho doctor` where several instances share the sockets of systemd.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use super::{change_later, diagnosed, of_service};
use crate::launch::inherit;
use crate::service::Service;

/// An instance on this listener, with an admin listener of its own.
fn start(listener: &TcpListener, name: &str) -> Service {
    let with_admin = |dir: &Path| {
        format!("bind = \"systemd\"\nadmin.bind = \"unix:{}/admin.sock\"", dir.display())
    };
    Service::start_in_with(with_admin, |command| {
        command.env("WSECHO_INSTANCE", name);
        inherit(&[listener], command);
    })
}

/// What systemctl shows of an instance; `more` are further properties.
fn unit(name: &str, state: &str, more: &str) -> String {
    format!(
        "Id=wsecho@{name}.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState={state}\n{more}\n\n"
    )
}

fn socket(listener: &TcpListener) -> String {
    let addr = listener.local_addr().unwrap();
    format!("Id=wsecho.socket\nLoadState=loaded\nActiveState=active\nListenStream={addr}\n\n")
}

/// systemctl as EL 7 has it: asked for a property that one of the units lacks, it shows the first and fails.
fn systemctl(units: &str) -> (&'static str, String) {
    (
        "systemctl",
        format!("case \"$*\" in *--property*) exit 1 ;; esac\n/bin/cat <<'END'\n{units}END"),
    )
}

fn what<'a>(list: &'a Value, label: &str) -> Vec<&'a str> {
    let found = list.as_array().unwrap().iter().filter(|it| it["label"] == label);
    found.map(|it| it["what"].as_str().unwrap()).collect()
}

#[test]
fn an_instance_that_is_just_being_started_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let starting = unit("1", "activating", "SubState=start\nMainPID=1");
    let between = "SubState=auto-restart\nMainPID=0\nExecMainCode=1\nExecMainStatus=1";
    let failed = unit("1", "activating", between);
    let script = format!(
        "units='{starting}'\n[ -e {0} ] && units='{failed}'\n: > {0}\necho \"$units\"",
        asked.display()
    );
    let (_, report) = diagnosed(None, &[("systemctl", script)]);
    let failures = what(&report["findings"], "unit_failed");
    assert!(failures[0].starts_with("wsecho@1.service has failed"), "{report}");
}

#[test]
fn each_instance_is_looked_at_and_one_cause_is_one_finding() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let instances = ["1", "2"].map(|name| start(&listener, name));
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.toml");
    fs::write(&wrong, "bnd = 1\n").unwrap();
    let mut units = socket(&listener);
    for (name, service) in ["1", "2"].iter().zip(&instances) {
        let running = format!(
            "SubState=running\nMainPID={}\nEnvironment=WSECHO_INSTANCE={name} WSECHO_BIND=systemd",
            service.pid()
        );
        units += &unit(name, "active", &running);
    }
    let (_, report) = diagnosed(None, &[systemctl(&units)]);
    assert_eq!(of_service(&report), [""; 0], "{report}");
    let addr = listener.local_addr().unwrap();
    assert_eq!(report["echoed"], json!([format!("ws://{addr}/socket")]), "{report}");

    change_later(&instances[1].config_path());
    for name in ["3", "4"] {
        let missing = folder.path().join(name);
        let failed = format!(
            "Result=exit-code\nExecMainCode=1\nExecMainStatus=78\nEnvironment=WSECHO_CONFIG={}:{}",
            missing.display(),
            wrong.display()
        );
        units += &unit(name, "failed", &failed);
    }
    units += &unit("5", "inactive", "");
    let (code, report) = diagnosed(None, &[systemctl(&units)]);
    let labels = of_service(&report);
    assert_eq!(
        labels,
        ["unit_failed", "unit_failed", "config_invalid", "config_newer"],
        "{report}"
    );
    let wrong = format!("{} cannot be used", wrong.display());
    assert_eq!(what(&report["findings"], "config_invalid"), [wrong]);
    let newer = what(&report["findings"], "config_newer");
    assert!(newer[0].ends_with("is newer than what wsecho@2 has read"), "{newer:?}");
    let stopped = what(&report["advice"], "unit_stopped");
    assert_eq!(stopped, ["wsecho@5.service is enabled but not running"]);
    assert_eq!(code, 1);
}

#[test]
fn the_file_of_an_instance_is_the_first_of_its_unit_that_exists() {
    let folder = tempfile::tempdir().unwrap();
    let [own, all] = ["1.toml", "all.toml"].map(|name| folder.path().join(name));
    let files = format!("Environment=WSECHO_CONFIG={}:{}", own.display(), all.display());
    let scripts = [systemctl(&unit("1", "active", &files))];
    let named = |file: &Path| {
        let (_, report) = diagnosed(None, &scripts);
        let found = what(&report["findings"], "config_invalid").join(" ");
        assert!(found.starts_with(&file.display().to_string()), "{report}");
    };
    named(&all);
    fs::write(&all, "bnd = 1\n").unwrap();
    named(&all);
    fs::write(&own, "bnd = 1\n").unwrap();
    named(&own);
}

#[test]
fn the_limits_of_each_instance_are_those_of_its_unit() {
    let mut units = String::new();
    for (name, limit) in [("1", 65_536), ("2", 300), ("3", 300)] {
        let _ = write!(
            units,
            "{}",
            unit(
                name,
                "active",
                &format!("LimitNOFILE={limit}\nEnvironment=WSECHO_BIND=127.0.0.1:0")
            )
        );
    }
    let (_, report) = diagnosed(None, &[systemctl(&units)]);
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    let found: Vec<_> = found.iter().filter(|it| it["label"] == "descriptors").collect();
    let [found] = &found[..] else { panic!("{report}") };
    assert_eq!(found["what"], "300 descriptors are allowed");
    assert!(found["fix"].as_str().unwrap().starts_with("Run `systemctl edit wsecho@`"), "{found}");
}
