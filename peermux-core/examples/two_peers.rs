//! Two peers in memory, without an operating system: no sockets, no threads, no clock, no files.
//!
//! ```text
//! cargo run -p peermux-core --example two_peers
//! ```
//!
//! This is the shape of a program for a small device, and the first thing to read for whoever writes an adapter. Each peer has one
//! [`Connection`], one buffer of fixed size for what arrives, and an application. A [`Line`] stands for the transport: it is reliable and
//! ordered, takes one write at a time, and delivers it later, in odd pieces. Time is a number that `main` moves forward.
//!
//! Only `main` needs the standard library, to print. Whoever has no operating system replaces three things:
//!
//! - [`Line`] by the driver of the transport: TCP, a serial line, anything that is reliable and ordered;
//! - the virtual time by a monotonic counter of microseconds;
//! - the fixed seeds by 32 bytes from the hardware's generator of random numbers. **Fixed seeds give no security at all.**
#![no_std]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

extern crate alloc;
extern crate std;

use alloc::sync::Arc;
use core::time::Duration;
use std::println;

use peermux_core::code::ErrorCode;
use peermux_core::crypto::{Rng, StaticSecret};
use peermux_core::error::{ReadError, WriteError};
use peermux_core::time::Instant;
use peermux_core::wire::{Priority, QUANTUM};
use peermux_core::{Config, Connection, Event, ExpectedPeer, Identity, ResponderKeys, StreamId, Transmit};

/// Everything on the wire is a whole number of quanta. The longest flight of the handshake is two of them, and with `max_record: 2`
/// (see [`small`]) no record is longer. So this is room for whatever comes or goes at once.
const BUFFER: usize = 2 * QUANTUM;

/// What the dialer sends, and wants to have back: more than any buffer here holds.
const MESSAGE: usize = 20_000;

/// The byte of the message at `index`.
fn byte(index: usize) -> u8 {
    (index % 251) as u8
}

/// A configuration for little memory. Every window is credit that the peer may use up, so it is memory that has to be there.
fn small() -> Config {
    Config {
        max_record_quanta: 2,
        receive_window: 64 * 1024,
        stream_receive_window: 4 * 1024,
        max_streams: 16,
        send_buffer: 8 * 1024,
        stream_send_buffer: 4 * 1024,
        ..Config::default()
    }
}

/// One direction of the transport. It takes the next write when the last one has left it.
struct Line {
    bytes: [u8; BUFFER],
    /// The part of `bytes` that is still on its way.
    from: usize,
    to: usize,
    arrives: Instant,
    /// The sender half-closed: nothing follows what is on its way.
    ended: bool,
    end_told: bool,
}

impl Line {
    const LATENCY: Duration = Duration::from_millis(5);
    /// As much as arrives at once. Nothing depends on how the bytes are cut.
    const PIECE: usize = 999;

    const fn new() -> Self {
        Self { bytes: [0; BUFFER], from: 0, to: 0, arrives: Instant::ZERO, ended: false, end_told: false }
    }

    const fn is_free(&self) -> bool {
        self.from == self.to
    }
}

/// One peer: a connection, and a buffer for input that is not yet whole.
struct Peer<A> {
    connection: Connection,
    input: [u8; BUFFER],
    /// Bytes at the beginning of `input`.
    filled: usize,
    application: A,
}

/// What a peer does with its streams.
trait Application {
    /// Called for each event, with the connection, on which any command may be given.
    fn on_event(&mut self, connection: &mut Connection, event: Event);
}

impl<A: Application> Peer<A> {
    const fn new(connection: Connection, application: A) -> Self {
        Self { connection, input: [0; BUFFER], filled: 0, application }
    }

    /// Output. The connection is asked only when the line can take a write, and not before: what goes into a record is decided
    /// in that call, so whatever has become urgent meanwhile goes first.
    fn transmit(&mut self, now: Instant, line: &mut Line) {
        if !line.is_free() || line.ended {
            return;
        }
        match self.connection.poll_transmit(now, &mut line.bytes) {
            Ok(Transmit::Bytes(len)) => {
                (line.from, line.to) = (0, len);
                line.arrives = now + Line::LATENCY;
            }
            // Nothing to say now. Any input, timer or command can change that.
            Ok(Transmit::Idle) => {}
            // Nothing to say ever again: half-close the transport, and go on reading.
            Ok(Transmit::Finished) => line.ended = true,
            Err(error) => unreachable!("`BUFFER` takes the largest record: {error}"),
        }
    }

