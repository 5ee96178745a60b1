//! docs/operations.md and the alert rules match the running service and these tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::inside::handshake;
use crate::service::{Service, echo};

pub type Names = BTreeSet<String>;

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is there")
}

/// The rows of the table under a heading of a page, without the header.
pub fn table_of(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let below =
        text.lines().skip_while(|line| line.trim_start_matches('#') != format!(" {heading}"));
    let rows = below.skip(1).take_while(|line| !line.starts_with('#'));
    let rows = rows.filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "there is no table under {heading:?}");
    rows
}

fn table(heading: &str) -> Vec<Vec<String>> {
    table_of("docs/operations.md", heading)
}

/// Everything between backticks.
pub fn quoted(cell: &str) -> Names {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The first column of a table.
fn named(heading: &str) -> Names {
    table(heading).iter().flat_map(|row| quoted(&row[0])).collect()
}

/// The label values in source files: what `fn label` returns.
fn labels(files: &[&str]) -> Names {
    let mut found = Names::new();
    for file in files {
        let text = read(file).replace("label(self)", "label(&self)");
        let bodies = text.split("fn label(&self) -> &'static str {").skip(1);
        let bodies = bodies.map(|body| body.split_once("\n    }").expect("it ends").0);
        let arms = bodies.flat_map(|body| body.split("=> \"").skip(1));
        found.extend(arms.map(|arm| arm.split('"').next().expect("a first part").to_owned()));
    }
    found
}

#[test]
fn operations_md_lists_exactly_the_metrics_of_a_service_in_use() {
    let mut service = Service::start_with_admin("", |_| ());
    let mut socket = service.open("/echo");
    echo(&mut socket, "counted");
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    service.log_line("session ended");
    // What a proxy leaves of a handshake. The second one is not logged, which is counted as well.
    let broken = handshake("/echo").replace("Upgrade: websocket", "X-Forwarded-For: 192.0.2.1");
    for _ in 0..2 {
        service.ask(&broken);
    }
    service.reload();

    let text = service.admin("/metrics");
    let mut running: BTreeMap<String, (String, Names)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            running.insert(name.to_owned(), (kind.to_owned(), Names::new()));
        } else if let Some((name, labels)) = line.split_once('{') {
            // A histogram's samples are named with suffixes and have a label of their own.
            if let Some((_, known)) = running.get_mut(name) {
                known.extend(labels.split('=').next().map(str::to_owned));
            }
        }
    }
    let documented: BTreeMap<String, (String, Names)> = table("What to watch")
        .into_iter()
        .map(|row| {
            let name = quoted(&row[0]).pop_first().expect("a name");
            (name, (row[1].clone(), quoted(&row[2])))
        })
        .collect();
    assert_eq!(running, documented);
}

#[test]
fn operations_md_lists_every_reason_of_a_refusal_and_every_end_of_a_session() {
    let mut reasons = labels(&[
        "src/http/conn.rs",
        "src/http/head.rs",
        "src/ws/handshake/rejection.rs",
        "src/proxy/diagnosis/verdict.rs",
    ]);
    // The diagnosis replaces it.
    assert!(reasons.remove("upgrade"), "{reasons:?}");
    assert_eq!(named("Refusals, by `reason`"), reasons);
    let ends = labels(&[
        "src/ws/deflate/inflate.rs",
        "src/ws/engine/close.rs",
        "src/ws/frame.rs",
        "src/ws/session/ended.rs",
    ]);
    assert_eq!(named("Ends, by `how`"), ends);
}

#[test]
fn the_alert_rules_name_metrics_and_labels_that_exist() {
    let rules = read("packaging/prometheus/wsecho.rules.yml");
    let metrics = named("What to watch");
    let values = &named("Refusals, by `reason`") | &named("Ends, by `how`");
    let mut asked = 0;
    for word in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("wsecho_") || word.starts_with("process_") {
            assert!(metrics.contains(word), "no metric {word}");
            asked += 1;
        }
    }
    for label in ["reason=", "how="] {
        for after in rules.split(label).skip(1) {
            let pattern = after.split('"').nth(1).expect("a value in quotes");
            for value in pattern.split('|') {
                let begins = value.strip_suffix(".+");
                let meant =
                    |known: &&String| begins.map_or(*known == value, |it| known.starts_with(it));
                assert!(values.iter().any(|known| meant(&known)), "no {label}\"{value}\"");
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "too few names were found in the rules");
    let alerts: Names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(named("Alert rules"), alerts);
}

#[test]
fn the_alerts_compare_with_the_configured_limits() {
    let service = Service::start_with_admin(
        "limits.max_connections = 7\nlimits.buffer_budget = \"3 MiB\"",
        |_| (),
    );
    assert_eq!(service.metric("wsecho_connections_limit"), 7);
    assert_eq!(service.metric("wsecho_buffer_budget_bytes"), 3 << 20);
    let successful = || service.metric("wsecho_config_last_reload_successful");
    assert_eq!(successful(), 1, "the initial configuration is valid");
    let good = fs::read(service.config_path()).unwrap();
    fs::write(service.config_path(), "bind = 5").unwrap();
    service.reload();
    assert_eq!(successful(), 0);
    assert_eq!(service.metric("wsecho_config_reloads_total{result=\"refused\"}"), 1);
    fs::write(service.config_path(), good).unwrap();
    service.reload();
    assert_eq!(successful(), 1);
}

/// Appends all Rust sources in a folder.
fn tests_in(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&read(&path));
        }
    }
}

#[test]
fn every_test_named_for_a_threat_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src", "tests/suite"] {
        tests_in(&root.join(folder), &mut sources);
    }
    let exists = |test: &str| match test.strip_prefix("tests/") {
        Some(_) => root.join(test).is_file(),
        None => sources.contains(&format!("fn {test}(")),
    };
    for row in table("Threats and their tests") {
        for test in quoted(row.last().expect("a cell")) {
            assert!(exists(&test), "{}: there is no test {test}", row[0]);
        }
    }
}

#[test]
fn every_threat_has_a_test() {
    // 26 was dropped.
    let threats = (1..=44).filter(|number| *number != 26);
    let threats = threats.map(|number| format!("T{number}"));
    let rows = table("Threats and their tests");
    assert_eq!(
        rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(),
        threats.collect::<Vec<_>>()
    );
    for row in rows {
        assert!(!quoted(row.last().expect("a cell")).is_empty(), "{} has no test", row[0]);
    }
}
