//! permessage-deflate by mirroring, RFC 7692: what comes back, and what is refused.

use tokio_tungstenite::tungstenite::protocol::Message;
use wsecho::ws::deflate::inflate::{Fault, INFLATER};
use wsecho::ws::engine::{Engine, Phase, Pressure};

use super::deflate::{Compressor, compress, inflate, random};
use super::support::{
    BINARY, CLOSE, CONTINUE, FIN, PING, Peer, RSV1, Sent, TEXT, frame, header, prose,
};

const MIB: usize = 1 << 20;

/// The reason in the Close that the engine sent, and its code.
fn refusal(peer: &Peer) -> (u16, String) {
    let frames = peer.frames();
    let Some(Sent { opcode: CLOSE, payload, .. }) = frames.last() else { panic!("no Close") };
    let (code, reason) = payload.split_first_chunk().expect("a code");
    (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("text"))
}

/// One compressed message, in one frame.
fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | opcode, payload)
}

#[test]
fn the_examples_of_the_rfc_come_back_byte_for_byte() {
    let table: [(&[u8], &str); 6] = [
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        (&[0x00], ""),
        // Not in the RFC: the final block without the byte that should follow it.
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
    ];
    for (payload, text) in table {
        for size in 1..20 {
            let mut peer = Peer::compressing("", 1000);
            peer.read_in_pieces(&whole(TEXT, payload), size);
            let sent = Sent { fin: true, opcode: RSV1 | TEXT, payload: payload.to_vec() };
            assert_eq!(peer.frames(), [sent], "{payload:02x?}");

            let mut peer = Peer::compressing("server: ", 1000);
            peer.read_in_pieces(&whole(TEXT, payload), size);
            let block = b"\x00\x08\x00\xf7\xffserver: ";
            let payload = [block, payload].concat();
            assert_eq!(inflate(&payload, 100), Ok(format!("server: {text}").into()));
            assert_eq!(peer.frames(), [Sent { fin: true, opcode: RSV1 | TEXT, payload }]);
        }
    }
}

#[test]
fn fragments_come_back_as_they_are_and_only_the_first_is_marked() {
    let stream = [
        frame(RSV1 | TEXT, &[0xf2, 0x48, 0xcd]),
        frame(FIN | PING, b"?"),
        frame(CONTINUE, &[]),
        frame(FIN | CONTINUE, &[0xc9, 0xc9, 0x07, 0x00]),
        frame(FIN | TEXT, b"plain"),
    ]
    .concat();
    for size in 1..stream.len() {
        let mut peer = Peer::compressing("", 1000);
        peer.read_in_pieces(&stream, size);
        let frames: Vec<_> =
            peer.frames().into_iter().map(|it| (it.fin, it.opcode, it.payload)).collect();
        let expected = [
            (false, RSV1 | TEXT, vec![0xf2, 0x48, 0xcd]),
            (true, 10, b"?".to_vec()),
            (false, CONTINUE, vec![]),
            (true, CONTINUE, vec![0xc9, 0xc9, 0x07, 0x00]),
            (true, TEXT, b"plain".to_vec()),
        ];
        assert_eq!(frames, expected);
    }
}

#[test]
fn a_large_message_streams_in_fragments_of_64_kib_and_nothing_of_it_is_held() {
    let content = random(300_000);
    let payload = compress(&content);
    assert!(payload.len() > content.len());
    for size in [4096, 50_000, MIB] {
        let mut peer = Peer::compressing("", 1 << 20);
        peer.read_in_pieces(&whole(BINARY, &payload), size);
        let frames = peer.frames();
        assert!(frames.len() > 4 && frames.iter().all(|it| it.payload.len() <= 64 * 1024));
        let marked = frames.iter().map(|it| it.opcode & RSV1 != 0);
        assert!(marked.eq((0..frames.len()).map(|index| index == 0)));
        assert!(frames.iter().flat_map(|it| &it.payload).eq(&payload));
        assert!(peer.most_held <= 64 * 1024 + INFLATER);
        assert_eq!(peer.engine.held_capacity(), 0, "the inflater is given back");
        let counts = peer.engine.counts();
        assert_eq!(
            (counts.compressed_in, counts.bytes_in),
            (payload.len() as u64, counts.bytes_in)
        );
        assert_eq!((counts.inflated, counts.messages), (content.len() as u64, 1));
    }
}

