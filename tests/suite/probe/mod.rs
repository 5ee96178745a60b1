//! `wsecho probe`: what it says of healthy paths and of broken ones, and its exit codes.

mod failures;
mod healthy;
mod hostile;
mod http2;
mod load;
mod measured;
mod network;
mod peer;
mod secrets;
mod tls;

use std::process::Command;

use regex_lite::Regex;

use crate::service::{Outcome, wsecho};

/// The probe, without the HTTP proxies that the environment may name.
pub fn probe(args: &[&str]) -> Command {
    let mut command = wsecho();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.arg("probe").args(args);
    command
}

/// What is printed, with `T` for each time and `PORT` for this port.
pub fn shown(outcome: &Outcome, port: u16) -> String {
    let time = Regex::new(r" +[0-9]+\.[0-9]+ ms").expect("it is valid");
    let text = time.replace_all(&outcome.stdout, " T ms").replace(&port.to_string(), "PORT");
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    // A verdict alone is one line, for logs.
    assert!(widest <= 100 || !text.contains("  ✓ "), "{text}");
    text
}

/// The exit code and the one line of a quiet probe of this port.
pub fn verdict(args: &[&str], port: u16) -> (i32, String) {
    let outcome = Outcome::of(&mut probe(&[&["--quiet"], args].concat()));
    assert_eq!(outcome.stderr, "");
    (outcome.code(), shown(&outcome, port).trim_end().to_owned())
}
