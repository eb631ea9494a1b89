//! Both adapters behind one blocking face, so that every scenario runs over real sockets through each of them, and between them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part of this")]

pub mod dialers;
pub mod scenarios;
pub mod script;
pub mod std_face;
pub mod tokio_face;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peermux_core::code::ErrorCode;
use peermux_core::error::{ConnectionError, OpenError, ReadError, WriteError};
use peermux_core::wire::Priority;

use peermux_core::{Config, ConnectionStats, ExpectedPeer, StreamStats};
use peermux_tests::responder_key;

/// One adapter.
pub trait Face: 'static {
    type Listener: Listening;
    type Connection: Connected;

    /// Listens on `socket` as [`responder_key`].
    fn listen(socket: TcpListener, config: Config) -> Self::Listener;
    /// Dials over `socket` as [`initiator_key`](peermux_tests::initiator_key).
    fn dial(socket: TcpStream, remote: ExpectedPeer, config: Config) -> io::Result<Self::Connection>;
}

pub trait Listening: Send + Sync + 'static {
    type Connection: Connected;

    /// The next outcome, and who it is about.
    fn outcome(&self) -> Result<Self::Connection, (Option<SocketAddr>, io::Error)>;
}

pub trait Connected: Clone + Send + Sync + 'static {
    type Stream: Duplex;

    fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Self::Stream, OpenError>;
    fn accept_stream(&self) -> Result<Self::Stream, ConnectionError>;
    /// Closes, and waits until the transport has CLOSE.
    fn close(&self, code: u64, reason: &str);
    /// Drains, and waits until the transport is done.
    fn drain(&self);
    fn closed(&self) -> ConnectionError;
    fn close_reason(&self) -> Option<ConnectionError>;
    fn is_draining(&self) -> bool;
    fn has_incoming(&self) -> bool;
    /// The addresses of the socket, this side's first.
    fn addresses(&self) -> [SocketAddr; 2];
    fn channel_binding(&self) -> [u8; 64];
    fn attestation(&self) -> Result<Option<Bytes>, ConnectionError>;
    /// Keying material for `label` and a fixed context.
    fn exported(&self, label: &[u8]) -> Option<[u8; 32]>;
    fn stats(&self) -> ConnectionStats;
    fn rtt(&self) -> Duration;
}

pub trait Duplex: Read + Write + Send + 'static {
    type Reading: Read + Send + 'static;
    type Writing: Write + Send + 'static;

    fn protocol(&self) -> String;
    fn id(&self) -> Option<u64>;
    fn is_early(&self) -> bool;
    fn stats(&self) -> Option<StreamStats>;
    fn finish(&mut self) -> io::Result<()>;
    fn reset(&mut self, code: u64);
    fn stop(&mut self, code: u64);
    fn refuse(self, code: u64);
    fn stopped(&self) -> Result<Option<ErrorCode>, ConnectionError>;
    /// The halves; the writing one finishes by [`Duplex::finish_half`].
    fn halves(self) -> (Self::Reading, Self::Writing);
    fn finish_half(half: &mut Self::Writing) -> io::Result<()>;
}

/// Both ends of a connection over loopback.
pub struct Ends<D: Face, L: Face> {
    pub dialer: D::Connection,
    pub listener: <L::Listener as Listening>::Connection,
    pub listening: L::Listener,
    pub address: SocketAddr,
}

pub fn ends<D: Face, L: Face>(config: &Config) -> Ends<D, L> {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, config.clone());
    let socket = TcpStream::connect(address).expect("it listens");
    ends_over::<D, L>(listening, address, socket, config)
}

pub fn ends_over<D: Face, L: Face>(
    listening: L::Listener,
    address: SocketAddr,
    socket: TcpStream,
    config: &Config,
) -> Ends<D, L> {
    let dialer =
        D::dial(socket, ExpectedPeer::Key(responder_key().public_key()), config.clone()).expect("the listener answers");
    let listener = listening.outcome().expect("the dialer is known");
    Ends { dialer, listener, listening, address }
}

/// Runs `test` in a thread of its own; a test that hangs fails.
pub fn within<T: Send + 'static>(seconds: u64, test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(test());
    });
    match result.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs: not done after {seconds} s"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the result was sent"),
        },
    }
}

/// The bytes of stream `number`: different in each, and at each place.
pub fn pattern(number: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (number.wrapping_mul(0x9e37_79b9).wrapping_add(at * 31 + (at >> 8) * 7) >> 3) as u8).collect()
}

pub fn write_pattern(to: &mut impl Write, number: u64, len: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let end = len.min(at + 50_000);
        to.write_all(&pattern(number, at..end))?;
        at = end;
    }
    Ok(())
}

/// Reads to the end, which must be after `len` bytes of the pattern.
pub fn read_pattern(from: &mut impl Read, number: u64, len: u64) {
    let mut at = 0;
    let mut buffer = vec![0; 40_000];
    loop {
        let read = from.read(&mut buffer).unwrap_or_else(|error| panic!("stream {number} at {at} of {len}: {error}"));
        if read == 0 {
            break;
        }
        assert!(buffer[..read] == pattern(number, at..at + read as u64), "stream {number} differs after {at}");
        at += read as u64;
    }
    assert_eq!(at, len, "stream {number} ends early");
}

pub fn connection_error(error: &io::Error) -> &ConnectionError {
    let source = error.get_ref().unwrap_or_else(|| panic!("no source in {error:?}"));
    match (source.downcast_ref(), source.downcast_ref(), source.downcast_ref()) {
        (Some(error), _, _)
        | (_, Some(ReadError::Connection(error)), _)
        | (_, _, Some(WriteError::Connection(error))) => error,
        _ => panic!("no error of the connection: {error:?}"),
    }
}

pub fn read_error(error: &io::Error) -> &ReadError {
    error.get_ref().and_then(|source| source.downcast_ref()).unwrap_or_else(|| panic!("no error of a read: {error:?}"))
}

pub fn write_error(error: &io::Error) -> &WriteError {
    error.get_ref().and_then(|source| source.downcast_ref()).unwrap_or_else(|| panic!("no error of a write: {error:?}"))
}

/// The code and reason of a close, and who closed.
pub fn closed(error: &ConnectionError) -> (peermux_core::error::Side, ErrorCode, String) {
    match error {
        ConnectionError::Closed { by, closed, .. } => (*by, closed.code, closed.reason.to_string()),
        error => panic!("not closed, but: {error}"),
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
