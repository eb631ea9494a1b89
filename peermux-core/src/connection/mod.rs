//! [`Connection`]: one end of a peermux connection, without any I/O.
//!
//! - `setup`: the handshake and the decision about the peer; `ingress`: bytes to records to frames; `egress`: what goes into the next record, and why;
//! - `closing`: how it ends; `liveness`: signs of life and round trips; `drain_rate`: how long a record may be; `views`: streams.

mod closing;
mod drain_rate;
mod egress;
mod event;
mod ingress;
mod liveness;
mod setup;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod vectors;
mod views;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::{Poll, Waker};
use core::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use rand_core::TryCryptoRng;

pub use event::{EarlyOffer, Event, PeerInfo};
pub use views::{RecvStream, SendStream};

use crate::code::{Code, ProtocolCode};
use crate::config::{Config, ConfigError, Identity, Remote, ResponderKeys};
use crate::crypto::{PublicKey, Rng};
use crate::error::{BufferTooSmall, Closed, ConnectionError, HandshakeError, OpenError, Violation};
use crate::handshake::{Secrets, initiator, responder};
use crate::id::{Role, StreamId};
use crate::mux::{Limits, Mux, StreamEvent};
use crate::record::{Opener, Sealer};
use crate::shape::Shaper;
use crate::stats::{FrameCounts, Stats, StreamStats};
use crate::time::Instant;
use crate::wakers::Notices;
use crate::wire::{MAX_TLV_ATTESTATION, Priority, Settings};
use closing::Closing;
use drain_rate::DrainRate;
use liveness::Liveness;

/// How long a handshake may take, and how long a failed one idles: `docs/spec.md` section 15.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// One end of a connection: a state machine that consumes and emits bytes.
///
/// Its methods are of four kinds:
/// - inputs, `handle_*`: bytes and times that come from outside. They never fail: an error becomes an [`Event::Closed`], bytes to send, and the state.
/// - outputs, `poll_*`: bytes to send, events, the next timer;
/// - commands: what the application wants;
/// - getters.
///
/// After any input or command, poll outputs until they have nothing more. The crate's documentation shows the whole loop.
pub struct Connection {
    role: Role,
    config: Arc<Config>,
    /// The latest moment that was ever given.
    now: Instant,
    rng: Rng,
    phase: Phase,
    /// A flight of the handshake that is to be sent, whole.
    flight: Vec<u8>,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// A record must leave even if it is empty: flight 3 of IK, or one that was announced for what has vanished.
    must_send: bool,
    /// The next record received, or sent, is flight 3 of IK, whose frame area is smaller.
    first_is_short: bool,
    decision: Decision,
    /// Initiator: the responder decides about this side, and has until then to say that it accepts.
    awaits_decision: Option<Instant>,
    /// Initiator: how many records came before the one that said so.
    undecided_records: u64,
    /// Responder: it decided, and is still to say so.
    says_decision: bool,
    peer: Option<PeerInfo>,
    /// The public static keys of this side. Once the first flight is read, the first one is that of this connection.
    own_keys: ArrayVec<PublicKey, 2>,
    peer_settings: Settings,
    handshake_deadline: Instant,
    mux: Mux,
    liveness: Liveness,
    drain_rate: DrainRate,
    shaper: Shaper,
    closing: Closing,
    /// Whether the peer already sent the frames that may come once.
    once: Once,
    exporter: Option<Secrets>,
    /// The initiator's ephemeral key, which names the connection in a key log.
    ephemeral: [u8; 32],
    /// A long attestation that is to be sent.
    attest: Option<Arc<[u8]>>,
    early: Early,
    traffic: Traffic,
    /// The wall clock, in milliseconds since 1970, at a moment.
    wall_clock: Option<(Instant, u64)>,
    notices: Notices<Event>,
}

