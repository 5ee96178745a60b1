//! How payloads travel: whole, held, cut, or straight from the window; and what that costs.

use std::sync::Arc;

use tokio_tungstenite::tungstenite::protocol::Message;
use wsecho::ws::deflate::inflate::Inflaters;
use wsecho::ws::engine::{Counts, Echo, End, Engine, Out, Pressure};

use super::support::{
    BINARY, CONTINUE, FIN, PING, PONG, Peer, Sent, TEXT, frame, header, noise, prose,
};

const KIB: usize = 1024;

fn lengths(frames: &[Sent]) -> Vec<usize> {
    frames.iter().map(|it| it.payload.len()).collect()
}

/// The rules for fragments the engine cuts from one frame.
fn assert_well_cut(frames: &[Sent], shortest: usize, what: &str) {
    let (last, others) = frames.split_last().expect("at least one frame");
    assert!(last.fin && others.iter().all(|it| !it.fin), "{what}");
    assert!(frames[0].opcode != CONTINUE && frames[1..].iter().all(|it| it.opcode == CONTINUE));
    for len in lengths(others) {
        assert!((shortest..=64 * KIB).contains(&len), "{what}: {:?}", lengths(frames));
    }
    assert!(last.payload.len() <= 64 * KIB, "{what}: {:?}", lengths(frames));
}

#[test]
fn a_reply_of_up_to_64_kib_is_one_frame_however_it_arrives() {
    for len in [0, 1, 125, 126, 4095, 4096, 65_535, 65_536] {
        let stream = frame(FIN | BINARY, &noise(len));
        for size in [1, 7, 1000, 4096, 40_000, stream.len()] {
            let mut peer = Peer::verbatim();
            peer.read_in_pieces(&stream, size);
            let whole = Sent { fin: true, opcode: BINARY, payload: noise(len) };
            assert!(peer.frames() == [whole], "{len} by {size}");
        }
    }
}

#[test]
fn larger_replies_are_cut_into_fragments_of_16_to_64_kib() {
    for len in [65_537, 100_000, 131_072, 262_144, 1 << 20] {
        let stream = frame(FIN | BINARY, &noise(len));
        for size in [1000, 16 * KIB, 20_000, 65_550, 256 * KIB, stream.len()] {
            let mut peer = Peer::verbatim();
            peer.read_in_pieces(&stream, size);
            assert_well_cut(&peer.frames(), 16 * KIB, &format!("{len} by {size}"));
            assert!(*peer.seen().messages()[0] == Message::binary(noise(len)), "{len} by {size}");
        }
    }
}

#[test]
fn the_prefix_counts_towards_the_size_at_which_a_reply_is_cut() {
    let text = prose(64 * KIB - 7);
    let mut peer = Peer::new("server:", 1 << 20);
    peer.read(&frame(FIN | TEXT, text.as_bytes()));
    assert_eq!(lengths(&peer.frames()), [64 * KIB]);
    let mut peer = Peer::new("server: ", 1 << 20);
    peer.read(&frame(FIN | TEXT, text.as_bytes()));
    assert_well_cut(&peer.frames(), 16 * KIB, "one byte over");
    assert_eq!(peer.frames().len(), 2);
    assert!(*peer.seen().messages()[0] == Message::text(format!("server: {text}")));
}

#[test]
fn text_is_cut_between_characters() {
    for shift in 0..4 {
        let text = ".".repeat(shift) + &"😀€é".repeat(30_000);
        let stream = frame(FIN | TEXT, text.as_bytes());
        for size in [16 * KIB + 1, 30_001, 65_551, 100_002, 256 * KIB, stream.len()] {
            let mut peer = Peer::new("server: ", 1 << 20);
            peer.read_in_pieces(&stream, size);
            let frames = peer.frames();
            assert_well_cut(&frames, 16 * KIB, &format!("shifted by {shift}, read by {size}"));
            assert!(frames.iter().all(|it| std::str::from_utf8(&it.payload).is_ok()));
            assert!(*peer.seen().messages()[0] == Message::text(format!("server: {text}")));
        }
    }
}

#[test]
fn moving_a_cut_between_characters_makes_no_fragment_too_long() {
    for shift in 0..4 {
        let mut text = ".".repeat(shift) + &"😀".repeat(32 * KIB - 1);
        text.push_str(&".".repeat(128 * KIB - text.len()));
        let mut peer = Peer::verbatim();
        peer.read(&frame(FIN | TEXT, text.as_bytes()));
        assert_well_cut(&peer.frames(), 16 * KIB, &format!("shifted by {shift}"));
        assert!(*peer.seen().messages()[0] == Message::text(text));
    }
}

