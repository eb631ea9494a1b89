//! What the application asks for.

use alloc::sync::Arc;
use core::task::Waker;

use bytes::Bytes;

use super::halves::{RecvState, SendState};
use super::ingress::SHARE_FROM;
use super::{Mux, Pending, SEND_RESERVE, exists};
use crate::code::ErrorCode;
use crate::error::{BlockedOn, OpenError, ReadError, WriteError};
use crate::id::StreamId;
use crate::wire::{Priority, is_name};

/// Chunks that are written are kept from this size on; smaller ones are copied, so that the send buffer bounds the memory and not only the bytes.
const SHARE_WRITES_FROM: usize = 1024;

/// The window of a stream that is read for the first time, as far as there is growth for it.
const FIRST_READ_WINDOW: u64 = 1 << 20;

impl Mux {
    pub(crate) fn open(
        &mut self,
        protocol: Option<&str>,
        priority: Priority,
        early: bool,
    ) -> Result<StreamId, OpenError> {
        if let Some(error) = &self.ended {
            return Err(OpenError::Connection(error.clone()));
        }
        if protocol.is_some_and(|name| !is_name(name)) {
            return Err(OpenError::Name);
        }
        if self.is_draining() {
            return Err(OpenError::Draining);
        }
        let protocol = protocol.map(|name| self.names_out.shared(name).unwrap_or_else(|| Arc::from(name)));
        // The window that it has if it is the next to be opened.
        let slot = self.insert(None, (self.windows.of(self.opened), 0), protocol, priority);
        self.streams[slot as usize].early = early;
        self.refresh(slot);
        Ok(self.id(slot))
    }

    /// The next stream that the peer opened; before the peer is accepted, only those that came as early data.
    pub(crate) fn accept(&mut self) -> Option<StreamId> {
        if !self.has_incoming() {
            return None;
        }
        let slot = self.incoming.pop_front()?;
        Some(self.id(slot))
    }

    pub(crate) fn is_early(&self, id: StreamId) -> Option<bool> {
        let stream = &self.streams[self.slot(id)? as usize];
        Some(stream.early || stream.again)
    }

    pub(crate) fn has_incoming(&self) -> bool {
        let first = self.incoming.front().map(|&slot| &self.streams[slot as usize]);
        first.is_some_and(|stream| self.accepted || stream.early)
    }

    pub(super) fn slot(&self, id: StreamId) -> Option<u32> {
        let stream = self.streams.get(id.slot as usize)?;
        (stream.serial == id.serial && stream.held).then_some(id.slot)
    }

    pub(crate) fn exists(&self, id: StreamId) -> bool {
        self.slot(id).is_some()
    }

    pub(crate) fn protocol(&self, id: StreamId) -> Option<Arc<str>> {
        self.streams[self.slot(id)? as usize].protocol.clone()
    }

    pub(crate) fn priority(&self, id: StreamId) -> Option<Priority> {
        Some(self.streams[self.slot(id)? as usize].priority)
    }

    pub(crate) fn wire_id(&self, id: StreamId) -> Option<u64> {
        self.streams[self.slot(id)? as usize].wire()
    }

    // Writing.

    /// Bytes that `slot` takes now.
    fn send_room(&self, slot: u32) -> usize {
        let send = &self.streams[slot as usize].send;
        let queued = send.queue.len();
        let shared = self.limits.send_buffer.saturating_sub(self.queued);
        let reserve = SEND_RESERVE.saturating_sub(queued);
        send.credit_room().min(self.limits.stream_send_buffer.saturating_sub(queued)).min(shared.max(reserve))
    }

