//! Frames that arrive.

use bytes::Bytes;

use super::Mux;
use super::halves::{RecvState, SendState};
use crate::code::{ErrorCode, ProtocolErrorCode};
use crate::error::Violation;
use crate::wire::{Drain, MaxData, MaxStreamData, MaxStreams, Open, PriorityUpdate, Reset, Stop, StreamData};

/// Where a frame's bytes are.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// In a shared buffer, of which large payloads may keep a part.
    Shared(&'a Bytes),
    /// In a buffer of the caller's: payloads are copied.
    Borrowed,
}

/// Payloads from this size on are kept as parts of the buffer that they arrived in; smaller ones are copied out of it. With buffers of
/// at most twice this size ([`MAX_INPUT_BUFFER`](crate::MAX_INPUT_BUFFER)) what is unread pins at most twice its size.
pub(crate) const SHARE_FROM: usize = 16 * 1024;

/// What a frame's stream id refers to.
enum Found {
    Slot(u32),
    /// A stream that has ended and is forgotten.
    Forgotten,
}

/// Where an OPEN stood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// In a record.
    Now,
    /// In flight 3, after early data that was refused or could not be read.
    Again,
    /// In accepted early data.
    Early,
}

impl Mux {
    fn find(&self, wire: u64) -> Result<Found, Violation> {
        if let Some(&slot) = self.by_wire.get(&wire) {
            return Ok(Found::Slot(slot));
        }
        let used = if wire & 1 == self.role.parity() { self.opened } else { self.peer_streams.opened };
        if wire >> 1 < used {
            Ok(Found::Forgotten)
        } else {
            Err(Self::violation(ProtocolErrorCode::STREAM_ID, "a frame for a stream that was never opened", wire))
        }
    }

    pub(crate) fn on_open(&mut self, open: Open<'_>, opened: Opened) -> Result<(), Violation> {
        let wire = open.stream;
        if wire & 1 != self.role.peer().parity() {
            return Err(Self::violation(ProtocolErrorCode::STREAM_ID, "OPEN with an id of the wrong side", wire));
        }
        if wire >> 1 != self.peer_streams.opened {
            return Err(Self::violation(ProtocolErrorCode::STREAM_ID, "OPEN with an id that is not the next", wire));
        }
        if self.peer_streams.opened >= self.peer_streams.granted {
            return Err(Self::violation(ProtocolErrorCode::STREAM_LIMIT, "OPEN beyond MAX_STREAMS", wire));
        }
        if self.drains.received.is_some() {
            return Err(Self::violation(ProtocolErrorCode::FRAME_NOT_ALLOWED, "OPEN after DRAIN", wire));
        }
        let protocol = self
            .names_in
            .resolve(open.name)
            .map_err(|what| Self::violation(ProtocolErrorCode::FRAME_ENCODING, what, wire))?;
        let window = self.peer_streams.windows.of(self.peer_streams.opened);
        self.peer_streams.opened += 1;
        self.peer_streams.windows.opened(self.peer_streams.opened);
        let slot = self.insert(Some(wire), (open.window, window), protocol, open.priority);
        self.streams[slot as usize].early = opened == Opened::Early;
        self.streams[slot as usize].again = opened == Opened::Again;
        if self.drains_here() {
            self.refuse_slot(slot, ErrorCode::REFUSED);
            self.drop_hold(slot);
        } else {
            self.incoming.push_back(slot);
            self.tell_opened();
        }
        Ok(())
    }

    pub(crate) fn on_stream(&mut self, frame: StreamData<'_>, source: Source<'_>) -> Result<(), Violation> {
        let found = self.find(frame.stream)?;
        let len = frame.payload.len();
        if !self.credit_in.receive(len) {
            return Err(Self::violation(
                ProtocolErrorCode::FLOW_CONTROL,
                "data beyond the connection's credit",
                frame.stream,
            ));
        }
        self.budget.payload(len);
        let slot = match found {
            Found::Slot(slot) if !self.streams[slot as usize].has_ended() => slot,
            _ => {
                self.credit_back(len);
                // Payload that crosses the end of a stream costs what payload costs.
                return if len == 0 { self.ignored() } else { Ok(()) };
            }
        };
        let stream = &mut self.streams[slot as usize];
        if !stream.recv.is_open() {
            self.credit_back(len);
            return Err(Self::violation(ProtocolErrorCode::STREAM_STATE, "data after FIN or RESET", frame.stream));
        }
        if !stream.recv.credit.receive(len) {
            self.credit_back(len);
            return Err(Self::violation(
                ProtocolErrorCode::FLOW_CONTROL,
                "data beyond the stream's credit",
                frame.stream,
            ));
        }
        if stream.recv.stopped {
            stream.recv.credit.consume(len);
            self.credit_back(len);
        } else {
            match source {
                Source::Shared(buffer) if len >= SHARE_FROM => {
                    stream.recv.queue.push_chunk(buffer.slice_ref(frame.payload), &mut self.spares)
                }
                _ => stream.recv.queue.push_slice(frame.payload, &mut self.spares),
            }
        }
        if frame.fin {
            let stream = &mut self.streams[slot as usize];
            stream.recv.state = RecvState::Finished;
            stream.pending.receiving_ended();
            self.note_progress();
        } else if len == 0 {
            self.budget.control(self.now, 1)?;
        }
        self.tell_readable(slot);
        if frame.fin {
            self.try_free(slot);
        }
        Ok(())
    }

