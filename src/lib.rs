//! wsecho: a WebSocket echo service.
//!
//! The path of a connection, which is also the way to read the code:
//!
//! 1. [`cli`] reads the command line; [`serve`] loads the [`config`] and starts the [`server`].
//! 2. [`server`] accepts on the sockets of [`net::listen`] and starts a task for each connection
//!    through [`ops::drain`].
//! 3. [`http::conn`] reads one request with hyper; [`http::router`] answers it, or opens a WebSocket
//!    if [`ws::handshake`] accepts it. If not, [`proxy::diagnosis`] says what is wrong in front.
//! 4. [`ws::session`] echoes with [`ws::engine`] until the WebSocket is closed.
//!
//! Beside the server, [`probe`] is a client that proves that WebSockets work on a path, and [`doctor`]
//! finds what is wrong on the host of the service.
//!
//! The modules stand in the order of their dependencies: each imports only from those above it, and
//! a test holds them to it.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic where nobody reads: see cli"
)]

pub mod ops;

pub mod net;

pub mod ws;

pub mod proxy;

pub mod config;

pub mod http;

pub mod server;

pub mod probe;

pub mod doctor;

pub mod serve;

pub mod cli;
