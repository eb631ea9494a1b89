//! Windows that grow: `docs/spec.md` section 11.1.

#![allow(clippy::print_stdout, reason = "figures, for those who ask for them")]

use std::time::Duration;

use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, StreamId};
use peermux_tests::{End, Pair, PairBuilder, Path};

const PATH: Path =
    Path { rate: 1_000_000_000 / 8, one_way: Duration::from_millis(50), step: Duration::from_micros(50) };

fn ends() -> (End, End, StreamId, StreamId, Instant) {
    let mut pair = PairBuilder { latency: PATH.one_way, ..PairBuilder::default() }.establish();
    let ours = pair.initiator.conn.open(Some("test/bulk"), Priority::default()).expect("it opens");
    pair.initiator.conn.send(ours).write(b"!").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept().expect("it was opened");
    (End::new(pair.initiator.conn), End::new(pair.responder.conn), ours, theirs, pair.now)
}

#[test]
fn one_stream_fills_a_gigabit_at_100_ms_with_default_settings() {
    let (mut sender, mut receiver, ours, theirs, start) = ends();
    let mut after_3_s = 0;
    let mut read = 0u64;
    for step in 0..(5_000_000 / 50) {
        let now = start + PATH.step * step;
        receiver.receive(&mut sender.line, now);
        sender.receive(&mut receiver.line, now);
        while let Ok(Some(chunk)) = receiver.conn.recv(theirs).read_chunk(usize::MAX) {
            read += chunk.len() as u64;
        }
        while sender.conn.send(ours).write(&[7; 64 * 1024]).is_ok() {}
        sender.send(PATH, now);
        receiver.send(PATH, now);
        if step == 3_000_000 / 50 {
            after_3_s = read;
        }
    }
    let goodput = (read - after_3_s) / 2;
    println!("{:.3} of the line", goodput as f64 / PATH.rate as f64);
    assert!(goodput > PATH.rate * 95 / 100, "{goodput} of {} bytes/s", PATH.rate);
    let window = receiver.conn.stream_stats(theirs).expect("it is held").receive_window;
    assert!(window <= Config::default().receive_window, "{window}");
}

#[test]
fn a_stream_that_nobody_reads_never_grows_and_growth_is_shared() {
    let mut pair = Pair::established();
    let config = Config::default();
    let ours: Vec<_> = (0..8)
        .map(|_| {
            let id = pair.initiator.conn.open(None, Priority::default()).expect("it opens");
            pair.initiator.conn.send(id).write(b"!").expect("there is room");
            id
        })
        .collect();
    pair.settle();
    let theirs: Vec<_> = std::iter::from_fn(|| pair.responder.conn.accept()).collect();
    assert_eq!(theirs.len(), ours.len());
    let mut grown = 0;
    for _ in 0..2000 {
        for &id in &ours {
            let _ = pair.initiator.conn.send(id).write(&[7; 64 * 1024]);
        }
        pair.settle();
        // All but the first are read.
        for &id in &theirs[1..] {
            while let Ok(Some(_)) = pair.responder.conn.recv(id).read_chunk(usize::MAX) {}
        }
        let stats = |id| pair.responder.conn.stream_stats(id).expect("it is held");
        let unread = stats(theirs[0]);
        assert_eq!(unread.receive_window, config.stream_receive_window);
        assert!(unread.unread as u64 <= config.stream_receive_window);
        grown = theirs.iter().map(|&id| stats(id).receive_window - config.stream_receive_window).sum();
        assert!(grown <= config.receive_window / 2, "{grown}");
    }
    assert!(grown > 0, "the others grew");
}