/// Where a connection stands, by what it reads next.
#[expect(clippy::large_enum_variant, reason = "each connection has one, no larger than what a handshake needs")]
enum Phase {
    /// Initiator: M1 is made when it can be sent, so that early data can be in it.
    Dial(setup::Dial),
    AwaitM1(responder::Start),
    AwaitM2(initiator::AwaitM2, Remote),
    /// Responder: M1 was read, and M2 is made when it can be sent, so that answers to early data can be in it.
    Answer(setup::Answer),
    /// Initiator: the responder has proved itself, and the application is asked before flight 3.
    AwaitAnswer(initiator::Proved),
    AwaitFlight3(responder::AwaitFlight3),
    Records,
    /// Reads and discards, and sends nothing, until the moment comes.
    Silent(Instant),
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// The peer is not confirmed.
    Unconfirmed,
    /// It is, and the application is asked.
    Asked,
    Accepted,
}

/// What went over the transport.
#[derive(Default)]
struct Traffic {
    bytes_sent: u64,
    bytes_received: u64,
    frames_sent: FrameCounts,
    frames_received: FrameCounts,
}

/// Where early data stands.
#[derive(Default)]
struct Early {
    /// Initiator: the frames of P1, until it is known whether they were accepted.
    sent: Vec<u8>,
    /// Initiator: refused frames, which go again first in flight 3.
    again: Vec<u8>,
    /// Responder: it was accepted; answers may leave before flight 3.
    accepted: bool,
    /// Responder: it was refused, or could not be read, and comes again at the front of flight 3.
    comes_again: bool,
    /// Responder: what is wrong with it. The peer hears of it when it is confirmed.
    violation: Option<Violation>,
    /// Initiator: r2i record 0 came while the application was asked about the responder.
    stash: Option<BytesMut>,
}

#[derive(Default)]
struct Once {
    settings: bool,
    attestation: bool,
}

/// What [`Connection::poll_transmit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// So many bytes stand at the beginning of the buffer, to be sent.
    Bytes(usize),
    /// There is nothing to send now.
    Idle,
    /// There will never be anything to send again: half-close the transport once what was taken before is sent.
    Finished,
}

impl Connection {
    /// A connection that this side dialled, at the moment that the transport connected.
    ///
    /// `rng` seeds an internal generator, once: with the same seed and the same calls the same bytes go onto the wire.
    ///
    /// # Errors
    /// [`ConfigError`] if a field of `config` is out of range, or `rng` fails.
    pub fn initiator<R: TryCryptoRng>(
        config: Arc<Config>,
        identity: Identity,
        remote: Remote,
        now: Instant,
        rng: &mut R,
    ) -> Result<Self, ConfigError> {
        let mut connection = Self::new(Role::Initiator, config, now, rng)?;
        connection.start_initiator(identity, remote)?;
        Ok(connection)
    }

    /// A connection that this side accepted, at the moment that the transport did.
    ///
    /// `rng` is used as in [`Connection::initiator`].
    ///
    /// # Errors
    /// [`ConfigError`] if a field of `config` is out of range, or `rng` fails.
    pub fn responder<R: TryCryptoRng>(
        config: Arc<Config>,
        keys: ResponderKeys,
        now: Instant,
        rng: &mut R,
    ) -> Result<Self, ConfigError> {
        let mut connection = Self::new(Role::Responder, config, now, rng)?;
        connection.start_responder(keys);
        Ok(connection)
    }