    pub(crate) fn on_reset(&mut self, frame: Reset) -> Result<(), Violation> {
        let slot = match self.find(frame.stream)? {
            Found::Slot(slot) if !self.streams[slot as usize].has_ended() => slot,
            _ => return self.ignored(),
        };
        let stream = &mut self.streams[slot as usize];
        if !stream.recv.is_open() {
            return Err(Self::violation(ProtocolErrorCode::STREAM_STATE, "RESET after FIN or RESET", frame.stream));
        }
        stream.recv.state = RecvState::Reset;
        stream.pending.receiving_ended();
        stream.rare().recv_code = frame.code;
        self.drains.progress = self.now;
        let unread = stream.recv.queue.clear();
        stream.recv.credit.consume(unread);
        self.credit_back(unread);
        self.tell_readable(slot);
        self.mark_cancelled(slot);
        self.try_free(slot);
        Ok(())
    }

    pub(crate) fn on_stop(&mut self, frame: Stop) -> Result<(), Violation> {
        let slot = match self.find(frame.stream)? {
            Found::Slot(slot) if self.streams[slot as usize].send.is_open() => slot,
            _ => return self.ignored(),
        };
        self.mark_cancelled(slot);
        self.reset_slot(slot, SendState::Stopped, frame.code);
        self.tell_writable(slot);
        Ok(())
    }

    /// The peer cancels `slot`. If the peer opened it, and this side's application has neither finished nor given up its half, work may have been for nothing.
    fn mark_cancelled(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        stream.cancelled |= !stream.opened_here && stream.send.state == SendState::Open;
    }

    /// A frame without payload is ignored.
    fn ignored(&mut self) -> Result<(), Violation> {
        self.budget.ignored(self.now, self.opened + self.peer_streams.opened)
    }

    pub(crate) fn on_priority(&mut self, frame: PriorityUpdate) -> Result<(), Violation> {
        self.budget.control(self.now, 1)?;
        if let Found::Slot(slot) = self.find(frame.stream)? {
            let stream = &mut self.streams[slot as usize];
            if stream.send.is_open() && !stream.send.priority_is_ours {
                stream.priority = frame.priority;
                self.schedule.set_priority(slot, stream.serial, frame.priority);
            }
        }
        Ok(())
    }

    pub(crate) fn on_max_data(&mut self, frame: MaxData) -> Result<(), Violation> {
        self.budget.control(self.now, 1)?;
        self.credit_out.raise(frame.0);
        Ok(())
    }

    pub(crate) fn on_max_stream_data(&mut self, frame: MaxStreamData) -> Result<(), Violation> {
        self.budget.control(self.now, 1)?;
        if let Found::Slot(slot) = self.find(frame.stream)? {
            let send = &mut self.streams[slot as usize].send;
            if send.is_open() && send.credit.raise(frame.maximum) {
                self.refresh(slot);
                self.tell_if_room(slot);
            }
        }
        Ok(())
    }

    pub(crate) fn on_max_streams(&mut self, frame: MaxStreams) -> Result<(), Violation> {
        self.budget.control(self.now, 1)?;
        if frame.maximum > self.may_open {
            self.may_open = frame.maximum;
            self.windows.push(frame.maximum, frame.window);
        }
        Ok(())
    }

    pub(crate) fn on_drain(&mut self, frame: Drain) -> Result<(), Violation> {
        self.budget.control(self.now, 1)?;
        if self.drains.received.replace(frame.0).is_some() {
            return Err(Violation::new(ProtocolErrorCode::FRAME_NOT_ALLOWED, "a second DRAIN"));
        }
        self.cancel_unopened();
        Ok(())
    }
}
