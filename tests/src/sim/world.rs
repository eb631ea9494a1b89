//! Two ends, two pipes, the model, and the operations upon them.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::crypto::StaticSecret;
use peermux_core::error::BlockedOn;
use peermux_core::time::Instant;
use peermux_core::wire::{HANDSHAKE_FRAMES, Priority, QUANTUM};
use peermux_core::{Connection, ExpectedPeer, HandshakeMode, Identity, ResponderKeys, Transmit};

use super::end::End;
use super::model::{Check, Held, Model, ensure};
use super::op::{Clock, Cut, Op, Side};
use super::pipe::Pipe;
use super::setup::{Opening, Setup};
use super::spy::{self, Sealed};
use crate::{initiator_key, responder_key, rng};

/// A simulated connection.
pub struct World {
    pub setup: Setup,
    pub model: Model,
    pub ends: [End; 2],
    /// By sending side.
    pub pipes: [Pipe; 2],
    pub now: Instant,
    /// Overrides the pieces in which input is handed over.
    pub pieces: Option<Cut>,
    buffer: Vec<u8>,
}

fn connections(setup: &Setup) -> [Connection; 2] {
    let stale = StaticSecret::from_bytes(&[0x33; 32]).public_key();
    let known = ExpectedPeer::Key(responder_key().public_key());
    let me = || Identity::Static(initiator_key());
    let (identity, remote) = match setup.opening {
        Opening::Ik => (me(), known),
        Opening::IkAnonymous => (Identity::Anonymous, known),
        Opening::Fallback => (me(), ExpectedPeer::Any),
        Opening::FallbackAnonymous => (Identity::Anonymous, ExpectedPeer::Approve),
        Opening::Stale => (me(), ExpectedPeer::KeyOrApprove(stale)),
    };
    let [ours, theirs] = setup.configs.clone().map(Arc::new);
    let now = Instant::ZERO;
    let initiator = Connection::initiator(ours, identity, remote, now, &mut rng(setup.seed * 2));
    let responder =
        Connection::responder(theirs, ResponderKeys::from(responder_key()), now, &mut rng(setup.seed * 2 + 1));
    [initiator.expect("the configuration is valid"), responder.expect("the configuration is valid")]
}

impl World {
    pub fn new(setup: Setup) -> Self {
        spy::take();
        let mut ends = connections(&setup).map(End::new);
        if setup.early.is_some() {
            ends.iter_mut().for_each(|end| end.conn.set_wall_clock(Instant::ZERO, 1_700_000_000_000));
        }
        let receivers = setup.configs.each_ref().map(|config| (config.receive_window, config.settings()));
        Self {
            model: Model::new(receivers),
            ends,
            pipes: [0, 1].map(|side| Pipe::new(setup.latency[side], setup.capacity[side])),
            now: Instant::ZERO,
            pieces: None,
            buffer: vec![0; 16 * QUANTUM],
            setup,
        }
    }

    /// Whether both sides are as they should be, as far as anyone can tell from outside.
    pub fn check(&mut self) -> Check {
        for side in [0, 1] {
            self.take_sealed(side)?;
            self.ends[side].check().map_err(|error| format!("side {side}: {error}"))?;
        }
        if std::mem::take(&mut self.ends[1].early_offered) && self.setup.early == Some(true) {
            self.model.early_accepted |= self.ends[1].conn.accept_early();
            self.ends[1].take_notices()?;
        }
        Ok(())
    }

    fn is_ik(&self) -> bool {
        self.ends[0].conn.peer().is_some_and(|peer| peer.mode == HandshakeMode::Ik)
    }

    /// Whether the responder knows that the initiator holds its key.
    fn is_confirmed(&self) -> bool {
        self.ends[1].conn.peer_key().is_some()
    }

