//! Clients that send but read little or nothing: what is buffered for them is bounded, and they are
//! dropped only when they stop reading altogether.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread::{scope, sleep};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::client::{Client, clamped_service, read_frame, write_what_is_taken};
use super::measure::{
    KIB, KernelMemory, MIB, descriptors, kernel_memory, memory, unread, wait_for,
};
use crate::engine::support::{BINARY, CLOSE, FIN, PING, PONG, TEXT, frame, noise};
use crate::service::Service;

/// Sends messages of 64 KiB until the sockets take no more.
fn flood(clients: &[Client]) {
    // More than all buffers along the way can take.
    const ENOUGH: usize = 64 * MIB;
    let stream = frame(FIN | BINARY, &noise(64 * KIB)).repeat(ENOUGH / (64 * KIB));
    let mut sent = vec![0; clients.len()];
    write_what_is_taken(clients, &stream, &mut sent);
    assert!(sent.iter().all(|sent| *sent < ENOUGH), "there is no backpressure: {sent:?}");
}

#[test]
fn two_hundred_unread_echoes_cost_little_and_arrive_in_the_end() {
    let service = Service::start("workers = 1");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let mut clients: Vec<_> = (0..200).map(|_| Client::open_clamped(&service, "/echo")).collect();
    let before = memory(&service);
    let message = noise(64 * KIB);
    for client in &clients {
        client.send(FIN | BINARY, &message);
    }
    wait_for("everything is read", || unread(&service) == 0);
    for n in 0..1000 {
        other.echo(TEXT, format!("{n}").as_bytes());
    }
    let grown = memory(&service).saturating_sub(before);
    assert!(grown < 3 * MIB, "{grown} bytes for 200 x 64 KiB");
    for client in &mut clients {
        assert!(client.read_message().unwrap() == message);
    }
}

#[test]
fn a_client_that_never_reads_is_held_back_and_costs_a_bounded_amount() {
    let service = Service::start("workers = 1");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    // Half of them read fast before they stopped, so the kernel has enlarged their buffers.
    let mut clients: Vec<_> = (0..10).map(|_| Client::open_clamped(&service, "/echo")).collect();
    for _ in 0..10 {
        let mut client = Client::open(&service, "/echo");
        for _ in 0..16 {
            client.echo(BINARY, &noise(MIB));
        }
        clients.push(client);
    }
    let before = memory(&service);
    flood(&clients);
    other.echo(TEXT, b"unharmed");
    let each = memory(&service).saturating_sub(before) / clients.len();
    // A message of the largest size, headers, 64 KiB, and the slack of the last chunk.
    assert!(each < MIB + 256 * KIB, "{each} bytes each");
    if let Some(kernel) = kernel_memory(&service) {
        let all: Vec<KernelMemory> =
            clients.iter().map(|client| kernel[&client.addr().port()]).collect();
        // TCP_NOTSENT_LOWAT and overhead.
        assert!(all.iter().all(|it| it.sending < MIB), "{all:?}");
        // The other direction is bounded only by the system's settings.
        let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap();
        let most: usize = limits.split_whitespace().last().unwrap().parse().unwrap();
        assert!(all.iter().all(|it| it.receiving < 2 * most), "{all:?}");
    }
}

#[test]
fn a_stalled_reader_is_dropped_and_its_neighbour_is_not() {
    // The time for what it was sent is shortened as much: at most 2.6 s.
    let mut service = Service::start("workers = 1\ntimeouts.write = \"300ms\"");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let open = descriptors(&service);
    let mut clients: Vec<_> = (0..5).map(|_| Client::open_clamped(&service, "/echo")).collect();
    let begun = Instant::now();
    flood(&clients);
    for client in &mut clients {
        other.echo(TEXT, b"unharmed");
        client.read_until_cut();
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    service.log_line("the client read nothing within timeouts.write");
    wait_for("all have been dropped", || descriptors(&service) <= open);
}

#[test]
fn a_reader_that_trickles_outlives_the_write_timeout_many_times() {
    const WRITE: Duration = Duration::from_secs(2);
    // The kernel asks for more only once half of TCP_NOTSENT_LOWAT has been sent, and that is all
    // the service sees of a slow reader.
    let service = Service::start("timeouts.write = \"2s\"");
    let mut client = Client::open_clamped(&service, "/echo");
    let messages = frame(FIN | BINARY, &noise(MIB));
    scope(|scope| {
        let writer = client.stream().try_clone().unwrap();
        scope.spawn(move || (&writer).write_all(&messages));
        let begun = Instant::now();
        let mut echoed = 0;
        let mut buffer = vec![0; 32 * KIB];
        while echoed < MIB {
            let read = client.read(&mut buffer).unwrap();
            assert!(read > 0, "dropped after {echoed} bytes, {:?}", begun.elapsed());
            echoed += read;
            // Not a wait: this is how slow the client is.
            sleep(Duration::from_millis(200) * read as u32 / buffer.len() as u32);
        }
        let took = begun.elapsed();
        assert!(took > 3 * WRITE, "not slow: {took:?}");
    });
}

#[test]
fn a_client_that_writes_a_whole_message_before_it_reads_gets_its_echo() {
    // The kernel's default buffers would hold a whole message, which would prove nothing.
    let service = clamped_service("");
    let mut client = Client::open_clamped(&service, "/echo");
    client.echo(BINARY, &noise(MIB));
    client.echo(TEXT, &vec![b'x'; MIB]);
}

#[test]
fn a_client_that_half_closes_gets_every_echo_it_is_owed() {
    let service = clamped_service("");
    let mut client = Client::open_clamped(&service, "/echo");
    let message = noise(MIB);
    client.send(FIN | BINARY, &message);
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert!(client.read_message().unwrap() == message);
    assert_eq!(client.read_to_end(), 0, "and then a FIN");
}

/// Reads at a steady rate, in bytes a second.
struct Steady<'a> {
    client: &'a mut Client,
    rate: u32,
    begun: Instant,
    taken: u32,
}

