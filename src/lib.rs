//! wsecho: a WebSocket echo service.
//!
//! The path of a connection, which is also the way to read the code:
//!
//! 1. [`cli`] reads the command line, loads the [`config`] and starts the [`server`].
//! 2. [`server`] accepts on the sockets of [`net::listen`] and starts a task for each connection
//!    through [`ops::drain`].
//! 3. [`http::conn`] reads one request with hyper; [`http::router`] answers it, with the verdict
//!    of [`ws::handshake`] where a WebSocket is asked for.
//! 4. [`ws::session`] echoes until the WebSocket is closed.
//!
//! The modules stand in the order of their dependencies: each imports from those above only.

pub mod ops;

pub mod net;

pub mod ws;

pub mod config;

pub mod http;

pub mod server;

pub mod cli;