    /// Input. Bytes are handed over as they come; the connection takes whole flights and records, and the rest waits for more.
    fn receive(&mut self, now: Instant, line: &mut Line) {
        if !line.is_free() && line.arrives <= now {
            // There is always room: what is left over is less than one record.
            let piece = Line::PIECE.min(line.to - line.from).min(BUFFER - self.filled);
            self.input[self.filled..self.filled + piece].copy_from_slice(&line.bytes[line.from..line.from + piece]);
            line.from += piece;
            self.filled += piece;
            // Records are decrypted in place, and what they say is copied out: the front of the buffer is free again.
            let taken = self.connection.handle_slice(now, &mut self.input[..self.filled]);
            self.input.copy_within(taken..self.filled, 0);
            self.filled -= taken;
        }
        // The end of the transport is told once, after all bytes. The connection knows whether it was the end of the conversation or a cut wire.
        if line.is_free() && line.ended && !line.end_told {
            line.end_told = true;
            self.connection.handle_eof(now);
        }
    }

    /// Timers. It does no harm to call this early, late, or for nothing.
    fn tick(&mut self, now: Instant) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
    }

    /// Events, to the last one. Commands that the application gives meanwhile can lead to more.
    fn events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.application.on_event(&mut self.connection, event);
        }
    }
}

/// Sends the message, reads it back, and closes.
#[derive(Default)]
struct Dialer {
    sent: usize,
    received: usize,
}

impl Dialer {
    /// Writes as long as there is room. `Blocked` took nothing; `Event::Writable` says when it is worth trying again.
    fn write(&mut self, connection: &mut Connection, id: StreamId) {
        while self.sent < MESSAGE {
            let mut chunk = [0; 256];
            let len = chunk.len().min(MESSAGE - self.sent);
            chunk[..len].iter_mut().zip(self.sent..).for_each(|(out, index)| *out = byte(index));
            match connection.send_stream(id).write(&chunk[..len]) {
                // It may be fewer than were offered.
                Ok(taken) => self.sent += taken,
                Err(WriteError::Blocked) => return,
                Err(error) => panic!("the host wants the message: {error}"),
            }
        }
        // FIN follows what is queued. Doing this again changes nothing.
        connection.send_stream(id).finish().expect("this half was not reset");
    }

    /// Reads as long as there is something. After `Blocked`, `Event::Readable` says when there is more.
    fn read(&mut self, connection: &mut Connection, id: StreamId) {
        let mut chunk = [0; 256];
        loop {
            match connection.recv_stream(id).read(&mut chunk) {
                // The end of the stream: FIN was received, and all before it was read.
                Ok(0) => {
                    assert_eq!(self.received, MESSAGE);
                    println!("dialer: all {MESSAGE} bytes are back");
                    // A stream exists until the application lets go of it.
                    connection.release(id);
                    connection.close(ErrorCode::NO_ERROR, "done");
                    return;
                }
                Ok(len) => {
                    assert!(chunk[..len].iter().zip(self.received..).all(|(&got, index)| got == byte(index)));
                    self.received += len;
                }
                Err(ReadError::Blocked) => return,
                Err(error) => panic!("the host answers: {error}"),
            }
        }
    }
}

impl Application for Dialer {
    fn on_event(&mut self, connection: &mut Connection, event: Event) {
        match event {
            Event::Established(peer) => {
                println!("dialer: the peer has proved the key {:?}, by {:?}", peer.key, peer.mode);
                let id = connection.open_stream(Some("example/echo"), Priority::default()).expect("nothing drains");
                self.write(connection, id);
                // An event comes only to those who asked and were told `Blocked`; so reading begins here.
                self.read(connection, id);
            }
            // An event can be older than the command that let go of its stream.
            Event::Writable(id) if connection.has_stream(id) => self.write(connection, id),
            Event::Readable(id) if connection.has_stream(id) => self.read(connection, id),
            Event::Closed(error) => println!("dialer: {error}"),
            _ => {}
        }
    }
}