impl Read for Steady<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min((self.rate as usize / 20).max(1));
        let read = self.client.read(&mut buffer[..most])?;
        self.taken += read as u32;
        // Not a wait: this is how slow the client is.
        let due = Duration::from_secs(self.taken.into()) / self.rate;
        sleep(due.saturating_sub(self.begun.elapsed()));
        Ok(read)
    }
}

#[test]
fn a_slow_reader_that_goes_on_sending_gets_its_last_echo_and_the_close() {
    const MESSAGES: usize = 60;
    let service = Service::start("shutdown.drain_spread = \"1ms\"");
    let open = |path: &str| Client::open_with_receive_buffer(&service, path, 4 * KIB);
    let clients =
        [(open(&format!("/echo?close=1000&after={MESSAGES}")), 1000), (open("/echo"), 1001)];
    let message = noise(1000);
    for (client, _) in &clients {
        client.write(&frame(FIN | BINARY, &message).repeat(MESSAGES)).expect("there is room");
    }
    wait_for("everything is read", || unread(&service) == 0);
    service.signal(Signal::TERM);
    let read = |(mut client, code): (Client, u16)| {
        let begun = Instant::now();
        let writer = client.stream().try_clone().expect("a descriptor");
        let mut reader = Steady { client: &mut client, rate: 15_000, begun, taken: 0 };
        for n in 0..MESSAGES {
            let sent = read_frame(&mut reader).expect("not reset");
            assert!(sent.payload == message, "{code}, {n}");
            // Late, but before it has read the Close.
            if n == MESSAGES - 10 {
                (&writer).write_all(&frame(FIN | TEXT, b"later")).expect("not reset");
            }
        }
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(3), "not slow: {took:?}");
        assert_eq!(client.read_close().0, code);
        client.send(FIN | CLOSE, &code.to_be_bytes());
        assert_eq!(client.read_to_end(), 0, "and then a FIN");
    };
    scope(|scope| {
        for client in clients {
            scope.spawn(|| read(client));
        }
    });
    assert_eq!(service.wait().0, 0);
}

/// A large message of which a session holds some, and the kernels of both ends the rest.
const LEN: usize = 440_000;

/// Sends a message, reads its echo at this many bytes a second, and answers pings as they come, until
/// nothing is left to read.
fn read_steadily(mut client: Client, rate: u32) -> Client {
    // The slowest take longer than other tests are patient.
    client.stream().set_read_timeout(None).expect("a socket");
    client.stream().set_write_timeout(None).expect("a socket");
    let writer = client.stream().try_clone().expect("a descriptor");
    let mut reader = Steady { client: &mut client, rate, begun: Instant::now(), taken: 0 };
    let (mut echoed, mut pings) = (Vec::new(), 0);
    scope(|scope| {
        scope.spawn(|| (&writer).write_all(&frame(FIN | BINARY, &noise(LEN))));
        while echoed.len() < LEN || pings < 2 {
            let dropped = |error| panic!("{rate} B/s, after {}: {error}", echoed.len());
            let sent = read_frame(&mut reader).unwrap_or_else(dropped);
            if sent.opcode == PING {
                pings += 1;
                (&writer).write_all(&frame(FIN | PONG, b"")).expect("not reset");
            } else {
                echoed.extend(sent.payload);
            }
        }
    });
    assert!(echoed == noise(LEN));
    (&writer).write_all(&frame(FIN | CLOSE, b"")).expect("not reset");
    client
}

/// Nine clients send a large message and read its echo at 1, 5 and 50 KB/s, with a small receive
/// buffer, the default one and one of 256 KiB, which is 128 doubled by the kernel, all `faster` than
/// that, as the timeouts are shorter. Each answers pings as they come, until nothing is left to read.
fn steady_readers_live(faster: u32) {
    let millis = |secs: u32| format!("\"{}ms\"", secs * 1000 / faster);
    let mut service = Service::start(&format!(
        "log.format = \"json\"\ntimeouts.ping_interval = {}\ntimeouts.pong = {}\ntimeouts.write = {}",
        millis(25),
        millis(20),
        millis(30)
    ));
    let kinds = [1000, 5000, 50_000]
        .map(|rate| [Some(2 * KIB), None, Some(128 * KIB)].map(|it| (rate, it)));
    let open = |(rate, buffer): (u32, Option<usize>)| {
        let client = match buffer {
            Some(size) => Client::open_with_receive_buffer(&service, "/echo", size),
            None => Client::open(&service, "/echo"),
        };
        (client, rate * faster)
    };
    let clients: Vec<_> = kinds.into_iter().flatten().map(open).collect();
    let clients: Vec<Client> = scope(|scope| {
        let all = clients.into_iter();
        let threads: Vec<_> =
            all.map(|it| scope.spawn(move || read_steadily(it.0, it.1))).collect();
        threads.into_iter().map(|it| it.join().expect("it lived")).collect()
    });
    for client in &clients {
        let line = service.log_line(&client.addr().to_string());
        assert!(line.contains(r#""ended":"peer""#), "{line}");
    }
}

#[test]
#[ignore = "needs its own network: tests/loss"]
fn slow_but_steady_readers_live_by_timeouts_as_short_as_they_are_fast() {
    steady_readers_live(30);
}

#[test]
#[ignore = "takes eight minutes in its own network: tests/loss --long"]
fn slow_but_steady_readers_live_at_the_default_timeouts() {
    steady_readers_live(1);
}
