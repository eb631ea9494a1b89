//! An urgent request on a connection that is saturated with bulk both ways: 100 Mbit/s and 20 ms, in virtual time.
//!
//! Each direction is a line that takes one record at a time: the next one is asked for when the one before has left, as a driver does
//! that waits until its socket is writable.

#![allow(clippy::print_stdout, reason = "figures, for those who ask for them")]

use std::time::Duration;

use peermux_core::StreamId;
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_tests::{End, PairBuilder, Path, rng};

const RATE: u64 = 100_000_000 / 8;
const ONE_WAY: Duration = Duration::from_millis(10);
const STEP: Duration = Duration::from_micros(20);
const PATH: Path = Path { rate: RATE, one_way: ONE_WAY, step: STEP };
/// The longest time that a record of the usual length takes on this line.
const RECORD_TIME: Duration = Duration::from_micros(1_000_000 * 6 * 1408 / RATE);

/// Two ends of a connection whose first stream carries bulk both ways.
fn saturated() -> (End, End, [StreamId; 2], Instant) {
    let mut pair = PairBuilder { latency: ONE_WAY, ..PairBuilder::default() }.establish();
    let ours = pair
        .initiator
        .conn
        .open_stream(Some("test/bulk"), Priority::from_urgency(5).with_incremental(true))
        .expect("it opens");
    pair.initiator.conn.send_stream(ours).write(b"!").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    (End::new(pair.initiator.conn), End::new(pair.responder.conn), [ours, theirs], pair.now)
}

/// Keeps bulk data queued, and reads what has come.
fn bulk(end: &mut End, id: StreamId) {
    while end.conn.send_stream(id).write(&[7; 64 * 1024]).is_ok() {}
    while let Ok(Some(chunk)) = end.conn.recv_stream(id).read_chunk(usize::MAX) {
        assert!(!chunk.is_empty());
    }
}

#[test]
fn an_urgent_request_waits_for_four_records_at_most_while_bulk_fills_both_directions() {
    let (mut renter, mut host, [ours, theirs], start) = saturated();
    let urgent = Priority::from_urgency(0);
    let mut random = rng(7);
    let mut request: Option<(StreamId, Instant)> = None;
    let mut next_request = start + Duration::from_secs(2);
    let mut answered = Vec::new();
    let mut serving = Vec::new();
    // Two seconds for windows and the measured rate to settle, and then 30 s of requests.
    for step in 0..1_600_000 {
        let now = start + STEP * step;
        renter.receive(&mut host.line, now);
        host.receive(&mut renter.line, now);
        bulk(&mut renter, ours);
        bulk(&mut host, theirs);
        if request.is_none() && now >= next_request {
            let id = renter.conn.open_stream(Some("test/urgent"), urgent).expect("it opens");
            renter.conn.send_stream(id).write(&[1; 100]).expect("there is room");
            renter.conn.send_stream(id).finish().expect("it is open");
            request = Some((id, now));
        }
        serving.extend(host.conn.accept_stream());
        serving.retain(|&id| {
            let mut buffer = [0; 200];
            match host.conn.recv_stream(id).read(&mut buffer) {
                Ok(100) => {
                    host.conn.send_stream(id).write(&buffer[..100]).expect("there is room");
                    host.conn.send_stream(id).finish().expect("it is open");
                    host.conn.release(id);
                    false
                }
                _ => true,
            }
        });
        if let Some((id, sent)) = request
            && renter.conn.recv_stream(id).read(&mut [0; 200]) == Ok(100)
        {
            answered.push(now.saturating_since(sent));
            renter.conn.release(id);
            request = None;
            next_request = now + Duration::from_micros(random.uniform(1_000, 20_000));
        }
        renter.send(PATH, now);
        host.send(PATH, now);
    }
    answered.sort();
    assert!(answered.len() > 500, "{} requests", answered.len());
    let p99 = answered[answered.len() * 99 / 100];
    let bound = 2 * ONE_WAY + 4 * RECORD_TIME;
    println!("p50 {:?}, p99 {p99:?}, bound {bound:?}", answered[answered.len() / 2]);
    assert!(p99 <= bound, "p99 {p99:?} of a bound of {bound:?}");
    // And the bulk lost nothing by it: the lines were full.
    for end in [&renter, &host] {
        let full = 32 * RATE;
        assert!(end.line.carried > full * 98 / 100, "{} of {full} bytes", end.line.carried);
    }
}
