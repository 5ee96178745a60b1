//! Frames that are answered whole: one frame out for each frame in, whatever its length.

use wsecho::ws::deflate::{inflate::INFLATER, stored};
use wsecho::ws::engine::{Echo, End, Out, Pressure};

use super::deflate::{compress, random};
use super::support::{
    BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Peer, RSV1, Sent, TEXT, frame, header, noise, prose,
};

const KIB: usize = 1024;
const MIB: usize = 1 << 20;
const LIMIT: usize = 2 * MIB;
const PREFIX: &str = "server: ";

fn peer(prefix: &str, compression: bool) -> Peer {
    let mut echo = Echo::new(prefix, LIMIT as u64);
    echo.whole_frames = true;
    Peer::with(echo, compression)
}

/// Payloads that are answered by at most the limit.
fn lengths(prefix: &str) -> [usize; 8] {
    [0, 1, 125, 126, 65_535, 65_536, MIB, LIMIT - prefix.len()]
}

#[test]
fn every_frame_is_answered_by_one_however_long_it_is_and_however_it_arrives() {
    for prefix in ["", PREFIX] {
        for len in lengths(prefix) {
            let text = prose(len);
            for (opcode, payload, before) in
                [(TEXT, text.as_bytes(), prefix), (BINARY, &noise(len), "")]
            {
                let stream = frame(FIN | opcode, payload);
                for size in [1 + len / 1000, 20_000, 516 * KIB, stream.len()] {
                    let mut peer = peer(prefix, false);
                    peer.read_in_pieces(&stream, size);
                    let payload = [before.as_bytes(), payload].concat();
                    let whole = Sent { fin: true, opcode, payload };
                    assert!(peer.frames() == [whole], "{prefix:?} {opcode} {len} by {size}");
                    assert_eq!(peer.engine.held_capacity(), 0);
                }
            }
        }
    }
}

#[test]
fn a_compressed_frame_comes_back_as_one() {
    for prefix in ["", PREFIX] {
        for len in lengths(prefix) {
            let text = prose(len);
            for (opcode, payload, before) in [
                (TEXT, compress(text.as_bytes()), stored(prefix.as_bytes())),
                (BINARY, compress(&random(len)), stored(b"")),
            ] {
                let stream = frame(FIN | RSV1 | opcode, &payload);
                for size in [1 + len / 1000, 20_000, stream.len()] {
                    let mut peer = peer(prefix, true);
                    peer.read_in_pieces(&stream, size);
                    let payload = [&before[..], &payload].concat();
                    let whole = Sent { fin: true, opcode: RSV1 | opcode, payload };
                    assert!(peer.frames() == [whole], "{prefix:?} {opcode} {len} by {size}");
                    assert_eq!(peer.engine.held_capacity(), 0);
                }
            }
        }
    }
}

#[test]
fn a_frame_over_the_limit_is_refused_at_its_header() {
    for (prefix, opcode, len) in [
        ("", TEXT, LIMIT + 1),
        ("", BINARY, LIMIT + 1),
        (PREFIX, TEXT, LIMIT - PREFIX.len() + 1),
        (PREFIX, BINARY, LIMIT + 1),
    ] {
        let mut peer = peer(prefix, false);
        peer.read(&header(FIN | opcode, len as u64));
        assert_eq!(peer.engine.end(), Some(&End::TooBig(LIMIT as u64)), "{prefix:?} {opcode}");
        assert_eq!(peer.seen().close, Some(Some(1009)));
    }
}

#[test]
fn fragments_of_the_client_are_answered_one_by_one_with_control_frames_between_them() {
    let parts = [noise(100), noise(300_000), noise(0), noise(700_000)];
    let stream = [
        frame(BINARY, &parts[0]),
        frame(FIN | PING, b"?"),
        frame(CONTINUE, &parts[1]),
        frame(CONTINUE, &parts[2]),
        frame(FIN | PING, b"!"),
        frame(FIN | CONTINUE, &parts[3]),
    ]
    .concat();
    for size in [1000, 65_537, 516 * KIB, stream.len()] {
        let mut peer = peer("", false);
        peer.read_in_pieces(&stream, size);
        let [first, second, third, fourth] = parts.clone();
        let expected = [
            (false, BINARY, first),
            (true, PONG, b"?".to_vec()),
            (false, CONTINUE, second),
            (false, CONTINUE, third),
            (true, PONG, b"!".to_vec()),
            (true, CONTINUE, fourth),
        ]
        .map(|(fin, opcode, payload)| Sent { fin, opcode, payload });
        assert!(peer.frames() == expected, "by {size}");
        assert_eq!(peer.engine.counts().messages, 1);
    }
}

