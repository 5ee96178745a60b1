//! The probe's reports for monitors: what they print, that their readers can read it, and what is
//! packaged for those.

mod measured;
mod packaged;
mod readme;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use wsecho::probe::failure::{Failed, Failure};
use wsecho::probe::report::nagios::{Limit, Limits, State};
use wsecho::probe::report::{
    Agreed, Answer, Attempt, Certificate, Closed, Ending, Family, Heads, Outcome, Redirect, Report,
    RoundTrip, Stage, Step, Tls, Unconnected, json, nagios, prometheus, terminal,
};

use self::measured::measured;
use crate::operations::{Names, quoted, read, table_of};
use crate::probe::probe;
use crate::service::{Outcome as Ran, Service};
use crate::shipped_files::compare;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A healthy path to a server behind TLS, with everything that a report can hold.
fn healthy() -> Report {
    let step = |(stage, took)| Step { stage, took, outcome: Outcome::Passed };
    let certificate = |subject: &str, days_left| Certificate {
        subject: format!("CN={subject}"),
        issuer: "O=Example, CN=Example \"R1\" CA".to_owned(),
        names: vec![format!("*.{subject}"), subject.to_owned()],
        not_before_unix_seconds: 1_790_000_000,
        not_after_unix_seconds: 1_800_000_000 + days_left * 86_400,
        days_left,
        serial: "04d2".to_owned(),
        sha256: "ab".repeat(32),
    };
    Report {
        url: "wss://echo.example.com/socket".to_owned(),
        begun_unix_seconds: 1_800_000_000,
        took: ms(80),
        timeout: ms(10_000),
        steps: [
            (Stage::Resolve, Some(ms(1))),
            (Stage::Tcp, Some(ms(8))),
            (Stage::Tls, Some(ms(21))),
            (Stage::Http, Some(ms(9))),
            (Stage::Upgrade, None),
            (Stage::Echo, Some(ms(25))),
            (Stage::Ping, Some(ms(8))),
            (Stage::Close, Some(ms(8))),
        ]
        .map(step)
        .to_vec(),
        redirects: vec![Redirect {
            url: "wss://example.com/socket".to_owned(),
            status: 301,
            location: "wss://echo.example.com/socket".to_owned(),
        }],
        addresses: vec!["2001:db8::7".parse().unwrap(), "203.0.113.7".parse().unwrap()],
        attempts: vec![
            Attempt {
                to: "[2001:db8::7]:443".to_owned(),
                family: Some(Family::V6),
                took: ms(2),
                error: Some(Unconnected::Refused),
            },
            Attempt {
                to: "203.0.113.7:443".to_owned(),
                family: Some(Family::V4),
                took: ms(8),
                error: None,
            },
        ],
        tls: Some(Tls {
            version: "TLS 1.3".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            alpn: Some("http/1.1".to_owned()),
            chain: vec![certificate("example.com", 63), certificate("R1", 400)],
            verified: true,
            last_expiry_unix_seconds: Some(1_800_000_000 + 63 * 86_400),
            client_certificate_asked: false,
        }),
        answer: Some(Answer {
            status: 101,
            reason: "Switching Protocols".to_owned(),
            from: vec![("Server".to_owned(), "nginx/1.20.1".to_owned())],
            location: None,
        }),
        heads: Some(Heads {
            request: vec!["GET /socket HTTP/1.1".to_owned()],
            answer: vec!["HTTP/1.1 101 Switching Protocols".to_owned()],
        }),
        agreed: Some(Agreed {
            subprotocol: None,
            extensions: Some("permessage-deflate".to_owned()),
        }),
        prefix: Some("server: ".to_owned()),
        round_trips: vec![RoundTrip { message: "text", bytes: 12, took: ms(9) }],
        ping: Some(ms(8)),
        closed: Some(Closed { sent: 1000, answered: Some(1000), took: ms(8), end: Ending::Fin }),
        warnings: vec!["IPv6 does not work.".to_owned()],
        ..Report::default()
    }
}

/// A path that ends at a closed port, told in words that could confuse a reader.
fn refused() -> Report {
    Report {
        url: "ws://127.0.0.1:1/echo".to_owned(),
        begun_unix_seconds: 1_800_000_001,
        took: ms(1),
        timeout: ms(10_000),
        steps: vec![
            Step { stage: Stage::Resolve, took: None, outcome: Outcome::Omitted("an address") },
            Step { stage: Stage::Tcp, took: Some(ms(1)), outcome: Outcome::Failed },
        ],
        failed: Some(Failed {
            failure: Failure::Refused,
            stage: Stage::Tcp,
            seen: "Nobody listens | rtt=1s;\non \"this\" port\\.".to_owned(),
            quote: None,
        }),
        ..Report::default()
    }
}

