//! A connection in this process: a duplex pair, a paused clock, no port.

use std::future::Future;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use wsecho::http::admission::{Admission, Lane};
use wsecho::http::conn;
use wsecho::http::router::Router;
use wsecho::http::service::Service;
use wsecho::net::addr::PeerAddr;
use wsecho::ops::drain::Drain;
use wsecho::ops::logging::Lost;
use wsecho::ops::metrics::Now;
use wsecho::ws::session::Budget;

/// The request from RFC 6455, section 1.3, for `path`.
pub fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// One policy, and any number of connections under it.
pub struct Inside {
    pub drain: Drain,
    router: Arc<Router>,
}

impl Inside {
    /// Takes the contents of a configuration file.
    pub fn new(config: &str) -> Self {
        let config = wsecho::config::parse(config).expect("the test's configuration is valid");
        let budget = Budget::new(config.boot.buffer_budget);
        let service = Arc::new(Service::new(budget, Lost::default(), Lane::new(256)));
        let drain = service.drain().clone();
        Self { drain, router: Arc::new(Router::new(config.policy, service)) }
    }

    /// Lets it be a service on these ports.
    pub fn listens_on<const N: usize>(&self, ports: [u16; N]) {
        self.router.service().ports.set(ports.into()).expect("it listens on no port yet");
    }

    /// All metrics.
    pub fn metrics(&self) -> String {
        let service = self.router.service();
        let budget = &service.shared.budget;
        let now = Now { budget_limit: budget.limit(), budget_used: budget.used(), log_lost: 0 };
        service.metrics().text(now)
    }

    /// The value of a metric, 0 if it was never counted.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.trim_end().parse().expect("a whole number"))
    }

    /// Opens a connection with this much room in each direction.
    pub fn connect_with(&self, room: usize, overflow: bool) -> (DuplexStream, impl Future) {
        self.connect_from(PeerAddr::Unix, room, overflow)
    }

    /// The same, from this peer.
    pub fn connect_from(
        &self,
        peer: PeerAddr,
        room: usize,
        overflow: bool,
    ) -> (DuplexStream, impl Future + use<>) {
        let (client, server) = duplex(room);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("it is new");
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let router = Arc::clone(&self.router);
        self.drain.spawn(async move {
            let admission = if overflow {
                Admission::Seated(router.service().overflow.enter().await)
            } else {
                Admission::Admitted(permit)
            };
            conn::serve(server, peer, router, admission).await;
            drop(ended);
        });
        (client, end)
    }

    /// Opens a connection with room for everything.
    pub fn connect(&self) -> DuplexStream {
        self.connect_with(1 << 20, false).0
    }

    /// Sends bytes on a new connection and reads until it is closed.
    pub async fn exchange(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).await.expect("there is room");
        read_to_end(&mut client).await
    }

    /// Opens a WebSocket, and hands it to tungstenite's client.
    pub async fn open(&self, path: &str) -> WebSocketStream<DuplexStream> {
        let mut client = self.connect();
        client.write_all(handshake(path).as_bytes()).await.expect("there is room");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        WebSocketStream::from_raw_socket(client, Role::Client, None).await
    }
}

/// Reads until the other end closes.
pub async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are UTF-8");
    answer
}

/// Reads a response head and nothing after it.
pub async fn read_head(client: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("heads are ASCII")
}
