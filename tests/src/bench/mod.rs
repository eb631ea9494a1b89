//! What the benchmarks measure: paths through two connections that hand each other their records at once. No socket, no lock, no task.
//!
//! [`Direct`] joins the connections; `paths` has what an application does with them, `providers` the ciphers.

mod handshake;
mod paths;
mod providers;

pub use handshake::Handshake;
pub use paths::{Bare, Bulk, Frames, Many, Requests};
pub use providers::{Cipher, Plain};

use std::sync::Arc;
use std::time::Duration;

use peermux_core::time::Instant;
use peermux_core::wire::{MAX_RECORD, Priority, QUANTUM};
use peermux_core::{Config, Connection, Role, StreamId, Transmit};

use crate::{PairBuilder, rng};

/// Two established connections. Time moves by what is carried, as on a line of 1 GB/s.
pub struct Direct {
    /// The side that dialled.
    pub initiator: Connection,
    /// The side that accepted.
    pub responder: Connection,
    /// The time, for both.
    pub now: Instant,
    record: Box<[u8]>,
}

impl Direct {
    /// Both sides have `config`. A configuration for benchmarks sends no grease, or the dice decide what is measured.
    pub fn new(config: Config) -> Self {
        let PairBuilder { identity, remote, responder_keys, .. } = PairBuilder::default();
        let (config, now) = (Arc::new(config), Instant::ZERO);
        let initiator = Connection::initiator(config.clone(), identity, remote, now, &mut rng(1));
        let responder = Connection::responder(config, responder_keys, now, &mut rng(2));
        let mut direct = Self {
            initiator: initiator.expect("the configuration is valid"),
            responder: responder.expect("the configuration is valid"),
            now,
            record: vec![0; usize::from(MAX_RECORD) * QUANTUM].into(),
        };
        direct.settle();
        assert!(direct.initiator.is_established() && direct.responder.is_established());
        direct
    }

    /// The side of `role`, and the other.
    pub fn sides(&mut self, role: Role) -> (&mut Connection, &mut Connection) {
        match role {
            Role::Initiator => (&mut self.initiator, &mut self.responder),
            Role::Responder => (&mut self.responder, &mut self.initiator),
        }
    }

    /// One record, or flight, of `role` goes to the other side, which decrypts it where it lies and copies payloads out. Returns its length; 0 if there
    /// was none.
    pub fn carry(&mut self, role: Role) -> usize {
        let (now, mut record) = (self.now, std::mem::take(&mut self.record));
        let (from, to) = self.sides(role);
        let len = match from.poll_transmit(now, &mut record) {
            Ok(Transmit::Bytes(len)) => len,
            _ => 0,
        };
        if len > 0 {
            assert_eq!(to.handle_slice(now, &mut record[..len]), len);
            drain_events(from);
            drain_events(to);
        }
        self.record = record;
        self.pass(len);
        len
    }

    /// The time that `len` bytes take.
    pub(crate) fn pass(&mut self, len: usize) {
        self.now = self.now + Duration::from_micros(len as u64 / 1000);
    }

    /// Carries until neither side has anything to say.
    pub fn settle(&mut self) {
        while self.carry(Role::Initiator) + self.carry(Role::Responder) > 0 {}
    }

    /// Opens `count` streams, and accepts them: as the initiator knows them, and as the responder does.
    pub fn open(&mut self, count: usize, priority: Priority) -> Vec<(StreamId, StreamId)> {
        let opened: Vec<_> =
            (0..count).map(|_| self.initiator.open_stream(Some("bench/path"), priority).expect("it opens")).collect();
        self.settle();
        let accepted = std::iter::from_fn(|| self.responder.accept_stream());
        let streams: Vec<_> = opened.into_iter().zip(accepted).collect();
        assert_eq!(streams.len(), count);
        streams
    }
}

/// A configuration whose records are as large as `quanta` allows, with `cipher`.
pub fn config(cipher: Cipher, quanta: u8) -> Config {
    Config { grease: false, max_record_quanta: quanta, provider: cipher.provider(), ..Config::default() }
}

fn drain_events(connection: &mut Connection) {
    while connection.poll_event().is_some() {}
}
