//! `wsecho probe`: proves from a client's side that WebSockets work on a path, or says why not.
//!
//! Owns the order of the stages, their clock and their deadline: one for all of them, and after it
//! the first stage that is not done has failed. It returns a [`Report`] and prints nothing. It shares
//! the protocol with the server and knows nothing else of it.

mod answer;
pub mod args;
mod certificate;
mod connect;
mod exchange;
pub mod failure;
pub mod http2;
pub mod measure;
pub mod report;
mod secrets;
mod socket;
mod talk;
mod target;
mod tls;
mod tunnel;
mod upgrade;
mod wire;

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::LOCATION;
use tokio::runtime::Builder;
use tokio::time::Instant;

use self::connect::Connected;
use self::exchange::Exchange;
use self::failure::{Failed, Failure};
use self::http2::Policy;
use self::report::measured::Measured;
use self::report::{
    Agreed, Answer, Attempt, Ending, Family, Outcome, Redirect, Report, Stage, Step, Unconnected,
    days, expired, printable,
};
use self::secrets::Secrets;
use self::socket::Socket;
use self::talk::{Dialogue, Talk};
pub use self::target::{ParseTargetError, Pinned, Target};
use self::tls::{Trust, certificate_failure};
use self::tunnel::Proxies;
use self::upgrade::{Asked, Handshake};
use self::wire::Stream;
use crate::proxy::protocol::Version;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// From when on a certificate that expires is worth a warning, in days.
const EXPIRES_SOON: i64 = 14;

/// How to probe, whatever the target.
#[derive(Debug)]
pub struct Options {
    /// The time for all stages together.
    pub timeout: Duration,
    /// Addresses that replace those of DNS.
    pub pinned: Vec<Pinned>,
    /// The only family of addresses to use.
    pub family: Option<Family>,
    /// A Unix socket to connect to instead of the URL's host.
    pub unix: Option<PathBuf>,
    /// The HTTP proxies on the way out.
    pub proxies: Proxies,
    /// The PROXY header to begin with.
    pub proxy_protocol: Option<Version>,
    /// What TLS is to trust.
    pub trust: Trust,
    /// Whether redirects are followed.
    pub follow: bool,
    /// What the handshake asks for.
    pub asked: Asked,
    /// Whether HTTP/2 is tried.
    pub http2: Policy,
    /// What is said once the WebSocket is open.
    pub dialogue: Dialogue,
    /// What is measured on a path that works.
    pub measure: measure::Plan,
}

impl Options {
    /// For one echo on this host: directly, over HTTP/1.1, and whatever the certificate.
    #[must_use]
    pub fn of_echo(timeout: Duration) -> Self {
        Self {
            timeout,
            pinned: Vec::new(),
            family: None,
            unix: None,
            proxies: Proxies::none(),
            proxy_protocol: None,
            trust: Trust::new(None, true, None),
            follow: false,
            asked: Asked::default(),
            http2: Policy::Off,
            dialogue: Dialogue::Echo,
            measure: measure::Plan::default(),
        }
    }
}

/// A stage that ran.
struct Clock {
    begun: Instant,
    deadline: Instant,
}

/// Probes one target, and reports what was found, without the secrets that it was given.
pub async fn run(target: &Target, options: &Options) -> Report {
    let mut report = found(target, options).await;
    Secrets::of(target, options).hide(&mut report);
    report
}

/// What is found of a target, redirects followed.
async fn found(target: &Target, options: &Options) -> Report {
    let begun = Instant::now();
    let clock = Clock { begun, deadline: begun + options.timeout };
    let mut target = target.clone();
    let mut redirects: Vec<Redirect> = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "shown to people, not used for a timer")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    loop {
        let mut report = Report {
            url: redirects.last().map_or_else(|| target.to_string(), |it| it.location.clone()),
            begun_unix_seconds: now.as_secs(),
            timeout: options.timeout,
            insecure: options.trust.insecure && target.secure,
            redirects: redirects.clone(),
            measured: Measured { asked: options.measure.asked(), ..Measured::default() },
            ..Report::default()
        };
        let ran = stages(&target, options, &clock, &mut report).await;
        report.took = clock.begun.elapsed();
        match ran {
            Ok(None) => {
                report.failed = measure::run(&target, options, &mut report).await.err();
                return report;
            }
            Ok(Some(redirected)) => {
                redirects.extend(report.redirects.pop());
                target = redirected;
            }
            Err(failed) => {
                report.failed = Some(failed);
                return report;
            }
        }
    }
}

