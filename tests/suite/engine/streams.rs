//! Arbitrary streams of frames with at most one defect, and the comparison with tungstenite.
//!
//! The property tests and the fuzzer call [`compare`] and [`cut`] with raw bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use wsecho::ws::engine::{Echo, Engine, Phase, Pressure};

use super::support::{
    BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Peer, Seen, TEXT, frame, header, noise, prose,
};

/// The message limit of the endpoint without a prefix.
const LIMIT: usize = 160 * 1024;

/// The message limit of the endpoint with a prefix: never reached, because tungstenite would apply
/// it to the message rather than the reply.
const AMPLE: usize = 16 << 20;

const PREFIX: &str = "server: ";

/// Where the engine differs from tungstenite 0.30 on purpose, by section of RFC 6455.
///
/// Two more differences do not show here: tungstenite sends no Close frame after an error (7.1.7),
/// and treats pings that come while its output is blocked differently (5.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// 5.2: "the minimal number of bytes MUST be used"; tungstenite accepts any form.
    NonMinimalLength,
    /// 5.2: the top bit of a 64-bit length "MUST be 0": 1002. tungstenite calls it too big.
    LengthOverflow,
    /// 7.4.2: 1014 was registered after the RFC. tungstenite rejects it.
    BadGateway,
    /// 5.4 does not limit empty fragments; the engine takes 1,023 per message, then sends 1008.
    EmptyFragments,
    /// 5.1, 5.2, 5.4, 5.5, 7.4.1: an invalid header is rejected before its payload comes;
    /// tungstenite waits for the whole frame.
    JudgedOnTheHeader,
    /// 8.1: an invalid byte is rejected as it comes; tungstenite waits for the end of the frame.
    JudgedAtTheByte,
}

/// What a client sends, and how the server reads it.
#[derive(Debug, Default)]
pub struct Case {
    pub bytes: Vec<u8>,
    pub prefixed: bool,
    /// Whether each frame is answered by one.
    whole: bool,
    /// How many complete messages precede the defect.
    messages: usize,
    /// The difference that the defect is about, and the close code that the engine must send.
    difference: Option<(Difference, u16)>,
    /// Sizes of the reads, cycled through, and the pressure during each.
    reads: Vec<(usize, Pressure)>,
}

/// A length, with a preference for those around which something changes.
fn length(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=15)? {
        0 => 0,
        1..=7 => u.int_in_range(1..=40)?,
        8..=9 => u.int_in_range(120..=130)?,
        10..=11 => u.int_in_range(1..=1500)?,
        12 => u.int_in_range(4080..=4110)?,
        13 => u.int_in_range(16_380..=16_390)?,
        14 => u.int_in_range(65_520..=65_540)?,
        _ => u.int_in_range(60_000..=150_000)?,
    })
}

impl Case {
    fn ping(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let opcode = if u.ratio(3, 4)? { PING } else { PONG };
        let payload = noise(u.int_in_range(0..=125)?);
        self.bytes.extend(frame(FIN | opcode, &payload));
        Ok(())
    }

    /// The fragments of one message, with pings in between; `fin` says whether the last is final.
    fn fragments(
        &mut self,
        u: &mut Unstructured<'_>,
        opcode: u8,
        payload: &[u8],
        fin: bool,
    ) -> Result<()> {
        let mut opcode = opcode;
        let mut rest = payload;
        // Once the data has run out, `ratio` is always true, so the loop ends.
        while !u.ratio(2, 3)? {
            let cut = match u.int_in_range(0..=3)? {
                0 => 0,
                1 => rest.len().min(u.int_in_range(0..=10)?),
                _ => u.int_in_range(0..=rest.len())?,
            };
            self.bytes.extend(frame(opcode, &rest[..cut]));
            (opcode, rest) = (CONTINUE, &rest[cut..]);
            if u.ratio(1, 4)? {
                self.ping(u)?;
            }
        }
        self.bytes.extend(frame(if fin { FIN | opcode } else { opcode }, rest));
        Ok(())
    }

    fn message(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if u.arbitrary()? {
            let text = prose(length(u)?);
            self.fragments(u, TEXT, text.as_bytes(), true)?;
        } else {
            let payload = noise(length(u)?);
            self.fragments(u, BINARY, &payload, true)?;
        }
        self.messages += 1;
        Ok(())
    }

    /// Notes that the engine must end differently from tungstenite.
    fn differs(&mut self, difference: Difference, code: u16) {
        self.difference = Some((difference, code));
    }

