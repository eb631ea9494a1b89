//! A stream: its two halves, and what is queued or counted of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::num::NonZeroU64;

use super::halves::{RecvHalf, SendHalf, SendState};
use crate::code::Code;
use crate::error::Wait;
use crate::stats::Waited;
use crate::time::Instant;
use crate::wakers::Interest;
use crate::wire::Priority;

/// There may be many that are idle, so it is kept small: what most do not need is [`Rare`].
#[derive(Debug)]
pub(super) struct Stream {
    /// Distinguishes the streams that use the same slot one after the other, and orders them by their opening.
    pub(super) serial: u64,
    /// The id on the wire, and one more, once OPEN was written or received.
    pub(super) wire_plus_one: Option<NonZeroU64>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) priority: Priority,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    /// What control frames are still to be written for it.
    pub(super) pending: Pending,
    /// It is in the queue of streams with pending control frames; in that of those whose credit may ride along.
    pub(super) in_control: bool,
    pub(super) in_riders: bool,
    /// It is in the queue of those that wait for room in the connection's send buffer.
    pub(super) in_room: bool,
    /// Its PRIORITY waits, and it is in the queue of those that do.
    pub(super) restrained: bool,
    pub(super) opened_here: bool,
    /// It may travel as early data, or did: it moves before the peer is accepted.
    pub(super) early: bool,
    /// It came in flight 3, and may have come as early data before.
    pub(super) again: bool,
    /// The peer opened it, and cancelled it before this side's application had ended its half.
    pub(super) cancelled: bool,
    /// The application holds it, or it waits to be accepted.
    pub(super) held: bool,
    /// Its bytes as counted in [`Mux::queued`], and those of them that are counted in [`Mux::ready`].
    pub(super) counted: u32,
    pub(super) counted_ready: u32,
    pub(super) rare: Option<Box<Rare>>,
}

/// What a stream has only once it was cancelled, its writer was blocked, or somebody waits for STOP.
#[derive(Debug)]
pub(super) struct Rare {
    /// Why the sending half was reset, or the peer stopped it; and why the receiving half was stopped, or the peer reset it.
    pub(super) send_code: Code,
    pub(super) recv_code: Code,
    /// Since when its writer has been held up, and for what; and how long it was before.
    pub(super) blocked: Option<(Instant, Wait)>,
    pub(super) waited: Waited,
    /// The waiter for the end of the sending half.
    pub(super) stop_interest: Interest,
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            send_code: Code::CANCELLED,
            recv_code: Code::CANCELLED,
            blocked: None,
            waited: Waited::default(),
            stop_interest: Interest::Nobody,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) reset: bool,
    pub(super) stop: bool,
    pub(super) priority: Option<Priority>,
    pub(super) max_data: bool,
}

impl Pending {
    pub(super) const fn any(&self) -> bool {
        self.answers() || self.priority.is_some()
    }

    /// Of these, what may be said on early data before the peer is accepted ([spec](crate::spec) section 6, rule 9).
    pub(super) const fn answers(&self) -> bool {
        self.reset || self.stop || self.max_data
    }

    /// The receiving half has ended: what is about it is of no use any more.
    pub(super) const fn receiving_ended(&mut self) {
        self.stop = false;
        self.max_data = false;
        self.priority = None;
    }
}

impl Stream {
    pub(super) const fn wire(&self) -> Option<u64> {
        match self.wire_plus_one {
            Some(wire) => Some(wire.get() - 1),
            None => None,
        }
    }

    pub(super) const fn set_wire(&mut self, wire: u64) {
        self.wire_plus_one = NonZeroU64::new(wire + 1);
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// See [`Rare::send_code`].
    pub(super) fn send_code(&self) -> Code {
        self.rare.as_ref().map_or(Code::CANCELLED, |rare| rare.send_code)
    }

    /// See [`Rare::recv_code`].
    pub(super) fn recv_code(&self) -> Code {
        self.rare.as_ref().map_or(Code::CANCELLED, |rare| rare.recv_code)
    }

    /// Gives up what belongs to others, and all memory but what the next stream in this place may need again.
    pub(super) fn let_go(&mut self) {
        self.protocol = None;
        self.send.queue.clear();
        self.recv.queue.clear();
        self.send.interest = Interest::Nobody;
        self.recv.interest = Interest::Nobody;
        if let Some(rare) = &mut self.rare {
            **rare = Rare::default();
        }
    }

    /// Neither half is open on the wire any more ([spec](crate::spec) section 10.2).
    pub(super) fn has_ended(&self) -> bool {
        !self.send.is_open() && self.send.state != SendState::Finishing && !self.recv.is_open()
    }
}
