//! What `--count`, `--max-size`, `--idle` and `--load` find, in each form for monitors.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wsecho::probe::report::measured::{
    Count, Cut, Idle, Limit, Load, Measured, Measurement, Pace, Refused, Size, Spread,
};
use wsecho::probe::report::nagios::{self, Limits, State};
use wsecho::probe::report::{self, Report};

use super::{as_nagios_reads, check, healthy, label, limits, ms, read, refused};
use crate::probe::probe;
use crate::service::{Outcome, Service};

/// A healthy path on which everything was measured, and has a limit.
pub fn measured() -> Report {
    let round_trips = (1..=99).map(|it| Some(ms(it))).chain([None]).collect();
    Report {
        url: "ws://measured.example.com/".to_owned(),
        redirects: Vec::new(),
        measured: Measured {
            asked: vec![
                Measurement::Count,
                Measurement::MaxSize,
                Measurement::Idle,
                Measurement::Load,
            ],
            count: Some(Count { what: "messages", interval: ms(1000), round_trips }),
            size: Some(Size {
                largest_bytes: 1 << 20,
                limit_bytes: 16 << 20,
                refused: Some(Refused {
                    bytes: (1 << 20) + 1,
                    how: Cut::Close { code: Some(1009), reason: "too big".to_owned() },
                    probably: &["Python's websockets (max_size)"],
                }),
            }),
            idle: Some(Idle {
                max: ms(360_000),
                lived: ms(59_500),
                limit: Limit::Cut { after: ms(60_000), how: Cut::Fin, probably: vec!["nginx"] },
                accidents: 0,
                connections: 15,
            }),
            load: Some(load(Pace::Open { rate: 500 })),
        },
        ..healthy()
    }
}

fn load(pace: Pace) -> Load {
    let [min, p50, p90, p99, p999, max] = [1, 2, 3, 4, 5, 6].map(ms);
    let latency = Some(Spread { min, p50, p90, p99, p999, max });
    let lag = latency.filter(|_| matches!(pace, Pace::Open { .. }));
    Load {
        connections: 16,
        pace,
        bytes: 32,
        opening: ms(8),
        took: ms(2000),
        sent: 1001,
        echoed: 1000,
        latency,
        lag,
        interrupted: false,
    }
}

/// The same, but silence shows in another way.
fn idle(limit: Limit) -> Report {
    let mut report = measured();
    report.measured.idle.as_mut().expect("it is measured").limit = limit;
    report
}

/// A path that failed before anything could be measured on it.
fn unmeasured() -> Report {
    let asked = measured().measured.asked;
    Report { measured: Measured { asked, ..Measured::default() }, ..refused() }
}

/// Reports in JSON that is as its schema says.
fn printed(reports: &[Report]) -> Value {
    let schema: Value = serde_json::from_str(&read("docs/probe.schema.json")).unwrap();
    let printed = serde_json::from_str(&report::json::print(reports)).unwrap();
    check(&schema, &schema, &printed, "");
    printed
}

#[test]
fn json_has_what_came_back_under_load() {
    let mut closed = measured();
    closed.measured.load = Some(load(Pace::Closed { in_flight: 64 }));
    let printed = printed(&[measured(), closed]);
    let probe = &printed["probes"][0];
    let spread = json!({
        "min_seconds": 0.001,
        "p50_seconds": 0.002,
        "p90_seconds": 0.003,
        "p99_seconds": 0.004,
        "p99_9_seconds": 0.005,
        "max_seconds": 0.006,
    });
    assert_eq!(
        probe["load"],
        json!({
            "connections": 16,
            "in_flight": null,
            "asked_messages_per_second": 500,
            "message_bytes": 32,
            "handshakes_seconds": 0.008,
            "handshakes_per_second": 2000.0,
            "duration_seconds": 2.0,
            "sent": 1001,
            "echoed": 1000,
            "messages_per_second": 500.0,
            "latency": spread,
            "send_lag": spread,
            "interrupted": false,
        })
    );
    let closed = &printed["probes"][1]["load"];
    assert_eq!((&closed["in_flight"], &closed["send_lag"]), (&json!(64), &Value::Null));
}

