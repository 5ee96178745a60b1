//! Faults that a client asks for, so that a test can see what comes of them: `?fault=panic` and
//! `?fault=block`.
//!
//! Owns their names. Compiled with the feature `faults` alone, which no package has.

use std::future::{Future, poll_fn};
use std::pin::pin;

use crate::ws::session::Budget;

/// What happens to one session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It panics once memory is charged to the budget.
    Panic,
    /// It blocks its worker for ever.
    Block,
}

impl Fault {
    /// The fault that a query asks for.
    pub(super) fn of(query: &str) -> Option<Self> {
        query.split('&').find_map(|option| match option {
            "fault=panic" => Some(Self::Panic),
            "fault=block" => Some(Self::Block),
            _ => None,
        })
    }
}

/// Runs a session until its fault happens.
pub(super) async fn run<T>(
    fault: Option<Fault>,
    budget: &Budget,
    session: impl Future<Output = T>,
) -> T {
    let mut session = pin!(session);
    poll_fn(|cx| {
        let polled = session.as_mut().poll(cx);
        match fault {
            Some(Fault::Panic) if budget.used() > 0 => panic!("a client asked\nfor this fault"),
            Some(Fault::Block) => loop {
                std::thread::park();
            },
            _ => polled,
        }
    })
    .await
}
