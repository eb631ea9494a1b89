//! The windows that streams begin with: `docs/spec.md` sections 9.5, 9.8 and 11.1.
//!
//! The windows of all streams together, and of all that may be opened, are never more than the receive window. So however many streams are left unread, no other one is
//! held up: a stream is bound by its own credit alone.

use alloc::collections::VecDeque;

/// What every stream can rely on, in bytes.
pub(crate) const LEAST_WINDOW: u64 = 2048;

/// How a receive window is divided among streams, in bytes. Besides, each stream of either side has the least window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// What new streams may have beyond the least window.
    pub(crate) births: u64,
    /// By how much streams may grow that are read for the first time.
    pub(crate) first_growth: u64,
    /// By how much streams may grow that are read faster than their windows allow.
    pub(crate) growth: u64,
}

impl Parts {
    /// The receive window must have room for the least windows.
    pub(crate) fn of(receive_window: u64, max_streams: u64) -> Self {
        let least = max_streams.saturating_mul(2 * LEAST_WINDOW);
        let windows = (receive_window / 3).max(least);
        let growth = receive_window.saturating_sub(windows);
        let first_growth = growth / 8;
        Self { births: windows - least, first_growth, growth: growth - first_growth }
    }
}

/// Which streams begin with which window, by their number among the streams of their opener.
#[derive(Debug)]
pub(super) struct Windows {
    /// Streams below the first number, and not of an earlier range, begin with the second.
    ranges: VecDeque<(u64, u64)>,
}

impl Windows {
    /// Ranges that are kept apart. A peer may send more, which are taken together.
    const MOST: usize = 64;

    pub(super) fn new(end: u64, window: u64) -> Self {
        Self { ranges: VecDeque::from([(end, window)]) }
    }

    /// Streams from the last end on begin with `window`, up to `end`.
    pub(super) fn push(&mut self, end: u64, window: u64) {
        let full = self.ranges.len() >= Self::MOST;
        match self.ranges.back_mut() {
            Some(last) if last.1 == window => last.0 = end,
            // Less than allowed is allowed.
            Some(last) if full => *last = (end, window.min(last.1)),
            _ => self.ranges.push_back((end, window)),
        }
    }

    /// The window of stream `number`; of the last that may be opened, if that one may not.
    pub(super) fn of(&self, number: u64) -> u64 {
        let range = self.ranges.iter().find(|(end, _)| number < *end);
        range.or(self.ranges.back()).map_or(0, |(_, window)| *window)
    }

    /// Streams below `number` are open.
    pub(super) fn opened(&mut self, number: u64) {
        while self.ranges.len() > 1 && self.ranges.front().is_some_and(|(end, _)| *end <= number) {
            self.ranges.pop_front();
        }
    }
}

/// What may be given to streams that begin, beyond [`LEAST_WINDOW`] for each.
#[derive(Debug)]
pub(super) struct Births {
    left: u64,
    /// The most that one stream gets.
    most: u64,
}

impl Births {
    pub(super) const fn new(left: u64, window: u64) -> Self {
        Self { left, most: window - LEAST_WINDOW }
    }

    /// `count` streams may begin with the most.
    pub(super) const fn reserve(&mut self, count: u64) {
        self.left -= count * self.most;
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// The window of a stream that this side opens.
    pub(super) fn one(&mut self) -> u64 {
        self.take(1, self.left / 32)
    }

    /// The window of each of `count` streams that the peer may open: at most half of what is left goes to all of them.
    pub(super) fn many(&mut self, count: u64) -> u64 {
        self.take(count, self.left / (2 * count.max(1)))
    }

    fn take(&mut self, count: u64, extra: u64) -> u64 {
        let extra = extra.min(self.most);
        self.left -= count * extra;
        LEAST_WINDOW + extra
    }

    /// The stream that began with `window` is over.
    pub(super) const fn give_back(&mut self, window: u64) {
        self.left += window - LEAST_WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_the_window_of_its_range_however_many_ranges_there_are() {
        let mut windows = Windows::new(16, 9_000);
        windows.push(20, 8_000);
        windows.push(24, 8_000);
        assert_eq!([0, 15, 16, 23, 24].map(|number| windows.of(number)), [9_000, 9_000, 8_000, 8_000, 8_000]);
        windows.opened(16);
        assert_eq!(windows.ranges.len(), 1);
        for range in 0..1_000 {
            windows.push(24 + range, 2_048 + range);
        }
        assert!(windows.ranges.len() <= Windows::MOST);
        assert!((0..900).all(|number| windows.of(24 + number) <= 2_048 + number + 1), "never more than was allowed");
    }

    #[test]
    fn births_never_give_more_than_there_is_and_get_all_of_it_back() {
        let mut births = Births::new(1 << 20, 64 << 10);
        let mut given = alloc::vec::Vec::new();
        for count in [1, 10, 100, 1_000].into_iter().cycle().take(400) {
            let window = if count == 1 { births.one() } else { births.many(count) };
            assert!((LEAST_WINDOW..=64 << 10).contains(&window));
            given.extend((0..count).map(|_| window));
        }
        let extra: u64 = given.iter().map(|window| window - LEAST_WINDOW).sum();
        assert_eq!(births.left + extra, 1 << 20);
        given.into_iter().for_each(|window| births.give_back(window));
        assert_eq!(births.left, 1 << 20);
    }
}
