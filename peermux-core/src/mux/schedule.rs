//! Which stream goes next: RFC 9218, decided when the record is made ([spec](crate::spec) section 12.2).
//!
//! Choosing costs the same however many streams there are. A stream whose need changes leaves its old place in a
//! queue behind; such a place is skipped when its turn comes, and all of them are swept out when they outnumber the true ones.

use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::wire::Priority;

/// What a stream needs to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Need {
    #[default]
    Nothing,
    /// Its OPEN.
    Open,
    /// Payload, which needs connection credit.
    Data,
    /// FIN without payload.
    Fin,
}

/// A place in a queue: true as long as the stream has the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Streams are in line by this: the order in which they were opened.
    order: u64,
    slot: u32,
    ticket: u32,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    /// An incremental stream.
    One(Place),
    /// The first of the line of those that are not.
    Line,
}

#[derive(Debug, Default)]
struct Level {
    /// In the order in which the application opened.
    opening: BinaryHeap<Reverse<Place>>,
    fins: VecDeque<Place>,
    turns: VecDeque<Turn>,
    line: BinaryHeap<Reverse<Place>>,
    /// Whether `turns` has a turn for the line.
    line_has_turn: bool,
}

/// What the scheduler knows of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    ticket: u32,
    need: Need,
    urgency: u8,
    incremental: bool,
}

/// The next stream, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) slot: u32,
    pub(super) need: Need,
    urgency: u8,
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    levels: [Level; 8],
    /// A bit for each level that may have a place.
    occupied: u8,
    /// By slot.
    entries: Vec<Entry>,
    /// Places that are true, and those that are left behind.
    waiting: usize,
    stale: usize,
    /// Streams with payload.
    with_data: usize,
}

fn holds(entries: &[Entry], place: Place) -> bool {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + 1);
    entries.get(place.slot as usize).is_some_and(|entry| entry.ticket == place.ticket && entry.need != Need::Nothing)
}

impl Schedule {
    /// A stream takes `slot`. It needs nothing, as the one that had it before did at its end.
    pub(super) fn insert(&mut self, slot: u32, priority: Priority) {
        let index = slot as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::default());
        }
        let entry = &mut self.entries[index];
        debug_assert_eq!(entry.need, Need::Nothing);
        entry.urgency = priority.urgency();
        entry.incremental = priority.incremental();
    }

    /// `order` is as for [`Schedule::set_need`].
    pub(super) fn set_priority(&mut self, slot: u32, order: u64, priority: Priority) {
        let Some(entry) = self.entries.get(slot as usize) else { return };
        if (entry.urgency, entry.incremental) == (priority.urgency(), priority.incremental()) {
            return;
        }
        let need = entry.need;
        self.set_need(slot, order, Need::Nothing);
        let entry = &mut self.entries[slot as usize];
        entry.urgency = priority.urgency();
        entry.incremental = priority.incremental();
        self.set_need(slot, order, need);
    }

    /// `order` is the stream's, and grows from stream to stream.
    pub(super) fn set_need(&mut self, slot: u32, order: u64, need: Need) {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        if entry.need == need {
            return;
        }
        if entry.need != Need::Nothing {
            self.waiting -= 1;
            self.stale += 1;
            self.with_data -= usize::from(entry.need == Need::Data);
            entry.ticket = entry.ticket.wrapping_add(1);
        }
        entry.need = need;
        if need != Need::Nothing {
            self.waiting += 1;
            self.with_data += usize::from(need == Need::Data);
            let place = Place { order, slot, ticket: entry.ticket };
            self.occupied |= 1 << entry.urgency;
            let (level, incremental) = (&mut self.levels[usize::from(entry.urgency)], entry.incremental);
            match need {
                Need::Open => level.opening.push(Reverse(place)),
                Need::Fin => level.fins.push_back(place),
                Need::Data if incremental => level.turns.push_back(Turn::One(place)),
                _ => {
                    level.line.push(Reverse(place));
                    if !level.line_has_turn {
                        level.line_has_turn = true;
                        level.turns.push_back(Turn::Line);
                    }
                }
            }
        }
        if self.stale > self.waiting + 64 {
            self.sweep();
        }
    }

    /// Streams that have payload to send.
    pub(super) const fn with_data(&self) -> usize {
        self.with_data
    }

    /// The stream that goes next, if OPEN and payload may be sent at all.
    pub(super) fn next(&mut self, may_open: bool, may_send_data: bool) -> Option<Pick> {
        let mut left = self.occupied;
        while left != 0 {
            let urgency = left.trailing_zeros();
            left &= left - 1;
            let level = &mut self.levels[urgency as usize];
            if let Some((place, need)) = level.next(may_open, may_send_data, &self.entries, &mut self.stale) {
                return Some(Pick { slot: place.slot, need, urgency: urgency as u8 });
            }
            if level.is_empty() {
                self.occupied &= !(1 << urgency);
            }
        }
        None
    }

    /// The turn of `pick`, which still has payload, is over: at its urgency the next one goes first now.
    pub(super) fn end_turn(&mut self, pick: Pick) {
        let turns = &mut self.levels[usize::from(pick.urgency)].turns;
        if let Some(turn) = turns.pop_front() {
            turns.push_back(turn);
        }
    }

    /// Whether the stream of `pick` has turns of its own.
    pub(super) fn is_incremental(&self, pick: Pick) -> bool {
        self.entries.get(pick.slot as usize).is_some_and(|entry| entry.incremental)
    }

    /// The record is full, and `pick`, which stood in line, has nothing more: the line's turn is over for those behind it too.
    pub(super) fn end_turn_of_line(&mut self, pick: Pick) {
        if matches!(self.levels[usize::from(pick.urgency)].turns.front(), Some(Turn::Line)) {
            self.end_turn(pick);
        }
    }

    fn sweep(&mut self) {
        let Self { levels, entries, .. } = self;
        for level in levels {
            level.opening.retain(|Reverse(place)| holds(entries, *place));
            level.fins.retain(|place| holds(entries, *place));
            level.line.retain(|Reverse(place)| holds(entries, *place));
            level.turns.retain(|turn| match turn {
                Turn::One(place) => holds(entries, *place),
                Turn::Line => true,
            });
        }
        self.stale = 0;
    }
}

