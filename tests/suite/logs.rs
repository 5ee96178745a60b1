//! The log: its formats, one line per session, and nothing that a client could forge.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::service::{Outcome, Service, echo, wsecho};

/// Runs a session whose client closes with a reason, and returns its log line.
fn session_line(service: &mut Service, reason: &str) -> String {
    let mut socket = service.open("/socket");
    echo(&mut socket, "abc");
    socket.close(Some(CloseFrame { code: 4000.into(), reason: reason.into() })).unwrap();
    while socket.read().is_ok() {}
    service.log_line("session ended")
}

#[test]
fn a_session_is_logged_as_one_line_when_it_ends() {
    let mut service = Service::start("");
    let line = session_line(&mut service, "bye");
    for field in [
        " INFO session ended: closed by the client with 4000 client=127.0.0.1:",
        " endpoint=/socket compression=false messages=1 bytes_in=3 bytes_out=11 seconds=",
        " ended=peer close_reason=bye",
    ] {
        assert!(line.contains(field), "{field} in {line}");
    }
    let (_, log) = service.stop();
    assert_eq!(log.matches("session ended").count(), 1, "{log}");
}

#[test]
fn a_line_says_no_more_than_there_is_to_say() {
    let mut service = Service::start("");
    let line = session_line(&mut service, "");
    assert!(line.ends_with(" ended=peer"), "no empty field: {line}");
    let seconds = line.split(" seconds=").nth(1).and_then(|rest| rest.split(' ').next());
    let (_, fraction) = seconds.and_then(|seconds| seconds.split_once('.')).unwrap();
    assert!(fraction.len() <= 3, "milliseconds will do: {line}");
}

#[test]
fn the_journal_format_has_a_priority_and_no_time() {
    let mut service = Service::start("log.format = \"journal\"");
    let line = session_line(&mut service, "bye");
    assert!(line.starts_with("<6>session ended: "), "{line}");
}

#[test]
fn the_json_format_is_one_object_per_line() {
    let mut service = Service::start("log.format = \"json\"");
    let line = session_line(&mut service, "a \"quoted\" \\ reason");
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["level"], "INFO");
    assert_eq!(record["endpoint"], "/socket");
    assert_eq!(record["bytes_in"], 3);
    assert_eq!(record["ended"], "peer");
}

#[test]
fn a_client_cannot_forge_a_line_or_a_field() {
    let mut service = Service::start("");
    let line = session_line(&mut service, "x\n<3>forged client=1.2.3.4 \u{202e}\u{1b}[2J\u{85}");
    assert!(
        line.ends_with(r#"close_reason="x\n<3>forged client=1.2.3.4 \u{202e}\u{1b}[2J\u{85}""#)
    );
}

#[test]
fn a_line_stays_below_2_kib_whatever_a_client_sends() {
    let path = format!("/{}", "p".repeat(255));
    for format in ["text", "journal", "json"] {
        let config = format!("log.format = \"{format}\"\n[[endpoint]]\npath = \"{path}\"");
        let mut service = Service::start(&config);
        let mut socket = service.open(&path);
        let reason = "\\".repeat(123);
        socket.close(Some(CloseFrame { code: 4000.into(), reason: reason.into() })).unwrap();
        while socket.read().is_ok() {}
        let line = service.log_line("session ended");
        assert!(line.len() < 2048, "{format}: {} bytes", line.len());
        assert!(line.contains(&path), "{line}");
    }
}

#[test]
fn health_checks_and_bare_connections_are_not_logged_at_info() {
    let mut service = Service::start("");
    service.ask("GET /healthz HTTP/1.0\r\n\r\n");
    drop(service.connect());
    session_line(&mut service, "");
    let (_, log) = service.stop();
    let lines: Vec<&str> = log.lines().collect();
    let expected = ["listening on", "origins = ", "session ended", "draining", "stopped"];
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, text) in lines.iter().zip(expected) {
        assert!(line.contains(text), "{log}");
    }
}

#[test]
fn what_hypers_parser_rejects_is_logged() {
    let mut service = Service::start("timeouts.handshake = \"300ms\"");
    for (request, reason) in [
        ("\x7f hello\r\n\r\n".to_owned(), "not an HTTP/1.1 request"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "over 16 KiB"),
        ("GET / HT".to_owned(), "no complete request within timeouts.handshake"),
    ] {
        service.ask(&request);
        assert!(service.log_line(reason).contains(" INFO "), "a peer cannot cause a warning");
    }
}

