//! What goes into the next record, and why.

use super::{Connection, PeerApproval, Phase, Transmit};
use crate::code::{ErrorCode, ProtocolErrorCode};
use crate::codec::Writer;
use crate::error::{BufferTooSmall, ConnectionError};
use crate::id::Role;
use crate::record::{TAG, Unsealed, quanta_for};
use crate::time::Instant;
use crate::wire::{Attestation, Close, Frame, FrameKind, HANDSHAKE_FRAMES, QUANTUM, Shaping};

/// The size of a record of `len` bytes, in quanta.
const fn quanta(len: usize) -> u8 {
    (len / QUANTUM) as u8
}

/// What is to be done about sending.
enum Action {
    Nothing,
    /// The connection closes: the peer drains it, and all streams are done.
    Drained,
    /// The connection closes, since the counter of records is used up.
    Close(ProtocolErrorCode),
    Record,
    /// Nothing will ever be sent again.
    Finish,
}

impl Connection {
    /// Writes the next flight or record to the beginning of `out`.
    ///
    /// Call it only when the transport can take more: what goes into a record is decided here, so that what is urgent goes first. Call it again until it
    /// says [`Transmit::Idle`] or [`Transmit::Finished`].
    ///
    /// # Errors
    /// [`BufferTooSmall`] if `out` is smaller than what is to be sent: at most [`Connection::next_transmit_len`] bytes. Nothing is lost.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Result<Transmit, BufferTooSmall> {
        let (transmit, unsealed) = self.poll_unsealed(now, out)?;
        if let (Transmit::Bytes(len), Some(unsealed)) = (transmit, unsealed)
            && unsealed.seal(&mut out[..len]).is_none()
        {
            out[..len].fill(0);
            self.provider_failed();
            return Ok(Transmit::Finished);
        }
        Ok(transmit)
    }

    /// As [`Connection::poll_transmit`], but what it says must be done to a record before it is sent.
    pub(crate) fn poll_unsealed(
        &mut self,
        now: Instant,
        out: &mut [u8],
    ) -> Result<(Transmit, Option<Unsealed>), BufferTooSmall> {
        self.advance(now);
        if matches!(self.phase, Phase::Dial(_) | Phase::Answer(_)) {
            Self::check_buffer(self.next_transmit_len(), out)?;
            self.make_flight();
        }
        if !self.flight.is_empty() {
            let len = self.flight.len();
            Self::check_buffer(len, out)?;
            out[..len].copy_from_slice(&self.flight);
            self.flight.clear();
            self.liveness.flight_sent(self.now);
            if self.role == Role::Initiator {
                self.shaper.flight_sent(self.now);
            }
            self.traffic.bytes_sent += len as u64;
            return Ok((Transmit::Bytes(len), None));
        }
        match self.next_action() {
            Action::Nothing => {
                self.drain_rate.idle();
                self.mux.shed();
                return Ok((Transmit::Idle, None));
            }
            Action::Finish => {
                self.closing.finish_told = true;
                return Ok((Transmit::Finished, None));
            }
            Action::Drained => self.close_drained(),
            Action::Close(code) => self.close(ErrorCode::Protocol(code), ""),
            Action::Record => {}
        }
        let Some(len) = self.sealer.as_ref().map(crate::record::Sealer::next_len) else {
            return Ok((Transmit::Idle, None));
        };
        Self::check_buffer(len, out)?;
        Ok(match self.write_record(&mut out[..len]) {
            Some(unsealed) => (Transmit::Bytes(len), Some(unsealed)),
            None => (Transmit::Finished, None),
        })
    }

    /// Whether [`Connection::poll_transmit`] has anything to do: bytes to write, or an end that it has not told of.
    pub fn wants_transmit(&mut self) -> bool {
        !self.flight.is_empty()
            || matches!(self.phase, Phase::Dial(_) | Phase::Answer(_))
            || match self.next_action() {
                Action::Nothing => false,
                Action::Finish => !self.closing.finish_told,
                Action::Drained | Action::Close(_) | Action::Record => true,
            }
    }

    /// Whether the next thing to do about sending is a record.
    #[cfg(feature = "driver")]
    pub(crate) fn wants_record(&mut self) -> bool {
        self.flight.is_empty() && matches!(self.next_action(), Action::Record)
    }

    /// Whether answers to early data may leave: before flight 3, and one record at most.
    fn answers_early(&self) -> bool {
        let first = self.sealer.as_ref().is_some_and(|sealer| sealer.count() == 0);
        let shaped = self.config.shaping != Shaping::Quantised || self.peer_settings.shaping != Shaping::Quantised;
        self.early.accepted && self.is_unconfirmed() && first && !shaped && self.closing.error.is_none()
    }

    fn next_action(&mut self) -> Action {
        self.mux.tidy();
        let first = self.first_is_short && self.role == Role::Initiator;
        match self.phase {
            Phase::Over => return Action::Finish,
            // Slots go on until the end: nobody sees that a record did not authenticate.
            Phase::Silent(_) if self.closing.sent => return Action::Finish,
            Phase::Silent(_) if self.sealer.is_some() => {}
            Phase::Records if self.closing.sent => return Action::Finish,
            // Flight 3 is bound by no shaper, and neither is anything before it.
            Phase::Records if first => return Action::Record,
            Phase::Records if self.answers_early() => {
                return if self.mux.wants_record() { Action::Record } else { Action::Nothing };
            }
            Phase::Records => {}
            _ => return Action::Nothing,
        }
        if !self.shaper.may_send(self.now) || self.is_unconfirmed() {
            return Action::Nothing;
        }
        let speaks = self.decision == PeerApproval::Accepted && self.closing.error.is_none();
        if speaks && self.mux.has_drained() {
            return Action::Drained;
        }
        // The last nonce but REKEY's is for CLOSE.
        if speaks && self.sealer.as_ref().is_some_and(|sealer| sealer.count() == u64::MAX - 1) {
            return Action::Close(ProtocolErrorCode::INTERNAL);
        }
        let says = self.must_send
            || self.says_decision
            || self.attest.is_some()
            || self.liveness.wants_record()
            || self.mux.wants_record();
        if self.closing.to_send.is_some() || (speaks && says) || self.shaper.padding(self.now) > 0 {
            Action::Record
        } else {
            Action::Nothing
        }
    }

    /// Writes the next record, which is still to be sealed; `None` if it must not be sent.
    fn write_record(&mut self, record: &mut [u8]) -> Option<Unsealed> {
        let len = record.len();
        let short = self.role == Role::Initiator && core::mem::take(&mut self.first_is_short);
        let area_len = if short { HANDSHAKE_FRAMES } else { len - TAG - 1 };
        let (area, rest) = record[1..].split_at_mut(area_len);
        rest.fill(0);
        let mut area = Writer::new(area);
        let close = self.closing.to_send.take();
        let next = match &close {
            Some(closed) => {
                Close { code: closed.code, reason: &closed.reason }.encode(&mut area);
                1
            }
            None => {
                let speaks = self.decision == PeerApproval::Accepted && self.closing.error.is_none();
                if speaks {
                    if core::mem::take(&mut self.says_decision) {
                        Frame::Settings(&[]).write(&mut area);
                    }
                    area.bytes(&core::mem::take(&mut self.early.again));
                    self.write_attestation(&mut area);
                    self.liveness.write(self.now, &mut area);
                }
                if speaks || self.is_unconfirmed() {
                    self.mux.fill(&mut area);
                }
                if speaks {
                    self.write_grease(&mut area);
                }
                self.next_size(if short { 0 } else { quanta(len) })
            }
        };
        debug_assert!(!area.overflowed());
        self.traffic.bytes_sent += len as u64;
        self.traffic.frames_sent.add_types(area.frames());
        area.pad();
        // What is announced for payload must leave even if the payload is reset meanwhile.
        self.must_send = next > 1 && !self.shaper.is_constant();
        if short {
            self.shaper.flight_sent(self.now);
        } else {
            self.shaper.sent(quanta(len), self.now);
        }
        let unsealed = self.sealer.as_mut().and_then(|sealer| sealer.prepare(record, next, close.is_some(), self.now));
        self.drain_rate.sent(self.now, len, next > 1);
        self.liveness.record_sent(self.now, &mut self.rng);
        if unsealed.is_none() {
            record.fill(0);
            self.provider_failed();
        } else if close.is_some() {
            self.close_was_sent();
        }
        unsealed
    }

    /// The provider failed: nothing that is not sealed must leave, and nothing can be said.
    pub(crate) fn provider_failed(&mut self) {
        self.sealer = None;
        self.end_with(ConnectionError::Transport("the provider of cryptography failed".into()));
        self.phase = Phase::Over;
    }

    /// The size of the record after this one of `after` quanta: more than one quantum only for payload that is held and may be sent, or for padding that shaping requires.
    pub(super) fn next_size(&self, after: u8) -> u8 {
        let possible = self.peer_settings.max_record.min(self.config.max_record_quanta);
        let (payload, headers) = self.mux.backlog();
        let wanted = if payload == 0 || self.decision != PeerApproval::Accepted {
            1
        } else {
            let largest = possible.min(self.drain_rate.largest_record());
            u8::try_from(quanta_for(payload + headers)).unwrap_or(u8::MAX).min(largest).max(1)
        };
        self.shaper.next_size(wanted, possible, after)
    }

    /// A long attestation goes with the first record that holds it.
    fn write_attestation(&mut self, area: &mut Writer<'_>) {
        if let Some(bytes) = self.attest.take_if(|bytes| area.room() >= bytes.len() + 3) {
            Attestation(&bytes).encode(area);
        }
    }

    /// Now and then, where padding would stand, a frame that nobody knows.
    fn write_grease(&mut self, area: &mut Writer<'_>) {
        const LONGEST: usize = 16;
        if !self.config.grease || area.room() < LONGEST || area.len() == 0 || self.rng.uniform(0, 16) != 0 {
            return;
        }
        if !self.mux.may_send_control() {
            return;
        }
        // 31·N + 27 within 0x40 to 0x3fff.
        let kind = 31 * self.rng.uniform(2, 528) + 27;
        let mut frame = [0; LONGEST];
        if let Some(len) = Frame::Skipped(kind).encode(&mut frame) {
            area.bytes(&frame[..len]);
            self.traffic.frames_sent.add(FrameKind::Skipped);
        }
    }
}
