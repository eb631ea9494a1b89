//! Draining: [spec](crate::spec) section 13.2.

use core::time::Duration;

use super::halves::SendState;
use super::{Mux, Stream};
use crate::code::{Code, ProtocolCode};
use crate::codec::Writer;
use crate::time::Instant;
use crate::wire::Drain;

/// How long a draining connection lasts of which the application holds no stream: without progress, and at most ([spec](crate::spec) section 15).
const DRAIN_STALLS: Duration = Duration::from_secs(60);
const DRAIN_LASTS: Duration = Duration::from_secs(15 * 60);

/// Where DRAIN stands.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// DRAIN is sent after the OPENs of all streams that the application has opened.
    pub(super) to_send: Option<ProtocolCode>,
    pub(super) sent: bool,
    pub(super) received: Option<ProtocolCode>,
    /// Since when this side drains and its application holds no stream.
    pub(super) alone_since: Option<Instant>,
    /// The last step towards the end of a stream.
    pub(super) progress: Instant,
}

impl Mux {
    /// The streams that the application has opened keep their turn: DRAIN leaves after the last of their OPENs.
    pub(crate) fn drain(&mut self, code: ProtocolCode) {
        if !self.drains_here() && self.ended.is_none() {
            self.drains.to_send = Some(code);
            self.note_alone();
        }
    }

    /// This side has said DRAIN, or is about to.
    pub(crate) const fn drains_here(&self) -> bool {
        self.drains.sent || self.drains.to_send.is_some()
    }

    /// DRAIN can be sent.
    pub(super) const fn drain_is_due(&self) -> bool {
        self.drains.to_send.is_some() && self.unopened == 0
    }

    /// When a connection that this side drains ends although streams have not: only if its application holds no stream, and nothing has got on for a while.
    pub(crate) fn drain_ends_at(&self) -> Option<Instant> {
        let since = self.drains.alone_since.filter(|_| self.accepted && self.ended.is_none())?;
        Some((self.drains.progress.max(since) + DRAIN_STALLS).min(since + DRAIN_LASTS))
    }

    /// A stream got on towards its end.
    pub(super) const fn note_progress(&mut self) {
        self.drains.progress = self.now;
    }

    fn note_alone(&mut self) {
        if self.held == 0 && self.drains_here() {
            self.drains.alone_since.get_or_insert(self.now);
        }
    }

    /// The application holds `slot` no more.
    pub(super) fn drop_hold(&mut self, slot: u32) {
        self.streams[slot as usize].held = false;
        self.held -= 1;
        self.note_alone();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drains_here() || self.drains.received.is_some()
    }

    /// The peer drains, and all streams have ended: none will be opened any more, by whichever side. What was received can still be read.
    pub(crate) fn has_drained(&self) -> bool {
        let over = |stream: &Stream| stream.wire().is_none() || stream.has_ended() && !stream.pending.answers();
        self.drains.received.is_some() && self.streams.iter().all(|(_, stream)| over(stream))
    }

    /// The peer drains: streams whose OPEN was not yet written will never be opened.
    pub(super) fn cancel_unopened(&mut self) {
        for slot in self.slots() {
            let stream = &self.streams[slot as usize];
            // One that the application gave up before keeps the code that it was given up with.
            if stream.wire().is_none() && stream.send.is_open() {
                self.reset_slot(slot, SendState::Stopped, Code::REFUSED);
            }
        }
    }

    pub(super) fn write_drain(&mut self, out: &mut Writer<'_>, keep: usize) {
        if self.drain_is_due()
            && out.room() >= keep + Drain::MAX_LEN
            && let Some(code) = self.drains.to_send.take()
        {
            Drain(code).encode(out);
            self.drains.sent = true;
            self.note_progress();
        }
    }
}
