//! An urgent request on a connection that is saturated with bulk both ways: 100 Mbit/s and 20 ms, in virtual time.
//!
//! Each direction is a line that takes one record at a time: the next one is asked for when the one before has left, as a driver does
//! that waits until its socket is writable.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Connection, StreamId, Transmit};
use peermux_tests::{Pair, PairBuilder, rng};

const RATE: u64 = 100_000_000 / 8;
const ONE_WAY: Duration = Duration::from_millis(10);
/// The longest time that a record of the usual length takes on this line.
const RECORD_TIME: Duration = Duration::from_micros(1_000_000 * 4 * 1408 / RATE);

/// A step of the simulation, in microseconds.
const STEP: u64 = 20;

/// One direction: what is on its way, and when the line is free again.
#[derive(Default)]
struct Line {
    free_at: Instant,
    on_its_way: VecDeque<(Instant, Vec<u8>)>,
    carried: u64,
}

struct End {
    conn: Connection,
    bulk: StreamId,
    input: BytesMut,
    line: Line,
}

impl End {
    /// Keeps bulk data queued, and puts the next record onto the line once it is free.
    fn send(&mut self, now: Instant) {
        while self.conn.send(self.bulk).write(&[7; 64 * 1024]).is_ok() {}
        let mut buffer = [0; 16 * 1408];
        while self.line.free_at <= now {
            let Ok(Transmit::Bytes(len)) = self.conn.poll_transmit(now, &mut buffer) else { return };
            let took = Duration::from_nanos(len as u64 * 1_000_000_000 / RATE);
            // A line that became free during the last step took the next record at once.
            let since = Instant::from_micros(now.as_micros().saturating_sub(STEP));
            self.line.free_at = self.line.free_at.max(since) + took;
            self.line.carried += len as u64;
            self.line.on_its_way.push_back((self.line.free_at + ONE_WAY, buffer[..len].to_vec()));
        }
    }

    fn receive(&mut self, now: Instant, from: &mut Line) {
        while from.on_its_way.front().is_some_and(|(arrives, _)| *arrives <= now) {
            let (_, bytes) = from.on_its_way.pop_front().expect("it has a front");
            self.input.extend_from_slice(&bytes);
        }
        self.conn.handle_input(now, &mut self.input);
        while let Ok(Some(chunk)) = self.conn.recv(self.bulk).read_chunk(usize::MAX) {
            assert!(!chunk.is_empty());
        }
    }
}

/// Two ends of a connection whose first stream carries bulk both ways.
fn saturated() -> (End, End, Instant) {
    let mut pair = PairBuilder { latency: ONE_WAY, ..PairBuilder::default() }.establish();
    let ours = pair.initiator.conn.open(Some("test/bulk"), Priority::new(5, true)).expect("it opens");
    pair.initiator.conn.send(ours).write(b"!").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept().expect("it was opened");
    let end = |conn, bulk| End { conn, bulk, input: BytesMut::new(), line: Line::default() };
    (end(pair.initiator.conn, ours), end(pair.responder.conn, theirs), pair.now)
}

#[test]
fn an_urgent_request_waits_for_four_records_at_most_while_bulk_fills_both_directions() {
    let (mut renter, mut host, start) = saturated();
    let urgent = Priority::new(0, false);
    let mut random = rng(7);
    let mut request: Option<(StreamId, Instant)> = None;
    let mut next_request = start + Duration::from_secs(2);
    let mut answered = Vec::new();
    let mut serving = Vec::new();
    // Two seconds for windows and the measured rate to settle, and then 30 s of requests.
    for step in 0..32_000_000 / STEP {
        let now = start + Duration::from_micros(step * STEP);
        renter.receive(now, &mut host.line);
        host.receive(now, &mut renter.line);
        for end in [&mut renter, &mut host] {
            while end.conn.poll_event().is_some() {}
        }
        if request.is_none() && now >= next_request {
            let id = renter.conn.open(Some("test/urgent"), urgent).expect("it opens");
            renter.conn.send(id).write(&[1; 100]).expect("there is room");
            renter.conn.send(id).finish().expect("it is open");
            request = Some((id, now));
        }
        serving.extend(host.conn.accept());
        serving.retain(|&id| {
            let mut buffer = [0; 200];
            match host.conn.recv(id).read(&mut buffer) {
                Ok(100) => {
                    host.conn.send(id).write(&buffer[..100]).expect("there is room");
                    host.conn.send(id).finish().expect("it is open");
                    host.conn.release(id);
                    false
                }
                _ => true,
            }
        });
        if let Some((id, sent)) = request {
            if renter.conn.recv(id).read(&mut [0; 200]) == Ok(100) {
                answered.push(now.saturating_since(sent));
                renter.conn.release(id);
                request = None;
                next_request = now + Duration::from_micros(random.uniform(1_000, 20_000));
            }
        }
        renter.send(now);
        host.send(now);
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
