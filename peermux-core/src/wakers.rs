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

    /// `waker` waits, instead of whoever waited before.
    pub(crate) fn want_wake(&mut self, waker: &Waker) {
        match self {
            Self::Waker(current) if current.will_wake(waker) => {}
            _ => *self = Self::Waker(waker.clone()),
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
