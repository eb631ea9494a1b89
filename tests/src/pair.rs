//! Two connections and the pipes between them, in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::crypto::{Rng, StaticSecret};
use peermux_core::time::Instant;
use peermux_core::{Config, Connection, Event, ExpectedPeer, Identity, ResponderKeys, Role, StrikeRegister, Transmit};

/// A generator that gives the same numbers for the same seed.
pub fn rng(seed: u64) -> Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Rng::from_seed(&bytes)
}

/// The static key of the initiator of every pair that does not say otherwise.
pub fn initiator_key() -> StaticSecret {
    StaticSecret::from_bytes(&[0x11; 32])
}

/// The static key of the responder of every pair that does not say otherwise.
pub fn responder_key() -> StaticSecret {
    StaticSecret::from_bytes(&[0x22; 32])
}

/// One end: a connection, what it was told, and what it wrote.
pub struct Side {
    /// The connection.
    pub conn: Connection,
    /// Events that were not yet looked at.
    pub events: VecDeque<Event>,
    /// When it wrote, and how much.
    pub trace: Vec<(Instant, usize)>,
    /// Decides about early data, if there is one.
    pub register: Option<StrikeRegister>,
    /// Bytes on their way to the other side, with the time of their arrival.
    pipe: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes that have arrived and are not yet whole.
    input: BytesMut,
    finished: bool,
    eof_told: bool,
}

impl Side {
    fn new(conn: Connection) -> Self {
        Self {
            conn,
            events: VecDeque::new(),
            trace: Vec::new(),
            register: None,
            pipe: VecDeque::new(),
            input: BytesMut::new(),
            finished: false,
            eof_told: false,
        }
    }

    /// Takes the first event that `pick` picks, and drops those before it.
    pub fn expect_event<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        while let Some(event) = self.events.pop_front() {
            if let Some(found) = pick(&event) {
                return found;
            }
        }
        panic!("no such event");
    }

    fn poll_events(&mut self) {
        while let Some(event) = self.conn.poll_event() {
            if let (Event::EarlyData(offer), Some(register)) = (&event, &mut self.register)
                && register.strike(&offer.ephemeral, offer.timestamp, offer.now).is_ok()
            {
                assert!(self.conn.accept_early());
            }
            self.events.push_back(event);
        }
    }
}

/// How a pair begins.
#[expect(missing_docs, reason = "each field is a parameter of the connection of that side")]
pub struct PairBuilder {
    pub initiator_config: Config,
    pub responder_config: Config,
    pub identity: Identity,
    pub remote: ExpectedPeer,
    pub responder_keys: ResponderKeys,
    pub latency: Duration,
    /// Bytes that each pipe holds at most.
    pub capacity: usize,
    pub seed: u64,
    /// The wall clock of both sides at the beginning, in milliseconds since 1970.
    pub wall_clock: Option<u64>,
    /// The responder's strike register.
    pub register: Option<StrikeRegister>,
}

impl Default for PairBuilder {
    fn default() -> Self {
        Self {
            initiator_config: Config::default(),
            responder_config: Config::default(),
            identity: Identity::Static(initiator_key()),
            remote: ExpectedPeer::Key(responder_key().public_key()),
            responder_keys: responder_key().into(),
            latency: Duration::from_millis(10),
            capacity: usize::MAX,
            seed: 1,
            wall_clock: None,
            register: None,
        }
    }
}

impl PairBuilder {
    /// Makes the two connections; nothing has been sent.
    pub fn build(self) -> Pair {
        let now = Instant::ZERO;
        let initiator = Connection::initiator(
            Arc::new(self.initiator_config),
            self.identity,
            self.remote,
            now,
            &mut rng(self.seed),
        )
        .expect("the configuration is valid");
        let responder = Connection::responder(
            Arc::new(self.responder_config),
            self.responder_keys,
            now,
            &mut rng(self.seed + 1_000_000),
        )
        .expect("the configuration is valid");
        let mut initiator = Side::new(initiator);
        let mut responder = Side::new(responder);
        if let Some(millis) = self.wall_clock {
            initiator.conn.set_wall_clock(now, millis);
            responder.conn.set_wall_clock(now, millis);
        }
        responder.register = self.register;
        Pair { initiator, responder, now, latency: self.latency, capacity: self.capacity }
    }

    /// Makes the two connections and lets them finish their handshake.
    pub fn establish(self) -> Pair {
        let mut pair = self.build();
        pair.settle();
        assert!(pair.initiator.conn.is_established(), "initiator: {:?}", pair.initiator.conn.close_reason());
        assert!(pair.responder.conn.is_established(), "responder: {:?}", pair.responder.conn.close_reason());
        pair
    }
}

