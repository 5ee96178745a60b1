//! What is said on an open WebSocket: messages and their echoes, a ping, and the closing handshake.
//!
//! Owns what is sent, and the judgement of what comes back. It does not know frames.
//!
//! Source: RFC 6455, sections 5.5 and 7.1.

use std::time::Duration;

use regex_lite::Regex;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failed, Failure};
use super::report::{Closed, Ending, Report, RoundTrip, printable};
use super::socket::{Incoming, Message, Socket};
use super::wire::End;

/// What is said before the ping.
#[derive(Clone, Debug)]
pub enum Dialogue {
    /// Messages of every kind, each of which must come back.
    Echo,
    /// For a server that is no echo: `send` something, if given, and `expect` a message.
    Expect {
        /// The text to send first.
        send: Option<String>,
        /// What a message must match.
        expect: Regex,
    },
    /// Nothing.
    Nothing,
}

/// The payload that needs more than 16 bits of length, in bytes.
const LARGE: usize = 70_000;
/// How long an echo may follow a greeting.
const AFTER_GREETING: Duration = Duration::from_secs(2);
/// How long the end of the connection may follow the closing handshake.
const LAST: Duration = Duration::from_secs(2);

/// What is sent, and what it is called.
struct Sent {
    name: &'static str,
    message: Message,
}

fn text(name: &'static str, text: &str) -> Sent {
    let payload = text.as_bytes().to_vec();
    Sent { name, message: Message { is_text: true, compressed: false, payload, frames: 1 } }
}

/// Each kind of message that a path may treat in its own way.
fn messages(compression: bool) -> Vec<Sent> {
    let random = |length| (0..length).map(|_| fastrand::u8(..)).collect::<Vec<u8>>();
    let binary = |name, payload, frames| Sent {
        name,
        message: Message { is_text: false, compressed: false, payload, frames },
    };
    let mut messages = vec![
        text("text", "wsecho probe: text"),
        binary("binary", random(64), 1),
        text("empty", ""),
        text("non-ASCII", "wsecho probe: Grüße, 世界, 👋"),
        binary("fragmented", random(99), 3),
        binary("70 KB", random(LARGE), 1),
    ];
    if compression {
        let Sent { name, message } = text("compressed", "wsecho probe: compressed compressed");
        messages.push(Sent { name, message: Message { compressed: true, ..message } });
    }
    messages
}