#[test]
fn json_has_what_was_measured() {
    let broken = Cut::Broken("no route to host".to_owned());
    let reports = [
        measured(),
        unmeasured(),
        idle(Limit::None),
        idle(Limit::Spoken { after: ms(20_000) }),
        idle(Limit::Dropped { by: ms(60_500), how: broken, probably: Vec::new() }),
    ];
    let printed = printed(&reports);
    let probe = &printed["probes"][0];
    assert_eq!(probe["count"]["sent"], json!(100));
    assert_eq!(probe["count"]["lost"], json!(1));
    assert_eq!(probe["count"]["median_seconds"], json!(0.05));
    assert_eq!(probe["count"]["round_trips_seconds"][98], json!(0.099));
    assert_eq!(probe["count"]["round_trips_seconds"][99], Value::Null);
    assert_eq!(
        probe["max_size"],
        json!({
            "largest_bytes": 1 << 20,
            "limit_bytes": 16 << 20,
            "refused_bytes": (1 << 20) + 1,
            "cut": { "how": "close_frame", "code": 1009, "reason": "too big" },
            "probably": ["Python's websockets (max_size)"],
        })
    );
    let idle = |index: usize| &printed["probes"][index]["idle"];
    assert_eq!(
        idle(0),
        &json!({
            "max_seconds": 360.0,
            "lived_seconds": 59.5,
            "limit": "cut",
            "limit_seconds": 60.0,
            "cut": { "how": "fin", "code": null, "reason": null },
            "probably": ["nginx"],
            "safe_pause_seconds": 40.0,
            "ping_interval_seconds": 25.0,
            "connections": 15,
            "accidents": 0,
        })
    );
    assert_eq!((&idle(2)["limit"], &idle(2)["cut"]), (&json!("none"), &Value::Null));
    assert_eq!(idle(3)["limit_seconds"], json!(20.0));
    assert_eq!(idle(4)["cut"]["reason"], json!("no route to host"));
    for name in ["count", "max_size", "idle", "load"] {
        assert_eq!(printed["probes"][1][name], Value::Null, "{name}");
    }
}

/// The figures of a report that Nagios finds behind those of every report.
fn figures(report: &Report, limits: &Limits) -> Vec<String> {
    let (output, _) = nagios::print(std::slice::from_ref(report), limits);
    let (_, _, figures) = as_nagios_reads(&output);
    let labels: BTreeSet<_> = figures.iter().map(|it| label(it)).collect();
    assert_eq!(labels.len(), figures.len(), "{figures:?}");
    let common = figures.iter().position(|it| it.starts_with("days=")).expect("the last of them");
    figures[common + 1..].to_vec()
}

#[test]
fn nagios_gets_the_figures_of_what_was_measured_and_of_nothing_else() {
    let limits = limits(&["idle=1m", "count_lost=0.5%"], &["max_size=64 KiB", "load_rate=400"]);
    assert_eq!(
        figures(&measured(), &limits),
        [
            "count_median=0.050000s;;;0",
            "count_p99=0.099000s;;;0",
            "count_max=0.099000s;;;0",
            "count_lost=1.000%;0.5;;0;100",
            "max_size=1048576B;;65536:;0",
            "idle=60.000000s;60:;;0",
            "load_rate=500.0;;400:;0",
            "load_p50=0.002000s;;;0",
            "load_p99=0.004000s;;;0",
            "load_max=0.006000s;;;0",
        ]
    );
    // A graph gets them from a path that is down, too.
    let down = figures(&unmeasured(), &limits);
    assert_eq!(down[..2], ["count_median=U;;;0", "count_p99=U;;;0"]);
    assert_eq!(down.len(), 10);
    assert!(figures(&healthy(), &Limits::default()).is_empty());
}