fn limits(warn: &[&str], crit: &[&str]) -> Limits {
    let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Limits { warn: parsed(warn), crit: parsed(crit) }
}

#[test]
fn nagios_gets_one_line_with_its_figures() {
    let limits = limits(&["rtt=200ms"], &["rtt=1s", "days=7"]);
    let (text, state) = nagios::print(&[healthy()], &limits);
    assert_eq!(state, State::Ok);
    assert_eq!(
        text,
        "WEBSOCKET OK: wss://echo.example.com/socket: WebSockets work on this path: 9.0 ms round \
         trip. But: IPv6 does not work. | rtt=0.009000s;0.2;1;0 time=0.080000s;;;0;10 \
         resolve=0.001000s;;;0 tcp=0.008000s;;;0 tls=0.021000s;;;0 http=0.009000s;;;0 \
         echo=0.025000s;;;0 ping=0.008000s;;;0 close=0.008000s;;;0 http2=U;;;0 days=63;14:;7:\n"
    );
    let (text, state) = nagios::print(&[refused()], &limits);
    assert_eq!(state, State::Critical);
    assert_eq!(
        text,
        "WEBSOCKET CRITICAL: ws://127.0.0.1:1/echo: Nobody listens ¦ rtt=1s; on \"this\" port\\. \
         (tcp_refused) | rtt=U;0.2;1;0 time=0.001000s;;;0;10 resolve=U;;;0 tcp=0.001000s;;;0 \
         tls=U;;;0 http=U;;;0 echo=U;;;0 ping=U;;;0 close=U;;;0 http2=U;;;0 days=U;14:;7:\n"
    );
}

/// A plugin's output as Nagios takes it apart: the line, the lines below, and the figures.
fn as_nagios_reads(output: &str) -> (String, Vec<String>, Vec<String>) {
    let (first, below) = output.split_once('\n').expect("a line");
    let (line, mut figures) = match first.split_once('|') {
        Some((line, figures)) => (line, figures.to_owned()),
        None => (first, String::new()),
    };
    let below = match below.split_once('|') {
        Some((below, more)) => {
            figures += more;
            below
        }
        None => below,
    };
    let figures = figures.split_whitespace().map(str::to_owned).collect();
    (line.to_owned(), below.lines().map(str::to_owned).collect(), figures)
}

/// The label of a figure that follows the guidelines.
fn label(figure: &str) -> &str {
    let (label, rest) = figure.split_once('=').expect("label=value");
    assert!(!label.contains(['\'', ' ']) && label.len() < 20, "{figure}");
    let parts: Vec<_> = rest.split(';').collect();
    assert!(parts.len() <= 5, "{figure}");
    let number = |text: &str| text.chars().all(|c| c.is_ascii_digit() || "-.".contains(c));
    let value = ["s", "%", "B"].iter().find_map(|unit| parts[0].strip_suffix(unit));
    let value = value.unwrap_or(parts[0]);
    assert!(value == "U" || !value.is_empty() && number(value), "{figure}");
    for range in &parts[1..] {
        assert!(number(range.trim_end_matches(':')), "{figure}");
    }
    label
}

#[test]
fn nagios_can_take_apart_what_is_printed_for_several_urls() {
    let mut odd = refused();
    odd.failed.as_mut().unwrap().seen = "|'=;\r\n".repeat(1000);
    let reports = [healthy(), refused(), odd, healthy()];
    let (output, state) = nagios::print(&reports, &limits(&["rtt=5ms"], &[]));
    assert_eq!(state, State::Critical);
    let (line, below, figures) = as_nagios_reads(&output);
    assert_eq!(line, "WEBSOCKET CRITICAL: 2 critical, 2 warning, 0 ok ");
    let begins = |index: usize, with: &str| assert!(below[index].starts_with(with), "{below:?}");
    begins(0, "WARNING: rtt is 9.0 ms, above 5.0 ms: wss://echo.example.com/socket: ");
    begins(1, "CRITICAL: ws://127.0.0.1:1/echo: ");
    begins(2, "CRITICAL: ws://127.0.0.1:1/echo: ¦'=;  ¦");
    assert_eq!(below.len(), 4);
    let labels: Names = figures.iter().map(|figure| label(figure).to_owned()).collect();
    assert_eq!((figures.len(), labels.len()), (44, 44), "{figures:?}");
    assert!(labels.contains("1_rtt") && labels.contains("4_days"), "{labels:?}");
    assert!(output.len() < 4096, "more than NRPE passes on: {}", output.len());
    let (output, _) = nagios::print(&reports[2..3], &Limits::default());
    assert!(output.len() < 1024, "more than an old NRPE passes on: {}", output.len());
}