#[test]
fn a_missing_default_file_is_logged_in_one_line() {
    if std::path::Path::new("/etc/wsecho.toml").exists() {
        eprintln!("SKIPPED: this machine has an /etc/wsecho.toml");
        return;
    }
    let mut service = Service::start_with("", |command| {
        let path = command.get_envs().find(|(name, _)| *name == "NOTIFY_SOCKET");
        let path = path.and_then(|(_, path)| path.map(ToOwned::to_owned)).expect("set above");
        *command = crate::service::wsecho();
        command.args(["--bind", "127.0.0.1:0"]).env("NOTIFY_SOCKET", path);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
    });
    service.log_line("/etc/wsecho.toml does not exist: using the defaults");
    assert_eq!(echo(&mut service.open("/socket"), "a"), "server: a");
}

#[test]
fn a_fatal_error_keeps_to_the_format_of_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wsecho.toml");
    let addr = taken.local_addr().unwrap();
    let fatal = |format: &str| {
        let config = format!("bind = \"{addr}\"\ninstance = \"1\"\nlog.format = \"{format}\"");
        std::fs::write(&file, config).unwrap();
        let outcome = Outcome::of(wsecho().arg("--config").arg(&file));
        assert_eq!(outcome.code(), 1);
        outcome.stderr
    };
    let record: serde_json::Value = serde_json::from_str(fatal("json").trim_end()).unwrap();
    assert_eq!(record["level"], "ERROR");
    assert_eq!(record["instance"], "1");
    assert!(record["timestamp"].is_string(), "{record}");
    assert!(record["message"].as_str().unwrap().contains("is in use"), "{record}");
    assert!(fatal("journal").starts_with(&format!("<3>{addr} is in use")));
    assert!(fatal("text").starts_with(&format!("wsecho: {addr} is in use")));
}

/// Runs the rest of a test where stderr can lead to a journal: systemd 219 does not set
/// JOURNAL_STREAM, so the peer's name must do, and a mount namespace provides a socket of that name.
fn with_a_journal(name: &str, rest: fn(&UnixListener)) {
    const INSIDE: &str = "WSECHO_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return rest(&UnixListener::bind("/run/systemd/journal/stdout").unwrap());
    }
    let this = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && exec \"$0\" \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--user", "--map-root-user", "sh", "-c", script]).arg(this);
    let outcome = unshare.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output();
    match outcome {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("1 passed") => {}
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare") => {
            eprintln!("SKIPPED: no mount namespace here: {output:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn first_line(journal: &UnixListener) -> String {
    let mut first = String::new();
    BufReader::new(journal.accept().unwrap().0).read_line(&mut first).unwrap();
    first
}

#[test]
fn the_journal_is_recognized_by_the_name_of_stderrs_peer() {
    with_a_journal("logs::the_journal_is_recognized_by_the_name_of_stderrs_peer", |journal| {
        let stderr = UnixStream::connect("/run/systemd/journal/stdout").unwrap();
        let service = Service::start_with("", |command| {
            command.stderr(OwnedFd::from(stderr));
        });
        let first = first_line(journal);
        assert!(first.starts_with("<6>listening on "), "{first}");
        drop(service);
    });
}

/// journald 219 drops the line of a process that is gone by the time it is read.
#[test]
fn whoever_fails_stays_until_the_journal_has_read_why() {
    with_a_journal("logs::whoever_fails_stays_until_the_journal_has_read_why", |journal| {
        for args in [&["serve", "--bind", "systemd"][..], &["check", "--config", "/no"], &["--x"]] {
            let stderr = UnixStream::connect("/run/systemd/journal/stdout").unwrap();
            let begun = tokio::time::Instant::now();
            let status = wsecho().args(args).stderr(OwnedFd::from(stderr)).status().unwrap();
            assert!(!status.success(), "{args:?}");
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(100), "{args:?}: gone after {took:?}");
            assert!(!first_line(journal).is_empty(), "{args:?}");
        }
    });
}
