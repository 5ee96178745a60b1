//! Vectored writes to a stream.
//!
//! Owns how many slices one write gets. It does not know where the bytes come from, nor where those
//! go that the socket does not take.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::ws::engine::Out;

/// The most slices given to one write; the kernel's own limit is 1,024.
pub(super) const SLICES: usize = 64;

/// Writes as much of the engine's output as the socket takes, and adds it to `sent`, also when the
/// connection breaks.
pub(super) fn poll_send_out(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    out: &Out,
    window: &[u8],
    sent: &mut usize,
) -> io::Result<()> {
    while *sent < out.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (place, slice) in slices.iter_mut().zip(out.unsent(window, *sent)) {
            *place = IoSlice::new(slice);
            count += 1;
        }
        let written = poll_write(stream, cx, &slices[..count])?;
        if written == 0 {
            break;
        }
        *sent += written;
    }
    Ok(())
}

/// Writes once, and returns how much the socket took: 0 if it takes no more for now.
pub(super) fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    // send(2) costs the kernel less than writev(2).
    let written = match slices {
        [slice] => Pin::new(stream).poll_write(cx, slice),
        _ => Pin::new(stream).poll_write_vectored(cx, slices),
    };
    match written {
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(written) => written,
        Poll::Pending => Ok(0),
    }
}