/// Cuts of plain text follow its characters. Compressed text has none, even if it looks like the
/// inside of a very long one.
#[test]
fn compressed_text_is_cut_anywhere() {
    // Eights with the fixed code, three bits into each byte.
    let payload = [&b"\xb2"[..], &b"\xb0".repeat(299_999), &[0, 0]].concat();
    assert!(inflate(&payload, 300_000) == Ok(b"8".repeat(300_000)));
    let mut peer = Peer::compressing("", 16 << 20);
    // Then all of it is inflated in this turn, and is to be cut.
    peer.pressure.memory_spent = true;
    peer.read(&whole(TEXT, &payload));
    let frames = peer.frames();
    assert!(frames.iter().flat_map(|it| &it.payload).eq(&payload));
    assert!(frames.len() > 2 && frames.iter().all(|it| it.payload.len() <= 64 * 1024));
}

#[test]
fn the_mark_is_refused_where_it_means_nothing() {
    let agreed = "wsecho: RSV1 set outside the first frame of a message (RFC 6455)";
    let never = "wsecho: reserved bit set without a negotiated extension (RFC 6455)";
    let begun = frame(RSV1 | TEXT, &[0xf2]);
    let table: [(bool, Vec<u8>, &str); 6] = [
        (false, header(FIN | RSV1 | TEXT, 7), never),
        (true, header(FIN | RSV1 | PING, 7), agreed),
        (true, header(FIN | RSV1 | CLOSE, 2), agreed),
        (true, [begun.clone(), header(FIN | RSV1 | CONTINUE, 7)].concat(), agreed),
        (true, header(FIN | RSV1 | 0x20 | TEXT, 7), never),
        (true, header(FIN | 0x10 | TEXT, 7), never),
    ];
    for (compression, stream, reason) in table {
        let mut peer = if compression { Peer::compressing("", 1000) } else { Peer::new("", 1000) };
        peer.read(&stream);
        assert_eq!(refusal(&peer), (1002, reason.into()), "{stream:02x?}");
        assert_eq!(peer.engine.end().expect("it ended").label(), "reserved_bit");
    }
}

#[test]
fn what_cannot_be_inflated_is_1007_and_says_why() {
    let [_, second] = &Compressor::default().messages(&[&[b"the same"], &[b"the same"]])[..] else {
        panic!("two messages")
    };
    let hello = compress(b"Hello");
    let corrupt = "wsecho: compressed message is not DEFLATE data (RFC 7692)";
    let context = "wsecho: compressed message refers to an earlier one: the client ignores \
                   client_no_context_takeover (RFC 7692)";
    let truncated = "wsecho: compressed message is truncated (RFC 7692)";
    let table: [(&[u8], &str, &str); 8] = [
        (&[0xff], "compression_corrupt", corrupt),
        (&[0x00, 0x05, 0x00, 0xfb, 0xff], "compression_corrupt", corrupt),
        (second, "compression_context", context),
        (&[], "compression_truncated", truncated),
        (&hello[..hello.len() - 1], "compression_truncated", truncated),
        // A stored block of which four bytes are missing: the tail would fill them.
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, b'H'], "compression_truncated", truncated),
        (&[0x00, 0x06, 0x00, 0xf9, 0xff, b'H'], "compression_truncated", truncated),
        // A dynamic block that has only begun.
        (&[0x04], "compression_truncated", truncated),
    ];
    for (payload, label, reason) in table {
        for size in [1, 1000] {
            let mut peer = Peer::compressing("", 1000);
            peer.read_in_pieces(&whole(TEXT, payload), size);
            assert_eq!(refusal(&peer), (1007, reason.into()), "{payload:02x?}");
            assert_eq!(peer.frames().len(), 1, "nothing of it was echoed");
            assert_eq!(peer.engine.end().expect("it ended").label(), label);
            assert_eq!(peer.engine.held_capacity(), 0);
            let counts = peer.engine.counts();
            assert!(counts.compressed_in <= counts.bytes_in, "{counts:?}");
        }
    }
    assert_ne!(Fault::Corrupt.label(), Fault::Truncated.label());
}

#[test]
fn inflated_text_must_be_utf_8_and_nothing_that_is_not_is_echoed() {
    for content in [&b"\xff"[..], b"\xc3(", b"caf\xc3"] {
        let mut peer = Peer::compressing("", 1000);
        peer.read(&whole(TEXT, &compress(content)));
        assert_eq!(refusal(&peer), (1007, "wsecho: text message is not UTF-8".into()));
        assert_eq!(peer.frames().len(), 1);
        let mut peer = Peer::compressing("", 1000);
        peer.read(&whole(BINARY, &compress(content)));
        assert_eq!(peer.engine.phase(), Phase::Open, "binary may be anything");
    }
    let stored = Compressor { level: 0, ..Compressor::default() };
    for at in [0, 100_000, 199_999] {
        let mut text = prose(200_000).into_bytes();
        text[at] = 0xff;
        for size in [3000, 90_000, MIB] {
            let mut peer = Peer::compressing("", 1 << 20);
            peer.read_in_pieces(&whole(TEXT, &stored.message(&[&text])), size);
            assert_eq!(refusal(&peer).0, 1007);
            let frames = peer.frames();
            let echoed: usize = frames[..frames.len() - 1].iter().map(|it| it.payload.len()).sum();
            assert!(echoed <= at + 5 * (1 + at / 10_000), "it was echoed");
        }
    }
}

