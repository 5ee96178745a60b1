//! Listening: several addresses, Unix sockets, inherited sockets, addresses that cannot be bound.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, prlimit};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::faults::measure::cpu;
use crate::launch::{inherit, through_shell};
use crate::service::{Outcome, Service, connect_unix, echo, upgrade, wsecho};

/// Fails to start, and returns the exit code and the messages.
fn refused(bind: &str) -> (i32, String) {
    let outcome = Outcome::of(wsecho().args(["--bind", bind]));
    let said = outcome.stderr.lines().filter(|line| line.starts_with("wsecho: "));
    (outcome.code(), said.collect::<Vec<_>>().join("\n"))
}

#[test]
fn several_addresses_are_served_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let bind = format!("bind = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:{}\"]", path.display());
    let service = Service::start(&bind);
    let [v4, v6, unix] = &service.addrs[..] else { panic!("{:?}", service.addrs) };
    assert_eq!(unix, &format!("unix:{}", path.display()));
    for tcp in [v4, v6] {
        let stream = std::net::TcpStream::connect(tcp).unwrap();
        assert_eq!(echo(&mut upgrade(stream, "/socket"), "a"), "server: a");
    }
    assert_eq!(echo(&mut upgrade(connect_unix(&path), "/socket"), "a"), "server: a");
}

#[test]
fn a_unix_socket_has_its_mode_whatever_the_umask_and_is_removed_at_exit() {
    for (mode, umask) in [("0660", "077"), ("0666", "022"), ("0600", "000")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.sock");
        let bind = format!("unix_mode = \"{mode}\"\nbind = \"unix:{}\"", path.display());
        let service = Service::start_with(&bind, |command| {
            through_shell(command, &format!("umask {umask}"));
        });
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(format!("{found:04o}"), mode, "umask {umask}");
        let (code, log) = service.stop();
        assert_eq!(code, 0, "{log}");
        assert!(!path.exists(), "the socket is removed at exit");
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let bind = format!("unix:{}", path.display());
    let live = UnixListener::bind(&path).unwrap();
    let (code, said) = refused(&bind);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    drop(live);
    let service = Service::start(&format!("bind = \"{bind}\""));
    assert_eq!(echo(&mut upgrade(connect_unix(&path), "/echo"), "a"), "a");
    drop(service);
}

#[test]
fn nothing_but_a_stream_socket_is_ever_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::write(at("target"), "precious").unwrap();
    std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    // Only a socket may go by itself.
    for (name, expected) in [("file", 78), ("link", 78), ("folder", 78), ("datagram", 1)] {
        let (code, said) = refused(&format!("unix:{}", at(name).display()));
        assert_eq!(code, expected, "{name}: {said}");
        assert!(fs::symlink_metadata(at(name)).is_ok(), "{name} is left alone");
        assert!(said.contains("bind"), "{name}: {said}");
    }
    assert_eq!(fs::read_to_string(at("target")).unwrap(), "precious");
}

#[test]
fn a_socket_that_was_replaced_is_not_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let service = Service::start(&format!("bind = \"unix:{}\"", path.display()));
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert_eq!(service.stop().0, 0);
    assert!(path.exists(), "it belongs to another process now");
}

