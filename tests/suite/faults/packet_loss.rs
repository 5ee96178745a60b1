//! Lost packets: dead peers are noticed in time, live ones are not dropped.
//!
//! These tests run in a network namespace created by `tests/loss`, with an nftables chain for the
//! losses. Anywhere else that chain is missing, and they fail before they change anything.

use std::net::Ipv4Addr;
use std::process::Command;
use std::thread::scope;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::measure::{descriptors, wait_for};
use crate::engine::support::{CLOSE, FIN, PING, PONG, TEXT};
use crate::service::Service;

/// In which direction packets are lost, as seen from the service: from or to the client.
#[derive(Clone, Copy, Debug)]
enum Way {
    From,
    To,
}

/// From now on, loses this percentage of the packets from or to a client's address.
fn lose(percent: u32, way: Way, client: Ipv4Addr) {
    let way = match way {
        Way::From => "saddr",
        Way::To => "daddr",
    };
    nft(&format!(
        "add rule ip wsecho loss ip {way} {client} numgen random mod 100 <= {} counter drop",
        percent - 1
    ));
}

/// How many packets from and to this address were lost.
fn lost(client: Ipv4Addr) -> u64 {
    let rules = nft("list chain ip wsecho loss");
    let of_client = rules.lines().filter(|rule| rule.contains(&format!(" {client} ")));
    let counts =
        of_client.filter_map(|rule| rule.split_once("counter packets ")?.1.split_once(' '));
    counts.map(|(count, _)| count.parse::<u64>().expect("a number")).sum()
}

fn nft(command: &str) -> String {
    let output = Command::new("nft").arg(command).output().expect("tests/loss has installed it");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ASCII")
}

#[test]
#[ignore = "needs its own network: tests/loss"]
fn peers_whose_packets_are_all_lost_are_noticed_in_time() {
    let mut service = Service::start(
        "log.format = \"json\"\ntimeouts.ping_interval = \"300ms\"\ntimeouts.pong = \"1s\"",
    );
    let mut neighbour = Client::open(&service, "/echo?ping=off");
    neighbour.echo(TEXT, b"here");
    let open = descriptors(&service);
    let ways: [&[Way]; 3] = [&[Way::From], &[Way::To], &[Way::From, Way::To]];
    for (source, ways) in (2..).map(|last| Ipv4Addr::new(127, 0, 0, last)).zip(ways) {
        let mut clients: Vec<_> =
            (0..10).map(|_| Client::open_from(source, &service.addrs[0], "/echo")).collect();
        for client in &mut clients {
            client.echo(TEXT, b"alive");
        }
        for &way in ways {
            lose(100, way, source);
        }
        let begun = Instant::now();
        for client in &clients {
            let line = service.log_line(&client.addr().to_string());
            assert!(line.contains(r#""ended":"pong_timeout""#), "{ways:?}: {line}");
        }
        let took = begun.elapsed();
        // Ten times the sum of ping_interval and pong.
        assert!(took < Duration::from_secs(13), "{ways:?}: {took:?}");
        assert!(lost(source) > 0);
        wait_for("nothing is left of them", || descriptors(&service) <= open);
    }
    neighbour.echo(TEXT, b"unharmed");
}

#[test]
#[ignore = "needs its own network: tests/loss"]
fn live_peers_with_a_tenth_of_their_packets_lost_each_way_are_not_dropped() {
    // Sixty ping intervals, and more than twice the time a client has to answer. It begins once a
    // client is connected: lost SYNs alone can take longer, as the kernel waits 1, 2, 4, 8 s.
    const LONG: Duration = Duration::from_secs(12);
    const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
    let mut service = Service::start(
        "log.format = \"json\"\ntimeouts.ping_interval = \"200ms\"\ntimeouts.pong = \"5s\"",
    );
    lose(10, Way::From, SOURCE);
    lose(10, Way::To, SOURCE);
    let addr = service.addrs[0].as_str();
    let talk = |client: &mut Client| {
        let begun = Instant::now();
        let mut number = 0_u64;
        while begun.elapsed() < LONG {
            number += 1;
            assert_echo(client, &number.to_string());
        }
        assert!(number > 100, "only {number} messages got through");
    };
    let answer_pings = |client: &mut Client| {
        let begun = Instant::now();
        let mut pings = 0;
        while begun.elapsed() < LONG {
            assert_eq!(client.read_frame().expect("not dropped").opcode, PING);
            client.send(FIN | PONG, b"");
            pings += 1;
        }
        assert!(pings > 5, "only {pings} pings got through");
        assert_echo(client, "still here");
    };
    let clients: Vec<_> = scope(|scope| {
        let run = |live: &(dyn Fn(&mut Client) + Sync)| {
            // In parallel: a client that waited for the others' handshakes would be mute meanwhile.
            let mut client = Client::open_from(SOURCE, addr, "/echo");
            live(&mut client);
            client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
            assert_eq!(client.read_close().0, 1000);
            client
        };
        let kinds: [&(dyn Fn(&mut Client) + Sync); 2] = [&talk, &answer_pings];
        let threads: Vec<_> = (0..20).map(|n| scope.spawn(move || run(kinds[n % 2]))).collect();
        threads.into_iter().map(|it| it.join().expect("it was served")).collect()
    });
    assert!(lost(SOURCE) > 200, "{} packets were lost", lost(SOURCE));
    for client in &clients {
        let line = service.log_line(&client.addr().to_string());
        assert!(line.contains(r#""ended":"peer""#), "{line}");
    }
}

/// Sends a text, and answers pings until its echo comes.
fn assert_echo(client: &mut Client, text: &str) {
    client.send(FIN | TEXT, text.as_bytes());
    loop {
        let frame = client.read_frame().expect("not dropped");
        if frame.opcode != PING {
            assert_eq!((frame.opcode, &frame.payload[..]), (TEXT, text.as_bytes()));
            return;
        }
        client.send(FIN | PONG, &frame.payload);
    }
}
