//! Arbitrary compressed messages, some of them broken, and the comparison with miniz_oxide.
//!
//! The property test and the fuzzer call [`mirror`] with raw bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use wsecho::ws::deflate::inflate::INFLATER;
use wsecho::ws::engine::{End, Pressure};
use zlib_rs::DeflateFlush;

use super::deflate::{Bad, Compressor, Strategy, inflate, random};
use super::support::{BINARY, CONTINUE, FIN, Peer, RSV1, TEXT, frame, prose};

/// The message limit of the endpoint.
const LIMIT: usize = 200 * 1024;
/// The limit of its compressed bytes.
const COMPRESSED: usize = 2 * LIMIT + 64 * 1024;

/// A message as the client sends it.
#[derive(Debug)]
struct Sending {
    opcode: u8,
    compressed: bool,
    payload: Vec<u8>,
}

/// What a client sends, and how the server reads it.
#[derive(Debug, Default)]
struct Case {
    prefix: &'static str,
    messages: Vec<Sending>,
    bytes: Vec<u8>,
    reads: Vec<(usize, Pressure)>,
}

fn length(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=9)? {
        0 => 0,
        1..=4 => u.int_in_range(1..=100)?,
        5..=6 => u.int_in_range(1..=4000)?,
        7 => u.int_in_range(30_000..=70_000)?,
        8 => u.int_in_range(LIMIT - 10..=LIMIT + 10)?,
        _ => u.int_in_range(1..=1 << 20)?,
    })
}

fn content(u: &mut Unstructured<'_>) -> Result<(u8, Vec<u8>)> {
    let len = length(u)?;
    Ok(match u.int_in_range(0..=4)? {
        0 => (BINARY, random(len.min(LIMIT + 10))),
        1 => (BINARY, vec![0; len]),
        2 => (TEXT, vec![b'0'; len]),
        3 => (TEXT, prose(len).into_bytes()),
        _ => {
            let mut text = prose(len.max(1)).into_bytes();
            let at = u.int_in_range(0..=text.len() - 1)?;
            text[at] = u.arbitrary()?;
            (TEXT, text)
        }
    })
}

fn compressor(u: &mut Unstructured<'_>) -> Result<Compressor> {
    use Strategy::{Default, Filtered, Fixed, HuffmanOnly, Rle};
    Ok(Compressor {
        level: u.int_in_range(0..=9)?,
        strategy: *u.choose(&[Default, Filtered, HuffmanOnly, Rle, Fixed])?,
        window_bits: u.int_in_range(9..=15)?,
        flush: *u.choose(&[
            DeflateFlush::NoFlush,
            DeflateFlush::PartialFlush,
            DeflateFlush::SyncFlush,
            DeflateFlush::FullFlush,
            DeflateFlush::Block,
        ])?,
        bfinal: u.ratio(1, 4)?,
    })
}

impl Case {
    fn message(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (opcode, content) = content(u)?;
        if u.ratio(1, 8)? {
            self.messages.push(Sending { opcode, compressed: false, payload: content });
            return Ok(());
        }
        let mut parts = Vec::new();
        let mut rest = &content[..];
        while !u.ratio(2, 3)? {
            let (part, later) = rest.split_at(u.int_in_range(0..=rest.len())?);
            parts.push(part);
            rest = later;
        }
        parts.push(rest);
        let compressor = compressor(u)?;
        let mut payload = if u.ratio(1, 16)? {
            // The context of another message is kept.
            compressor.messages(&[&[&content], &parts]).remove(1)
        } else {
            compressor.message(&parts)
        };
        match u.int_in_range(0..=11)? {
            0 => payload.truncate(u.int_in_range(0..=payload.len())?),
            1 => {
                let at = u.int_in_range(0..=payload.len() - 1)?;
                payload[at] ^= u8::arbitrary(u)?;
            }
            2 => payload.extend(Vec::<u8>::arbitrary(u)?),
            3 => payload = Vec::arbitrary(u)?,
            4 => {
                let stream = compressor.message(&[b"before"]);
                payload.splice(0..0, stream.into_iter().chain([0, 0, 0xff, 0xff]));
            }
            5 => {
                let blocks = [0, 0, 0, 0xff, 0xff].repeat(u.int_in_range(0..=1000)?);
                payload.splice(0..0, blocks);
            }
            _ => {}
        }
        self.messages.push(Sending { opcode, compressed: true, payload });
        Ok(())
    }

