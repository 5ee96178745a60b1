//! What is packaged around the probe names only options, metrics and files that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::operations::{Names, quoted, read, table_of};

/// The long options of `wsecho probe`.
fn options() -> Names {
    let command = wsecho::cli::command();
    let probe = command.find_subcommand("probe").expect("there is one");
    probe.get_arguments().filter_map(|it| it.get_long()).map(str::to_owned).collect()
}

/// Every word that begins with two hyphens, but in commands of systemd.
fn options_in(text: &str) -> Names {
    let lines = text.lines().filter(|line| !line.contains("systemctl"));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    words.filter_map(|word| word.strip_prefix("--")).map(str::to_owned).collect()
}

#[test]
fn commands_for_monitors_and_units_use_options_that_exist() {
    for path in [
        "packaging/nagios/wsecho.cfg",
        "packaging/icinga2/wsecho.conf",
        "packaging/probe/example.conf",
        "systemd/wsecho-probe@.service",
    ] {
        let named = options_in(&read(path));
        assert!(!named.is_empty(), "{path}");
        let unknown: Names = &named - &options();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

fn first_column(page: &str, heading: &str) -> Names {
    table_of(page, heading).iter().flat_map(|row| quoted(&row[0])).collect()
}

/// The metrics of the service and of the probe.
fn metrics() -> Names {
    let of_service = first_column("docs/operations.md", "What to watch");
    let of_probe = first_column("docs/probe.md", "Metrics");
    &of_service | &of_probe
}

/// Every word in expressions that looks like one of our metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours =
        |word: &&str| ["wsecho_", "process_", "probe_"].iter().any(|it| word.starts_with(it));
    words.filter(ours).collect()
}

/// A histogram's samples have suffixes.
fn exists(metrics: &Names, word: &str) -> bool {
    let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
    metrics.contains(word) || bare.is_some_and(|bare| metrics.contains(bare))
}

#[test]
fn the_alert_rules_of_the_probe_name_metrics_that_exist_and_are_explained() {
    let rules = read("packaging/prometheus/wsecho-probe.rules.yml");
    let metrics = metrics();
    let named = metrics_in(&rules);
    assert!(named.len() >= 5, "{named:?}");
    for word in named {
        assert!(exists(&metrics, word), "no metric {word}");
    }
    let alerts: Names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(first_column("docs/probe.md", "Alert rules"), alerts);
}

/// Every query of a dashboard: those of its panels, and those of its variables.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let queries =
                ["expr", "definition"].iter().filter_map(|name| fields.get(*name)?.as_str());
            found.extend(queries.map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_names_metrics_that_exist_and_shows_those_of_service_and_probe() {
    let dashboard: Value = serde_json::from_str(&read("packaging/grafana/wsecho.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let metrics = metrics();
    let mut named = BTreeSet::new();
    for expression in &found {
        let words = metrics_in(expression);
        assert!(!words.is_empty(), "{expression}");
        for word in &words {
            assert!(exists(&metrics, word), "no metric {word} in {expression}");
        }
        named.extend(words);
    }
    for metric in ["wsecho_sessions", "wsecho_proxy_faults_total", "probe_success"] {
        assert!(named.contains(metric), "{metric} is not shown");
    }
    // Two panels of one number would be one panel.
    let panels = dashboard["panels"].as_array().expect("panels");
    let numbers: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(numbers.len(), panels.len());
}
