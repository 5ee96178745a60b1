//! A report for Prometheus: the text format, with the URL as a label.
//!
//! Owns the names of the probe's metrics. Where blackbox_exporter has one, its name, labels and unit
//! are used, so that rules and dashboards made for it apply. The label `url` comes on top: a textfile
//! collector has no target that would tell two probes apart.
//!
//! Sources: Prometheus' text format 0.0.4; the metrics of blackbox_exporter.

use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::measured::{Count, Idle, Load, Spread};
use super::{Certificate, Family, Outcome, Report, Stage};
use crate::probe::failure::Failure;

/// What a report has for a metric: the labels beside `url`, and the value.
type Samples = Vec<(Vec<(&'static str, String)>, String)>;

/// A gauge: its name, what it is, and what a report has for it.
type Gauge = (&'static str, &'static str, fn(&Report) -> Samples);

const METRICS: &[Gauge] = &[
    ("probe_success", "1 if WebSockets work on the path", |report| {
        always(flag(report.is_healthy()))
    }),
    ("probe_duration_seconds", "Time for all stages", |report| always(seconds(report.took))),
    ("probe_timeout_seconds", "The most that all stages may take", |report| {
        always(seconds(report.timeout))
    }),
    ("probe_dns_lookup_time_seconds", "Time for the name look-up", |report| {
        perhaps(took(report, &[Stage::Resolve]))
    }),
    ("probe_ip_protocol", "4 or 6, for the address in use", |report| {
        perhaps(report.address().map(|it| match Family::of(it) {
            Family::V4 => 4,
            Family::V6 => 6,
        }))
    }),
    ("probe_ip_addr_hash", "Changes with the address in use", |report| {
        perhaps(report.address().map(hash))
    }),
    ("probe_websocket_status_code", "Status code of the answer to the handshake", |report| {
        perhaps(report.answer.as_ref().map(|it| it.status))
    }),
    ("probe_websocket_connection_upgraded", "1 if the handshake opened a WebSocket", |report| {
        always(flag(report.agreed.is_some()))
    }),
    ("probe_websocket_failed_due_to_regex", "1 if no message matched --expect", |report| {
        let failure = report.failed.as_ref().map(|it| it.failure);
        always(flag(failure == Some(Failure::ExpectationUnmet)))
    }),
    ("probe_websocket_duration_seconds", "Time by phase; TLS is part of processing", phases),
    ("probe_ssl_earliest_cert_expiry", "When the first certificate expires, in Unix time", |it| {
        perhaps(chain(it).iter().map(|it| it.not_after_unix_seconds).min())
    }),
    (
        "probe_ssl_last_chain_expiry_timestamp_seconds",
        "When the verified chain expires, in Unix time",
        |report| perhaps(report.tls.as_ref().and_then(|it| it.last_expiry_unix_seconds)),
    ),
    ("probe_ssl_last_chain_info", "The server's certificate", |report| {
        chain(report).first().map(certificate).into_iter().collect()
    }),
    ("probe_tls_version_info", "The version of TLS", |report| {
        let tls = report.tls.iter();
        tls.map(|tls| (vec![("version", tls.version.clone())], flag(true))).collect()
    }),
    ("probe_tls_cipher_info", "The cipher suite of TLS", |report| {
        let tls = report.tls.iter();
        tls.map(|tls| (vec![("cipher", tls.cipher.clone())], flag(true))).collect()
    }),
    ("wsecho_probe_timestamp_seconds", "When the probe began, in Unix time", |report| {
        always(report.begun_unix_seconds)
    }),
    ("wsecho_probe_stage_success", "1 if the stage was passed, 0 if it failed", |report| {
        let ran = report.steps.iter().filter(|it| !matches!(it.outcome, Outcome::Omitted(_)));
        ran.map(|it| (stage(it.stage), flag(it.outcome == Outcome::Passed))).collect()
    }),
    ("wsecho_probe_stage_duration_seconds", "Time for a stage", |report| {
        let timed = report.steps.iter().filter_map(|it| Some((it.stage, it.took?)));
        timed.map(|(of, took)| (stage(of), seconds(took))).collect()
    }),
    ("wsecho_probe_round_trip_seconds", "Median round trip of a small message", |report| {
        perhaps(report.round_trip().map(seconds))
    }),
    ("wsecho_probe_count_sent", "Messages or pings that --count sent", |report| {
        perhaps(report.measured.count.as_ref().map(|it| it.round_trips.len()))
    }),
    ("wsecho_probe_count_lost", "How many of them were not answered", |report| {
        perhaps(report.measured.count.as_ref().map(Count::lost))
    }),
    ("wsecho_probe_count_round_trip_seconds", "Round trips of --count", |report| {
        let count = report.measured.count.iter();
        let stats = [("min", 0), ("median", 50), ("p99", 99), ("max", 100)];
        let found = count.flat_map(|it| stats.map(|(name, at)| (name, it.percentile(at))));
        found.filter_map(|(name, time)| Some((stat(name), seconds(time?)))).collect()
    }),
    ("wsecho_probe_max_size_bytes", "The largest message that comes back", |report| {
        perhaps(report.measured.size.as_ref().map(|it| it.largest_bytes))
    }),
    ("wsecho_probe_max_size_limited", "1 if a larger message does not come back", |report| {
        perhaps(report.measured.size.as_ref().map(|it| flag(it.refused.is_some())))
    }),
    ("wsecho_probe_idle_seconds", "The longest silence that a connection survives", |report| {
        perhaps(report.measured.idle.as_ref().map(|it| seconds(it.survived())))
    }),
    ("wsecho_probe_idle_safe_pause_seconds", "The longest pause that is safe", |report| {
        perhaps(report.measured.idle.as_ref().and_then(Idle::safe_pause).map(seconds))
    }),
    ("wsecho_probe_idle_limit_info", "What ends a longer silence", |report| {
        let limits = report.measured.idle.iter().map(|it| it.limit.label().to_owned());
        limits.map(|limit| (vec![("limit", limit)], flag(true))).collect()
    }),
    ("wsecho_probe_load_handshakes_per_second", "Connections opened per second", |report| {
        perhaps(report.measured.load.as_ref().map(Load::handshake_rate))
    }),
    ("wsecho_probe_load_messages_per_second", "Messages that came back per second", |report| {
        perhaps(report.measured.load.as_ref().map(Load::rate))
    }),
    ("wsecho_probe_load_sent", "Messages that --load sent", |report| {
        perhaps(report.measured.load.as_ref().map(|it| it.sent))
    }),
    ("wsecho_probe_load_echoed", "How many of them came back", |report| {
        perhaps(report.measured.load.as_ref().map(|it| it.echoed))
    }),
    ("wsecho_probe_load_latency_seconds", "From when a message was due to its echo", |report| {
        spread(report.measured.load.as_ref().and_then(|it| it.latency))
    }),
    ("wsecho_probe_load_send_lag_seconds", "From when a message was due until it was sent", |it| {
        spread(it.measured.load.as_ref().and_then(|it| it.lag))
    }),
    ("wsecho_probe_warnings", "Things that work but need attention", |report| {
        always(report.warnings.len())
    }),
    ("wsecho_probe_failure_info", "Why the probe failed, and at which stage", |report| {
        let failed = report.failed.iter();
        let labels = failed.map(|it| [stage(it.stage), failure(it.failure)].concat());
        labels.map(|labels| (labels, flag(true))).collect()
    }),
];

/// Prints reports of different URLs.
#[must_use]
pub fn print(reports: &[Report]) -> String {
    let mut out = String::new();
    for (name, help, samples_of) in METRICS {
        let mut head = format!("# HELP {name} {help}.\n# TYPE {name} gauge\n");
        for report in reports {
            for (labels, value) in samples_of(report) {
                out += &std::mem::take(&mut head);
                let _ = write!(out, "{name}{{url=\"{}\"", escaped(report.asked()));
                for (label, text) in labels {
                    let _ = write!(out, ",{label}=\"{}\"", escaped(&text));
                }
                let _ = writeln!(out, "}} {value}");
            }
        }
    }
    out
}

/// Replaces a file as a whole, so that a collector never reads half of it.
///
/// # Errors
/// The folder cannot be written to, or the file is a folder, a device, a pipe or a link.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    if fs::symlink_metadata(file).is_ok_and(|it| !it.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // Collectors read *.prom, which this is not.
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    // Left behind by a process of the same number, if at all.
    let _ = fs::remove_file(&new);
    let written = File::create_new(&new).and_then(|mut to| to.write_all(text.as_bytes()));
    let replaced = written.and_then(|()| fs::rename(&new, file));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

fn always(value: impl Display) -> Samples {
    vec![(Vec::new(), value.to_string())]
}

fn perhaps(value: Option<impl Display>) -> Samples {
    value.map(always).unwrap_or_default()
}

fn flag(is: bool) -> String {
    u8::from(is).to_string()
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

fn stage(stage: Stage) -> Vec<(&'static str, String)> {
    vec![("stage", stage.label().to_owned())]
}

fn stat(name: &str) -> Vec<(&'static str, String)> {
    vec![("stat", name.to_owned())]
}

fn spread(spread: Option<Spread>) -> Samples {
    let times = spread.iter().flat_map(Spread::all);
    times.map(|(name, time)| (stat(name), seconds(time))).collect()
}

fn failure(failure: Failure) -> Vec<(&'static str, String)> {
    vec![("failure", failure.label().to_owned())]
}

/// The time of those of the stages that ran, if any did.
fn took(report: &Report, stages: &[Stage]) -> Option<String> {
    let times = stages.iter().filter_map(|stage| report.step(*stage)?.took);
    times.reduce(|sum, time| sum + time).map(seconds)
}

fn phases(report: &Report) -> Samples {
    let phases: [(_, &[_]); 4] = [
        ("resolve", &[Stage::Resolve]),
        ("connect", &[Stage::Tcp]),
        ("processing", &[Stage::Tls, Stage::Http]),
        ("transfer", &[Stage::Echo]),
    ];
    let timed = phases.iter().filter_map(|(phase, stages)| Some((*phase, took(report, stages)?)));
    timed.map(|(phase, took)| (vec![("phase", phase.to_owned())], took)).collect()
}

/// FNV-1a of 32 bits.
fn hash(address: IpAddr) -> u32 {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mix = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.into_iter().fold(0x811c_9dc5, mix)
}

fn chain(report: &Report) -> &[Certificate] {
    report.tls.as_ref().map_or(&[], |tls| &tls.chain)
}

fn certificate(it: &Certificate) -> (Vec<(&'static str, String)>, String) {
    let labels = vec![
        ("fingerprint_sha256", it.sha256.clone()),
        ("subject", it.subject.clone()),
        ("issuer", it.issuer.clone()),
        ("subjectalternative", it.names.join(",")),
        ("serialnumber", it.serial.trim_start_matches('0').to_owned()),
    ];
    (labels, flag(true))
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
