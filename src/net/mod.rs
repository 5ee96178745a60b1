//! Sockets, and the grammar of header fields.

pub mod addr;
pub mod field;

pub mod stream;

pub mod listen;
