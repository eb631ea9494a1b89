//! A long path in virtual time: each direction is a line with a rate, which takes one record at a time.
//!
//! The next record is asked for when the one before has left, as a driver does that waits until its socket is writable.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::time::Instant;
use peermux_core::{Connection, Transmit};

/// One direction: what is on its way, and when the line is free again.
#[derive(Default)]
pub struct Line {
    free_at: Instant,
    on_its_way: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes that it has carried.
    pub carried: u64,
}

/// A connection and the line that it sends on.
pub struct End {
    /// The connection.
    pub conn: Connection,
    /// The line that it sends on.
    pub line: Line,
    input: BytesMut,
}

/// How the lines of both directions are.
#[derive(Clone, Copy)]
pub struct Path {
    /// Bytes each second.
    pub rate: u64,
    /// How long a byte is on its way.
    pub one_way: Duration,
    /// How far apart two calls are at most: a line that became free in between is taken to have gone on at once.
    pub step: Duration,
}

impl End {
    /// A connection on a line that is free.
    pub fn new(conn: Connection) -> Self {
        Self { conn, line: Line::default(), input: BytesMut::new() }
    }

    /// Puts records onto the line while it is free.
    pub fn send(&mut self, path: Path, now: Instant) {
        let since = Instant::from_micros(now.as_micros().saturating_sub(path.step.as_micros() as u64));
        let mut buffer = [0; 16 * 1408];
        while self.line.free_at <= now {
            let Ok(Transmit::Bytes(len)) = self.conn.poll_transmit(now, &mut buffer) else { return };
            let took = Duration::from_nanos(len as u64 * 1_000_000_000 / path.rate);
            self.line.free_at = self.line.free_at.max(since) + took;
            self.line.carried += len as u64;
            self.line.on_its_way.push_back((self.line.free_at + path.one_way, buffer[..len].to_vec()));
        }
    }

    /// Takes what has arrived from the other side's line, and drops what there is to tell.
    pub fn receive(&mut self, from: &mut Line, now: Instant) {
        while from.on_its_way.front().is_some_and(|(arrives, _)| *arrives <= now) {
            let (_, bytes) = from.on_its_way.pop_front().expect("it has a front");
            self.input.extend_from_slice(&bytes);
        }
        self.conn.handle_input(now, &mut self.input);
        if self.conn.poll_timeout().is_some_and(|at| at <= now) {
            self.conn.handle_timeout(now);
        }
        while self.conn.poll_event().is_some() {}
    }
}
