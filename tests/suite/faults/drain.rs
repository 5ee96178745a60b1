//! SIGTERM with many sessions at all stages: each is told, none is reset, none loses an echo.

use rustix::process::Signal;

use super::client::Client;
use crate::engine::support::{CLOSE, CONTINUE, FIN, TEXT};
use crate::service::Service;

#[test]
fn two_hundred_sessions_idle_or_amid_a_message_all_end_with_1001_and_a_fin() {
    let mut service = Service::start("shutdown.drain_spread = \"200ms\"");
    let mut idle: Vec<_> = (0..100).map(|_| Client::open(&service, "/echo")).collect();
    let mut amid: Vec<_> = (0..100).map(|_| Client::open(&service, "/echo")).collect();
    for client in &mut idle {
        client.echo(TEXT, b"one");
    }
    for client in &mut amid {
        client.send(TEXT, b"half ");
        assert_eq!(client.read_frame().unwrap().payload, b"half ");
    }
    service.signal(Signal::TERM);
    service.log_line("draining");
    let told = |client: &mut Client| {
        let (code, reason) = client.read_close();
        assert_eq!((code, reason.as_str()), (1001, "wsecho: the service is stopping"));
    };
    let answers = |client: &mut Client| {
        // A FIN right behind our Close makes proxies reset the client.
        assert!(client.has_nothing_to_read(), "the service waits for the client's Close");
        client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
        assert_eq!(client.read_to_end(), 0, "a FIN behind the Close");
    };
    idle.iter_mut().for_each(told);
    idle.iter_mut().for_each(answers);
    for client in &mut amid {
        client.send(FIN | CONTINUE, b"a message");
        client.send(FIN | TEXT, b"one too many, or just in time");
        assert_eq!(client.read_message().unwrap(), b"a message", "what has begun is finished");
        told(client);
        answers(client);
    }
    service.log_line("stopped: every session has ended");
    assert_eq!(service.wait().0, 0);
}