#[test]
fn no_more_is_inflated_than_a_message_may_have() {
    let zeros = vec![0; MIB];
    let limit = "wsecho: message over 1 MiB (limits.max_message_size)";
    for (prefix, opcode, len, fits) in [
        ("", BINARY, MIB, true),
        ("", BINARY, MIB + 1, false),
        ("server: ", BINARY, MIB, true),
        ("server: ", TEXT, MIB - 8, true),
        ("server: ", TEXT, MIB - 7, false),
        ("", BINARY, 100 * MIB, false),
    ] {
        let parts: Vec<_> = std::iter::repeat_n(&zeros[..], len / MIB).collect();
        let parts = [&parts[..], &[&zeros[..len % MIB]]].concat();
        let payload = Compressor::default().message(&parts);
        let mut peer = Peer::compressing(prefix, MIB as u64);
        peer.read(&whole(opcode, &payload));
        if fits {
            assert_eq!((peer.engine.phase(), peer.engine.counts().messages), (Phase::Open, 1));
        } else {
            assert_eq!(refusal(&peer), (1009, limit.into()));
        }
        assert!(peer.engine.counts().inflated <= MIB as u64 + 1, "{len} bytes in {prefix:?}");
    }
}

#[test]
fn compressed_bytes_have_a_limit_of_their_own() {
    // Empty blocks: nothing comes of them, and they are legal.
    let mut blocks = [0, 0, 0, 0xff, 0xff].repeat((2 * MIB + 64 * 1024) / 5);
    blocks.push(0);
    let room = (2 * MIB + 64 * 1024) - blocks.len();
    let mut peer = Peer::compressing("", MIB as u64);
    peer.read_in_pieces(&whole(BINARY, &blocks), 100_000);
    assert_eq!((peer.engine.phase(), peer.engine.counts().messages), (Phase::Open, 1));
    assert_eq!(peer.engine.counts().inflated, 0);

    let mut peer = Peer::compressing("", MIB as u64);
    peer.read(&frame(RSV1 | BINARY, &blocks[..blocks.len() - 1]));
    peer.read(&header(FIN | CONTINUE, room as u64 + 2));
    let reason =
        "wsecho: over 2112 KiB of compressed data in one message (limits.max_message_size)";
    assert_eq!(refusal(&peer), (1009, reason.into()), "on the header");
}

#[test]
fn a_turn_inflates_only_so_much_and_leaves_the_rest_as_it_came() {
    const TURN: u64 = 512 * 1024 + 64 * 1024;
    let content = vec![b'0'; 4 * MIB];
    let stream = [whole(TEXT, &compress(&content)), whole(TEXT, &compress(b"next"))].concat();
    let mut peer = Peer::compressing("", 16 << 20);
    let mut window = stream.clone();
    let (mut taken, mut turns) = (0, 0);
    while taken < window.len() {
        let before = peer.engine.counts().inflated;
        let rest = &mut window[taken..];
        peer.inflaters.begin_turn();
        let now = peer.engine.receive(rest, &mut peer.out, &mut peer.inflaters, peer.pressure);
        peer.sent.extend(peer.out.slices(rest).flatten());
        peer.out.clear();
        assert_eq!(rest[now..], stream[taken + now..], "it was altered");
        assert!(peer.engine.counts().inflated - before <= TURN);
        taken += now;
        turns += 1;
    }
    assert!((8..12).contains(&turns), "{turns} turns");
    assert_eq!(peer.engine.counts().messages, 2);
    let mut once = Peer::compressing("", 16 << 20);
    once.read(&stream);
    assert_eq!(once.sent, peer.sent);
}

/// What inflates to nothing costs work all the same.
#[test]
fn a_turn_takes_only_so_much_that_inflates_to_nothing() {
    for message in [whole(BINARY, &[0]), whole(BINARY, &[3, 0].repeat(50)), whole(TEXT, &[2, 0])] {
        let mut window = message.repeat(100_000);
        let mut peer = Peer::compressing("", 1 << 20);
        peer.inflaters.begin_turn();
        let taken =
            peer.engine.receive(&mut window, &mut peer.out, &mut peer.inflaters, peer.pressure);
        assert!((10..150_000).contains(&taken), "{taken} bytes");
    }
}