fn front(queue: &mut VecDeque<Place>, entries: &[Entry], stale: &mut usize) -> Option<Place> {
    while let Some(&place) = queue.front() {
        if holds(entries, place) {
            return Some(place);
        }
        queue.pop_front();
        *stale = stale.saturating_sub(1);
    }
    None
}

fn first(line: &mut BinaryHeap<Reverse<Place>>, entries: &[Entry], stale: &mut usize) -> Option<Place> {
    while let Some(&Reverse(place)) = line.peek() {
        if holds(entries, place) {
            return Some(place);
        }
        line.pop();
        *stale = stale.saturating_sub(1);
    }
    None
}

impl Level {
    fn is_empty(&self) -> bool {
        self.opening.is_empty() && self.fins.is_empty() && self.turns.is_empty()
    }

    fn next(
        &mut self,
        may_open: bool,
        may_send_data: bool,
        entries: &[Entry],
        stale: &mut usize,
    ) -> Option<(Place, Need)> {
        if may_open && let Some(place) = first(&mut self.opening, entries, stale) {
            return Some((place, Need::Open));
        }
        if let Some(place) = front(&mut self.fins, entries, stale) {
            return Some((place, Need::Fin));
        }
        if !may_send_data {
            return None;
        }
        Some((self.front_turn(entries, stale)?, Need::Data))
    }

