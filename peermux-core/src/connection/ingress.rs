//! Bytes to records, records to frames, frames to the mux.

use bytes::{Bytes, BytesMut};

use super::{Connection, Event, Phase};
use crate::code::ProtocolErrorCode;
use crate::error::Violation;
use crate::id::Role;
use crate::mux::{Budget, Opened, Source};
#[cfg(feature = "driver")]
use crate::record::Unopened;
use crate::record::{Header, OpenError, TAG};
use crate::time::Instant;
#[cfg(feature = "driver")]
use crate::wire::QUANTUM;
use crate::wire::{Frame, FrameError, Frames, HANDSHAKE_FRAMES};

/// SETTINGS and ATTESTATION stand in the first records, if anywhere.
pub(super) const FIRST_RECORDS: u64 = 16;

/// A frame area cannot be read on.
fn violation(error: FrameError) -> Violation {
    let what = match error {
        FrameError::Encoding(error) | FrameError::Settings(error) => error.field,
        FrameError::Unknown(_) => "a frame of an unknown type",
        FrameError::Padding => "padding that is not zero",
    };
    Violation::new(error.code(), what)
}

impl Connection {
    /// Takes whole flights and records from the front of `input`, and leaves the rest, which is less than [`Connection::next_input_len`].
    ///
    /// Records are decrypted in place, and large payloads stay parts of `input`'s buffer. For the memory bound to hold, a
    /// buffer is at most [`MAX_INPUT_BUFFER`](crate::MAX_INPUT_BUFFER) bytes large.
    pub fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        self.handle_units(now, input, usize::MAX);
    }

    /// As [`Connection::handle_input`], up to the first unit of `long` bytes or more, which is left.
    fn handle_units(&mut self, now: Instant, input: &mut BytesMut, long: usize) {
        self.advance(now);
        loop {
            if self.discards() {
                input.clear();
                return;
            }
            let len = self.next_input_len();
            if input.len() < len || len >= long && matches!(self.phase, Phase::Records) {
                return;
            }
            let mut unit = input.split_to(len);
            self.traffic.bytes_received += len as u64;
            if !matches!(self.phase, Phase::Records) {
                self.on_flight(&mut unit);
            } else if let Some(header) = self.open_record(&mut unit) {
                let record = unit.freeze();
                if let Some(area) = self.frame_area(&record) {
                    self.on_frames(header, area, Source::Shared(&record));
                }
            }
        }
    }

    /// A record that was kept, since the application was asked.
    pub(super) fn on_record(&mut self, record: &mut [u8]) {
        if let Some(header) = self.open_record(record)
            && let Some(area) = self.frame_area(record)
        {
            self.on_frames(header, area, Source::Borrowed);
        }
    }

    /// The same for a buffer of the caller's: decrypts in place, copies payloads out, and returns how many bytes were taken.
    pub fn handle_slice(&mut self, now: Instant, input: &mut [u8]) -> usize {
        self.advance(now);
        let mut taken = 0;
        loop {
            if self.discards() {
                return input.len();
            }
            let len = self.next_input_len();
            let Some(unit) = input.get_mut(taken..taken + len) else { return taken };
            taken += len;
            self.traffic.bytes_received += len as u64;
            if !matches!(self.phase, Phase::Records) {
                self.on_flight(unit);
            } else if let Some(header) = self.open_record(unit)
                && let Some(area) = self.frame_area(unit)
            {
                self.on_frames(header, area, Source::Borrowed);
            }
        }
    }

    /// Whether input is not looked at.
    fn discards(&self) -> bool {
        match self.phase {
            Phase::Silent(_) | Phase::Over => true,
            Phase::Records => self.closing.received,
            _ => false,
        }
    }

    /// Opening a shorter record takes less than to come back for it.
    #[cfg(feature = "driver")]
    pub(crate) const LONG_RECORD: usize = 4 * QUANTUM;

    /// Takes what need not be opened apart: see [`Connection::begin_record`].
    #[cfg(feature = "driver")]
    pub(crate) fn handle_short(&mut self, now: Instant, input: &mut BytesMut) {
        self.handle_units(now, input, Self::LONG_RECORD);
    }

    /// A record from the front of `input` that takes long to open: that can be done while the connection goes on, and [`Connection::end_record`] must follow.
    #[cfg(feature = "driver")]
    pub(crate) fn begin_record(&mut self, now: Instant, input: &mut BytesMut) -> Option<(BytesMut, Unopened)> {
        self.advance(now);
        let len = self.next_input_len();
        if !matches!(self.phase, Phase::Records) || self.discards() || len < Self::LONG_RECORD || input.len() < len {
            return None;
        }
        let unopened = self.opener.as_mut()?.begin()?;
        self.traffic.bytes_received += len as u64;
        Some((input.split_to(len), unopened))
    }

    /// A record of [`Connection::begin_record`] was opened, and is `authentic` or not.
    #[cfg(feature = "driver")]
    pub(crate) fn end_record(&mut self, now: Instant, record: BytesMut, authentic: bool) {
        self.advance(now);
        let record = record.freeze();
        let opened = self.opener.as_mut().map(|opener| opener.finish(&record, authentic));
        // The connection may have ended meanwhile.
        if let Some(opened) = opened.filter(|_| !self.discards())
            && let Some(header) = self.opened(opened)
            && let Some(area) = self.frame_area(&record)
        {
            self.on_frames(header, area, Source::Shared(&record));
        }
    }

    fn open_record(&mut self, record: &mut [u8]) -> Option<Header> {
        let opened = self.opener.as_mut()?.open(record);
        self.opened(opened)
    }

    fn opened(&mut self, opened: Result<Header, OpenError>) -> Option<Header> {
        match opened {
            Ok(header) => {
                self.liveness.record_received(self.now);
                if self.is_unconfirmed() {
                    self.confirmed();
                }
                matches!(self.phase, Phase::Records).then_some(header)
            }
            Err(OpenError::NotAuthentic) => {
                self.tampered();
                None
            }
            Err(OpenError::Violation(violation)) => {
                if self.is_unconfirmed() {
                    self.confirmed();
                }
                if matches!(self.phase, Phase::Records) {
                    self.violated(violation);
                    // Where the next record ends is not known: what follows would not authenticate, and so CLOSE would not be said.
                    self.opener = None;
                }
                None
            }
        }
    }

    /// The frames of an opened record. In flight 3 of IK they end early, and zeros follow.
    fn frame_area<'a>(&mut self, record: &'a [u8]) -> Option<&'a [u8]> {
        let area = &record[1..record.len() - TAG];
        if self.role == Role::Initiator || !core::mem::take(&mut self.first_is_short) {
            return Some(area);
        }
        let (area, zeros) = area.split_at(HANDSHAKE_FRAMES);
        if zeros.iter().any(|&byte| byte != 0) {
            self.violated(Violation::new(ProtocolErrorCode::RECORD_INVALID, "bytes after the frame area of flight 3"));
            return None;
        }
        Some(area)
    }

    /// The frames of a record, or of flight 3 of fallback.
    pub(super) fn on_frames(&mut self, header: Header, area: &[u8], source: Source<'_>) {
        if let Err(violation) = self.read_frames(header, area, source) {
            self.violated(violation);
        }
        #[cfg(debug_assertions)]
        self.mux.assert_invariants();
    }

    fn read_frames(&mut self, header: Header, area: &[u8], source: Source<'_>) -> Result<(), Violation> {
        if header.key_update {
            self.mux.budget.control(self.now, Budget::KEY_UPDATE)?;
        }
        let mut frames = Frames::new(area).peekable();
        if frames.peek().is_none() && !self.shaper.pads() {
            self.mux.budget.control(self.now, Budget::EMPTY_RECORD)?;
        }
        // Flight 3 is what a responder reads first.
        let opened = if core::mem::take(&mut self.early.comes_again) { Opened::Again } else { Opened::Now };
        let mut close = None;
        for frame in frames {
            if close.is_some() {
                return Err(Violation::new(ProtocolErrorCode::FRAME_NOT_ALLOWED, "a frame after CLOSE"));
            }
            let frame = frame.map_err(violation)?;
            self.traffic.frames_received.add(frame.kind());
            if let Frame::Close(frame) = frame {
                close = Some(frame);
            }
            // After its own CLOSE a side reads on only for the peer's.
            if self.closing.error.is_none() {
                self.on_frame(frame, opened, source)?;
            }
        }
        match (close, header.end) {
            (Some(close), true) => self.on_close(close),
            (None, false) => {}
            _ => {
                return Err(Violation::new(
                    ProtocolErrorCode::RECORD_INVALID,
                    "CLOSE and the end bit do not come together",
                ));
            }
        }
        Ok(())
    }

    /// Accepted early data.
    pub(super) fn read_early_frames(&mut self, area: &[u8]) -> Result<(), Violation> {
        for frame in Frames::new(area) {
            let frame = frame.map_err(violation)?;
            self.traffic.frames_received.add(frame.kind());
            let (Frame::Open(_) | Frame::Stream(_) | Frame::Skipped(_)) = frame else {
                return Err(Violation::new(
                    ProtocolErrorCode::FRAME_NOT_ALLOWED,
                    "a frame that early data must not have",
                ));
            };
            self.on_frame(frame, Opened::Early, Source::Borrowed)?;
        }
        Ok(())
    }

    /// The frame area of P2, where early data was accepted.
    pub(super) fn on_answers(&mut self, area: &[u8]) {
        if self.closing.error.is_none()
            && let Err(violation) = self.read_answers(area)
        {
            self.violated(violation);
        }
        #[cfg(debug_assertions)]
        self.mux.assert_invariants();
    }

    fn read_answers(&mut self, area: &[u8]) -> Result<(), Violation> {
        for frame in Frames::new(area) {
            let frame = frame.map_err(violation)?;
            self.traffic.frames_received.add(frame.kind());
            let (Frame::Stream(_) | Frame::Reset(_) | Frame::Stop(_) | Frame::MaxStreamData(_) | Frame::Skipped(_)) =
                frame
            else {
                return Err(Violation::new(
                    ProtocolErrorCode::FRAME_NOT_ALLOWED,
                    "a frame in P2 that does not answer early data",
                ));
            };
            self.on_frame(frame, Opened::Now, Source::Borrowed)?;
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame<'_>, opened: Opened, source: Source<'_>) -> Result<(), Violation> {
        match frame {
            Frame::Stream(frame) => self.mux.on_stream(frame, source),
            Frame::Open(frame) => self.mux.on_open(frame, opened),
            Frame::Reset(frame) => self.mux.on_reset(frame),
            Frame::Stop(frame) => self.mux.on_stop(frame),
            Frame::Priority(frame) => self.mux.on_priority(frame),
            Frame::MaxData(frame) => self.mux.on_max_data(frame),
            Frame::MaxStreamData(frame) => self.mux.on_max_stream_data(frame),
            Frame::MaxStreams(frame) => self.mux.on_max_streams(frame),
            Frame::Drain(frame) => {
                self.mux.on_drain(frame)?;
                self.notices.push(Event::Draining(frame.0));
                Ok(())
            }
            Frame::Ping(ping) => {
                self.liveness.ping_received(ping);
                self.mux.budget.control(self.now, 1)
            }
            Frame::Pong(pong) => {
                if let Some(round_trip) = self.liveness.pong_received(self.now, pong) {
                    self.mux.set_round_trip(round_trip);
                }
                self.mux.budget.control(self.now, 1)
            }
            Frame::Settings(_) => {
                self.once(|once| &mut once.settings, ProtocolErrorCode::SETTINGS_INVALID, "SETTINGS twice or late")?;
                self.decided();
                Ok(())
            }
            Frame::Attestation(attestation) => {
                self.once(
                    |once| &mut once.attestation,
                    ProtocolErrorCode::FRAME_NOT_ALLOWED,
                    "ATTESTATION twice or late",
                )?;
                let bytes = Bytes::copy_from_slice(attestation.0);
                if let Some(peer) = &mut self.peer {
                    peer.attestation.get_or_insert_with(|| bytes.clone());
                }
                self.notices.push(Event::Attestation(bytes));
                Ok(())
            }
            Frame::Skipped(_) => self.mux.budget.control(self.now, 1),
            Frame::Close(_) => Ok(()),
        }
    }

    /// How many records have arrived, from the first on that the peer sends as it wants to: under constant shaping a responder that decides fills slots before it.
    pub(super) fn records_since_decision(&self) -> u64 {
        self.record_counts().1.saturating_sub(self.undecided_records)
    }

    /// A frame that stands at most once, in the first records.
    fn once(
        &mut self,
        flag: fn(&mut super::Once) -> &mut bool,
        code: ProtocolErrorCode,
        what: &'static str,
    ) -> Result<(), Violation> {
        let late = self.awaits_decision.is_none() && self.records_since_decision() > FIRST_RECORDS;
        if core::mem::replace(flag(&mut self.once), true) || late {
            return Err(Violation::new(code, what));
        }
        self.mux.budget.control(self.now, 1)
    }
}
