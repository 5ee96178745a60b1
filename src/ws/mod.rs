//! WebSocket: RFC 6455 and 7692, from the opening handshake to the closing one.

pub mod deflate;
pub mod frame;
pub mod utf8;

pub mod engine;
pub mod handshake;

pub mod session;
