//! Restarts and reloads under load: nobody is refused or dropped, and invalid files change nothing.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use super::client::Client;
use super::measure::{SetOnDrop, wait_for};
use crate::engine::support::{CLOSE, FIN, TEXT};
use crate::inside::handshake;
use crate::launch::inherit;
use crate::service::{PATIENCE, Service};

#[test]
fn five_restarts_on_an_inherited_socket_refuse_and_reset_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let start = || {
        let config = "bind = \"systemd\"\nshutdown.drain_spread = \"0s\"";
        Service::start_with(config, |command| inherit(&[&listener], command))
    };
    let (served, told, enough) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let session = || {
        let mut stream = TcpStream::connect(addr).expect("not refused");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(handshake("/echo").as_bytes()).expect("not reset");
        let mut client = Client::unanswered(stream);
        let head = client.read_head();
        if head.starts_with("HTTP/1.1 503 ") {
            // Accepted by a service that is stopping: the client is told to retry.
            told.fetch_add(1, Ordering::Relaxed);
            client.read_to_end();
            return;
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut frame = None;
        for text in ["one", "two", "three"] {
            client.send(FIN | TEXT, text.as_bytes());
            let answer = client.read_frame().expect("not reset");
            if answer.opcode == CLOSE {
                frame = Some(answer);
                break;
            }
            assert_eq!(answer.payload, text.as_bytes());
            // Not a wait: this is how long a session lasts, so that some are always open.
            sleep(Duration::from_millis(50));
        }
        let counter = if frame.is_some() { &told } else { &served };
        counter.fetch_add(1, Ordering::Relaxed);
        client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
        let frame = frame.unwrap_or_else(|| client.read_frame().expect("not reset"));
        assert_eq!(frame.opcode, CLOSE);
        client.read_to_end();
    };
    scope(|scope| {
        let end = SetOnDrop(&enough);
        let mut service = start();
        let clients = scope.spawn(|| {
            // Clients keep coming while no service is running.
            std::thread::scope(|scope| {
                while !enough.load(Ordering::Relaxed) {
                    scope.spawn(session);
                    sleep(Duration::from_millis(20));
                }
            });
        });
        for restart in 0..5 {
            let before = served.load(Ordering::Relaxed);
            wait_for("some clients are served", || served.load(Ordering::Relaxed) > before + 10);
            let (code, log) = service.stop();
            assert_eq!(code, 0, "restart {restart}: {log}");
            service = start();
        }
        let before = served.load(Ordering::Relaxed);
        wait_for("the last service serves", || served.load(Ordering::Relaxed) > before);
        drop(end);
        clients.join().expect("nobody was refused or reset");
    });
    let (served, told) = (served.into_inner(), told.into_inner());
    eprintln!("{served} were served, {told} were told to retry");
    assert!(told <= served, "{told} of {served}");
}

/// Twenty invalid files, each in its own way.
const BAD: [&str; 20] = [
    "bnd = 1",
    "workers =",
    "workers = \"x\"",
    "workers = 1\nworkers = 2",
    "bind = \"nowhere\"",
    "bind = 5",
    "[timeouts]\nclose = 5",
    "timeouts.close = \"0s\"",
    "timeouts.clsoe = \"1s\"",
    "limits = 5",
    "limits.max_connections = 0",
    "limits.max_message_size = \"2 GiB\"",
    "shutdown.drain_spread = \"1h\"",
    "log.level = \"loud\"",
    "log.format = \"xml\"",
    "[endpoint]\npath = \"/a\"",
    "[[endpoint]]\nprefix = \"\"",
    "[[endpoint]]\npath = \"/new\"\n[[endpoint]]\npath = \"/new\"",
    "proxy.trusted = [\"10.0.0.1/8\"]",
    "\0\u{fffd}[[[",
];

#[test]
fn twenty_invalid_files_under_load_change_nothing_and_drop_nobody() {
    let config = "[[endpoint]]\npath = \"/old\"";
    let mut service = Service::start_with_admin(config, |_| ());
    let pid = service.pid();
    let (mut sessions, enough): (Vec<_>, _) =
        ((0..10).map(|_| Client::open(&service, "/old")).collect(), AtomicBool::new(false));
    let enough = &enough;
    scope(|scope| {
        let end = SetOnDrop(enough);
        let running: Vec<_> = sessions
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    let mut number = 0_u32;
                    while !enough.load(Ordering::Relaxed) {
                        number += 1;
                        client.echo(TEXT, number.to_string().as_bytes());
                    }
                    number
                })
            })
            .collect();
        for (index, bad) in BAD.into_iter().enumerate() {
            std::fs::write(service.config_path(), bad).unwrap();
            let [reloading, ready] = service.reload();
            assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
            assert!(ready.contains("the last reload was refused"), "{bad}: {ready}");
            let refused = service.metric("wsecho_config_reloads_total{result=\"refused\"}");
            assert_eq!(refused, index as u64 + 1, "{bad}");
            Client::open(&service, "/old").echo(TEXT, b"the old file applies");
        }
        // Valid ones in between drop nobody either.
        service.rewrite("[[endpoint]]\npath = \"/new\"");
        assert!(!service.reload()[1].contains("refused"));
        Client::open(&service, "/new").echo(TEXT, b"the new file applies");
        drop(end);
        for session in running {
            assert!(session.join().expect("it was not dropped") > 20);
        }
    });
    assert_eq!(service.metric("wsecho_sessions_ended_total{how=\"broken\"}"), 0);
    assert_eq!(service.pid(), pid);
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    service.log_line("reload refused: the old configuration stays in force");
}
