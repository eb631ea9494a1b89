//! Threads that wait, as wakers.

use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::worker::{self, lock};

/// Where threads wait for the same thing: a waker that wakes all of them.
///
/// The core keeps one waker for each half of a stream. All threads that use clones of the stream
/// share one signal, so none takes the place of another.
#[derive(Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    wakes: u64,
    /// Threads that wait. If there are none, no call to the system is needed.
    waiting: usize,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl Signal {
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    pub(crate) fn notify(&self) {
        let mut state = lock(&self.state);
        state.wakes += 1;
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.woken.notify_all();
        }
    }

    /// Returns how often this was woken. Call it before the poll that registers the waker, so that
    /// no wake in between is missed.
    pub(crate) fn seen(&self) -> u64 {
        lock(&self.state).wakes
    }

    /// Waits until this was woken more often than `seen`. Returns `false` if that takes longer than
    /// until `deadline`.
    pub(crate) fn wait(&self, seen: u64, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        state.waiting += 1;
        while state.wakes == seen {
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.woken.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.woken.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.waiting -= 1;
        state.wakes != seen
    }

    /// Polls until `poll` is ready. Before this thread waits, it calls `help`, and polls again if that
    /// returns `true`. Returns `None` if it waits until `deadline`.
    pub(crate) fn block_on<T>(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        mut help: impl FnMut() -> bool,
        mut poll: impl FnMut(&Waker) -> Poll<T>,
    ) -> Option<T> {
        let waker = self.waker();
        loop {
            let seen = self.seen();
            if let Poll::Ready(value) = poll(&waker) {
                return Some(value);
            }
            if !help() && !self.wait(seen, deadline) {
                return None;
            }
        }
    }

    /// Polls until `poll` is ready, whatever time that takes.
    pub(crate) fn wait_for<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
        loop {
            if let Some(value) = self.block_on(None, || false, &mut poll) {
                return value;
            }
        }
    }
}

/// Runs `future` in this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let signal = Arc::<Signal>::default();
    let (waker, mut future) = (signal.waker(), pin!(future));
    loop {
        let seen = signal.seen();
        let (poll, deadline) = worker::poll(Pin::as_mut(&mut future), &waker);
        if let Poll::Ready(value) = poll {
            return value;
        }
        signal.wait(seen, deadline);
    }
}
