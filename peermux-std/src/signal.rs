//! Threads that wait, as wakers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Where threads wait for the same thing: a waker that wakes all of them.
///
/// The core keeps one waker for each half of a stream. Whatever the number of threads that use clones of the stream, they share one signal, so
/// that none takes the place of another.
#[derive(Default)]
pub(crate) struct Signal {
    /// How often this was woken.
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl Signal {
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    fn wakes(&self) -> MutexGuard<'_, u64> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify(&self) {
        *self.wakes() += 1;
        self.woken.notify_all();
    }

    /// How often this was woken. Ask before the poll that registers the waker, so that no wake in between is missed.
    pub(crate) fn seen(&self) -> u64 {
        *self.wakes()
    }

    /// Waits until this was woken more often than `seen`, at the latest until `deadline`; whether it was.
    pub(crate) fn wait(&self, seen: u64, deadline: Option<Instant>) -> bool {
        let mut wakes = self.wakes();
        while *wakes == seen {
            wakes = match deadline {
                None => self.woken.wait(wakes).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    self.woken.wait_timeout(wakes, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Polls until `poll` is ready; `None` if that takes longer than `timeout`.
    pub(crate) fn block_on<T>(
        self: &Arc<Self>,
        timeout: Option<Duration>,
        mut poll: impl FnMut(&Waker) -> Poll<T>,
    ) -> Option<T> {
        let waker = self.waker();
        // A timeout beyond the end of time is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let seen = self.seen();
            if let Poll::Ready(value) = poll(&waker) {
                return Some(value);
            }
            if !self.wait(seen, deadline) {
                return None;
            }
        }
    }

    /// As [`Signal::block_on`], for what may take any time.
    pub(crate) fn block_on_forever<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
        loop {
            if let Some(value) = self.block_on(None, &mut poll) {
                return value;
            }
        }
    }
}

/// A value that one thread waits for.
pub(crate) struct Promise<T> {
    value: Mutex<Option<T>>,
    kept: Condvar,
}

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), kept: Condvar::new() }
    }
}

impl<T> Promise<T> {
    pub(crate) fn keep(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.kept.notify_all();
    }

    pub(crate) fn wait(&self) -> T {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match value.take() {
                Some(kept) => return kept,
                None => value = self.kept.wait(value).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
