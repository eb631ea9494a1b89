//! Frames that leave, decided when the record is made ([spec](crate::spec) section 12.2).

use super::credit::{Pace, RecvCredit, SendCredit};
use super::halves::SendState;
use super::schedule::{Need, Pick};
use super::{Mux, exists};
use crate::codec::Writer;
use crate::wire::{MaxData, MaxStreamData, MaxStreams, Open, PriorityUpdate, Reset, Stop, StreamData};

impl Mux {
    /// Forgets what was to be said and has lost its use since. To be called before it is decided what to do about sending.
    pub(crate) fn tidy(&mut self) {
        while let Some(&slot) = self.control.front()
            && !self.says(slot)
        {
            self.leave_control(slot);
        }
    }

    /// Whether there is anything that should cause a record.
    pub(crate) fn wants_record(&mut self) -> bool {
        let connection = self.drain_is_due() || self.max_data_is_due() || self.max_streams_is_due();
        !self.control.is_empty() || (connection && self.accepted) || self.next_pick().is_some()
    }

    fn next_pick(&mut self) -> Option<Pick> {
        self.schedule.next(self.may_open_one(), self.credit_out.left() > 0)
    }

    /// Whether the next stream of this side can be opened. This side receives on no more streams than the peer may open, so that it has a window for each.
    pub(super) const fn may_open_one(&self) -> bool {
        self.opened < self.may_open && self.open_here < self.limits.max_streams
    }

