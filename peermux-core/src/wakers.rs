//! Telling whoever waits.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;

/// Who waits for a stream's half.
#[derive(Debug, Default)]
pub(crate) enum Interest {
    /// Nobody.
    #[default]
    Nobody,
    /// Whoever polls events.
    Event,
    /// A task or a thread.
    Waker(Waker),
}

impl Interest {
    /// Whoever polls events waits, unless a waker does.
    pub(crate) fn want_event(&mut self) {
        if matches!(self, Self::Nobody) {
            *self = Self::Event;
        }
    }

    /// Replaces the waiter by `waker`. Returns the waker that waited before: the caller drops it when it holds no lock, since a waker may be the last
    /// to hold its task, and the task may hold streams of the same connection.
    #[must_use]
    pub(crate) fn want_wake(&mut self, waker: &Waker) -> Option<Waker> {
        match self {
            Self::Waker(current) if current.will_wake(waker) => None,
            _ => core::mem::replace(self, Self::Waker(waker.clone())).into_waker(),
        }
    }

    /// Removes the waker, if one waits.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        match self {
            Self::Waker(_) => core::mem::take(self).into_waker(),
            Self::Nobody | Self::Event => None,
        }
    }

    fn into_waker(self) -> Option<Waker> {
        match self {
            Self::Waker(waker) => Some(waker),
            Self::Nobody | Self::Event => None,
        }
    }
}

/// What is to be told: events in order, and wakers that the caller wakes when it holds no lock.
#[derive(Debug)]
pub(crate) struct Notices<E> {
    events: VecDeque<E>,
    wakers: Vec<Waker>,
}

impl<E> Default for Notices<E> {
    fn default() -> Self {
        Self { events: VecDeque::new(), wakers: Vec::new() }
    }
}

impl<E> Notices<E> {
    pub(crate) fn push(&mut self, event: E) {
        self.events.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<E> {
        self.events.pop_front()
    }

    pub(crate) fn pop_waker(&mut self) -> Option<Waker> {
        self.wakers.pop()
    }

    /// Tells whoever is interested, once.
    pub(crate) fn tell(&mut self, interest: &mut Interest, event: impl FnOnce() -> E) {
        match core::mem::take(interest) {
            Interest::Nobody => {}
            Interest::Event => self.push(event()),
            Interest::Waker(waker) => self.wakers.push(waker),
        }
    }
}
