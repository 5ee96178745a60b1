//! What the service knows of the network below HTTP.

pub mod listen;

pub mod proxy_protocol;

pub mod client_addr;
pub mod field;