    /// Payload bytes that are held and may be sent, and the bytes of the frames around them.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let payload = self.ready.min(usize::try_from(self.credit_out.left()).unwrap_or(usize::MAX));
        const HEADER: usize = 8;
        (payload, payload.min(self.schedule.with_data()) * HEADER)
    }

    /// Fills `out` with what goes first. Returns whether any frame was written.
    pub(crate) fn fill(&mut self, out: &mut Writer<'_>) -> bool {
        let before = out.len();
        let keep = if self.next_pick().is_some() { out.room() / 2 } else { 0 };
        self.fill_control(out, keep);
        self.fill_streams(out);
        if self.accepted {
            // The last OPEN may just have been written.
            self.write_drain(out, 0);
            self.fill_riders(out);
        }
        out.len() > before
    }

    /// Fills `out` with early data: nothing but OPEN and STREAM.
    pub(crate) fn fill_early(&mut self, out: &mut Writer<'_>) {
        self.fill_streams(out);
    }

    /// Streams that the peer may open once this side drains would be refused.
    fn max_streams_is_due(&self) -> bool {
        self.peer_streams.is_due() && !self.drains.sent
    }

    /// Connection credit is due when enough of the window is used. It is twice the receive window, so it is never what holds the peer back.
    fn max_data_is_due(&self) -> bool {
        self.credit_in.raise() >= self.credit_in.worth_a_record()
    }

    fn fill_control(&mut self, out: &mut Writer<'_>, keep: usize) {
        if self.accepted {
            self.fill_connection_control(out, keep);
        }
        while let Some(&slot) = self.control.front() {
            if !self.write_stream_control(slot, out, keep) {
                break;
            }
            self.leave_control(slot);
        }
    }

    /// The first stream of those with control frames has none any more.
    fn leave_control(&mut self, slot: u32) {
        self.control.pop_front();
        self.streams[slot as usize].in_control = false;
        self.try_free(slot);
    }

    fn fill_connection_control(&mut self, out: &mut Writer<'_>, keep: usize) {
        let fits = |out: &Writer<'_>, len: usize| out.room() >= keep + len;
        if self.max_data_is_due() && fits(out, MaxData::MAX_LEN) {
            MaxData(self.credit_in.grant()).encode(out);
            self.budget.sent(self.now);
        }
        if self.max_streams_is_due() && fits(out, MaxStreams::MAX_LEN) {
            self.write_max_streams(out);
        }
        self.write_drain(out, keep);
    }

    fn write_max_streams(&mut self, out: &mut Writer<'_>) {
        let raise = self.peer_streams.raise();
        let window = self.division.many(raise, self.limits.ours.initial_max_stream_data);
        let maximum = self.peer_streams.granted + raise;
        self.peer_streams.granted = maximum;
        self.peer_streams.windows.push(maximum, window);
        MaxStreams { maximum, window }.encode(out);
        self.budget.sent(self.now);
    }

    /// Writes the control frames of one stream; false if not all of them fitted.
    fn write_stream_control(&mut self, slot: u32, out: &mut Writer<'_>, keep: usize) -> bool {
        let longest = Reset::MAX_LEN.max(Stop::MAX_LEN).max(MaxStreamData::MAX_LEN).max(PriorityUpdate::MAX_LEN);
        while self.says(slot) {
            let stream = &mut self.streams[slot as usize];
            let Some(wire) = stream.wire() else { return true };
            if out.room() < keep + longest {
                return false;
            }
            if core::mem::take(&mut stream.pending.reset) {
                Reset { stream: wire, code: stream.send_code() }.encode(out);
                self.drains.progress = self.now;
            } else if core::mem::take(&mut stream.pending.stop) {
                if stream.recv.is_open() {
                    Stop { stream: wire, code: stream.recv_code() }.encode(out);
                }
            } else if core::mem::take(&mut stream.pending.max_data) {
                if stream.recv.is_open() && stream.recv.credit.raise() > 0 {
                    MaxStreamData { stream: wire, maximum: stream.recv.credit.grant() }.encode(out);
                    self.budget.sent(self.now);
                }
            } else if !self.budget.allows(self.now) {
                self.restrain(slot);
            } else if let Some(priority) = stream.pending.priority.take()
                && stream.recv.is_open()
            {
                PriorityUpdate { stream: wire, priority }.encode(out);
                self.budget.sent(self.now);
            }
        }
        true
    }

    fn fill_streams(&mut self, out: &mut Writer<'_>) {
        // The stream that wrote last, and wrote all that it had.
        let mut last = None;
        while let Some(pick) = self.next_pick() {
            let wrote = match pick.need {
                Need::Open => self.write_open(pick.slot, out),
                Need::Fin => self.write_fin(pick.slot, out),
                Need::Data => self.write_data(pick, out),
                Need::Nothing => false,
            };
            if !wrote {
                if let Some(last) = last {
                    self.schedule.end_turn_of_line(last);
                }
                break;
            }
            last = (pick.need == Need::Data && !self.schedule.is_incremental(pick)).then_some(pick);
        }
        self.tell_room();
    }

    fn write_open(&mut self, slot: u32, out: &mut Writer<'_>) -> bool {
        if out.room() < Open::MAX_LEN {
            return false;
        }
        let wire = self.opened << 1 | self.role.parity();
        let most = self.limits.ours.initial_max_stream_data;
        let (sends, receives) = (self.windows.of(self.opened), self.division.one(most));
        self.opened += 1;
        self.open_here += 1;
        self.unopened -= 1;
        self.note_progress();
        self.windows.opened(self.opened);
        self.by_wire.insert(wire, slot);
        let stream = &mut self.streams[slot as usize];
        stream.set_wire(wire);
        stream.send.credit = SendCredit::new(sends);
        stream.recv.credit = RecvCredit::new(receives);
        stream.recv.pace = Pace::new(self.now);
        let name = self.names_out.refer(stream.protocol.as_deref());
        // What the application asked of the peer before holds for what the peer sends; this side sends by its own.
        let priority = stream.pending.priority.take().unwrap_or(stream.priority);
        Open { stream: wire, priority, window: receives, name }.encode(out);
        self.names_out.sent(stream.protocol.as_ref());
        self.refresh(slot);
        self.want_control(slot);
        self.tell_if_flushed(slot);
        true
    }

    fn write_fin(&mut self, slot: u32, out: &mut Writer<'_>) -> bool {
        let stream = &mut self.streams[slot as usize];
        let Some(wire) = stream.wire() else { return false };
        if out.room() < StreamData::long_header_len(wire, 0) {
            return false;
        }
        StreamData::encode_header(wire, true, Some(0), out);
        self.fin_was_sent(slot);
        true
    }

    fn fin_was_sent(&mut self, slot: u32) {
        self.note_progress();
        self.streams[slot as usize].send.state = SendState::Finished;
        self.refresh(slot);
        self.tell_writable(slot);
        self.tell_stopped(slot);
        self.try_free(slot);
    }

    /// Gathers payload of one stream: all that it may send, or as much as there is room for.
    fn write_data(&mut self, pick: Pick, out: &mut Writer<'_>) -> bool {
        let slot = pick.slot;
        let stream = &mut self.streams[slot as usize];
        let Some(wire) = stream.wire() else { return false };
        let queued = stream.send.queue.len();
        let may_send = stream.send.may_send().min(usize::try_from(self.credit_out.left()).unwrap_or(usize::MAX));
        let room = out.room();
        let short = StreamData::short_header_len(wire);
        // Without a length the payload must reach to the end; that is the case for whatever does not leave room for a length as well.
        let (take, len) = if room <= short {
            return false;
        } else if may_send >= room - short {
            (room - short, None)
        } else {
            let take = may_send.min(room.saturating_sub(StreamData::long_header_len(wire, may_send)));
            (take, Some(take))
        };
        if take == 0 {
            return false;
        }
        let fin = take == queued && stream.send.state == SendState::Finishing;
        StreamData::encode_header(wire, fin, len, out);
        stream.send.queue.read(out.claim(take), &mut self.spares);
        stream.send.credit.spend(take);
        self.credit_out.spend(take);
        self.budget.payload(take);
        self.note_progress();
        if fin {
            self.fin_was_sent(slot);
        } else {
            self.refresh(slot);
            self.tell_if_room(slot);
            self.tell_if_flushed(slot);
            if self.streams[slot as usize].send.may_send() > 0 {
                self.schedule.end_turn(pick);
                // Either the record is full, or the connection's credit is used up: both end the loop.
            }
        }
        true
    }

    /// Counts a control frame that another machine sends; false, and nothing is counted, if there were so many that this one has to wait.
    pub(crate) fn may_send_control(&mut self) -> bool {
        let allows = self.budget.allows(self.now);
        if allows {
            self.budget.sent(self.now);
        }
        allows
    }

    /// Credit that is not due rides where padding would stand.
    fn fill_riders(&mut self, out: &mut Writer<'_>) {
        if !self.budget.allows(self.now) {
            return;
        }
        if self.credit_in.raise() >= self.credit_in.window() / 16 && out.room() >= MaxData::MAX_LEN {
            MaxData(self.credit_in.grant()).encode(out);
            self.budget.sent(self.now);
        }
        let raises = !self.drains.sent && self.peer_streams.raise() >= (self.peer_streams.ahead / 8).max(1);
        if raises && out.room() >= MaxStreams::MAX_LEN {
            self.write_max_streams(out);
        }
        while out.room() >= MaxStreamData::MAX_LEN {
            let Some(slot) = self.riders.pop(|slot, serial| exists(&self.streams, slot, serial)) else { return };
            let stream = &mut self.streams[slot as usize];
            stream.in_riders = false;
            if stream.recv.is_open()
                && stream.recv.credit.raise() > 0
                && let Some(wire) = stream.wire()
            {
                MaxStreamData { stream: wire, maximum: stream.recv.credit.grant() }.encode(out);
                self.budget.sent(self.now);
            }
        }
    }
}
