//! How the peer's bytes are split between reads makes no difference.

use arbitrary::{Arbitrary, Unstructured};
use proptest::prelude::*;

use super::streams::{Case, cut};
use super::support::{BINARY, CLOSE, CONTINUE, FIN, PING, Peer, TEXT, frame, noise};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..Default::default() })]

    #[test]
    fn any_bytes_mean_the_same_in_pieces_and_whole(
        data in proptest::collection::vec(any::<u8>(), 0..1000),
    ) {
        cut(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..Default::default() })]

    /// The reply is no longer than asked for, but for what was held before, and one frame.
    #[test]
    fn what_is_received_for_a_reply_of_some_length_gets_no_longer_one(
        data in proptest::collection::vec(any::<u8>(), 0..1000),
        prefix in 0_usize..1025,
        output in 1_usize..100_000,
        empty in any::<bool>(),
    ) {
        let Ok(case) = Case::arbitrary(&mut Unstructured::new(&data)) else { return Ok(()) };
        let bytes = if empty { frame(FIN | TEXT, b"").repeat(1000) } else { case.bytes };
        let mut peer = Peer::new(&"p".repeat(prefix), 1 << 20);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (read, later) = rest.split_at(peer.engine.input_for(output).min(rest.len()));
            prop_assert!(!read.is_empty(), "it never gets any further");
            let most = output + peer.engine.held_capacity() + prefix + 2 * 127;
            let before = peer.sent.len();
            peer.read(read);
            let sent = peer.sent.len() - before;
            prop_assert!(sent <= most + output / 1024, "{sent} bytes for {}", read.len());
            rest = later;
        }
    }
}

#[test]
fn a_stream_gives_the_same_echo_wherever_it_is_split() {
    let stream = [
        frame(FIN | TEXT, "naïve 😀".as_bytes()),
        frame(TEXT, &"€".as_bytes()[..2]),
        frame(FIN | PING, b"between"),
        frame(CONTINUE, b""),
        frame(FIN | CONTINUE, &"€".as_bytes()[2..]),
        frame(FIN | BINARY, &noise(300)),
        frame(FIN | TEXT, b""),
        frame(FIN | CLOSE, b"\x03\xe8done"),
    ]
    .concat();
    for prefix in ["", "server: "] {
        let mut whole = Peer::new(prefix, 1 << 20);
        whole.read(&stream);
        let expected = whole.seen();
        assert_eq!(expected.events.len(), 5);
        for at in 0..=stream.len() {
            let mut split = Peer::new(prefix, 1 << 20);
            split.read(&stream[..at]);
            split.read(&stream[at..]);
            assert_eq!(split.seen(), expected, "split at {at}");
            assert_eq!(split.engine.end(), whole.engine.end(), "split at {at}");
            assert_eq!(split.engine.counts(), whole.engine.counts(), "split at {at}");
        }
    }
}
