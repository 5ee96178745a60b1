//! HTTP/1.1: what comes before a WebSocket, and what is answered instead of one.

pub mod conn;
pub mod router;
mod wire;
