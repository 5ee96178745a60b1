//! After a burst of everything that costs memory, the service is as small as before.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, write_what_is_taken};
use super::measure::{KIB, MIB, Peak, descriptors, memory, wait_for};
use crate::engine::support::{BINARY, FIN, PING, TEXT, frame, header, noise};
use crate::service::Service;

#[test]
fn ten_seconds_after_a_burst_memory_is_given_back_and_the_budget_is_unused() {
    let config = "workers = 1\nlimits.buffer_budget = \"64 MiB\"";
    let service = Service::start_with_admin(config, |_| ());
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let (before, open) = (memory(&service), descriptors(&service));
    let peak = Peak::new(&service);
    let whole = frame(FIN | BINARY, &noise(MIB));
    let streams: [Vec<u8>; 5] = [
        // Never read, unfinished, only declared, in tiny fragments, pings.
        frame(FIN | BINARY, &noise(64 * KIB)).repeat(64),
        whole[..whole.len() - 1].to_vec(),
        [header(FIN | BINARY, MIB as u64), vec![7; 10]].concat(),
        [frame(TEXT, b"x"), frame(0, b"x").repeat(100_000)].concat(),
        frame(FIN | PING, &[7; 100]).repeat(10_000),
    ];
    let mut crowd = Vec::new();
    for stream in &streams {
        let clients: Vec<_> = (0..40).map(|_| Client::open_clamped(&service, "/echo")).collect();
        write_what_is_taken(&clients, stream, &mut vec![0; clients.len()]);
        other.echo(TEXT, b"unharmed");
        crowd.extend(clients);
    }
    assert!(peak.growth() > 32 * MIB, "{} bytes: this proves nothing", peak.growth());
    assert!(peak.growth() < 80 * MIB, "{} bytes are over the budget", peak.growth());
    // The allocator may keep holes between live allocations, depending on the burst's shape.
    let holes = peak.growth() / 6;
    drop(crowd);
    let begun = Instant::now();
    wait_for("all have been dropped", || descriptors(&service) <= open);
    wait_for("nothing is charged any more", || service.metric("wsecho_buffer_used_bytes") == 0);
    while memory(&service).saturating_sub(before) > holes {
        let over = memory(&service).saturating_sub(before);
        assert!(begun.elapsed() < Duration::from_secs(10), "{over} bytes were not given back");
        std::thread::sleep(Duration::from_millis(10));
    }
}
