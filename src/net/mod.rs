//! Sockets, the grammar of header fields, and the names of secrets.

pub mod addr;
pub mod field;
pub mod secret;

pub mod stream;

pub mod listen;
