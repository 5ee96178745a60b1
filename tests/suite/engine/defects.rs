//! Every protocol error, split in every way: the right Close, and nothing before it is lost.

use tokio_tungstenite::tungstenite::protocol::Message;
use wsecho::ws::engine::{End, Phase};
use wsecho::ws::frame::{FrameHeader, Violation};

use super::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Peer, TEXT, frame, header};

/// The bytes of a defect, the end it must lead to, the close code, and the phase afterwards.
fn table() -> Vec<(Vec<u8>, End, u16, Phase)> {
    use Phase::{Closed, Closing};
    let protocol = |bytes, violation, phase| (bytes, End::Protocol(violation), 1002, phase);
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload);
    vec![
        protocol(frame(FIN | TEXT | 0x40, b"x"), Violation::ReservedBit, Closing),
        protocol(frame(FIN | PING | 0x10, b"x"), Violation::ReservedBit, Closing),
        protocol(frame(FIN | 3, b"x"), Violation::ReservedOpcode, Closing),
        protocol(frame(FIN | 15, b"x"), Violation::ReservedOpcode, Closing),
        protocol(vec![FIN | TEXT, 1, b'x'], Violation::Unmasked, Closing),
        protocol(frame(PING, b"x"), Violation::FragmentedControl, Closing),
        protocol(frame(FIN | PONG, &[0; 126]), Violation::OversizedControl, Closing),
        protocol(frame(FIN | CLOSE, &[0; 126]), Violation::OversizedControl, Closed),
        protocol(
            vec![FIN | TEXT, 0xfe, 0, 1, 0, 0, 0, 0, b'x'],
            Violation::NonMinimalLength,
            Closing,
        ),
        protocol(header(FIN | BINARY, 1 << 63), Violation::LengthOverflow, Closing),
        protocol(frame(FIN | CONTINUE, b"x"), Violation::StrayContinuation, Closing),
        protocol(
            [frame(TEXT, b"x"), frame(FIN | TEXT, b"x")].concat(),
            Violation::InterleavedMessage,
            Closing,
        ),
        protocol(close(b"\x03"), Violation::OneByteClose, Closed),
        protocol(close(b"\x03\xed"), Violation::CloseCode(1005), Closed),
        protocol(close(b"\x07\xd0why"), Violation::CloseCode(2000), Closed),
        (close(b"\x03\xe8\xff"), End::InvalidCloseReason, 1007, Closed),
        (frame(FIN | TEXT, b"ab\xffcd"), End::InvalidText, 1007, Closing),
        (frame(FIN | TEXT, b"\xed\xa0\x80"), End::InvalidText, 1007, Closing),
        (frame(FIN | TEXT, b"cut \xe2\x82"), End::InvalidText, 1007, Closing),
        (
            [frame(TEXT, b"\xe2"), frame(FIN | PING, b""), frame(FIN | CONTINUE, b"\x82")].concat(),
            End::InvalidText,
            1007,
            Closing,
        ),
        (header(FIN | BINARY, 1001), End::TooBig(1000), 1009, Closing),
        (header(FIN | BINARY, (1 << 63) - 1), End::TooBig(1000), 1009, Closing),
        (
            [frame(BINARY, &[0; 1000]), frame(FIN | CONTINUE, &[0; 1])].concat(),
            End::TooBig(1000),
            1009,
            Closing,
        ),
        (
            [frame(BINARY, b""), frame(CONTINUE, b"").repeat(1023)].concat(),
            End::EmptyFragments,
            1008,
            Closing,
        ),
    ]
}

#[test]
fn every_defect_gets_its_close_however_it_is_split_and_costs_no_earlier_message() {
    for (defect, end, code, phase) in table() {
        let before = [
            frame(FIN | TEXT, "first €".as_bytes()),
            frame(BINARY, b"sec"),
            frame(FIN | CONTINUE, b"ond"),
        ];
        let stream = [before.concat(), defect].concat();
        for size in [1, 2, 7, stream.len()] {
            let mut peer = Peer::new("", 1000);
            peer.read_in_pieces(&stream, size);
            let seen = peer.seen();
            let expected = [Message::text("first €"), Message::binary(b"second".to_vec())];
            assert_eq!(seen.messages(), expected.iter().collect::<Vec<_>>(), "{end:?} by {size}");
            assert_eq!(peer.engine.end(), Some(&end), "by {size}");
            assert_eq!(seen.close, Some(Some(code)), "{end:?} by {size}");
            assert!(seen.reason.starts_with("wsecho: "), "{end:?}: {}", seen.reason);
            assert_eq!(peer.engine.phase(), phase, "{end:?} by {size}");
            assert_eq!(peer.engine.held_capacity(), 0, "{end:?} by {size}");
        }
    }
}

#[test]
fn after_a_defect_only_the_peers_close_counts() {
    for (defect, end, code, phase) in table() {
        // A declared payload that never comes swallows everything after it.
        let endless = matches!(FrameHeader::parse(&defect), Some((header, _)) if header.len > 1000);
        if phase == Phase::Closed || endless {
            continue;
        }
        let after = [
            frame(FIN | TEXT, b"not echoed"),
            frame(FIN | 0x70 | 7, b"not an error"),
            frame(FIN | PING, b"not answered"),
            frame(FIN | CLOSE, b"\x03\xe8"),
        ];
        let stream = [defect, after.concat()].concat();
        for size in [1, 2, 7, stream.len()] {
            let mut peer = Peer::new("", 1000);
            peer.read_in_pieces(&stream, size);
            assert_eq!(peer.engine.phase(), Phase::Closed, "{end:?} by {size}");
            assert_eq!(peer.engine.end(), Some(&end));
            let closes = peer.frames().iter().filter(|sent| sent.opcode == CLOSE).count();
            assert_eq!(closes, 1, "{end:?} by {size}");
            assert_eq!(peer.seen().close, Some(Some(code)));
        }
    }
}

#[test]
fn an_invalid_byte_of_text_is_rejected_before_its_frame_is_complete() {
    let mut stream = header(FIN | TEXT, 1000);
    stream.extend(frame(FIN | TEXT, b"fine so far\xc0").split_off(6));
    let mut peer = Peer::verbatim();
    peer.read(&stream[..stream.len() - 1]);
    assert_eq!(peer.engine.phase(), Phase::Open);
    peer.read(&stream[stream.len() - 1..]);
    assert_eq!(peer.engine.end(), Some(&End::InvalidText));
}

#[test]
fn an_invalid_header_is_rejected_before_its_payload_comes() {
    for (first, len, code) in [
        (FIN | BINARY | 0x40, 5, 1002),
        (FIN | 4, 5, 1002),
        (FIN | PING, 126, 1002),
        (FIN | CONTINUE, 5, 1002),
        (FIN | BINARY, (16 << 20) + 1, 1009),
        (FIN | BINARY, u64::MAX, 1002),
    ] {
        let mut peer = Peer::verbatim();
        peer.read(&header(first, len));
        assert_eq!(peer.seen().close, Some(Some(code)), "{first:02x} {len}");
    }
}
