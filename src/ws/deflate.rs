//! permessage-deflate: RFC 7692, which nothing outside this module knows.
//!
//! Owns what the extension is called, what of a client's offers is accepted, and how what it sends is
//! inflated. It does not know the header that carries the offers, nor frames.
//!
//! An echo need not compress: without context takeover, a message that a client compressed is valid
//! in the other direction too, byte for byte. So neither side may keep its context between messages,
//! and the client's window must be no larger than the one that it accepts from the server.

pub mod offer;