#[test]
fn limits_decide_the_state_and_the_worst_one_is_named() {
    let mut expiring = healthy();
    expiring.tls.as_mut().unwrap().last_expiry_unix_seconds = Some(1_800_000_000 + 13 * 86_400);
    let plain = healthy();
    for (report, warn, crit, state, reason) in [
        (&plain, &[][..], &[][..], State::Ok, ""),
        (&plain, &["rtt=9ms", "days=63"], &["time=80ms"], State::Ok, ""),
        (&plain, &["rtt=8ms"], &["rtt=1s"], State::Warning, "rtt is 9.0 ms, above 8.0 ms: "),
        (&plain, &["rtt=8ms"], &["tls=20ms"], State::Critical, "tls is 21.0 ms, above 20.0 ms: "),
        (&plain, &["rtt=8ms", "rtt=10ms"], &[], State::Ok, ""),
        (&plain, &["days=64"], &[], State::Warning, "days is 63, below 64: "),
        (&expiring, &["rtt=1s"], &[], State::Warning, "days is 13, below 14: "),
        (&expiring, &["days=13"], &[], State::Ok, ""),
        (&expiring, &[], &["days=14"], State::Critical, "days is 13, below 14: "),
    ] {
        let (text, found) = nagios::print(std::slice::from_ref(report), &limits(warn, crit));
        assert_eq!(found, state, "{warn:?} {crit:?}: {text}");
        assert!(text.contains(&format!(": {reason}wss://")), "{warn:?} {crit:?}: {text}");
    }
}

#[test]
fn a_limit_that_means_nothing_is_refused() {
    for text in ["", "rtt", "rtt=", "rtt=5", "rtt=-1s", "latency=5ms", "days=2w", "days=-1", "=5"] {
        assert!(text.parse::<Limit>().is_err(), "{text}");
    }
    let error = "upgrade=1s".parse::<Limit>().unwrap_err();
    let stages = "resolve, tcp, tls, http, echo, ping, close, http2";
    assert!(error.contains(&format!("names: rtt, time, {stages}, days, ")), "{error}");
}