/// One conversation, up to a deadline.
pub(super) struct Talk<'a> {
    pub socket: &'a mut Socket,
    pub deadline: Instant,
    /// What has been echoed last, to know it again when it comes twice.
    last: Option<Message>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(socket: &'a mut Socket, deadline: Instant) -> Self {
        Self { socket, deadline, last: None }
    }

    /// Holds the dialogue, as far as it goes.
    pub(super) async fn echo(
        &mut self,
        dialogue: &Dialogue,
        compression: bool,
        report: &mut Report,
    ) -> Result<(), Failed> {
        match dialogue {
            Dialogue::Nothing => Ok(()),
            Dialogue::Expect { send, expect } => self.expect(send.as_deref(), expect, report).await,
            Dialogue::Echo => {
                for sent in messages(compression) {
                    self.one(&sent, report).await?;
                }
                self.in_order(report).await
            }
        }
    }

    /// Sends one message and waits for its echo.
    async fn one(&mut self, sent: &Sent, report: &mut Report) -> Result<(), Failed> {
        let begun = Instant::now();
        self.socket.send(&sent.message);
        let message = self.message(sent.name, self.deadline).await?;
        let judged = judge(sent, &message, self.last.as_ref(), &mut report.prefix);
        let first = report.round_trips.is_empty() && report.greeting.is_none();
        if let Err(failed) = judged {
            let may_greet = first && failed.failure == Failure::EchoAltered && message.is_text;
            if !may_greet {
                return Err(explained(failed, sent));
            }
            // Some servers begin with a message of their own.
            let until = self.deadline.min(Instant::now() + AFTER_GREETING);
            let Ok(next) = self.message(sent.name, until).await else { return Err(failed) };
            judge(sent, &next, None, &mut report.prefix).map_err(|_| failed)?;
            report.greeting = Some(printable(&message.payload));
        }
        let (bytes, took) = (sent.message.payload.len(), begun.elapsed());
        report.round_trips.push(RoundTrip { message: sent.name, bytes, took });
        self.last = Some(message);
        Ok(())
    }

    /// Two messages at once, which must come back in their order.
    async fn in_order(&mut self, report: &mut Report) -> Result<(), Failed> {
        let [one, two] =
            ["wsecho probe: first", "wsecho probe: second"].map(|it| text("two at once", it));
        self.socket.send(&one.message);
        self.socket.send(&two.message);
        for (sent, other) in [(&one, &two), (&two, &one)] {
            let message = self.message(sent.name, self.deadline).await?;
            let swapped = judge(other, &message, None, &mut report.prefix.clone()).is_ok();
            if swapped && self.last.as_ref() != Some(&message) {
                let seen = "Of two messages sent at once, the second came back first.";
                return Err(Failed::new(Failure::EchoOrder, seen));
            }
            judge(sent, &message, self.last.as_ref(), &mut report.prefix)?;
            self.last = Some(message);
        }
        Ok(())
    }

    async fn expect(
        &mut self,
        send: Option<&str>,
        expect: &Regex,
        report: &mut Report,
    ) -> Result<(), Failed> {
        let begun = Instant::now();
        let question = text("message", send.unwrap_or_default());
        if send.is_some() {
            self.socket.send(&question.message);
        }
        let mut others: Vec<String> = Vec::new();
        let mut count = 0;
        loop {
            let message = match self.message("message", self.deadline).await {
                Ok(message) => message,
                Err(failed) if failed.failure == Failure::EchoLate => {
                    let seen = match count {
                        0 => "No message was received.".to_owned(),
                        count => {
                            format!("None of the {count} messages received matches `{expect}`.")
                        }
                    };
                    let quote = others.join("\n");
                    return Err(Failed::new(Failure::ExpectationUnmet, seen).quoting(quote));
                }
                Err(failed) => return Err(failed),
            };
            if expect.is_match(&String::from_utf8_lossy(&message.payload)) {
                let (bytes, took) = (question.message.payload.len(), begun.elapsed());
                report.round_trips.push(RoundTrip { message: "message", bytes, took });
                return Ok(());
            }
            count += 1;
            if others.len() < 5 {
                others.push(printable(&message.payload));
            }
        }
    }

    /// The next message; anything else is a failure.
    async fn message(&mut self, name: &str, until: Instant) -> Result<Message, Failed> {
        loop {
            match timeout_at(until, self.socket.next()).await {
                Ok(Incoming::Message(message)) => return Ok(message),
                // One that was not asked for is allowed (RFC 6455, section 5.5.3).
                Ok(Incoming::Pong(_)) => {}
                Ok(Incoming::Broken(text)) if name == "compressed" => {
                    let seen = format!("The echo of a compressed message is unreadable: {text}.");
                    return Err(Failed::new(Failure::CompressionBroken, seen));
                }
                Ok(Incoming::Close(Some(1002 | 1007), reason)) if name == "compressed" => {
                    let seen = "The server answered a compressed message with a Close frame.";
                    let failed = Failed::new(Failure::CompressionBroken, seen);
                    return Err(failed.quoting(printable(&reason)));
                }
                Ok(Incoming::Close(Some(1009), reason)) => {
                    let seen =
                        format!("The server refused the message \"{name}\" with close code 1009.");
                    return Err(Failed::new(Failure::TooBig, seen).quoting(printable(&reason)));
                }
                Ok(other) => {
                    return Err(ended(other, &format!("the echo of \"{name}\"")));
                }
                Err(_) => {
                    let seen = format!("The message \"{name}\" did not come back in time.");
                    return Err(Failed::new(Failure::EchoLate, seen));
                }
            }
        }
    }

    /// Pings, and waits for the pong.
    pub(super) async fn ping(&mut self) -> Result<Duration, Failed> {
        let payload = format!("wsecho probe {:08x}", fastrand::u32(..));
        let begun = Instant::now();
        self.socket.ping(payload.as_bytes());
        loop {
            match timeout_at(self.deadline, self.socket.next()).await {
                Ok(Incoming::Pong(answer)) if answer == payload.as_bytes() => {
                    return Ok(begun.elapsed());
                }
                // One that nobody asked for.
                Ok(Incoming::Pong(answer)) if answer.is_empty() => {}
                Ok(Incoming::Pong(answer)) => {
                    let seen = format!(
                        "The pong carries {} bytes that are not the payload of the ping.",
                        answer.len()
                    );
                    return Err(Failed::new(Failure::PongAltered, seen));
                }
                Ok(Incoming::Message(message)) => {
                    if self.last.as_ref().is_some_and(|last| same(last, &message)) {
                        return Err(doubled());
                    }
                }
                Ok(other) => return Err(ended(other, "the pong")),
                Err(_) => {
                    let seen = "The ping was not answered in time.";
                    return Err(Failed::new(Failure::PongLate, seen));
                }
            }
        }
    }

    /// Closes with 1000, and waits for the answer and the end of the connection.
    pub(super) async fn close(&mut self) -> Result<Closed, Failed> {
        const NORMAL: u16 = 1000;
        let begun = Instant::now();
        self.socket.close(NORMAL);
        let answered = loop {
            match timeout_at(self.deadline, self.socket.next()).await {
                Ok(Incoming::Close(code, _)) if code.is_none_or(|code| code == NORMAL) => {
                    break code;
                }
                Ok(Incoming::Close(code, reason)) => {
                    let code = code.unwrap_or_default();
                    let seen = format!("Close 1000 was answered with {code}.");
                    return Err(
                        Failed::new(Failure::CloseAltered, seen).quoting(printable(&reason))
                    );
                }
                // What was on its way.
                Ok(Incoming::Message(_) | Incoming::Pong(_)) => {}
                Ok(Incoming::Ended(end)) => {
                    let how = if end == End::Fin { "closed" } else { "reset" };
                    let seen = format!("The connection was {how} without an answer to Close 1000.");
                    return Err(Failed::new(Failure::CloseCut, seen));
                }
                Ok(other @ Incoming::Broken(_)) => {
                    return Err(ended(other, "the answer to Close 1000"));
                }
                Err(_) => {
                    let seen = "Close 1000 was not answered in time.";
                    return Err(Failed::new(Failure::CloseLate, seen));
                }
            }
        };
        let took = begun.elapsed();
        let until = self.deadline.min(Instant::now() + LAST);
        let end = match timeout_at(until, self.socket.next()).await {
            Ok(Incoming::Ended(End::Fin)) => Ending::Fin,
            Ok(Incoming::Ended(_)) => Ending::Reset,
            Ok(_) | Err(_) => Ending::LeftOpen,
        };
        // A server that does not read has no room for TLS's last words either.
        let _ = timeout_at(until, self.socket.shutdown()).await;
        Ok(Closed { sent: NORMAL, answered, took, end })
    }
}

