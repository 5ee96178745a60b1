//! What README shows of the probe is what it prints.

use std::fs;
use std::path::Path;
use std::time::Duration;

use wsecho::probe::failure::{Failed, Failure};
use wsecho::probe::report::terminal::{self, Style};
use wsecho::probe::report::{
    Agreed, Answer, Attempt, Certificate, Closed, Ending, Family, Outcome, Report, RoundTrip,
    Stage, Step, Tls,
};

/// Tenths of a millisecond.
fn tenths(count: u64) -> Duration {
    Duration::from_micros(count * 100)
}

fn passed(stage: Stage, took: u64) -> Step {
    Step { stage, took: Some(tenths(took)), outcome: Outcome::Passed }
}

fn omitted(stage: Stage, why: &'static str) -> Step {
    Step { stage, took: None, outcome: Outcome::Omitted(why) }
}

fn connected(to: &str, family: Family, took: u64) -> Attempt {
    Attempt { to: to.to_owned(), family: Some(family), took: tenths(took), error: None }
}

fn answer(status: u16, reason: &str) -> Answer {
    let from = vec![("Server".to_owned(), "nginx/1.20.1".to_owned())];
    Answer { status, reason: reason.to_owned(), from, location: None }
}

fn healthy() -> Report {
    let sent = ["text", "binary", "empty", "non-ASCII", "fragmented", "70 KB", "compressed"];
    let trip = |message| RoundTrip { message, bytes: 64, took: tenths(89) };
    let leaf = Certificate {
        names: vec!["*.example.com".to_owned()],
        days_left: 63,
        ..Certificate::default()
    };
    Report {
        url: "wss://echo.example.com/socket".to_owned(),
        steps: vec![
            passed(Stage::Resolve, 12),
            passed(Stage::Tcp, 84),
            passed(Stage::Tls, 213),
            passed(Stage::Http, 91),
            Step { took: None, ..passed(Stage::Upgrade, 0) },
            passed(Stage::Echo, 700),
            passed(Stage::Ping, 87),
            passed(Stage::Close, 99),
            omitted(Stage::Http2, "not offered (ALPN: http/1.1)"),
        ],
        addresses: vec!["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        attempts: vec![
            connected("[2001:db8::7]:443", Family::V6, 90),
            connected("203.0.113.7:443", Family::V4, 84),
        ],
        tls: Some(Tls {
            version: "TLS 1.3".to_owned(),
            alpn: Some("http/1.1".to_owned()),
            chain: vec![leaf],
            verified: true,
            ..Tls::default()
        }),
        answer: Some(answer(101, "Switching Protocols")),
        agreed: Some(Agreed {
            subprotocol: None,
            extensions: Some("permessage-deflate".to_owned()),
        }),
        prefix: Some("server: ".to_owned()),
        round_trips: sent.map(trip).to_vec(),
        closed: Some(Closed {
            sent: 1000,
            answered: Some(1000),
            took: tenths(88),
            end: Ending::Fin,
        }),
        ..Report::default()
    }
}

fn failing() -> Report {
    Report {
        url: "ws://echo.example.com/chat".to_owned(),
        steps: vec![
            passed(Stage::Resolve, 11),
            passed(Stage::Tcp, 82),
            omitted(Stage::Tls, "not used: ws://"),
            Step { outcome: Outcome::Failed, ..passed(Stage::Http, 89) },
        ],
        addresses: vec!["203.0.113.7".parse().unwrap()],
        attempts: vec![connected("203.0.113.7:80", Family::V4, 82)],
        answer: Some(answer(502, "Bad Gateway")),
        failed: Some(Failed {
            failure: Failure::BadGateway,
            stage: Stage::Http,
            seen: "The server answered the handshake with 502 Bad Gateway.".to_owned(),
            quote: None,
        }),
        ..Report::default()
    }
}

#[test]
fn the_screens_in_the_readme_are_those_of_a_terminal() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("it is there");
    for report in [healthy(), failing()] {
        let printed = terminal::print(&report, Style::default());
        let screen = format!("```console\n$ wsecho probe {}\n{printed}```\n", report.url);
        assert!(readme.contains(&screen), "{screen}");
        assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
    }
}
