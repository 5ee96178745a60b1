//! What only external tools can show. `tests/faults` installs them; elsewhere these are ignored.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::scope;

use rustix::process::Signal;

use super::client::Client;
use super::measure::{MIB, SetOnDrop, wait_for};
use crate::engine::support::{BINARY, CLOSE, FIN, PING, PONG, noise};
use crate::launch::through_shell;
use crate::service::Service;

#[test]
#[ignore = "needs strace: tests/faults"]
fn nothing_is_written_but_sockets_and_stderr() {
    const CALLS: &str = "open,openat,creat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
        mkdir,mkdirat,mknod,mknodat,truncate,ftruncate,fallocate";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    // With -D the service remains our own child.
    let first =
        format!("exec strace -D -f -q -o {} -e trace={CALLS} \"$0\" \"$@\"", file.display());
    let mut service = Service::start_with_admin("log.level = \"debug\"", |command| {
        through_shell(command, &first);
    });
    let mut client = Client::open(&service, "/echo");
    client.echo(BINARY, &noise(MIB));
    service.ask("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    service.metric("wsecho_sessions");
    service.reload();
    service.signal(Signal::TERM);
    assert_eq!(client.read_close().0, 1001);
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    service.log_line("stopped: ");
    assert_eq!(service.wait().0, 0);
    let mut trace = String::new();
    wait_for("the trace is complete", || {
        trace = fs::read_to_string(&file).unwrap_or_default();
        trace.contains("+++ exited with 0 +++")
    });
    assert!(trace.contains("wsecho.toml"), "it was not traced: {trace}");
    for call in trace.lines().filter(|line| !line.contains(" +++ ") && !line.contains(" --- ")) {
        let opens = call.contains(" open(") || call.contains(" openat(");
        let resumed = call.contains("<... open") && call.contains(" resumed>");
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.contains(flag));
        assert!((opens || resumed) && !writes, "{call}");
    }
}

#[test]
#[ignore = "needs libfaketime: tests/faults"]
fn moving_the_clock_by_a_day_ends_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    let library = fs::read_dir("/usr/lib").expect("a folder").filter_map(|entry| {
        let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    let library = library.into_iter().next().expect("tests/faults has installed it");
    fs::write(&clock, "+0d").unwrap();
    let config = "timeouts.ping_interval = \"200ms\"\ntimeouts.pong = \"1s\"";
    let mut service = Service::start_with(config, |command| {
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
        // The monotonic clock is not faked, as nobody can move it.
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    });
    let date_of_a_session = |service: &mut Service| {
        let mut client = Client::open(service, "/echo");
        client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
        client.read_to_end();
        let line = service.log_line("session ended");
        service.forget_log();
        line[.."2026-01-01".len()].to_owned()
    };
    let today = date_of_a_session(&mut service);
    let (pings, enough) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut client = Client::open(&service, "/echo");
    let writer = client.stream().try_clone().unwrap();
    scope(|scope| {
        let _end = SetOnDrop(&enough);
        let answering = scope.spawn(|| {
            loop {
                let frame = client.read_frame().expect("not dropped");
                if frame.opcode != PING || enough.load(Ordering::Acquire) {
                    return frame;
                }
                client.send(FIN | PONG, &frame.payload);
                pings.fetch_add(1, Ordering::Relaxed);
            }
        });
        for day in ["+1d", "-1d", "+0d"] {
            fs::write(&clock, day).unwrap();
            assert_eq!(
                date_of_a_session(&mut service) == today,
                day == "+0d",
                "the clock was not moved"
            );
            let before = pings.load(Ordering::Relaxed);
            wait_for("pings keep coming", || pings.load(Ordering::Relaxed) > before + 3);
            assert!(pings.load(Ordering::Relaxed) < before + 100, "too many pings");
        }
        let text = crate::engine::support::frame(FIN | BINARY, b"alive");
        std::io::Write::write_all(&mut &writer, &text).unwrap();
        assert_eq!(answering.join().expect("not dropped").payload, b"alive");
    });
}
