//! Restarts and reloads under load: nobody is refused or dropped, and invalid files change nothing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::client::Client;
use super::measure::{MIB, Peak, SetOnDrop, wait_for};
use crate::engine::support::{CLOSE, FIN, TEXT};
use crate::inside::handshake;
use crate::launch::inherit;
use crate::service::{PATIENCE, Service, wsecho};

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
    eprintln!("{served} were served, {told} were told to come back");
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

/// A file on a disk that does not answer: whoever opens it waits, fcntl(2), F_SETLEASE.
struct SlowDisk {
    holder: Child,
    said: BufReader<ChildStdout>,
}

impl SlowDisk {
    const HOLDER: &str = r"
import fcntl, signal, sys
file = open(sys.argv[1], 'r+')
signal.signal(signal.SIGIO, lambda *_: print('asked', flush=True))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('slow', flush=True)
sys.stdin.read()
";

    fn holding(path: &Path) -> Self {
        let mut python = Command::new("python3");
        python.args(["-c", Self::HOLDER]).arg(path);
        let mut holder =
            python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let said = BufReader::new(holder.stdout.take().expect("piped"));
        let mut disk = Self { holder, said };
        disk.wait_until("slow");
        disk
    }

    fn wait_until(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it says something");
        assert_eq!(line.trim_end(), word);
    }

    /// Waits until somebody waits for the file.
    fn asked(&mut self) {
        self.wait_until("asked");
    }
}

impl Drop for SlowDisk {
    /// The disk answers.
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Echoes a hundred times, none of which waits for a reload.
fn assert_unharmed(client: &mut Client, when: &str) {
    for number in 0..100 {
        let begun = Instant::now();
        client.echo(TEXT, format!("{number}").as_bytes());
        assert!(begun.elapsed() < Duration::from_millis(500), "{when}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_reload_from_a_slow_disk_stalls_no_session_and_the_next_ones_are_one() {
    let mut service = Service::start_with_admin("workers = 1", |_| ());
    let mut client = Client::open(&service, "/echo");
    let mut disk = SlowDisk::holding(&service.config_path());
    service.signal(Signal::HUP);
    disk.asked();
    assert_unharmed(&mut client, "while the file is opened");
    for _ in 0..3 {
        service.signal(Signal::HUP);
        // Each has arrived before the next: the kernel merges those that wait.
        Client::open(&service, "/echo").echo(TEXT, b"served");
    }
    drop(disk);
    let reloads = |service: &Service| service.metric("wsecho_config_reloads_total{result=\"ok\"}");
    wait_for("the reloads end", || reloads(&service) == 2);
    service.log_line("reloaded: nothing has changed");
    let (code, log) = service.stop();
    assert_eq!(code, 0);
    assert_eq!(log.matches("reloaded: ").count(), 2, "{log}");
}

#[test]
fn a_stop_does_not_wait_for_a_reload_from_a_slow_disk() {
    let mut service = Service::start("shutdown.drain_spread = \"0s\"");
    let mut client = Client::open(&service, "/echo");
    let mut disk = SlowDisk::holding(&service.config_path());
    service.signal(Signal::HUP);
    disk.asked();
    service.signal(Signal::TERM);
    assert_eq!(client.read_close().0, 1001);
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    service.log_line("stopped: every session has ended");
    assert_eq!(service.wait().0, 0);
    drop(disk);
}

#[test]
fn a_reload_reads_regular_files_of_a_sane_size_only() {
    let service = Service::start("workers = 1");
    let mut client = Client::open(&service, "/echo");
    let path = service.config_path();
    let good = fs::read(&path).unwrap();
    let peak = Peak::new(&service);
    let fifo = || assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let sparse = || File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let cases: [(&dyn Fn(), &str); 4] = [
        (&fifo, "it is not a regular file"),
        (&sparse, "it is over 1 MiB"),
        (&|| fs::create_dir(&path).unwrap(), "it is not a regular file"),
        (&|| fs::write(&path, b"# fine\n# gr\xfc\xdfe\n").unwrap(), ":2:5: byte 0xFC is not UTF-8"),
    ];
    for (make, reason) in cases {
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        make();
        let [_, ready] = service.reload();
        assert!(ready.contains("the last reload was refused"), "{reason}: {ready}");
        assert_unharmed(&mut client, reason);
    }
    assert!(peak.growth() < 16 * MIB, "{} bytes", peak.growth());
    fs::write(&path, good).unwrap();
    assert!(!service.reload()[1].contains("refused"));
    let (_, log) = service.stop();
    let refused: Vec<_> = (log.lines())
        .filter(|line| line.contains("ERROR ") && !line.contains("reload refused"))
        .collect();
    assert_eq!(refused.len(), cases.len(), "{log}");
    for (line, (_, reason)) in refused.iter().zip(cases) {
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn signals_during_a_start_from_a_slow_disk_neither_kill_it_nor_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wsecho.toml");
    fs::write(&path, "bind = \"127.0.0.1:0\"").unwrap();
    for reloads in [0, 3] {
        let mut disk = SlowDisk::holding(&path);
        let mut command = wsecho();
        command.arg("--config").arg(&path).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        disk.asked();
        for _ in 0..reloads {
            kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let mut status = None;
        wait_for("it ends before the disk answers", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "after {reloads} reloads");
        drop(disk);
    }
}

#[test]
fn a_default_file_that_was_there_and_is_gone_is_a_refused_reload() {
    // The default path is the machine's, but for a mount namespace.
    let inside = "mount -t tmpfs tmpfs /etc && touch /etc/wsecho.toml && exec \"$0\" \"$@\"";
    let unshared = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--user", "--map-root-user", "sh", "-c", inside]);
        unshare
    };
    if !unshared().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no mount namespace here");
        return;
    }
    let mut service = Service::start_with("", |command| {
        let notify = command.get_envs().find(|(name, _)| *name == "NOTIFY_SOCKET");
        let notify = notify.and_then(|(_, path)| path.map(ToOwned::to_owned)).expect("set above");
        *command = unshared();
        command.arg(env!("CARGO_BIN_EXE_wsecho")).args(["--bind", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", notify).env_remove("WSECHO_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    });
    assert!(!service.reload()[1].contains("refused"), "it is there");
    fs::remove_file(format!("/proc/{}/root/etc/wsecho.toml", service.pid())).unwrap();
    assert!(service.reload()[1].contains("the last reload was refused"));
    service.log_line("cannot read /etc/wsecho.toml: No such file or directory");
}