/// An open WebSocket.
struct Open {
    stream: Stream,
    agreed: Agreed,
}

/// What the handshake led to.
enum Led {
    Open(Box<Open>),
    Elsewhere(Target),
}

/// All stages; the target of a redirect that is to be followed, if that is where they lead.
async fn stages(
    target: &Target,
    options: &Options,
    clock: &Clock,
    report: &mut Report,
) -> Result<Option<Target>, Failed> {
    let deadline = clock.deadline;
    if options.http2 == Policy::Only {
        return http2::only(target, options, deadline, report).await.map(|()| None);
    }
    let open = match open(target, options, &options.asked, deadline, report).await? {
        Led::Open(open) => open,
        Led::Elsewhere(target) => return Ok(Some(target)),
    };
    let compression = open.agreed.extensions.is_some();
    let mut socket = Socket::new(open.stream, compression);
    let mut talk = Talk::new(&mut socket, deadline);
    if let Dialogue::Nothing = options.dialogue {
        report.omit(Stage::Echo, "left out: --connect-only");
    } else {
        let begun = Instant::now();
        let echoed = talk.echo(&options.dialogue, compression, report).await;
        report.finish(Stage::Echo, begun, echoed)?;
    }
    let begun = Instant::now();
    let ping = talk.ping().await;
    report.ping = Some(report.finish(Stage::Ping, begun, ping)?);
    let begun = Instant::now();
    let closed = talk.close().await;
    let closed = report.finish(Stage::Close, begun, closed)?;
    if closed.end == Ending::LeftOpen {
        let text = "After the closing handshake the server leaves the connection open.";
        report.warnings.push(text.to_owned());
    }
    report.closed = Some(closed);
    http2::also(target, options, deadline, report).await?;
    Ok(None)
}

/// The stages up to the open WebSocket.
async fn open(
    target: &Target,
    options: &Options,
    asked: &Asked,
    deadline: Instant,
    report: &mut Report,
) -> Result<Led, Failed> {
    let stream = reach(target, options, &[b"http/1.1"], deadline, report).await?;
    request(stream, target, options, asked, deadline, report).await
}

/// The stages up to a stream that HTTP can be spoken on.
async fn reach(
    target: &Target,
    options: &Options,
    alpn: &[&[u8]],
    deadline: Instant,
    report: &mut Report,
) -> Result<Stream, Failed> {
    let stream = connect(target, options, deadline, report).await?;
    if !target.secure {
        report.omit(Stage::Tls, "not used: ws://");
        return Ok(stream);
    }
    let begun = Instant::now();
    let mut facts = None;
    let shaken =
        tls::handshake(stream, &target.host, alpn, &options.trust, deadline, &mut facts).await;
    report.tls = facts;
    let stream = report.finish(Stage::Tls, begun, shaken)?;
    report.warn_of_expiry();
    Ok(stream)
}

