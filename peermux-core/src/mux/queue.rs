//! A queue of streams that may go before their turn comes.

use alloc::collections::VecDeque;

/// Streams in the order in which they joined, each by its slot and its serial number. An entry of a stream that has gone is stale: it is skipped when its turn comes, and
/// all stale entries are swept out when they outnumber the others. So forgetting a stream costs the same however long the queue is.
#[derive(Debug, Default)]
pub(super) struct SlotQueue {
    entries: VecDeque<(u32, u64)>,
    stale: usize,
}

impl SlotQueue {
    pub(super) fn push(&mut self, slot: u32, serial: u64) {
        self.entries.push_back((slot, serial));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The next stream of which `exists` says that it has not gone.
    pub(super) fn pop(&mut self, exists: impl Fn(u32, u64) -> bool) -> Option<u32> {
        while let Some((slot, serial)) = self.entries.pop_front() {
            if exists(slot, serial) {
                return Some(slot);
            }
            self.stale = self.stale.saturating_sub(1);
        }
        None
    }

    /// A stream that is in the queue has gone.
    pub(super) fn forget_one(&mut self, exists: impl Fn(u32, u64) -> bool) {
        self.stale += 1;
        if self.stale > 32 + self.entries.len() / 2 {
            self.entries.retain(|&(slot, serial)| exists(slot, serial));
            self.stale = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.stale = 0;
    }

    /// Entries that are not stale.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_in_order_and_those_that_have_gone_are_skipped_and_swept_out() {
        let mut queue = SlotQueue::default();
        for serial in 0..1_000 {
            queue.push(serial as u32 % 10, serial);
        }
        for gone in 0..990 {
            queue.forget_one(|_, serial| serial > gone);
        }
        assert_eq!(queue.len(), 10);
        assert!(queue.entries.len() < 100, "{}", queue.entries.len());
        let rest: alloc::vec::Vec<_> = core::iter::from_fn(|| queue.pop(|_, serial| serial >= 990)).collect();
        assert_eq!(rest, (0..10).collect::<alloc::vec::Vec<_>>());
    }
}
