//! The engine on a socket with partial writes: nothing is lost, duplicated or reordered.

use std::collections::VecDeque;

use arbitrary::{Arbitrary, Unstructured};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::Role;
use wsecho::ws::deflate::inflate::Inflaters;
use wsecho::ws::engine::{Out, Pressure};

use super::streams::Case;
use super::support::{Peer, Seen};

/// A socket that takes the given numbers of bytes in turn, and what is waiting to be written to it.
struct Socket<'a> {
    takes: std::iter::Cycle<std::slice::Iter<'a, u16>>,
    taken: Vec<u8>,
    waiting: VecDeque<Vec<u8>>,
}

impl Socket<'_> {
    /// One write; returns how many bytes were taken.
    fn write<'b>(&mut self, slices: impl Iterator<Item = &'b [u8]>) -> usize {
        let room = usize::from(*self.takes.next().expect("cycles"));
        let before = self.taken.len();
        for slice in slices {
            let left = room - (self.taken.len() - before);
            self.taken.extend_from_slice(&slice[..left.min(slice.len())]);
        }
        self.taken.len() - before
    }

    fn write_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut sent = self.write(waiting.iter().map(Vec::as_slice));
        for mut chunk in waiting {
            let gone = sent.min(chunk.len());
            sent -= gone;
            if gone < chunk.len() {
                chunk.drain(..gone);
                self.waiting.push_back(chunk);
            }
        }
    }

    /// Sends the output of a turn after what is waiting, and keeps what the socket does not take.
    fn send(&mut self, out: &mut Out, window: &[u8]) {
        self.write_waiting();
        let sent = if self.waiting.is_empty() { self.write(out.slices(window)) } else { 0 };
        self.waiting.extend(out.unsent(window, sent).map(<[u8]>::to_vec));
        out.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..Default::default() })]

    #[test]
    fn partial_writes_lose_nothing(
        data in proptest::collection::vec(any::<u8>(), 0..1000),
        takes in proptest::collection::vec(any::<u16>(), 1..20),
    ) {
        let Ok(case) = Case::arbitrary(&mut Unstructured::new(&data)) else { return Ok(()) };
        let mut whole: Peer = case.peer();
        whole.read(&case.bytes);
        let expected = whole.seen();

        let Peer { mut engine, mut out, .. } = case.peer();
        let takes = takes.iter().cycle();
        let mut socket = Socket { takes, taken: Vec::new(), waiting: VecDeque::new() };
        let mut bytes = case.bytes.clone();
        let mut rest = &mut bytes[..];
        for (size, pressure) in case.reads() {
            if rest.is_empty() {
                break;
            }
            let (read, later) = rest.split_at_mut(size.min(rest.len()));
            let mut window = read;
            while !window.is_empty() {
                // There is memory for what cannot go on without.
                let memory_spent = pressure.memory_spent && !engine.awaits_memory();
                let pressure = Pressure { unsent: !socket.waiting.is_empty(), memory_spent };
                let taken = engine.receive(window, &mut out, &mut Inflaters::default(), pressure);
                socket.send(&mut out, window);
                window = &mut window[taken..];
            }
            rest = later;
        }
        socket.takes = [u16::MAX].iter().cycle();
        while !socket.waiting.is_empty() {
            socket.write_waiting();
        }
        engine.release_pong(&mut out);
        socket.send(&mut out, &[]);

        let seen = Seen::by(Role::Client, &socket.taken, None);
        prop_assert!(seen.messages() == expected.messages());
        prop_assert_eq!(engine.end(), whole.engine.end());
        let mut pongs = expected.events.iter().filter(|it| it.is_pong());
        prop_assert!(seen.events.iter().filter(|it| it.is_pong()).all(|it| pongs.any(|p| p == it)));
    }
}