    fn new<R: TryCryptoRng>(role: Role, config: Arc<Config>, now: Instant, rng: &mut R) -> Result<Self, ConfigError> {
        config.check()?;
        let rng = Rng::from_rng(rng).map_err(|_| ConfigError::Randomness)?;
        let limits = Limits {
            ours: config.settings(),
            receive_window: config.receive_window,
            max_streams: config.max_streams,
            stream_send_buffer: config.stream_send_buffer,
            send_buffer: config.send_buffer,
        };
        Ok(Self {
            role,
            now,
            rng,
            phase: Phase::Over,
            flight: Vec::new(),
            sealer: None,
            opener: None,
            must_send: false,
            first_is_short: false,
            decision: Decision::Unconfirmed,
            awaits_decision: None,
            undecided_records: 0,
            says_decision: false,
            peer: None,
            own_keys: ArrayVec::new(),
            peer_settings: Settings::default(),
            handshake_deadline: now + HANDSHAKE_DEADLINE,
            mux: Mux::new(role, limits, now),
            liveness: Liveness::new(now),
            drain_rate: DrainRate::default(),
            shaper: Shaper::Quantised,
            closing: Closing::default(),
            once: Once::default(),
            exporter: None,
            ephemeral: [0; 32],
            attest: config.attestation.clone().filter(|bytes| bytes.len() > MAX_TLV_ATTESTATION),
            early: Early::default(),
            traffic: Traffic::default(),
            wall_clock: None,
            notices: Notices::default(),
            config,
        })
    }

