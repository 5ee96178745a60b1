//! The measurements: how long, how large, how often, on connections of their own.
//!
//! Owns which are made, and how each of them opens a connection. It does not know what is measured.

pub(super) mod count;
pub(super) mod idle;
mod known;
pub mod load;
pub(super) mod size;

use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use super::failure::{Failed, Failure};
use super::report::measured::{Cut, Measurement};
use super::report::{Report, printable};
use super::socket::{Incoming, Socket};
use super::talk::Dialogue;
use super::target::Target;
use super::upgrade::Asked;
use super::wire::{End, Stream};
use super::{Led, Open, Options};

/// What is measured once a path is known to work.
#[derive(Debug, Default)]
pub struct Plan {
    /// Round trips: how many, and the time from one to the next.
    pub count: Option<(u32, Duration)>,
    /// The longest silence to try.
    pub idle: Option<Duration>,
    /// The largest message to try, in bytes.
    pub max_size: Option<usize>,
    /// The load to put on the server.
    pub load: Option<load::Settings>,
    /// Whether progress is shown on stderr.
    pub live: bool,
}

impl Plan {
    /// Which measurements that is.
    pub(super) fn asked(&self) -> Vec<Measurement> {
        let all = [
            (Measurement::Count, self.count.is_some()),
            (Measurement::MaxSize, self.max_size.is_some()),
            (Measurement::Idle, self.idle.is_some()),
            (Measurement::Load, self.load.is_some()),
        ];
        all.into_iter().filter_map(|(measurement, asked)| asked.then_some(measurement)).collect()
    }

    /// How long the kernel is to wait for an acknowledgement: tells a path that drops connections
    /// from a proxy that keeps them while its backend is gone.
    pub(super) fn unacknowledged(&self) -> Option<Duration> {
        self.idle.map(|_| Duration::from_secs(3))
    }
}

/// The path that is measured.
struct Path<'a> {
    target: &'a Target,
    options: &'a Options,
    /// What is known to work.
    address: Option<IpAddr>,
}

/// Makes the measurements that were asked for.
pub(super) async fn run(
    target: &Target,
    options: &Options,
    report: &mut Report,
) -> Result<(), Failed> {
    let path = Path { target, options, address: report.address() };
    let plan = &options.measure;
    if let Some((count, interval)) = plan.count {
        let (counted, failed) = count::run(&path, count, interval).await?;
        report.measured.count = Some(counted);
        failed.map_or(Ok(()), Err)?;
    }
    if let Some(limit) = plan.max_size {
        report.measured.size = Some(size::run(&path, limit).await?);
    }
    if let Some(max) = plan.idle {
        report.measured.idle = Some(idle::run(&path, max).await?);
    }
    // Last: it may leave a server in another state.
    if let Some(settings) = plan.load {
        let (found, failed) = load::run(&path, settings, report.greeting.is_some()).await?;
        report.measured.load = Some(found);
        failed.map_or(Ok(()), Err)?;
    }
    path.progress("");
    Ok(())
}

impl Path<'_> {
    /// Opens another connection, as the stages did.
    async fn open(&self) -> Result<Socket, Failed> {
        let open = self.open_as(&self.options.asked).await?;
        Ok(Socket::new(open.stream, open.agreed.extensions.is_some()))
    }

    /// Opens one without compression.
    async fn open_plain(&self) -> Result<Stream, Failed> {
        let asked = Asked { uncompressed: true, ..self.options.asked.clone() };
        Ok(self.open_as(&asked).await?.stream)
    }

    async fn open_as(&self, asked: &Asked) -> Result<Open, Failed> {
        let deadline = Instant::now() + self.options.timeout;
        let mut unshown = Report::of_another_connection(self.address);
        match super::open(self.target, self.options, asked, deadline, &mut unshown).await? {
            Led::Open(open) => Ok(*open),
            Led::Elsewhere(target) => {
                let seen = format!("Another handshake is redirected to {target}.");
                Err(Failed::new(Failure::Redirected, seen))
            }
        }
    }

    /// Whether the server sends messages back.
    fn echoes(&self) -> bool {
        matches!(self.options.dialogue, Dialogue::Echo)
    }

    /// Replaces the line that shows how far a measurement has come.
    fn progress(&self, text: &str) {
        if self.options.measure.live {
            let text: String = text.chars().take(79).collect();
            // With stderr closed there is nobody left to tell.
            let _ = write!(io::stderr(), "\r\x1b[K{text}").and_then(|()| io::stderr().flush());
        }
    }
}

/// How a connection ended that should have gone on.
fn cut(incoming: Incoming) -> Cut {
    match incoming {
        Incoming::Close(code, reason) => Cut::Close { code, reason: printable(&reason) },
        Incoming::Ended(End::Fin) => Cut::Fin,
        Incoming::Ended(End::Reset) => Cut::Reset,
        Incoming::Ended(End::Tls(error)) => Cut::Broken(error.to_string()),
        Incoming::Ended(End::Other(text)) => {
            let gave_up = io::Error::from(Errno::TIMEDOUT).to_string();
            if text == gave_up { Cut::Unacknowledged } else { Cut::Broken(text) }
        }
        Incoming::Broken(text) => Cut::Broken(text),
        Incoming::Message(_) | Incoming::Pong(_) => Cut::Altered,
    }
}

/// Something that several connections do at once.
type Running<'a, T> = Vec<Pin<Box<dyn Future<Output = T> + 'a>>>;

/// The next of them that is done, which is taken out; none of an empty list.
async fn next<T>(running: &mut Running<'_, T>) -> Option<T> {
    poll_fn(|cx| {
        for index in 0..running.len() {
            if let Poll::Ready(done) = running[index].as_mut().poll(cx) {
                drop(running.remove(index));
                return Poll::Ready(Some(done));
            }
        }
        if running.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
