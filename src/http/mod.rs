//! HTTP/1.1: what comes before a WebSocket, and what is answered instead of one.

pub mod admin;
mod clients;
pub mod conn;
#[cfg(feature = "faults")]
mod faults;
mod prologue;
pub mod refusal;
pub mod router;
mod wire;