#[test]
fn nothing_of_a_frame_is_sent_before_all_of_it_is_known_to_be_text() {
    let mut bad = prose(MIB).into_bytes();
    bad.push(0xff);
    for (compression, payload) in [(false, bad.clone()), (true, compress(&bad))] {
        let rsv1 = if compression { RSV1 } else { 0 };
        let mut peer = peer(PREFIX, compression);
        peer.read_in_pieces(&frame(FIN | rsv1 | TEXT, &payload), 100_000);
        let opcodes: Vec<u8> = peer.frames().iter().map(|it| it.opcode).collect();
        assert_eq!(opcodes, [CLOSE]);
        assert_eq!(peer.seen().close, Some(Some(1007)));
    }
}

#[test]
fn memory_follows_what_has_come_and_not_the_declared_length() {
    let mut peer = peer("", false);
    peer.read(&header(FIN | BINARY, LIMIT as u64));
    assert_eq!(peer.engine.held_capacity(), 0);
    let payload = noise(LIMIT);
    let mut came = 0;
    for piece in payload[..LIMIT - 1].chunks(50_000) {
        peer.read(piece);
        came += piece.len();
        let held = peer.engine.held_capacity();
        assert!((came..=LIMIT.min(2 * came)).contains(&held), "{held} bytes held of {came}");
    }
    assert!(peer.sent.is_empty());
}

#[test]
fn without_memory_a_frame_waits_as_it_came_and_its_last_4_kib_do_not() {
    let spent = Pressure { memory_spent: true, ..Pressure::default() };
    for (compression, opcode, payload) in
        [(false, TEXT, prose(MIB).into_bytes()), (true, RSV1 | BINARY, compress(&random(MIB)))]
    {
        let stream = frame(FIN | opcode, &payload);
        let mut peer = peer("", compression);
        let (first, rest) = stream.split_at(200_000);
        peer.read(first);
        let held = peer.engine.held_capacity();

        // Nothing is taken, however often it is offered, and nothing is sent.
        let (mut next, mut out) = (rest[..50_000].to_vec(), Out::new());
        for _ in 0..3 {
            let taken = peer.engine.receive(&mut next, &mut out, &mut peer.inflaters, spent);
            assert_eq!((taken, out.len()), (0, 0));
            assert!(peer.engine.awaits_memory());
            assert_eq!(peer.engine.held_capacity(), held);
        }
        assert!(next == rest[..50_000], "it is left as it came");

        let (middle, last) = rest.split_at(rest.len() - 4096);
        peer.read_in_pieces(middle, 100_000);
        assert!(!peer.engine.awaits_memory());
        let mut little = last[..4000].to_vec();
        let taken = peer.engine.receive(&mut little, &mut out, &mut peer.inflaters, spent);
        assert_eq!((taken, out.len()), (4000, 0));
        peer.pressure = spent;
        peer.read(&last[4000..]);
        assert!(peer.frames() == [Sent { fin: true, opcode, payload }]);
    }
}

#[test]
fn without_memory_small_frames_go_on_and_what_is_there_is_answered() {
    for len in [0, 1, 125, 126, 4096, 4097, 100_000] {
        let stream = frame(FIN | BINARY, &noise(len));
        let mut peer = peer("", false);
        peer.pressure.memory_spent = true;
        peer.read_in_pieces(&stream, if len <= 4096 { 100 } else { stream.len() });
        assert!(peer.frames() == [Sent { fin: true, opcode: BINARY, payload: noise(len) }]);
        assert!(peer.most_held <= 4096);
    }
}

#[test]
fn a_close_while_a_frame_is_held_gives_its_memory_back() {
    let mut peer = peer("", true);
    let stream = frame(FIN | RSV1 | BINARY, &compress(&random(MIB)));
    peer.read(&stream[..500_000]);
    assert!(peer.engine.held_capacity() >= 499_000 + INFLATER);
    peer.say(|engine, out| engine.close(1013.into(), "wsecho: later", out));
    assert_eq!(peer.engine.held_capacity(), 0);
    peer.read(&stream[500_000..]);
    peer.read(&frame(FIN | CLOSE, &1013_u16.to_be_bytes()));
    assert_eq!(peer.seen().close, Some(Some(1013)));
    assert_eq!(peer.frames().len(), 1);
}
