//! The two halves of a stream: [spec](crate::spec) section 10.2.
//!
//! The states of the wire are `Open`, `Finished` and `Reset`; here each has besides what the application asked for and what is not yet on the wire.

use super::chunks::Chunks;
use super::credit::{Pace, RecvCredit, SendCredit};
use crate::time::Instant;
use crate::wakers::Interest;

/// The half that this side sends on.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) queue: Chunks,
    pub(super) credit: SendCredit,
    pub(super) state: SendState,
    pub(super) interest: Interest,
    /// This side's application chose the priority: what the peer asks for counts no more.
    pub(super) priority_is_ours: bool,
    /// The half was given up before OPEN was sent, or while bytes that were written had not been sent.
    pub(super) lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendState {
    /// The application may write.
    Open,
    /// The application has finished; FIN follows what is queued.
    Finishing,
    /// FIN was sent.
    Finished,
    /// RESET was sent or is about to be.
    Reset,
    /// The same, because of the peer's STOP.
    Stopped,
}

impl SendHalf {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            queue: Chunks::default(),
            credit: SendCredit::new(limit),
            state: SendState::Open,
            interest: Interest::Nobody,
            priority_is_ours: false,
            lost: false,
        }
    }

    /// Open on the wire: neither FIN nor RESET was sent or is about to be.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, SendState::Open | SendState::Finishing)
    }

    /// Bytes that are queued and within the stream's credit.
    pub(super) fn may_send(&self) -> usize {
        self.queue.len().min(usize::try_from(self.credit.left()).unwrap_or(usize::MAX))
    }

    /// Credit that is not yet used by what is queued. Once the stream is open, no more is queued than its credit allows, so that a stream that its peer does not
    /// read holds no memory here.
    pub(super) fn credit_room(&self) -> usize {
        let queued = self.queue.len() as u64;
        usize::try_from(self.credit.left().saturating_sub(queued)).unwrap_or(usize::MAX)
    }
}

/// The half that this side receives on.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) queue: Chunks,
    pub(super) credit: RecvCredit,
    pub(super) pace: Pace,
    pub(super) state: RecvState,
    pub(super) interest: Interest,
    /// This side said STOP, or is about to: what arrives is discarded.
    pub(super) stopped: bool,
    /// The application has read a quarter of the first window: then it grew, as far as there was something left.
    pub(super) was_read: bool,
    /// By how much it grew then.
    pub(super) first_growth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvState {
    Open,
    /// FIN was received.
    Finished,
    /// RESET was received.
    Reset,
}

impl RecvHalf {
    pub(super) fn new(window: u64, now: Instant) -> Self {
        Self {
            queue: Chunks::default(),
            credit: RecvCredit::new(window),
            pace: Pace::new(now),
            state: RecvState::Open,
            interest: Interest::Nobody,
            stopped: false,
            was_read: false,
            first_growth: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == RecvState::Open
    }
}
