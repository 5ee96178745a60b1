//! How the peer's bytes are split between reads makes no difference.

use proptest::prelude::*;

use super::streams::cut;
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
