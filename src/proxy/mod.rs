//! What the service knows about proxies: which client they speak for, what is wrong with their
//! configuration, and which lines fix it.

pub mod client_addr;
pub mod protocol;

pub mod blame;
pub mod diagnosis;
pub mod snippet;
