//! From readiness through reloads to the drain and the exit.

use std::cell::Cell;
use std::future::pending;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use wsecho::ops::logging::Lost;
use wsecho::ops::machine::Machine;
use wsecho::server::{self, Server};

use crate::service::{Outcome, Service, echo, wsecho};

#[test]
fn readiness_is_reported_with_the_bound_addresses() {
    let service = Service::start("");
    assert_ne!(service.addrs[0], "127.0.0.1:0");
    assert_eq!(echo(&mut service.open("/socket"), "Hello world"), "server: Hello world");
}

#[test]
fn the_notification_socket_may_be_abstract() {
    let name = format!("wsecho-test-{}", std::process::id());
    let service = Service::start_abstract(&name);
    assert_eq!(service.stop().0, 0);
}

#[test]
fn the_service_runs_without_a_notification_socket() {
    let mut service = Service::start_with("", |command| {
        // The harness waits for readiness on a socket that the service does not know of.
        let path = command.get_envs().find(|(name, _)| *name == "NOTIFY_SOCKET");
        let path = path.and_then(|(_, path)| path.map(ToOwned::to_owned)).expect("set above");
        command.env_remove("NOTIFY_SOCKET");
        let told = std::os::unix::net::UnixDatagram::unbound().unwrap();
        told.send_to(b"READY=1\nSTATUS=listening on 127.0.0.1:0; 0 sessions", path).unwrap();
    });
    let line = service.log_line("listening on ");
    let addr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    service.addrs = vec![addr.to_owned()];
    assert_eq!(echo(&mut service.open("/echo"), "a"), "a");
    assert_eq!(service.stop().0, 0);
}

#[test]
fn the_status_counts_the_sessions() {
    let service = Service::start("");
    let _sockets = [service.open("/echo"), service.open("/echo")];
    let status = service.state();
    assert!(status.ends_with("; 2 sessions\n"), "{status}");
}

#[test]
fn a_reload_applies_to_new_connections_and_names_what_needs_a_restart() {
    let mut service = Service::start("");
    let mut old = service.open("/socket");
    service.rewrite("workers = 3\n[[endpoint]]\npath = \"/socket\"\nprefix = \"new: \"\n");
    let [reloading, ready] = service.reload();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
    assert_eq!(echo(&mut service.open("/socket"), "a"), "new: a");
    assert_eq!(echo(&mut old, "a"), "server: a", "an open session keeps its policy");
    assert!(service.log_line("reloaded: ").contains("keys=endpoint"));
    assert!(service.log_line("need a restart").contains("keys=workers"));
}

#[test]
fn a_bad_reload_changes_nothing_and_says_why() {
    let mut service = Service::start("");
    service.rewrite("[[endpoint]]\npath = \"/socket\"\nprefix = 5\n[log]\nlevel = \"loud\"\n");
    let [_, ready] = service.reload();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(ready.contains("the last reload was refused"), "{ready}");
    assert_eq!(echo(&mut service.open("/socket"), "a"), "server: a");
    service.log_line(":4:10: endpoint.prefix: ");
    service.log_line(":6:9: log.level: ");
    service.rewrite("");
    assert!(!service.reload()[1].contains("refused"), "a valid file clears it");
}

#[test]
fn the_log_level_can_be_changed_by_a_reload() {
    let mut service = Service::start("");
    service.rewrite("log.level = \"debug\"");
    service.reload();
    service.ask("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    service.log_line("no such path");
}

#[test]
fn a_missing_file_at_a_reload_does_not_fall_back_to_defaults() {
    let mut service = Service::start("[[endpoint]]\npath = \"/only\"\n");
    std::fs::remove_file(service.config_path()).unwrap();
    service.reload();
    service.log_line("cannot read ");
    assert_eq!(echo(&mut service.open("/only"), "a"), "a");
}

#[test]
fn a_stop_closes_every_session_with_1001_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut service = Service::start("shutdown.drain_spread = \"100ms\"");
        let mut sockets: Vec<_> = (0..5).map(|_| service.open("/socket")).collect();
        service.signal(signal);
        while service.state() != "STOPPING=1\nSTATUS=draining\n" {}
        for socket in &mut sockets {
            let Message::Close(Some(close)) = socket.read().unwrap() else { panic!("no Close") };
            assert_eq!(close.code, CloseCode::Away);
            assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
        }
        service.log_line("stopped: every session has ended");
        assert_eq!(service.wait().0, 0);
    }
}

#[test]
fn listeners_close_at_once_when_draining() {
    let mut service = Service::start("");
    let mut held = service.open("/echo");
    service.signal(Signal::TERM);
    service.log_line("draining");
    while std::net::TcpStream::connect(&service.addrs[0]).is_ok() {}
    assert!(matches!(held.read().unwrap(), Message::Close(_)));
}