    /// Writes the messages in fragments.
    fn write(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        for message in &self.messages {
            let mut first = message.opcode | if message.compressed { RSV1 } else { 0 };
            let mut rest = &message.payload[..];
            while !u.ratio(2, 3)? {
                let (part, later) = rest.split_at(u.int_in_range(0..=rest.len())?);
                self.bytes.extend(frame(first, part));
                (first, rest) = (CONTINUE, later);
            }
            self.bytes.extend(frame(FIN | first, rest));
        }
        Ok(())
    }
}

impl Arbitrary<'_> for Case {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut case = Self { prefix: *u.choose(&["", "server: "])?, ..Self::default() };
        for _ in 0..u.int_in_range(1..=3)? {
            let size = match u.int_in_range(0..=4)? {
                0 => u.int_in_range(1..=20)?,
                1 => u.int_in_range(21..=2000)?,
                2 => u.int_in_range(2001..=100_000)?,
                _ => usize::MAX,
            };
            let pressure = Pressure { unsent: false, memory_spent: u.ratio(1, 4)? };
            case.reads.push((size, pressure));
        }
        for _ in 0..u.int_in_range(1..=3)? {
            case.message(u)?;
        }
        case.write(u)?;
        if case.bytes.len() > 20_000 {
            case.reads.iter_mut().for_each(|(size, _)| *size = (*size).max(1000));
        }
        Ok(case)
    }
}

/// What a client must see of a message: the reply, or the code of the Close that ends it all.
fn expected(sending: &Sending, prefix: &str) -> std::result::Result<Vec<u8>, u16> {
    let Sending { opcode, compressed, payload } = sending;
    let prefix = if *opcode == TEXT { prefix } else { "" };
    let room = LIMIT - prefix.len();
    let content = if *compressed {
        if payload.len() > COMPRESSED {
            return Err(1009);
        }
        inflate(payload, room).map_err(|bad| if bad == Bad::TooBig { 1009_u16 } else { 1007 })?
    } else {
        payload.clone()
    };
    if content.len() > room {
        return Err(1009);
    }
    if *opcode == TEXT && std::str::from_utf8(&content).is_err() {
        return Err(1007);
    }
    Ok([prefix.as_bytes(), &content].concat())
}

/// The complete data messages among the frames that the engine sent, inflated.
fn replies(peer: &Peer) -> Vec<Vec<u8>> {
    let mut replies = Vec::new();
    let mut payload = Vec::new();
    let mut compressed = None;
    for sent in peer.frames() {
        assert!(sent.payload.len() <= 64 * 1024);
        match sent.opcode & 0xf {
            TEXT | BINARY => assert!(compressed.replace(sent.opcode & RSV1 != 0).is_none()),
            CONTINUE => assert!(compressed.is_some() && sent.opcode == CONTINUE),
            _ => continue,
        }
        payload.extend(sent.payload);
        if sent.fin {
            let payload = std::mem::take(&mut payload);
            replies.push(match compressed.take() {
                Some(true) => inflate(&payload, LIMIT).expect("no client can read the reply"),
                _ => payload,
            });
        }
    }
    replies
}

/// Reads the messages that `data` encodes, and panics unless a client gets back what it sent, with
/// the prefix, up to the first message that miniz_oxide does not accept either.
pub fn mirror(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let mut peer = Peer::compressing(case.prefix, LIMIT as u64);
    let mut rest = &case.bytes[..];
    for (size, pressure) in case.reads.iter().copied().cycle() {
        if rest.is_empty() {
            break;
        }
        let (read, later) = rest.split_at(size.min(rest.len()));
        peer.pressure = pressure;
        peer.read(read);
        rest = later;
    }
    let outcomes = case.messages.iter().map(|message| expected(message, case.prefix));
    let replies = replies(&peer);
    let end = peer.engine.end().and_then(End::code).map(u16::from);
    for (index, outcome) in outcomes.enumerate() {
        match outcome {
            Ok(reply) => assert!(replies.get(index) == Some(&reply), "message {index}: {end:?}"),
            Err(code) => {
                // Text that is too long and not UTF-8 either is refused for what shows first.
                let other = if code == 1009 { 1007 } else { 1009 };
                assert!(end == Some(code) || end == Some(other), "{end:?} instead of {code}");
                assert_eq!(replies.len(), index);
                break;
            }
        }
    }
    let counts = peer.engine.counts();
    assert_eq!(counts.messages as usize, replies.len());
    assert!(counts.inflated <= (case.messages.len() * (LIMIT + 1)) as u64);
    assert!(peer.most_held <= 64 * 1024 + INFLATER);
}