#[test]
fn a_limit_on_what_should_be_large_is_the_least_that_is_good() {
    for (warn, crit, state, reason) in [
        (&["idle=60s", "max_size=1 MiB", "count_lost=1%"][..], &[][..], State::Ok, ""),
        (&["idle=61s"], &[], State::Warning, "idle is 60.0 s, below 61.0 s: "),
        (&[], &["max_size=2 MiB"], State::Critical, "max_size is 1048576 B, below 2097152 B: "),
        (&["count_lost=0%"], &[], State::Warning, "count_lost is 1.0 %, above 0.0 %: "),
        (&["load_rate=501"], &[], State::Warning, "load_rate is 500/s, below 501/s: "),
        (&["count_p99=90ms"], &[], State::Warning, "count_p99 is 99.0 ms, above 90.0 ms: "),
    ] {
        let (text, found) = nagios::print(&[measured()], &limits(warn, crit));
        assert_eq!(found, state, "{warn:?} {crit:?}: {text}");
        assert!(text.contains(&format!(": {reason}ws://")), "{warn:?} {crit:?}: {text}");
    }
}

#[test]
fn a_limit_on_what_is_not_measured_is_refused() {
    for (limit, says) in [
        ("idle=60s", "a limit on idle needs --idle"),
        ("count_p99=1s", "a limit on count_p99 needs --count"),
        ("max_size=1", "is not a size"),
        ("load_p99=1s", "a limit on load_p99 needs --load"),
        ("load_rate=1/s", "write a whole number per second, such as load_rate=1000"),
        ("count_lost=1", "write 0% to 100%, such as count_lost=0.5%"),
        ("count_lost=101%", "write 0% to 100%"),
        ("count_lost=NaN%", "write 0% to 100%"),
    ] {
        let args = ["--format=nagios", "--max-size=1kB", "--crit", limit, "ws://127.0.0.1:9/"];
        let outcome = Outcome::of(&mut probe(&args));
        assert_eq!(outcome.code(), 3, "{limit}: {}", outcome.stdout);
        assert!(outcome.stdout.contains(says), "{limit}: {}", outcome.stdout);
    }
}

#[test]
fn a_real_measurement_gets_into_each_form() {
    let service = Service::start("limits.max_message_size = \"100 KiB\"");
    let url = format!("ws://{}/echo", service.addrs[0]);
    let args = [
        "--count=3",
        "--interval=1ms",
        "--max-size=1MiB",
        "--idle=1s",
        "--load=1",
        "--rate=9",
        &url,
    ];
    let run = |form: &str| {
        let outcome = Outcome::of(&mut probe(&[&["--format", form][..], &args].concat()));
        assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{}", outcome.stdout);
        outcome.stdout
    };
    let printed: Value = serde_json::from_str(&run("json")).unwrap();
    let probe = &printed["probes"][0];
    assert_eq!(probe["count"]["lost"], json!(0));
    assert_eq!(probe["max_size"]["largest_bytes"], json!(102_400));
    assert_eq!(probe["max_size"]["cut"]["code"], json!(1009));
    assert_eq!(probe["idle"]["limit"], json!("none"));
    assert_eq!((&probe["load"]["sent"], &probe["load"]["echoed"]), (&json!(9), &json!(9)));
    let text = run("prometheus");
    assert!(text.contains(&format!("wsecho_probe_load_echoed{{url=\"{url}\"}} 9\n")), "{text}");
    let sample = format!("wsecho_probe_max_size_bytes{{url=\"{url}\"}} 102400\n");
    assert!(text.contains(&sample), "{text}");
    assert!(text.contains(&format!("wsecho_probe_count_lost{{url=\"{url}\"}} 0\n")), "{text}");
    let text = run("nagios");
    assert!(text.contains(" max_size=102400B;;;0 idle=1."), "{text}");
    assert!(text.contains(" load_p50=0."), "{text}");
}
