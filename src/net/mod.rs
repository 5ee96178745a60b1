//! Sockets, and the grammar of header fields.

pub mod field;
pub mod listen;