    /// Checks that `id` can be written to, and how much; registers the interest if it cannot.
    fn writable(&mut self, id: StreamId) -> Result<(u32, usize), WriteError> {
        let slot = self.slot(id).ok_or(WriteError::StreamClosed)?;
        let stream = &self.streams[slot as usize];
        match stream.send.state {
            SendState::Stopped => return Err(WriteError::Stopped(stream.send_code())),
            SendState::Open => {}
            _ => return Err(WriteError::Closed),
        }
        if let Some(error) = &self.ended {
            return Err(WriteError::Connection(error.clone()));
        }
        let room = self.send_room(slot);
        if room == 0 {
            let full = self.queued >= self.limits.send_buffer;
            let wait = if self.streams[slot as usize].send.credit_room() == 0 {
                BlockedOn::Credit
            } else if self.credit_out.left() == 0 {
                BlockedOn::ConnectionCredit
            } else {
                BlockedOn::Transport
            };
            let now = self.now;
            let stream = &mut self.streams[slot as usize];
            stream.send.interest.want_event();
            stream.rare().blocked.get_or_insert((now, wait));
            if full && !stream.in_room {
                stream.in_room = true;
                self.room.push(slot, stream.serial);
            }
            return Err(WriteError::Blocked);
        }
        Ok((slot, room))
    }

