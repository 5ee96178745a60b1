//! What is echoed by bytes that the socket has not taken: messages, and bytes of payload.
//!
//! Owns the way through our own frames as they are sent. It does not know where they are kept.

use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

use crate::ws::engine::Counts;
use crate::ws::frame::PartialHeader;

/// The messages and payload among unsent bytes.
#[derive(Debug, Default)]
pub(super) struct Owed {
    messages: u64,
    bytes: u64,
    header: PartialHeader,
    frame: Frame,
    /// Whether the next data frame is a message that echoes nothing.
    greeting: bool,
}

/// The frame of which some is sent.
#[derive(Debug, Default)]
struct Frame {
    left: u64,
    data: bool,
    ends_message: bool,
}

impl Owed {
    /// Adds what was echoed between these two counts.
    pub(super) fn add(&mut self, before: Counts, after: Counts) {
        self.messages += after.messages - before.messages;
        self.bytes += after.bytes_out - before.bytes_out;
    }

    /// Leaves the next data frame uncounted.
    pub(super) fn begin_with_greeting(&mut self) {
        self.greeting = true;
    }

    /// Takes off what the next `bytes` echo, which are sent now.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        loop {
            let left = usize::try_from(self.frame.left).unwrap_or(usize::MAX);
            let (payload, rest) = bytes.split_at(left.min(bytes.len()));
            self.frame.left -= payload.len() as u64;
            if self.frame.data {
                self.bytes -= payload.len() as u64;
            }
            if self.frame.left > 0 {
                return;
            }
            if std::mem::take(&mut self.frame).ends_message {
                self.messages -= 1;
            }
            let Some((header, used)) = self.header.parse(rest) else {
                return;
            };
            let data =
                matches!(header.opcode, OpCode::Data(_)) && !std::mem::take(&mut self.greeting);
            self.frame = Frame { left: header.len, data, ends_message: data && header.fin };
            bytes = &rest[used..];
        }
    }

    /// What of these counts is sent.
    pub(super) fn taken_off(&self, mut counts: Counts) -> Counts {
        counts.messages -= self.messages;
        counts.bytes_out -= self.bytes;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::ws::deflate::inflate::Inflaters;
    use crate::ws::engine::{Echo, Engine, Out, Pressure};

    #[test]
    fn what_is_sent_is_counted_to_the_byte_wherever_the_socket_stops() {
        // A text in two fragments with a ping between them, an empty text, and a binary message.
        let mut stream =
            b"\x01\x82\0\0\0\0ab\x89\x81\0\0\0\0?\x80\x81\0\0\0\0c\x81\x80\0\0\0\0".to_vec();
        stream.extend(b"\x82\xfe\x01\0\0\0\0\0");
        stream.resize(stream.len() + 256, b'x');
        let echo = Arc::new(Echo::new("> ", 1 << 20));
        let (mut engine, mut out) = (Engine::new(echo, false), Out::new());
        engine.receive(&mut stream, &mut out, &mut Inflaters::default(), Pressure::default());
        let sent = out.slices(&stream).collect::<Vec<_>>().concat();
        let all = engine.counts();
        assert_eq!((all.messages, all.bytes_out), (3, 2 + 2 + 1 + 2 + 256));
        for cut in 0..=sent.len() {
            let mut owed = Owed::default();
            owed.add(Counts::default(), all);
            for byte in &sent[..cut] {
                owed.sent(&[*byte]);
            }
            let bytewise = owed.taken_off(all);
            let mut owed = Owed::default();
            owed.add(Counts::default(), all);
            owed.sent(&sent[..cut]);
            assert_eq!(owed.taken_off(all), bytewise, "after {cut}");
            // Four bytes of the first frame are payload, "> ab"; the pong has none to count.
            let first = cut.saturating_sub(2).min(4) as u64;
            if cut <= 9 {
                assert_eq!((bytewise.messages, bytewise.bytes_out), (0, first), "after {cut}");
            }
        }
        let mut owed = Owed::default();
        owed.add(Counts::default(), all);
        owed.sent(&sent);
        assert_eq!(owed.taken_off(all), all);
    }
}
