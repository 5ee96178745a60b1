//! What a service without the feature `faults` does with the words of `hooks`.

use super::client::Client;
use super::measure::KIB;
use crate::engine::support::{BINARY, FIN, TEXT, frame, noise};
use crate::service::Service;

#[test]
fn nobody_can_ask_for_a_fault() {
    let service = Service::start("workers = 1");
    for fault in ["panic", "block"] {
        let mut client = Client::open(&service, &format!("/echo?fault={fault}"));
        // What is held of a frame is when it would panic.
        let whole = frame(FIN | BINARY, &noise(60 * KIB));
        client.write(&whole[..50 * KIB]).unwrap();
        Client::open(&service, "/echo").echo(TEXT, b"served");
        client.write(&whole[50 * KIB..]).unwrap();
        assert!(client.read_message().unwrap() == noise(60 * KIB));
    }
}
