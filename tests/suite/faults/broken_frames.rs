//! Frames that break the rules, on real sockets: the right Close always comes, and then a FIN and
//! not a reset.

use std::net::Shutdown;

use wsecho::ws::frame::MAX_FRAME_HEADER;

use super::client::Client;
use super::measure::{KIB, MIB, descriptors, wait_for};
use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, PING, TEXT, frame, header, noise};
use crate::service::Service;

/// Twelve ways to break the rules, each with the close code it must get.
fn defects() -> [(&'static str, Vec<u8>, u16); 12] {
    [
        ("a reserved bit", frame(FIN | TEXT | 0x40, b"x"), 1002),
        ("a reserved opcode", frame(FIN | 3, b"x"), 1002),
        ("no mask", vec![FIN | TEXT, 1, b'x'], 1002),
        ("a fragmented ping", frame(PING, b"x"), 1002),
        ("a ping of 126 bytes", frame(FIN | PING, &[0; 126]), 1002),
        ("a length that is not minimal", vec![FIN | TEXT, 0xfe, 0, 1, 0, 0, 0, 0, b'x'], 1002),
        ("a length over 63 bits", header(FIN | BINARY, 1 << 63), 1002),
        ("a stray continuation", frame(FIN | CONTINUE, b"x"), 1002),
        ("two messages at once", [frame(TEXT, b"x"), frame(FIN | TEXT, b"x")].concat(), 1002),
        ("text that is not UTF-8", frame(FIN | TEXT, b"ab\xffcd"), 1007),
        ("a Close with a forbidden code", frame(FIN | CLOSE, b"\x03\xed"), 1002),
        ("a message over the limit", header(FIN | BINARY, MIB as u64 + 1), 1009),
    ]
}

#[test]
fn every_defect_is_answered_with_its_close_and_a_fin() {
    let service = Service::start("");
    let idle = descriptors(&service);
    let before = frame(FIN | TEXT, b"whole");
    for (name, defect, code) in defects() {
        let stream = [&before[..], &defect].concat();
        for size in [1, 2, 7, stream.len()] {
            let mut client = Client::open(&service, "/echo");
            for piece in stream.chunks(size) {
                client.write(piece).unwrap();
            }
            assert_eq!(client.read_message().unwrap(), b"whole", "{name} by {size}");
            let (told, reason) = client.read_close();
            assert_eq!(told, code, "{name} by {size}");
            assert!(reason.starts_with("wsecho: "), "{reason}");
            // A well-behaved client answers; after its own Close it has nothing to answer.
            if defect[0] != FIN | CLOSE {
                client.send(FIN | CLOSE, &code.to_be_bytes());
            }
            if defect.len() == MAX_FRAME_HEADER {
                // Its Close counts as the declared payload: only the end of the stream shows.
                client.stream().shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(client.read_to_end(), 0, "{name} by {size}");
        }
    }
    wait_for("all descriptors are closed", || descriptors(&service) <= idle);
}

#[test]
fn a_client_that_is_still_sending_gets_its_close_and_a_fin() {
    let service = Service::start("");
    for (name, defect, code) in defects() {
        if defect[0] == FIN | CLOSE {
            // After its own Close a client sends nothing.
            continue;
        }
        let mut client = Client::open(&service, "/echo");
        client.write(&defect).unwrap();
        // What the client had in flight; the service has sent its Close by now.
        for _ in 0..64 {
            client.write(&frame(FIN | BINARY, &noise(32 * KIB))).unwrap();
        }
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_close().0, code, "{name}");
        assert_eq!(client.read_to_end(), 0, "{name}");
    }
}