/// Resolves and connects, through a tunnel and behind a PROXY header if there are to be any.
async fn connect(
    target: &Target,
    options: &Options,
    deadline: Instant,
    report: &mut Report,
) -> Result<Stream, Failed> {
    let introduced = async |connected: Result<Connected, Failed>| match options.proxy_protocol {
        Some(version) => connect::send_proxy_header(connected?, version).await,
        None => Ok(connected?.stream),
    };
    if let Some(path) = &options.unix {
        report.omit(Stage::Resolve, "not needed: --unix");
        let begun = Instant::now();
        let connected = introduced(connect::unix(path, deadline, &mut report.attempts).await).await;
        return report.finish(Stage::Tcp, begun, connected);
    }
    let via = match options.proxies.proxy_for(target) {
        Ok(via) => via,
        Err(failed) => {
            report.omit(Stage::Resolve, "not tried: the proxy cannot be used");
            return report.finish(Stage::Tcp, Instant::now(), Err(failed));
        }
    };
    let (host, port) = match &via {
        Some(via) => (&via.host, via.port),
        None => (&target.host, target.port),
    };
    let begun = Instant::now();
    let mut resolved = match &report.addresses[..] {
        [] => connect::resolve(host, &options.pinned, options.family, deadline).await,
        known => Ok(known.to_vec()),
    };
    if let (Some(_), Err(failed)) = (&via, &mut resolved) {
        failed.failure = Failure::TunnelUnreachable;
        failed.seen = format!("The HTTP proxy cannot be reached: {}", failed.seen);
    }
    if resolved.is_ok() && host.parse::<IpAddr>().is_ok() {
        report.addresses = resolved?;
        report.omit(Stage::Resolve, "not needed: an address");
    } else {
        report.addresses = report.finish(Stage::Resolve, begun, resolved)?;
    }
    let begun = Instant::now();
    let attempts = &mut report.attempts;
    let patience = options.measure.unacknowledged();
    let mut connected = connect::tcp(&report.addresses, port, deadline, patience, attempts).await;
    // Of the family in use alone: the other was tried beside it.
    let used = attempts.last().and_then(|it| it.family);
    let took = attempts.iter().filter(|it| it.family == used).map(|it| it.took).sum();
    let begun = Instant::now().checked_sub(took).unwrap_or(begun);
    if let Some(via) = via {
        report.tunnel = Some(format!("{}:{}", via.host, via.port));
        connected = match connected {
            Ok(connected) => via
                .open(connected.stream, target, deadline)
                .await
                .map(|stream| Connected { stream, ends: connected.ends }),
            Err(failed) => Err(Failed { failure: Failure::TunnelUnreachable, ..failed }),
        };
    }
    let stream = report.finish(Stage::Tcp, begun, introduced(connected).await)?;
    report.warn_of_dead_family();
    Ok(stream)
}

/// Sends the handshake, and judges the answer.
async fn request(
    stream: Stream,
    target: &Target,
    options: &Options,
    asked: &Asked,
    deadline: Instant,
    report: &mut Report,
) -> Result<Led, Failed> {
    let handshake = Handshake::new(target, asked);
    let exchange = Exchange::new(stream);
    let recorder = exchange.recorder.clone();
    let begun = Instant::now();
    let answered = exchange.run(handshake.request.clone(), deadline).await;
    report.heads = Some(answer::heads(&recorder.get()));
    let exchanged = match answered {
        Ok(exchanged) => exchanged,
        Err(unanswered) => {
            let failed = answer::unanswered(unanswered, certificate_failure(&options.trust));
            return report.finish(Stage::Http, begun, Err(failed));
        }
    };
    let facts = answer::facts(&exchanged.head);
    let location = exchanged.head.headers.get(LOCATION).filter(|_| facts.status / 100 == 3);
    let location = location.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
    report.answer = Some(facts);
    let Some(stream) = exchanged.stream else {
        if let (Some(location), true) = (location, options.follow) {
            let led = redirect(target, &location, report);
            return report.finish(Stage::Http, begun, led);
        }
        let failed = answer::refused(&exchanged.head, &exchanged.body);
        return report.finish(Stage::Http, begun, Err(failed));
    };
    report.finish(Stage::Http, begun, Ok(()))?;
    let agreed = handshake.check(&exchanged.head, asked);
    let agreed = report.finish(Stage::Upgrade, Instant::now(), agreed)?;
    report.agreed = Some(agreed.clone());
    Ok(Led::Open(Box::new(Open { stream, agreed })))
}

