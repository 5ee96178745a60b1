//! `wsecho doctor` on this host, with programs that answer what the manuals say.

mod entries;
mod hostile;
mod instances;
mod verdicts;

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use wsecho::config::{Config, parse};
use wsecho::doctor::passage::{Ours, Passage, hosts};
use wsecho::doctor::{apache, haproxy, nginx};
use wsecho::net::addr::ListenAddr;
use wsecho::proxy::snippet::{Backend, Product, render};

use crate::launch::through_shell;
use crate::operations::{quoted, read, table_of};
use crate::probe_formats::check;
use crate::service::{Outcome, Service, wsecho};

/// A folder with these programs of the shell.
fn tools(scripts: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let tool = folder.path().join(name);
        fs::write(&tool, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(tool, Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// systemctl, as it answers for a service in this state.
fn systemctl(properties: &str) -> (&'static str, String) {
    let head = "Id=wsecho.service\nLoadState=loaded\nUnitFileState=enabled\nNeedDaemonReload=no";
    ("systemctl", format!("/bin/cat <<'END'\n{head}\n{properties}\nEND"))
}

fn running(service: &Service) -> (&'static str, String) {
    systemctl(&format!("ActiveState=active\nSubState=running\nMainPID={}", service.pid()))
}

/// What the doctor prints about a configuration, and the exit code.
fn doctor(config: &Path, scripts: &[(&str, String)]) -> (i32, Value) {
    diagnosed(Some(config), scripts)
}

/// The same, without a configuration for that of each unit.
fn diagnosed(config: Option<&Path>, scripts: &[(&str, String)]) -> (i32, Value) {
    let tools = tools(scripts);
    let mut command = wsecho();
    command.args(["doctor", "--format", "json"]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let outcome = Outcome::of(command.env("PATH", tools.path()));
    assert_eq!(outcome.stderr, "");
    let report = serde_json::from_str(&outcome.stdout).expect(&outcome.stdout);
    (outcome.code(), report)
}

fn labels(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|it| it["label"].as_str().unwrap()).collect()
}

/// Those that do not depend on the machine of the test.
fn of_service(report: &Value) -> Vec<&str> {
    labels(report).into_iter().filter(|it| !["descriptors", "somaxconn"].contains(it)).collect()
}

fn config_of(service: &Service) -> std::path::PathBuf {
    service.dir.path().join("wsecho.toml")
}

/// A configuration for a port that was free a moment ago.
fn fixed_port() -> (u16, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (port, format!("bind = \"127.0.0.1:{port}\"\n"))
}

#[test]
fn a_service_that_runs_is_well_and_echoes() {
    let (port, config) = fixed_port();
    let service = Service::start(&config);
    let (code, report) = doctor(&config_of(&service), &[running(&service)]);
    assert_eq!(of_service(&report), [""; 0], "{report}");
    assert_eq!(code, i32::from(!labels(&report).is_empty()));
    assert_eq!(report["echoed"], json!([format!("ws://127.0.0.1:{port}/socket")]));
}

#[test]
fn a_stopped_unit_is_the_only_finding_of_a_closed_port() {
    let (_, config) = fixed_port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, &config).unwrap();
    let (code, report) = doctor(&file, &[systemctl("ActiveState=inactive\nMainPID=0")]);
    assert_eq!((code, of_service(&report)), (1, vec!["unit_stopped"]), "{report}");
    let (_, report) = doctor(&file, &[systemctl("ActiveState=active\nMainPID=0")]);
    assert_eq!(of_service(&report), ["port_closed"], "{report}");
}

#[test]
fn the_last_error_in_the_journal_is_quoted() {
    let failed = "ActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=1";
    let journal = ("journalctl", "echo 'cannot listen on 127.0.0.1:80: in use'".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, fixed_port().1).unwrap();
    let (_, report) = doctor(&file, &[systemctl(failed), journal]);
    let why = report["findings"][0]["why"].as_str().unwrap();
    assert!(why.contains("cannot listen on 127.0.0.1:80: in use"), "{report}");
}

#[test]
fn a_port_of_somebody_else_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, format!("bind = \"{}\"", listener.local_addr().unwrap())).unwrap();
    let (_, report) = doctor(&file, &[systemctl("ActiveState=active\nMainPID=0")]);
    assert_eq!(of_service(&report), ["port_taken"], "{report}");
    let what = report["findings"].as_array().unwrap().iter().find(|it| it["label"] == "port_taken");
    let named = format!("process {})", std::process::id());
    assert!(what.unwrap()["what"].as_str().unwrap().contains(&named), "{report}");
}

#[test]
fn too_few_descriptors_are_seen_in_the_running_process() {
    let (_, config) = fixed_port();
    let service = Service::start_with(&config, |command| through_shell(command, "ulimit -n 500"));
    let (code, report) = doctor(&config_of(&service), &[running(&service)]);
    assert!(labels(&report).contains(&"descriptors") && code == 1, "{report}");
    assert!(report.to_string().contains("500 descriptors are allowed"), "{report}");
}

#[test]
fn a_file_that_the_service_has_not_read_is_found_by_its_metrics() {
    let (port, _) = fixed_port();
    let service = Service::start_in(|folder| {
        let admin = folder.join("admin.sock");
        format!("bind = \"127.0.0.1:{port}\"\nadmin.bind = \"unix:{}\"\n", admin.display())
    });
    let config = config_of(&service);
    let (_, report) = doctor(&config, &[running(&service)]);
    assert_eq!(of_service(&report), [""; 0], "{report}");
    change_later(&config);
    let (_, report) = doctor(&config, &[running(&service)]);
    assert_eq!(of_service(&report), ["config_newer"], "{report}");
}