/// Whether a value is what a schema says: those keywords of JSON Schema that ours uses. Stricter in
/// one thing: every name must be described and required.
pub fn check(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return check(root, &root["$defs"][name.trim_start_matches("#/$defs/")], value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let chosen = &choices[usize::from(!value.is_null())];
        return check(root, chosen, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = schema["type"].as_array().cloned().unwrap_or(vec![schema["type"].clone()]);
    assert!(allowed.contains(&json!(kind)), "{at} is {value}: {allowed:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at} is {value}");
    }
    if let Some(items) = value.as_array() {
        for item in items {
            check(root, &schema["items"], item, &format!("{at}[]"));
        }
    }
    if let Some(fields) = value.as_object() {
        let names: Vec<_> = fields.keys().collect();
        let described: Vec<_> = schema["properties"].as_object().expect("names").keys().collect();
        assert_eq!(names, described, "{at}");
        let mut required: Vec<_> = schema["required"].as_array().expect("names").clone();
        required.sort_unstable_by_key(ToString::to_string);
        assert_eq!(json!(names), json!(required), "{at}");
        for (name, value) in fields {
            check(root, &schema["properties"][name], value, &format!("{at}.{name}"));
        }
    }
}

#[test]
fn json_is_as_its_schema_says() {
    let schema: Value = serde_json::from_str(&read("docs/probe.schema.json")).unwrap();
    let mut expired = healthy();
    expired.failed = Some(Failed {
        failure: Failure::CertificateExpired,
        stage: Stage::Tls,
        seen: String::new(),
        quote: Some("words".to_owned()),
    });
    let mut told = refused();
    told.failed = Some(Failed {
        failure: Failure::RefusedByWsecho,
        stage: Stage::Http,
        seen: "503".to_owned(),
        quote: Some("try again later\n\n(full)".to_owned()),
    });
    let text = json::print(&[healthy(), refused(), expired, told]);
    assert_eq!(text.find('\n'), Some(text.len() - 1), "one line");
    let printed: Value = serde_json::from_str(&text).unwrap();
    check(&schema, &schema, &printed, "");
    assert_eq!(printed["healthy"], json!(false));
    let [healthy, refused, _, told] = &printed["probes"].as_array().unwrap()[..] else { panic!() };
    assert_eq!(told["failure"]["refusal"], "full");
    assert_eq!(refused["failure"]["refusal"], Value::Null);
    assert_eq!(healthy["tls"]["chain_not_after_unix_seconds"], json!(1_800_000_000 + 63 * 86_400));
    assert_eq!(healthy["url"], "wss://example.com/socket", "the one that was asked for");
    assert_eq!(healthy["redirects"][0]["location"], "wss://echo.example.com/socket");
    assert_eq!(healthy["round_trip_seconds"], json!(0.009));
    assert_eq!(healthy["stages"][2]["duration_seconds"], json!(0.021));
    assert_eq!(healthy["tls"]["chain"][0]["days_left"], json!(63));
    assert_eq!(healthy["failure"], Value::Null);
    assert_eq!(refused["failure"]["label"], "tcp_refused");
    assert_eq!(refused["failure"]["seen"], "Nobody listens | rtt=1s;\non \"this\" port\\.");
    assert_eq!(refused["stages"][0]["reason"], "an address");
    // The words that a schema lists are those that there are.
    let words = |name: &str, field: &str| -> Vec<String> {
        let words = &schema["$defs"][name]["properties"][field]["enum"];
        words.as_array().expect("words").iter().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let stages: Vec<_> = Stage::ALL.map(|it| it.label().to_owned()).to_vec();
    assert_eq!(words("stage", "stage"), stages);
    assert_eq!(words("failure", "stage"), stages);
}

/// The samples of a text for Prometheus: name, labels, value.
fn samples(text: &str) -> Vec<(&str, &str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once('{').expect("each has a label");
            let (labels, value) = rest.rsplit_once("} ").expect("a value");
            (name, labels, value)
        })
        .collect()
}

#[test]
fn prometheus_gets_the_metrics_that_are_committed() {
    // promtool checks the same file: see tests/alerts.
    compare(
        "tests/alerts/probe.prom",
        prometheus::print(&[healthy(), refused(), measured()]).as_bytes(),
    );
}

#[test]
fn each_metric_is_described_once_and_each_series_is_there_once() {
    let text = prometheus::print(&[healthy(), refused(), measured()]);
    let series = samples(&text);
    let names: Names = series.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let described: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"))
        .collect();
    assert_eq!(described.len(), names.len());
    assert_eq!(described.iter().map(|it| (*it).to_owned()).collect::<Names>(), names);
    let unique: Names = series.iter().map(|(name, labels, _)| format!("{name}{labels}")).collect();
    assert_eq!(unique.len(), series.len());
    for (name, labels, value) in series {
        assert!(labels.starts_with("url=\"ws"), "{name}");
        assert!(value.parse::<f64>().is_ok(), "{name} {value}");
    }
}

#[test]
fn a_label_value_cannot_end_its_quotes() {
    let mut report = healthy();
    report.tls.as_mut().unwrap().chain[0].subject = "a\"} 1\nb\\".to_owned();
    let text = prometheus::print(&[report]);
    assert!(text.contains(",subject=\"a\\\"} 1\\nb\\\\\","), "{text}");
}

#[test]
fn probe_md_lists_exactly_the_metrics_of_a_probe() {
    let text = prometheus::print(&[healthy(), refused(), measured()]);
    let mut printed: Vec<_> = samples(&text)
        .into_iter()
        .map(|(name, labels, _)| {
            // No value in these reports contains this.
            let labels = labels.split("\",").map(|it| it.split('=').next().unwrap().to_owned());
            (name.to_owned(), labels.filter(|label| label != "url").collect::<Names>())
        })
        .collect();
    printed.sort();
    printed.dedup();
    let mut documented: Vec<_> = table_of("docs/probe.md", "Metrics")
        .into_iter()
        .map(|row| (quoted(&row[0]).pop_first().expect("a name"), quoted(&row[1])))
        .collect();
    documented.sort();
    assert_eq!(printed, documented);
}

