//! HTTP/1.1: what comes before a WebSocket, and what is answered instead of one.

mod head;

mod answer;
mod prologue;

mod exchange;
mod query;
pub mod refusal;

pub mod options;
mod traces;

pub mod admission;
mod clients;
pub mod service;

#[cfg(feature = "faults")]
mod faults;
pub mod upgrade;

mod info;
mod page;

pub mod admin;
pub mod router;

pub mod conn;