/// Two connections with pipes between them.
pub struct Pair {
    /// The side that dialled.
    pub initiator: Side,
    /// The side that accepted.
    pub responder: Side,
    /// The time, for both.
    pub now: Instant,
    latency: Duration,
    capacity: usize,
}

impl Pair {
    /// A pair with the default configuration, its handshake done.
    pub fn established() -> Self {
        PairBuilder::default().establish()
    }

    /// One side.
    pub fn side(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Initiator => &mut self.initiator,
            Role::Responder => &mut self.responder,
        }
    }

    /// Lets `role` write what it wants to, as far as its pipe takes it.
    pub fn transmit(&mut self, role: Role) {
        let (now, arrival, capacity) = (self.now, self.now + self.latency, self.capacity);
        let side = self.side(role);
        let mut buffer = vec![0; 16 * 1408];
        while !side.finished && side.pipe.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < capacity {
            match side.conn.poll_transmit(now, &mut buffer).expect("the buffer takes the largest record") {
                Transmit::Bytes(len) => {
                    assert!(len > 0 && len % 1408 == 0, "a write of {len} bytes");
                    side.trace.push((now, len));
                    side.pipe.push_back((arrival, buffer[..len].to_vec()));
                }
                Transmit::Idle => break,
                Transmit::Finished => side.finished = true,
            }
        }
        side.poll_events();
    }

    /// Delivers to `role` what has arrived by now; whether there was anything.
    pub fn deliver(&mut self, role: Role) -> bool {
        let now = self.now;
        let sender = self.side(role.peer());
        let mut arrived = Vec::new();
        while sender.pipe.front().is_some_and(|(arrival, _)| *arrival <= now) {
            arrived.extend(sender.pipe.pop_front().expect("it has a front").1);
        }
        let eof = sender.pipe.is_empty() && (sender.finished || sender.conn.is_closed());
        let side = self.side(role);
        let anything = !arrived.is_empty();
        if anything {
            side.input.extend_from_slice(&arrived);
            side.conn.handle_input(now, &mut side.input);
        }
        let eof = eof && !side.eof_told;
        if eof {
            side.eof_told = true;
            side.conn.handle_eof(now);
        }
        side.poll_events();
        anything || eof
    }

    /// When something happens next without anyone's doing: an arrival, or a timer up to `horizon`.
    fn next_moment(&self, horizon: Instant) -> Option<Instant> {
        let sides = [&self.initiator, &self.responder];
        let arrivals = sides.iter().filter_map(|side| side.pipe.front().map(|(arrival, _)| *arrival));
        let timers = sides.iter().filter_map(|side| side.conn.poll_timeout()).filter(|at| *at <= horizon);
        arrivals.chain(timers).min()
    }

    /// One round of writing and delivering, and the time moves on if nothing is left to do now. False if nothing will happen up to `horizon`.
    pub fn step(&mut self, horizon: Instant) -> bool {
        self.transmit(Role::Initiator);
        self.transmit(Role::Responder);
        if self.deliver(Role::Initiator) | self.deliver(Role::Responder) {
            return true;
        }
        match self.next_moment(horizon) {
            Some(moment) => {
                self.now = self.now.max(moment);
                let now = self.now;
                for side in [&mut self.initiator, &mut self.responder] {
                    if side.conn.poll_timeout().is_some_and(|at| at <= now) {
                        side.conn.handle_timeout(now);
                        side.poll_events();
                    }
                }
                true
            }
            None => false,
        }
    }

    /// Runs until nothing is on its way and nobody has anything to say, without waiting for timers.
    pub fn settle(&mut self) {
        self.run(self.now);
    }

    /// Runs until nothing happens up to `horizon`, timers included, and then lets the time be `horizon` at least.
    pub fn run(&mut self, horizon: Instant) {
        for _ in 0..10_000_000 {
            if !self.step(horizon) {
                self.now = self.now.max(horizon);
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Runs exactly until `end`, whatever is on its way then: for connections that never come to rest.
    pub fn run_until(&mut self, end: Instant) {
        while self.next_moment(end).is_none_or(|moment| moment <= end) {
            if !self.step(end) {
                break;
            }
        }
        self.now = self.now.max(end);
    }

    /// Runs for `time`, timers included.
    pub fn run_for(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// Bytes on their way from `role`, to be tampered with.
    pub fn pipe(&mut self, role: Role) -> &mut VecDeque<(Instant, Vec<u8>)> {
        &mut self.side(role).pipe
    }
}