#[test]
fn a_file_for_prometheus_is_replaced_at_once_or_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.prom");
    fs::write(&file, "old").unwrap();
    let reader = fs::File::open(&file).unwrap();
    prometheus::replace(&file, "new").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert_eq!(std::io::read_to_string(reader).unwrap(), "old", "a reader has the whole old file");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");

    let link = dir.path().join("link.prom");
    std::os::unix::fs::symlink("echo.prom", &link).unwrap();
    for unusable in [link.as_path(), dir.path(), "/dev/null".as_ref(), "/nonexistent/x".as_ref()] {
        assert!(prometheus::replace(unusable, "newer").is_err(), "{}", unusable.display());
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_warning_stands_apart_from_the_label_before_it() {
    let mut report = refused();
    report.warnings.push("IPv6 does not work.".to_owned());
    let text = terminal::print(&report, terminal::Style::default());
    assert!(text.ends_with("\n\n(tcp_refused)\n\nWarning: IPv6 does not work.\n"), "{text}");
}

/// A port that is taken, but on which nobody listens.
fn closed_port() -> (Socket, String) {
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    holder.bind(&any.into()).unwrap();
    let addr = holder.local_addr().unwrap().as_socket().unwrap();
    (holder, format!("ws://{addr}/echo"))
}

#[test]
fn exit_codes_follow_the_form_of_the_report() {
    let service = Service::start("");
    let good = format!("ws://{}/echo", service.addrs[0]);
    let (_holder, bad) = closed_port();
    for (args, code, says) in [
        (vec!["--format", "nagios", &good], 0, "WEBSOCKET OK: ws://"),
        (vec!["--format=nagios", "--warn", "rtt=0ms", &good], 1, "WEBSOCKET WARNING: rtt is "),
        (vec!["--format=nagios", "--crit", "time=1h,rtt=0ms", &good], 2, "WEBSOCKET CRITICAL: rtt"),
        (
            vec!["--format", "nagios", &bad, &good],
            2,
            "WEBSOCKET CRITICAL: 1 critical, 0 warning, 1",
        ),
        (vec!["--format", "nagios"], 3, "WEBSOCKET UNKNOWN: the following required arguments"),
        (vec!["--format=nagios", "--warn", "x=1s", &good], 3, "WEBSOCKET UNKNOWN: invalid value"),
        (vec!["--format=nagios", "--ca", "/nonexistent", &good], 3, "WEBSOCKET UNKNOWN: --ca /"),
        (vec!["--format=nagios", "--no-such"], 3, "WEBSOCKET UNKNOWN: unexpected argument"),
        (vec!["--format", "json", &good], 0, "{\"healthy\":true,"),
        (vec!["--format", "json", &good, &bad], 1, "{\"healthy\":false,"),
        (vec!["--format", "json"], 2, ""),
        (vec!["--format", "json", "--warn", "rtt=1s", &good], 2, ""),
        (vec!["--format", "json", "--output", "/tmp/x", &good], 2, ""),
        (vec!["--format", "prometheus", &good, &bad], 1, "# HELP probe_success "),
        (vec!["--format", "prometheus", &good, &good], 2, ""),
        (vec!["--format", "prometheus", "--output", "/nonexistent/x.prom", &good], 2, ""),
    ] {
        let ran = Ran::of(&mut probe(&args));
        assert_eq!(ran.code(), code, "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.starts_with(says), "{args:?}: {}", ran.stdout);
        assert_eq!(ran.stdout.is_empty(), says.is_empty(), "{args:?}: {}", ran.stdout);
        assert_eq!(ran.stderr.is_empty(), code != 2 || says.len() > 1, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_probe_for_the_textfile_collector_prints_nothing_and_leaves_a_whole_file() {
    let service = Service::start("");
    let good = format!("ws://{}/echo", service.addrs[0]);
    let (_holder, bad) = closed_port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.prom");
    let to = ["--format", "prometheus", "--output", file.to_str().unwrap()];
    for (url, code) in [(&good, 0), (&bad, 1)] {
        let ran = Ran::of(&mut probe(&[&to[..], &[url]].concat()));
        assert_eq!((ran.code(), ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
        let text = fs::read_to_string(&file).unwrap();
        let success = format!("probe_success{{url=\"{url}\"}} {}", 1 - code);
        assert!(text.lines().any(|line| line == success), "{success} in {text}");
    }
    let why = format!(
        "wsecho_probe_failure_info{{url=\"{bad}\",stage=\"tcp\",failure=\"tcp_refused\"}} 1"
    );
    assert!(fs::read_to_string(&file).unwrap().contains(&why));
}