    /// What `side` sealed is what the model expects.
    pub fn take_sealed(&mut self, side: Side) -> Result<Option<Held>, String> {
        let mut last = None;
        for sealed in spy::take() {
            let held = match &sealed {
                // Record 0 of the initiator in IK looks like flight 3 of fallback, and so holds no more frames.
                Sealed::Record(plain) if side == 0 && self.model.directions[0].records == 0 && self.is_ik() => {
                    self.model.record(side, plain, HANDSHAKE_FRAMES)
                }
                Sealed::Record(_) if side == 1 && self.model.directions[1].records > 0 && !self.is_confirmed() => {
                    Err("a second record before flight 3".to_owned())
                }
                Sealed::Record(plain) if side == 1 && !self.is_confirmed() => {
                    self.model.check_answers(&plain[1..]).and_then(|()| self.model.record(side, plain, usize::MAX))
                }
                Sealed::Record(plain) => self.model.record(side, plain, usize::MAX),
                Sealed::ThirdFlight(frames) => self.model.frames(side, frames, false, 1),
                Sealed::Early(frames) => self.model.early(frames.clone()).map(|()| Held::default()),
                Sealed::Answers(frames) => {
                    self.model.check_answers(frames).and_then(|()| self.model.frames(1, frames, false, 1))
                }
            };
            let held = held.map_err(|error| format!("side {side} sends {error}"))?;
            last = matches!(sealed, Sealed::Record(_)).then_some(held);
        }
        Ok(last)
    }

    /// `side` writes the next record, if it has one; `None` if it has nothing to say.
    pub fn transmit_one(&mut self, side: Side) -> Result<Option<usize>, String> {
        let end = &mut self.ends[side];
        end.now = end.now.max(self.now);
        let priorities: Vec<(usize, Priority)> = end
            .handles
            .iter()
            .filter_map(|handle| Some((handle.uid, end.conn.recv_stream(handle.id).priority()?)))
            .collect();
        let needed = end.conn.next_transmit_len();
        if let Err(error) = end.conn.poll_transmit(self.now, &mut self.buffer[..needed.saturating_sub(1)]) {
            ensure!(error.needed == needed, "{error}, and {needed} were announced");
        } else if needed > 0 {
            // It has nothing to say, or there would be no room.
            ensure!(
                !matches!(end.conn.poll_transmit(self.now, &mut self.buffer), Ok(Transmit::Bytes(_))),
                "idle, and yet it writes"
            );
        }
        match end.conn.poll_transmit(self.now, &mut self.buffer).map_err(|error| error.to_string())? {
            Transmit::Bytes(len) => {
                ensure!(
                    len > 0 && len % QUANTUM == 0 && len == needed,
                    "a write of {len} bytes where {needed} were announced"
                );
                end.records += 1;
                self.pipes[side].write(self.now, &self.buffer[..len]);
                if let Some(held) = self.take_sealed(side)? {
                    self.check_record(side, &held, &priorities)?;
                }
                Ok(Some(len))
            }
            Transmit::Idle => {
                ensure!(
                    end.conn.next_transmit_len() <= QUANTUM || end.conn.close_reason().is_some(),
                    "idle, and {} bytes are announced",
                    end.conn.next_transmit_len()
                );
                Ok(None)
            }
            Transmit::Finished => {
                self.ends[side].finished = true;
                self.pipes[side].ended = true;
                Ok(None)
            }
        }
    }

    fn check_record(&mut self, side: Side, held: &Held, priorities: &[(usize, Priority)]) -> Check {
        self.model.check_size(side, held.next).map_err(|error| format!("side {side}: {error}"))?;
        // Invariant 16: strictly by urgency. Whatever is more urgent than what was sent has nothing left.
        let urgency =
            |uid: usize| priorities.iter().find(|(known, _)| *known == uid).map(|(_, priority)| priority.urgency());
        let Some(least) = held.payload.iter().filter_map(|uid| urgency(*uid)).max() else { return Ok(()) };
        let end = &mut self.ends[side];
        for handle in &end.handles {
            let half = &self.model.streams[handle.uid].halves[side];
            let opened = self.model.streams[handle.uid].wire.is_some();
            let ready = opened && half.written.min(half.granted) > half.on_wire && !half.given_up;
            if ready && urgency(handle.uid).is_some_and(|urgency| urgency < least) {
                let waits = end.conn.send_stream(handle.id).blocked_on();
                ensure!(
                    waits == Some(BlockedOn::Ended),
                    "stream {} is more urgent than what the record carries, and waits: {waits:?}",
                    handle.uid
                );
            }
        }
        Ok(())
    }

