//! Floods of small things: empty fragments, tiny fragments, pings.

use std::time::Duration;

use super::client::Client;
use super::measure::{KIB, MIB, Peak, cpu};
use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, frame, noise};
use crate::service::Service;

#[test]
fn twenty_thousand_empty_continuations_end_with_1008() {
    let service = Service::start("");
    let mut client = Client::open(&service, "/echo");
    client.send(TEXT, b"begun");
    // The service goes on reading after its Close, so all of this can be sent.
    client.write(&frame(CONTINUE, b"").repeat(20_000)).unwrap();
    let (code, reason) = client.read_close();
    assert_eq!(code, 1008);
    assert_eq!(reason, "wsecho: 1024 empty fragments in one message");
    client.send(FIN | CLOSE, &1008_u16.to_be_bytes());
    assert_eq!(client.read_to_end(), 0);
}

#[test]
fn a_message_in_fragments_of_one_byte_is_echoed() {
    let service = Service::start("");
    let mut client = Client::open(&service, "/echo");
    let message = noise(10 * KIB);
    let mut request = frame(BINARY, &message[..1]);
    for byte in &message[1..message.len() - 1] {
        request.extend(frame(CONTINUE, &[*byte]));
    }
    request.extend(frame(FIN | CONTINUE, &message[message.len() - 1..]));
    client.write(&request).unwrap();
    assert!(client.read_message().unwrap() == message);
}

#[test]
fn a_million_pings_from_a_client_that_does_not_read_cost_nothing_and_the_newest_is_answered() {
    const PINGS: u32 = 1_000_000;
    let service = Service::start("workers = 1");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let mut client = Client::open_clamped(&service, "/echo");
    let peak = Peak::new(&service);
    let before = cpu(&service);
    for thousand in 0..PINGS / 1000 {
        let pings = (0..1000).flat_map(|n| frame(FIN | PING, &(thousand * 1000 + n).to_be_bytes()));
        client.write(&pings.collect::<Vec<_>>()).unwrap();
        if thousand % 10 == 0 {
            other.echo(TEXT, b"unharmed");
        }
    }
    let spent = cpu(&service).saturating_sub(before);
    // Ten times what it takes without optimization.
    assert!(spent < Duration::from_secs(10), "{spent:?} of CPU time");
    assert!(peak.growth() < 2 * MIB, "{} bytes", peak.growth());
    let mut answered: Vec<u32> = Vec::new();
    while answered.last() != Some(&(PINGS - 1)) {
        let pong = client.read_frame().unwrap();
        assert_eq!(pong.opcode, PONG);
        answered.push(u32::from_be_bytes(pong.payload.try_into().unwrap()));
    }
    assert!(answered.is_sorted(), "pongs come in order");
    assert!(answered.len() < PINGS as usize, "the output never blocked: this proves nothing");
    // Nothing else is owed.
    client.echo(TEXT, b"and still an echo");
}