/// Where the redirect in the report's answer leads; its `location`, uncut.
fn redirect(target: &Target, location: &str, report: &mut Report) -> Result<Led, Failed> {
    let Answer { status, location: shown, .. } = report.answer.clone().unwrap_or_default();
    let seen = format!("The server redirects ({status}) to {}.", shown.unwrap_or_default());
    let Some(next) = target.join(location) else {
        return Err(Failed::new(Failure::BadRedirect, seen));
    };
    let url = report.url.clone();
    let location = printable(next.to_string().as_bytes());
    report.redirects.push(Redirect { url, status, location });
    if report.redirects.len() > MAX_REDIRECTS {
        let seen = format!("After {MAX_REDIRECTS} redirects, another follows. {seen}");
        return Err(Failed::new(Failure::RedirectLoop, seen));
    }
    Ok(Led::Elsewhere(next))
}

impl Report {
    /// For another connection, which tries no address but one that works.
    fn of_another_connection(address: Option<IpAddr>) -> Self {
        Self { addresses: address.into_iter().collect(), ..Self::default() }
    }

    /// Records how a stage ended.
    fn finish<T>(
        &mut self,
        stage: Stage,
        begun: Instant,
        result: Result<T, Failed>,
    ) -> Result<T, Failed> {
        let outcome = if result.is_ok() { Outcome::Passed } else { Outcome::Failed };
        let took = (stage != Stage::Upgrade).then(|| begun.elapsed());
        self.steps.push(Step { stage, took, outcome });
        result.map_err(|failed| Failed { stage, ..failed })
    }

    /// Records that a stage is left out.
    fn omit(&mut self, stage: Stage, why: &'static str) {
        self.steps.push(Step { stage, took: None, outcome: Outcome::Omitted(why) });
    }

    /// Clients prefer one family, and some wait long before they try the other; they leave out one to
    /// which they have no route themselves.
    fn warn_of_dead_family(&mut self) {
        for family in [Family::V4, Family::V6] {
            let routed = |it: &&Attempt| !matches!(it.error, Some(Unconnected::NoRoute(_)));
            let of = self.attempts.iter().filter(|attempt| attempt.family == Some(family));
            let mut of = of.filter(routed);
            let dead = of.clone().next().is_some() && of.clone().all(|it| it.error.is_some());
            if let (true, Some(attempt)) = (dead, of.next()) {
                let error = attempt.error.as_ref().map(ToString::to_string).unwrap_or_default();
                let text = format!("{} does not work ({}: {error}).", family.name(), attempt.to);
                self.warnings.push(text);
            }
        }
    }

    fn warn_of_expiry(&mut self) {
        let Some(tls) = self.tls.as_ref().filter(|tls| tls.verified) else { return };
        let first = tls
            .chain
            .iter()
            .find(|it| Some(it.not_after_unix_seconds) == tls.last_expiry_unix_seconds);
        if let Some(left) = self.days_left().filter(|days| *days < EXPIRES_SOON) {
            let expires = expired(left).unwrap_or_else(|| format!("expires in {}", days(left)));
            let subject = first.map_or("the root", |it| &it.subject);
            self.warnings.push(format!("A certificate {expires}: {subject}."));
        }
        for spare in tls.chain.iter().filter(|it| it.days_left < 0) {
            let text = "The server also sends an expired certificate, which nothing needs";
            self.warnings.push(format!("{text}: {}.", spare.subject));
        }
    }
}

/// Probes several targets side by side, and reports in their order.
///
/// # Errors
/// If the runtime cannot start.
pub fn run_all(targets: &[Target], options: &Options) -> io::Result<Vec<Report>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut running: Vec<_> = targets.iter().map(|it| Box::pin(run(it, options))).collect();
    let mut reports: Vec<Option<Report>> = targets.iter().map(|_| None).collect();
    runtime.block_on(poll_fn(|cx| {
        for (running, report) in running.iter_mut().zip(&mut reports) {
            if report.is_none()
                && let Poll::Ready(ready) = running.as_mut().poll(cx)
            {
                *report = Some(ready);
            }
        }
        if reports.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    }));
    drop(running);
    // A resolver that hangs in getaddrinfo(3) is not waited for.
    runtime.shutdown_background();
    Ok(reports.into_iter().flatten().collect())
}
