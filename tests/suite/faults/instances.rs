//! Several instances on one socket: what one of them does, or has done to it, harms none of the others.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use rustix::process::Signal;
use socket2::SockRef;

use super::client::Client;
use super::measure::{SetOnDrop, wait_for};
use crate::engine::support::TEXT;
use crate::inside::handshake;
use crate::launch::inherit;
use crate::service::{Outcome, PATIENCE, Service, wsecho};

/// A listener as systemd passes it to each instance, here without `NonBlocking=yes`.
fn shared() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Starts an instance on this listener.
fn start(listener: &TcpListener, name: &str, config: &str) -> Service {
    let with_admin = |dir: &Path| {
        let admin = dir.join("admin.sock");
        format!("bind = \"systemd\"\nadmin.bind = \"unix:{}\"\n{config}", admin.display())
    };
    Service::start_in_with(with_admin, |command| {
        command.env("WSECHO_INSTANCE", name);
        inherit(&[listener], command);
    })
}

fn refused_as_full(service: &Service) -> u64 {
    service.metric("wsecho_handshakes_refused_total{reason=\"full\"}")
}

/// The answer to one request, from whichever instance.
fn ask(listener: &TcpListener, request: &str) -> String {
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and a FIN, not a reset");
    answer
}

#[test]
fn a_sibling_that_makes_the_socket_blocking_stalls_nobody() {
    let listener = shared();
    let instances = ["1", "16"].map(|n| start(&listener, n, &format!("workers = {n}")));
    let (enough, flag) = (&AtomicBool::new(false), SockRef::from(&listener));
    scope(|scope| {
        let _end = SetOnDrop(enough);
        let clear = &flag;
        scope.spawn(move || {
            while !enough.load(Ordering::Relaxed) {
                clear.set_nonblocking(false).unwrap();
            }
        });
        let mut sessions: Vec<Client> = Vec::new();
        // An accept that blocks lasts until the next connection: every session notices.
        for number in 0..100 {
            sessions.push(Client::open(&instances[0], "/echo"));
            for session in sessions.iter_mut().rev().take(10) {
                session.echo(TEXT, format!("{number}").as_bytes());
            }
        }
    });
    for instance in instances {
        assert!(instance.metric("wsecho_sessions") < 101, "it answers");
    }
}

#[test]
fn a_start_that_fails_leaves_the_socket_nonblocking() {
    let listener = shared();
    let mut command = wsecho();
    command.args(["--config", "/nonexistent.toml"]);
    inherit(&[&listener], &mut command);
    assert_eq!(Outcome::of(&mut command).code(), 78);
    assert!(SockRef::from(&listener).nonblocking().unwrap(), "others accept on it");
}