    /// Time never goes back in here.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.mux.set_now(self.now);
        self.limit_close();
    }

    // Outputs (the one for bytes is in `egress`).

    /// What happened, in order; `None` when there is nothing more to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.notices.pop() {
            return Some(event);
        }
        loop {
            return Some(match self.mux.next_event()? {
                StreamEvent::Opened if !self.mux.has_incoming() && self.closing.error.is_none() => continue,
                StreamEvent::Opened => Event::StreamOpened,
                StreamEvent::Readable(id) => Event::Readable(id),
                StreamEvent::Writable(id) => Event::Writable(id),
                StreamEvent::Stopped(id) => Event::Stopped(id),
            });
        }
    }

    /// A waker of a task that has something to do, to be woken when no lock is held; `None` when there are no more.
    pub fn poll_waker(&mut self) -> Option<Waker> {
        self.mux.next_waker()
    }

    /// When [`Connection::handle_timeout`] is to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let handshake = match self.phase {
            Phase::Over => return None,
            Phase::Silent(until) => return [Some(until), self.slot_at()].into_iter().flatten().min(),
            Phase::Records if self.decision == Decision::Accepted || self.closing.error.is_some() => None,
            _ => Some(self.handshake_deadline),
        };
        let records = matches!(self.phase, Phase::Records);
        let live = records && self.closing.error.is_none();
        let mut first = handshake;
        let mut or = |timer: Option<Instant>| {
            if let Some(timer) = timer {
                first = Some(first.map_or(timer, |first| first.min(timer)));
            }
        };
        if live {
            or(self.idle_at());
        }
        if live && self.decision == Decision::Accepted {
            or(self.awaits_decision);
            or(self.liveness.ping_at());
            or(self.mux.timeout());
            or(self.mux.drain_ends_at());
        }
        if records {
            or(self.closing.linger_until);
            // The command that closed had no time: the next call has.
            or(self.closing.waits_without_limit().then_some(self.now));
        }
        or(self.slot_at());
        first
    }

    /// When the idle timeout closes the connection. A peer whose application decides may say nothing before that, and not even answer PING.
    fn idle_at(&self) -> Option<Instant> {
        self.liveness.idle_at().filter(|_| self.awaits_decision.is_none())
    }

    /// The next slot of a shaper, as long as there are slots.
    fn slot_at(&self) -> Option<Instant> {
        let over = self.closing.sent || self.sealer.is_none() || matches!(self.phase, Phase::Over);
        self.shaper.timeout().filter(|_| !over)
    }

    // Inputs (those for bytes are in `ingress`).

    /// The time is `now`. Early and late calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.shaper.on_time(self.now);
        self.mux.shed_all();
        match self.phase {
            Phase::Over => {}
            Phase::Silent(until) => {
                if self.now >= until {
                    self.phase = Phase::Over;
                }
            }
            Phase::Records => {
                if self.closing.linger_until.is_some_and(|until| self.now >= until) {
                    self.linger_is_over();
                } else if self.closing.error.is_some() {
                    // CLOSE waits for the transport, until `linger_until`.
                } else if self.decision != Decision::Accepted && self.now >= self.handshake_deadline
                    || self.awaits_decision.is_some_and(|until| self.now >= until)
                {
                    self.decision_is_late();
                } else if self.idle_at().is_some_and(|at| self.now >= at) {
                    self.fail_with_close(ConnectionError::IdleTimeout, ProtocolCode::IDLE_TIMEOUT, "");
                } else if self.decision == Decision::Accepted
                    && self.mux.drain_ends_at().is_some_and(|at| self.now >= at)
                {
                    self.close(Code::NO_ERROR, "");
                } else if self.decision == Decision::Accepted {
                    self.liveness.on_time(self.now, &mut self.rng);
                }
                // Or `poll_timeout` would name this moment again.
                self.limit_close();
            }
            _ => {
                if self.now >= self.handshake_deadline {
                    if matches!(self.phase, Phase::AwaitAnswer(_)) {
                        self.end_with(ConnectionError::DecisionTimeout);
                    }
                    self.fail_handshake(HandshakeError::Timeout);
                    self.phase = Phase::Over;
                }
            }
        }
    }

    // Commands (those about the peer are in `setup`, those that end the connection in `closing`).

    /// Opens a stream that speaks `protocol`. Nothing waits: OPEN leaves with the next record that the stream's turn
    /// falls into, as soon as the peer allows another stream.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, protocol: Option<&str>, priority: Priority) -> Result<StreamId, OpenError> {
        self.mux.open(protocol, priority, false)
    }

    /// As [`Connection::open`], for a stream that may travel as early data: what is written to it before the first call of
    /// [`Connection::poll_transmit`], up to 1136 bytes with all else that is early, goes with the first flight
    /// if [`Config::early_data`] is set, a wall clock is known ([`Connection::set_wall_clock`]) and the responder's key too.
    /// If the responder refuses it, it goes again by itself, with flight 3.
    ///
    /// Use it only for requests that may be seen by whoever steals the responder's key later, and that may be **delivered more than once**, even where the responder keeps a strike register: whoever stands in between
    /// can let a copy of the first flight arrive before the first flight itself. The copy is accepted, and the original goes again. Without a register it may be delivered any number of times.
    /// [`RecvStream::is_early`] is true of this stream at this side, whatever becomes of it, and of all of its copies at the other side.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_early(&mut self, protocol: Option<&str>, priority: Priority) -> Result<StreamId, OpenError> {
        self.mux.open(protocol, priority, true)
    }

    /// Tells the wall clock: at `now` it was `unix_millis` milliseconds after 1970. Early data needs it, and nothing else does.
    pub fn set_wall_clock(&mut self, now: Instant, unix_millis: u64) {
        self.advance(now);
        self.wall_clock = Some((self.now, unix_millis));
    }

    fn unix_millis(&self) -> Option<u64> {
        let (at, millis) = self.wall_clock?;
        let since = u64::try_from(self.now.saturating_since(at).as_millis()).unwrap_or(u64::MAX);
        Some(millis.saturating_add(since))
    }

    /// The next stream that the peer opened; `None` if there is none. Before the peer is accepted these are only streams of accepted early data.
    ///
    /// Let go of it by [`Connection::release`].
    pub fn accept(&mut self) -> Option<StreamId> {
        self.mux.accept()
    }

    /// The sending half of a stream. Calls on a stream that was let go of say so.
    pub fn send(&mut self, id: StreamId) -> SendStream<'_> {
        SendStream::new(self, id)
    }

    /// The receiving half of a stream. Calls on a stream that was let go of say so.
    pub fn recv(&mut self, id: StreamId) -> RecvStream<'_> {
        RecvStream::new(self, id)
    }

    /// Refuses a stream of the peer: STOP and RESET, with `code` ([spec](crate::spec) section 10.3), and lets go of it.
    pub fn refuse(&mut self, id: StreamId, code: Code) {
        self.mux.refuse(id, code);
    }

    /// Takes the wakers that are registered for a stream, which are not woken then: for callers that must not drop them in [`Connection::release`] or
    /// [`Connection::refuse`], since they hold a lock.
    pub fn take_wakers(&mut self, id: StreamId) -> [Option<Waker>; 3] {
        self.mux.take_wakers(id)
    }

    /// Lets go of a stream. What was not finished is reset with CANCELLED, and the peer is asked to stop what it still sends; what was
    /// finished is still sent.
    pub fn release(&mut self, id: StreamId) {
        self.mux.release(id);
    }

    // Getters.

    /// Which end this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Returns this side's static key in this connection. Returns `None` if this is a responder that has not received the first flight, since the
    /// initiator decides whether it uses the current key or the previous one.
    pub fn local_key(&self) -> Option<PublicKey> {
        self.own_keys.first().copied().filter(|_| !self.awaits_first_flight())
    }

    /// Whether this is a responder that has not received the whole first flight.
    pub(crate) const fn awaits_first_flight(&self) -> bool {
        matches!(self.phase, Phase::AwaitM1(_))
    }

    /// The peer, once it is confirmed.
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_ref().filter(|_| self.decision != Decision::Unconfirmed)
    }

    /// The peer as it claims to be, before it is confirmed: a responder has this from M1 on where the initiator knew its key, and M1 can be replayed.
    pub const fn claimed_peer(&self) -> Option<&PeerInfo> {
        self.peer.as_ref()
    }

    /// The attestation of the confirmed peer, whether it came in the handshake or in a frame: see [`PeerInfo::attestation`]. Nobody has verified it. `Ready(None)` says that the peer has sent none,
    /// and sends none any more: it could have come in the first 16 records only. An [`Event::Attestation`] tells that it arrived in a frame.
    pub fn attestation(&self) -> Poll<Option<&Bytes>> {
        match self.peer().map(|peer| peer.attestation.as_ref()) {
            Some(Some(bytes)) => Poll::Ready(Some(bytes)),
            Some(None) if self.awaits_decision.is_none() && self.records_since_decision() >= ingress::FIRST_RECORDS => {
                Poll::Ready(None)
            }
            _ => Poll::Pending,
        }
    }

    /// Whether [`Event::Established`] was told, and the connection has not ended.
    pub fn is_established(&self) -> bool {
        self.decision == Decision::Accepted && self.awaits_decision.is_none() && self.closing.error.is_none()
    }

    /// Why the connection ended, once it has.
    pub const fn error(&self) -> Option<&ConnectionError> {
        self.closing.error.as_ref()
    }

    /// What this side said in its CLOSE, and what the peer said in its own, as far as they were said.
    pub fn closes(&self) -> (Option<&Closed>, Option<&Closed>) {
        (self.closing.said.as_ref(), self.closing.heard.as_ref())
    }

    /// Whether nothing is to be sent or received any more: the transport can be closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Over) && self.flight.is_empty()
    }

    /// Whether a stream of this id exists, and the application holds it.
    pub fn has_stream(&self, id: StreamId) -> bool {
        self.mux.exists(id)
    }

    /// Whether [`Connection::accept`] would return a stream.
    pub fn has_incoming(&self) -> bool {
        self.mux.has_incoming()
    }

    /// Streams that exist on this side.
    pub fn stream_count(&self) -> usize {
        self.mux.stream_count()
    }

    /// Bytes that wait to be sent.
    pub const fn queued(&self) -> usize {
        self.mux.queued()
    }

    /// Bytes that were received and not yet read.
    pub const fn unread(&self) -> u64 {
        self.mux.unread()
    }

    /// The round trip time, smoothed; zero before the first measurement.
    pub const fn round_trip(&self) -> Duration {
        self.liveness.round_trip()
    }

    /// What the connection has done so far, and what it holds now.
    pub fn stats(&self) -> Stats {
        let (records_sent, records_received) = self.record_counts();
        Stats {
            bytes_sent: self.traffic.bytes_sent,
            bytes_received: self.traffic.bytes_received,
            records_sent,
            records_received,
            frames_sent: self.traffic.frames_sent,
            frames_received: self.traffic.frames_received,
            round_trip: self.round_trip(),
            largest_record: self.drain_rate.largest_record(),
            ..self.mux.stats()
        }
    }

    /// What a stream has done so far, and what it holds now; `None` if the application let go of it.
    pub fn stream_stats(&self, id: StreamId) -> Option<StreamStats> {
        self.mux.stream_stats(id)
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether either side drains the connection.
    pub fn is_draining(&self) -> bool {
        self.mux.is_draining()
    }

    /// The channel binding: the handshake's hash, the same on both sides, once the keys are there.
    pub fn channel_binding(&self) -> Option<&[u8; 64]> {
        self.exporter.as_ref().map(Secrets::binding)
    }

    /// Keying material for the application, in the shape of RFC 5705: both sides get the same bytes for the same `label` and `context`
    /// ([spec](crate::spec) section 5).
    ///
    /// Returns `None` before the keys are there, if `label` is longer than 255 bytes, or if `out` is empty or longer than 16,320.
    pub fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
        crate::crypto::export(self.exporter.as_ref()?.exporter(), label, context, out)
    }

    /// Records sent and received so far.
    pub fn record_counts(&self) -> (u64, u64) {
        (self.sealer.as_ref().map_or(0, Sealer::count), self.opener.as_ref().map_or(0, Opener::count))
    }

    /// What the next call of [`Connection::poll_transmit`] needs at most, in bytes. 0 if there will never be anything to send.
    pub fn next_transmit_len(&self) -> usize {
        match self.phase {
            _ if !self.flight.is_empty() => return self.flight.len(),
            Phase::Dial(_) => return crate::handshake::M1_LEN,
            Phase::Answer(_) => return crate::handshake::FLIGHT_LEN,
            _ => {}
        }
        self.sealer.as_ref().map_or(0, Sealer::next_len)
    }

    /// How many bytes are worth giving to the transport at once: what [`Connection::next_transmit_len`] says; or, while the transport
    /// takes what it is given so fast that the calls are what costs, as many as it takes in about 0.25 ms, in records that are made one after the other.
    pub fn burst_len(&self) -> usize {
        let (next, burst) = (self.next_transmit_len(), self.drain_rate.burst());
        if burst > crate::MAX_INPUT_BUFFER && self.mux.backlog().0 > next { burst } else { next }
    }

    /// How many bytes may wait in the transport, unsent, before it takes no more: what is urgent waits behind them. For
    /// a TCP socket that is TCP_NOTSENT_LOWAT. 16 KiB, and up to 352 KiB while the transport takes more than about 2 Gbit/s.
    pub fn unsent_limit(&self) -> usize {
        self.drain_rate.unsent()
    }

    /// Whether the transport takes a record in so short a time, 0.25 ms at most, that what fills no packet may wait for the next record. It should, while there is
    /// one: for a TCP socket that is TCP_CORK.
    pub fn fills_packets(&self) -> bool {
        self.drain_rate.is_fast()
    }

    /// The bytes that complete what is read next: a flight of the handshake, or a record. While input is discarded this is one quantum.
    pub fn next_input_len(&self) -> usize {
        match &self.phase {
            Phase::AwaitM1(_) => crate::handshake::M1_LEN,
            Phase::Records => self.opener.as_ref().map_or(crate::wire::QUANTUM, Opener::next_len),
            _ => crate::wire::QUANTUM,
        }
    }

    fn check_buffer(needed: usize, buffer: &[u8]) -> Result<(), BufferTooSmall> {
        if buffer.len() < needed { Err(BufferTooSmall { needed }) } else { Ok(()) }
    }
}