    pub(crate) fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        let (slot, room) = self.writable(id)?;
        let len = bytes.len().min(room);
        self.streams[slot as usize].send.queue.push_slice(&bytes[..len], &mut self.spares);
        self.refresh(slot);
        Ok(len)
    }

    /// Takes the front of `chunk`, as much as there is room for.
    pub(crate) fn write_chunk(&mut self, id: StreamId, chunk: &mut Bytes) -> Result<usize, WriteError> {
        let (slot, room) = self.writable(id)?;
        let len = chunk.len().min(room);
        let front = chunk.split_to(len);
        let queue = &mut self.streams[slot as usize].send.queue;
        // A small one costs more to keep than to copy, and it may keep a large buffer alive.
        if len < SHARE_WRITES_FROM {
            queue.push_slice(&front, &mut self.spares)
        } else {
            queue.push_chunk(front, &mut self.spares)
        }
        self.refresh(slot);
        Ok(len)
    }

    pub(crate) fn register_writer(&mut self, id: StreamId, waker: &Waker) -> Option<Waker> {
        let slot = self.slot(id)?;
        self.streams[slot as usize].send.interest.want_wake(waker)
    }

    pub(crate) fn finish(&mut self, id: StreamId) -> Result<(), WriteError> {
        let slot = self.slot(id).ok_or(WriteError::StreamClosed)?;
        let stream = &mut self.streams[slot as usize];
        match stream.send.state {
            SendState::Open => {
                if let Some(error) = &self.ended {
                    return Err(WriteError::Connection(error.clone()));
                }
                stream.send.state = SendState::Finishing;
                self.refresh(slot);
                self.tell_writable(slot);
                Ok(())
            }
            SendState::Finishing | SendState::Finished => Ok(()),
            // All that was written was sent; the peer asked for nothing more to follow.
            SendState::Stopped if !stream.send.lost => Ok(()),
            SendState::Stopped => Err(WriteError::Stopped(stream.send_code())),
            SendState::Reset => Err(WriteError::Closed),
        }
    }

    /// `Ok(true)` once all that was written, and FIN if it was asked for, is in records.
    pub(crate) fn is_flushed(&mut self, id: StreamId) -> Result<bool, WriteError> {
        let slot = self.slot(id).ok_or(WriteError::StreamClosed)?;
        let ended = self.ended.clone();
        let stream = &mut self.streams[slot as usize];
        let flushed = match stream.send.state {
            SendState::Finished => true,
            SendState::Stopped if !stream.send.lost => true,
            SendState::Stopped => return Err(WriteError::Stopped(stream.send_code())),
            SendState::Reset => return Err(WriteError::Closed),
            SendState::Finishing => false,
            SendState::Open => stream.wire().is_some() && stream.send.queue.len() == 0,
        };
        match ended {
            Some(error) if !flushed || stream.send.state == SendState::Open => Err(WriteError::Connection(error)),
            _ => {
                if !flushed {
                    stream.send.interest.want_event();
                }
                Ok(flushed)
            }
        }
    }

    pub(crate) fn reset(&mut self, id: StreamId, code: ErrorCode) {
        if let Some(slot) = self.slot(id)
            && self.streams[slot as usize].send.is_open()
        {
            self.reset_slot(slot, SendState::Reset, code);
            self.tell_writable(slot);
        }
    }

    /// Gives up the sending half unless the application has finished it.
    pub(crate) fn cancel(&mut self, id: StreamId) {
        if let Some(slot) = self.slot(id) {
            self.cancel_slot(slot);
            self.tell_writable(slot);
        }
    }

    fn cancel_slot(&mut self, slot: u32) {
        if self.streams[slot as usize].send.state == SendState::Open && self.ended.is_none() {
            self.reset_slot(slot, SendState::Reset, ErrorCode::CANCELLED);
        }
    }

    /// Gives up the sending half, for good: `state` is one of the two that say so. A stream that was not yet opened on the wire is given up whole, and nothing of
    /// it is ever sent.
    pub(super) fn reset_slot(&mut self, slot: u32, state: SendState, code: ErrorCode) {
        let stream = &mut self.streams[slot as usize];
        let unopened = stream.wire().is_none();
        self.unopened -= usize::from(unopened && stream.send.is_open());
        stream.send.state = state;
        stream.send.lost = unopened || stream.send.queue.len() > 0;
        stream.send.queue.clear();
        stream.rare().send_code = code;
        if unopened {
            stream.pending = Pending::default();
            stream.recv.state = RecvState::Reset;
            stream.rare().recv_code = code;
        } else {
            stream.pending.reset = true;
        }
        self.refresh(slot);
        self.want_control(slot);
        if unopened {
            self.tell(slot);
        }
        self.tell_stopped(slot);
        self.tell_room();
        self.try_free(slot);
    }

    /// How the sending half ended: by STOP with this code, or otherwise. Registers the interest if it has not.
    pub(crate) fn stopped(&mut self, id: StreamId) -> Result<Option<ErrorCode>, WriteError> {
        let slot = self.slot(id).ok_or(WriteError::StreamClosed)?;
        let stream = &mut self.streams[slot as usize];
        match (stream.send.state, &self.ended) {
            (SendState::Stopped, _) => Ok(Some(stream.send_code())),
            (SendState::Finished | SendState::Reset, _) => Ok(None),
            (_, Some(error)) => Err(WriteError::Connection(error.clone())),
            (_, None) => {
                stream.rare().stop_interest.want_event();
                Err(WriteError::Blocked)
            }
        }
    }

    pub(crate) fn register_stopped(&mut self, id: StreamId, waker: &Waker) -> Option<Waker> {
        let slot = self.slot(id)?;
        self.streams[slot as usize].rare().stop_interest.want_wake(waker)
    }

    // Reading.

    pub(crate) fn read(&mut self, id: StreamId, out: &mut [u8]) -> Result<usize, ReadError> {
        // Nothing is asked, so there is nothing to wait for.
        if out.is_empty() && self.exists(id) {
            return Ok(0);
        }
        let Some(slot) = self.readable(id)? else { return Ok(0) };
        let read = self.streams[slot as usize].recv.queue.read(out, &mut self.spares);
        self.consume(slot, read);
        Ok(read)
    }

    pub(crate) fn read_chunk(&mut self, id: StreamId, max: usize) -> Result<Option<Bytes>, ReadError> {
        let Some(slot) = self.readable(id)? else { return Ok(None) };
        let chunk = self.streams[slot as usize].recv.queue.pop(max, &mut self.spares);
        self.consume(slot, chunk.as_ref().map_or(0, Bytes::len));
        Ok(Some(chunk.unwrap_or_default()))
    }

    /// The slot of `id`, if there is something to read; `None` at the end of the stream.
    fn readable(&mut self, id: StreamId) -> Result<Option<u32>, ReadError> {
        let slot = self.slot(id).ok_or(ReadError::StreamClosed)?;
        let stream = &mut self.streams[slot as usize];
        let recv = &mut stream.recv;
        if recv.queue.len() > 0 {
            return Ok(Some(slot));
        }
        match recv.state {
            // What this side's application has stopped stays stopped for it, however the peer ends it.
            _ if recv.stopped => Err(ReadError::Stopped),
            RecvState::Finished => Ok(None),
            RecvState::Reset => Err(ReadError::Reset(stream.recv_code())),
            RecvState::Open => match &self.ended {
                Some(error) => Err(ReadError::Connection(error.clone())),
                None => {
                    recv.interest.want_event();
                    Err(ReadError::Blocked)
                }
            },
        }
    }

    /// The application reads: once it has read a quarter of the first window, the window grows at once, so that what follows does not wait for all of it to be read.
    fn grow_first(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        let credit = &stream.recv.credit;
        if stream.recv.was_read || credit.consumed() * 4 < credit.window() {
            return;
        }
        stream.recv.was_read = true;
        let growth = self.division.grow_first(FIRST_READ_WINDOW.saturating_sub(credit.window()));
        if growth > 0 {
            stream.recv.first_growth = growth as u32;
            stream.recv.credit.grow(growth);
            stream.pending.max_data = true;
            self.want_control(slot);
        }
    }

    /// Bytes that can be read now.
    pub(crate) fn readable_len(&self, id: StreamId) -> usize {
        self.slot(id).map_or(0, |slot| self.streams[slot as usize].recv.queue.len())
    }

    pub(crate) fn register_reader(&mut self, id: StreamId, waker: &Waker) -> Option<Waker> {
        let slot = self.slot(id)?;
        self.streams[slot as usize].recv.interest.want_wake(waker)
    }

    /// The application took `bytes`: credit for more, and a wider window where this one holds the peer up.
    fn consume(&mut self, slot: u32, bytes: usize) {
        let queue = &mut self.streams[slot as usize].recv.queue;
        queue.trim(queue.len() + bytes, SHARE_FROM, crate::MAX_INPUT_BUFFER);
        self.credit_in.consume(bytes);
        let stream = &mut self.streams[slot as usize];
        stream.recv.credit.consume(bytes);
        if !stream.recv.is_open() || stream.wire().is_none() {
            return;
        }
        self.grow_first(slot);
        let stream = &mut self.streams[slot as usize];
        let window = stream.recv.credit.window();
        let raise = stream.recv.credit.raise();
        if raise >= stream.recv.credit.worth_a_record() {
            if !stream.pending.max_data && stream.recv.pace.is_held_up(self.now, &stream.recv.credit, self.round_trip) {
                let growth = self.division.grow(window);
                stream.recv.credit.grow(growth);
            }
            stream.pending.max_data = true;
            self.want_control(slot);
        } else if raise >= window / 16 && !stream.in_riders {
            stream.in_riders = true;
            self.riders.push(slot, stream.serial);
        }
    }

    pub(crate) fn stop(&mut self, id: StreamId, code: ErrorCode) {
        if let Some(slot) = self.slot(id) {
            self.stop_slot(slot, code);
        }
    }

    fn stop_slot(&mut self, slot: u32, code: ErrorCode) {
        let stream = &mut self.streams[slot as usize];
        if stream.recv.stopped {
            return;
        }
        let unread = stream.recv.queue.clear();
        stream.recv.credit.consume(unread);
        self.credit_back(unread);
        let stream = &mut self.streams[slot as usize];
        // After FIN there is nothing to stop, but what was dropped must not look like the end of the stream.
        stream.recv.stopped = stream.recv.is_open() || unread > 0;
        if stream.recv.is_open() {
            stream.pending.stop = true;
            stream.rare().recv_code = code;
            self.want_control(slot);
        }
        self.tell_readable(slot);
    }

    // The whole stream.

    /// The application lets go of a stream. What it has not finished is reset; what it has not read is not wanted any more.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Some(slot) = self.slot(id) else { return };
        self.stop_slot(slot, ErrorCode::CANCELLED);
        self.cancel_slot(slot);
        self.drop_hold(slot);
        let stream = &mut self.streams[slot as usize];
        stream.send.interest = crate::wakers::Interest::Nobody;
        stream.recv.interest = crate::wakers::Interest::Nobody;
        if let Some(rare) = &mut stream.rare {
            rare.stop_interest = crate::wakers::Interest::Nobody;
        }
        self.try_free(slot);
    }

    /// Takes the wakers that wait for a stream.
    pub(crate) fn take_wakers(&mut self, id: StreamId) -> [Option<Waker>; 3] {
        let Some(slot) = self.slot(id) else { return [const { None }; 3] };
        let stream = &mut self.streams[slot as usize];
        let stopped = stream.rare.as_mut().and_then(|rare| rare.stop_interest.take_waker());
        [stream.send.interest.take_waker(), stream.recv.interest.take_waker(), stopped]
    }

    /// Refuses a stream of the peer, for `code`.
    pub(crate) fn refuse(&mut self, id: StreamId, code: ErrorCode) {
        let Some(slot) = self.slot(id) else { return };
        self.refuse_slot(slot, code);
        self.release(id);
    }

    pub(super) fn refuse_slot(&mut self, slot: u32, code: ErrorCode) {
        self.stop_slot(slot, code);
        if self.streams[slot as usize].send.is_open() {
            self.reset_slot(slot, SendState::Reset, code);
        }
    }

    pub(crate) fn set_priority(&mut self, id: StreamId, priority: Priority) {
        if let Some(slot) = self.slot(id) {
            let stream = &mut self.streams[slot as usize];
            stream.priority = priority;
            stream.send.priority_is_ours = true;
            self.schedule.set_priority(slot, stream.serial, priority);
        }
    }

    /// Asks the peer to send with another priority. Before OPEN is written, that is OPEN's.
    pub(crate) fn request_priority(&mut self, id: StreamId, priority: Priority) {
        if let Some(slot) = self.slot(id) {
            let stream = &mut self.streams[slot as usize];
            // A stream that was given up before OPEN never sends its control frames, and must not keep any.
            if !stream.recv.is_open() {
                return;
            }
            stream.pending.priority = Some(priority);
            self.want_control(slot);
        }
    }

    pub(crate) fn blocked_on(&mut self, id: StreamId, may_send: bool) -> Option<BlockedOn> {
        let slot = self.slot(id)?;
        let (may_open, credit) = (self.may_open_one(), self.credit_out.left());
        let next = self.schedule.next(may_open, credit > 0);
        let stream = &self.streams[slot as usize];
        let unsent =
            stream.send.queue.len() > 0 || stream.send.state == SendState::Finishing || stream.wire().is_none();
        Some(match stream.send.state {
            SendState::Finished | SendState::Reset | SendState::Stopped => BlockedOn::Ended,
            _ if self.ended.is_some() => BlockedOn::Ended,
            _ if unsent && !may_send => BlockedOn::Handshake,
            _ if stream.wire().is_none() && !may_open => BlockedOn::StreamLimit,
            _ if stream.send.queue.len() > 0 && stream.wire().is_some() && stream.send.credit.left() == 0 => {
                BlockedOn::Credit
            }
            _ if stream.send.queue.len() > 0 && credit == 0 => BlockedOn::ConnectionCredit,
            _ if unsent && next.is_some_and(|pick| pick.slot != slot) => BlockedOn::Priority,
            _ if unsent => BlockedOn::Transport,
            _ if stream.send.credit.left() == 0 => BlockedOn::Credit,
            _ => BlockedOn::Application,
        })
    }

    // Telling writers.

    /// Tells the writer of `slot` once it is worth its while: half of the buffer is free, or all of it that credit allows.
    pub(super) fn tell_if_room(&mut self, slot: u32) {
        let room = self.send_room(slot);
        let stream = &self.streams[slot as usize];
        if room >= self.limits.stream_send_buffer / 2 || room > 0 && stream.send.queue.len() == 0 {
            self.tell_writable(slot);
        }
    }

    pub(super) fn tell_if_flushed(&mut self, slot: u32) {
        let stream = &self.streams[slot as usize];
        if stream.send.queue.len() == 0 && stream.wire().is_some() {
            self.tell_writable(slot);
        }
    }

    /// Tells those that wait for room in the connection's send buffer, once a quarter of it is free.
    pub(super) fn tell_room(&mut self) {
        if self.room.is_empty() || self.queued > self.limits.send_buffer / 4 * 3 {
            return;
        }
        while let Some(slot) = self.room.pop(|slot, serial| exists(&self.streams, slot, serial)) {
            self.streams[slot as usize].in_room = false;
            self.tell_writable(slot);
        }
    }
}