#[test]
fn a_full_instance_leaves_newcomers_to_its_siblings() {
    let listener = shared();
    let full = start(&listener, "full", "limits.max_connections = 5");
    let mut sessions: Vec<_> = (0..5).map(|_| Client::open(&full, "/echo")).collect();
    let other = start(&listener, "other", "limits.max_connections = 60");
    for number in 0..50 {
        sessions.push(Client::open(&other, "/echo"));
        let health = ask(&listener, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(health.ends_with("\r\n\r\nok\n"), "{number}: {health}");
    }
    assert_eq!(full.metric("wsecho_sessions"), 5);
    assert_eq!(other.metric("wsecho_sessions"), 50);
    assert_eq!(refused_as_full(&full) + refused_as_full(&other), 0);
    sessions.drain(..5);
    wait_for("it has room", || full.metric("wsecho_connections") == 0);
    wait_for("it takes its share again", || {
        sessions.push(Client::open(&other, "/echo"));
        full.metric("wsecho_sessions") > 0
    });
}

#[test]
fn newcomers_that_nobody_takes_are_refused_instead_of_left_waiting() {
    let listener = shared();
    let instances = ["1", "2"].map(|name| start(&listener, name, "limits.max_connections = 1"));
    let mut sessions = [0, 1].map(|_| Client::open(&instances[0], "/echo"));
    for number in 0..10 {
        let answer = ask(&listener, &handshake("/echo"));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{number}: {answer}");
        let health = ask(&listener, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(health.ends_with("\r\n\r\nok\n"), "{number}: {health}");
        for session in &mut sessions {
            session.echo(TEXT, b"served");
        }
    }
}

#[test]
fn an_instance_tells_its_name() {
    let listener = shared();
    let mut service = start(&listener, "blue", "");
    service.log_line("sharing the sockets of systemd with other instances, as blue");
    let version = env!("CARGO_PKG_VERSION");
    let label = format!("wsecho_build_info{{version=\"{version}\",name=\"blue\"}}");
    assert_eq!(service.metric(&label), 1);
    let info = ask(&listener, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(info.contains(&format!("\"instance\":\"{}/blue\"", host.trim())), "{info}");
}

#[test]
fn every_record_names_its_instance() {
    let listener = shared();
    let log = |format: &str| {
        let service = start(&listener, "bl\"ue", &format!("log.format = \"{format}\""));
        Client::open(&service, "/echo").echo(TEXT, b"a");
        ask(&listener, &handshake("/nowhere"));
        service.reload();
        service.stop().1
    };
    let json = log("json");
    for line in json.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect(line);
        assert_eq!(record["instance"], "bl\"ue", "{line}");
        assert_eq!(line.matches("\"instance\"").count(), 1, "{line}");
    }
    assert!(json.lines().count() > 5, "{json}");
    for line in log("text").lines() {
        assert!(line.contains(" instance=bl\"ue"), "{line}");
    }
    // journald has the name of the unit.
    assert!(!log("journal").contains("instance="));
}

#[test]
fn an_instance_that_steps_aside_leaves_newcomers_to_its_siblings() {
    let listener = shared();
    let [mut aside, other] = ["1", "16"].map(|n| start(&listener, n, &format!("workers = {n}")));
    let mut stays = Client::open(&aside, "/echo");
    while aside.metric("wsecho_sessions") == 0 {
        stays = Client::open(&aside, "/echo");
    }
    aside.signal(Signal::USR1);
    aside.log_line("leaving newcomers to the other instances");
    let mut sessions: Vec<_> = (0..100).map(|_| Client::open(&other, "/echo")).collect();
    let before = aside.metric("wsecho_sessions");
    assert!(other.metric("wsecho_sessions") >= 100, "all of them");
    stays.echo(TEXT, b"it still serves");
    // With nobody else to take them, it does.
    drop(other);
    for _ in 0..10 {
        sessions.push(Client::open(&aside, "/echo"));
    }
    wait_for("it took them all", || aside.metric("wsecho_sessions") == before + 10);
}

#[test]
fn whoever_shares_no_socket_ignores_the_signal_to_step_aside() {
    let mut service = Service::start_with_admin("", |_| ());
    service.signal(Signal::USR1);
    service.log_line("SIGUSR1 ignored");
    Client::open(&service, "/echo").echo(TEXT, b"a");
    let (_, log) = service.stop();
    assert!(log.contains("every session has ended"), "{log}");
}

/// Starts with `WSECHO_CONFIG=…/1.toml:…/all.toml`, of which these exist.
fn start_from(files: &[&str]) -> Service {
    Service::start_in_with(
        |dir| {
            for file in files {
                fs::write(dir.join(file), format!("[[endpoint]]\npath = \"/{file}\"")).unwrap();
            }
            String::new()
        },
        |command| {
            let mut set = command.get_envs();
            let notify = set.find_map(|(name, path)| path.filter(|_| name == "NOTIFY_SOCKET"));
            let notify = Path::new(notify.expect("set above"));
            let files = ["1.toml", "all.toml"].map(|name| notify.with_file_name(name));
            let mut own = wsecho();
            own.env("WSECHO_CONFIG", std::env::join_paths(files).unwrap());
            own.env("NOTIFY_SOCKET", notify);
            own.args(["--bind", "127.0.0.1:0"]).stderr(std::process::Stdio::piped());
            *command = own;
        },
    )
}

#[test]
fn the_first_file_that_exists_is_read_and_stays_the_one() {
    let mut service = start_from(&["all.toml"]);
    let dir = service.dir.path().display().to_string();
    service.log_line(&format!("{dir}/1.toml does not exist: using {dir}/all.toml"));
    Client::open(&service, "/all.toml").echo(TEXT, b"its endpoint");
    fs::write(service.dir.path().join("1.toml"), "[[endpoint]]\npath = \"/late\"").unwrap();
    assert!(!service.reload()[1].contains("refused"));
    service.log_line(&format!("{dir}/1.toml is read only after a restart"));
    Client::open(&service, "/all.toml").echo(TEXT, b"still");
    let (_, log) = service.stop();
    assert!(log.contains("reloaded: nothing has changed"), "{log}");

    let mut service = start_from(&["1.toml", "all.toml"]);
    Client::open(&service, "/1.toml").echo(TEXT, b"its endpoint");
    fs::remove_file(service.dir.path().join("1.toml")).unwrap();
    assert!(service.reload()[1].contains("refused"), "the other one may be more open");
    service.log_line("/1.toml: No such file or directory");
}

#[test]
fn a_file_that_cannot_be_read_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let [own, all] = ["1.toml", "all.toml"].map(|name| dir.path().join(name));
    fs::write(&all, "").unwrap();
    let check = |files: &[&Path]| {
        Outcome::of(
            wsecho().arg("check").env("WSECHO_CONFIG", std::env::join_paths(files).unwrap()),
        )
    };
    assert_eq!(check(&[&own, &all]).stdout, format!("{}: ok\n", all.display()));
    std::os::unix::fs::symlink("/nonexistent", &own).unwrap();
    let outcome = check(&[&own, &all]);
    assert_eq!(outcome.code(), 78);
    assert!(
        outcome.stderr.contains(&format!("cannot read {}", own.display())),
        "{}",
        outcome.stderr
    );
    fs::remove_file(&own).unwrap();
    fs::remove_file(&all).unwrap();
    assert_eq!(
        check(&[&own, &all]).code(),
        78,
        "the last one must exist, unless it is the default"
    );
}
