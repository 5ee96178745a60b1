//! Without the feature `faults`, the requests in `hooks` have no effect.

use super::client::Client;
use super::measure::KIB;
use crate::engine::support::{BINARY, FIN, TEXT, frame, noise};
use crate::service::Service;

#[test]
fn nobody_can_ask_for_a_fault() {
    let service = Service::start("workers = 1");
    for fault in ["panic", "block"] {
        let mut client = Client::open(&service, &format!("/echo?fault={fault}"));
        // It would panic while it holds an unfinished frame.
        let whole = frame(FIN | BINARY, &noise(60 * KIB));
        client.write(&whole[..50 * KIB]).unwrap();
        Client::open(&service, "/echo").echo(TEXT, b"served");
        client.write(&whole[50 * KIB..]).unwrap();
        assert!(client.read_message().unwrap() == noise(60 * KIB));
    }
}
