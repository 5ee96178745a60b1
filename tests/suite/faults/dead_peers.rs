//! Peers that vanish without a word, and the socket options that make the kernel find them.

use std::io::ErrorKind;
use std::time::Duration;

use socket2::SockRef;

use super::client::Client;
use super::measure::{MIB, server_side};
use crate::engine::support::{BINARY, FIN, PING, PONG, TEXT, noise};
use crate::service::Service;

#[test]
fn a_mute_client_is_pinged_and_then_dropped_and_one_that_answers_stays() {
    let mut service = Service::start("timeouts.ping_interval = \"200ms\"\ntimeouts.pong = \"1s\"");
    let mut mute = Client::open(&service, "/echo");
    let mut alive = Client::open(&service, "/echo");
    let mut silent = Client::open(&service, "/echo?ping=off");
    let ping = mute.read_frame().unwrap();
    assert_eq!((ping.opcode, ping.payload.len()), (PING, 0));
    // Enough to have ended the session, had they not been answered.
    for _ in 0..10 {
        assert_eq!(alive.read_frame().unwrap().opcode, PING);
        alive.send(FIN | PONG, b"");
    }
    let end = mute.read_frame().expect_err("no second ping, but the end");
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof, "a FIN, not a reset");
    let line = service.log_line("nothing arrived within timeouts.pong after a ping");
    assert!(line.contains(&mute.addr().to_string()), "{line}");
    alive.send(FIN | TEXT, b"alive");
    while alive.read_frame().unwrap().payload != b"alive" {}
    // The first thing it reads is its echo, so no ping came before.
    silent.echo(TEXT, b"silence");
}

#[test]
fn the_kernel_is_told_to_look_for_dead_peers_and_to_buffer_little() {
    let service = Service::start("timeouts.write = \"7s\"");
    for (path, keepalive) in [("/echo", true), ("/echo?ping=off", false)] {
        let mut client = Client::open(&service, path);
        client.echo(TEXT, b"the session is running");
        let socket = server_side(&service, client.addr());
        let socket = SockRef::from(&socket);
        // Ten seconds more than our own timer.
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(17)), "{path}");
        assert_eq!(socket.keepalive().unwrap(), keepalive, "{path}");
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
        for _ in 0..5 {
            client.echo(BINARY, &noise(MIB));
        }
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 512 * 1024, "this client reads fast");
        assert_eq!(socket.tcp_user_timeout().unwrap(), None, "it may have much to read");
    }
}
