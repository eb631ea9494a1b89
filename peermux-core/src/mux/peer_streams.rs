//! How many streams the peer may open: [spec](crate::spec) section 11.2.

use super::windows::Windows;
use super::{Budget, Mux};
use crate::time::Instant;

/// Streams that the peer may open: `closed + cooling <= opened <= granted <= closed + most`.
#[derive(Debug)]
pub(super) struct PeerStreams {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) granted: u64,
    pub(super) most: u64,
    /// At least so many may be opened beyond those that are, as far as `most` allows.
    pub(super) ahead: u64,
    /// The windows that those which are granted begin with.
    pub(super) windows: Windows,
    /// Streams that the peer cancelled and that are over: their places come back later ([spec](crate::spec) section 11.2).
    pub(super) cooling: u64,
    pub(super) cools_at: Instant,
}

impl PeerStreams {
    /// How many more could be granted. As many as are open may be opened, so that a peer that opens many at once soon has all that there are; but each that is granted holds a window.
    pub(super) fn raise(&self) -> u64 {
        if self.windows.is_full() {
            return 0;
        }
        let ahead = self.ahead.max(self.opened - self.closed);
        (self.closed + self.most).min(self.opened + ahead).saturating_sub(self.granted)
    }

    /// Whether a new limit should cause a record: when few more may be opened. As a rule it rides.
    pub(super) fn is_due(&self) -> bool {
        let (raise, left) = (self.raise(), self.granted - self.opened);
        left * 4 < self.ahead && left < raise
    }
}

impl Mux {
    pub(super) fn places_at(&self) -> Option<Instant> {
        (self.peer_streams.cooling > 0 && self.ended.is_none()).then_some(self.peer_streams.cools_at)
    }

    /// Gives places of cancelled streams back, as many as may come back now.
    pub(super) fn cool(&mut self) {
        let places = &mut self.peer_streams;
        while places.cooling > 0 && self.budget.gives_back(self.now) {
            places.cooling -= 1;
            places.closed += 1;
        }
        places.cools_at = self.now + Budget::COOLS;
    }
}