    /// Hands over to `side` what has arrived.
    pub fn deliver(&mut self, side: Side, amount: Cut, piece: Cut) -> Check {
        let now = self.now;
        let end = &mut self.ends[side];
        let size = |cut: Cut, end: &End| match cut {
            Cut::One => 1,
            Cut::Edge(by) => {
                let rest = end.conn.next_input_len().saturating_sub(end.input.len());
                rest.saturating_add_signed(isize::from(by)).max(1)
            }
            Cut::Some(n) => usize::from(n),
            Cut::All => usize::MAX,
        };
        let piece = self.pieces.unwrap_or(piece);
        let mut bytes = BytesMut::from(&self.pipes[1 - side].take(now, size(amount, end))[..]);
        while !bytes.is_empty() {
            let n = size(piece, end).min(bytes.len());
            end.now = end.now.max(now);
            end.input.extend_from_slice(&bytes.split_to(n));
            if self.setup.slices[side] {
                let taken = end.conn.handle_slice(now, &mut end.input);
                let _ = end.input.split_to(taken);
            } else {
                end.conn.handle_input(now, &mut end.input);
            }
            let (left, needed) = (end.input.len(), end.conn.next_input_len());
            ensure!(left < needed, "side {side} left {left} bytes, and {needed} complete a record");
        }
        let pipe = &mut self.pipes[1 - side];
        if pipe.at_end() && !pipe.eof_told {
            pipe.eof_told = true;
            end.now = end.now.max(now);
            end.conn.handle_eof(now);
        }
        self.take_sealed(side).map(drop)
    }

    pub fn timeout(&mut self, side: Side, back: Duration) -> Check {
        let end = &mut self.ends[side];
        let told = Instant::from_micros(self.now.as_micros().saturating_sub(back.as_micros() as u64));
        end.now = end.now.max(told);
        end.conn.handle_timeout(told);
        let next = end.conn.poll_timeout();
        ensure!(next.is_none_or(|next| next > end.now), "side {side} names {next:?} again, and it is {:?}", end.now);
        Ok(())
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.ends.iter().filter_map(|end| end.conn.poll_timeout()).min()
    }

    fn advance(&mut self, clock: Clock) -> Check {
        let to = match clock {
            Clock::Arrival => self.pipes.iter().filter_map(Pipe::next_arrival).min(),
            Clock::Timer => self.next_timer(),
            Clock::Late => self.next_timer().map(|timer| timer + Duration::from_millis(7)),
            Clock::By(time) => Some(self.now + time),
            Clock::Asleep => self.setup.asleep.then(|| self.now + Duration::from_secs(8 * 3600)),
        };
        // Most runs are to outlive this: timers of many seconds are only waited for where the setup allows long sleeps.
        let longest = if self.setup.asleep { Duration::MAX } else { Duration::from_secs(1) };
        let to = to.filter(|to| to.saturating_since(self.now) <= longest);
        self.now = self.now.max(to.unwrap_or(self.now));
        for side in [0, 1] {
            if clock != Clock::Late && self.ends[side].conn.poll_timeout().is_some_and(|at| at <= self.now) {
                self.timeout(side, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Does `op`. What cannot be done does nothing.
    pub fn apply(&mut self, op: Op) -> Check {
        match op {
            Op::Transmit { side, records } => {
                for _ in 0..=records {
                    if !self.pipes[side].has_room() || self.transmit_one(side)?.is_none() {
                        break;
                    }
                }
                Ok(())
            }
            Op::Deliver { side, amount, piece } => self.deliver(side, amount, piece),
            Op::Advance(clock) => self.advance(clock),
            Op::Timeout { side, back } => self.timeout(side, back),
            Op::Open { side, name, priority } => self.open(side, name, priority).map(drop),
            Op::Accept { side } => self.accept(side).map(drop),
            Op::Refuse { side, code } => match self.accept(side)? {
                Some(index) => {
                    let handle = self.ends[side].let_go(index);
                    self.ends[side].conn.refuse(handle.id, ErrorCode::Application(code.into()));
                    self.let_go(side, handle.uid);
                    Ok(())
                }
                None => Ok(()),
            },
            Op::Decide { side, accept } => {
                let conn = &mut self.ends[side].conn;
                if accept {
                    conn.accept_peer();
                } else if self.setup.asleep {
                    conn.refuse_peer(ErrorCode::Application(9), "no");
                }
                self.take_sealed(side).map(drop)
            }
            Op::Drain { side, code } => {
                self.ends[side].conn.drain(ProtocolErrorCode(code.into()));
                Ok(())
            }
            Op::Close { side, code } => {
                self.ends[side].conn.close(ErrorCode::Application(code.into()), "the simulator says so");
                Ok(())
            }
            Op::Tamper { side, what, at } => {
                let other = self.pipes[1 - side].written().to_vec();
                if self.setup.tamper {
                    self.pipes[side].tamper(what, at, self.now, &other);
                }
                Ok(())
            }
            op => self.on_stream(op),
        }
    }
}
