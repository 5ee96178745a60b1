//! What an idle connection costs, fresh and after it has been used.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::client::Client;
use super::measure::{KIB, MIB, memory};
use crate::engine::support::{BINARY, TEXT, noise};
use crate::service::Service;

/// Raises the descriptor limit, which children inherit, to what this many connections and all other
/// tests need; returns false if the hard limit is too low.
pub fn raise_limit(connections: u64) -> bool {
    let wanted = connections + 2000;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        eprintln!("SKIPPED: the hard descriptor limit is below {wanted}: {limit:?}");
        return false;
    }
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), ..limit };
        setrlimit(Resource::Nofile, raised).expect("below the hard limit");
    }
    true
}

#[test]
fn ten_thousand_idle_connections_cost_under_4_kib_each_even_after_a_large_echo() {
    const CONNECTIONS: usize = 10_000;
    const USED: usize = 1000;
    if !raise_limit(CONNECTIONS as u64) {
        return;
    }
    let service = Service::start("workers = 1\ntimeouts.ping_interval = \"10m\"");
    let message = noise(MIB);
    let open = || Client::open(&service, "/echo");
    let mut first = open();
    first.echo(BINARY, &message);
    let none = memory(&service);
    let mut clients: Vec<_> = (1..CONNECTIONS).map(|_| open()).collect();
    // The last session is running, so all are.
    clients.last_mut().unwrap().echo(TEXT, b"here");
    let fresh = memory(&service);
    let each = (fresh - none) / CONNECTIONS;
    assert!(each < 4 * KIB, "{each} bytes each");
    for client in &mut clients[..USED] {
        client.echo(BINARY, &message);
    }
    let grown = memory(&service).saturating_sub(fresh) / USED;
    assert!(each + grown < 4 * KIB, "{each} bytes each, {grown} more after 1 MiB");
    first.echo(TEXT, b"unharmed");
}
