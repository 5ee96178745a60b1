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

#[path = "../tests/suite/engine/deflate.rs"]
#[allow(dead_code)]
mod deflate;
#[path = "../tests/suite/engine/frames.rs"]
mod frames;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use wsecho::ws::deflate::inflate::Inflaters;
use wsecho::ws::engine::{Echo, Engine, Out, Pressure};

const WINDOW: usize = 256 * 1024;
const ROUNDS: usize = 60;
const RSV1: u8 = 0x40;

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
    let compressed = shape.stream[0] & RSV1 != 0;
    let mut engine = Engine::new(Arc::new(settings), compressed);
    let (mut out, mut inflaters) = (Out::new(), Inflaters::default());
    let mut sent = 0;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..shape.repeat {
                for mut window in shape.stream.chunks_mut(shape.read) {
                    while !window.is_empty() {
                        inflaters.begin_turn();
                        let read = black_box(&mut *window);
                        let taken =
                            engine.receive(read, &mut out, &mut inflaters, Pressure::default());
                        sent += black_box(&out).slices(window).map(<[u8]>::len).sum::<usize>();
                        out.clear();
                        window = &mut window[taken..];
                    }
                }
            }
            start.elapsed().as_secs_f64() / (shape.messages * shape.repeat) as f64
        })
        .collect();
    let messages = shape.messages * shape.repeat * ROUNDS;
    assert_eq!(engine.counts().messages as usize, messages);
    assert!(compressed || sent > shape.payload * messages);
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
    let mut json = String::new();
    for n in 0..20_000_u32 {
        let hash = n.wrapping_mul(2_654_435_761);
        let (name, score) = (hash >> 8, hash % 1000);
        let record =
            format!(r#"{{"id":{n},"name":"user {name}","score":{score},"tags":["a","b"]}},"#);
        json.push_str(&record);
    }
    // What it costs beyond this is what compression costs here.
    let alone = |len: usize| {
        let (payload, mut output) = (deflate::compress(&json.as_bytes()[..len]), vec![0; len + 1]);
        let mut inflate = zlib_rs::Inflate::new(false, 15);
        let mut best = f64::MAX;
        let repeat = 4_000_000 / len;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..repeat {
                inflate.reset(false);
                let flush = zlib_rs::InflateFlush::NoFlush;
                inflate.decompress(black_box(&payload), &mut output, flush).expect("it is valid");
                black_box(&output);
            }
            best = best.min(start.elapsed().as_secs_f64() / repeat as f64);
        }
        println!("inflating {len} B alone, ns: best {:.1}", best * 1e9);
    };
    let compressed = |len: usize, count: usize, name| Shape {
        name,
        stream: frame(RSV1 | 1, &deflate::compress(&json.as_bytes()[..len])).repeat(count),
        messages: count,
        payload: len,
        prefix: "",
        read: WINDOW,
        repeat: (4_000_000 / len / count).max(1),
    };
    let shapes = [
        compressed(32, 64, "64 x 32 B compressed"),
        compressed(1024, 64, "64 x 1 KiB compressed"),
        compressed(64 * 1024, 1, "64 KiB compressed"),
        compressed(1 << 20, 1, "1 MiB compressed"),
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
    if only.is_none() {
        [32, 1024, 64 * 1024, 1 << 20].into_iter().for_each(alone);
    }
}
