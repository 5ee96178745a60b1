//! One client after another. This file owns the kinds of clients, what each does, and how it may
//! end. At a restart the only right end is Close 1001 after an exact prefix of the echoes.

use std::collections::BTreeMap;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::fault_proxy::{self, Fault};
use crate::service::Service;
use crate::talk::{ENDPOINTS, Heard, LARGEST, NoTalk, PATIENCE, Talk, connect};

const KIB: usize = 1024;
const GOING_AWAY: Option<u16> = Some(1001);

/// State shared by all clients.
pub struct World {
    services: Vec<Arc<Service>>,
    /// Set when it is time to leave.
    pub over: AtomicBool,
    sessions: AtomicUsize,
    echoes: AtomicU64,
    /// Answered with 503, as they should be while a service stops.
    turned_away: AtomicU64,
    drained: AtomicU64,
    visits: Mutex<BTreeMap<Kind, u64>>,
    complaints: Mutex<Vec<String>>,
}

impl World {
    pub fn new(services: Vec<Arc<Service>>) -> Self {
        Self {
            services,
            over: AtomicBool::default(),
            sessions: AtomicUsize::default(),
            echoes: AtomicU64::default(),
            turned_away: AtomicU64::default(),
            drained: AtomicU64::default(),
            visits: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The WebSockets open now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The echoes received, each of them checked.
    pub fn echoes(&self) -> u64 {
        self.echoes.load(Ordering::Relaxed)
    }

    pub fn complain(&self, complaint: String) {
        self.complaints.lock().expect("not poisoned").push(complaint);
    }

    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("not poisoned").clone()
    }

    /// How many clients of which kinds there were, and what they saw.
    pub fn summary(&self) -> String {
        let visits = self.visits.lock().expect("not poisoned");
        let mut text = format!(
            "{} clients, {} echoes, {} sessions ended by a restart, {} requests answered with 503;",
            visits.values().sum::<u64>(),
            self.echoes(),
            self.drained.load(Ordering::Relaxed),
            self.turned_away.load(Ordering::Relaxed),
        );
        text.extend(visits.iter().map(|(kind, count)| format!(" {kind:?} {count}")));
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Talking,
    Large,
    SlowReader,
    Pinging,
    Idle,
    Aborting,
    HalfClosing,
    OnFailingPath,
    NoWebSocket,
}

impl Kind {
    /// Each kind's share of a hundred clients.
    const SHARES: [(Self, u32); 9] = [
        (Self::Talking, 44),
        (Self::Large, 8),
        (Self::SlowReader, 8),
        (Self::Pinging, 8),
        (Self::Idle, 8),
        (Self::Aborting, 8),
        (Self::HalfClosing, 6),
        (Self::OnFailingPath, 7),
        (Self::NoWebSocket, 3),
    ];

    fn choose(rng: &mut Rng) -> Self {
        let mut ticket = rng.u32(..100);
        for (kind, share) in Self::SHARES {
            if ticket < share {
                return kind;
            }
            ticket -= share;
        }
        unreachable!("the shares add up to a hundred")
    }
}

/// Why a client leaves early.
enum Stop {
    /// The service is restarting, and has said so.
    Drained,
    Wrong(String),
}

impl From<String> for Stop {
    fn from(wrong: String) -> Self {
        Self::Wrong(wrong)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Wrong(error.to_string())
    }
}

/// One client after another, until the run is over.
pub async fn live(world: Arc<World>, slot: usize, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    // So that they do not all come at once.
    sleep(between(&mut rng, 0..2000)).await;
    let service = &world.services[slot % world.services.len()];
    while !world.is_over() {
        let kind = Kind::choose(&mut rng);
        *world.visits.lock().expect("not poisoned").entry(kind).or_default() += 1;
        let before = service.restarts();
        match visit(&world, service, kind, &mut rng).await {
            Ok(()) => {}
            Err(Stop::Drained) => drop(world.drained.fetch_add(1, Ordering::Relaxed)),
            Err(Stop::Wrong(what)) => {
                let restarts =
                    if was_restarted(service, before) { " (during a restart)" } else { "" };
                world.complain(format!("{}, {kind:?}{restarts}: {what}", service.name));
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// A few large echoes, to have the service allocate what it allocates only once.
pub fn greet(service: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let greet = async {
        for id in 0..16 {
            let stream = connect(service).await.map_err(|error| error.to_string())?;
            let mut talk = match Talk::open(stream, service, ENDPOINTS[1], id).await {
                Ok(talk) => talk,
                Err(NoTalk::Refused) => return Err("it answered with 503".to_owned()),
                Err(NoTalk::Failed(why)) => return Err(why),
            };
            let sent = talk.send(false, LARGEST - KIB).await;
            let heard = talk.hear().await?;
            if sent.is_err() || !matches!(heard, Heard::Echo) {
                return Err(format!("expected an echo, got {heard:?}"));
            }
            talk.close(None).await?;
        }
        Ok(())
    };
    runtime.block_on(greet).map_err(io::Error::other)
}

/// Whether a service was or is being restarted since [`Service::restarts`] was `before`.
fn was_restarted(service: &Service, before: u64) -> bool {
    before % 2 == 1 || service.restarts() != before
}

fn between(rng: &mut Rng, milliseconds: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(milliseconds))
}

async fn visit(world: &World, service: &Service, kind: Kind, rng: &mut Rng) -> Result<(), Stop> {
    let before = service.restarts();
    if kind == Kind::NoWebSocket {
        return ask(world, service, before, rng).await;
    }
    let fault = (kind == Kind::OnFailingPath).then(|| choose_fault(rng));
    let addr = service.addr();
    let stream = match fault {
        None => connect(addr).await,
        Some(fault) => fault_proxy::connect(addr, fault).await,
    };
    let stream = stream.map_err(|error| format!("connecting: {error}"))?;
    let endpoint = *rng.choice(&ENDPOINTS).expect("not empty");
    let talk = match Talk::open(stream, addr, endpoint, rng.u64(..1 << 32)).await {
        Ok(talk) => talk,
        Err(NoTalk::Refused) => return turned_away(world, service, before).await,
        Err(NoTalk::Failed(why)) => return Err(Stop::Wrong(why)),
    };
    let visit = Visit::new(world, service, before, talk, rng);
    match (kind, fault) {
        (_, Some(Fault::Slow { .. })) => visit.talk(2000..8000).await,
        (_, Some(_)) => visit.talk_until_it_fails().await,
        (Kind::Large, _) => visit.send_large_messages().await,
        (Kind::SlowReader, _) => visit.read_slowly().await,
        (Kind::Pinging, _) => visit.ping().await,
        (Kind::Idle, _) => visit.be_silent().await,
        (Kind::Aborting, _) => visit.abort().await,
        (Kind::HalfClosing, _) => visit.half_close().await,
        (Kind::Talking | Kind::OnFailingPath | Kind::NoWebSocket, _) => {
            visit.talk(4000..30_000).await
        }
    }
}

/// The answer was 503, which is right only during a restart.
async fn turned_away(world: &World, service: &Service, before: u64) -> Result<(), Stop> {
    if !was_restarted(service, before) {
        return Err(Stop::Wrong("503 outside of a restart".to_owned()));
    }
    world.turned_away.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(200)).await;
    Ok(())
}

fn choose_fault(rng: &mut Rng) -> Fault {
    // After the request head, and before the last message.
    let after = rng.usize(KIB..300 * KIB);
    match rng.u8(..5) {
        0 => {
            let delay = between(rng, 1..20);
            Fault::Slow { piece: rng.usize(KIB..64 * KIB), delay }
        }
        1 => Fault::Cut { after },
        2 => Fault::Reset { after },
        3 => Fault::HalfClose { after },
        _ => Fault::Stall { after },
    }
}

/// A plain request, or a broken handshake.
async fn ask(world: &World, service: &Service, before: u64, rng: &mut Rng) -> Result<(), Stop> {
    let (request, status) = if rng.bool() {
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "200")
    } else {
        ("GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n", "426")
    };
    let mut stream = connect(service.addr()).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.map_err(|_| "no answer".to_owned())??;
    match answer.split(' ').nth(1) {
        Some("503") => turned_away(world, service, before).await,
        Some(found) if found == status => Ok(()),
        _ => Err(Stop::Wrong(format!("expected {status}: {answer:?}"))),
    }
}

/// One session of one client.
struct Visit<'a> {
    world: &'a World,
    service: &'a Service,
    /// [`Service::restarts`] before this client connected.
    before: u64,
    talk: Talk,
    rng: &'a mut Rng,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.world.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Visit<'a> {
    fn new(
        world: &'a World,
        service: &'a Service,
        before: u64,
        talk: Talk,
        rng: &'a mut Rng,
    ) -> Self {
        world.sessions.fetch_add(1, Ordering::Relaxed);
        Self { world, service, before, talk, rng }
    }

    /// Bursts of numbered messages, with pauses.
    async fn talk(mut self, milliseconds: Range<u64>) -> Result<(), Stop> {
        let end = Instant::now() + between(self.rng, milliseconds);
        while Instant::now() < end && !self.world.is_over() {
            for _ in 0..self.rng.u32(1..=16) {
                self.send(0..2000).await?;
            }
            self.hear_all().await?;
            self.think(200..2000).await?;
        }
        self.leave().await
    }

    async fn send_large_messages(mut self) -> Result<(), Stop> {
        for _ in 0..self.rng.u32(1..=4) {
            self.send(64 * KIB..LARGEST - KIB).await?;
            self.hear_all().await?;
            self.think(500..2000).await?;
        }
        self.leave().await
    }

    /// Sends no more than the service has room for, and only then starts to read.
    async fn read_slowly(mut self) -> Result<(), Stop> {
        for _ in 0..self.rng.u32(2..=6) {
            self.send(KIB..160 * KIB).await?;
        }
        // All of it takes less than timeouts.close, since a restart may come in between.
        sleep(between(self.rng, 500..2000)).await;
        while self.talk.owed() > 0 {
            let heard = self.talk.hear().await?;
            self.expect_echo(&heard)?;
            sleep(between(self.rng, 20..150)).await;
        }
        self.leave().await
    }

    /// A pong comes after the echoes of everything sent before its ping.
    async fn ping(mut self) -> Result<(), Stop> {
        for _ in 0..self.rng.u32(3..12) {
            self.send(0..5000).await?;
            let payload: Vec<u8> = (0..self.rng.usize(..=125)).map(|_| self.rng.u8(..)).collect();
            let payload = Bytes::from(payload);
            if let Err(end) = self.talk.ping(payload.clone()).await {
                return self.expect_drain(&end);
            }
            self.hear_all().await?;
            match self.talk.hear().await? {
                Heard::Pong(answer) if answer == payload => {}
                other => return self.expect_drain(&other),
            }
            self.think(200..2000).await?;
        }
        self.leave().await
    }

    async fn be_silent(mut self) -> Result<(), Stop> {
        self.send(0..100).await?;
        self.hear_all().await?;
        self.think(10_000..40_000).await?;
        self.send(0..100).await?;
        self.hear_all().await?;
        self.leave().await
    }

    /// Resets the connection in the middle of a message.
    async fn abort(mut self) -> Result<(), Stop> {
        for _ in 0..self.rng.u32(1..20) {
            self.send(0..20_000).await?;
        }
        if self.rng.bool() {
            self.hear_all().await?;
        }
        self.think(0..3000).await?;
        let stream = self.talk.stream();
        let half_a_frame = [0x82, 0xfe, 0x10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        // If the socket is full, the reset cuts an earlier frame instead.
        let _ = stream.try_write(&half_a_frame[..self.rng.usize(..half_a_frame.len())]);
        Ok(SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?)
    }

    /// Sends nothing more, but still gets every echo it is owed.
    async fn half_close(mut self) -> Result<(), Stop> {
        for _ in 0..self.rng.u32(1..20) {
            self.send(0..20_000).await?;
        }
        if let Err(error) = self.talk.stream().shutdown().await {
            return Err(Stop::Wrong(format!("half-close: {error}")));
        }
        self.hear_all().await?;
        match self.talk.hear().await? {
            Heard::Eof => Ok(()),
            other => self.expect_drain(&other),
        }
    }

    /// Anything may happen, except a wrong echo.
    async fn talk_until_it_fails(mut self) -> Result<(), Stop> {
        // Some wait longer than the service does.
        let patience = between(self.rng, 1000..30_000);
        // More messages than any fault lets through.
        for _ in 0..1000 {
            let (text, size) = (self.rng.bool(), self.rng.usize(..20_000));
            if self.talk.send(text, size).await.is_err() {
                return Ok(());
            }
            match self.talk.hear_for(patience).await? {
                Some(Heard::Echo) => drop(self.world.echoes.fetch_add(1, Ordering::Relaxed)),
                _ => return Ok(()),
            }
        }
        Err(Stop::Wrong("the path did not fail".to_owned()))
    }

    async fn send(&mut self, sizes: Range<usize>) -> Result<(), Stop> {
        let (text, size) = (self.rng.bool(), self.rng.usize(sizes));
        match self.talk.send(text, size).await {
            Ok(()) => Ok(()),
            Err(end) => self.expect_drain(&end),
        }
    }

    async fn hear_all(&mut self) -> Result<(), Stop> {
        while self.talk.owed() > 0 {
            let heard = self.talk.hear().await?;
            self.expect_echo(&heard)?;
        }
        Ok(())
    }

    /// Says nothing for a while; nothing may come but the end of the service.
    async fn think(&mut self, milliseconds: Range<u64>) -> Result<(), Stop> {
        let end = Instant::now() + between(self.rng, milliseconds);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.world.is_over() {
                return Ok(());
            }
            match self.talk.hear_for(left.min(Duration::from_millis(500))).await? {
                None => {}
                Some(heard) => self.expect_echo(&heard)?,
            }
        }
    }

    /// Closes with one of the codes that clients use.
    async fn leave(mut self) -> Result<(), Stop> {
        let code = *self
            .rng
            .choice([None, Some(1000), GOING_AWAY, Some(3000), Some(4999)].iter())
            .expect("not empty");
        let frame = code.map(|code: u16| CloseFrame { code: code.into(), reason: "bye".into() });
        match self.talk.close(frame).await? {
            Heard::Closed(answer) if answer == code && self.talk.owed() == 0 => Ok(()),
            other => self.expect_drain(&other),
        }
    }

    fn expect_echo(&self, heard: &Heard) -> Result<(), Stop> {
        if matches!(heard, Heard::Echo) {
            self.world.echoes.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.expect_drain(heard)
    }

    /// Only Close 1001 may have come, and only from a service that is being restarted.
    fn expect_drain(&self, heard: &Heard) -> Result<(), Stop> {
        if matches!(heard, Heard::Closed(GOING_AWAY)) && was_restarted(self.service, self.before) {
            return Err(Stop::Drained);
        }
        Err(Stop::Wrong(format!("{heard:?} with {} echoes missing", self.talk.owed())))
    }
}
