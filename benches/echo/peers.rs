//! The servers one would write otherwise: hyper with tokio-tungstenite, with fastwebsockets, and with
//! yawc for compression, each the way its documentation shows.

use std::convert::Infallible;
use std::io;
use std::net;

use fastwebsockets::{FragmentCollector, OpCode};
use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use yawc::{CompressionLevel, Options};

type Answer = Response<Empty<Bytes>>;

pub fn serve_tungstenite(listener: net::TcpListener) -> io::Result<()> {
    serve(listener, |request| Ok(answer_with_tungstenite(request)))
}

pub fn serve_fastwebsockets(listener: net::TcpListener) -> io::Result<()> {
    serve(listener, |request| Ok(answer_with_fastwebsockets(request)))
}

pub fn serve_yawc(listener: net::TcpListener) -> io::Result<()> {
    serve(listener, |request| Ok(answer_with_yawc(request)))
}

fn serve(
    listener: net::TcpListener,
    answer: fn(Request<Incoming>) -> Result<Answer, Infallible>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service_fn(move |request| async move { answer(request) });
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    })
}

fn answer_with_tungstenite(mut request: Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return bad_request();
    };
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Empty::new())
        .expect("the head is valid");
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        let stream = TokioIo::new(upgraded);
        let mut session = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = session.next().await {
            let echo = message.is_text() || message.is_binary();
            if echo && session.send(message).await.is_err() {
                break;
            }
        }
    });
    answer
}

fn answer_with_fastwebsockets(request: Request<Incoming>) -> Answer {
    let Ok((answer, upgraded)) = fastwebsockets::upgrade::upgrade(request) else {
        return bad_request();
    };
    tokio::spawn(async move {
        let Ok(session) = upgraded.await else { return };
        let mut session = FragmentCollector::new(session);
        while let Ok(frame) = session.read_frame().await {
            let echo = match frame.opcode {
                OpCode::Close => break,
                OpCode::Text | OpCode::Binary => session.write_frame(frame).await,
                _ => Ok(()),
            };
            if echo.is_err() {
                break;
            }
        }
    });
    answer
}

fn answer_with_yawc(request: Request<Incoming>) -> Answer {
    let options = Options::default()
        .with_compression_level(CompressionLevel::fast())
        .with_limits(2 << 20, 4 << 20);
    let Ok((answer, upgraded)) = yawc::WebSocket::upgrade_with_options(request, options) else {
        return bad_request();
    };
    tokio::spawn(async move {
        let Ok(mut session) = upgraded.await else { return };
        while let Ok(frame) = session.next_frame().await {
            let echo = matches!(frame.opcode(), yawc::OpCode::Text | yawc::OpCode::Binary);
            if echo && session.send(frame).await.is_err() {
                break;
            }
        }
    });
    answer
}

fn bad_request() -> Answer {
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}