#[test]
fn fragments_of_the_client_are_echoed_one_by_one_even_if_they_split_a_character() {
    let euro = "€".as_bytes();
    let mut peer = Peer::verbatim();
    for part in [frame(TEXT, &euro[..1]), frame(CONTINUE, b""), frame(CONTINUE, &euro[1..2])] {
        peer.read(&part);
    }
    peer.read(&frame(FIN | CONTINUE, &euro[2..]));
    let frames = peer.frames();
    assert_eq!(lengths(&frames), [1, 0, 1, 1]);
    assert_eq!(frames.iter().map(|it| it.opcode).collect::<Vec<_>>(), [TEXT, 0, 0, 0]);
    assert_eq!(peer.seen().messages(), [&Message::text("€")]);
}

#[test]
fn a_control_frame_is_answered_between_the_same_fragments() {
    let stream = [frame(BINARY, b"a"), frame(FIN | PING, b"p"), frame(FIN | CONTINUE, b"b")];
    let mut peer = Peer::verbatim();
    peer.read(&stream.concat());
    let opcodes: Vec<u8> = peer.frames().iter().map(|it| it.opcode).collect();
    assert_eq!(opcodes, [BINARY, PONG, CONTINUE]);
}

#[test]
fn text_messages_get_the_prefix_and_binary_ones_do_not() {
    let stream = [
        frame(FIN | TEXT, b"hello"),
        frame(FIN | TEXT, b""),
        frame(FIN | BINARY, b"raw"),
        frame(TEXT, b""),
        frame(CONTINUE, b"frag"),
        frame(FIN | CONTINUE, b"ments"),
        frame(FIN | TEXT, "ö".repeat(50_000).as_bytes()),
    ]
    .concat();
    for size in [1, 2, 7, 10_000, stream.len()] {
        let mut peer = Peer::new("server: ", 1 << 20);
        peer.read_in_pieces(&stream, size);
        let expected = [
            Message::text("server: hello"),
            Message::text("server: "),
            Message::binary(b"raw".to_vec()),
            Message::text("server: fragments"),
            Message::text("server: ".to_owned() + &"ö".repeat(50_000)),
        ];
        assert!(peer.seen().events == expected, "by {size}");
        let bytes_in = 5 + 3 + 9 + 100_000;
        let counts =
            Counts { messages: 5, bytes_in, bytes_out: bytes_in + 4 * 8, ..Counts::default() };
        assert_eq!(peer.engine.counts(), counts);
    }
}

#[test]
fn the_limit_applies_to_the_reply() {
    let table = [
        ("", TEXT, 100, true),
        ("", TEXT, 101, false),
        ("server: ", TEXT, 92, true),
        ("server: ", TEXT, 93, false),
        ("server: ", BINARY, 100, true),
        ("server: ", BINARY, 101, false),
    ];
    for (prefix, opcode, len, fits) in table {
        let payload = vec![b'x'; len];
        let whole = frame(FIN | opcode, &payload);
        let parts = [frame(opcode, &payload[..50]), frame(FIN | CONTINUE, &payload[50..])].concat();
        for stream in [whole, parts] {
            let mut peer = Peer::new(prefix, 100);
            peer.read(&stream);
            assert_eq!(peer.engine.end().is_none(), fits, "{prefix:?} {opcode} {len}");
            assert!(fits || peer.engine.end() == Some(&End::TooBig(100)));
        }
    }
}

/// Whether the slice lies in the window, that is, was not copied.
fn in_place(window: &[u8], slice: &[u8]) -> bool {
    window.as_ptr_range().contains(&slice.as_ptr())
}

#[test]
fn a_large_payload_is_sent_from_where_it_was_read() {
    for (opcode, payload) in [(BINARY, noise(1 << 20)), (TEXT, prose(1 << 20).into_bytes())] {
        let settings = Echo::new("server: ", 2 << 20);
        let mut engine = Engine::new(Arc::new(settings), false);
        let mut out = Out::new();
        let mut stream = frame(FIN | opcode, &payload);
        for window in stream.chunks_mut(256 * KIB) {
            let taken =
                engine.receive(window, &mut out, &mut Inflaters::default(), Pressure::default());
            assert_eq!(taken, window.len());
            let copied: usize =
                out.slices(window).filter(|it| !in_place(window, it)).map(<[u8]>::len).sum();
            assert!(copied <= 80, "{copied} bytes copied");
            assert!(out.slices(window).count() <= 10);
            assert!(engine.held_capacity() <= 3);
            out.clear();
        }
    }
}

#[test]
fn the_rest_of_a_held_frame_is_sent_from_where_it_was_read() {
    let mut stream = frame(FIN | BINARY, &noise(60_000));
    let (first, second) = stream.split_at_mut(20_000);
    let mut engine = Engine::new(Arc::new(Echo::new("", 1 << 20)), false);
    let mut out = Out::new();
    engine.receive(first, &mut out, &mut Inflaters::default(), Pressure::default());
    assert!(out.is_empty());
    engine.receive(second, &mut out, &mut Inflaters::default(), Pressure::default());
    let slices: Vec<_> = out.slices(second).map(|it| (it.len(), in_place(second, it))).collect();
    assert_eq!(slices, [(4, false), (19_992, false), (40_008, true)]);
    assert_eq!(engine.held_capacity(), 0);
}