#[test]
fn without_memory_no_inflater_is_kept_beyond_a_turn() {
    let small = whole(TEXT, &compress(b"small"));
    let payload = compress(&random(10_000));
    let large = whole(BINARY, &payload);
    let spent = Pressure { memory_spent: true, unsent: false };
    let mut peer = Peer::compressing("", 1 << 20);
    let mut receive = |bytes: &[u8], pressure| {
        let mut window = bytes.to_vec();
        peer.inflaters.begin_turn();
        let Peer { engine, out, inflaters, .. } = &mut peer;
        let taken = engine.receive(&mut window, out, inflaters, pressure);
        assert_eq!(window[taken..], bytes[taken..], "it was altered");
        peer.sent.extend(peer.out.slices(&window).flatten());
        peer.out.clear();
        (taken, peer.engine.awaits_memory(), peer.engine.held_capacity())
    };
    // What is whole needs an inflater for this turn only.
    assert_eq!(receive(&small, spent), (small.len(), false, 0));
    // A message whose end has not come is not begun, nor is what follows it.
    let begun = [&small, &large[..5000]].concat();
    let first = receive(&begun, spent);
    assert_eq!(first, (small.len() + 8, true, 0));
    let rest = [&begun[first.0..], &large[5000..]].concat();
    assert_eq!(receive(&rest[..4000], spent), (0, true, 0));
    // With memory it goes on, and what has begun is finished without.
    let (taken, waits, held) = receive(&rest[..4000], Pressure::default());
    assert_eq!((taken, waits), (4000, false));
    assert!(held >= INFLATER);
    assert!(receive(&rest[4000..6000], spent).2 >= INFLATER);
    assert_eq!(receive(&rest[6000..], spent), (rest.len() - 6000, false, 0));
    assert_eq!(peer.engine.counts().messages, 3);
    assert!(peer.frames()[2..].iter().flat_map(|it| &it.payload).eq(&payload));
}

/// Otherwise each session of many could keep one.
#[test]
fn without_memory_a_message_that_is_there_is_inflated_to_its_end() {
    let bomb = whole(BINARY, &compress(&vec![0; 4 * MIB]));
    let mut peer = Peer::compressing("", 16 << 20);
    let mut window = bomb.repeat(10);
    peer.inflaters.begin_turn();
    let Peer { engine, out, inflaters, .. } = &mut peer;
    let spent = Pressure { memory_spent: true, unsent: false };
    let taken = engine.receive(&mut window, out, inflaters, spent);
    assert_eq!((engine.counts().messages, engine.held_capacity()), (1, 0));
    assert!(taken >= bomb.len() && taken < bomb.len() + 14);
}

#[test]
fn a_close_between_two_fragments_ends_a_compressed_message() {
    let payload = compress(&random(200_000));
    let mut peer = Peer::compressing("", 1 << 20);
    peer.read(&whole(BINARY, &payload)[..100_000]);
    assert!(peer.engine.held_capacity() >= INFLATER);
    peer.say(|engine, out| engine.close(1001.into(), "wsecho: away", out));
    assert_eq!((refusal(&peer).0, peer.engine.held_capacity()), (1001, 0));
    assert_eq!(peer.engine.phase(), Phase::Closing);
    peer.read(&[&whole(BINARY, &payload)[100_000..], &frame(FIN | CLOSE, b"")].concat());
    assert_eq!(peer.engine.phase(), Phase::Closed);
}

#[test]
fn a_drain_waits_for_the_end_of_a_compressed_message() {
    let payload = compress(&random(1000));
    let stream = whole(BINARY, &payload);
    let mut peer = Peer::compressing("", 1 << 20);
    peer.read(&stream[..500]);
    peer.say(|engine: &mut Engine, out| engine.close_after_message(1001.into(), "wsecho", out));
    assert_eq!(peer.engine.phase(), Phase::Open);
    peer.read(&stream[500..]);
    assert_eq!(refusal(&peer).0, 1001);
    assert_eq!(peer.frames()[0].payload, payload);
}

#[test]
fn without_an_agreement_nothing_has_changed() {
    let mut peer = Peer::compressing("server: ", 1000);
    peer.read(&[frame(FIN | TEXT, b"plain"), frame(FIN | BINARY, b"plain")].concat());
    let seen = peer.seen();
    assert_eq!(seen.events, [Message::text("server: plain"), Message::binary(b"plain".to_vec())]);
    let counts = peer.engine.counts();
    assert_eq!((counts.compressed_in, counts.inflated), (0, 0));
}
