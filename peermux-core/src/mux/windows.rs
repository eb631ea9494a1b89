//! The windows that streams begin with: [spec](crate::spec) sections 9.5, 9.8 and 11.1.
//!
//! The windows of all streams together, and of all that may be opened, are never more than the receive window. So however many streams are left unread, no other one is
//! held up: a stream is bound by its own credit alone.

use alloc::collections::VecDeque;

/// What every stream can rely on, in bytes.
pub(crate) const LEAST_WINDOW: u64 = 2048;

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
        let full = self.is_full();
        match self.ranges.back_mut() {
            Some(last) if last.1 == window => last.0 = end,
            // Less than allowed is allowed.
            Some(last) if full => *last = (end, window.min(last.1)),
            _ => self.ranges.push_back((end, window)),
        }
    }

    /// Whether a further range would be taken together with the last one. Who gives windows gives no more then, since less than was promised is not enough.
    pub(super) fn is_full(&self) -> bool {
        self.ranges.len() >= Self::MOST
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

/// How a receive window is divided among streams, in bytes, beyond [`LEAST_WINDOW`] for each. A quarter is for new streams, and a quarter for streams whose windows grow; the rest
/// goes to whichever needs it first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Division {
    total: u64,
    /// What each of the two can rely on.
    reserved: u64,
    /// What new streams have, and what streams have grown by; of that, when they were read for the first time.
    births: u64,
    growth: u64,
    first_growth: u64,
}

impl Division {
    /// The receive window must have room for the least windows of `max_streams` streams that the peer opens, and of as many that this side opens.
    pub(crate) const fn new(receive_window: u64, max_streams: u64) -> Self {
        let total = receive_window.saturating_sub(max_streams.saturating_mul(2 * LEAST_WINDOW));
        Self { total, reserved: total / 4, births: 0, growth: 0, first_growth: 0 }
    }

    /// What new streams could still have.
    pub(crate) fn births_left(&self) -> u64 {
        self.total - self.births - self.growth.max(self.reserved)
    }

    /// What new streams have beyond their least windows, and what streams have grown by.
    #[cfg(any(test, debug_assertions))]
    pub(super) const fn in_use(&self) -> (u64, u64) {
        (self.births, self.growth)
    }

    /// By how much streams could still grow.
    fn growth_left(&self) -> u64 {
        self.total - self.growth - self.births.max(self.reserved)
    }

    /// The window of a stream that this side opens: `most` at most.
    pub(super) fn one(&mut self, most: u64) -> u64 {
        self.take(1, self.births_left() / 32, most)
    }

    /// The window of each of `count` streams that the peer may open: at most half of what is left goes to all of them.
    pub(super) fn many(&mut self, count: u64, most: u64) -> u64 {
        self.take(count, self.births_left() / (2 * count.max(1)), most)
    }

    fn take(&mut self, count: u64, extra: u64, most: u64) -> u64 {
        let extra = extra.min(most.saturating_sub(LEAST_WINDOW));
        self.births += count * extra;
        LEAST_WINDOW + extra
    }

    /// `count` streams begin with `window`. There is room for them: see [`Division::births_left`].
    pub(super) const fn begin(&mut self, count: u64, window: u64) {
        self.births += count * window.saturating_sub(LEAST_WINDOW);
    }

    /// By how much a stream grows that is read for the first time, if it would grow by `want`.
    pub(super) fn grow_first(&mut self, want: u64) -> u64 {
        let left = (self.total / 8).saturating_sub(self.first_growth).min(self.growth_left());
        let grown = want.min(left / 2);
        self.first_growth += grown;
        self.growth += grown;
        grown
    }

    /// By how much a stream grows that is read faster than its window allows, if it would grow by `want`.
    pub(super) fn grow(&mut self, want: u64) -> u64 {
        let grown = want.min(self.growth_left());
        self.growth += grown;
        grown
    }

    /// A stream is over that began with `window`, and grew by `growth` in all, of which `first` when it was first read.
    pub(super) const fn give_back(&mut self, window: u64, growth: u64, first: u64) {
        self.births -= window - LEAST_WINDOW;
        self.growth -= growth;
        self.first_growth -= first;
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
    fn no_more_is_given_than_there_is_and_all_of_it_comes_back() {
        let mut division = Division::new(4 << 20, 100);
        let whole = division.total;
        let mut given = alloc::vec::Vec::new();
        for round in 0..400 {
            let (window, count) = match round % 4 {
                0 => (division.one(64 << 10), 1),
                _ => (division.many(round, 64 << 10), round),
            };
            assert!((LEAST_WINDOW..=64 << 10).contains(&window));
            let first = division.grow_first(1 << 20);
            let growth = first + if round % 3 == 0 { division.grow(window) } else { 0 };
            given.push((count, window, growth, first));
            assert!(division.births + division.growth <= whole);
            assert!(division.births <= whole - division.reserved && division.growth <= whole - division.reserved);
        }
        for (count, window, growth, first) in given {
            division.give_back(window, growth, first);
            (1..count).for_each(|_| division.give_back(window, 0, 0));
        }
        assert_eq!((division.births, division.growth, division.first_growth), (0, 0, 0));
    }

    #[test]
    fn new_streams_and_growth_each_have_a_quarter_whatever_the_other_takes() {
        let mut division = Division::new(4 << 20, 100);
        while division.grow(1 << 20) > 0 {}
        assert_eq!(division.births_left(), division.reserved);
        let mut division = Division::new(4 << 20, 100);
        while division.many(1, 1 << 20) > LEAST_WINDOW {}
        assert!(division.grow(u64::MAX) >= division.reserved);
    }
}
