//! What the service knows of the network below HTTP.

pub mod listen;