#[test]
fn an_address_that_cannot_be_bound_is_named_with_the_fix() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (bind, sentence) in [
        (taken.as_str(), "is in use by another process: stop it"),
        ("192.0.2.1:8888", "is not an address of this machine"),
        ("unix:/nonexistent/w.sock", "the directory of unix:/nonexistent/w.sock does not exist"),
    ] {
        let (code, said) = refused(bind);
        assert_eq!(code, 1, "{bind}: {said}");
        assert!(said.contains(bind) && said.contains(sentence), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_port_below_1024_points_to_the_socket_unit() {
    // Root may bind it, so drop that capability.
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service", "--"]);
    setpriv.arg(env!("CARGO_BIN_EXE_wsecho")).args(["--bind", "127.0.0.1:1"]);
    let outcome = Outcome::of(&mut setpriv);
    if fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .is_ok_and(|n| n.trim() == "0")
    {
        eprintln!("SKIPPED: anyone may bind any port on this machine");
        return;
    }
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1:1 is a privileged port"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("wsecho.socket"), "{}", outcome.stderr);
}

#[test]
fn only_what_may_heal_by_waiting_is_tried_again() {
    // A link-local address needs an interface, and one that is missing stops the others.
    for (bind, expected) in [
        (&["[fe80::1]:8888"][..], 78),
        (&["unix:/proc/w.sock"], 1),
        (&["127.0.0.1:0", "192.0.2.1:8888"], 1),
    ] {
        let flags = bind.iter().flat_map(|addr| ["--bind", addr]);
        let outcome = Outcome::of(wsecho().args(flags));
        assert_eq!(outcome.code(), expected, "{bind:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_unix_socket_whose_owner_is_stuck_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let socket = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (stuck, addr) = (socket(), SockAddr::unix(&path).unwrap());
    stuck.bind(&addr).unwrap();
    stuck.listen(0).unwrap();
    // Its queue takes no more.
    let mut queue = Vec::new();
    loop {
        let client = socket();
        match client.connect(&addr) {
            Ok(()) => queue.push(client),
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let (code, said) = refused(&format!("unix:{}", path.display()));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    assert!(path.exists());
}

/// The kernels of EL 7.0 to 7.2 do not know TCP_NOTSENT_LOWAT.
#[test]
fn a_socket_option_that_the_kernel_does_not_know_is_left_out() {
    let strace = Command::new("strace").args(["-o/dev/null", "true"]).status();
    if !strace.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no strace here");
        return;
    }
    for error in ["ENOPROTOOPT", "EINVAL"] {
        // SO_REUSEADDR, TCP_NODELAY and four for keepalive come before it.
        let first = format!(
            "exec strace -D -f -q -o /dev/null -e trace=setsockopt \
             -e inject=setsockopt:error={error}:when=7 \"$0\" \"$@\""
        );
        let mut service = Service::start_with("workers = 1\nlog.level = \"debug\"", |command| {
            through_shell(command, &first);
        });
        service.log_line("this kernel does not know TCP_NOTSENT_LOWAT: left out");
        assert_eq!(echo(&mut service.open("/socket"), "a"), "server: a");
    }
}

#[test]
fn a_wildcard_is_announced_as_an_address_that_a_browser_can_open() {
    for bind in ["0.0.0.0:0", "[::]:0"] {
        let mut service = Service::start(&format!("bind = \"{bind}\""));
        let (_, port) = service.addrs[0].rsplit_once(':').unwrap();
        let expected =
            format!("open http://localhost:{port}/ in a browser, or ws://localhost:{port}/socket ");
        let line = service.log_line("listening on ");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn inherited_sockets_are_served_and_their_paths_are_left_to_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let service =
        Service::start_with("bind = \"systemd\"", |command| inherit(&[&tcp, &unix], command));
    assert_eq!(service.addrs[0], tcp.local_addr().unwrap().to_string());
    assert_eq!(service.addrs[1], format!("unix:{}", path.display()));
    assert_eq!(echo(&mut service.open("/socket"), "a"), "server: a");
    assert_eq!(echo(&mut upgrade(connect_unix(&path), "/socket"), "b"), "server: b");
    let (code, log) = service.stop();
    assert_eq!(code, 0, "{log}");
    assert!(path.exists(), "systemd still listens on it");
}

#[test]
fn systemd_without_a_passed_socket_is_a_configuration_error() {
    let (code, said) = refused("systemd");
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("start wsecho.socket"), "{said}");
}

#[test]
fn a_passed_connection_is_refused_with_the_fix() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut command = wsecho();
    command.args(["--bind", "systemd"]);
    inherit(&[&client], &mut command);
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("set Accept=no"), "{}", outcome.stderr);
}

#[test]
fn a_passed_datagram_socket_is_refused_with_the_fix() {
    let socket = UnixDatagram::unbound().unwrap();
    let mut command = wsecho();
    command.args(["--bind", "systemd"]);
    inherit(&[&socket], &mut command);
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("ListenStream="), "{}", outcome.stderr);
}

#[test]
fn a_second_instance_on_the_same_port_is_refused() {
    let first = Service::start("");
    let (code, said) = refused(&first.addrs[0]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(echo(&mut first.open("/echo"), "still here"), "still here");
}

#[test]
fn a_socket_path_too_long_for_the_kernel_is_refused() {
    let long = format!("unix:/{}", "x".repeat(200));
    let outcome = Outcome::of(wsecho().args(["--bind", &long]));
    assert_eq!(outcome.code(), 2);
    assert!(outcome.stderr.contains("limited to 107 bytes"), "{}", outcome.stderr);
    assert!(!Path::new("/xxx").exists());
}

#[test]
fn out_of_descriptors_the_service_waits_keeps_serving_and_recovers() {
    let mut service = Service::start("limits.max_connections = 1000");
    let mut session = service.open("/echo");
    // Lowered behind its back: at startup it would refuse such a limit.
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(service.process()), Resource::Nofile, few).expect("our own child");
    let crowd: Vec<_> = (0..100).map(|_| service.connect()).collect();
    service.log_line("cannot accept connections");
    for _ in 0..100 {
        assert_eq!(echo(&mut session, "unharmed"), "unharmed");
    }
    let before = cpu(&service);
    // Not a wait: the time over which CPU time is measured.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let spent = cpu(&service).saturating_sub(before);
    assert!(spent.as_millis() < 100, "{spent:?} of CPU time in two seconds of waiting");
    let begun = tokio::time::Instant::now();
    drop(crowd);
    service.log_line("accepting connections again");
    assert!(
        begun.elapsed().as_secs() < 10,
        "longer than ten of the longest pauses: {:?}",
        begun.elapsed()
    );
    assert_eq!(echo(&mut service.open("/echo"), "served"), "served");
    let (_, log) = service.stop();
    let told = log.matches("cannot accept connections").count();
    assert!(told <= 3, "once per change, not {told} times");
}
