//! WebSocket: the opening handshake, and the sessions behind it (RFC 6455).

pub mod handshake;

pub mod diagnosis;

pub mod frame;
pub mod utf8;

pub mod echo;

pub mod session;
