//! Hands work over between a task that owns it and helpers that do some of it meanwhile.
//!
//! The invariant: the owner sees everything that the helpers leave. If [`Handover::enter`] has returned `None`, or a helper has called the owner, then the waker that the owner gave last is woken after
//! the helper has left the work. `tests/tests/model_handover.rs` includes this file, and tries all interleavings of it.

use std::sync::{PoisonError, TryLockError};
use std::task::Waker;

use super::sync::{AtomicBool, Mutex, MutexGuard, SeqCst, clear_poison, fence};

/// Work that can be resumed after a panic of the task that did it.
pub(crate) trait Work {
    /// The last task that did the work has panicked.
    fn panicked(&mut self);
}

/// Work with one owner, a task that comes back when it is woken, and any number of helpers. One of them at a time does the work.
#[derive(Default)]
pub(crate) struct Handover<T> {
    work: Mutex<T>,
    /// A helper that leaves is to wake the owner: the owner has found a helper at work, or a helper has called it.
    called: AtomicBool,
    /// The owner's waker. It has a lock of its own, because the owner must be able to leave it while a helper is at work.
    owner: Mutex<Option<Waker>>,
}

/// A helper. When it is dropped it has left, and the owner is woken if it is called.
pub(crate) struct Helper<'a, T> {
    handover: &'a Handover<T>,
}

impl<T: Work> Handover<T> {
    /// Waits for the work. The owner is not called: for its beginning and its end.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.work.try_lock() {
            Ok(work) => Some(work),
            Err(TryLockError::Poisoned(poisoned)) => {
                clear_poison(&self.work);
                let mut work = poisoned.into_inner();
                work.panicked();
                Some(work)
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Gives the work to the owner. Returns `None` if a helper is at work, which wakes `waker` when it leaves.
    pub(crate) fn enter(&self, waker: &Waker) -> Option<MutexGuard<'_, T>> {
        // Before anything else: the helper that is at work may leave at any time.
        self.set_owner(waker);
        let work = self.try_lock().or_else(|| {
            self.called.store(true, SeqCst);
            fence(SeqCst);
            // The helper may have left before it could see the call.
            self.try_lock()
        })?;
        // What a helper called for was in the work before the helper left it.
        self.called.store(false, SeqCst);
        Some(work)
    }

    fn set_owner(&self, waker: &Waker) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.as_ref().is_some_and(|owner| owner.will_wake(waker)) {
            return;
        }
        let former = owner.replace(waker.clone());
        drop(owner);
        drop(former);
    }

    /// The owner has ended, and is not woken any more.
    pub(crate) fn leave(&self) {
        let former = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(former);
    }

    /// A helper, which has not begun.
    pub(crate) const fn help(&self) -> Helper<'_, T> {
        Helper { handover: self }
    }
}

impl<T: Work> Helper<'_, T> {
    /// Gives the work to this helper. Returns `None` if another helper or the owner is at work.
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, T>> {
        self.handover.try_lock()
    }
}

impl<T> Helper<'_, T> {
    /// Calls the owner, which is woken when this helper is dropped. The helper calls while it holds the work: a call later than that can be lost.
    pub(crate) fn call(&self) {
        self.handover.called.store(true, SeqCst);
    }
}

impl<T> Drop for Helper<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.call();
        }
        fence(SeqCst);
        // Another helper may be at work. If the owner comes meanwhile it calls again, so that this needs no look at the lock.
        if self.handover.called.load(SeqCst) && self.handover.called.swap(false, SeqCst) {
            let owner = self.handover.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(owner) = owner {
                owner.wake();
            }
        }
    }
}