    /// Something that ends the stream, legally or not; returns whether anything may follow it.
    fn last(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        let start = self.bytes.len();
        let payload = noise(length(u)?);
        let opcode = *u.choose(&[TEXT, BINARY])?;
        match u.int_in_range(0..=19)? {
            0 => {
                let bit = *u.choose(&[0x10, 0x20, 0x40, 0x70])?;
                self.bytes.extend(frame(FIN | BINARY | bit, &payload));
            }
            1 => {
                let opcode = *u.choose(&[3, 4, 5, 6, 7, 11, 12, 13, 14, 15])?;
                self.bytes.extend(frame(FIN | opcode, &noise(payload.len().min(125))));
            }
            2 => {
                let mut unmasked = header(FIN | BINARY, payload.len() as u64);
                unmasked.truncate(unmasked.len() - 4);
                unmasked[1] &= 0x7f;
                self.bytes.extend(unmasked);
                self.bytes.extend(&payload);
            }
            3 => {
                let opcode = *u.choose(&[PING, PONG, CLOSE])?;
                self.bytes.extend(frame(opcode, b""));
            }
            4 => {
                let opcode = *u.choose(&[PING, PONG, CLOSE])?;
                self.bytes.extend(frame(FIN | opcode, &noise(126 + payload.len() % 1000)));
            }
            5 => {
                self.bytes.extend([FIN | BINARY, 0xfe, 0, 1, 0, 0, 0, 0, b'a']);
                self.differs(Difference::NonMinimalLength, 1002);
                return Ok(true);
            }
            6 => {
                self.bytes.extend(header(FIN | BINARY, u64::MAX - u.int_in_range(0..=1000)?));
                self.differs(Difference::LengthOverflow, 1002);
                return Ok(true);
            }
            7 => self.fragments(u, CONTINUE, &payload, true)?,
            8 => {
                self.bytes.extend(frame(opcode, b"begun"));
                self.bytes.extend(frame(FIN | opcode, &prose(payload.len()).into_bytes()));
            }
            9 => {
                let mut text = prose(payload.len() + 1).into_bytes();
                let at = u.int_in_range(0..=text.len() - 1)?;
                text[at] = 0xff;
                if u.ratio(1, 4)? && text.len() > at + 1 {
                    self.bytes.extend(frame(FIN | TEXT, &text));
                    self.bytes.truncate(self.bytes.len() - (text.len() - at - 1));
                    self.differs(Difference::JudgedAtTheByte, 1007);
                    return Ok(false);
                }
                self.fragments(u, TEXT, &text, true)?;
            }
            10 => {
                let mut text = prose(payload.len()).into_bytes();
                text.extend(&"😀".as_bytes()[..u.int_in_range(1..=3)?]);
                self.fragments(u, TEXT, &text, true)?;
            }
            11 => {
                let payload = noise(LIMIT + u.int_in_range(1..=5)?);
                if !self.prefixed {
                    self.fragments(u, BINARY, &payload, true)?;
                }
            }
            12 => {
                for _ in 0..1024 {
                    self.bytes.extend(frame(u8::from(self.bytes.len() == start), b""));
                }
                self.differs(Difference::EmptyFragments, 1008);
                return Ok(true);
            }
            13 => self.bytes.extend(frame(FIN | CLOSE, b"")),
            14 => self.bytes.extend(frame(FIN | CLOSE, b"\x03")),
            15 => {
                let code: u16 = u.int_in_range(995..=1020)?;
                if code == 1014 {
                    self.differs(Difference::BadGateway, 1014);
                }
                self.bytes.extend(frame(FIN | CLOSE, &code.to_be_bytes()));
                return Ok(true);
            }
            16 => {
                let mut body = u16::arbitrary(u)?.to_be_bytes().to_vec();
                if body == 1014_u16.to_be_bytes() {
                    body[1] = 0xe8;
                }
                body.extend(prose(u.int_in_range(0..=123)?).bytes());
                self.bytes.extend(frame(FIN | CLOSE, &body));
            }
            17 => self.bytes.extend(frame(FIN | CLOSE, b"\x03\xe8\xc3(")),
            18 => {
                self.fragments(u, opcode, prose(payload.len()).as_bytes(), false)?;
                self.bytes.truncate(start + u.int_in_range(0..=self.bytes.len() - start)?);
                return Ok(false);
            }
            _ => {
                // The header is enough, and nothing follows it.
                let (first, len) = *u.choose(&[
                    (FIN | BINARY | 0x40, 5),
                    (FIN | 3, 5),
                    (FIN | PING, 126),
                    (PING, 5),
                    (FIN | CONTINUE, 5),
                ])?;
                self.bytes.extend(header(first, len));
                self.differs(Difference::JudgedOnTheHeader, 1002);
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn reads(&self) -> impl Iterator<Item = (usize, Pressure)> {
        self.reads.iter().copied().cycle()
    }

    /// The engine after it has read everything the way the case says.
    pub fn echo(&self) -> Peer {
        let mut peer = self.peer();
        let mut rest = &self.bytes[..];
        for (size, pressure) in self.reads() {
            if rest.is_empty() {
                break;
            }
            let (read, later) = rest.split_at(size.min(rest.len()));
            peer.pressure = pressure;
            peer.read(read);
            rest = later;
        }
        peer.say(Engine::release_pong);
        peer
    }

    pub fn peer(&self) -> Peer {
        let (prefix, limit) = if self.prefixed { (PREFIX, AMPLE) } else { ("", LIMIT) };
        let mut echo = Echo::new(prefix, limit as u64);
        echo.whole_frames = self.whole;
        Peer::with(echo, false)
    }
}

impl Arbitrary<'_> for Case {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut case = Self { prefixed: u.ratio(1, 4)?, ..Self::default() };
        for _ in 0..u.int_in_range(1..=4)? {
            let size = match u.int_in_range(0..=5)? {
                0 => u.int_in_range(1..=4)?,
                1 => u.int_in_range(5..=200)?,
                2 => u.int_in_range(201..=20_000)?,
                3 => u.int_in_range(20_001..=100_000)?,
                _ => usize::MAX,
            };
            let pressure = Pressure { unsent: u.ratio(1, 4)?, memory_spent: u.ratio(1, 4)? };
            case.reads.push((size, pressure));
        }
        let count = u.int_in_range(0..=6)?;
        for _ in 0..count {
            if u.ratio(1, 4)? {
                case.ping(u)?;
            }
            case.message(u)?;
        }
        if u.ratio(3, 4)? && case.last(u)? {
            let counted = case.messages;
            for _ in 0..u.int_in_range(0..=2)? {
                case.message(u)?;
            }
            case.messages = counted;
        }
        // Tiny reads of long streams would take time better spent on more cases.
        if case.bytes.len() > 20_000 {
            case.reads.iter_mut().for_each(|(size, _)| *size = (*size).max(1000));
        }
        case.whole = u.arbitrary()?;
        Ok(case)
    }
}

/// What a client should get back for what the server reads, given the endpoint's prefix.
fn reply(event: &Message, prefix: &str) -> Option<Message> {
    match event {
        Message::Text(text) => Some(Message::text(format!("{prefix}{text}"))),
        Message::Binary(_) => Some(event.clone()),
        Message::Ping(payload) => Some(Message::Pong(payload.clone())),
        _ => None,
    }
}

/// Reads the stream that `data` encodes with the engine and with tungstenite, and panics unless
/// both see the same messages and the same kind of end.
pub fn compare(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let peer = case.echo();
    let actual = peer.seen();
    let limit = if case.prefixed { AMPLE } else { LIMIT };
    let oracle = Seen::by(Role::Server, &case.bytes, Some(limit));
    let prefix = if case.prefixed { PREFIX } else { "" };
    let expected: Vec<_> = oracle.events.iter().filter_map(|it| reply(it, prefix)).collect();

    if let Some((difference, code)) = case.difference {
        assert_eq!(actual.close, Some(Some(code)), "{difference:?}");
        assert_eq!(actual.messages().len(), case.messages, "{difference:?}");
    } else {
        assert_eq!(actual.close, oracle.close, "{:?}", peer.engine.end());
        assert_eq!(actual.messages().len(), expected.iter().filter(|it| !it.is_pong()).count());
    }
    assert_eq!(peer.engine.end().is_some(), actual.close.is_some());
    assert_eq!(peer.engine.phase() == Phase::Open, actual.close.is_none());

    let collapsing = case.reads.iter().any(|(_, pressure)| pressure.unsent);
    let mut left = expected.iter();
    for event in &actual.events {
        let found = if collapsing && event.is_pong() {
            left.clone().any(|it| it == event)
        } else {
            left.by_ref().find(|it| !(collapsing && it.is_pong())) == Some(event)
        };
        assert!(found, "an echo is altered or out of order");
    }
    if actual.close.is_none() {
        let last = |events: &[Message]| events.iter().rev().find(|it| it.is_pong()).cloned();
        assert_eq!(last(&actual.events), last(&expected), "the newest pong is never lost");
    }
    let most = if case.whole { LIMIT + PREFIX.len() } else { 64 * 1024 };
    assert!(peer.most_held <= most);
    for sent in peer.frames() {
        assert!(sent.payload.len() <= most);
    }
}

/// Reads the stream that `data` encodes, with one byte altered, whole and in pieces, and panics if
/// that makes a difference.
pub fn cut(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(mut case) = Case::arbitrary(&mut u) else {
        return;
    };
    if let (Ok(at), Ok(byte)) = (u32::arbitrary(&mut u), u8::arbitrary(&mut u))
        && let Some(altered) = case.bytes.get_mut(at as usize % 4096)
    {
        *altered ^= byte;
    }
    case.reads.iter_mut().for_each(|(_, pressure)| pressure.unsent = false);
    let pieces = case.echo();
    let mut whole = case.peer();
    whole.read(&case.bytes);
    assert_eq!(pieces.seen().events, whole.seen().events);
    assert_eq!(pieces.engine.end(), whole.engine.end());
    assert_eq!(pieces.engine.phase(), whole.engine.phase());
    assert_eq!(pieces.engine.counts().messages, whole.engine.counts().messages);
}