    fn front_turn(&mut self, entries: &[Entry], stale: &mut usize) -> Option<Place> {
        while let Some(turn) = self.turns.front() {
            match *turn {
                Turn::One(place) if holds(entries, place) => return Some(place),
                Turn::One(_) => *stale = stale.saturating_sub(1),
                Turn::Line => match first(&mut self.line, entries, stale) {
                    Some(place) => return Some(place),
                    None => self.line_has_turn = false,
                },
            }
            self.turns.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::thread_local;

    use super::*;

    thread_local! {
        /// Places that this thread has looked at.
        pub(super) static LOOKS: Cell<u64> = const { Cell::new(0) };
    }

    fn with(streams: &[(u8, bool)]) -> Schedule {
        let mut schedule = Schedule::default();
        for (slot, &(urgency, incremental)) in (0..).zip(streams) {
            schedule.insert(slot, Priority::new(urgency, incremental));
            schedule.set_need(slot, u64::from(slot), Need::Data);
        }
        schedule
    }

    fn turns(schedule: &mut Schedule, count: usize) -> Vec<u32> {
        (0..count)
            .filter_map(|_| {
                let pick = schedule.next(true, true)?;
                schedule.end_turn(pick);
                Some(pick.slot)
            })
            .collect()
    }

    #[test]
    fn strictly_by_urgency() {
        let mut schedule = with(&[(5, true), (1, false), (0, true)]);
        assert_eq!(turns(&mut schedule, 2), [2, 2]);
        schedule.set_need(2, 2, Need::Nothing);
        assert_eq!(turns(&mut schedule, 2), [1, 1]);
        schedule.set_need(1, 1, Need::Nothing);
        assert_eq!(turns(&mut schedule, 1), [0]);
    }

    #[test]
    fn incremental_streams_take_turns_and_the_others_together_take_one() {
        let mut schedule = with(&[(3, true), (3, false), (3, true), (3, false)]);
        assert_eq!(turns(&mut schedule, 6), [0, 1, 2, 0, 1, 2]);
        schedule.set_need(1, 1, Need::Nothing);
        assert_eq!(turns(&mut schedule, 3), [0, 3, 2]);
    }

    #[test]
    fn an_older_stream_takes_its_place_in_line_again() {
        let mut schedule = with(&[(3, false), (3, false)]);
        schedule.set_need(0, 0, Need::Nothing);
        assert_eq!(turns(&mut schedule, 2), [1, 1]);
        schedule.set_need(0, 0, Need::Data);
        assert_eq!(turns(&mut schedule, 2), [0, 0]);
    }

    #[test]
    fn without_connection_credit_only_free_frames_go() {
        let mut schedule = with(&[(0, false), (3, false), (4, false)]);
        schedule.set_need(1, 1, Need::Fin);
        schedule.set_need(2, 2, Need::Open);
        let next = |schedule: &mut Schedule, open, data| schedule.next(open, data).map(|pick| pick.slot);
        assert_eq!(next(&mut schedule, false, false), Some(1));
        schedule.set_need(1, 1, Need::Nothing);
        assert_eq!(next(&mut schedule, false, false), None);
        assert_eq!(next(&mut schedule, true, false), Some(2));
        assert_eq!(next(&mut schedule, true, true), Some(0));
    }

    #[test]
    fn changing_priorities_for_ever_keeps_the_queues_short() {
        let mut schedule = with(&[(3, true), (3, false)]);
        for round in 0..10_000u32 {
            schedule.set_priority(0, 0, Priority::new((round % 8) as u8, round % 3 == 0));
        }
        let places: usize =
            schedule.levels.iter().map(|level| level.turns.len() + level.line.len() + level.opening.len()).sum();
        assert!(places < 300, "{places}");
        assert!(schedule.next(true, true).is_some());
    }

    /// Places that are looked at while `streams` of which each third is not incremental take `rounds` turns. After each turn the stream has nothing more, and an
    /// earlier one has something again.
    fn looks(streams: u32, rounds: u64) -> u64 {
        let kinds: Vec<_> = (0..streams).map(|slot| (3, slot % 3 != 0)).collect();
        let mut schedule = with(&kinds);
        let mut idle = VecDeque::new();
        let before = LOOKS.get();
        for _ in 0..rounds {
            let pick = schedule.next(true, true).expect("most have payload");
            schedule.set_need(pick.slot, u64::from(pick.slot), Need::Nothing);
            idle.push_back(pick.slot);
            if idle.len() > 2 {
                let slot = idle.pop_front().expect("it has three");
                schedule.set_need(slot, u64::from(slot), Need::Data);
            }
        }
        LOOKS.get() - before
    }

    #[test]
    fn choosing_looks_at_no_more_places_with_many_streams_than_with_few() {
        let rounds = 10_000;
        let few = looks(10, rounds);
        let many = looks(100_000, rounds);
        assert!(few >= rounds, "{few} looks");
        assert!(many <= few, "{few} looks with 10 streams, {many} with 100,000");
    }

    #[test]
    fn a_slot_that_is_taken_again_has_no_old_place() {
        let mut schedule = with(&[(0, false)]);
        schedule.set_need(0, 0, Need::Nothing);
        schedule.insert(0, Priority::new(7, false));
        assert_eq!(schedule.next(true, true), None);
        schedule.set_need(0, 9, Need::Data);
        assert_eq!(schedule.next(true, true).map(|pick| pick.urgency), Some(7));
    }
}
