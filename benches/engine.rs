//! The cost of the engine alone, in memory: no socket, no kernel, no copy into a window.
//!
//! `cargo bench --bench engine` runs every shape; pass a shape's name to run only that one, say
//! under a profiler. The mask is zero: it costs as much as any other and leaves the bytes
//! unchanged, so the same memory can be read over and over.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "the sizes here are small, and a benchmark needs the real clock"
)]

#[path = "../tests/suite/engine/frames.rs"]
mod frames;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use wsecho::ws::deflate::inflate::Inflaters;
use wsecho::ws::engine::{Echo, Engine, Out, Pressure};

const WINDOW: usize = 256 * 1024;
const ROUNDS: usize = 60;

/// One frame of a client.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frames::frame(0x80 | opcode, payload, [0; 4])
}

struct Shape {
    name: &'static str,
    stream: Vec<u8>,
    messages: usize,
    payload: usize,
    prefix: &'static str,
    /// The size of a read.
    read: usize,
    /// How many times the stream is read per timed round.
    repeat: usize,
}

fn run(mut shape: Shape) {
    let settings = Echo::new(shape.prefix, 16 << 20);
    let mut engine = Engine::new(Arc::new(settings), false);
    let (mut out, mut inflaters) = (Out::new(), Inflaters::default());
    let mut sent = 0;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..shape.repeat {
                for window in shape.stream.chunks_mut(shape.read) {
                    let taken = engine.receive(
                        black_box(window),
                        &mut out,
                        &mut inflaters,
                        Pressure::default(),
                    );
                    assert_eq!(taken, window.len());
                    sent += black_box(&out).slices(window).map(<[u8]>::len).sum::<usize>();
                    out.clear();
                }
            }
            start.elapsed().as_secs_f64() / (shape.messages * shape.repeat) as f64
        })
        .collect();
    let messages = shape.messages * shape.repeat * ROUNDS;
    assert_eq!(engine.counts().messages as usize, messages);
    assert!(sent > shape.payload * messages);
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[ROUNDS / 2]);
    let rate = |time: f64| shape.payload as f64 / time / 1e9;
    println!(
        "{:<26} ns per message: best {:>9.1}, median {:>9.1}    GB/s: {:>6.2}, {:>6.2}",
        shape.name,
        best * 1e9,
        median * 1e9,
        rate(best),
        rate(median),
    );
}

fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let binary: Vec<u8> =
        (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ascii = "The quick brown fox jumps over it. ".repeat(30_000)[..1 << 20].to_owned();
    let mixed: String = "naïve café – 東京 😀 plain ".chars().cycle().take(600_000).collect();
    let small = |opcode, prefix, name| Shape {
        name,
        stream: frame(opcode, &ascii.as_bytes()[..32]).repeat(64),
        messages: 64,
        payload: 32,
        prefix,
        read: WINDOW,
        repeat: 2_000,
    };
    let large = |opcode, payload: &[u8], name| Shape {
        name,
        stream: frame(opcode, payload),
        messages: 1,
        payload: payload.len(),
        prefix: "",
        read: WINDOW,
        repeat: 64,
    };
    let shapes = [
        small(1, "", "64 x 32 B text"),
        small(1, "server: ", "64 x 32 B text, prefixed"),
        small(2, "", "64 x 32 B binary"),
        large(2, &binary[..4096], "4 KiB binary"),
        large(2, &binary[..65_536], "64 KiB binary"),
        Shape { read: 40_000, ..large(2, &binary[..65_536], "64 KiB binary in two reads") },
        large(2, &binary, "1 MiB binary"),
        large(1, ascii.as_bytes(), "1 MiB ASCII text"),
        large(1, mixed.as_bytes(), "1 MiB mixed text"),
    ];
    for shape in shapes.into_iter().filter(|it| only.as_deref().is_none_or(|only| it.name == only))
    {
        run(shape);
    }
}
