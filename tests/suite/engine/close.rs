//! Closing, pings and pongs: who has the last word, and what may come in between.

use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use wsecho::ws::engine::{End, Engine, Phase, Pressure};

use super::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Peer, TEXT, frame, header, noise};

#[test]
fn messages_before_a_close_in_the_same_read_are_echoed_first() {
    let stream = [
        frame(FIN | TEXT, b"one"),
        frame(FIN | PING, b"two"),
        frame(FIN | BINARY, &noise(70_000)),
        frame(FIN | CLOSE, b"\x03\xe9bye"),
        frame(FIN | TEXT, b"after a close nothing counts"),
    ];
    let mut peer = Peer::verbatim();
    peer.read(&stream.concat());
    let seen = peer.seen();
    let expected = [
        Message::text("one"),
        Message::Pong(b"two".to_vec().into()),
        Message::binary(noise(70_000)),
    ];
    assert_eq!(seen.events, expected);
    assert_eq!((seen.close, seen.reason.as_str()), (Some(Some(1001)), "bye"));
    assert_eq!(peer.engine.phase(), Phase::Closed);
    assert_eq!(
        peer.engine.end(),
        Some(&End::Peer { code: Some(CloseCode::Away), reason: "bye".into() })
    );
    assert_eq!(peer.engine.counts().messages, 2);
}

#[test]
fn an_empty_close_is_answered_by_an_empty_one() {
    let mut peer = Peer::verbatim();
    peer.read(&frame(FIN | CLOSE, b""));
    assert_eq!(peer.sent, [0x88, 0]);
    assert_eq!(peer.engine.phase(), Phase::Closed);
}

#[test]
fn after_a_close_the_engine_is_silent() {
    let mut peer = Peer::verbatim();
    peer.say(|engine, out| engine.close(CloseCode::Away, "wsecho: idle for 1h", out));
    let sent = peer.sent.clone();
    peer.read(&frame(FIN | PING, b"").repeat(3));
    peer.say(|engine, out| engine.ping(b"late", out));
    peer.say(|engine, out| engine.close(CloseCode::Error, "late", out));
    peer.say(|engine, out| engine.close_after_message(CloseCode::Error, "late", out));
    peer.say(Engine::release_pong);
    assert_eq!((peer.engine.phase(), &peer.sent), (Phase::Closing, &sent));
    peer.read(&frame(FIN | CLOSE, b"\x03\xe8"));
    assert_eq!((peer.engine.phase(), &peer.sent), (Phase::Closed, &sent));
    assert_eq!(peer.engine.end().map(End::label), Some("server"));
    assert_eq!(peer.seen().reason, "wsecho: idle for 1h");
}

#[test]
fn our_close_may_cut_a_frame_of_the_peer_anywhere() {
    let stream = [frame(FIN | BINARY, &noise(200)), frame(FIN | CLOSE, b"\x03\xe8")].concat();
    for cut in 1..stream.len() {
        let mut peer = Peer::verbatim();
        peer.read(&stream[..cut]);
        peer.say(|engine, out| engine.close(CloseCode::Away, "wsecho: restarting", out));
        assert_eq!(peer.engine.held_capacity(), 0);
        peer.read(&stream[cut..]);
        assert_eq!(peer.engine.phase(), Phase::Closed, "cut at {cut}");
        let echoed = usize::from(cut >= stream.len() - 8);
        assert_eq!(peer.frames().len(), echoed + 1, "cut at {cut}");
    }
}

#[test]
fn close_after_message_waits_for_the_current_message_only() {
    let away = |peer: &mut Peer| {
        peer.say(|engine, out| engine.close_after_message(CloseCode::Away, "wsecho: bye", out));
    };
    let mut idle = Peer::verbatim();
    idle.read(&frame(FIN | TEXT, b"done"));
    away(&mut idle);
    assert_eq!((idle.engine.phase(), idle.frames().len()), (Phase::Closing, 2));

    let stream = [
        frame(TEXT, b"be"),
        frame(CONTINUE, b"gu"),
        frame(FIN | PING, b"alive"),
        frame(FIN | CONTINUE, b"n"),
        frame(FIN | TEXT, b"too late"),
        frame(FIN | CLOSE, b""),
    ];
    let mut busy = Peer::verbatim();
    busy.read(&stream[0]);
    away(&mut busy);
    assert_eq!(busy.engine.phase(), Phase::Open);
    busy.read(&stream[1..].concat());
    let seen = busy.seen();
    assert_eq!(seen.messages(), [&Message::text("begun")]);
    assert_eq!((seen.close, busy.engine.phase()), (Some(Some(1001)), Phase::Closed));
}

#[test]
fn every_ping_gets_its_pong_while_nothing_is_unsent() {
    let stream: Vec<u8> = (0..=125).flat_map(|len| frame(FIN | PING, &noise(len))).collect();
    for size in [1, 2, 7, 100, stream.len()] {
        let mut peer = Peer::verbatim();
        peer.read_in_pieces(&stream, size);
        let pongs: Vec<_> = (0..=125).map(|len| Message::Pong(noise(len).into())).collect();
        assert_eq!(peer.seen().events, pongs, "by {size}");
        assert_eq!(peer.engine.held_capacity(), 0);
    }
}

#[test]
fn while_output_is_unsent_only_the_newest_pong_is_kept_and_sent_before_the_next_frame() {
    let mut peer = Peer::verbatim();
    peer.pressure = Pressure { unsent: true, ..Pressure::default() };
    for i in 0..1000_u32 {
        peer.read(&frame(FIN | PING, &i.to_be_bytes()));
    }
    assert!(peer.sent.is_empty());
    peer.read(&frame(FIN | TEXT, b"flowing"));
    peer.read(&frame(FIN | PING, b"last"));
    let pong = |payload: &[u8]| Message::Pong(payload.to_vec().into());
    assert_eq!(peer.seen().events, [pong(&999_u32.to_be_bytes()), Message::text("flowing")]);
    peer.pressure = Pressure::default();
    peer.read(&frame(FIN | PING, b"again"));
    assert_eq!(peer.seen().events[2..], [pong(b"last"), pong(b"again")]);

    peer.pressure.unsent = true;
    peer.read(&frame(FIN | PING, b"released"));
    peer.say(Engine::release_pong);
    peer.say(Engine::release_pong);
    assert_eq!(peer.seen().events[4..], [pong(b"released")]);
}

#[test]
fn our_pings_go_between_frames_and_pongs_are_swallowed() {
    let mut peer = Peer::verbatim();
    peer.read(&[header(FIN | BINARY, 100_000), noise(70_000)].concat());
    peer.say(|engine, out| engine.ping(b"keepalive", out));
    peer.say(|engine, out| engine.ping(&[b'x'; 200], out));
    peer.read(&noise(30_000));
    peer.read(&frame(FIN | PONG, b"keepalive"));
    let frames = peer.frames();
    let pings: Vec<_> =
        frames.iter().filter(|it| it.opcode == PING).map(|it| it.payload.len()).collect();
    assert_eq!(pings, [9, 125]);
    assert_eq!(peer.seen().messages().len(), 1);
}