#[test]
fn memory_follows_the_bytes_that_came_and_not_the_declared_length() {
    for declared in [65_536, 1 << 20, 16 << 20] {
        let mut peer = Peer::verbatim();
        peer.read(&header(FIN | BINARY, declared));
        assert_eq!(peer.engine.held_capacity(), 0);
        peer.read(&noise(10));
        assert!(peer.engine.held_capacity() <= 16, "{}", peer.engine.held_capacity());
        peer.read_in_pieces(&noise(65_000), 100);
        let most = if declared == 65_536 { 64 * KIB } else { 16 * KIB };
        assert!(peer.most_held <= most, "{} for {declared}", peer.most_held);
    }
}

#[test]
fn with_no_memory_left_frames_over_4_kib_are_streamed() {
    let spent = Pressure { memory_spent: true, ..Pressure::default() };
    for len in [4096, 4097, 10_000, 65_536, 300_000] {
        let stream = frame(FIN | BINARY, &noise(len));
        for size in [1, 1000, 5000, 70_000] {
            let mut peer = Peer::verbatim();
            peer.pressure = spent;
            peer.read_in_pieces(&stream, size);
            assert_well_cut(&peer.frames(), 4096, &format!("{len} by {size}"));
            assert!(peer.most_held <= 4096, "{} for {len} by {size}", peer.most_held);
            assert!(*peer.seen().messages()[0] == Message::binary(noise(len)));
        }
    }
}

#[test]
fn held_bytes_are_sent_when_memory_runs_out() {
    let text = "€".repeat(20_000);
    let stream = frame(FIN | TEXT, text.as_bytes());
    let mut peer = Peer::verbatim();
    peer.read(&stream[..50_000]);
    assert!(peer.sent.is_empty() && peer.engine.held_capacity() >= 49_000);
    peer.pressure.memory_spent = true;
    peer.read(&stream[50_000..50_005]);
    assert!(peer.engine.held_capacity() <= 3);
    peer.read(&stream[50_005..]);
    assert!(peer.frames().iter().all(|it| std::str::from_utf8(&it.payload).is_ok()));
    assert!(*peer.seen().messages()[0] == Message::text(text));
}

#[test]
fn a_message_in_one_byte_fragments_is_echoed_and_costs_no_memory() {
    let payload = noise(10 * KIB);
    let mut stream = frame(BINARY, &payload[..1]);
    for byte in &payload[1..payload.len() - 1] {
        stream.extend(frame(CONTINUE, &[*byte]));
    }
    stream.extend(frame(FIN | CONTINUE, &payload[payload.len() - 1..]));
    for size in [1, 7, 5000, stream.len()] {
        let mut peer = Peer::verbatim();
        peer.read_in_pieces(&stream, size);
        assert_eq!(peer.frames().len(), payload.len());
        assert!(*peer.seen().messages()[0] == Message::binary(payload.clone()));
        assert!(peer.most_held <= 16);
    }
}

#[test]
fn only_empty_fragments_are_counted_and_the_count_restarts_with_each_message() {
    let empty = frame(CONTINUE, b"");
    let most = [frame(BINARY, b""), empty.repeat(1021), frame(FIN | CONTINUE, b"")].concat();
    let mut peer = Peer::verbatim();
    peer.read(&most.repeat(3));
    assert_eq!((peer.engine.end(), peer.engine.counts().messages), (None, 3));
    peer.read(&frame(FIN | BINARY, b"").repeat(5000));
    assert_eq!((peer.engine.end(), peer.engine.counts().messages), (None, 5003));
    peer.read(&[frame(BINARY, b"x"), frame(CONTINUE, b"y").repeat(70_000)].concat());
    assert_eq!(peer.engine.end(), None);
    peer.read(&empty.repeat(20_000));
    assert_eq!(peer.engine.end(), Some(&End::EmptyFragments));
    assert_eq!(peer.seen().close, Some(Some(1008)));
}

#[test]
fn a_flood_that_a_prefix_amplifies_is_taken_in_several_turns() {
    let prefix = "x".repeat(100);
    let settings = Echo::new(&prefix, 1000);
    let mut engine = Engine::new(Arc::new(settings), false);
    let mut out = Out::new();
    let mut window = frame(FIN | TEXT, b"").repeat(10_000);
    let mut rest = &mut window[..];
    let mut sent = 0;
    while !rest.is_empty() {
        let taken = engine.receive(rest, &mut out, &mut Inflaters::default(), Pressure::default());
        assert!(taken > 0 && out.len() < 257 * KIB);
        sent += out.len();
        out.clear();
        rest = &mut rest[taken..];
    }
    assert_eq!(sent, 10_000 * 102);
}

#[test]
fn an_idle_engine_is_small() {
    assert!(size_of::<Engine>() <= 72, "{}", size_of::<Engine>());
    let mut peer = Peer::verbatim();
    peer.read(&frame(FIN | BINARY, &noise(1 << 20)));
    assert_eq!(peer.engine.held_capacity(), 0);
}
