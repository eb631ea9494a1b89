//! Windows that grow: `docs/spec.md` section 11.1.

#![allow(clippy::print_stdout, reason = "figures, for those who ask for them")]

use std::time::Duration;

use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, StreamId};
use peermux_tests::{End, Pair, PairBuilder, Path, rng};

const PATH: Path =
    Path { rate: 1_000_000_000 / 8, one_way: Duration::from_millis(50), step: Duration::from_micros(50) };

fn ends() -> (End, End, StreamId, StreamId, Instant) {
    let mut pair = PairBuilder { latency: PATH.one_way, ..PairBuilder::default() }.establish();
    let ours = pair.initiator.conn.open_stream(Some("test/bulk"), Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(ours).write(b"!").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
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
        while let Ok(Some(chunk)) = receiver.conn.recv_stream(theirs).read_chunk(usize::MAX) {
            read += chunk.len() as u64;
        }
        while sender.conn.send_stream(ours).write(&[7; 64 * 1024]).is_ok() {}
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
            let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
            pair.initiator.conn.send_stream(id).write(b"!").expect("there is room");
            id
        })
        .collect();
    pair.settle();
    let theirs: Vec<_> = std::iter::from_fn(|| pair.responder.conn.accept_stream()).collect();
    assert_eq!(theirs.len(), ours.len());
    let mut grown = 0;
    for _ in 0..2000 {
        for &id in &ours {
            let _ = pair.initiator.conn.send_stream(id).write(&[7; 64 * 1024]);
        }
        pair.settle();
        // All but the first are read.
        for &id in &theirs[1..] {
            while let Ok(Some(_)) = pair.responder.conn.recv_stream(id).read_chunk(usize::MAX) {}
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

/// A peer that holds hundreds of streams, and opens and ends a few at a time, is told of many windows one after the other. It may use all of each.
#[test]
fn every_stream_may_fill_the_window_that_it_was_promised_however_many_others_there_are() {
    for (held, seed) in [(504, 1), (200, 2), (900, 3)] {
        let mut random = rng(seed);
        let mut dice = move |sides: u64| random.uniform(0, sides);
        let mut pair = PairBuilder { latency: Duration::from_millis(3), ..PairBuilder::default() }.establish();
        let (mut ours, mut theirs, mut ending, mut ended) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for round in 0..6_000 {
            let many = if round < 200 { 20 } else { 1 + dice(2) };
            for _ in 0..many {
                if ours.len() < held {
                    let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
                    // More than its window, as a rule.
                    pair.initiator.conn.send_stream(id).write(&[7; 30_000]).expect("there is room");
                    pair.initiator.conn.send_stream(id).finish().expect("it is open");
                    ours.push(id);
                }
            }
            pair.run_until(pair.now + Duration::from_millis(1));
            theirs.extend(std::iter::from_fn(|| pair.responder.conn.accept_stream()));
            for side in [&pair.initiator, &pair.responder] {
                assert_eq!(side.conn.close_reason(), None, "round {round}, {held} streams");
            }
            // The responder ends some: it reads them, answers, and lets them go.
            for _ in 0..1 + dice(2) {
                if ours.len() + 8 > held && !theirs.is_empty() {
                    ending.push(theirs.swap_remove(dice(theirs.len() as u64) as usize));
                }
            }
            let conn = &mut pair.responder.conn;
            ending.retain(|&id| {
                let mut read = || conn.recv_stream(id).read_chunk(usize::MAX);
                let end = std::iter::from_fn(|| read().ok()).any(|chunk| chunk.is_none());
                if end {
                    conn.send_stream(id).finish().expect("it is open");
                    conn.release(id);
                }
                !end
            });
            pair.run_until(pair.now + Duration::from_millis(1));
            let conn = &mut pair.initiator.conn;
            ours.retain(|&id| {
                let end = conn.recv_stream(id).read_chunk(usize::MAX) == Ok(None);
                if end {
                    conn.release(id);
                    ended += 1;
                }
                !end
            });
        }
        assert!(ended > 3_000, "{ended} streams have ended");
    }
}