#[test]
fn sighup_during_a_drain_is_ignored_and_a_second_sigterm_aborts() {
    let mut service = Service::start("timeouts.close = \"20s\"");
    let _mute = service.open("/echo");
    service.signal(Signal::TERM);
    service.log_line("draining");
    service.signal(Signal::HUP);
    service.log_line("SIGHUP ignored while draining");
    // Not a wait: signals to stop that come within a second are one.
    std::thread::sleep(Duration::from_millis(1100));
    service.signal(Signal::TERM);
    let line = service.log_line("tasks that had not ended were aborted");
    assert!(line.contains("aborted=1"), "{line}");
    let line = service.log_line("session ended: aborted, the service stopped");
    assert!(line.contains(" client=127.0.0.1:") && line.contains(" ended=aborted"), "{line}");
    assert_eq!(service.wait().0, 0);
}

#[test]
fn signals_to_stop_that_come_together_are_one() {
    let mut service = Service::start("shutdown.drain_spread = \"0s\"");
    let mut socket = service.open("/echo");
    // As from GNU timeout, and from a terminal whose user is answered by a service manager.
    for signal in [Signal::TERM, Signal::TERM, Signal::INT] {
        service.signal(signal);
    }
    service.log_line("draining");
    service.signal(Signal::TERM);
    service.signal(Signal::HUP);
    // Signals to stop are heeded first.
    service.log_line("SIGHUP ignored while draining");
    assert!(matches!(socket.read().unwrap(), Message::Close(_)));
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    service.log_line("stopped: every session has ended");
    let (code, log) = service.wait();
    assert_eq!(code, 0);
    assert!(!log.contains("aborted"), "{log}");
}

#[test]
fn a_drain_ends_at_its_timeout_even_if_a_client_does_not_answer() {
    let mut service = Service::start(
        "timeouts.close = \"20s\"\n[shutdown]\ndrain_timeout = \"300ms\"\ndrain_spread = \"0s\"",
    );
    let _mute = service.open("/echo");
    service.signal(Signal::TERM);
    assert!(service.log_line("were aborted").contains("aborted=1"));
    service.log_line(" ended=aborted");
    assert_eq!(service.wait().0, 0);
}

#[test]
fn beyond_max_connections_a_client_gets_503_until_a_connection_ends() {
    let service = Service::start("limits.max_connections = 2");
    let [mut first, mut second] = [service.open("/echo"), service.open("/echo")];
    let refused = service.ask("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("limits.max_connections"), "{refused}");
    first.close(None).unwrap();
    while first.read().is_ok() {}
    drop(first);
    // The permit is free once the service has seen the end, which may take a moment.
    loop {
        let mut stream = service.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
    assert_eq!(echo(&mut second, "unharmed"), "unharmed");
}

/// Runs a server in this process: sends it signals in turn, and counts its reloads, which never end
/// by themselves.
async fn reloads_that_hang(signals: &[server::Signal]) -> u32 {
    let config = wsecho::config::parse("bind = \"127.0.0.1:0\"").unwrap();
    let server = Server::bind(config, Machine::here(), Vec::new(), Lost::default()).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let reloads = Rc::new(Cell::new(0));
    let counted = Rc::clone(&reloads);
    for signal in signals {
        tell.send(*signal).unwrap();
    }
    let running = server.run(
        |cx| told.poll_recv(cx).map(|signal| signal.expect("the sender lives")),
        || {
            counted.set(counted.get() + 1);
            pending()
        },
    );
    assert_eq!(running.await, 0);
    reloads.get()
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_holds_up_neither_the_stop_nor_other_signals() {
    use server::Signal::{Reload, Stop};
    let begun = tokio::time::Instant::now();
    assert_eq!(reloads_that_hang(&[Reload, Stop]).await, 1);
    assert_eq!(reloads_that_hang(&[Reload, Reload, Reload, Stop]).await, 1);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_file_is_named_by_the_flag_or_else_by_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("good"), "").unwrap();
    std::fs::write(at("bad"), "bnd = 1").unwrap();
    let check =
        |variable: &str| Outcome::of(wsecho().arg("check").env("WSECHO_CONFIG", at(variable)));
    assert_eq!(check("good").code(), 0);
    let outcome = check("bad");
    assert_eq!(outcome.code(), 78);
    assert!(outcome.stderr.contains("/bad:1:1: "), "{}", outcome.stderr);
    let outcome = check("absent");
    assert_eq!(outcome.code(), 78, "what is named must exist");
    assert!(outcome.stderr.contains("/absent: No such file"), "{}", outcome.stderr);
    let mut command = wsecho();
    command.env("WSECHO_CONFIG", at("bad")).args(["check", "--config"]).arg(at("good"));
    assert_eq!(Outcome::of(&mut command).code(), 0);
}