/// Makes a file look as if it had been written in a minute.
fn change_later(file: &Path) {
    #[expect(clippy::disallowed_methods, reason = "files have wall-clock times")]
    let later = SystemTime::now() + Duration::from_secs(60);
    File::options().write(true).open(file).unwrap().set_modified(later).unwrap();
}

#[test]
fn a_wrong_configuration_is_shown_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, "bnd = 1\n").unwrap();
    let (code, report) = doctor(&file, &[]);
    assert_eq!((code, labels(&report)), (1, vec!["config_invalid"]), "{report}");
    let line = report["findings"][0]["lines"][0].as_str().unwrap();
    assert!(line.contains("wsecho.toml:1:1: unknown key \"bnd\""), "{line}");
}

#[test]
fn a_missing_tool_is_said_and_one_that_never_stops_talking_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, "bind = \"127.0.0.1:0\"").unwrap();
    let (_, report) = doctor(&file, &[]);
    assert_eq!(report["unchecked"][0]["why"], "systemctl is not installed", "{report}");
    let endless = ("systemctl", "while echo x; do :; done".to_owned());
    let (_, report) = doctor(&file, &[endless]);
    assert_eq!(report["unchecked"][0]["what"], "the unit", "{report}");
}

#[test]
fn a_form_that_does_not_exist_is_a_mistake_of_usage() {
    let outcome = Outcome::of(wsecho().args(["doctor", "--format", "xml"]));
    assert_eq!(outcome.code(), 2, "{}", outcome.stderr);
}

#[test]
fn json_is_as_its_schema_says() {
    let schema: Value = serde_json::from_str(&read("docs/doctor.schema.json")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wsecho.toml");
    fs::write(&file, format!("bind = \"{}\"", listener.local_addr().unwrap())).unwrap();
    for scripts in [&[][..], &[systemctl("ActiveState=failed")]] {
        check(&schema, &schema, &doctor(&file, scripts).1, "");
    }
}

/// Every way to the service in a configuration of a proxy.
fn passages(product: Product, text: &str, config: &Config) -> Vec<Passage> {
    let addrs = config.boot.bind.clone();
    let ours = Ours { addrs, hosts: hosts("") };
    let file = Path::new("x");
    match product {
        Product::Nginx => nginx::passages(&nginx::parse(text, file), None, &ours, config),
        Product::Haproxy => {
            let mut sections = Vec::new();
            haproxy::parse(text, file, &mut sections);
            haproxy::passages(&sections, &ours).0
        }
        Product::Apache => apache::passages(&apache::parse(text, file), &ours, config).0,
        other => panic!("the doctor does not read the files of {other:?}"),
    }
}

#[test]
fn the_packaged_configurations_are_right_and_have_every_line_that_is_proposed() {
    let strict = parse("origins = \"same-host\"").unwrap();
    for (product, broken) in [
        (Product::Nginx, "http { server { location / { proxy_pass http://127.0.0.1:8888; } } }"),
        (
            Product::Haproxy,
            "listen a\nmode http\nbind :80\ntimeout client 9s\nserver a 127.0.0.1:8888",
        ),
        (Product::Apache, "ProxyPass / http://127.0.0.1:8888/"),
    ] {
        let bind: [ListenAddr; 1] = ["127.0.0.1:8888".parse().unwrap()];
        let paths = vec!["/socket", "/echo"];
        let backend = Backend { bind: &bind, machines: &[], paths, proxy_protocol: false };
        let snippet = render(product, &backend);
        let whole = match product {
            Product::Nginx => format!("http {{ {snippet} }}"),
            _ => snippet.clone(),
        };
        let right = passages(product, &whole, &strict);
        assert!(!right.is_empty(), "{product:?}");
        for passage in right {
            assert_eq!(passage.judge(&strict), (vec![], vec![]), "{product:?}");
        }
        let wrong = passages(product, broken, &strict);
        let (findings, advice) = wrong[0].judge(&strict);
        assert!(!findings.is_empty(), "{product:?}");
        for line in findings.iter().chain(&advice).flat_map(|it| &it.lines) {
            assert!(snippet.contains(line), "{line} of {product:?}");
        }
    }
}

/// The sources of the doctor, without their tests.
fn sources(folder: &Path) -> String {
    let text = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]").next().unwrap().to_owned()
    };
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { sources(&path) } else { text(&path) }).collect()
}

#[test]
fn doctor_md_explains_every_label() {
    let rows = table_of("docs/doctor.md", "What it checks");
    let mut explained: Vec<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let code = sources(Path::new("src/doctor")) + &read("src/doctor.rs");
    let literal = |rest: &str| {
        rest.trim_start().strip_prefix('"')?.split_once('"').map(|(label, _)| label.to_owned())
    };
    let begins = ["label: ", "finding("];
    let literals = begins.iter().flat_map(|begin| code.split(begin).skip(1).filter_map(literal));
    let mut named: Vec<String> = literals.collect();
    // That one is a verdict of the service, too.
    named.retain(|label| label != "host_lost");
    named.sort_unstable();
    named.dedup();
    explained.sort_unstable();
    assert_eq!(explained, named);
}