/// A compressed message that comes back changed is a fault of compression: others were not.
fn explained(failed: Failed, sent: &Sent) -> Failed {
    if sent.message.compressed && failed.failure == Failure::EchoAltered {
        return Failed { failure: Failure::CompressionBroken, ..failed };
    }
    failed
}

/// How a session ended that was to go on with what is `awaited`.
pub(super) fn ended(incoming: Incoming, awaited: &str) -> Failed {
    let (failure, seen) = match incoming {
        Incoming::Close(code, reason) => {
            let code = code.map_or("without a code".to_owned(), |code| format!("with code {code}"));
            let seen = format!("Instead of {awaited}, a Close frame {code} came.");
            return Failed::new(Failure::ClosedEarly, seen).quoting(printable(&reason));
        }
        Incoming::Ended(End::Fin) => {
            (Failure::Cut, format!("The connection was closed before {awaited}."))
        }
        Incoming::Ended(End::Reset) => {
            (Failure::Reset, format!("The connection was reset before {awaited}."))
        }
        Incoming::Ended(End::Tls(error)) => {
            (Failure::Reset, format!("TLS failed before {awaited}: {error}."))
        }
        Incoming::Ended(End::Other(error)) => {
            (Failure::Reset, format!("The connection failed before {awaited}: {error}."))
        }
        Incoming::Broken(text) => {
            (Failure::FrameBroken, format!("Instead of {awaited}, an illegal frame came: {text}."))
        }
        Incoming::Message(_) | Incoming::Pong(_) => {
            (Failure::FrameBroken, format!("Instead of {awaited}, an unexpected frame came."))
        }
    };
    Failed::new(failure, seen)
}

fn same(one: &Message, other: &Message) -> bool {
    one.is_text == other.is_text && one.payload == other.payload
}

fn doubled() -> Failed {
    Failed::new(Failure::EchoDoubled, "The same message came back twice.")
}

/// Judges an echo. The first text decides whether the server puts a prefix before each.
fn judge(
    sent: &Sent,
    got: &Message,
    last: Option<&Message>,
    prefix: &mut Option<String>,
) -> Result<(), Failed> {
    let Sent { name, message } = sent;
    let altered = |what: String| {
        let seen = format!("The echo of \"{name}\" is not what was sent: {what}.");
        Err(Failed::new(Failure::EchoAltered, seen).quoting(printable(&got.payload)))
    };
    if last.is_some_and(|last| same(last, got)) && !same(message, got) {
        return Err(doubled());
    }
    let payload = match prefix.as_deref() {
        Some(prefix) if got.is_text => {
            got.payload.strip_prefix(prefix.as_bytes()).unwrap_or(&got.payload)
        }
        _ => &got.payload,
    };
    let is_same = payload == message.payload;
    if is_same && got.is_text != message.is_text {
        let [sent, came] =
            [message.is_text, got.is_text].map(|text| if text { "text" } else { "binary" });
        let seen = format!("The message \"{name}\" was sent as {sent} and came back as {came}.");
        return Err(Failed::new(Failure::EchoType, seen));
    }
    if is_same {
        return Ok(());
    }
    // An empty text ends everything, so it shows no prefix.
    let found = got.payload.strip_suffix(&*message.payload).filter(|_| {
        prefix.is_none() && got.is_text && message.is_text && !message.payload.is_empty()
    });
    if let (Some(found), "text") = (found, *name)
        && let Ok(found) = std::str::from_utf8(found)
    {
        *prefix = Some(found.to_owned());
        return Ok(());
    }
    let (was, is) = (message.payload.len(), payload.len());
    if was == is {
        let at = payload.iter().zip(&message.payload).position(|(one, other)| one != other);
        let at = at.unwrap_or_default();
        altered(format!("byte {at} of {was} differs"))
    } else {
        altered(format!("{is} bytes instead of {was}"))
    }
}