/// Sends back what arrives on the one stream that it takes, and never reads more than it could send back. That is all of back-pressure: what
/// is not read gives the peer no credit.
struct Echo {
    stream: Option<StreamId>,
    held: [u8; 256],
    from: usize,
    to: usize,
}

impl Echo {
    const fn new() -> Self {
        Self { stream: None, held: [0; 256], from: 0, to: 0 }
    }

    fn move_on(&mut self, connection: &mut Connection, id: StreamId) {
        loop {
            while self.from < self.to {
                match connection.send_stream(id).write(&self.held[self.from..self.to]) {
                    Ok(taken) => self.from += taken,
                    Err(WriteError::Blocked) => return,
                    Err(error) => panic!("the dialer wants its bytes back: {error}"),
                }
            }
            match connection.recv_stream(id).read(&mut self.held) {
                Ok(0) => {
                    connection.send_stream(id).finish().expect("this half was not reset");
                    // Let go of: what was finished is still sent.
                    connection.release(id);
                    return;
                }
                Ok(len) => (self.from, self.to) = (0, len),
                Err(ReadError::Blocked) => return,
                Err(error) => panic!("the dialer finishes: {error}"),
            }
        }
    }
}

impl Application for Echo {
    fn on_event(&mut self, connection: &mut Connection, event: Event) {
        match event {
            Event::Established(peer) => println!("host:   the peer has proved the key {:?}", peer.key),
            Event::StreamOpened => {
                while let Some(id) = connection.accept_stream() {
                    if self.stream.is_some() || connection.recv_stream(id).protocol().as_deref() != Some("example/echo")
                    {
                        connection.refuse(id, ErrorCode::UNKNOWN_PROTOCOL);
                        continue;
                    }
                    self.stream = Some(id);
                    self.move_on(connection, id);
                }
            }
            Event::Readable(id) | Event::Writable(id) if connection.has_stream(id) => self.move_on(connection, id),
            Event::Closed(error) => println!("host:   {error}"),
            _ => {}
        }
    }
}

fn main() {
    // Not random! A device takes all of these from its hardware, and stores the static keys.
    let (dialer_key, host_key) = (StaticSecret::from_bytes(&[1; 32]), StaticSecret::from_bytes(&[2; 32]));
    let (mut dialer_rng, mut host_rng) = (Rng::from_seed(&[3; 32]), Rng::from_seed(&[4; 32]));

    let mut now = Instant::ZERO;
    let config = Arc::new(small());
    println!("at most {} bytes for one connection with one stream", config.memory_bound(1));
    let expected = ExpectedPeer::Key(host_key.public_key());
    let identity = Identity::Static(dialer_key);
    let dialer = Connection::initiator(config.clone(), identity, expected, now, &mut dialer_rng).expect("it is valid");
    let host = Connection::responder(config, ResponderKeys::from(host_key), now, &mut host_rng).expect("it is valid");
    let mut dialer = Peer::new(dialer, Dialer::default());
    let mut host = Peer::new(host, Echo::new());
    let (mut there, mut back) = (Line::new(), Line::new());

    // The loop: input, timers, events, output. On a device its two sides are two programs, and it sleeps where `now` is moved here.
    while !(dialer.connection.is_closed() && host.connection.is_closed()) {
        host.receive(now, &mut there);
        dialer.receive(now, &mut back);
        dialer.tick(now);
        host.tick(now);
        dialer.events();
        host.events();
        dialer.transmit(now, &mut there);
        host.transmit(now, &mut back);

        // The next moment at which anything can happen: bytes arrive, or a timer expires.
        let lines = [&there, &back].into_iter().filter(|line| !line.is_free()).map(|line| line.arrives);
        let timers = [&dialer.connection, &host.connection].into_iter().filter_map(Connection::poll_timeout);
        let Some(next) = lines.chain(timers).min() else { break };
        now = now.max(next);
    }
    let (sent, received) = dialer.connection.record_counts();
    println!("after {now:?} of virtual time: {sent} records there, {received} back");
    assert_eq!(dialer.application.received, MESSAGE);
    assert!(dialer.connection.close_reason().is_some_and(peermux_core::error::ConnectionError::is_orderly));
}
